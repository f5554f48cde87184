from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from maedfer.data.annotations import read_annotations
from maedfer.data.protocols import PROTOCOLS, Fold, compare_counts
from maedfer.train.config import load_config
from tests.cli.helpers import Call
from tests.data.protocols.helpers import put, put_dfew


def test_lists_are_written_counted_and_compared(call: Call, tmp_path: Path) -> None:
    root, out = tmp_path / "my DFEW", tmp_path / "lists"
    put_dfew(root)
    status, text, err = call("lists", "dfew", "--root", root, "--out", out)
    assert (status, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == f"DFEW: 7 clips of 7 classes, lists in {out}"
    assert lines[1:6] == [f"  fold_{fold}: 2 clips for training, 1 for test" for fold in range(1, 6)]
    assert "Published are 11,697 clips, 2,341 of them in the test part of fold 1; found were 7 and 1." in text
    assert "11,690 clips fewer may mean that the split files are cut off or of another version." in text
    assert f"1 clip of the lists cannot be found, the first as {root}/jpg_224/16372" in text
    assert len(read_annotations(out / "fold_3" / "test.csv", num_classes=7)) == 1
    assert (out / "classes.txt").read_text().split()[0] == "happy"


def test_the_command_to_type_next_is_understood(call: Call, tmp_path: Path) -> None:
    root, out = tmp_path / "my DFEW", tmp_path / "lists"
    put_dfew(root)
    command = shlex.split(call("lists", "dfew", "--root", root, "--out", out).out.splitlines()[-1])
    assert command[:3] == ["maedfer", "finetune", "dfew"]
    cfg = load_config("finetune", "dfew", command[3:])
    assert (cfg.data.root, cfg.data.train) == (str(root), str(out / "fold_1" / "train.csv"))
    assert cfg.data.test == str(out / "fold_1" / "test.csv")


def test_subjects_in_file_names(call: Call, tmp_path: Path) -> None:
    for actor in (1001, 1020, 1040, 1060, 1080):
        put(tmp_path, f"VideoFlash/{actor}_DFA_ANG_XX.flv")
    text = call("lists", "crema_d", "--root", tmp_path, "--out", tmp_path / "lists").out
    assert "CREMA-D: 5 clips of 6 classes" in text and "fold_5: 4 clips for training, 1 for test" in text
    assert "7,437 clips fewer may mean that files are missing or named otherwise." in text
    assert "There is no clip of subjects 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009 and 78 more." in text
    assert "cannot be found" not in text


def test_what_is_odd_about_the_clips_is_told(call: Call, tmp_path: Path) -> None:
    for actor in range(1, 25):
        for emotion in (1, 2) if actor != 7 else (1,):
            put(tmp_path, f"{actor:02d}/01-01-{emotion:02d}-01-01-01-{actor:02d}.mp4")
    put(tmp_path, "frames/01-01-01-01-01-01-03/1.png")
    text = call("lists", "ravdess", "--root", tmp_path, "--out", tmp_path / "lists").out
    assert "RAVDESS: 47 clips of 8 classes" in text
    assert (
        "1 recording is there more than once and listed once, the first as frames/01-01-01-01-01-01-03 and not" in text
    )
    assert "There are 2 clips of most subjects, but not of subject 7 (1)." in text


@pytest.mark.parametrize(
    ("clips", "test", "sentence"),
    [
        (4, 1, r"These are the published numbers: 4 clips, 1 of them in the test part of fold 1\."),
        (5, 1, r"1 clip fewer may mean that files are missing or named otherwise\."),
        (2, 1, r"2 clips more may mean that some clips are there twice, in several folders\."),
        (4, 2, r"The same clips in other parts mean that the split is another one\."),
    ],
)
def test_what_a_difference_may_mean(clips: int, test: int, sentence: str) -> None:
    folds = [Fold([("a", 0), ("b", 0), ("c", 0)], [("d", 0)]), Fold([("d", 0)], [("a", 0), ("b", 0), ("c", 0)])]
    sentences = compare_counts(replace(PROTOCOLS["ravdess"], clips=clips, test_clips=test), folds)
    assert sum(re.fullmatch(sentence, each) is not None for each in sentences) == 1
    assert (sentences[-1] == "Scores on these lists cannot be compared with published ones.") == (len(sentences) > 1)


@pytest.mark.parametrize(
    ("dataset", "root", "message"),
    [
        ("dfw", "DFEW", "unknown data set 'dfw': did you mean 'dfew'?"),
        ("dfew", "none", "none: no such folder; give the one that DFEW was unpacked to"),
        ("dfew", ".", "set_1.csv: no such split file; did you mean "),
        ("mafw", "DFEW", "train.txt: no such split file; give the folder that the data set was unpacked to"),
        ("ravdess", "DFEW", "no file name is of the form that RAVDESS has; give the folder that holds its clips"),
    ],
)
def test_refusals_leave_nothing_behind(dataset: str, root: str, message: str, call: Call, tmp_path: Path) -> None:
    put_dfew(tmp_path / "DFEW")
    status, out, err = call("lists", dataset, "--root", tmp_path / root, "--out", tmp_path / "lists")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["DFEW"]
