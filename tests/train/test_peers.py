import threading
import time

import pytest
import torch
import torch.distributed as dist

from maedfer.errors import InputError
from maedfer.train import load_config, peers
from maedfer.train.peers import Place, agree_on_name, place
from maedfer.train.processes import is_main, start
from tests.train.runs import in_process, overrides, write_clips

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE")
HOST = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    def given(values):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return given


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 but RANK and MASTER_ADDR and MASTER_PORT are not set: .*torchrun"),
        (
            {"WORLD_SIZE": "4", "RANK": "1", "MASTER_PORT": "1"},
            "WORLD_SIZE is 4 but MASTER_ADDR is not set: .*unset WORLD",
        ),
        ({"WORLD_SIZE": "2", "RANK": "", **HOST}, "WORLD_SIZE is 2 but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", **HOST}, "RANK is 2 but WORLD_SIZE is 2: ranks go from 0 to 1"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK is 1 but WORLD_SIZE is 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        ({"RANK": "1"}, "RANK is 1 but WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, got 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "-1", **HOST}, "RANK must be a whole number, got '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0", **HOST, "MASTER_PORT": "http"}, "MASTER_PORT must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0", **HOST, "MASTER_PORT": "70000"}, "MASTER_PORT is 70000"),
        ({"WORLD_SIZE": "2", "RANK": "0", **HOST, "MASTER_ADDR": "no such host"}, "'no such host', which this machine"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK must be a whole number"),
    ],
)
def test_an_environment_that_does_not_say_who_runs_is_one_sentence(values, message, environment):
    environment(values)
    cfg = load_config("finetune", None, ["data.train=x", "train.device=cpu"])
    with pytest.raises(InputError, match=message) as error, start(cfg):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1"}, Place()),
        ({"WORLD_SIZE": "", "RANK": ""}, Place()),
        # A batch job of four tasks whose script starts one process.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Place()),
        ({"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "1", **HOST}, Place(2, 1, 3)),
    ],
)
def test_who_this_process_is(values, expected, environment):
    environment(values)
    assert place() == expected and is_main() == (expected.rank == 0)


def test_a_machine_with_fewer_gpus_than_processes(environment, monkeypatch):
    environment({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", **HOST})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = load_config("finetune", None, ["data.train=x", "train.device=cuda"])
    with pytest.raises(InputError, match="LOCAL_RANK is 3 but torch finds 2 CUDA devices here"), start(cfg):
        pass


def test_processes_that_are_not_found(environment, monkeypatch):
    environment({"WORLD_SIZE": "2", "RANK": "0", **HOST})

    def fail(*args, **options):
        raise torch.distributed.DistNetworkError("The server socket has failed to listen\nand more")

    monkeypatch.setattr(peers.dist, "init_process_group", fail)
    cfg = load_config("finetune", None, ["data.train=x", "train.device=cpu"])
    with (
        pytest.raises(InputError, match=r"process 0 of 2 cannot join .*1:29500 .* failed to listen$"),
        start(cfg),
    ):
        pass


def test_processes_agree_on_a_name_beside_what_those_before_them_left():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def agree(rank, found):
        store = dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)
        found[rank] = agree_on_name(store, Place(rank, rank, 3), 60.0)

    names = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        found: dict[int, str] = {}
        threads = [threading.Thread(target=agree, args=(rank, found)) for rank in order]
        for thread in threads:
            thread.start()
            # Process 0 may find numbers of those before, or the new ones.
            time.sleep(0.2)
        for thread in threads:
            thread.join(60)
        assert len(found) == 3 and len(set(found.values())) == 1
        names.append(found[0])
    assert len(set(names)) == 3
    with pytest.raises(RuntimeError, match="not all of 3 processes have come within 0.2 s"):
        agree_on_name(server, Place(0, 0, 3), 0.2)


@pytest.mark.parametrize("waiting", [False, True])
def test_all_processes_end_when_one_fails(waiting, tmp_path):
    """The other one waits for the gradients of the one that fails, or does something else for a long time."""
    data = write_clips(tmp_path / "clips", 4)
    before = f"""
import time
from maedfer.errors import InputError
from maedfer.train import alarm
from maedfer.train.trainer import Trainer
alarm._BEAT, alarm._GRACE = 0.1, 0.1 if {waiting} else 60
original = Trainer._step
def step(self, batches):
    if self.runtime.rank == 1:
        raise InputError("no more")
    time.sleep(300 if {waiting} else 0)
    original(self, batches)
Trainer._step = step
"""
    began = time.monotonic()
    settings = [*overrides("finetune", data, tmp_path / "run"), "train.batch_size=1"]
    done = in_process("finetune", settings, before, processes=2)
    assert time.monotonic() - began < 100
    assert all(done.codes) and "no more" in done.text
    if waiting:
        assert done.codes[0] == 2
        assert "maedfer: error: process 1 has failed: no more; this one ends with it" in done.text
    else:
        assert "InputError: another process of this run has ended" in done.text
