"""Damage as it happens to files, and as somebody with a hex editor or a text editor does it."""

from __future__ import annotations

import random
import re

_LENGTHS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = """0 -1 1 2.5 1e999 -1e999 NaN nan null true "" '' [] {} [[]] {a: b} 99999999999999999999999 0x10 x é a,b
:""".split()


def mutated(content: bytes, draw: random.Random, text: bool) -> bytes:
    """The content, changed in one to three ways.

    Args:
        content: of the file.
        draw: where chance comes from.
        text: the file is one for people, which gets other words too.
    """
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        change = draw.choice([*_CHANGES, _words, _words, _lines, _lines] if text else _CHANGES)
        content = change(content, draw)
    return content


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8) if changed else 0):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _flip_head(content: bytes, draw: random.Random) -> bytes:
    return _flip(content[:200], draw) + content[200:]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, len(content))]


def _cut_front(content: bytes, draw: random.Random) -> bytes:
    return content[draw.randint(0, min(len(content), 64)) :]


def _double(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:]


def _remove(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _zeros(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _insert(content: bytes, draw: random.Random) -> bytes:
    at = draw.randint(0, len(content))
    return content[:at] + draw.randbytes(draw.randint(1, 64)) + content[at:]


def _swap(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    middle = (start + end) // 2
    return content[:start] + content[middle:end] + content[start:middle] + content[end:]


def _length(content: bytes, draw: random.Random) -> bytes:
    """Another number where one may stand, most in the first bytes, where headers are."""
    size = draw.choice((2, 4, 4, 8))
    last = max(len(content) - size, 0)
    at = draw.randint(0, min(last, draw.choice((64, 1024, last))))
    number = draw.choice((*_LENGTHS, len(content), len(content) + 1)) % (1 << (8 * size))
    return content[:at] + number.to_bytes(size, draw.choice(("big", "little"))) + content[at + size :]


def _words(content: bytes, draw: random.Random) -> bytes:
    """Another word or number in the place of one."""
    words = list(re.finditer(rb"[\w.+-]+", content))
    if not words:
        return content
    word = draw.choice(words)
    return content[: word.start()] + draw.choice(_WORDS).encode() + content[word.end() :]


def _lines(content: bytes, draw: random.Random) -> bytes:
    """A line that is gone, twice there, at another place, or indented."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    at = draw.randrange(len(lines))
    line = lines.pop(at)
    kept = draw.choice(([], [line, line], [b"  " + line], [line.strip()], [line]))
    if kept == [line]:
        at = draw.randint(0, len(lines))
    lines[at:at] = kept
    return b"".join(lines)


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(content))
    return start, min(len(content), start + draw.choice((1, 4, 16, 256, len(content))))


_CHANGES = (_flip, _flip_head, _cut, _cut_front, _double, _remove, _zeros, _insert, _swap, _length, _length)
