"""Runs on two machines: network namespaces with a cable between them, each with a host name of its own."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forks import forking
from tests.helpers import REPOSITORY
from tests.train.runs import in_process, overrides, records, write_clips
from tests.train.test_alarm import processes_of

# Names that are addresses need no list of names, which the machine's own namespace of files would have to hold.
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_HANGS = 600
# As torchrun would start `-m maedfer`, but that one process is killed, once, in the middle of its second epoch.
KILLED = """
import os, signal, sys
from maedfer.cli import main
from maedfer.train.trainer import Trainer
step = Trainer._step
def killed(self, batches):
    if self.runtime.rank == 1 and self.position.step == 4 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batches)
Trainer._step = killed
sys.exit(main())
"""


@pytest.fixture
def hosts():
    """Process ids by which the two machines are entered."""
    absent = [name for name in ("unshare", "nsenter", "ip", "sleep") if shutil.which(name) is None]
    if absent:
        pytest.skip(f"two machines need {' and '.join(absent)}")
    held = []
    try:
        for address in ADDRESSES:
            command = f"hostname {address} && echo ready && exec sleep 600"
            held.append(
                subprocess.Popen(["unshare", "-n", "-u", "sh", "-c", command], stdout=-1, stderr=subprocess.DEVNULL)
            )
            assert held[-1].stdout is not None
            if held[-1].stdout.readline() != b"ready\n":
                pytest.skip("this user may have no network namespaces")
        one, two = (host.pid for host in held)
        cable = f"ip link add cable netns {one} type veth peer name cable netns {two}"
        subprocess.run(cable.split(), check=True)
        for host, address in zip(held, ADDRESSES, strict=True):
            for line in (f"addr add {address}/24 dev cable", "link set cable up", "link set lo up"):
                _in(host.pid, "ip", *line.split())
        yield one, two
    finally:
        for host in held:
            host.kill()
            host.communicate()


def _in(host: int, *command: str) -> None:
    subprocess.run(["nsenter", "-t", str(host), "-n", "-u", *command], check=True)


def test_a_killed_process_is_started_again_by_torchrun_and_the_run_ends_as_if_nothing_had_been(hosts, tmp_path):
    data = write_clips(tmp_path / "clips")
    changes = ["train.batch_size=1", "train.global_batch=4", "train.save_steps=1", "optim.epochs=2"]
    settings = [*overrides("finetune", data, tmp_path / "killed"), *changes]
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]
    torchrun += ["--rdzv-id=7", "--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:29400"]
    started, outputs = [], [tmp_path / "one", tmp_path / "two"]
    for host, output in zip(hosts, outputs, strict=True):
        command = [
            "nsenter",
            "-t",
            str(host),
            "-n",
            "-u",
            *torchrun,
            str(tmp_path / "killed.py"),
            "finetune",
            *settings,
        ]
        with open(output, "w") as file:
            started.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
    try:
        codes = [process.wait(_HANGS) for process in started]
    finally:
        for process in started:
            process.kill()
    told = "".join(output.read_text() for output in outputs)
    assert codes == [0, 0], told
    assert "exitcode: -9" in told and "step 4" in told
    assert re.search(r"going on from \S+/last\.pt, step 4", told), told
    assert "another process of this run has ended" in told
    # Two machines, one of them twice, against two processes of one that nobody touched.
    done = in_process("finetune", [*settings, f"output={tmp_path / 'whole'}"], processes=2)
    assert done.ok, done.text
    left, right = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(left[name], right[name]) for name in right)
    assert [record["step"] for record in records(tmp_path / "killed", "step")] == [1, 2, 3, 4, 5, 6]


def _apart(host, *arguments):
    """A process of test_alarm on another machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind in ("net", "uts"):
        with open(f"/proc/{host}/ns/{kind}") as file:
            assert libc.setns(file.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
    processes_of(*arguments)


def test_a_network_that_is_lost_ends_the_processes_on_both_sides(hosts, tmp_path):
    code = "while True:\n    runtime.barrier()\n    print('together', flush=True)\n    time.sleep(0.1)"
    context = forking()
    workers, outputs = [], [tmp_path / str(rank) for rank in range(3)]
    # Two processes on the first machine, one on the second.
    for rank, output in enumerate(outputs):
        environment = {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "3"}
        environment |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500"}
        arguments = (hosts[rank == 2], ["train.lost_after=4"], code, environment, str(output))
        workers.append(context.Process(target=_apart, args=arguments))
        workers[-1].start()
    try:
        deadline = time.monotonic() + 120
        while not all(output.exists() and "together" in output.read_text() for output in outputs):
            assert time.monotonic() < deadline and all(worker.is_alive() for worker in workers), _texts(outputs)
            time.sleep(0.1)
        _in(hosts[0], "ip", "link", "set", "cable", "down")
        for worker in workers:
            worker.join(120)
        codes = [worker.exitcode for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [2, 2, 2], _texts(outputs)
    texts = [output.read_text() for output in outputs]
    lost = f"process 2 on {ADDRESSES[1]} has shown no sign of life for [0-9]+ s; this one ends with it; the same"
    keeper = f"keeps the others together, at {ADDRESSES[0]}:29500, has not answered for [0-9]+ s; this one ends with it"
    assert all(re.search(lost, text) for text in texts[:2]) and re.search(keeper, texts[2]), _texts(outputs)


def _texts(outputs: list[Path]) -> str:
    return "\n--\n".join(output.read_text() if output.exists() else "nothing" for output in outputs)
