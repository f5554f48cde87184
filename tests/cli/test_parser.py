from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from maedfer.cli._parser import path, split_items
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


def test_an_override_that_is_too_long_for_a_path_is_an_override() -> None:
    override = "data.classes=[" + ", ".join(["long"] * 2000) + "]"
    assert split_items([override], "recipe") == (None, [override])


def test_a_path_given_to_an_option_begins_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert path("~/a b") == "/home/me/a b" and path("a/~") == "a/~"
    for text, message in (("~nobody-here", "there is no user 'nobody-here'"), ("", "the path is empty")):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            path(text)
