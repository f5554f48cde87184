"""What a command is to predict, and the folder that the results go to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from maedfer._values import expand_home
from maedfer.data.inputs import find_inputs
from maedfer.data.video.base import look_at, shown
from maedfer.errors import InputError
from maedfer.prediction.many import FAILED_FILE, RESERVED, SUMMARY_FILE
from maedfer.prediction.options import PredictionOptions, check_together
from maedfer.prediction.run import SUFFIXES
from maedfer.prediction.sources import is_live, without_password
from maedfer.prediction.table import writing
from maedfer.setting import setting_of

LOCK_FILE = ".predict.lock"
# Letters of the name of a stream.
_STREAM_NAME = 100
# Bytes that the name of a file has more while it is written.
_TEMPORARY = 16


@dataclass(frozen=True)
class NamedVideo:
    """A video, device or stream.

    Args:
        path: as it was given.
        name: what its results are called, may hold folders.
        live: whether it is a device or a stream.
    """

    path: str
    name: str
    live: bool = False

    @property
    def told(self) -> str:
        """What it is called wherever something is told or written of it."""
        return without_password(self.path) if self.live else self.path


def find_videos(items: Sequence[str], out: str | Path, tell: Callable[[str], None]) -> list[NamedVideo]:
    """Find what is to be predicted.

    Args:
        items: files, folders, lists, devices and URLs.
        out: folder of results, which is left out where it lies below a folder that is searched.
        tell: takes a sentence on what was left out.

    Raises:
        InputError: see `maedfer.data.inputs.find_inputs`; or nothing was given.
    """
    if not items:
        raise InputError("predict needs an INPUT: video files, folders, lists, a device or a URL")
    streams = [item for item in items if is_live(item)]
    for stream in streams:
        file = stream.partition("://")[2]
        if stream.lower().startswith("file://") and (os.path.isfile(file) or os.path.isdir(file)):
            raise InputError(f"{shown(stream)}: is a file or a folder, and no stream: give its path, {shown(file)}")
    files = [expand_home(item) for item in items if not is_live(item)]
    reserved = {*RESERVED}
    found = find_inputs(files, reserved=reserved, leave_out=out, tell=tell) if files else []
    names = {clip.name for clip in found}
    # "a.boxes" is a name that would make a file of "a".
    ends = tuple(suffix[: -len(Path(suffix).suffix)] for suffix in SUFFIXES.values() if suffix.count(".") > 1)
    taken = {name for name in names for end in ends if name.endswith(end) and name.removesuffix(end) in names}
    if taken:
        found = find_inputs(files, reserved=reserved | taken, leave_out=out)
    videos = [NamedVideo(str(clip.path), clip.name) for clip in found]
    names = {video.name for video in videos} | reserved
    for stream in streams:
        name = base = _stream_name(stream)
        number = 1
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.add(name)
        videos.append(NamedVideo(stream, name, live=True))
    return videos


def _stream_name(stream: str) -> str:
    """What the results of a stream are called: its host and path, without passwords and questions."""
    address = without_password(stream, "").partition("://")[2]
    address = re.split(r"[?#]", address)[0] or Path(stream).name
    return re.sub(r"[^\w.-]+", "_", address, flags=re.ASCII)[:_STREAM_NAME].strip("._") or "stream"


def check_options(options: PredictionOptions, videos: Sequence[NamedVideo]) -> None:
    """Refuse what does not go together, before anything is loaded.

    Raises:
        InputError: it does not, or a file of the options is absent.
    """
    check_together(options, lambda name: "--no-crop" if name == "crop" else f"--{name}")
    for file in (options.boxes, options.detector):
        if file is not None and look_at(Path(file)) and not os.path.isfile(file):
            raise InputError(f"{shown(file)}: is a folder: give a file")
    live = [video for video in videos if video.live]
    if live and options.whole:
        raise InputError(f"--whole needs videos that end, which {shown(live[0].told)} does not: leave it out")
    if live and options.boxes is not None:
        raise InputError(f"--boxes needs videos that end, which {shown(live[0].told)} does not: leave it out")
    if len(live) > 1 or (live and len(videos) > 1):
        raise InputError(f"{shown(live[0].told)} goes on until it ends: give it as the only INPUT")


def check_out(out: Path, videos: Sequence[NamedVideo], given: Sequence[str]) -> None:
    """Refuse a folder of results in which nothing can be written, or in which a result would take the place of what is
    read.

    Args:
        out: the folder; it need not exist.
        videos: whose results go there.
        given: other files that are read.

    Raises:
        InputError: see above.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{shown(out)}: is a file: give a folder with --out")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    with writing(there), tempfile.TemporaryFile(dir=there):
        pass
    read = {os.path.realpath(file): file for file in (*given, *(video.path for video in videos if not video.live))}
    results = [f"{video.name}{suffix}" for video in videos for suffix in SUFFIXES.values()]
    for name in (*results, SUMMARY_FILE, FAILED_FILE):
        path = os.path.realpath(out / name)
        if path in read:
            raise InputError(f"{shown(read[path])}: would be overwritten by a result: choose another --out")


def check_name(out: Path, video: NamedVideo) -> None:
    """Refuse a video whose results would have names that the folder cannot hold.

    Args:
        out: the folder, which is there.
        video: the video.

    Raises:
        InputError: see above.
    """
    most = os.pathconf(out, "PC_NAME_MAX") - max(map(len, SUFFIXES.values())) - _TEMPORARY
    length = max(len(os.fsencode(part)) for part in Path(video.name).parts)
    if length > most:
        raise InputError(
            f"{shown(video.path)}: its name has {length} bytes, and for the names of its results {most} are the most: "
            "rename it"
        )


@contextlib.contextmanager
def hold(out: Path) -> Iterator[None]:
    """Make the folder of results, and keep others from writing into it at the same time.

    Raises:
        InputError: somebody does.
        OutputError: it cannot be made or written to.
    """
    path = out / LOCK_FILE
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have taken the file away in between.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError
        except BlockingIOError:
            raise InputError(f"{shown(out)}: another maedfer predict writes into this folder: wait for it") from None
        except OSError:
            # Some network folders have no locks.
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def settings_of(video: NamedVideo, options: PredictionOptions, model: dict[str, Any]) -> dict[str, Any]:
    """All that decides what is in the rows of a video, as plain values.

    Args:
        video: which one.
        options: of the prediction.
        model: the same of the model.

    Raises:
        InputError: the video, or a file of the options, is not there.
    """
    chosen = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if setting_of(field).belongs_to == "results" and field.name != "precision"
    }
    for name in ("boxes", "detector"):
        if chosen[name] is not None:
            chosen[f"{name}_sha256"] = hashlib.sha256(Path(chosen[name]).read_bytes()).hexdigest()
    return {"video": video.told, "content": None if video.live else _content(Path(video.path)), **model, **chosen}


def _content(path: Path) -> dict[str, int]:
    """What tells that a file or a folder of frames is not what it was."""
    status = look_at(path)
    if path.is_dir():
        with os.scandir(path) as entries:
            found = [entry.stat() for entry in entries if entry.is_file()]
        newest = max((one.st_mtime_ns for one in found), default=0)
        return {"files": len(found), "bytes": sum(one.st_size for one in found), "modified_ns": newest}
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
