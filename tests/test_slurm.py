"""examples/slurm.sh under programs that stand for those of Slurm."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from torch.distributed.run import get_args_parser

from tests.helpers import REPOSITORY

SCRIPT = REPOSITORY / "examples" / "slurm.sh"
JOB = {"SLURM_JOB_ID": "20017", "SLURM_JOB_NODELIST": "node[03-04]", "SLURM_JOB_NUM_NODES": "2"}
# srun starts what is behind its own options, and hands signals on; torchrun's place is taken by what writes them down.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
[ "$1 $2 $3" = "show hostnames node[03-04]" ] && printf 'node03\\nnode04\\n'
"""
PROGRAM = """#!{python}
import json, os, signal, sys, time
heard = []
def note(number, frame):
    heard.append(number)
signal.signal(signal.SIGUSR1, note)
signal.signal(signal.SIGTERM, note)
kept = {{name: os.environ.get(name) for name in ("SRUN_CPUS_PER_TASK", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")}}
with open({told!r} + ".part", "w") as file:
    json.dump([sys.argv[1:], kept], file)
os.rename({told!r} + ".part", {told!r})
while not heard:
    time.sleep(0.05)
# It saves for a while, and must be waited for.
time.sleep(0.5)
with open({told!r} + ".end", "w") as file:
    file.write(str(heard[0]))
sys.exit(3)
"""


def start(folder, *arguments, **environment):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
    (folder / "python").write_text(PROGRAM.format(python=sys.executable, told=str(folder / "told")))
    for name in ("srun", "scontrol", "python"):
        (folder / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    command = [shutil.which("bash") or "bash", str(SCRIPT), *arguments]
    given = {**clean, "PATH": path, "PYTHON": str(folder / "python"), **environment}
    return subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_one_torchrun_a_machine_hears_that_the_time_is_over_and_is_waited_for(number, tmp_path):
    job = {**JOB, "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "96", "SLURM_RESTART_COUNT": "1"}
    script = start(tmp_path, "pretrain", "voxceleb2_pretrain", "data.classes=[no, 1]", **job)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "told").exists():
            assert time.monotonic() < deadline and script.poll() is None
            time.sleep(0.05)
        script.send_signal(number)
        assert script.wait(60) == 3
    finally:
        script.kill()
    # What it was told before the end, as torchrun itself reads it.
    arguments, kept = json.loads((tmp_path / "told").read_text())
    assert (tmp_path / "told.end").read_text() == str(int(number))
    assert arguments[:2] == ["-m", "torch.distributed.run"]
    found = get_args_parser().parse_args(arguments[2:])
    assert (found.nnodes, found.nproc_per_node, found.rdzv_endpoint) == ("2", "8", "node03:20017")
    assert (found.rdzv_id, found.rdzv_backend, found.max_restarts) == ("20017.1", "c10d", 3)
    assert set(found.signals_to_handle.split(",")) == {"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"}
    assert found.module and found.training_script == "maedfer"
    assert found.training_script_args == ["pretrain", "voxceleb2_pretrain", "data.classes=[no, 1]"]
    assert kept == {"SRUN_CPUS_PER_TASK": "96", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "240"}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [([], JOB, "give a command of maedfer"), (["info"], {}, "a script for sbatch")],
)
def test_what_it_needs_is_a_sentence(arguments, environment, message, tmp_path):
    script = start(tmp_path, *arguments, **environment)
    _, told = script.communicate(timeout=60)
    assert script.returncode == 2 and message in told and told.count("\n") == 1
