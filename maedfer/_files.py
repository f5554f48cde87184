"""Reading files of any name, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from maedfer.errors import InputError

# Bytes of what is read at once. Lists of ten million clips have less.
_LARGEST = 4 << 30
# Bytes that any archive may unpack to, and how many of each packed one larger ones may: zeros alone have a thousand.
_UNPACKED, _DENSEST = 256 << 20, 50
# Where nothing can be written any more, whatever it is.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def read_file(path: str | Path) -> bytes:
    """The content of a file that is given by its name; a pipe is one too.

    Raises:
        OSError: it cannot be read, is a device, which may have no end, or is larger than any list, journal or network.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISCHR(status.st_mode):
            raise OSError(errno.EINVAL, "it is a device, not a file", str(path))
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, f"it has {status.st_size / 2**30:.0f} GiB, more than is read whole", str(path))
        return file.read()


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What JSON of a file says, as `json.loads` with these options gives it.

    Raises:
        json.JSONDecodeError: it is none, or nested too deeply, which json has an error of another kind for.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None


def check_archive(file: str | Path | BinaryIO) -> None:
    """Refuse an archive of arrays (.npz) that is made to fill the memory: a few bytes that become gigabytes.

    Raises:
        ValueError: it unpacks to far more than arrays that were computed ever do.
        OSError, zipfile.BadZipFile: it cannot be read, or is none.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    unpacked, packed = (sum(sizes) for sizes in ([e.file_size for e in entries], [e.compress_size for e in entries]))
    if unpacked > max(_UNPACKED, _DENSEST * packed):
        raise ValueError(f"it would unpack {packed / 2**20:.1f} MiB to {unpacked / 2**20:.0f}, and is not unpacked")


@contextlib.contextmanager
def atomic_path(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving, sync it to disk and rename it over `path`.

    On any error the temporary file is removed and an earlier `path` stays as it was.

    Args:
        path: of the file.
        sync: False for one that need not outlive the machine, because whoever reads it sees whether it is whole.

    Raises:
        InputError: the file cannot be written (disk full, no permission, missing folder).
    """
    path = Path(path)
    # Known before it is there: a signal, whose handler may raise, finds no moment in which it would stay.
    temporary = temporary_beside(path)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield temporary
        # Private until it is whole; then it has the permissions any other new file would have.
        temporary.chmod(0o666 & ~_mask())
        if sync:
            sync_to_disk(temporary)
        os.replace(temporary, path)
        if sync:
            sync_to_disk(path.parent)
    except OSError as error:
        kept = "the previous file is kept" if path.exists() else "nothing was left behind"
        raise InputError(f"cannot write {path}: {error.strerror or error}; {kept}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, for files without folders; on leaving, sync it and put it in place of what
    is at `path`. On any error it is removed.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        temporary.mkdir(0o700)
        yield temporary
        temporary.chmod(0o777 & ~_mask())
        for written in (*temporary.iterdir(), temporary):
            sync_to_disk(written)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
        sync_to_disk(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that a disk takes nothing any more."""
    return any(isinstance(one, OSError) and one.errno in _FULL for one in (error, error.__cause__))


def temporary_beside(path: Path) -> Path:
    """A name for something that is to be renamed to `path`, which `remove_temporaries` knows; nothing is made."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what `atomic_path` left in a folder in which a process was killed while it wrote, and what has a name of
    `temporary_beside`."""
    # Eight characters tell such files from those of others.
    for path in folder.glob(".?*." + "[0-9a-z_]" * 8 + ".tmp"):
        remove_path(path)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_to_disk(path: Path) -> None:
    """Have a file, or the names in a folder, on disk before anything else is done."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
