from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.segments import Segment, pool_segments, read_segments, strangers, write_segments


def row(start: float, end: float, face: int | None, *probabilities: float) -> Row:
    window = Window(0, start, end, (start + end) / 2, face, None, None, 16, "ok" if face else "no_face")
    return Row("talk.mp4", window, np.array(probabilities) if probabilities else None)


def test_probabilities_are_means_over_time() -> None:
    """Against an integral on a fine grid: at each moment, the sum over the windows that it is in."""
    generator = np.random.default_rng(3)
    rows = [row(k, k + 2.56, face, *generator.dirichlet(np.ones(3))) for k in range(20) for face in (1, 2)]
    segment = Segment(3.37, 11.02, "turn")
    first, second = pool_segments(rows, [segment], "talk.mp4")
    grid = np.arange(3.37, 11.02, 0.001) + 0.0005
    for found in (first, second):
        own = [entry for entry in rows if entry.window.face == found.face]
        weights = [((grid > entry.window.start) & (grid < entry.window.end)).sum() for entry in own]
        expected = np.average([entry.probabilities for entry in own], axis=0, weights=weights)
        assert found.probabilities is not None and np.allclose(found.probabilities, expected, atol=1e-3)
        assert found.windows == np.count_nonzero(weights) and found.status == "ok"
    assert (first.face, second.face) == (1, 2)


def test_a_face_may_be_there_for_a_part_or_not_at_all() -> None:
    rows = [row(0, 2, 1, 0.9, 0.1), row(1, 3, 1, 0.7, 0.3), row(2, 4, None), row(8, 10, 2, 0.2, 0.8)]
    segments = [Segment(0, 3.3), Segment(0, 4), Segment(4, 7), Segment(8, 10, face=1), Segment(3, 8)]
    found = pool_segments(rows, segments, "talk.mp4")
    assert [(entry.status, entry.face, entry.windows) for entry in found] == [
        ("ok", 1, 2),
        ("partial", 1, 2),
        ("no_window", None, 0),
        ("no_face", 1, 0),
        ("no_face", None, 0),
    ]
    assert found[0].probabilities is not None and np.allclose(found[0].probabilities, [0.8, 0.2])
    assert found[2].probabilities is None


def test_segments_are_of_their_videos() -> None:
    rows = [row(0, 2, 1, 0.9, 0.1)]
    for name, meant in {"talk.mp4": 1, "talk": 1, "a/talk.mp4": 1, "b/talk": 0, "alk.mp4": 0, "": 0}.items():
        assert len(pool_segments(rows, [Segment(0, 1, video=name)], Path("/data/a/talk.mp4"))) == meant, name


@pytest.mark.parametrize(
    "text", ["start,end,label,face\n", "\ufeffFace;Label;END;Start\n", "label\tstart\tend\tface\n"]
)
def test_lists_of_spreadsheets(tmp_path: Path, text: str) -> None:
    mark = next(mark for mark in "\t;," if mark in text)
    names = text.strip("\ufeff\n").lower().split(mark)
    decimal = "," if mark == ";" else "."
    lines = [
        {"start": "0", "end": f"1{decimal}5", "label": "hello", "face": ""},
        {"start": "1:02.5", "end": "1:00:03", "label": f'"a{mark}b"', "face": "2"},
    ]
    for line in lines:
        text += mark.join(line[name] for name in names) + "\r\n"
    (tmp_path / "turns.csv").write_text(text + mark * 3 + "\n\n", encoding="utf-8")
    assert read_segments(tmp_path / "turns.csv") == [
        Segment(0.0, 1.5, "hello"),
        Segment(62.5, 3603.0, f"a{mark}b", face=2),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sep=;\n;;\n", "is empty"),
        ("sep=;\nstart;end\n\n2;1\n", ":4: it ends at 1"),
        ("", "is empty"),
        ("begin,end\n1,2\n", ":1: the header has no column start:"),
        ("start,end\n\n1,two\n", ":3: end must be seconds or m:ss or h:mm:ss, got 'two'"),
        ("start,end\n1:75,2:00\n", ":2: start must be seconds"),
        ("start,end\n-1,2\n", ":2: start must be seconds"),
        ("start,end\nnan,2\n", ":2: start must be seconds"),
        ("start,end\n1,\n", ":2: end must be seconds or m:ss or h:mm:ss, got ''"),
        ("start,end\n2,2.0\n", ":2: it ends at 2.0, which is not after its start at 2"),
        ("start,end,face\n1,2,0\n", ":2: face must be the number of one, from 1 on, or empty, got '0'"),
        ("start,end\n1,2,3\n", ":2: the line has 3 fields, and the header names 2"),
        ('start,end,label\n1,2,"a\n', ":2: quotes are not closed on this line"),
    ],
)
def test_what_is_no_list_of_segments(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "turns.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_segments(path)
    assert str(path) in str(error.value) and sentence in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_where_one_is_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talk.1").mkdir()
    monkeypatch.chdir(tmp_path / "talk.1")
    segments = [Segment(0, 1, video=name) for name in ("talk.1", "talk", ".", "alk", str(tmp_path / "talk.1"))]
    found = pool_segments([row(0, 2, 1, 0.9, 0.1)], segments, ".")
    assert [each.segment.video for each in found] == ["talk.1", "talk", segments[-1].video]
    assert pool_segments([], [Segment(0, 1, video="a")], "/") == []
    assert strangers([*segments, Segment(0, 1)], [".", "b/c.mp4"]) == [".", "alk"]


def test_a_declared_delimiter(tmp_path: Path) -> None:
    (tmp_path / "turns.csv").write_text("sep=;\nstart;end;label\n0;1,5;a, b\n\n2;3;\n")
    assert read_segments(tmp_path / "turns.csv") == [Segment(0, 1.5, "a, b"), Segment(2, 3)]


def test_table(tmp_path: Path) -> None:
    rows = [row(0, 2, 1, 0.25, 0.75)]
    found = pool_segments(rows, [Segment(0, 2, 'so, "well"'), Segment(5, 6)], "talk.mp4")
    write_segments(tmp_path / "out.csv", found, ["happy", "sad"])
    with (tmp_path / "out.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "video": "talk.mp4", "face": "1", "start": "0.000", "end": "2.000", "label": 'so, "well"', "windows": "1",
        "status": "ok", "prediction": "sad", "confidence": "0.750000", "p_happy": "0.250000", "p_sad": "0.750000",
    }  # fmt: skip
    assert second["status"] == "no_window" and second["prediction"] == second["p_sad"] == ""
    with pytest.raises(InputError, match="cannot write"):
        write_segments(tmp_path / "absent" / "out.csv", found, ["happy", "sad"])
