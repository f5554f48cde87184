"""What is known of one setting."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from maedfer.errors import InputError
from maedfer.setting import Setting, check_range, documented, setting, setting_of


@documented
@dataclasses.dataclass(frozen=True)
class Known:
    """A few settings."""

    share: float = setting(0.5, low=0, high=1, doc="share of something")
    count: int = setting(1, low=1, belongs_to="machine", doc="how many", by_task={"slow": 2}, formerly="number")
    bound: float | None = setting(None, above=0, doc="a bound; null = none")
    sizes: tuple[int, ...] = setting((4, 4), low=1, doc="some sizes")
    name: str = setting("a", doc="a name " + 20 * "that is long ")
    plain: int = 3


FIELDS = {field.name: field for field in dataclasses.fields(Known)}


@pytest.mark.parametrize(
    ("known", "text", "inside", "outside"),
    [
        ({"low": 0}, "at least 0", [0, 0.5, 1e300, 10**400], [-1e-300, -1]),
        ({"above": 0}, "above 0", [1e-300, 1], [0, -1]),
        ({"high": 2.5}, "at most 2.5", [2.5, -1], [2.6]),
        ({"below": 1}, "below 1", [0, 1 - 1e-16], [1]),
        ({"low": 0, "high": 1}, "between 0 and 1", [0, 1], [-0.1, 1.1]),
        ({"above": 0, "below": 1}, "between 0 and 1, both excluded", [0.5], [0, 1]),
        ({"low": 0, "below": 1}, "at least 0 and below 1", [0, 0.5], [1, -0.5]),
        ({"above": 0, "high": 1}, "above 0 and at most 1", [0.5, 1], [0, 2]),
    ],
)
def test_ranges(known: dict[str, Any], text: str, inside: list[float], outside: list[float]) -> None:
    range_ = Setting(doc="x", **known)
    assert range_.has_range and range_.range == text
    assert all(map(range_.allows, inside))
    assert not any(map(range_.allows, [*outside, float("nan"), float("inf"), float("-inf")]))


def test_no_range() -> None:
    assert not Setting(doc="x").has_range
    check_range(FIELDS["name"], "text", "name")


def test_numbers_and_items_of_lists_are_checked() -> None:
    check_range(FIELDS["bound"], None, "bound")
    check_range(FIELDS["sizes"], (1, 2), "sizes")
    for name, value, message in (
        ("share", 1.5, "top.share must be between 0 and 1, got 1.5"),
        ("bound", 0.0, "top.bound must be above 0, or null, got 0"),
        ("sizes", (1, 0), "top.sizes[1] must be at least 1, got 0"),
        ("sizes", (), "top.sizes must have one number or more, got []"),
    ):
        with pytest.raises(InputError) as error:
            check_range(FIELDS[name], value, f"top.{name}")
        assert str(error.value) == message


def test_a_field_is_one_of_dataclasses_with_more_known_of_it() -> None:
    assert Known() == Known(0.5, 1, None, (4, 4)) and Known.count == 1
    known = setting_of(FIELDS["count"])
    assert (known.belongs_to, known.by_task, known.formerly) == ("machine", {"slow": 2}, "number")
    assert setting_of(FIELDS["share"]).belongs_to == "results"
    assert setting_of(FIELDS["plain"]) == Setting(doc="")


def test_a_setting_without_default_must_be_set() -> None:
    @dataclasses.dataclass(frozen=True)
    class Needed:
        name: str = setting(doc="a name")

    assert Needed("a").name == "a"
    with pytest.raises(TypeError):
        Needed()


def test_docstring_tells_what_the_fields_mean() -> None:
    text = Known.__doc__ or ""
    assert text.startswith(
        "A few settings.\n\n    Args:\n        share: share of something.\n        count: how many.\n"
    )
    assert "        bound: a bound; null = none.\n" in text
    lines = text.splitlines()
    # The meaning of the name goes on in a second line, further in.
    assert any(line.startswith(12 * " " + "is long") for line in lines) and max(map(len, lines)) <= 116
