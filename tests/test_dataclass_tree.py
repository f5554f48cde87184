"""Typed configuration trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

from maedfer._values import Plain
from maedfer.dataclass_tree import (
    check_ranges,
    former_names,
    from_dict,
    keys_of,
    map_paths,
    rename,
    set_key,
    split_override,
    task_defaults,
    to_dict,
    without,
)
from maedfer.errors import InputError
from maedfer.setting import setting


@dataclass(frozen=True)
class Places:
    file: str = setting("", path=True, doc="a file")
    folders: tuple[str, ...] = setting((), path=True, doc="some folders")
    text: str = setting("", doc="a text")


@dataclass(frozen=True)
class House:
    places: Places = setting(Places(), doc="places")


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    size: tuple[int, ...] = (1, 2)
    box: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    mode: Literal["fast", "slow"] = "fast"
    steps: int = 3
    on: bool = False


def read_section(text: str, where: str) -> dict:
    # Every scalar as text, whatever it looks like.
    return yaml.load(text, yaml.BaseLoader)


def test_fills_nested_fields_and_keeps_the_rest() -> None:
    config = from_dict(Outer, {"name": "a", "inner": {"rate": "3e-4", "size": [4]}, "on": True})
    assert config == Outer("a", Inner(rate=3e-4, size=(4,)), on=True)
    changed = from_dict(Outer, {"inner": {"box": [1, 2]}}, base=config)
    assert changed.inner == Inner(rate=3e-4, size=(4,), box=(1, 2)) and changed.name == "a"
    assert from_dict(Outer, to_dict(changed)) == changed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "stepps": 1}, "unknown key 'stepps': did you mean 'steps'"),
        ({"name": "a", "inner": {"rates": 1}}, "unknown key 'rates' in 'inner': did you mean 'rate'"),
        ({"name": "a", "steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"name": "a", "steps": True}, "steps must be a whole number, got True"),
        ({"name": "a", "on": 1}, "on must be true or false, got 1"),
        ({"name": "a", "mode": "quick"}, "unknown value for mode: 'quick'"),
        ({"name": "a", "inner": {"size": [1, "x"]}}, r"inner.size\[1\] must be a whole number"),
        ({"name": "a", "inner": {"box": [1]}}, "inner.box must be a list of 2 values"),
        ({"name": "a", "inner": {"rate": "high"}}, "inner.rate must be a number, got 'high'"),
        ({"name": "a", "inner": 3}, "inner must be a section with keys, got 3"),
        ({}, "missing key 'name'"),
    ],
)
def test_errors_name_the_key(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(Outer, values)


def test_dotted_overrides() -> None:
    tree: dict = {"inner": {"rate": 1}}
    for override in ("inner.size=[4, 5]", "name=x", "name=a=b #3", "inner={rate: 2, box: [1, 2]}"):
        for key, value in split_override(Outer, override, read_section):
            set_key(tree, key, value)
    assert tree == {"inner": {"rate": "2", "size": "[4, 5]", "box": ["1", "2"]}, "name": "a=b #3"}
    tree["inner"]["box"] = [Plain(number) for number in tree["inner"]["box"]]
    assert from_dict(Outer, tree) == Outer("a=b #3", Inner(2.0, (4, 5), (1, 2)))
    # Braces are text where no section is meant.
    assert split_override(Outer, "name={x: 1}", read_section) == [("name", "{x: 1}")]
    with pytest.raises(InputError, match="not of the form key=value"):
        split_override(Outer, "name", read_section)
    with pytest.raises(InputError, match="'name' is a value, not a section"):
        set_key(tree, "name.x", "1")


@dataclass(frozen=True)
class Known:
    """What is known of a few fields."""

    share: float = setting(0.5, low=0, high=1, doc="share of something")
    ratio: float = setting(0.5, above=0, below=1, belongs_to="weights", doc="another share")
    drop: float = setting(0.0, low=0, below=1, doc="a probability", by_task={"slow": 0.1})
    keep: float = setting(1.0, above=0, high=1, doc="a share above nothing")
    count: int = setting(1, low=1, belongs_to="machine", doc="how many", formerly="number")
    clip: float | None = setting(None, above=0, doc="a bound; null = none")
    sizes: tuple[int, ...] = setting((4, 4), low=1, doc="some sizes")


@dataclass(frozen=True)
class Tree:
    known: Known = setting(Known(), doc="a section")
    either: Known | Inner = setting(Inner(), doc="one of two")
    name: str = setting("a", belongs_to="machine", doc="a name")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.01}, r"top.share must be between 0 and 1, got 1.01"),
        ({"share": -0.01}, r"top.share must be between 0 and 1, got -0.01"),
        ({"ratio": 1}, r"top.ratio must be between 0 and 1, both excluded, got 1"),
        ({"ratio": 0}, r"top.ratio must be between 0 and 1, both excluded, got 0"),
        ({"drop": 1}, r"top.drop must be at least 0 and below 1, got 1"),
        ({"keep": 0}, r"top.keep must be above 0 and at most 1, got 0"),
        ({"count": 0}, r"top.count must be at least 1, got 0"),
        ({"number": 0}, r"top.count must be at least 1, got 0"),
        ({"clip": 0}, r"top.clip must be above 0, or null, got 0"),
        ({"sizes": [2, 0]}, r"top.sizes\[1\] must be at least 1, got 0"),
        ({"sizes": []}, r"top.sizes must have one number or more, got \[\]"),
        ({"share": "nan"}, r"top.share must be a finite number between 0 and 1, got nan"),
        ({"clip": "inf"}, r"top.clip must be a finite number above 0, or null, got inf"),
    ],
)
def test_numbers_out_of_range_are_refused_with_their_key(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        from_dict(Known, values, path="top")


def test_ranges_of_a_whole_tree() -> None:
    check_ranges(Tree())
    check_ranges(Tree(Known(share=1.0, keep=1.0, drop=0.0, clip=None)))
    with pytest.raises(InputError, match=r"^run\.known\.share must be between 0 and 1, got 2$"):
        check_ranges(Tree(Known(share=2)), "run")
    with pytest.raises(InputError, match=r"^either\.sizes\[0\] must be at least 1, got 0$"):
        check_ranges(Tree(either=Known(sizes=(0,))))


def test_an_earlier_name_is_still_read() -> None:
    assert from_dict(Known, {"number": 3}) == Known(count=3)
    assert from_dict(Tree, {"known": {"number": 3}}) == Tree(Known(count=3))
    assert from_dict(Known, {"number": 3}, Known(count=2)) == Known(count=3)
    with pytest.raises(InputError, match=r"^top\.number is the former name of top\.count: give one of them, not both$"):
        from_dict(Known, {"count": 2, "number": 3}, path="top")
    with pytest.raises(InputError, match=r"^known\.number is the former name of known\.count"):
        from_dict(Tree, {"known": {"number": 3, "count": 3}})


def test_former_names_give_way_to_present_ones() -> None:
    names = former_names(Tree)
    assert names == {"known.number": "known.count", "either.number": "either.count"}
    assert rename({"known": {"number": 1, "share": 2}, "number": 3}, names) == {
        "known": {"count": 1, "share": 2},
        "number": 3,
    }
    # A section of that name is no setting.
    assert rename({"known": {"number": {"a": 1}}}, names) == {"known": {"number": {"a": 1}}}
    tree: dict = {"known": {"count": 1}}
    for former, count in (("number", 2), ("count", 3)):
        set_key(tree, names.get(f"known.{former}", f"known.{former}"), count)
        assert tree == {"known": {"count": count}}


def test_what_belongs_to_whom() -> None:
    assert keys_of(Tree, "machine") == {"known.count", "either.count", "name"}
    assert keys_of(Known, "weights") == {"ratio"}
    tree = to_dict(Tree(either=Known()))
    rest = without(Tree, tree, "machine")
    assert "count" not in rest["known"] and "count" not in rest["either"] and "name" not in rest
    assert rest["known"]["share"] == 0.5 and tree["name"] == "a"


def test_defaults_of_a_task() -> None:
    # Of a section that may be of two kinds nothing is known.
    assert task_defaults(Tree, "slow") == {"known": {"drop": 0.1}}
    assert task_defaults(Tree, "fast") == {}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        *(
            ("name", text, text)
            for text in ("2024", "no", "1:30", "ft #2", "@x", "[a,b", "'q'", "null", "", " a ", "~/x")
        ),
        ("steps", "010", 10),
        ("steps", "-3", -3),
        ("on", "True", True),
        ("on", "false", False),
        ("mode", "slow", "slow"),
        ("inner.rate", "3e-4", 3e-4),
        ("inner.rate", ".5", 0.5),
        ("inner.rate", "1", 1.0),
        ("inner.size", "[ 1, 2,3 ]", (1, 2, 3)),
        ("inner.size", "[]", ()),
        ("inner.box", "null", None),
        ("inner.box", "none", None),
        ("inner.box", "", None),
        ("inner.box", "[1, 2]", (1, 2)),
    ],
)
def test_text_is_read_by_the_type_of_the_field(key: str, text: str, value: object) -> None:
    tree: dict = {"name": "a"}
    set_key(tree, key, Plain(text))
    found: object = from_dict(Outer, tree)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        *(
            ("steps", text, "steps must be a whole number, got")
            for text in ("1.0", "0x10", "1_000", "1e3", "", "\u0663")
        ),
        *(("on", text, "on must be true or false, got") for text in ("yes", "no", "on", "off", "1", "0", "null")),
        *(("inner.rate", text, "inner.rate must be a number, got") for text in ("1_0", "1:30", "1/2", "null", "e5")),
        ("mode", "SLOW", "unknown value for mode: 'SLOW'"),
        ("inner.size", "1, 2", r"inner.size must be a list in brackets, such as \[a, b\], got '1, 2'"),
        ("inner.size", "[1, 2", r"inner.size must be a list in brackets: '\[1, 2' has no \] at its end"),
        ("inner.size", "[1, x]", r"inner.size\[1\] must be a whole number, got 'x'"),
        ("inner.size", "['1']", r"inner.size\[0\] must be a whole number, got '1'"),
        ("inner", "3", "inner must be a section with keys, got '3'"),
    ],
)
def test_text_of_another_type_is_refused(key: str, text: str, message: str) -> None:
    tree: dict = {"name": "a"}
    set_key(tree, key, Plain(text))
    with pytest.raises(InputError, match=f"^{message}"):
        from_dict(Outer, tree)


def test_text_in_quotes_is_no_number() -> None:
    for values in ({"steps": "3"}, {"on": "true"}):
        with pytest.raises(InputError, match="must be"):
            from_dict(Outer, {"name": "a", **values})


def test_paths_begin_at_home_and_texts_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = {"places": {"file": "~/a", "folders": ["~", "b/~", "./~c"], "text": "~/a"}}
    places = from_dict(House, given).places
    assert places == Places("/home/me/a", ("/home/me", "b/~", "./~c"), "~/a")
    with pytest.raises(InputError, match=r"^places\.file is '~nobody-here/a': there is no user 'nobody-here': give"):
        from_dict(House, {"places": {"file": "~nobody-here/a"}})
    with pytest.raises(InputError, match=r"^places\.file must be a path, and no path holds a zero byte"):
        from_dict(House, {"places": {"file": "a\0b"}})
    changed = map_paths(House(places), lambda key, text: f"{key}:{text}").places
    assert changed.file == "places.file:/home/me/a" and changed.folders[1] == "places.folders:b/~"
    assert changed.text == "~/a"


def test_a_path_may_be_none() -> None:
    @dataclass(frozen=True)
    class Door:
        key: str | None = setting(None, path=True, doc="a file, if any")

    assert from_dict(Door, {"key": None}) == from_dict(Door, {}) == Door(None)
    assert from_dict(Door, {"key": "a"}).key == "a"
