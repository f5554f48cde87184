from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maedfer.cli._parser import literal, split_items
from maedfer.errors import InputError


def test_a_name_may_stand_anywhere_among_overrides() -> None:
    assert split_items(["dfew", "a.b=1", "c=[1,2]"], "recipe") == ("dfew", ["a.b=1", "c=[1,2]"])
    assert split_items(["a.b=1", "dfew"], "recipe") == ("dfew", ["a.b=1"])
    assert split_items([], "recipe") == (None, [])


def test_a_file_with_an_equals_sign_in_its_path_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "lr=1e-3.yaml"
    path.write_text("")
    assert split_items([str(path), "seed=1"], "recipe") == (str(path), ["seed=1"])


def test_two_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"'b' is neither the model \('a' is\) nor of the form key=value"):
        split_items(["a", "x=1", "b"], "model")


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("[1,5,10]", [1, 5, 10]), ("1e-3", 1e-3), ("null", None), ("cross", "cross"), ("", ""), ("3", 3)],
)
def test_literal(text: str, value: Any) -> None:
    assert literal(text) == value
