"""`maedfer.prediction.table`."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas
import pytest

from maedfer.errors import InputError
from maedfer.prediction.rows import Row
from maedfer.prediction.table import Columns, OutputError, TableFormat, TableWriter, read_table
from tests.prediction.fakes import CLASSES, rows, window, windows

# Names of videos that a table must bear.
NAMES = ["a.mp4", 'a "b", c.mp4', "two\nlines\r\n.mp4", os.fsdecode(b"\xff\xfe.mp4"), "ä ö.mp4", "=1+2", "'"]


def write(path: Path, found: list[Row], columns: Columns = "maedfer", classes: tuple[str, ...] = CLASSES) -> None:
    writer = TableWriter(path, TableFormat(classes, columns))
    writer.append(found)
    writer.close()


@pytest.mark.parametrize("columns", get_args(Columns))
@pytest.mark.parametrize("name", NAMES)
def test_rows_come_back(name: str, columns: Columns, tmp_path: Path) -> None:
    found = rows(name, windows(5, 1))
    write(tmp_path / "a.csv", found, columns)
    format, back = read_table(tmp_path / "a.csv")
    names = {"happy": "happiness", "sad": "sadness"} if columns == "pyfeat" else {}
    assert format == TableFormat(tuple(names.get(name, name) for name in CLASSES), columns)
    for row, again in zip(found, back, strict=True):
        assert again.video == name and again.window.clip is None
        for key in ("start", "end", "time"):
            assert abs(getattr(again.window, key) - getattr(row.window, key)) <= 5.1e-4
        for key in ("face", "frames", "status", "detection"):
            assert getattr(again.window, key) == getattr(row.window, key)
        assert (again.probabilities is None) == (row.probabilities is None)
        if row.probabilities is not None and again.probabilities is not None:
            np.testing.assert_allclose(again.probabilities, row.probabilities, atol=5.1e-7)
            assert again.window.box is not None and row.window.box is not None
            np.testing.assert_allclose(again.window.box, row.window.box, atol=5.1e-3)
    # A second trip changes nothing.
    write(tmp_path / "b.csv", list(read_table(tmp_path / "a.csv")[1]), columns, format.classes)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_pandas_reads_it(tmp_path: Path) -> None:
    found = rows("a,b\n.mp4", windows(40, 2))
    write(tmp_path / "a.csv", found)
    table = pandas.read_csv(tmp_path / "a.csv")
    assert list(table) == [
        *"video face start end time x y width height detection frames status prediction confidence".split(),
        *(f"p_{name}" for name in CLASSES),
    ]
    assert len(table) == len(found) and set(table["video"]) == {"a,b\n.mp4"}
    empty = table["status"] == "no_face"
    assert empty.any() and not empty.all()
    blank = [name for name in table if name not in ("video", "start", "end", "time", "frames", "status")]
    assert table.loc[empty, blank].isna().all(axis=None) and table.loc[~empty].notna().all(axis=None)
    scored = table.loc[~empty]
    chances = scored[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1, atol=2e-6)
    assert scored["prediction"].tolist() == [CLASSES[index] for index in chances.argmax(1)]
    np.testing.assert_array_equal(scored["confidence"], chances.max(1))


def test_columns_of_other_tools(tmp_path: Path) -> None:
    classes = ("happy", "Fear", "frame", "contempt", "sadness", "sad")
    sure = np.array([0.1, 0.5, 0.1, 0.1, 0.1, 0.1])
    found = [Row("a", window(0, None), None), Row("a", window(1, 1), sure), Row("a", window(1, 2), sure)]
    write(tmp_path / "o.csv", found, "openface", classes)
    table = pandas.read_csv(tmp_path / "o.csv")
    assert list(table)[:5] == "frame face_id timestamp confidence success".split()
    assert table["frame"].tolist() == [1, 2, 2] and table["success"].tolist() == [0, 1, 1]
    assert table["confidence"].tolist()[1:] == [0.9, 0.9] and table["prediction_confidence"].tolist()[1:] == [0.5, 0.5]
    write(tmp_path / "p.csv", found, "pyfeat", classes)
    table = pandas.read_csv(tmp_path / "p.csv")
    boxes = "FaceRectX FaceRectY FaceRectWidth FaceRectHeight FaceScore".split()
    emotions = ["happiness", "fear", "p_frame", "contempt", "sadness", "sad"]
    assert list(table)[:14] == ["input", "frame", "approx_time", *boxes, *emotions]
    assert table["frame"].tolist() == [0, 1, 1] and table["prediction"].tolist()[1:] == ["fear", "fear"]
    assert read_table(tmp_path / "p.csv")[0].classes == ("happiness", "fear", "frame", "contempt", "sadness", "sad")


@pytest.mark.parametrize("columns", get_args(Columns))
def test_any_torn_end_is_cut_off_and_gone_on_with(columns: Columns, tmp_path: Path) -> None:
    found = rows('a "quoted"\nname\r\n', windows(2, 3))
    whole, torn = tmp_path / "whole.csv", tmp_path / "torn.csv"
    write(whole, found, columns)
    content = whole.read_bytes()
    for size in range(0, len(content) + 1, 1 if columns == "maedfer" else 7):
        torn.write_bytes(content[:size])
        writer = TableWriter(torn, TableFormat(CLASSES, columns))
        assert content.startswith(torn.read_bytes())
        assert writer.scored == sum(row.probabilities is not None for row in found[: writer.rows])
        writer.append(found[writer.rows :])
        writer.close()
        assert torn.read_bytes() == content


def test_a_table_is_cut_to_the_rows_whose_features_are_there(tmp_path: Path) -> None:
    found = rows("a", windows(12, 4))
    scored = [number for number, row in enumerate(found) if row.probabilities is not None]
    for most in range(len(scored) + 2):
        (tmp_path / "a.csv").unlink(missing_ok=True)
        write(tmp_path / "a.csv", found)
        writer = TableWriter(tmp_path / "a.csv", TableFormat(CLASSES), scored=most)
        writer.close()
        assert writer.rows == (scored[most] if most < len(scored) else len(found))
        assert writer.scored == min(most, len(scored))


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    found = rows("a", windows(6, 5))
    writer = TableWriter(tmp_path / "a.csv", TableFormat(CLASSES))
    writer.append(found[:2])
    before = (tmp_path / "a.csv").read_bytes()
    file = writer._file

    class Full:
        """Takes ten bytes, then none."""

        def __init__(self) -> None:
            self.room = 10

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.room = self.room, 0
            return int(file.write(data[:taken]))

    writer._file = Full()  # type: ignore[assignment]
    with pytest.raises(OutputError, match=r"a\.csv: cannot be written \(No space left on device\)"):
        writer.append(found[2:])
    assert (tmp_path / "a.csv").read_bytes() == before and writer.rows == 2
    writer._file = file
    writer.append(found[2:])
    writer.close()
    write(tmp_path / "b.csv", found)
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no table of a prediction"),
        ("name,label\n", "is no table of a prediction: its first line is 'name,label'"),
        ('"open\n', "is no table of a prediction"),
    ],
)
def test_what_is_no_table_is_told(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(path)
    with pytest.raises(InputError, match=r"absent.*cannot be read"):
        read_table(tmp_path / "absent")


@pytest.mark.parametrize(("cell", "text"), [(2, "early"), (10, ""), (11, "fine"), (14, "much"), (14, "nan"), (1, "x")])
def test_a_line_that_is_no_row_is_named(cell: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, [Row("a", window(number, 1), np.array([1.0, 0, 0])) for number in range(3)])
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    lines[2][cell] = text
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(lines)
    with pytest.raises(InputError, match=r"a\.csv line 3: "):
        list(read_table(path)[1])
    with pytest.raises(InputError, match=r"see its row 2: .*choose another --out, or --overwrite"):
        TableWriter(path, TableFormat(CLASSES))
    with pytest.raises(InputError, match="it has other columns"):
        TableWriter(path, TableFormat(CLASSES, "openface"))
