"""The checkpoints of a run folder: how they follow each other, and which one a run goes on from.

RUN/checkpoints holds `last`, `previous` (the `last` before), `epoch_NNN` as `train.save_every` keeps them, and `best`,
the weights of the best epoch alone. A new `last` is written whole and on disk beside the old one before the old one
becomes `previous` and the new one takes its name, so that at every instant one of the two is there and whole, also
where a process is killed between two calls of the system.

A checkpoint has a form, a file or a folder (checkpoint_folder.py): each is a `CheckpointForm`, under the same names
with a suffix of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from maedfer._files import remove_path, sync_to_disk, temporary_beside
from maedfer.errors import InputError
from maedfer.models.weight_files import UnreadableFileError
from maedfer.train.checkpoint import load_checkpoint, write_state
from maedfer.train.checkpoint_folder import FolderForm
from maedfer.train.processes import Runtime

T = TypeVar("T")

LAST, PREVIOUS, BEST = "last", "previous", "best"
_FOLDER = "checkpoints"
# What another user, or a user with other rights, would read: it is no damage, and not to be passed over.
_CLOSED = (errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class LatestCheckpoint:
    """What a run goes on from.

    Args:
        path: of the checkpoint.
        said: what a reader of the run must know of why it is this one; nothing where it is `last`.
    """

    path: Path
    said: tuple[str, ...] = ()


class CheckpointForm(Protocol):
    """A way to keep a checkpoint on disk."""

    suffix: str

    def is_there(self, path: Path) -> bool:
        """Whether something of this form has the name."""

    def write(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a checkpoint where nothing is; OSError where that fails."""

    def step(self, path: Path) -> int:
        """Read a checkpoint, hold it against its digest and checksums, and give the step it is of.

        Raises:
            InputError: it is damaged, or none.
        """


class FileForm:
    """A checkpoint as one file of PyTorch's."""

    suffix = ".pt"

    def is_there(self, path: Path) -> bool:
        """Whether there is a file."""
        return path.is_file()

    def write(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write the file and have it on disk."""
        write_state(path, state)
        sync_to_disk(path)

    def step(self, path: Path) -> int:
        """The step that a whole file is of."""
        return _step_of(load_checkpoint(path))


# In the order in which they are preferred where two have the same name.
FORMS: tuple[CheckpointForm, ...] = (FileForm(), FolderForm())


def existing(run: str | Path, *names: str) -> list[Path]:
    """Those checkpoints of a run folder that are there under the names; `last`, `previous` and the epochs by default.

    The newest comes first: epochs by their numbers, which have three digits, or more.
    """
    folder = Path(run) / _FOLDER
    if not names:
        kept = {path.stem for path in folder.glob("epoch_*")}
        names = (LAST, PREVIOUS, *sorted(kept, key=lambda name: (len(name), name), reverse=True))
    return [path for name in names for form in FORMS if form.is_there(path := folder / f"{name}{form.suffix}")]


def latest(run: str | Path) -> LatestCheckpoint | None:
    """The newest checkpoint of a run that is whole; None where there is none at all.

    Raises:
        InputError: there are checkpoints, and none of them is whole, or one may not be read.
    """
    passed: list[tuple[Path, str]] = []
    for path in existing(run):
        try:
            step = form_of(path).step(path)
        except InputError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _CLOSED:
                raise
            passed.append((path, error.reason if isinstance(error, UnreadableFileError) else str(error)))
            continue
        return LatestCheckpoint(path, _why(path, step, passed))
    if not passed:
        return None
    folder = Path(run) / _FOLDER
    holds = [best.name for best in existing(run, BEST)]
    rest = f"{folder / holds[0]} holds the weights of the best epoch" if holds else ""
    if (Path(run) / "model").is_dir():
        rest = f"{Path(run) / 'model'} still holds what the run came to"
    raise InputError(
        f"no checkpoint in {str(folder)!r} can be gone on from: {_damages(passed)}: remove {folder} to start anew"
        + (f"; {rest}" if rest else "")
    )


def form_of(path: Path) -> CheckpointForm:
    """The form of a checkpoint, by its suffix."""
    return next(form for form in FORMS if form.suffix == path.suffix)


def _step_of(state: Mapping[str, Any]) -> int:
    position = state.get("position")
    return int(position.get("step") or 0) if isinstance(position, dict) else 0


def _why(path: Path, step: int, passed: list[tuple[Path, str]]) -> tuple[str, ...]:
    if passed:
        return (f"{_damages(passed)}: going on from {path.name}, step {step}",)
    if path.stem == LAST:
        return ()
    # A process was killed between the two renames of a file system without links, or somebody removed it.
    return (f"{_FOLDER}/{LAST}{path.suffix} is not there: going on from {path.name}, step {step}",)


def _damages(passed: list[tuple[Path, str]]) -> str:
    # As in the run folder, which may be moved after this was written down.
    shown = [f"{_FOLDER}/{path.name} is damaged ({why})" for path, why in passed]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more are" if len(shown) > 3 else "")


class Checkpoints:
    """Writes the checkpoints of a run.

    Args:
        run: the run folder.
        runtime: its processes, of which the main one writes.
    """

    def __init__(self, run: str | Path, runtime: Runtime) -> None:
        self.run, self.folder, self.runtime = Path(run), Path(run) / _FOLDER, runtime
        self.form: CheckpointForm = FORMS[0]
        # What could not be written the last time it was tried, and why; alike in every process.
        self.failed: dict[str, str] = {}
        # A `last` that this process has written, or found whole: what is to become `previous`.
        self._whole: Path | None = None
        # What a run would go on from, as far as this process knows, which may be another run's, and its step.
        self.newest: tuple[Path, int] | None = None

    def path(self, name: str) -> Path:
        """Where the checkpoint of a name is, or would be."""
        return next(iter(existing(self.run, name)), self.folder / f"{name}{self.form.suffix}")

    def write(self, name: str, state: Mapping[str, Any]) -> list[str]:
        """Write a checkpoint whole or not at all; every process takes part.

        A disk that takes nothing does not end a run: what was there stays, and the next save is another try.

        Returns:
            What there is to say: that it could not be written, or that it can be again. `failed` has what could not.
        """
        why = self.runtime.on_main(lambda: self._attempt(name, state), f"is writing {_FOLDER}/{name}")
        return self.noted(name, why, _step_of(state))

    def noted(self, name: str, why: str, step: int) -> list[str]:
        """Take note of what became of a checkpoint; what there is to say of it.

        Args:
            name: of the checkpoint.
            why: it could not be written; "" where it was.
            step: that it is of.
        """
        before = self.failed.pop(name, "")
        # From weights alone no run goes on.
        if not why and name != BEST:
            self.newest = self.folder / f"{name}{self.form.suffix}", step
        if why:
            self.failed[name] = why
            rest = self.kept() if name == LAST else "without it"
            return [f"{_FOLDER}/{name}{self.form.suffix} could not be written ({why}): the run goes on, {rest}"]
        return [f"{_FOLDER}/{name}{self.form.suffix} could be written again"] if before else []

    def wait(self) -> list[str]:
        """Wait for what is being written while the run goes on; what there is to say of it."""
        return []

    def last_is_of(self, step: int) -> bool:
        """Whether a run goes on from a `last` of that step, and the latest try to write one came to something."""
        here = self.folder / f"{LAST}{self.form.suffix}", step
        return self.newest == here and LAST not in self.failed

    def kept(self) -> str:
        """Which checkpoint is there to go on from, in words."""
        if self.newest is None or self.newest[0].parent.resolve() != self.folder.resolve():
            return "and there is no checkpoint yet"
        path, step = self.newest
        return f"{_FOLDER}/{path.name} of step {step} is as it was"

    def finish(self, write: Callable[[], T]) -> T:
        """Write what the run came to, in the main process.

        Raises:
            InputError: it could not be written: a run without its result has failed; says what is there and what not.
        """
        try:
            return self.runtime.on_main(write, "is writing what the run came to")
        except InputError as error:
            rest = f"{self.kept()}, and what was learned after it is lost"
            if LAST not in self.failed:
                rest = f"{_FOLDER}/{LAST}{self.form.suffix} has all of it, and the same command ends the run"
            raise InputError(f"{error}; training is complete, and its result could not be saved: {rest}") from error

    def _attempt(self, name: str, state: Mapping[str, Any]) -> str:
        temporary = temporary_beside(self.folder / f"{name}{self.form.suffix}")
        try:
            # Not before, so that a run that could not start leaves no empty folder.
            self.folder.mkdir(exist_ok=True)
            self.form.write(temporary, state)
            self.put(name, temporary)
        except OSError as error:
            return error.strerror or str(error)
        finally:
            with contextlib.suppress(OSError):
                remove_path(temporary)
        return ""

    def put(self, name: str, temporary: Path) -> None:
        """Give what was written, and is on disk, its name; for the main process.

        Args:
            name: "last", whose place is taken by it only after the old one has become "previous", or another one.
            temporary: in the folder.

        Raises:
            OSError: it cannot be renamed; what had the name still is there.
        """
        path = self.folder / f"{name}{self.form.suffix}"
        if name == LAST:
            self._hand_on(path)
        try:
            _rename(temporary, path)
        except OSError:
            if name == LAST and not path.exists() and self._whole == path:
                os.rename(self.folder / f"{PREVIOUS}{self.form.suffix}", path)
            raise
        if name == LAST:
            self._whole = path
        sync_to_disk(self.folder)

    def _hand_on(self, path: Path) -> None:
        """Let the `last` that is there become `previous`; one that is damaged stays to be written over."""
        for last in existing(self.run, LAST):
            if last != self._whole:
                try:
                    form_of(last).step(last)
                except InputError:
                    continue
                self._whole = last
            previous = last.with_name(f"{PREVIOUS}{last.suffix}")
            if last.is_dir() or last != path:
                _rename(last, previous)
            else:
                _link(last, previous)
            for other in existing(self.run, PREVIOUS):
                if other != previous:
                    remove_path(other)


def _link(last: Path, previous: Path) -> None:
    """Let a file be found under a second name too, or under that alone where a file system has no links."""
    temporary = temporary_beside(previous)
    try:
        os.link(last, temporary)
    except OSError:
        os.replace(last, previous)
        return
    os.replace(temporary, previous)


def _rename(source: Path, target: Path) -> None:
    """Rename, over what is there; of folders the old one goes aside first, as no call replaces one."""
    if not target.is_dir():
        os.replace(source, target)
        return
    aside = temporary_beside(target)
    os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(aside, target)
        raise
    remove_path(aside)
