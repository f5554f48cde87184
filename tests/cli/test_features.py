"""`maedfer features`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.helpers import PRETRAIN, Call
from tests.cli.test_runs import lists


def test_features_of_a_list_without_labels(call: Call, frames: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.txt").write_text(f"{frames}/clip_3\n{frames}/clip_0\n")
    given = [trained, f"data.test={tmp_path}/clips.txt", "--out", tmp_path / "f.npz"]
    done = call("features", *given, "--out", tmp_path / "f.csv", "--per-view")
    assert done.status == 0, done.err
    assert "16 features of each of 2 clips in each of 2 views" in done.out
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["features"].shape == (2, 2, 16) and saved["features"].dtype == np.float32
        assert saved["names"].tolist() == [f"{frames}/clip_3", f"{frames}/clip_0"]
        assert saved["labels"].tolist() == [-1, -1]
        about = json.loads(str(saved["about"]))
        with open(tmp_path / "f.csv", newline="") as file:
            head, *rows = csv.reader(file)
        assert head[:4] == ["name", "label", "view", "f0"] and [row[1:3] for row in rows] == [["", "0"], ["", "1"]] * 2
        np.testing.assert_array_equal(np.array([row[3:] for row in rows], np.float32), saved["features"].reshape(4, 16))
    assert about["kind"] == "LGIFormer" and about["stride"] == 1 and about["classes"] == ["calm", "moved"]
    assert about == json.loads((tmp_path / "f.json").read_text())
    # Nothing is overwritten unless that is asked for.
    status, _, err = call("features", *given)
    assert status == 2 and "f.npz' exists: choose another name, or give --force" in err
    assert call("features", *given, "--force").status == 0
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["features"].shape == (2, 16)


def test_a_pretrained_run_and_broken_clips(call: Call, frames: Path, tmp_path: Path) -> None:
    pre = tmp_path / "pre"
    done = call("pretrain", *PRETRAIN, *lists(frames, "clips"), "optim.epochs=1", f"output={pre}")
    assert done.status == 0, done.err
    (tmp_path / "list.csv").write_text(f"{frames}/clip_3 1\nabsent 0\n{frames}/clip_0 0\n")
    given = ["features", pre, f"data.test={tmp_path}/list.csv", "--out", tmp_path / "f.csv"]
    status, _, err = call(*given)
    assert status == 2 and "absent" in err and not (tmp_path / "f.csv").exists()
    done = call(*given, "eval.on_error=skip")
    assert done.status == 0, done.err
    assert "16 features of each of 2 clips" in done.out and "1 of 3 clips could not be read" in done.out
    text = (tmp_path / "f.csv").read_text()
    assert text.count("\n") == 3 and text.splitlines()[1].startswith(f"{frames}/clip_3,1,")
    assert "absent,0," in (tmp_path / "f.skipped.csv").read_text()
    assert json.loads((tmp_path / "f.json").read_text())["kind"] == "MAEDFER"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "f.npz"], "features needs a MODEL"),
        (["nowhere", "--out", "f.npz"], "'nowhere' does not exist"),
        ([".", "--out", "f.txt", "data.test=x"], "must end in .npz or .csv"),
        ([".", "--out", "no/f.npz", "data.test=x"], "give a file in a folder that exists"),
        ([".", "--out", "f.npz"], "data.test is not set"),
        ([".", "--out", "f.npz", "dta.test=x"], "did you mean 'data'"),
        ([".", "--out", "f.npz", "data.test=x"], "is neither a saved model"),
        (["."], "required: --out"),
    ],
)
def test_what_cannot_be_is_one_line(
    argv: list[str], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call("features", *argv)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert not any(tmp_path.iterdir())


def test_files_that_are_there_stay(call: Call, tmp_path: Path) -> None:
    # A .csv of features has a .json beside it.
    for name, out in (("f.npz", "f.npz"), ("g.csv", "g.csv"), ("h.json", "h.csv")):
        (tmp_path / name).write_text("mine")
        status, _, err = call("features", str(tmp_path), "data.test=x", "--out", str(tmp_path / out))
        assert status == 2 and f"{name}' exists" in err
        assert (tmp_path / name).read_text() == "mine"
