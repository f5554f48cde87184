"""Typed configuration trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

from maedfer.dataclass_tree import from_dict, set_dotted, to_dict
from maedfer.errors import InputError


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
        ({"name": "a", "inner": {"rates": 1}}, "unknown key in 'inner' 'rates': did you mean 'rate'"),
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
    set_dotted(tree, "inner.size=[4, 5]", yaml.safe_load)
    set_dotted(tree, "name=x", yaml.safe_load)
    assert tree == {"inner": {"rate": 1, "size": [4, 5]}, "name": "x"}
    with pytest.raises(InputError, match="not of the form key=value"):
        set_dotted(tree, "name", yaml.safe_load)
    with pytest.raises(InputError, match="'name' is a value, not a section"):
        set_dotted(tree, "name.x=1", yaml.safe_load)
