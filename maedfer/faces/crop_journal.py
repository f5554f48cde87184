"""What was cropped so far: a line for each video in a file beside the crops, so that a run can be gone on with."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from maedfer.data.annotations import clip_key
from maedfer.data.inputs import Input
from maedfer.data.journal import Journal
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.faces.write_crops import CroppedFace

JOURNAL_FILE = "journal.jsonl"
# Names that `tempfile` makes of those of files, as in `maedfer._files.atomic_path`.
_LEFTOVER = re.compile(r"\..+\.[0-9a-z_]{8}\.tmp", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """What came of a video.

    Args:
        name: of its files.
        video: as it was given.
        key: the same for all ways to write its path.
        state: size and time of its last change, by which it is seen that it has changed.
        faces: that were written.
        failure: why there are none; "" where there are.
        final: whether trying again makes no difference.
    """

    name: str
    video: str
    key: str
    state: tuple[int, int]
    faces: tuple[CroppedFace, ...]
    failure: str
    final: bool


class CropJournal(Journal):
    """The journal of a folder of crops; use it as a context.

    Args:
        folder: made if need be.
        settings: what crops depend on; a folder holds crops of one kind.

    Raises:
        InputError: on entering: the folder holds something else or crops of another kind, another process writes to it,
            or it cannot be written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(
            folder / JOURNAL_FILE,
            settings,
            "settings",
            holds="crops",
            busy="is writing crops",
            about="crops",
            made="holds crops",
        )
        self._entries: dict[str, Entry] = {}
        # Files that were ever written, by the name of the video.
        self._files: dict[str, set[str]] = {}

    def _begin(self, file: BinaryIO) -> None:
        entries = self._lines(file, _entry)
        if entries is None:
            return
        self._entries = {entry.name: entry for entry in entries}
        for entry in entries:
            self._files.setdefault(entry.name, set()).update(face.file for face in entry.faces)
        _remove_leftovers(self.folder)

    def find(self, item: Input) -> Entry | None:
        """What is known of a video that need not be done again.

        Raises:
            InputError: the name stands for another video.
        """
        entry = self._entries.get(item.name)
        if entry is None:
            return None
        if entry.key != clip_key(item.path):
            raise InputError(
                f"{shown(self.folder)} holds crops of {shown(entry.video)} under the name {shown(item.name)!r}, which "
                f"{shown(item.path)} has as well: choose another folder, or give both in one command"
            )
        there = all((self.folder / face.file).exists() for face in entry.faces)
        return entry if entry.final and there and entry.state == _state(item.path) else None

    def add(self, item: Input, faces: Sequence[CroppedFace], failure: str, final: bool) -> None:
        """Note what came of a video; files of an earlier time that are not among those of `faces` are removed.

        Where the video could not be read, which may be its drive's fault, these stay.

        Raises:
            InputError: they cannot be removed, or nothing can be written.
        """
        files = {face.file for face in faces}
        if final:
            self._remove(self._files.pop(item.name, set()) - files, item.name if not faces else None)
        self._files.setdefault(item.name, set()).update(files)
        entry = Entry(item.name, str(item.path), clip_key(item.path), _state(item.path), tuple(faces), failure, final)
        self._write(dataclasses.asdict(entry))
        self._entries[item.name] = entry

    def entry(self, item: Input) -> Entry:
        """What came of a video."""
        return self._entries[item.name]

    def entries(self) -> list[Entry]:
        """What came of all videos, by name."""
        return [self._entries[name] for name in sorted(self._entries)]

    def _remove(self, files: Iterable[str], without: str | None) -> None:
        """Remove crops, and the boxes of a video that is now without any."""
        try:
            for path in [self.folder / file for file in files]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            if without is not None and self._settings.get("save_boxes"):
                (self.folder / f"{without}.boxes.csv").unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {shown(error.filename or '')}: {error.strerror or error}") from error


def _entry(content: Any) -> Entry:
    """An entry from what its line holds; raises whatever is wrong with it."""
    faces = [_face(**face) for face in content["faces"]]
    size, changed = map(int, content["state"])
    name, video, key, failure = (_text(content[part]) for part in ("name", "video", "key", "failure"))
    return Entry(name, video, key, (size, changed), tuple(faces), failure, bool(content["final"]))


def _face(*, box: Any, file: Any, **numbers: Any) -> CroppedFace:
    x, y, width, height = map(float, box)
    whole = {name: int(numbers.pop(name)) for name in ("face", "frames", "video_frames", "width", "height")}
    rest = {name: float(value) for name, value in numbers.items()}
    place = PurePath(_text(file))
    if place.is_absolute() or not place.parts or ".." in place.parts:
        # It is removed one day, and nothing beside it must be.
        raise ValueError
    return CroppedFace(file=file, box=(x, y, width, height), **whole, **rest)  # type: ignore[arg-type]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _remove_leftovers(folder: Path) -> None:
    """Remove what a process has left that was killed while it wrote."""
    for place, folders, files in os.walk(folder):
        for name in [name for name in folders if _LEFTOVER.fullmatch(name)]:
            folders.remove(name)
            shutil.rmtree(Path(place, name))
        for name in filter(_LEFTOVER.fullmatch, files):
            Path(place, name).unlink()


def _state(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
