"""`maedfer probe`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import Call
from tests.cli.test_runs import lists


def test_a_runs_encoder_is_probed(call: Call, frames: Path, trained: Path, tmp_path: Path) -> None:
    given = ["probe", trained, *lists(frames, "train", "test"), "--kind", "knn,linear", "--layer", "0,2"]
    done = call(*given, "--seeds", "2", "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "features of data.train: 8 clips" in done.out and "linear (layer " in done.out
    # The lists of these tests have clips in common, which is said.
    assert "all 4 clips of data.test are in data.train too" in done.out
    found = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert found["classes"] == ["calm", "moved"] and len(found["probes"]) == 2 * 2 * 2
    assert json.loads((tmp_path / "out" / "report.json").read_text())["kind"] == "probe"
    for name in ("probe.csv", "table.csv", "table.tex", "report.html", "report.json", "depth.png"):
        assert (tmp_path / "out" / name).is_file(), name
    # Its probes are runs for another command, two seeds each of four conditions.
    runs = sorted((tmp_path / "out" / "runs").iterdir())
    done = call("compare", *runs, "--out", tmp_path / "compared")
    assert done.status == 0, done.err
    assert len(json.loads((tmp_path / "compared" / "report.json").read_text())["runs"]) == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "o"], "probe needs a MODEL"),
        (["nowhere", "--out", "o"], "'nowhere' does not exist"),
        ([".", "--out", "o", "data.test=x"], "data.train is not set"),
        ([".", "--out", "o", "data.train=x"], "data.test is not set"),
        (["."], "required: --out"),
        ([".", "--out", "o", "--baseline", "mine"], "invalid choice: 'mine'"),
    ],
)
def test_what_cannot_be_is_one_line(
    argv: list[str], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call("probe", *argv)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert not any(tmp_path.iterdir())
