"""`maedfer report` and `maedfer compare`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from maedfer.train.trainer import Trainer
from tests.cli.helpers import FINETUNE, Call
from tests.cli.test_runs import lists


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Path]:
    """Two seeds of two conditions."""
    folders = []
    for name in ("plain_0", "plain_1", "slow_0", "slow_1"):
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        tree["seed"] = int(name[-1])
        tree["optim"]["lr"] = 1e-3 if name.startswith("plain") else 1e-5
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        folders.append(folder)
    return folders


def test_report_of_a_run_that_was_told_to_write_none(call: Call, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert call("report", run) == (0, f"report: {run}/report.html\n", "")
    page = (run / "report.html").read_text()
    assert "Classes" in page and "has not ended" not in page


def test_report_after_an_interruption(
    call: Call, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for a kill: nothing catches it."""

    step = Trainer._step

    def killed(self: Trainer, batches: object) -> None:
        if self.position.step == 3:
            raise Killed
        step(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", killed)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        call("finetune", *FINETUNE, *lists(frames, "train", "test"), f"output={run}", "train.log_every=1")
    assert not (run / "metrics.json").exists()
    done = call("report", run)
    assert done.status == 0, done.err
    numbers = json.loads((run / "report.json").read_text())
    assert numbers["ending"] == {"ended": False, "step": 3, "epoch": 2}
    page = (run / "report.html").read_text()
    assert "This run has not ended" in page and "goes on from its last checkpoint" in page and "<svg" in page


def test_comparison_of_seeds(call: Call, runs: list[Path], tmp_path: Path) -> None:
    done = call("compare", *runs, "--out", tmp_path / "out", "--title", "Which rate?", "--note", "Drawn clips.")
    assert done.status == 0, done.err
    assert done.out.endswith(f"report: {tmp_path}/out/report.html\n")
    assert done.out.count('"slow" and "plain" score the same (better in 0 of 2 seeds)') == 2
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (numbers["title"], numbers["note"]) == ("Which rate?", "Drawn clips.")
    assert numbers["runs"] == {"plain": list(map(str, runs[:2])), "slow": list(map(str, runs[2:]))}
    assert numbers["scores"]["pairing"] == "seed" and "The conditions have" not in done.out


def test_comparison_by_labels(call: Call, runs: list[Path], tmp_path: Path) -> None:
    items = [f"{label}={run}" for label, run in zip(("first one", "b", "first one", "b"), runs, strict=True)]
    done = call("compare", *items, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["runs"] == {"first one": [str(runs[0]), str(runs[2])], "b": [str(runs[1]), str(runs[3])]}
    # Seeds 0 and 0 against 1 and 1.
    assert "The conditions have different seeds: runs are paired in the order given.\n" in done.out
    done = call("compare", f"a={runs[0]}", f"b={runs[1]}", f"b={runs[2]}", "--out", tmp_path / "out")
    assert "The conditions have different numbers of seeds: no paired differences.\n" in done.out


def test_what_cannot_be_reported_or_compared_is_one_line(call: Call, runs: list[Path], tmp_path: Path) -> None:
    def refused(*argv: object) -> str:
        status, out, err = call(*argv)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        return err

    (tmp_path / "empty").mkdir()
    first, second, out = runs[0], runs[1], ("--out", tmp_path / "out")
    assert "run folder 'nowhere' does not exist" in refused("report", "nowhere")
    assert "is not a run folder" in refused("report", tmp_path / "empty")
    assert "required: RUN" in refused("report")
    assert "required: --out" in refused("compare", first, second)
    assert "1 run to compare: give two or more" in refused("compare", first, *out)
    assert "1 run to compare: give two or more" in refused("compare", f"a={first}", *out)
    assert "run folder 'nowhere' does not exist" in refused("compare", first, "nowhere", *out)
    assert "is not a run folder" in refused("compare", first, tmp_path / "empty", *out)
    assert "is given twice" in refused("compare", first, first, *out)
    assert f"'{second}' has no label and other runs have one" in refused("compare", f"a={first}", second, *out)
    assert "'x' has no label" in refused("compare", f"a={first}", "=x", *out)
    (second / "metrics.json").unlink()
    assert "plain_1' has no metrics.json: evaluate it before" in refused("compare", first, second, *out)
    assert not (tmp_path / "out").exists()
