"""What is known of one setting: its range, its meaning, and what it belongs to.

A field of a configuration that is made by `setting` carries all of it, and nothing else needs to be told about it.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from maedfer.errors import InputError

T = TypeVar("T")
Owner = Literal["weights", "results", "machine"]

# What a setting can belong to, and so where it may differ.
OWNERS: dict[Owner, str] = {
    "weights": "says which weights there are and what they mean; a resumed run has the same, and so has a model that "
    "takes weights over",
    "results": "changes what comes out, with whatever weights; a resumed run has the same, a model that takes weights "
    "over may have another",
    "machine": "says who computes, where files lie and what is written down on the way; may differ at any time, and is "
    "not saved with weights",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of a field beside its type and default; see `setting`."""

    doc: str
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    belongs_to: Owner = "results"
    by_task: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    formerly: str | None = None
    path: bool = False

    @property
    def has_range(self) -> bool:
        """Whether only some numbers are allowed."""
        return any(bound is not None for bound in (self.low, self.above, self.high, self.below))

    @property
    def range(self) -> str:
        """The numbers that are allowed, as what follows "must be"."""
        if self.low is not None and self.high is not None:
            return f"between {_number(self.low)} and {_number(self.high)}"
        if self.above is not None and self.below is not None:
            return f"between {_number(self.above)} and {_number(self.below)}, both excluded"
        words = {"at least": self.low, "above": self.above, "at most": self.high, "below": self.below}
        return " and ".join(f"{word} {_number(bound)}" for word, bound in words.items() if bound is not None)

    def allows(self, number: float) -> bool:
        """Whether a number is in the range; infinity and NaN never are."""
        return (
            (isinstance(number, int) or math.isfinite(number))
            and (self.low is None or number >= self.low)
            and (self.above is None or number > self.above)
            and (self.high is None or number <= self.high)
            and (self.below is None or number < self.below)
        )


def setting(
    default: T = dataclasses.MISSING,  # type: ignore[assignment]
    *,
    doc: str,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    belongs_to: Owner = "results",
    by_task: Mapping[str, T] | None = None,
    formerly: str | None = None,
    path: bool = False,
) -> T:
    """Declare a field of a dataclass with all that is known of it.

    Args:
        default: its value where nothing else is said; a setting without one must be set.
        doc: its meaning, for documentation and help, without a capital and a full stop.
        low, high: smallest and largest number allowed; for a list, of each of its items.
        above, below: the same where the bound itself is not allowed.
        belongs_to: what the setting belongs to, a key of `OWNERS`.
        by_task: tasks whose default is another one.
        formerly: the key's name in files of earlier versions, which is still read.
        path: whether its text, or each of its texts, is the path of a file or folder.
    """
    known = Setting(
        doc=doc,
        low=low,
        above=above,
        high=high,
        below=below,
        belongs_to=belongs_to,
        by_task=by_task or {},
        formerly=formerly,
        path=path,
    )
    return dataclasses.field(default=default, metadata={"setting": known})


def setting_of(field: dataclasses.Field[Any]) -> Setting:
    """What is known of a field; nothing of one that was not made by `setting`."""
    return field.metadata.get("setting", Setting(doc=""))


def check_range(field: dataclasses.Field[Any], value: Any, key: str) -> None:
    """Refuse a number out of its range; of a list, every item is looked at.

    Args:
        field: of the setting.
        value: what it is to be.
        key: its dotted key, for the error message.

    Raises:
        InputError: names the key, what is allowed, and the value.
    """
    known = setting_of(field)
    if not known.has_range or value is None:
        return
    null = ", or null" if field.default is None else ""
    if isinstance(value, (tuple, list)):
        if not value:
            raise InputError(f"{key} must have one number or more{null}, got []")
        numbers = {f"{key}[{index}]": number for index, number in enumerate(value)}
    else:
        numbers = {key: value}
    for place, number in numbers.items():
        if not known.allows(number):
            finite = "" if isinstance(number, int) or math.isfinite(number) else "a finite number "
            raise InputError(f"{place} must be {finite}{known.range}{null}, got {_number(number)}")


def documented(cls: type[T]) -> type[T]:
    """Decorate a dataclass: append an "Args" section to its docstring, made from its fields."""
    lines = [
        textwrap.fill(
            f"{field.name}: {setting_of(field).doc}.", 116, initial_indent=" " * 8, subsequent_indent=" " * 12
        )
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
    ]
    cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "    Args:", *lines, "    "])
    return cls


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"
