"""Who is in a clip, by a pattern that is found in its name."""

from __future__ import annotations

import re

from maedfer.data.video.base import shown
from maedfer.errors import InputError


class SubjectPattern:
    """Finds who is in a clip: the first group of a regular expression that took part, or all that it found.

    Args:
        pattern: is searched for in the clip's name, the path as its list has it.
        what: what messages call the pattern.

    Raises:
        InputError: it is no regular expression.
    """

    def __init__(self, pattern: str, what: str = "data.subject") -> None:
        self.what = what
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise InputError(f"{what} {pattern!r} is no pattern: {error}") from None

    def __call__(self, name: str) -> str:
        """Who is in the clip of this name.

        Raises:
            InputError: the pattern is not found in it, or finds nothing but an empty text.
        """
        match = self._pattern.search(name)
        found = match and next((group for group in match.groups() if group is not None), match[0])
        if not found:
            raise InputError(
                f"{self.what} {self._pattern.pattern!r} is not found in {shown(name)!r}: every clip must have one"
            )
        return found
