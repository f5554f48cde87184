"""Labels as annotation files have them: whole numbers, or the names of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from maedfer.errors import InputError, unknown

# Spreadsheets write 3.0; digits of other scripts, which `int` would take, are more likely a slip than meant.
_WHOLE = re.compile(r"([+-]?[0-9]{1,999})(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?")
_NOTHING = {"", "nan", "none", "null", "na", "n/a", "<na>"}
# What a data set's arrays hold.
_MOST = 2**31 - 1


class LabelReader:
    """Reads the labels of a list.

    Args:
        classes: names in the order of their numbers; empty = labels are numbers alone.
        num_classes: labels must be below it (after the offset); None = as many as there are `classes`, or no limit.
        labelled: whether there must be a label; if not, negative numbers, no label and unknown names mean "none".
        offset: the first class's number in the file.

    Raises:
        InputError: a class is there twice.
    """

    def __init__(
        self, classes: Sequence[str] = (), num_classes: int | None = None, labelled: bool = True, offset: int = 0
    ) -> None:
        self.classes = [name.strip() for name in classes]
        self.labelled, self.offset = labelled, offset
        self.limit = len(classes) or None if num_classes is None else num_classes
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise InputError(f"data.classes names {twice[0]!r} twice: every class has one place, its label")
        self._names = {name: number for number, name in enumerate(self.classes)}
        folded = Counter(name.casefold() for name in self.classes)
        # A name in other capitals counts where it can mean one class only.
        self._folded = {name.casefold(): number for name, number in self._names.items() if folded[name.casefold()] == 1}
        self._named = False

    def fits(self, text: str) -> bool:
        """Whether a field has the form of a label: a whole number, or a known name."""
        # Numbers of ten digits and more are times or the like.
        whole = _WHOLE.fullmatch(text)
        return (whole is not None and len(whole[1]) < 10) or text in self._names or text.casefold() in self._folded

    def is_nothing(self, text: str) -> bool:
        """Whether a field says that there is no label."""
        return text.casefold() in _NOTHING

    def prepare(self, texts: Iterable[str]) -> None:
        """Take note of the labels of a whole list, as numbers may be names of classes as well.

        Raises:
            InputError: classes are named by numbers which are not their own, and the list may mean either.
        """
        wholes = {name: int(match[1]) for name in self._names if (match := _WHOLE.fullmatch(name))}
        if all(number - self.offset == self._names[name] for name, number in wholes.items()):
            return
        found = set(texts)
        numbers = all((match := _WHOLE.fullmatch(text)) and self._inside(int(match[1])) for text in found)
        names = all(text in self._names for text in found)
        if numbers and names:
            text = min(found)
            raise InputError(
                f"label {text!r} may be a class's number or its name in data.classes: give the classes names that are "
                "no numbers, or set data.label_offset so that both agree"
            )
        self._named = names

    def read(self, text: str) -> int | None:
        """A label from 0.

        Raises:
            InputError: no label, no whole number, an unknown name, or out of range.
        """
        match = None if self._named else _WHOLE.fullmatch(text)
        if match is None:
            number = self._names.get(text, self._folded.get(text.casefold()))
            if number is not None or not self.labelled:
                return number
            raise self._refusal(text)
        number = int(match[1]) - self.offset
        if not self.labelled and number < 0:
            return None
        if not self._inside(int(match[1])):
            first = f"{self.offset} or more" if self.limit is None else f"{self.offset} to"
            allowed = first if self.limit is None else f"{first} {self.offset + self.limit - 1}"
            raise InputError(f"label {text} is out of range, allowed: {allowed}")
        return number

    def _inside(self, number: int) -> bool:
        # Lists for pre-training may count something else, of which only the size matters.
        limit = self.limit if self.labelled and self.limit is not None else _MOST
        return 0 <= number - self.offset < limit

    def _refusal(self, text: str) -> InputError:
        if self.is_nothing(text):
            return InputError("the line has no label; it must read 'path label'")
        if _NUMBER.fullmatch(text):
            return InputError(f"label {text!r} is not a whole number")
        if "/" in text or re.search(r"\.[A-Za-z0-9]+$", text):
            return InputError("the line has no label; it must read 'path label'")
        if self.classes:
            return unknown("label", text, self.classes, "in data.classes")
        return InputError(f"label {text!r} is not a whole number, nor are there data.classes to know it by")
