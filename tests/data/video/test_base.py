from __future__ import annotations

import os
import resource
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maedfer.data.video import readers, streams
from maedfer.data.video.base import words
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from tests.data.media import one_line, pictures, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures(6), options={"preset": "ultrafast"})


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "long", "nul", "surrogate", "loop", "below", "link"])
def test_what_is_no_file_is_said_at_once(clip: Path, tmp_path: Path, kind: str) -> None:
    path, words = tmp_path / "clip.mp4", "cannot be opened"
    with socket.socket(socket.AF_UNIX) as place:
        if kind == "pipe":
            os.mkfifo(path)
            words = "a pipe or a socket"
        elif kind == "socket":
            path = Path(os.path.relpath(path)) if len(str(path)) > 100 else path
            place.bind(str(path))
            words = "a pipe or a socket"
        elif kind == "device":
            path, words = Path("/dev/zero"), "a device"
        elif kind == "long":
            path = tmp_path / ("x" * 300 + ".mp4")
        elif kind == "nul":
            path = tmp_path / "a\0b.mp4"
        elif kind == "surrogate":
            path = tmp_path / "\ud800.mp4"
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "below":
            path = clip / "clip.mp4"
        else:
            path.symlink_to("gone.mp4")
            words = "a link to something that is not there"
        with pytest.raises(InputError, match=words) as caught:
            open_video(path)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("folder", [False, True])
def test_what_may_not_be_read(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, folder: bool) -> None:
    path = tmp_path / "clip"
    if folder:
        path.mkdir()
    else:
        shutil.copy(clip, path)
    if os.geteuid():
        path.chmod(0)
    else:
        # Nothing is forbidden to root.
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("os.listdir", refuse)
        monkeypatch.setattr(streams, "_source", refuse)
    with pytest.raises(InputError, match="Permission denied") as caught:
        open_video(path)
    assert one_line(caught.value, path)


@pytest.mark.parametrize(
    "error",
    [UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "x"), AttributeError("no context"), MemoryError(), OSError(5, "I/O")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_fails_is_a_sentence(clip: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with open_video(clip) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(reader, "_advance", fail)
            with pytest.raises(InputError, match="cannot be read") as caught:
                reader.read([0])
        assert one_line(caught.value, clip) and caught.value.__cause__ is error
        with pytest.raises(IndexError):
            reader.read([6])
    monkeypatch.setattr("maedfer.data.video.index._scan", fail)
    with pytest.raises(InputError, match="cannot be read"):
        readers.open_video(clip)


def test_too_many_open_files_are_no_fault_of_a_clip(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(pictures(1)[0]).save(folder / "1.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    for path in (clip, folder):
        # The next descriptor would be one too many.
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                open_video(path).read([0])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in taken:
                os.close(number)


def test_words_of_an_error_are_one_line() -> None:
    assert words(ValueError("first\n  second \x07")) == "first second \\x07"


def test_vanishing_and_changing_under_the_reader(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(clip, path)
    # What was read when the file was indexed is not read again; other codecs are.
    other = write_video(tmp_path / "other.mp4", pictures(6), codec="mpeg4")
    with open_video(path) as reader, open_video(other) as second:
        expected = reader.read(range(6))
        path.unlink()
        other.unlink()
        np.testing.assert_array_equal(reader.read(range(6)), expected)
        with pytest.raises(InputError, match="No such file"):
            second.read([0])
    write_video(path, pictures(3, 32, 48))
    # Nothing is remembered of what had this name before.
    with open_video(path) as reader:
        assert len(reader) == 3 and reader.size == (32, 48)
