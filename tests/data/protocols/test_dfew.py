from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.protocols.dfew import PROTOCOL
from maedfer.errors import InputError
from tests.data.protocols.helpers import put, put_dfew


def test_given_folds(tmp_path: Path) -> None:
    put_dfew(tmp_path)
    folds = PROTOCOL.folds_in(tmp_path)
    assert len(folds) == 5
    assert folds[0].train == [("jpg_224/00012", 0), ("jpg_224/16372", 6)]
    assert [fold.test for fold in folds] == [[(f"jpg_224/{fold:05d}", 3)] for fold in range(1, 6)]
    (tmp_path / "Clip/jpg_256").mkdir(parents=True)
    assert PROTOCOL.folds_in(tmp_path)[0].test == [("Clip/jpg_256/00001", 3)]


def test_clips_that_are_in_a_split_twice_are_told(tmp_path: Path) -> None:
    put_dfew(tmp_path)
    put(tmp_path, "EmoLabel_DataSplit/test(single-labeled)/set_2.csv", "video_name,label\n12,1\n3,1\n3,1\n")
    told: list[str] = []
    PROTOCOL.folds_in(tmp_path, told.append)
    assert told == [
        "Fold 2 has clip jpg_224/00003 more than once in its test part.",
        "Fold 2 has clip jpg_224/00012 in both of its parts.",
    ]


@pytest.mark.parametrize("line", ["9,12", "9", "nine,1", "9,1,2"])
def test_other_lines_are_refused(line: str, tmp_path: Path) -> None:
    put_dfew(tmp_path)
    put(tmp_path, "EmoLabel_DataSplit/test(single-labeled)/set_2.csv", f"video_name,label\n{line}\n")
    with pytest.raises(InputError, match=r"set_2.csv:2: not 'number,label'"):
        PROTOCOL.folds_in(tmp_path)
