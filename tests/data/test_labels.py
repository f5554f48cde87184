from __future__ import annotations

import pytest

from maedfer.data.labels import LabelReader
from maedfer.errors import InputError

NAMES = ("Happy", "sad", "very happy", "SAD")


@pytest.mark.parametrize(("text", "label"), [("3", 3), ("+3", 3), ("03", 3), ("3.0", 3), ("3.", 3), ("-0", 0)])
def test_whole_numbers_as_programs_write_them(text: str, label: int) -> None:
    reader = LabelReader()
    assert reader.fits(text) and reader.read(text) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3.5", "label '3.5' is not a whole number"),
        ("3,0", "label '3,0' is not a whole number"),
        ("1e1", "label '1e1' is not a whole number"),
        ("\uff13", "label '\uff13' is not a whole number"),
        ("1_0", "label '1_0' is not a whole number, nor are there data.classes"),
        ("", "the line has no label"),
        ("NaN", "the line has no label"),
        ("b.mp4", "the line has no label"),
        ("x/b", "the line has no label"),
        ("-1", "label -1 is out of range, allowed: 0 or more"),
        ("9" * 40, "label 9+ is out of range, allowed: 0 or more"),
    ],
)
def test_what_is_no_label(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        LabelReader().read(text)


def test_names_of_classes() -> None:
    reader = LabelReader(NAMES, offset=1)
    # Names know no offset; other capitals are understood where they can mean one class only.
    assert [reader.read(text) for text in ("Happy", "happy", "VERY HAPPY", "sad", "SAD", "1")] == [0, 0, 2, 1, 3, 0]
    assert not reader.fits("Sad") and not reader.fits("clip.mp4")
    with pytest.raises(InputError, match="unknown label 'very hapy' in data.classes: did you mean 'very happy'"):
        reader.read("very hapy")
    with pytest.raises(InputError, match="label 5 is out of range, allowed: 1 to 4"):
        reader.read("5")
    with pytest.raises(InputError, match="data.classes names 'sad' twice"):
        LabelReader(("sad", "happy", "sad "))


def test_labels_that_nobody_asked_for() -> None:
    reader = LabelReader(labelled=False)
    assert [reader.read(text) for text in ("-1", "-1.0", "nan", "", "happy", "2.0")] == [None] * 5 + [2]


def test_classes_that_are_named_by_numbers() -> None:
    own = LabelReader(("0", "1", "2"))
    own.prepare(["0", "2"])
    assert own.read("2") == 2
    shifted = LabelReader(("1", "2", "3"))
    shifted.prepare(["1", "3"])
    assert shifted.read("3") == 2
    numbers = LabelReader(("1", "2", "3"))
    numbers.prepare(["0", "2"])
    assert numbers.read("2") == 2
    with pytest.raises(InputError, match="label '1' may be a class's number or its name"):
        LabelReader(("1", "2", "3")).prepare(["1", "2"])
    LabelReader(("1", "2", "3"), offset=1).prepare(["1", "2"])
    long = LabelReader(("0", "9" * 400))
    long.prepare(["0", "9" * 400])
    assert long.read("9" * 400) == 1
