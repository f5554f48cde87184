"""Many runs of one study."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks.learning import CONDITIONS
from maedfer.errors import InputError
from maedfer.models import MAEDFERConfig
from maedfer.studies.drawn import seed_jobs
from maedfer.studies.grid import Job, Share, cells, is_done, run_jobs, shares, steps_done
from maedfer.train.config import load_config
from maedfer.train.finetune import run_finetune
from tests.forks import forking
from tests.train.runs import overrides, write_clips


def settings(data: Path, *changes: str) -> tuple[str, ...]:
    """Of a run that takes a second, but for its output."""
    return (*(line for line in overrides("finetune", data, Path("x")) if not line.startswith("output=")), *changes)


def test_one_that_fails_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "clips")
    wrong = settings(data, "data.train=absent.csv")
    jobs = [
        Job("finetune", None, tmp_path / "runs/a", wrong),
        Job("finetune", None, tmp_path / "runs/b", settings(data, "optim.epochs=1"), "the second"),
        Job("finetune", None, tmp_path / "runs/c", wrong),
    ]
    said: list[str] = []
    shown: list[float] = []
    with pytest.raises(InputError) as caught:
        run_jobs(jobs, 2, said.append, shown.append)
    assert str(caught.value).startswith("2 of 3 runs failed, the others are done: a; c; the first because: ")
    assert "absent.csv" in str(caught.value) and str(jobs[0].log) in str(caught.value)
    assert str(caught.value).endswith("The same command goes on with what is left")
    assert sum(line.startswith(("  a: failed: absent.csv", "  c: failed: absent.csv")) for line in said) == 2
    assert shown[0] == 0 and shown[-1] == 1 and shown == sorted(shown)
    assert is_done(jobs[1]) and not is_done(jobs[0])
    # It is not run again.
    before = (tmp_path / "runs/b/metrics.json").stat().st_mtime_ns
    said.clear()
    with pytest.raises(InputError, match=r"finetune into .*a failed: absent.csv"):
        run_jobs(jobs[:1], 1, said.append)
    run_jobs(jobs[1:2], 1, said.append)
    assert said[-1] == "  the second: done before"
    assert (tmp_path / "runs/b/metrics.json").stat().st_mtime_ns == before


def test_what_is_done_is_known_by_its_folder(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "clips")
    job = Job("finetune", None, tmp_path / "run", settings(data, "optim.epochs=1"))
    assert not is_done(job)
    run_finetune(job.settings())
    assert is_done(job)
    # Who computes makes no other run, and what is learned does.
    assert is_done(Job("finetune", None, job.output, (*job.overrides, "train.log_every=7")))
    with pytest.raises(InputError, match="other settings: optim.lr"):
        is_done(Job("finetune", None, job.output, (*job.overrides, "optim.lr=2e-2")))
    with pytest.raises(InputError, match="holds a run of finetune"):
        run_jobs([Job("pretrain", "synth_pretrain", job.output, ("data.train=x.csv",))], 1)
    facts = json.loads((job.output / "environment.json").read_text())
    later = time.time() + 100
    os.utime(data / "test.csv", (later, later))
    assert not is_done(job)
    os.utime(job.output / "environment.json", (later, later))
    assert is_done(job)
    (job.output / "environment.json").write_text(json.dumps({**facts, "outcome": "stopped"}))
    os.utime(job.output / "environment.json", (later, later))
    assert not is_done(job)


def test_settings_that_cannot_be_run_stop_the_study_before_it_starts(tmp_path: Path) -> None:
    jobs = [Job("finetune", "dfew", tmp_path / "a"), Job("finetune", "dfew", tmp_path / "b", ("optim.lrr=1",))]
    with pytest.raises(InputError, match="data.train is not set"):
        run_jobs(jobs, 1)
    with pytest.raises(InputError, match="lrr"):
        run_jobs(jobs[1:], 1)
    assert not list(tmp_path.iterdir())


def test_shares_of_the_machine() -> None:
    assert shares(cpus=8) == [Share(None, 8)]
    assert shares(3, cpus=8) == [Share(None, 2)] * 3 and shares(16, cpus=8) == [Share(None, 1)] * 16
    assert shares(0, ["cuda:0", "cuda:1"], 8) == [Share("cuda:0", 4), Share("cuda:1", 4)]
    assert [share.device for share in shares(3, ["cuda:0", "cuda:1"])] == ["cuda:0", "cuda:1", "cuda:0"]
    with pytest.raises(InputError, match="1 at a time leave some of 2 devices idle"):
        shares(1, ["cuda:0", "cuda:1"])
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        shares(0, ["gpu"])
    with pytest.raises(InputError, match="at least 1"):
        shares(-1)
    job = Job("finetune", "dfew", Path("out"), ("train.threads=7", "train.device=cpu"))
    cfg = load_config("finetune", "dfew", [*Share("cuda:3", 2).words(job)[2:], "data.train=x.csv"])
    # Threads of one's own count, and the device is the one that is free.
    assert (cfg.train.threads, cfg.train.device) == (7, "cuda:3")


def test_cells_of_conditions_and_seeds(tmp_path: Path) -> None:
    found = cells("finetune", "dfew", tmp_path, {"a": ["optim.lr=1"], "b": []}, [3, 4], ["data.train=x.csv", "seed=9"])
    assert [str(job.output.relative_to(tmp_path)) for jobs in found.values() for job in jobs] == [
        "a/seed_3",
        "a/seed_4",
        "b/seed_3",
        "b/seed_4",
    ]
    assert found["a"][1].settings().seed == 4 and found["a"][1].settings().optim.lr == 1
    assert found["b"][0].title == "b, seed 3"


def test_progress_of_a_job_is_that_of_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text("")
    assert steps_done(log) == 0
    data = write_clips(tmp_path / "clips")
    run_finetune(load_config("finetune", None, [*settings(data), f"output={tmp_path / 'run'}", "eval.every=0"]))
    printed = capsys.readouterr().out
    log.write_text("x" * 10000 + printed)
    assert steps_done(log) == 1
    log.write_text(printed[: printed.index("step 4/9:") + 20])
    assert steps_done(log) == 4 / 9


@pytest.mark.skipif(not hasattr(torch._C, "_cuda_isInBadFork"), reason="torch was built without CUDA")
def test_what_cells_are_forked_from_has_looked_for_no_device() -> None:
    """A process that is forked after its parent has asked CUDA for devices can use none."""
    code = "import sys, torch; sys.exit(int(torch._C._cuda_isInBadFork()))"
    process = forking().Process(target=exec, args=(code, {}))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_of_the_learning_benchmark_are_valid_settings(condition: str, tmp_path: Path) -> None:
    changes = CONDITIONS[condition]
    if changes is not None:
        cfg = load_config("pretrain", "synth_pretrain", ["data.train=x.csv", *changes])
        assert isinstance(cfg.model, MAEDFERConfig) and cfg.model.target == condition
    init = None if changes is None else tmp_path
    for seed, job in enumerate(seed_jobs(tmp_path, condition, 2, ("data.train=x.csv",), init)):
        cfg = job.settings()
        assert cfg.seed == seed and (cfg.train.init == "") == (init is None)
