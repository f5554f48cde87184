"""Folders that one process at a time writes to, and journals in them: a line of JSON for each thing that is done."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from maedfer._files import parse_json, read_file
from maedfer.data.video.base import shown
from maedfer.errors import InputError

Self = TypeVar("Self", bound="OwnedFolder")
Line = TypeVar("Line")
# What reading a line raises that somebody else has written.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class OwnedFolder:
    """A folder that is this process's alone as long as it is in the context.

    Args:
        folder: made if need be; one that is not empty must hold `mark`.
        mark: the file or folder by which it is known to be of its kind.
        file: what is opened to add to and locked; in `mark`, or `mark` itself.
        holds: what it holds, as sentences have it.
        busy: what another process does there, as sentences have it.

    Raises:
        InputError: on entering: the folder holds something else, another process writes to it, or it cannot be written
            to.
    """

    def __init__(self, folder: Path, mark: Path, file: Path, *, holds: str, busy: str) -> None:
        self.folder = folder
        self._mark, self._path = mark, file
        self._holds, self._busy = holds, busy
        self._file: BinaryIO | None = None

    def __enter__(self: Self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._mark.exists() and any(self.folder.iterdir()):
                raise InputError(
                    f"{shown(self.folder)} is not empty and holds no {self._holds}: choose another folder, or delete "
                    "what is in it"
                )
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._path.open("a+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{shown(self.folder)}: another process {self._busy} there") from None
            self._begin(self._file)
        except OSError as error:
            self.__exit__()
            raise self._unwritable(error) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            # What could not be written is not told of once more, in place of what ends the run.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _begin(self, file: BinaryIO) -> None:
        """What is done once the file is this process's."""

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"cannot write to {shown(self.folder)}: {error.strerror or error}")


class Journal(OwnedFolder):
    """A file of lines, the first of which says with what settings the others were made.

    Args:
        file: of the journal, by which the folder is known.
        settings: that must be those which are there.
        head: the key that settings stand under.
        holds, busy: as in `OwnedFolder`.
        about: what the lines tell of.
        made: that the folder is of these settings, as sentences have it.
    """

    def __init__(
        self, file: Path, settings: Mapping[str, Any], head: str, *, holds: str, busy: str, about: str, made: str
    ) -> None:
        super().__init__(file.parent, file, file, holds=holds, busy=busy)
        self._settings = json.loads(json.dumps(settings))
        self._head, self._about, self._made = head, about, made

    def _lines(self, file: BinaryIO, read: Callable[[Any], Line]) -> list[Line] | None:
        """Read what is there, all but a line without an end, which a process that was killed has left.

        Args:
            file: of the journal.
            read: gives what a line tells; raises whatever is wrong with it.

        Returns:
            What the lines after the first one tell; None where there was no journal yet.

        Raises:
            InputError: it is no journal of this kind, or one of other settings.
        """
        content = read_file(self._path)
        whole = content[: content.rfind(b"\n") + 1]
        beginning = f'{{"{self._head}": '.encode("ascii")
        try:
            if not whole and content[: len(beginning)] != beginning[: len(content)]:
                raise ValueError
            lines = whole.split(b"\n")[:-1]
            settings = dict(parse_json(lines[0])[self._head]) if lines else None
            # One by one: there may be a million.
            found = [read(parse_json(line)) for line in lines[1:]]
        except DAMAGED:
            raise InputError(f"{shown(self._path)} is no journal of {self._about}: choose another folder") from None
        if settings is not None and settings != self._settings:
            other = [name for name in self._settings if settings.get(name) != self._settings[name]]
            raise InputError(
                f"{shown(self.folder)} {self._made} with other settings ({', '.join(other) or 'of another version'}): "
                "choose another folder, or delete it"
            )
        file.truncate(len(whole))
        if settings is None:
            self._write({self._head: self._settings})
            return None
        return found

    def _write(self, *contents: Mapping[str, Any]) -> None:
        """Add lines.

        Raises:
            InputError: nothing can be written any more.
        """
        assert self._file is not None
        try:
            for content in contents:
                self._file.write(json.dumps(content).encode("ascii") + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
