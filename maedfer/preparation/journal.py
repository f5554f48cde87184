"""What was looked at so far: a line for each clip in a file of the results, so that a run can be gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from maedfer._files import read_file
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.preparation.look import ClipLook

LOOKS_FILE = "looks.jsonl"
_BEGINNING = b'{"prepared": '
_WHOLE, _TEXT = ("bytes", "frames", "height", "width", "gaps"), ("path", "digest", "problem")


class LookJournal:
    """The journal of a folder of results; use it as a context.

    Args:
        folder: made if need be.
        settings: what is looked at, and how; a folder holds one data set.

    Raises:
        InputError: the folder holds something else or another data set, another process writes to it, or it cannot be
            written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, json.loads(json.dumps(settings))
        self._file: BinaryIO | None = None
        self.looks: dict[str, ClipLook] = {}

    def __enter__(self) -> LookJournal:
        path = self._folder / LOOKS_FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() and any(self._folder.iterdir()):
                raise InputError(
                    f"{shown(self._folder)} is not empty and holds no data set that was prepared: choose another folder"
                )
            self._file = path.open("a+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{shown(self._folder)}: another process prepares a data set there") from None
            self._read(path)
        except OSError as error:
            self.__exit__()
            raise InputError(f"cannot write to {shown(self._folder)}: {error.strerror or error}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def add(self, looks: Iterable[ClipLook]) -> None:
        """Note what was found of clips.

        Raises:
            InputError: nothing can be written any more.
        """
        for look in looks:
            self._write(dataclasses.asdict(look))
            self.looks[look.path] = look
        assert self._file is not None
        try:
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot write to {shown(self._folder)}: {error.strerror or error}") from error

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._file is not None
        try:
            self._file.write(json.dumps(content).encode("ascii") + b"\n")
        except OSError as error:
            raise InputError(f"cannot write to {shown(self._folder)}: {error.strerror or error}") from error

    def _read(self, path: Path) -> None:
        """Read what is there, all but a line without an end, which a process that was killed has left."""
        assert self._file is not None
        content = read_file(path)
        whole = content[: content.rfind(b"\n") + 1]
        try:
            if not whole and content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
                raise ValueError
            lines = whole.split(b"\n")[:-1]
            settings = dict(json.loads(lines[0])["prepared"]) if lines else None
            # One by one: a data set may have a million clips.
            looks = [_look(json.loads(line)) for line in lines[1:]]
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            raise InputError(
                f"{shown(path)} is no journal of clips that were looked at: choose another folder"
            ) from None
        if settings is not None and settings != self._settings:
            other = [name for name in self._settings if settings.get(name) != self._settings[name]]
            raise InputError(
                f"{shown(self._folder)} was prepared with other settings ({', '.join(other) or 'of another version'}): "
                "choose another folder, or delete it"
            )
        self._file.truncate(len(whole))
        if settings is None:
            self._write({"prepared": self._settings})
            self._file.flush()
        self.looks = {look.path: look for look in looks}


def _look(content: Any) -> ClipLook:
    """What was found of a clip, from what its line holds; raises whatever is wrong with it."""
    size, changed = map(int, content["state"])
    path, digest, problem = (content[name] for name in _TEXT)
    if not all(isinstance(value, str) for value in (path, digest, problem)):
        raise TypeError
    total, frames, height, width, gaps = (int(content[name]) for name in _WHOLE)
    return ClipLook(path, (size, changed), total, digest, frames, height, width, gaps, problem)
