"""Ranges of bytes: looked at before they are read, and read together where they lie near each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maedfer.data.video.base import shown
from maedfer.errors import InputError

# Where a range starts, and how many bytes it has.
Range = tuple[int, int]
# The most that is read at once.
_LONGEST = 16 << 20


def check_ranges(ranges: Sequence[Range], size: int, place: str) -> None:
    """Refuse ranges that are empty, or not in a file of so many bytes."""
    for start, length in ranges:
        if start < 0 or length <= 0 or start + length > size:
            raise InputError(
                f"{place}: bytes {start} to {start + length - 1} are asked for, and there are {size}: the index is "
                "damaged, or belongs to other shards"
            )


def gathered(ranges: Sequence[Range], gap: int, fetch: Callable[[int, int], tuple[int, bytes]]) -> list[memoryview]:
    """Fetch ranges, those with at most `gap` bytes between them together.

    Args:
        fetch: gets bytes from a start to a stop, and says where those that it returns begin.
    """
    order = sorted(range(len(ranges)), key=lambda number: ranges[number])
    found: list[memoryview] = [memoryview(b"")] * len(ranges)
    while order:
        start, length = ranges[order[0]]
        stop, together = start + length, 1
        for number in order[1:]:
            following, length = ranges[number]
            if following > stop + gap or following + length > max(stop, start + _LONGEST):
                break
            stop, together = max(stop, following + length), together + 1
        begin, content = fetch(start, stop)
        view = memoryview(content)
        for number in order[:together]:
            first, length = ranges[number]
            found[number] = view[first - begin : first - begin + length]
        del order[:together]
    return found


def plain(name: str) -> str:
    """The name of a file in a folder, and of nothing else."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InputError(f"{shown(name)!r} is no name of a file of shards")
    return name
