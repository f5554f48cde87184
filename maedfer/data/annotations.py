"""Annotation files: one clip a line, `path label`, as the community writes them.

Fields are separated by spaces, tabs or commas and split off from the right, so that a path may hold spaces. Blank
lines, lines that start with `#` and one header line (`path label`, `video_name,label`) are skipped. A path is a video
file or a folder of frames, relative to `root` or else to the annotation file's own folder.

Lists in VideoMAE's style have three fields, `path frames label`. A file counts as one where every line has a whole
number before its label; the number of frames is then ignored, as readers count for themselves. Pre-training lists may
have no labels at all: a file counts as labelled where every line ends in a whole number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from maedfer.errors import InputError

_LAST_FIELD = re.compile(r"^(.*?)(?:[ \t]*[,\t][ \t]*| +)([^ \t,]*)$")
_WHOLE = re.compile(r"^[+-]?\d+$")
_HEADER = {
    "path", "video", "video_name", "video_path", "file", "filename", "file_name", "name", "clip", "id",
    "label", "labels", "class", "emotion", "frames", "num_frames", "total_frames",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of an annotation file.

    Args:
        path: video file or folder of frames.
        label: class number from 0, or None.
        line: line number in the file, from 1.
        name: the path as the file gives it.
        source: the annotation file.
    """

    path: Path
    label: int | None
    line: int
    name: str
    source: str = ""

    @property
    def where(self) -> str:
        """`file:line`, for error messages."""
        return f"{self.source or 'clip'}:{self.line}"


def read_annotations(
    file: str | Path,
    root: str | Path | None = None,
    num_classes: int | None = None,
    labelled: bool = True,
    label_offset: int = 0,
    frame_counts: bool | None = None,
) -> list[Clip]:
    """Read an annotation file; see the module's head for the format.

    Args:
        file: the annotation file.
        root: folder that relative paths start from; None or "" = the file's folder.
        num_classes: labels must be below it (after the offset); None = no upper limit.
        labelled: whether every line must have a label; if not, labels are optional and negative ones mean "none".
        label_offset: the first class's number in the file (1 in DFEW); clips have labels from 0.
        frame_counts: whether lines have a number of frames before the label; None = find out.

    Raises:
        InputError: file missing or without clips, line without label, label not a whole number or out of range.
    """
    file = Path(file)
    rows = _rows(file)
    split = [_split(text) for _, text in rows]
    has_label = labelled or all(_WHOLE.match(last) and path for path, last in split)
    if has_label and frame_counts is None:
        frame_counts = all(_WHOLE.match(last) and _WHOLE.match(_split(path)[1]) for path, last in split)
    base = Path(root) if root else file.parent
    clips = []
    for (line, text), (name, last) in zip(rows, split, strict=True):
        label = None
        if not has_label:
            name = text
        else:
            label = _label(f"{file}:{line}", name, last, num_classes, labelled, label_offset)
            if frame_counts:
                name = _split(name)[0]
        name = name.strip().strip("\"'")
        if not name:
            raise InputError(f"{file}:{line}: the line has no path")
        clips.append(Clip(base / name, label, line, name, str(file)))
    return clips


def write_annotations(file: str | Path, rows: Iterable[tuple[str, int | None]]) -> None:
    """Write `path label` lines (only the path where the label is None), making the folder if need be."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [path if label is None else f"{path} {label}" for path, label in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_exists(clips: Iterable[Clip], show: int = 3) -> None:
    """Look for every clip on disk (its content is not read).

    Raises:
        InputError: some are missing; names how many, and the first few by file, line and path.
    """
    total, missing = 0, []
    for clip in clips:
        total += 1
        if not clip.path.exists():
            missing.append(f"{clip.where} {clip.path}")
    if missing:
        more = f" and {len(missing) - show} more" if len(missing) > show else ""
        raise InputError(
            f"{len(missing)} of {total} clips do not exist: {', '.join(missing[:show])}{more}; "
            "check the paths, or the folder they start from (data.root)"
        )


class ClipTable(Sequence[Clip]):
    """Many clips in a few arrays: a list of a million `Clip`s takes a gigabyte, again in every loader process.

    Args:
        clips: what to hold; `table[i]` gives an equal `Clip` back.
    """

    def __init__(self, clips: Iterable[Clip]) -> None:
        text, ends, numbers = bytearray(), [0], []
        sources: dict[str, int] = {}
        for clip in clips:
            path = os.fspath(clip.path)
            # Most paths end in the name: keep the part before it only.
            tail = path.endswith(clip.name)
            for part in (path[: len(path) - len(clip.name)] if tail else path, clip.name):
                text += part.encode("utf-8", "surrogateescape")
                ends.append(len(text))
            source = sources.setdefault(clip.source, len(sources))
            numbers.append((-1 if clip.label is None else clip.label, clip.line, source, tail))
        self._text = np.frombuffer(bytes(text), np.uint8)
        self._ends = np.array(ends, np.int64)
        self._numbers = np.array(numbers, np.int32).reshape(-1, 4)
        self._sources = list(sources)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        label, line, source, tail = self._numbers[index].tolist()
        start, middle, end = self._ends[2 * index : 2 * index + 3].tolist()
        before = self._text[start:middle].tobytes().decode("utf-8", "surrogateescape")
        name = self._text[middle:end].tobytes().decode("utf-8", "surrogateescape")
        path = Path(before + name if tail else before)
        return Clip(path, None if label < 0 else label, line, name, self._sources[source])

    @property
    def labels(self) -> np.ndarray:
        """Int32 [n] labels, -1 where there is none."""
        return self._numbers[:, 0]


class _Row(NamedTuple):
    line: int
    text: str


def _rows(file: Path) -> list[_Row]:
    """Lines with content, their header taken off."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{file}: no such annotation file") from None
    except IsADirectoryError:
        raise InputError(f"{file}: is a folder, not an annotation file") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not a text file in UTF-8") from None
    lines = (_Row(number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    rows = [row for row in lines if row.text and not row.text.startswith("#")]
    if rows and all(word.strip("\"'").lower() in _HEADER for word in re.split(r"[ \t,]+", rows[0].text)):
        del rows[0]
    if not rows:
        raise InputError(f"{file}: the annotation file lists no clips")
    return rows


def _split(text: str) -> tuple[str, str]:
    """Take the last field off: (what is before it, the field); the first is empty where there is only one."""
    match = _LAST_FIELD.match(text)
    return (match[1].rstrip(), match[2]) if match else ("", text)


def _label(where: str, path: str, text: str, num_classes: int | None, labelled: bool, offset: int) -> int | None:
    if not path or not text or (not _WHOLE.match(text) and ("/" in text or "." in text)):
        raise InputError(f"{where}: the line has no label; it must read 'path label'")
    if not _WHOLE.match(text):
        raise InputError(f"{where}: label {text!r} is not a whole number")
    label = int(text) - offset
    if not labelled:
        return label if label >= 0 else None
    if label < 0 or (num_classes is not None and label >= num_classes):
        allowed = f"{offset} or more" if num_classes is None else f"{offset} to {offset + num_classes - 1}"
        raise InputError(f"{where}: label {text} is out of range, allowed: {allowed}")
    return label
