"""Where paths and labels are in the lines of an annotation file.

A header says it. Without one, the list as a whole does: every way to read it that fits all lines is a reading. Where
there are several, those whose paths exist count; where none exist, the first one in this order: columns before free
text, a number of frames or of a line before a part of the path. Nothing is looked for on disk where there is only one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from maedfer.data.column_names import KNOWN, LABELS, PATHS, PIECES, SPLITS, SUBJECTS
from maedfer.data.labels import LabelReader
from maedfer.data.list_text import (
    UnclosedQuoteError,
    column_name,
    declared_delimiter,
    read_text,
    split_fields,
    unquote,
)
from maedfer.errors import InputError

_DELIMITERS = "\t;,"
# Lines that are looked for on disk, evenly spread.
_SAMPLE = 64

_COUNT = re.compile(r"[0-9]{1,9}")
_LAST = re.compile(r"(?:\s*[,;\t]\s*|\s+)([^\s,;]*)$")
_FILE_AND_LABEL = re.compile(r"\.[A-Za-z0-9]{2,4}[\"']?(?:\s+|\s*[,;]\s*)[\"']?[+-]?[0-9]+[\"']?$")


class Columns(NamedTuple):
    """What a list says.

    Args:
        lines: number of the line of each clip, from 1.
        names: its path as the list has it.
        labels: its label as the list has it; None where the list has no labels.
        subjects: who is in it, "" where that is not known; None where the list has no column of it.
    """

    lines: Sequence[int]
    names: list[str]
    labels: list[str] | None
    subjects: list[str] | None = None


class Reading(NamedTuple):
    """A way to read a list.

    Args:
        words: the form of its lines.
        cut: gives the names and the labels of some lines, given by position.
        labelled: whether it finds labels.
        subjects: who is in the clip of every line, where a column says it.
    """

    words: str
    cut: Callable[[Sequence[int]], tuple[list[str], list[str]]]
    labelled: bool = True
    subjects: list[str] | None = None


def read_columns(file: Path, base: Path, labels: LabelReader, frame_counts: bool | None = None) -> Columns:
    """Read the paths and the labels of an annotation file as they stand there.

    Args:
        file: the annotation file.
        base: folder that relative paths start from.
        labels: says which fields have the form of a label, and whether there must be one.
        frame_counts: whether lines have a number of frames before the label; None = find out.

    Raises:
        InputError: naming file and line of what cannot be read, or the readings that there are.
    """
    return _List(file, base, labels, frame_counts).columns()


def existing(base: Path, name: str) -> bool:
    """Whether a path of a list is there; one that the system refuses to look for is not."""
    return os.path.exists(os.path.join(base, os.path.expanduser(name))) or os.path.exists(os.path.join(base, name))


class _List:
    """The lines of a list while it is found out how to read them."""

    def __init__(self, file: Path, base: Path, labels: LabelReader, frame_counts: bool | None) -> None:
        self.file, self.base, self.labels, self.frame_counts = file, base, labels, frame_counts
        text = read_text(file)
        every = text.split("\n")
        self.separated = any(mark in text for mark in " \t,;\u00a0\u3000")
        self.delimiter = declared_delimiter(every[0])
        if self.delimiter:
            every[0] = ""
        hashes = "#" in text
        kept = [
            number
            for number, line in enumerate(every, 1)
            if line and not line.isspace() and not (hashes and self._is_comment(line))
        ]
        # Numbers of the lines are a range in most lists.
        whole = len(kept) == len(every) or (kept and kept[-1] - kept[0] + 1 == len(kept))
        self.numbers: Sequence[int] = range(kept[0], kept[-1] + 1) if kept and whole else kept
        self.lines = every[kept[0] - 1 : kept[-1]] if kept and whole else [every[number - 1] for number in kept]

    def columns(self) -> Columns:
        """Choose a reading."""
        if not self.lines:
            raise InputError(f"{self.file}: the annotation file lists no clips")
        try:
            header = self._header()
            reading = self._by_header(*header) if header else self._settle(self._readings())
            names, labels = reading.cut(range(len(self.lines)))
        except UnclosedQuoteError as error:
            raise self._error(
                error.args[0], "quotes must enclose a whole field, on one line; write quotes of a name twice"
            ) from None
        return Columns(self.numbers, names, labels if reading.labelled else None, reading.subjects)

    def _error(self, position: int, sentence: str) -> InputError:
        return InputError(f"{self.file}:{self.numbers[position]}: {sentence}")

    def _is_comment(self, line: str) -> bool:
        # The clip '#1.mp4' is no comment if it is there.
        line = line.strip()
        return line[0] == "#" and not any(existing(self.base, name) for name in (line, _cut(line)[0]) if name)

    # A header

    def _header(self) -> tuple[list[str], str] | None:
        """The names of the columns and what is between them, where the first line is a header; takes that off."""
        first = self.lines[0]
        delimiter = self.delimiter or next((mark for mark in _DELIMITERS if mark in first), " ")
        quote = "'" if first.lstrip().startswith("'") else '"'
        if delimiter == " ":
            fields = [unquote(field) for field in first.split()]
        else:
            (fields,) = split_fields([first], delimiter, quote)
        names = [column_name(field) for field in fields]
        while names and not names[-1]:
            names.pop()
        if not self._is_header(names, delimiter):
            return None
        if len(self.lines) == 1:
            raise InputError(f"{self.file}: the annotation file lists no clips")
        if first in self.lines[1:]:
            again = self.lines.index(first, 1)
            raise self._error(again, "the header stands here again: a list has one, as its first line")
        self.quote = quote
        self.lines = self.lines[1:]
        self.numbers = self.numbers[1:]
        return names, delimiter

    def _is_header(self, names: list[str], delimiter: str) -> bool:
        path = any(name in PATHS for name in names)
        label = any(name in LABELS for name in names)
        if not path and not label:
            return False
        if path and all(name in KNOWN for name in names):
            return label or not self._is_clip()
        if len(names) == 1:
            return False
        # A column of another name: that no field is a label shows that the line is a header.
        rest = [name for name in names if name not in PATHS]
        if delimiter == " " or any(map(self.labels.fits, rest)):
            return False
        # 'video,hapy' is no header where there is a clip of that name.
        return label or (len(names) == 2 and not any(existing(self.base, name) for name in names if name in PATHS))

    def _is_clip(self) -> bool:
        # A first line 'video' where there is such a file or folder.
        name = unquote(self.lines[0].strip())
        place = os.path.join(self.base, name)
        if not os.path.isdir(place):
            return os.path.exists(place)
        if any(line.lstrip("\"' ").startswith((f"{name}/", f"./{name}/")) for line in self.lines[1:]):
            return False
        raise self._error(
            0, f"{name!r} may be a header or the folder of that name: write './{name}' for the clip, or take it off"
        )

    def _by_header(self, names: list[str], delimiter: str) -> Reading:
        path, label = _first(names, PATHS), _first(names, LABELS)
        unknown = [place for place, name in enumerate(names) if name not in KNOWN]
        if path is None:
            path = unknown[0] if len(unknown) == 1 else None
        elif label is None and len(names) == 2 and len(unknown) == 1:
            label = unknown[0]
        if path is None:
            raise InputError(f"{self.file}: no column is named 'path' in its header {_shown(names, delimiter)}")
        if label is None and self.labels.labelled:
            raise InputError(f"{self.file}: no column is named 'label' in its header {_shown(names, delimiter)}")
        pieces = [name for name in names if name in PIECES]
        if pieces:
            raise InputError(
                f"{self.file}: column {pieces[0]!r} of its header speaks of pieces of clips, but clips are read whole: "
                "cut them, and take the column off"
            )
        rows = self._rows(names, delimiter, path)
        for place in (place for place, name in enumerate(names) if name in SPLITS):
            found = list(dict.fromkeys(row[place] for row in rows))
            if len(found) > 1:
                raise InputError(
                    f"{self.file}: column {names[place]!r} divides the list into {', '.join(found[:3])}"
                    f"{', ...' if len(found) > 3 else ''}: write one list for each, without the column"
                )
        cut_path, cut_label = path, label

        def cut(positions: Sequence[int]) -> tuple[list[str], list[str]]:
            chosen = [rows[position] for position in positions]
            return [row[cut_path] for row in chosen], [] if cut_label is None else [row[cut_label] for row in chosen]

        subject, subjects = _first(names, SUBJECTS), None
        if subject is not None:
            texts = [row[subject].strip() for row in rows]
            subjects = ["" if self.labels.is_nothing(text) else text for text in texts]
        return Reading(_shown(names, delimiter), cut, label is not None, subjects)

    def _rows(self, names: list[str], delimiter: str, path: int) -> list[list[str]]:
        """The fields of all lines below a header."""
        count = len(names)
        if count == 1:
            return [[unquote(line.strip())] for line in self.lines]
        if delimiter != " " and any(delimiter in line for line in self.lines):
            rows = list(split_fields(self.lines, delimiter, self.quote))
        elif path == 0:
            # Fields are taken off from the right: a path may hold spaces.
            rows = [[unquote(field) for field in _cuts(line, count - 1)] for line in self.lines]
        else:
            rows = []
            for line in self.lines:
                left = line.split(None, path)
                fields = [*left[:-1], *left[-1].rsplit(None, count - 1 - path)]
                rows.append([unquote(field) for field in fields])
        for position, row in enumerate(rows):
            while len(row) > count and not row[-1]:
                row.pop()
            if len(row) > count and path == 0 and '"' not in self.lines[position]:
                # Commas of a path without quotes.
                row[: len(row) - count + 1] = [self.lines[position].rsplit(delimiter, count - 1)[0].strip()]
            if len(row) == count - 1 and self.labels.labelled is False:
                row.append("")
            if len(row) != count:
                found = f"{len(row)} field{'s' * (len(row) != 1)}"
                lack = f"no {names[len(row)]}" if len(row) < count else "too many fields"
                header = f"the header {_shown(names, delimiter)} names {count}"
                raise self._error(position, f"the line has {lack}: it has {found}, and {header}")
        return rows

    # No header

    def _readings(self) -> list[Reading]:
        """All readings that fit every line, the ones to be preferred first."""
        found = []
        if self.separated:
            table = self._table()
            if table is not None:
                found = self._of_table(*table)
            elif self.labels.labelled or self._ends_in_labels():
                found = self._of_text()
        if not self.labels.labelled:
            self._refuse_mixture(found)
            whole = Reading("path", self._whole, labelled=False)
            if found and self._told_apart_by_labels(found[-1]):
                found.insert(0, whole)
            else:
                found.append(whole)
        return found or [Reading("path label", self._last_field)]

    def _table(self) -> tuple[str, list[list[str]]] | None:
        """Lines that a delimiter cuts into the same number of fields, the last one a label."""
        for delimiter in self.delimiter or _DELIMITERS:
            if not all(delimiter in line for line in self.lines):
                continue
            rows = list(split_fields(self.lines, delimiter))
            count = max(map(len, rows))
            while count > 2 and not any(len(row) == count and row[-1] for row in rows):
                rows = [row[: count - 1] for row in rows]
                count -= 1
            if any(len(row) != count for row in rows):
                continue
            last = {row[-1] for row in rows}
            fits = sum(self.labels.fits(text) for text in last)
            if fits == len(last) or (fits and self.labels.labelled is False and self._nothing_else(last)):
                return delimiter, rows
            if not self.labels.labelled and len(last) < len(rows) and all(re.search(r"\.\w+$", row[0]) for row in rows):
                # Names of classes which nobody asked for.
                return delimiter, rows
        return None

    def _nothing_else(self, texts: Iterable[str]) -> bool:
        return all(self.labels.fits(text) or self.labels.is_nothing(text) for text in texts)

    def _of_table(self, delimiter: str, rows: list[list[str]]) -> list[Reading]:
        count = len(rows[0])
        mark = {"\t": "<tab>"}.get(delimiter, delimiter)

        def reading(words: str, take: Callable[[list[str]], str]) -> Reading:
            def cut(positions: Sequence[int]) -> tuple[list[str], list[str]]:
                chosen = [rows[position] for position in positions]
                return [unquote(take(row)) for row in chosen], [row[-1] for row in chosen]

            return Reading(words.replace(" ", mark), cut)

        if count == 2:
            return [reading("path label", lambda row: row[0])]
        if self.frame_counts:
            return [reading("path frames label", lambda row: delimiter.join(row[:-2]))]
        found = []
        counts = self.frame_counts is None and all(_COUNT.fullmatch(row[-2]) for row in rows)
        start = rows[0][0]
        if start in ("0", "1") and all(row[0] == str(number) for number, row in enumerate(rows, int(start))):
            if count == 3:
                found.append(reading("index path label", lambda row: row[1]))
            elif count == 4 and counts:
                found.append(reading("index path frames label", lambda row: row[1]))
        if counts and count == 3:
            found.append(reading("path frames label", lambda row: row[0]))
        if len(found) == 2 and not any(_has_suffix(row[0]) or _has_suffix(row[1]) for row in rows[:_SAMPLE]):
            # Numbers alone: only the disk can tell.
            found.append(Reading("", lambda positions: ([], [])))
        found.append(reading("path label", lambda row: delimiter.join(row[:-1])))
        if not counts and count == 3:
            found.append(reading("path class label", lambda row: row[0]))
        return found

    def _ends_in_labels(self) -> bool:
        return all(name and self.labels.fits(label) for name, label in map(_cut, self.lines))

    def _of_text(self) -> list[Reading]:
        """Readings of lines whose fields are split off from the right."""
        plain = Reading("path label", self._last_field)
        counted = Reading("path frames label", self._counted)
        if self.frame_counts is not None:
            return [counted if self.frame_counts else plain]
        if not all(name and _COUNT.fullmatch(count) for name, count in (_cut(_cut(line)[0]) for line in self.lines)):
            return [plain]
        names = self._last_field(range(len(self.lines)))[0]
        cuts = [_cut(name) for name in names]
        # Numbers which alone tell the paths apart belong to them.
        repeats = len({name for name, _ in cuts}) < len(set(names)) == len(names)
        return [plain, counted] if repeats else [counted, plain]

    def _told_apart_by_labels(self, reading: Reading) -> bool:
        # 'take 1', 'take 2' and 'take 3' are three clips rather than one with three labels.
        names = reading.cut(range(len(self.lines)))[0]
        return len(set(names)) < len(set(self.lines)) == len(self.lines)

    def _last_field(self, positions: Sequence[int]) -> tuple[list[str], list[str]]:
        cut = [_cut(self.lines[position]) for position in positions]
        return [unquote(name) for name, _ in cut], [unquote(label) for _, label in cut]

    def _counted(self, positions: Sequence[int]) -> tuple[list[str], list[str]]:
        cut = [_cut(self.lines[position]) for position in positions]
        return [unquote(_cut(name)[0]) for name, _ in cut], [unquote(label) for _, label in cut]

    def _whole(self, positions: Sequence[int]) -> tuple[list[str], list[str]]:
        names = []
        for position in positions:
            line = self.lines[position]
            name = line.strip()
            if name != line and existing(self.base, line):
                # Spaces at the end of a name are a part of it if it is there.
                name = line
            if name[0] in "\"'" and not existing(self.base, name):
                name = unquote(name)
            names.append(name)
        return names, []

    def _refuse_mixture(self, readings: list[Reading]) -> None:
        """Lists for pre-training have labels on all lines or on none."""
        if readings or not self.separated:
            return
        for position, line in enumerate(self.lines):
            if _FILE_AND_LABEL.search(line) and not existing(self.base, unquote(line.strip())):
                other = next(
                    number for number, text in enumerate(self.lines) if not self.labels.fits(unquote(_cut(text)[1]))
                )
                raise self._error(other, f"the line has no label, but line {self.numbers[position]} has one")

    def _settle(self, readings: list[Reading]) -> Reading:
        """The reading whose paths exist, or else the first."""
        if len(readings) == 1:
            return readings[0]
        count = min(len(self.lines), _SAMPLE)
        sample = [number * len(self.lines) // count for number in range(count)]
        there = [
            reading
            for reading in readings
            if any(name and existing(self.base, name) for name in reading.cut(sample)[0])
        ]
        names = {tuple(reading.cut(sample)[0]) for reading in there}
        if len(names) > 1 or (not there and any(not reading.words for reading in readings)):
            words = " or ".join(repr(reading.words) for reading in (there or readings) if reading.words)
            example = "path,label" if self.labels.labelled else "path"
            raise self._error(
                0,
                f"the lines may mean {words}{', and both exist' if there else ''}: write a header, such as "
                f"'{example}', as the first line",
            )
        return there[0] if there else readings[0]


def _cut(line: str) -> tuple[str, str]:
    """Take the last field off: (what is before it, the field); the second is empty where there is only one."""
    line = line.strip()
    parts = line.rsplit(None, 1)
    if len(parts) == 2 and not any(mark in parts[1] or parts[0].endswith(mark) for mark in ",;"):
        return parts[0], parts[1]
    match = _LAST.search(line)
    return (line[: match.start()], match[1]) if match else (line, "")


def _cuts(line: str, count: int) -> list[str]:
    """Take `count` fields off: what is before them, and each of them; fewer where there are not so many."""
    fields: list[str] = []
    for _ in range(count):
        before, field = _cut(line)
        if before == line.strip():
            break
        line = before
        fields.insert(0, field)
    return [line, *fields]


def _first(names: list[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _has_suffix(name: str) -> bool:
    return re.search(r"[/.][A-Za-z]", name) is not None


def _shown(names: list[str], delimiter: str) -> str:
    return repr(delimiter.join(names))
