"""Several runs side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.learning import CONDITIONS
from maedfer.errors import InputError
from maedfer.models import MAEDFERConfig
from maedfer.train.config import load_config
from maedfer.train.pretrain import run_pretrain
from maedfer.train.study import Job, few_labels, run_jobs, seed_jobs, steps_done
from tests.train.runs import tiny, write_clips


def test_few_labels_are_balanced_and_in_order(tmp_path: Path) -> None:
    lines = [f"clip {index}.mp4 {index % 3}" for index in range(30)]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    chosen = few_labels(tmp_path / "all.csv", 7, tmp_path / "few.csv").read_text().splitlines()
    assert Counter(line[-1] for line in chosen) == {"0": 2, "1": 2, "2": 2}
    assert set(chosen) == set(lines[:6])


def test_a_failing_job_is_reported_by_its_last_line_and_stops_the_others(tmp_path: Path) -> None:
    jobs = [
        Job("finetune", "synth_finetune", tmp_path / "a", ("data.train=absent.csv", "train.device=cpu")),
        Job("finetune", "synth_finetune", tmp_path / "b", ("data.train=absent.csv",)),
    ]
    said: list[str] = []
    with pytest.raises(InputError, match=r"finetune into .*a failed: maedfer: error: .*absent\.csv"):
        run_jobs(jobs, 1, said.append)
    assert not said and not (tmp_path / "b.log").exists()


def test_jobs_run_and_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    shares: list[float] = []
    jobs = [Job("finetune", "dfew", tmp_path / name, ("data.train=x.csv", "--print-config")) for name in "ab"]
    run_jobs(jobs, 2, said.append, shares.append)
    assert sorted(line[:12] for line in said) == ["  a: done in", "  b: done in"]
    assert "lgi_former_base" in (tmp_path / "a.log").read_text()
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)


def test_progress_of_a_job_is_that_of_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_clips(tmp_path / "clips")
    log = tmp_path / "log"
    log.write_text("")
    assert steps_done(log) == 0
    run_pretrain(tiny("pretrain", data, tmp_path / "run"))
    printed = capsys.readouterr().out
    log.write_text("x" * 10000 + printed)
    assert steps_done(log) == 1
    log.write_text(printed[: printed.index("step 4/9:") + 20])
    assert steps_done(log) == 4 / 9


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_of_the_learning_benchmark_are_valid_settings(condition: str, tmp_path: Path) -> None:
    settings = CONDITIONS[condition]
    if settings is not None:
        cfg = load_config("pretrain", "synth_pretrain", ["data.train=x.csv", *settings])
        assert isinstance(cfg.model, MAEDFERConfig) and cfg.model.target == condition
    init = None if settings is None else tmp_path
    for seed, job in enumerate(seed_jobs(tmp_path, condition, 2, ("data.train=x.csv",), init)):
        cfg = load_config(job.task, job.recipe, job.overrides)
        assert cfg.seed == seed and (cfg.train.init == "") == (init is None)
