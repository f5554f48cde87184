"""One file of weights, read without running any code in it: PyTorch's (.pth, .pt, .bin, .ckpt) or safetensors'.

What a file is, is told from its first bytes and not from its name, so that the same bytes read alike under any name
and what is no file of weights is called what it is.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import stat
import string
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from maedfer._files import atomic_path
from maedfer.errors import InputError

# What a saved model consists of.
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

# Beside tensors and plain containers: what training scripts keep in a checkpoint and what runs nothing when it is read.
_PLAIN: list[Any] = [argparse.Namespace, np.dtype]
_PLAIN += [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
# Versions of numpy and Python call these by names of their own, and files of all of them are about.
_PLAIN += [(np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
_PLAIN += [(pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]

_AGAIN = "copy or download it again"
_GIVE = "give the file of weights"
_CONVERT = "convert it to PyTorch or safetensors where it was made"
_SAVE = "save the weights alone, torch.save(model.state_dict(), 'weights.pth')"
_UNPACK = "unpack it and give the file of weights inside"

# What is given in place of weights now and then: its first bytes, what it is, and what to do.
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS, the weights themselves have not been downloaded",
        "run 'git lfs pull' in its folder",
    ),
    (b"\x93NUMPY", "it is an array of numpy (.npy)", _SAVE),
    (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes it", _CONVERT),
    (b"GGUF", "it is a GGUF file", _CONVERT),
    (b"\x1f\x8b", "it is compressed by gzip", _UNPACK),
    (b"BZh", "it is compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "it is compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive", _UNPACK),
    (b"Rar!", "it is a rar archive", _UNPACK),
    (b"%PDF", "it is a PDF document", _GIVE),
    (b"\x89PNG", "it is a picture", _GIVE),
    (b"\xff\xd8\xff", "it is a picture", _GIVE),
    (b"\x7fELF", "it is a program", _GIVE),
)
# The longest header that safetensors allows.
_SAFETENSORS_HEADER = 100_000_000


class UnreadableFileError(InputError):
    """A file that is damaged, cut short, or no file of weights at all.

    Told apart from other errors of input so that a caller that knows of another file can name it.

    Attributes:
        reason: what is wrong with it, without what to do.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _unreadable(path: Path, reason: str, advice: str) -> UnreadableFileError:
    kind = "safetensors file" if path.suffix == ".safetensors" else "checkpoint"
    return UnreadableFileError(f"{path} is not a readable {kind}: {reason}: {advice}", reason)


def read_weights_file(path: str | Path) -> Any:
    """What a file of weights holds, tensors on the CPU.

    Tensors, plain containers and values, argparse.Namespace and paths are let in, nothing else.

    Args:
        path: the file, under any name.

    Raises:
        UnreadableFileError: it is damaged, or something else than a file of weights.
        InputError: it does not exist, cannot be opened, or needs anything else to be loaded, which could be code.
    """
    path = Path(path)
    size = _size(path)
    if size == 0:
        raise _unreadable(path, "it is empty", _AGAIN)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if found := _not_weights(head, size):
        raise _unreadable(path, *found)
    if _is_safetensors(head, size) or (path.suffix == ".safetensors" and head[:1] not in (b"\x80", b"P")):
        return _read_safetensors(path)
    if head[:2] == b"PK":
        _check_archive(path, size)
    elif head[:1] != b"\x80":
        raise _unreadable(path, "its first bytes are those of no file of weights that is known", _AGAIN)
    return _read_torch(path)


def write_torch_file(path: str | Path, content: Any) -> None:
    """Write what torch.save writes so that `path` holds either the old file or the whole new one.

    Raises:
        InputError: it could not be written (disk full, no permission); the previous file is untouched.
    """
    with atomic_path(path) as temporary:
        save_torch(temporary, content)


def save_torch(path: Path, content: Any) -> None:
    """Write what torch.save writes into a file of nobody else.

    Raises:
        OSError: it could not be written; a part of it may be there.
    """
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
            file.flush()
        except RuntimeError as error:
            # torch wraps the OSError of a failed write, or reports only what followed from it.
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0]) from error


def write_safetensors_file(path: str | Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a .safetensors file so that `path` holds either the old file or the whole new one.

    Raises:
        InputError: it could not be written (disk full, no permission); the previous file is untouched.
    """
    with atomic_path(path) as temporary:
        try:
            if is_utf8(temporary):
                safetensors.torch.save_file(weights, temporary, metadata={"format": "pt"})
            else:
                # The library opens names in UTF-8 alone.
                temporary.write_bytes(safetensors.torch.save(weights, metadata={"format": "pt"}))
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def is_utf8(path: Path) -> bool:
    """Whether libraries that take names in UTF-8 alone can open `path`."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(path: Path) -> int:
    """Bytes of a regular file; anything else could be endless to read."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist: {_GIVE}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no name of a file: {error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} cannot be read, it is a folder: {_GIVE}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} cannot be read, it is a device, a pipe or a socket: {_GIVE}")
    return status.st_size


def _not_weights(head: bytes, size: int) -> tuple[str, str] | None:
    """What a file with these first bytes is that holds no weights, and what to do; None when it may hold some."""
    for start, what, advice in _STARTS:
        if head.startswith(start):
            return what, advice
    if head[4:8] == b"ftyp":
        return "it is a video", _GIVE
    if head[257:262] == b"ustar":
        return "it is a tar archive, or one that torch 0.3 or older has written", f"{_UNPACK}, or save it anew by torch"
    if re.match(rb"\x08[\x01-\x14][\x12\x1a\x22\x2a\x32\x3a]", head):
        return "it is an ONNX model", f"{_SAVE} from PyTorch"
    if _is_safetensors(head, size):
        return None
    if not head.strip(b"\x00"):
        return f"its first {len(head)} bytes are all zero, as a download that broke off leaves them", _AGAIN
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"(?i)<(!doctype|html|head|body|\?xml|script|title)", start):
        return "it is a web page, as a download without a log-in or a confirmation gives it", "download the file itself"
    if not head.translate(None, string.printable.encode()):
        kind = "JSON" if start[:1] in (b"{", b"[") else "text"
        line = start[:40].decode().splitlines()
        return f"it is {kind} and begins with {line[0] if line else ''!r}", _GIVE
    return None


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a header of a plausible length follows the first eight bytes."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= max(size, _SAFETENSORS_HEADER)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        if is_utf8(path):
            return safetensors.torch.load_file(path)
        # The library opens names in UTF-8 alone.
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # SafetensorError, and what a header that lies about types or sizes makes of it.
        reason = f"it is damaged or cut short ({_brief(error)})"
        raise _unreadable(path, reason, _AGAIN) from error


def _check_archive(path: Path, size: int) -> None:
    """Refuse archives that are not torch's, before anything is unpacked.

    torch stores without compression. An archive that declares more than the file holds would fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        # Damage makes of the table of contents what it likes.
        raise _unreadable(path, f"it is damaged or cut short ({_brief(error)})", _AGAIN) from error
    names = [entry.filename for entry in entries]
    parts = {name.partition("/")[2] for name in names}
    if any(part == "constants.pkl" or part.startswith("code/") for part in parts):
        raise _unreadable(path, "it is a TorchScript archive, which holds code", _SAVE)
    if "archive_format" in parts:
        raise _unreadable(path, "it is an archive of torch.export, which holds a program", _SAVE)
    if any(name.endswith(".npy") for name in names):
        raise _unreadable(path, "it is an archive of numpy arrays (.npz)", _SAVE)
    if "data.pkl" not in parts:
        some = ", ".join(repr(name) for name in names[:3]) or "nothing"
        raise _unreadable(path, f"it is a zip archive, not one of torch (it holds {some})", _UNPACK)
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed or sum(entry.file_size for entry in entries) > size:
        name = packed.filename if packed else "the whole"
        raise _unreadable(
            path,
            f"{name} in it is compressed or declares more than the file holds, and is not unpacked as it could fill "
            "the memory, while torch stores weights as they are",
            "load it where it was made, and save it again by torch.save",
        )


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            # A pickle of another protocol is warned about on several lines before it is refused in one.
            warnings.simplefilter("ignore")
            # torch opens names in UTF-8 alone, so it gets the open file.
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged pickle can raise anything at all.
        cause = _refused_part(error)
        if cause:
            raise InputError(
                f"{path} is refused: it holds objects that could run code ({cause}); load it where it was made, and "
                "save the state dict alone by torch.save"
            ) from None
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        raise _unreadable(path, f"it is damaged or cut short ({_brief(error)})", _AGAIN) from None


def _refused_part(error: Exception) -> str:
    """What torch would not unpickle, when that is why it raised."""
    text = " ".join(str(error).split())
    match = re.search(r"GLOBAL (\S+[^\s.])\s|(?:Trying to call|Can only (?:create|build)) [^;:]+", text)
    return (match[1] or match[0])[:200] if match else ""


def _brief(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
