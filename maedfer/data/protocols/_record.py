"""What is known of a data set's evaluation protocol, as one record, and what the modules share to read splits."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from maedfer._values import expand_home
from maedfer.data.annotations import VIDEO_SUFFIXES
from maedfer.data.video.base import PICTURE_SUFFIXES
from maedfer.errors import InputError, some

# Path relative to the data set's folder, and label from 0.
Rows = list[tuple[str, int]]
# Takes a sentence for people.
Tell = Callable[[str], None]
# How OpenFace calls the folder of a recording's aligned faces.
_ALIGNED = "_aligned"


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
        read: gives the folds of the data set in a folder that exists, and tells what was left out.
        folds: number of folds.
        clips: number of clips in all folds together, as published.
        test_clips: number of test clips of the first fold, as published.
        parse: reads the name of a clip, where names tell all of it.
        subjects: all there are, in the same case.
        faces: it comes with faces that were cut out, a folder of frames a clip, and not as whole recordings alone.
        clip_parts: how many of the last parts of a clip's path tell it from the others.
        frame_size: height and width of these frames, where all have one size.
    """

    title: str
    classes: tuple[str, ...]
    layout: str
    split: str
    read: Callable[[Path, Tell], list[Fold]]
    folds: int
    clips: int
    test_clips: int
    parse: Callable[[str], ActedClip | None] | None = None
    subjects: tuple[int, ...] = ()
    faces: bool = False
    clip_parts: int = 1
    frame_size: tuple[int, int] | None = None

    def subjects_of(self, paths: Iterable[str]) -> dict[str, str]:
        """Who is in clips, by path, where names tell it; else nobody."""
        clips = [] if self.parse is None else [self.parse(path) for path in paths]
        return {clip.path: str(clip.subject) for clip in clips if clip is not None}

    def folds_in(self, root: str | Path, tell: Tell = lambda sentence: None) -> list[Fold]:
        """Read the folds of the data set in `root`.

        Args:
            root: the data set's folder.
            tell: takes sentences on recordings that are there in several forms, and on clips that are listed twice.

        Raises:
            InputError: no such folder, a split file is missing or has a line of another form, no clip is named as the
                data set's are, or a subject is in no fold.
        """
        root = Path(expand_home(str(root)))
        if not os.path.isdir(root):
            raise InputError(f"{root}: no such folder; give the one that {self.title} was unpacked to")
        folds = self.read(root, tell)
        for number, fold in enumerate(folds, 1):
            for part, rows in (("training", fold.train), ("test", fold.test)):
                twice = [path for path, count in Counter(path for path, _ in rows).items() if count > 1]
                if twice:
                    tell(f"Fold {number} has {_several(twice, 'clip', 3)} more than once in its {part} part.")
            train = {path for path, _ in fold.train}
            both = [path for path, _ in fold.test if path in train]
            if both:
                tell(f"Fold {number} has {_several(both, 'clip', 3)} in both of its parts.")
        return folds


@dataclass(frozen=True)
class ActedClip:
    """A clip of a data set whose file names tell subject and expression.

    Args:
        path: relative to the data set's folder.
        label: from 0.
        subject: number of the person.
        recording: what is the same for all files and folders that hold the same pictures.
    """

    path: str
    label: int
    subject: int
    recording: str


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


def paths_below(root: Path, tell: Tell = lambda sentence: None) -> list[str]:
    """Every video file and every folder without a suffix, as a folder of frames is named, relative to `root`.

    Links to folders are followed. Hidden files and folders and what macOS puts beside are left out.

    Args:
        root: the data set's folder.
        tell: takes a sentence on every folder below it that cannot be looked into.

    Raises:
        InputError: the data set's folder itself cannot be looked into.
    """
    found, seen = [], set()

    def refuse(error: OSError) -> None:
        sentence = f"{error.filename} cannot be looked into: {error.strerror}"
        if Path(error.filename) == root:
            raise InputError(sentence)
        tell(f"{sentence}; what may be in it is left out.")

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        names = [name for name in folders if not Path(name).suffix]
        names += [name for name in files if name[0] != "." and Path(name).suffix.lower() in VIDEO_SUFFIXES]
        found += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return found


def recording_name(path: str) -> str:
    """The name of a recording, from that of its file or folder."""
    name = Path(path).name
    stem = Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
    return stem[: -len(_ALIGNED)] if stem.lower().endswith(_ALIGNED) else stem


def acted_clips(
    paths: Iterable[str],
    parse: Callable[[str], ActedClip | None],
    root: Path | None = None,
    tell: Tell = lambda sentence: None,
) -> list[ActedClip]:
    """Those of the paths that `parse` understands, sorted, and each recording once.

    Args:
        paths: of files and folders.
        parse: reads a path; None where it is none of the data set's.
        root: folder of the paths, where there is one: folders without pictures give way to files.
        tell: takes a sentence on recordings that are there in several forms.

    Returns:
        Of a recording that is there more than once: the folder of aligned faces, or else another folder of pictures,
        or else the file by its suffix, mp4 first; among equals the first by name.
    """
    forms: dict[str, list[ActedClip]] = {}
    for path in sorted(paths):
        clip = parse(path)
        if clip is not None:
            forms.setdefault(clip.recording, []).append(clip)
    chosen = {name: min(clips, key=lambda clip: _rank(clip, root, len(clips))) for name, clips in forms.items()}
    doubled = [name for name, clips in forms.items() if len(clips) > 1]
    if doubled:
        taken = chosen[doubled[0]].path
        other = next(clip.path for clip in forms[doubled[0]] if clip.path != taken)
        what = "recording is" if len(doubled) == 1 else "recordings are"
        tell(f"{len(doubled):,} {what} there more than once and listed once, the first as {taken} and not {other}.")
    files = sum(Path(clip.path).suffix.lower() in VIDEO_SUFFIXES for clip in chosen.values())
    if 0 < files < len(chosen):
        tell(
            f"{files:,} of the clips are video files and {len(chosen) - files:,} folders: see to it that the faces in "
            "them are cropped alike."
        )
    return sorted(chosen.values(), key=lambda clip: clip.path)


def _rank(clip: ActedClip, root: Path | None, forms: int) -> tuple[int, str]:
    path = Path(clip.path)
    if forms == 1:
        return 0, clip.path
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return 2 + VIDEO_SUFFIXES.index(path.suffix.lower()), clip.path
    if root is not None:
        with os.scandir(root / path) as entries:
            if not any(os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES for entry in entries):
                return 2 + len(VIDEO_SUFFIXES), clip.path
    return 0 if path.name.lower().endswith(_ALIGNED) else 1, clip.path


def odd_subjects(counts: Counter[int], subjects: Sequence[int]) -> list[str]:
    """Sentences on the subjects who have no clips, or not as many as most.

    Args:
        counts: number of clips of each subject.
        subjects: all there are.
    """
    if not counts:
        return []
    sentences = []
    absent = [str(subject) for subject in subjects if not counts[subject]]
    if absent:
        sentences.append(f"There is no clip of {_several(absent, 'subject')}.")
    # Of two numbers that are equally usual, the larger one: clips are rather missing than there too often.
    usual = max(Counter(counts.values()).items(), key=lambda item: (item[1], item[0]))[0]
    others = [f"{subject} ({count})" for subject, count in sorted(counts.items()) if count != usual]
    if others:
        sentences.append(f"There are {usual} clips of most subjects, but not of {_several(others, 'subject')}.")
    return sentences


def _several(names: Sequence[str], kind: str, most: int = 8) -> str:
    return f"{kind}{'s' * (len(names) > 1)} {some(names, most)}"


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
