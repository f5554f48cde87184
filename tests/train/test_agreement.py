import pytest
import torch

from maedfer.train.agreement import Agreed, Agreement
from maedfer.train.processes import Runtime
from tests.train.runs import in_process

CPU = Runtime(torch.device("cpu"))


def test_one_process_reads_what_it_said_at_once():
    agreement = Agreement(CPU, ("skip", "stop"))
    assert agreement.send(3, skip=torch.tensor(True)).tolist() == [1.0, 0.0]
    assert agreement.read() == [Agreed(3, {"skip": 1.0, "stop": 0.0})] and agreement.read() == []
    agreement.say("stop", 15)
    agreement.send(4)
    # A flag of a step is that step's alone, what a process says stays until it is taken back.
    assert agreement.read() == [Agreed(4, {"skip": 0.0, "stop": 15.0})]
    agreement.say("stop", 0)
    agreement.send(5)
    assert agreement.read() == [Agreed(5, {"skip": 0.0, "stop": 0.0})]
    assert agreement.seen == {"skip": 1.0, "stop": 15.0}
    with pytest.raises(KeyError):
        agreement.say("stopp")


def test_what_is_read_later_is_read_in_order_and_all_of_it_when_asked_for():
    agreement = Agreement(CPU, ("skip",), lag=2)
    read = []
    for step in range(5):
        row = agreement.send(step, skip=torch.tensor(step == 1))
        # What the device makes of it later is not what was agreed upon.
        row.fill_(9)
        read.append([(one.step, one.flags["skip"]) for one in agreement.read()])
    assert read == [[], [], [(0, 0.0)], [(1, 1.0)], [(2, 0.0)]]
    assert [one.step for one in agreement.read(everything=True)] == [3, 4]


def test_two_processes_learn_of_each_other_at_the_same_step():
    """Each says something at another time; both read the same, at the same step, with and without a lag."""
    before = """
import os, sys, torch
from maedfer.train.agreement import Agreement
from maedfer.train.peers import join, place
from maedfer.train.processes import Runtime
where, cpu = place(), torch.device("cpu")
join(where, cpu)
for lag in (0, 2):
    agreement = Agreement(Runtime(cpu, where.rank, 2), ("skip", "stop"), lag)
    told = []
    for step in range(6):
        if (step, where.rank) == (1, 1):
            agreement.say("stop", 10)
        if (step, where.rank) == (3, 0):
            agreement.say("stop", 15)
        agreement.send(step, skip=torch.tensor(step == 2 + where.rank))
        told += [(step, at, int(flags["skip"]), int(flags["stop"])) for at, flags in agreement.read()]
    told += [("end", at, int(flags["skip"]), int(flags["stop"])) for at, flags in agreement.read(everything=True)]
    print("told", lag, told, flush=True)
os._exit(0)
"""
    done = in_process("finetune", [], before, processes=2)
    assert done.ok, done.text
    agreed = [(0, 0, 0), (1, 0, 10), (2, 1, 10), (3, 1, 15), (4, 0, 15), (5, 0, 15)]
    for lag in (0, 2):
        told = [(at + lag if at + lag < 6 else "end", at, skip, stop) for at, skip, stop in agreed]
        assert done.text.count(f"told {lag} {told}\n") == 2, done.text
