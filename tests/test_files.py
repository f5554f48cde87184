"""Atomic writing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from maedfer._files import atomic_folder, atomic_path, read_file
from maedfer.errors import InputError


def test_replaces_at_the_end_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_text("old")
    with atomic_path(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.bin"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_pipe_is_read_and_a_device_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    assert read_file(tmp_path / "a") == b"text"
    reading, writing = os.pipe()
    os.write(writing, b"piped")
    os.close(writing)
    assert read_file(f"/dev/fd/{reading}") == b"piped"
    os.close(reading)
    # This one has no end.
    with pytest.raises(OSError, match="it is a device, not a file"):
        read_file("/dev/zero")


def test_a_full_disk_keeps_the_previous_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_text("old")
    with (
        pytest.raises(InputError, match="No space left on device; the previous file is kept"),
        atomic_path(target) as path,
    ):
        path.write_text("half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file.bin"]


def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file.bin") as path:
        path.write_text("half of")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="cannot write .*absent"), atomic_path(tmp_path / "absent" / "file.bin"):
        pass


def test_a_signal_just_after_the_file_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def interrupted(handle: int) -> None:
        close(handle)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", interrupted)
        with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file.bin"):
            pass
    assert os.listdir(tmp_path) == []


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "crops"
    for content in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / content).touch()
        assert [file.name for file in path.iterdir()] == [content]
    with pytest.raises(InputError, match="cannot write .*crops: No space left"), atomic_folder(path) as folder:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")
    assert [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*"))] == ["crops", "crops/new"]
