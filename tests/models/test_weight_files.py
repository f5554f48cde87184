"""Files of weights: what they hold whatever their name is, and what they are when they hold none."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import resource
import signal
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from maedfer.errors import InputError
from maedfer.models.weight_files import (
    UnreadableFileError,
    read_weights_file,
    write_safetensors_file,
    write_torch_file,
)
from maedfer.train.checkpoint import load_checkpoint

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def stored(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def same(read: Any) -> bool:
    return read.keys() == WEIGHTS.keys() and all(torch.equal(read[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.ckpt", "w.safetensors", "w", "w.tar", "w.json"])
@pytest.mark.parametrize(
    "layout",
    [stored(WEIGHTS), stored(WEIGHTS, _use_new_zipfile_serialization=False), save(WEIGHTS)],
    ids=["zip", "pickle", "safetensors"],
)
def test_the_same_bytes_read_alike_under_any_name(name: str, layout: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(layout)
    assert same(read_weights_file(tmp_path / name))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for layout in (stored(WEIGHTS), save(WEIGHTS)):
        (folder / "w").write_bytes(layout)
        assert same(read_weights_file(folder / "w"))


def test_what_training_scripts_keep_beside_weights_is_let_in(tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(output_dir=Path("runs/a"), lr=np.float64(0.5), opt_betas=[0.9, 0.95]),
        "max_accuracy": np.float32(0.75),
        "epoch": 3,
    }
    torch.save({"model": WEIGHTS, **beside}, tmp_path / "w.pth")
    content = read_weights_file(tmp_path / "w.pth")
    assert same(content["model"]) and content["epoch"] == 3
    assert str(content["args"].output_dir) == "runs/a" and content["args"].lr == 0.5
    assert content["max_accuracy"] == 0.75


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def numpy_file(write: Callable[..., None], *arrays: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arrays)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


def lying(header: dict[str, Any], data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def bomb() -> bytes:
    """A checkpoint whose storage is compressed, and unpacks to far more than the file holds."""
    with zipfile.ZipFile(io.BytesIO(stored({"w": torch.zeros(100_000)}))) as archive:
        return zipped({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)


GOOD = stored(WEIGHTS)
FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NO_WEIGHTS = {
    "empty": (b"", "it is empty: copy or download it again"),
    "pointer of LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "pointer of Git LFS.*git lfs pull",
    ),
    "web page": (b"\n<!DOCTYPE html><html>", "it is a web page"),
    "login page": (b"<HTML><HEAD>", "it is a web page"),
    "JSON": (b'{"model_type": "videomae"}', "it is JSON and begins with '{\"model_type"),
    "text": (b"404: Not Found\n", "it is text and begins with '404: Not Found'"),
    "zeros": (bytes(5000), "its first 4096 bytes are all zero"),
    "unknown": (b"\x00\xff\x01", "its first bytes are those of no file of weights"),
    "npy": (numpy_file(np.save, np.ones(3)), r"array of numpy \(\.npy\)"),
    "npz": (numpy_file(np.savez, np.ones(3)), r"numpy arrays \(\.npz\)"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5 file"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x03" + bytes(50), "it is an ONNX model"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "compressed by gzip: unpack it"),
    "tar": (tarred(), "it is a tar archive"),
    "zip": (zipped({"readme.txt": b"x"}), r"zip archive, not one of torch \(it holds 'readme.txt'\)"),
    "empty zip": (zipped({}), r"zip archive, not one of torch \(it holds nothing\)"),
    "TorchScript": (
        zipped({"m/data.pkl": b"", "m/code/m.py": b"", "m/constants.pkl": b""}),
        "TorchScript archive, which holds code",
    ),
    "torch.export": (zipped({"m/archive_format": b"pt2", "m/data/w": b""}), "archive of torch.export"),
    "compressed": (bomb(), r"data\.pkl in it is compressed or declares more than the file holds"),
    "cut off": (GOOD[: len(GOOD) // 2], "damaged or cut short"),
    "cut off pickle": (stored(WEIGHTS, _use_new_zipfile_serialization=False)[:300], "damaged or cut short"),
    "plain pickle": (pickle.dumps([1]), "damaged or cut short"),
    "damaged": (
        GOOD.replace(b"_rebuild_tensor_v2", b"_rebuild\xff\xff\xff\xff\xff\xff\xff_v2"),
        "damaged or cut short",
    ),
    "length beyond the file": (lying({"w": FLOATS}, length=90_000), "it is damaged or cut short"),
    "offsets beyond the file": (lying({"w": {**FLOATS, "data_offsets": [0, 8000]}}), "it is damaged"),
    "overlapping offsets": (lying({"v": FLOATS, "w": FLOATS}, bytes(8)), "it is damaged"),
    "wrong shape": (lying({"w": {**FLOATS, "shape": [2**40]}}, bytes(8)), "it is damaged"),
    "header of no JSON": (struct.pack("<Q", 4) + b"{abc", "it is damaged"),
}


@pytest.mark.parametrize("what", NO_WEIGHTS)
@pytest.mark.parametrize("name", ["w.pth", "w"])
def test_what_holds_no_weights_is_called_what_it_is(what: str, name: str, tmp_path: Path) -> None:
    content, message = NO_WEIGHTS[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UnreadableFileError, match=f"{name} is not a readable (checkpoint|safetensors file): .*: "
    ) as error:
        read_weights_file(tmp_path / name)
    assert re.search(message, str(error.value)), error.value
    assert "\n" not in str(error.value) and len(str(error.value)) < 450
    # The trainer's reader is the same, and adds what it can do without the file.
    with pytest.raises(UnreadableFileError, match="cannot be read: it is damaged or no checkpoint: ") as error:
        load_checkpoint(tmp_path / name)
    assert error.value.reason in str(error.value)


def test_an_archive_larger_than_its_file_is_not_unpacked(tmp_path: Path) -> None:
    # Two entries of the table of contents that share one place in the file.
    content = bytearray(GOOD)
    place = content.rindex(b"PK\x01\x02")
    field = place + 20
    content[field : field + 8] = struct.pack("<II", 10**9, 10**9)
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UnreadableFileError, match="declares more than the file holds"):
        read_weights_file(tmp_path / "w.pth")


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/maedfer_was_here",)


def test_code_is_named_and_not_run(tmp_path: Path) -> None:
    for content in (stored({"model": WEIGHTS, "x": Code()}), pickle.dumps(Code(), 2)):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(InputError, match=r"is refused: .* could run code \((posix|nt)\.mkdir\)") as error:
            read_weights_file(tmp_path / "w.pth")
        assert "\n" not in str(error.value) and not isinstance(error.value, UnreadableFileError)
    assert not os.path.exists("/tmp/maedfer_was_here")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.pth"))
    for path, message in {
        tmp_path / "pipe.pth": "a pipe",
        tmp_path / "socket.pth": "a socket",
        Path("/dev/zero"): "a device",
        tmp_path: "it is a folder",
        tmp_path / "absent.pth": "does not exist",
        tmp_path / "pipe.pth" / "x": "does not exist",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
        tmp_path / "a\0b": "is no name of a file",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            read_weights_file(path)
        assert not isinstance(error.value, UnreadableFileError)


def test_damage_anywhere_is_a_sentence(tmp_path: Path) -> None:
    """Bytes changed at random: what can still be read is, and nothing else than a sentence is raised."""
    generator = np.random.default_rng(0)
    path = tmp_path / "w"
    save_file(WEIGHTS, path)
    for layout in (GOOD, stored(WEIGHTS, _use_new_zipfile_serialization=False), path.read_bytes()):
        for _ in range(60):
            content = bytearray(layout)
            for place in generator.integers(len(content), size=3):
                content[place] = generator.integers(256)
            path.write_bytes(content)
            try:
                read_weights_file(path)
            except InputError as error:
                assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("write", [write_torch_file, write_safetensors_file])
def test_a_full_disk_keeps_the_previous_file(write: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "w"
    write(path, WEIGHTS)
    before = path.read_bytes()
    # The kernel refuses a write beyond this size in the middle of the file, as a full disk does.
    limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        with pytest.raises(InputError, match="cannot write .*File too large.*the previous file is kept") as error:
            write(path, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w"] and "\n" not in str(error.value)
