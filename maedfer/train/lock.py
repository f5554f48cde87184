"""One run at a time in a folder, by a lock that ends with the process that holds it.

The main process takes the write lock of FOLDER/.lock, which nobody else may then have, and turns it into a read lock;
the other processes of the job take read locks. So a new main process is refused for as long as any process of an
earlier job lives. The system gives the lock back when a process dies, however it dies; the loader's processes do not
inherit it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maedfer._files import parse_json
from maedfer.errors import InputError
from maedfer.train.environment import now
from maedfer.train.processes import Runtime

LOCK_FILE = ".lock"
# Seconds that a process which was killed a moment ago may take to vanish; and one of a job that is started again, which
# may be on another machine that is out of reach, and ends by itself when it notices.
_GRACE, _GRACE_OF_JOB = 1.0, 120.0
_TAKEN = (errno.EACCES, errno.EAGAIN)

_log = logging.getLogger("maedfer")
# Folders held by this process, by device and inode. The system's lock is one of processes: it would let another thread
# in, and closing the file a second time would end it.
_held: dict[tuple[int, int], int] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def hold(folder: str | Path, runtime: Runtime) -> Iterator[None]:
    """Keep a run folder, made if it is absent, for the processes of one job.

    Nothing in the folder is touched before this. What was made and stayed empty is removed in the end, and so is the
    file of the lock.

    Raises:
        InputError: another run is in the folder, or it cannot be made or written to.
    """
    lock = _FolderLock(Path(folder))
    try:
        runtime.on_main(lock.take)
        if not runtime.main:
            lock.join()
        yield
        if not runtime.main:
            lock.release()
        # The last one to leave takes the file away.
        runtime.barrier()
    finally:
        lock.release()


def check_free(folder: str | Path) -> None:
    """Look whether a run could have a folder now, without holding it or making anything.

    Raises:
        InputError: another run is in it, or it is a file.
    """
    lock = _FolderLock(Path(folder))
    lock.refuse_file()
    if not lock.path.exists():
        return
    lock.reserve()
    try:
        lock.acquire(create=False)
    finally:
        lock.let_go()


class _FolderLock:
    """The lock of a folder, for one process; every method but `release` may raise InputError."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK_FILE
        self.file: int | None = None
        self.key: tuple[int, int] | None = None
        self.made: list[Path] = []
        self.process = os.getpid()

    def refuse_file(self) -> None:
        """Refuse an output that is no folder."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"output {str(self.folder)!r} is a file: give a folder")

    def take(self) -> None:
        """Make the folder and hold it; for the main process."""
        self.refuse_file()
        self.made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the output folder {str(self.folder)!r}: {error.strerror}") from error
        self.reserve()
        self.acquire(create=True)
        if self.file is not None:
            # A full disk leaves the note empty, and the lock what it is.
            with contextlib.suppress(OSError):
                os.ftruncate(self.file, 0)
                os.write(self.file, _note())
            fcntl.lockf(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def join(self) -> None:
        """Hold the folder together with the main process; nothing happens where another machine has it."""
        try:
            self.file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return
        try:
            fcntl.lockf(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise self._refusal(self.file) from None
            return
        with contextlib.suppress(OSError):
            os.write(self.file, _note())

    def release(self) -> None:
        """Give the folder back, and remove what nobody else needs."""
        if self.process != os.getpid():
            return
        if self.file is not None:
            with contextlib.suppress(OSError):
                # Nobody else holds it if this succeeds, and who opened it meanwhile will find that it is not there.
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.path.unlink()
        self.let_go()
        for folder in self.made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self.made = []

    def reserve(self) -> None:
        """Keep other threads of this process out."""
        try:
            facts = self.folder.stat()
        except OSError as error:
            raise InputError(f"output folder {str(self.folder)!r} cannot be used: {error.strerror}") from error
        key = (facts.st_dev, facts.st_ino)
        with _guard:
            # A forked process knows what its parent held, and holds nothing of it.
            if _held.get(key) == os.getpid():
                who = f"this very process ({os.getpid()} on {platform.node()})"
                raise InputError(f"output folder {str(self.folder)!r} is in use by {who}: give another output folder")
            _held[key] = os.getpid()
            self.key = key

    def acquire(self, create: bool) -> None:
        """Open the file and take the write lock; without a file where the file system has no locks."""
        grace = _GRACE_OF_JOB if _started_again() else _GRACE
        deadline, told = time.monotonic() + grace, False
        while True:
            try:
                self.file = os.open(
                    self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666
                )
            except FileNotFoundError:
                if not create:
                    return
                raise InputError(f"output folder {str(self.folder)!r} was removed while the run started") from None
            except OSError as error:
                raise InputError(
                    f"output folder {str(self.folder)!r} cannot be written to: {error.strerror}"
                ) from error
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_there():
                    return
                refusal = None
            except OSError as error:
                if error.errno not in _TAKEN:
                    self._close()
                    if create:
                        # It would keep nobody out, and nobody would take it away.
                        self.path.unlink(missing_ok=True)
                    _log.warning(
                        "the file system of %s has no locks (%s): nothing keeps a second run out of it",
                        self.folder,
                        error.strerror,
                    )
                    return
                refusal = self._refusal(self.file)
            self._close()
            if refusal is not None:
                if time.monotonic() > deadline:
                    raise refusal from None
                if grace > _GRACE and not told:
                    told = True
                    _log.warning("%s; waiting for it, as this job was started again", refusal.args[0].partition(":")[0])
                time.sleep(0.05)

    def let_go(self) -> None:
        """Close the file, which ends the lock."""
        self._close()
        if self.key is not None:
            with _guard:
                _held.pop(self.key, None)
            self.key = None

    def _close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def _is_there(self) -> bool:
        # The last holder may have removed the file between our opening and locking it.
        assert self.file is not None
        try:
            return os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except OSError:
            return False

    def _refusal(self, file: int) -> InputError:
        return InputError(
            f"output folder {str(self.folder)!r} is in use by {_holders(file)}: wait until that run has ended, end it, "
            "or give another output folder"
        )


def _started_again() -> bool:
    """Whether torchrun or Slurm has started this job before."""
    return any(
        os.environ.get(name, "0") not in ("", "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    )


def _note() -> bytes:
    return json.dumps({"host": platform.node(), "pid": os.getpid(), "started": now()}).encode() + b"\n"


def _holders(file: int) -> str:
    """Who holds a lock, by what the processes of the job wrote into its file."""
    os.lseek(file, 0, os.SEEK_SET)
    notes = []
    for line in os.read(file, 1 << 20).splitlines():
        with contextlib.suppress(ValueError):
            note = parse_json(line)
            if isinstance(note, dict) and {"host", "pid", "started"} <= note.keys():
                notes.append(note)
    # The main process may be gone while others of its job still live.
    notes = [note for note in notes if _may_live(note)] or notes
    if not notes:
        return "another run"
    first = notes[0]
    more = f" and {len(notes) - 1} more of its job" if len(notes) > 1 else ""
    return f"process {first['pid']} on {first['host']}{more}, started {first['started']}"


def _may_live(note: dict[str, Any]) -> bool:
    if note["host"] != platform.node() or not isinstance(note["pid"], int):
        return True
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
