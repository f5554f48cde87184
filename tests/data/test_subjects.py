from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.annotations import Clip, read_annotations, write_annotations
from maedfer.data.source import ClipTable
from maedfer.data.subjects import SubjectPattern
from maedfer.errors import InputError


def test_the_first_group_that_took_part_or_all_that_was_found() -> None:
    assert SubjectPattern("s[0-9]+")("a/s07_x.mp4") == "s07"
    assert SubjectPattern("s([0-9]+)_")("a/s07_x.mp4") == "07"
    assert SubjectPattern("p([0-9]+)|s([0-9]+)")("a/s07_x.mp4") == "07"
    for pattern in ("q", "q*"):
        with pytest.raises(InputError, match=r"^data.subject 'q\*?' is not found in 'a.mp4': every clip must have one"):
            SubjectPattern(pattern)("a.mp4")
    with pytest.raises(InputError, match=r"^subject '\[' is no pattern: "):
        SubjectPattern("[", "subject")


def test_a_column_says_it_and_a_pattern_says_it_otherwise(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,subject\nx1_a.mp4,0,Ann\nx2_b.mp4,1,\n")
    assert [clip.subject for clip in read_annotations(tmp_path / "list.csv")] == ["Ann", ""]
    found = read_annotations(tmp_path / "list.csv", subject="x[0-9]")
    assert [clip.subject for clip in found] == ["x1", "x2"]
    assert [clip.subject for clip in ClipTable(found)] == ["x1", "x2"]
    with pytest.raises(InputError, match=r"list.csv:3: data.subject 'x1' is not found in 'x2_b.mp4'"):
        read_annotations(tmp_path / "list.csv", subject="x1")
    (tmp_path / "plain.csv").write_text("a.mp4 0\n")
    assert read_annotations(tmp_path / "plain.csv") == [
        Clip(tmp_path / "a.mp4", 0, 1, "a.mp4", f"{tmp_path}/plain.csv")
    ]


def test_lists_with_subjects_read_back(tmp_path: Path) -> None:
    rows = [("a.mp4", 0), ("b, c.mp4", 1), ("d.mp4", 2)]
    people = {"a.mp4": "007", "b, c.mp4": 'Ann "B", C'}
    write_annotations(tmp_path / "list.csv", rows, people)
    clips = read_annotations(tmp_path / "list.csv")
    assert [(clip.name, clip.label) for clip in clips] == rows
    assert [clip.subject for clip in clips] == ["007", 'Ann "B", C', ""]
    # Without anybody lists are what they have always been.
    write_annotations(tmp_path / "plain.csv", rows[:1], {"other": "x"})
    assert (tmp_path / "plain.csv").read_text() == "a.mp4 0\n"
    with pytest.raises(InputError, match="subject 'x\\\\ny' cannot be in a list"):
        write_annotations(tmp_path / "list.csv", rows, {"a.mp4": "x\ny"})
