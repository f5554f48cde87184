"""What text stands for, by the type that is wanted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from maedfer._values import Plain, boolean, expand_home, is_null, list_items, number, whole_number
from maedfer.errors import InputError


def test_numbers() -> None:
    assert [whole_number(text) for text in ("010", "+7", "-3", "0")] == [10, 7, -3, 0]
    assert [number(text) for text in ("3e-4", "1e-3", ".5", "2.", "-1.5E+2", "7")] == [
        3e-4,
        1e-3,
        0.5,
        2.0,
        -150.0,
        7.0,
    ]
    assert math.isnan(number(".nan") or 0) and number("-.inf") == -math.inf and number("1e400") == math.inf
    for text in ("", "1.0", "1e3", "0x10", "0o10", "1_000", " 1", "1:30", "٣", "9" * 5000):
        assert whole_number(text) is None, text
    for text in ("", "1_000", "1:30", "1,5", "infinity", "0x1p3", " 1", "1/2", "e5", "."):
        assert number(text) is None, text


def test_truth_and_nothing() -> None:
    assert boolean("true") is True and boolean("FALSE") is False
    assert all(boolean(text) is None for text in ("yes", "no", "on", "off", "1", "0", "", "y"))
    assert all(map(is_null, ("", "null", "None", "~"))) and not is_null("nothing")


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[]", []),
        (" [ ] ", []),
        ("[a]", ["a"]),
        ("[no, yes, 1]", ["no", "yes", "1"]),
        ("[a b ,c #2,]", ["a b", "c #2"]),
        ("['a, b', \"c, \\\"d\\\"\", 'it''s']", ["a, b", 'c, "d"', "it's"]),
        ("['', \"\"]", ["", ""]),
        ("[a: 1, {b}, [c]]", ["a: 1", "{b}", "[c]"]),
        ("[children's, 5\"]", ["children's", '5"']),
        ("[caf\udce9]", ["caf\udce9"]),
    ],
)
def test_lists(text: str, items: list[str]) -> None:
    assert list_items(text, "key") == items


def test_items_without_quotes_are_still_to_be_read() -> None:
    assert [type(item) for item in list_items("[1, '1', \"1\"]", "key")] == [Plain, str, str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"key must be a list in brackets, such as \[a, b\], got ''"),
        ("a, b", "key must be a list in brackets"),
        ("[a, b", r"'\[a, b' has no \] at its end"),
        ("[", r"has no \] at its end"),
        ("['a, b]", "a quote has no end"),
        ("[a, 'b]", "a quote has no end"),
        ("['a' b]", "a quote has no end, or text follows it"),
        ("[a,, b]", "an item of the list is empty"),
        ("[,]", "an item of the list is empty"),
        ('["\\x"]', "no text in double quotes"),
    ],
)
def test_lists_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_items(text, "key")


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("~") == "/home/me" and expand_home("~/a/~") == "/home/me/a/~"
    assert expand_home("~root").endswith("root")
    assert [expand_home(text) for text in ("a", "", "./~", "a~b", "/~")] == ["a", "", "./~", "a~b", "/~"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"^'~old-things': there is no user 'old-things': give the whole path, or './~old"
    ):
        expand_home("~old-things")
    # A name that is there is meant.
    (tmp_path / "~old-things").mkdir()
    assert expand_home("~old-things") == "~old-things"
