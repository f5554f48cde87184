"""What is known of a data set's evaluation protocol, as one record, and what the modules share to read splits."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from maedfer.errors import InputError

# Path relative to the data set's folder, and label from 0.
Rows = list[tuple[str, int]]
_VIDEO_SUFFIXES = (".mp4", ".avi", ".flv", ".mov", ".mpg", ".mkv", ".webm")


class Fold(NamedTuple):
    """The clips of a fold."""

    train: Rows
    test: Rows


@dataclass(frozen=True, kw_only=True)
class DatasetProtocol:
    """How a data set is evaluated.

    Args:
        title: its name as its authors write it.
        classes: names in label order.
        layout: what is read below the data set's folder, in words.
        split: where the folds come from: "given", "by actor", ...
        read: gives the folds of the data set in a folder that exists.
        folds: number of folds.
        clips: number of clips in all folds together, as published.
        test_clips: number of test clips of the first fold, as published.
    """

    title: str
    classes: tuple[str, ...]
    layout: str
    split: str
    read: Callable[[Path], list[Fold]]
    folds: int
    clips: int
    test_clips: int

    def folds_in(self, root: str | Path) -> list[Fold]:
        """Read the folds of the data set in `root`.

        Raises:
            InputError: no such folder, a split file is missing or has a line of another form, no clip is named as the
                data set's are, or a subject is in no fold.
        """
        root = Path(root)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give the one that {self.title} was unpacked to")
        return self.read(root)


@dataclass(frozen=True)
class ActedClip:
    """A clip of a data set whose file names tell subject and expression."""

    path: str
    label: int
    subject: int


def split_lines(root: Path, file: str, delimiter: str) -> list[tuple[str, list[str]]]:
    """Read a split file that a data set ships.

    Args:
        root: the data set's folder.
        file: below it.
        delimiter: between fields; empty fields are left out.

    Returns:
        `file:line` for error messages, and the fields, of every line that has any.

    Raises:
        InputError: there is no such file (names the folder that was meant, where it is one level up or down), it is
            empty, or it is not text.
    """
    path = root / file
    if not path.is_file():
        places = (root.resolve().parent, *sorted(root.iterdir()))
        near = next((place for place in places if (place / file).is_file()), None)
        hint = f"; did you mean {near}?" if near else "; give the folder that the data set was unpacked to"
        raise InputError(f"{path}: no such split file{hint}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(enumerate(csv.reader(lines, delimiter=delimiter), 1))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not a text file with a line a clip") from None
    fields = ((f"{path}:{number}", [field.strip() for field in row if field.strip()]) for number, row in rows)
    found = [(where, row) for where, row in fields if row]
    if not found:
        raise InputError(f"{path}: the split file is empty; unpack the data set again")
    return found


def named_rows(root: Path, file: str, classes: Sequence[str], place: Callable[[str], str]) -> Rows:
    """Read a split file of lines `clip class-name`.

    Args:
        root, file: as in `split_lines`.
        classes: names in label order.
        place: gives the path of a clip, relative to `root`, from its name in the file.

    Raises:
        InputError: as `split_lines`, or another line.
    """
    labels = {name: label for label, name in enumerate(classes)}
    rows: Rows = []
    for where, fields in split_lines(root, file, " "):
        if len(fields) != 2 or fields[1].lower() not in labels:
            raise InputError(f"{where}: not 'clip class', with a class out of {', '.join(classes)}")
        rows.append((place(fields[0]), labels[fields[1].lower()]))
    return rows


def paths_below(root: Path) -> list[str]:
    """Every video file and every folder without a suffix, as a folder of frames is named, relative to `root`."""
    return [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in _VIDEO_SUFFIXES or (not path.suffix and path.is_dir())
    ]


def acted_clips(paths: Iterable[str], parse: Callable[[str], ActedClip | None]) -> list[ActedClip]:
    """Those of the paths that `parse` understands, sorted."""
    return [clip for path in sorted(paths) if (clip := parse(path)) is not None]


def subject_folds(clips: Sequence[ActedClip], subjects: Sequence[tuple[int, int]], title: str) -> list[Fold]:
    """Split clips into folds that share no subject.

    Args:
        clips: of the whole data set.
        subjects: first and last subject in the test part of every fold.
        title: name of the data set, for error messages.

    Raises:
        InputError: no clips, or a subject that is in no fold.
    """
    if not clips:
        raise InputError(f"no file name is of the form that {title} has; give the folder that holds its clips")
    for clip in clips:
        if not any(first <= clip.subject <= last for first, last in subjects):
            raise InputError(f"{clip.path}: subject {clip.subject} is in no fold of {title}")
    return [
        Fold(
            train=[(clip.path, clip.label) for clip in clips if not first <= clip.subject <= last],
            test=[(clip.path, clip.label) for clip in clips if first <= clip.subject <= last],
        )
        for first, last in subjects
    ]
