"""The text of an annotation file, whatever program wrote it: its lines, and their fields."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from maedfer._files import read_file
from maedfer.data.video.base import shown
from maedfer.errors import InputError

# Longer marks first: UTF-32 begins as UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = "\t;,"
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def read_text(file: Path) -> str:
    """The text of a file, its lines ended by line feeds.

    UTF-8, or what the mark at the file's start says (spreadsheets write UTF-16 as "Unicode text"). Bytes that are no
    UTF-8 are kept as Python keeps them in names of files, so that such names are found.

    Raises:
        InputError: the file cannot be read, or is no text.
    """
    try:
        content = read_file(file)
    except FileNotFoundError:
        raise InputError(f"{file}: no such annotation file") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a folder, not an annotation file") from None
    except OSError as error:
        raise InputError(f"{file}: the annotation file cannot be read: {error.strerror or error}") from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise InputError(f"{file}: not a text file; save the list as UTF-8") from None
    if _CONTROL.search(text):
        raise InputError(f"{file}: not a text file; a list is text in UTF-8")
    if "\ufeff" in text:
        # One at the start, and one before each list that was put behind another.
        text = re.sub(r"^\ufeff", "", text, flags=re.MULTILINE)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def split_fields(lines: Sequence[str], delimiter: str, quote: str = '"') -> Iterator[list[str]]:
    """The fields of lines, without the spaces around them unless these are in quotes.

    Raises:
        InputError: quotes that are not closed on their line; names the line by its position as its first argument.
    """
    for number, line in enumerate(lines):
        if quote not in line:
            yield [field.strip() for field in line.split(delimiter)]
            continue
        # Spaces between a closing quote and the next field mean nothing.
        closed = re.sub(rf"{quote}\s+(?={re.escape(delimiter)}|$)", quote, line.lstrip(" "))
        try:
            (fields,) = csv.reader([closed], delimiter=delimiter, quotechar=quote, skipinitialspace=True, strict=True)
        except csv.Error:
            # A quote inside of an unquoted name is a part of it.
            if re.match(rf"\s*{quote}", line) or re.search(rf"{re.escape(delimiter)}\s*{quote}", line):
                raise UnclosedQuoteError(number) from None
            fields = line.split(delimiter)
        yield [field if _is_quoted(line, field, quote) else field.strip() for field in fields]


class UnclosedQuoteError(ValueError):
    """Quotes that are not closed on their line; `args[0]` is its position."""


def declared_delimiter(line: str) -> str:
    """The delimiter that a first line such as `sep=;` declares, which spreadsheets write and read; else nothing."""
    return line[4] if line[:4].lower() == "sep=" and len(line.strip()) == 5 else ""


def read_fields(path: Path, empty: str) -> tuple[str, list[tuple[int, list[str]]]]:
    """Read a table as spreadsheets write it: delimited by tabs, semicolons or commas, whichever its first line has.

    Args:
        path: the file.
        empty: what to say of a file without a line.

    Returns:
        The delimiter, and of each line that is more than delimiters its number, from 1, and its fields.

    Raises:
        InputError: naming file and line of what cannot be read.
    """
    lines = read_text(path).split("\n")
    delimiter = declared_delimiter(lines[0])
    first = 1 if delimiter else 0
    filled = [at for at, line in enumerate(lines) if at >= first and line.strip(" " + _DELIMITERS + delimiter)]
    if not filled:
        raise InputError(f"{shown(path)}: {empty}")
    delimiter = delimiter or next((mark for mark in _DELIMITERS if mark in lines[filled[0]]), ",")
    try:
        fields = list(split_fields([lines[at] for at in filled], delimiter))
    except UnclosedQuoteError as error:
        raise InputError(f"{shown(path)}:{filled[error.args[0]] + 1}: quotes are not closed on this line") from None
    # Nothing but quotes is nothing.
    return delimiter, [(at + 1, row) for at, row in zip(filled, fields, strict=True) if any(row) or at == filled[0]]


def likeness(name: str, path: str | Path) -> int:
    """How well a name in a list fits a path, as it was given or from the root on: how many parts the name has that are
    the path's last ones, twice; one less for a name without its suffix; 0 where it does not fit."""
    parts = PurePath(name).parts
    return max(
        (2 * len(parts) - bare for ends, bare in _ends(path) if parts and parts == ends[-len(parts) :]), default=0
    )


def unfitting(names: Sequence[str], paths: Sequence[str | Path]) -> list[str]:
    """The names in a list that fit none of the paths, by `likeness`."""
    fitting = {ends[at:] for path in paths for ends, _ in _ends(path) for at in range(len(ends))}
    return [name for name in names if PurePath(name).parts not in fitting]


def column_name(field: str) -> str:
    """The name of a column, however it is written: 'Video Name', 'video-name' and 'videoName' are one name."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field.strip())
    return re.sub(r"[\s-]+", "_", words).lower()


def unquote(name: str) -> str:
    """A name without the pair of quotes around it."""
    for quote in "\"'":
        if len(name) > 1 and name[0] == name[-1] == quote:
            return name[1:-1].replace(quote * 2, quote)
    return name


def _ends(path: str | Path) -> list[tuple[tuple[str, ...], bool]]:
    """The parts of a path, as it is and from the root on, each with its suffix and without."""
    found = []
    for whole in (PurePath(path), PurePath(os.path.abspath(path))):
        found += [(whole.parts, False), ((*whole.parts[:-1], whole.stem), True)]
    return found


def _is_quoted(line: str, field: str, quote: str) -> bool:
    return field != field.strip() and quote + field.replace(quote, quote * 2) + quote in line
