"""Evaluation protocols of public data sets: which clip is in which fold, and its label.

Every function gives rows `(path, label)` with labels from 0 in the order of `CLASSES` and paths relative to `root`;
`write_protocol` writes them as annotation files. Splits that a data set ships are read from its own files; for the
others, subject-independent folds follow from the file names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maedfer.data.annotations import write_annotations
from maedfer.errors import InputError, unknown

Rows = list[tuple[str, int]]

CLASSES: dict[str, tuple[str, ...]] = {
    "dfew": ("happy", "sad", "neutral", "anger", "surprise", "disgust", "fear"),
    "ferv39k": ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"),
    "mafw": (
        "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety",
        "helplessness", "disappointment",
    ),
    "crema_d": ("anger", "disgust", "fear", "happy", "neutral", "sad"),
    "ravdess": ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
    "enterface05": ("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
}  # fmt: skip

# First and last subject of every fold.
SUBJECTS: dict[str, tuple[tuple[int, int], ...]] = {
    "crema_d": ((1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091)),
    "ravdess": ((1, 4), (5, 8), (9, 12), (13, 16), (17, 20), (21, 24)),
    "enterface05": ((1, 10), (11, 19), (20, 28), (29, 37), (38, 44)),
}
_CODES = {
    "crema_d": {"ANG": 0, "DIS": 1, "FEA": 2, "HAP": 3, "NEU": 4, "SAD": 5},
    "enterface05": {"an": 0, "di": 1, "fe": 2, "ha": 3, "sa": 4, "su": 5},
}
# eNTERFACE05's subject 6 is one recording that was never cut into sentences.
_LEFT_OUT = {6}
_VIDEO_SUFFIXES = (".mp4", ".avi", ".flv", ".mov", ".mpg", ".mkv", ".webm")


@dataclass(frozen=True)
class Acted:
    """A clip of a data set whose file names tell subject and expression."""

    path: str
    label: int
    subject: int


def parse_crema_d(path: str) -> Acted | None:
    """Read `1001_DFA_ANG_XX.flv`: actor, sentence, expression, intensity."""
    match = re.fullmatch(r"(\d{4})_\w{3}_([A-Z]{3})_\w{2}", Path(path).stem)
    if match is None or match[2] not in _CODES["crema_d"]:
        return None
    return Acted(path, _CODES["crema_d"][match[2]], int(match[1]))


def parse_ravdess(path: str) -> Acted | None:
    """Read `02-01-06-01-02-01-12.mp4`; only speech (second field 01) with a picture (first field 01 or 02)."""
    fields = Path(path).stem.split("-")
    if len(fields) != 7 or not all(field.isdecimal() for field in fields):
        return None
    if fields[0] not in ("01", "02") or fields[1] != "01":
        return None
    label = int(fields[2]) - 1
    return Acted(path, label, int(fields[6])) if 0 <= label < len(CLASSES["ravdess"]) else None


def parse_enterface05(path: str) -> Acted | None:
    """Read `s1_an_1.avi`: subject, expression, sentence. A folder `subject 1` on the way overrules the file name."""
    match = re.fullmatch(r"s_?(\d+)_([a-z]{2})_?\d+\w*", Path(path).stem.lower())
    if match is None or match[2] not in _CODES["enterface05"]:
        return None
    folder = re.search(r"subject[ _]?(\d+)", str(Path(path).parent).lower())
    subject = int(folder[1] if folder else match[1])
    return None if subject in _LEFT_OUT else Acted(path, _CODES["enterface05"][match[2]], subject)


PARSERS: dict[str, Callable[[str], Acted | None]] = {
    "crema_d": parse_crema_d,
    "ravdess": parse_ravdess,
    "enterface05": parse_enterface05,
}


def subject_folds(dataset: str, paths: Iterable[str]) -> list[tuple[Rows, Rows]]:
    """Split the clips of crema_d, ravdess or enterface05 into subject-independent folds.

    Args:
        dataset: name of the data set.
        paths: files; those whose names are not of the data set's form (or, RAVDESS, not speech with picture) are
            left out, and so is the second of two files of one RAVDESS recording.

    Returns:
        (train, test) rows of each fold, sorted by path.

    Raises:
        InputError: unknown data set, no usable file, or a subject that is in no fold.
    """
    if dataset not in PARSERS:
        raise unknown("data set with subject folds", dataset, PARSERS)
    clips = [clip for path in sorted(paths) if (clip := PARSERS[dataset](path)) is not None]
    if dataset == "ravdess":
        # Each recording comes with sound (01-...) and without (02-...): the pictures are the same.
        clips = list({Path(clip.path).stem[2:]: clip for clip in reversed(clips)}.values())[::-1]
    if not clips:
        raise InputError(f"no file name is of the form that {dataset} has")
    groups = SUBJECTS[dataset]
    for clip in clips:
        if not any(first <= clip.subject <= last for first, last in groups):
            raise InputError(f"{clip.path}: subject {clip.subject} is in no fold of {dataset}")
    folds = []
    for first, last in groups:
        train = [(clip.path, clip.label) for clip in clips if not first <= clip.subject <= last]
        test = [(clip.path, clip.label) for clip in clips if first <= clip.subject <= last]
        folds.append((train, test))
    return folds


def dfew_fold(root: str | Path, fold: int, frames: str = "jpg_256") -> tuple[Rows, Rows]:
    """Read fold 1 to 5 of DFEW's single-labelled clips: `video_name,label` with labels 1 to 7 and clips by number.

    Args:
        root: folder that holds `EmoLabel_DataSplit`.
        fold: 1 to 5.
        frames: folder, in `root`, of the frame folders named by five digits ("jpg_256", "jpg_224", "Clip/jpg_256").
    """
    splits = []
    for part in ("train", "test"):
        file = Path(root) / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / f"set_{fold}.csv"
        rows: Rows = []
        for line, fields in _fields(file, ","):
            if line == 1 and not fields[0].isdecimal():
                continue
            if len(fields) != 2 or not fields[0].isdecimal() or fields[1] not in tuple("1234567"):
                raise InputError(f"{file}:{line}: not 'number,label' with a label from 1 to 7: {','.join(fields)!r}")
            rows.append((f"{frames}/{int(fields[0]):05d}", int(fields[1]) - 1))
        splits.append(rows)
    return splits[0], splits[1]


def ferv39k_split(root: str | Path, frames: str = "2_ClipsforFaceCrop") -> tuple[Rows, Rows]:
    """Read FERV39k's train and test lists of all scenes: `Action/Happy/0267 Happy`."""
    classes = {name: label for label, name in enumerate(CLASSES["ferv39k"])}
    folder = Path(root) / "4_setups" / "All_scenes"
    train, test = (
        _named(folder / f"{part}_All.csv", classes, lambda name: f"{frames}/{name}") for part in ("train", "test")
    )
    return train, test


def mafw_fold(root: str | Path, fold: int, frames: str = "data/frames") -> tuple[Rows, Rows]:
    """Read fold 1 to 5 of MAFW's single-labelled clips: `00001.mp4 anger`, frames in a folder without the suffix."""
    classes = {name: label for label, name in enumerate(CLASSES["mafw"])}
    folder = Path(root) / "split" / "single" / "no_caption" / f"set_{fold}"
    train, test = (
        _named(folder / f"{part}.txt", classes, lambda name: f"{frames}/{name.split('.')[0]}")
        for part in ("train", "test")
    )
    return train, test


def protocol_folds(dataset: str, root: str | Path) -> list[tuple[Rows, Rows]]:
    """Give (train, test) rows of every fold of a data set found in `root`; one "fold" for FERV39k."""
    root = Path(root)
    if dataset == "dfew":
        frames = next((name for name in ("jpg_256", "Clip/jpg_256", "jpg_224") if (root / name).is_dir()), "jpg_256")
        return [dfew_fold(root, fold, frames) for fold in range(1, 6)]
    if dataset == "mafw":
        return [mafw_fold(root, fold) for fold in range(1, 6)]
    if dataset == "ferv39k":
        return [ferv39k_split(root)]
    if dataset not in CLASSES:
        raise unknown("data set", dataset, CLASSES)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    # Frame folders carry the names that videos have.
    paths = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in _VIDEO_SUFFIXES or (not path.suffix and path.is_dir())
    ]
    return subject_folds(dataset, paths)


def write_protocol(dataset: str, root: str | Path, out: str | Path) -> list[Path]:
    """Write the annotation files of a data set.

    Args:
        dataset: a key of `CLASSES`.
        root: the data set's folder; give it as `data.root` when using the files.
        out: folder for `fold_1/train.csv`, `fold_1/test.csv`, ... and `classes.txt`.

    Returns:
        The folders of the folds.
    """
    out = Path(out)
    folders = []
    for number, (train, test) in enumerate(protocol_folds(dataset, root), 1):
        folder = out / f"fold_{number}"
        write_annotations(folder / "train.csv", train)
        write_annotations(folder / "test.csv", test)
        folders.append(folder)
    (out / "classes.txt").write_text("\n".join(CLASSES[dataset]) + "\n", encoding="utf-8")
    return folders


def _fields(file: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    if not file.is_file():
        raise InputError(f"{file}: no such split file; give the folder that the data set was unpacked to")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.reader(lines, delimiter=delimiter)
        return [(number, [field.strip() for field in row]) for number, row in enumerate(rows, 1) if row]


def _named(file: Path, classes: dict[str, int], place: Callable[[str], str]) -> Rows:
    """Read lines `clip class-name`."""
    rows: Rows = []
    for line, fields in _fields(file, " "):
        fields = _without_empty(fields)
        if len(fields) != 2 or fields[1].lower() not in classes:
            raise InputError(f"{file}:{line}: not 'clip class', with a class out of {', '.join(classes)}")
        rows.append((place(fields[0]), classes[fields[1].lower()]))
    return rows


def _without_empty(fields: Sequence[str]) -> list[str]:
    return [field for field in fields if field]
