"""Checkpoints as folders into which every process writes its own part (`train.checkpoint=sharded`).

The tensors are those of `torch.distributed.checkpoint`, which brings them into other parts as they are read: for any
number of processes, sharded or not, or for one process that wants all of them whole. Beside them lie `run.pt`, with all
else that a run needs, and, written last, `complete.json` with the size and SHA-256 of every file. A folder without it
was not finished.

The index of tensors that PyTorch writes is a pickle. It is read by what knows the classes of such an index and nothing
else, and only from files that `complete.json` names.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from maedfer._files import sync_to_disk
from maedfer.errors import InputError, some
from maedfer.models.load import RUN_FORMAT, SHARDED_FORMAT, SHARDED_MARKER
from maedfer.models.weight_files import UnreadableFileError, read_weights_file, save_torch

REST, INDEX = "run.pt", ".metadata"
# What of a run's state lies in parts.
_TENSORS = ("model", "ema", "optimizer")
_CLASSES = {
    metadata.__name__: (
        "Metadata",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    filesystem.__name__: ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
}
# A tensor to read into, by its name and what the index says of it; None for one of the process's own.
Destination = Callable[[str, TensorStorageMetadata], "Tensor | None"]


class FolderForm:
    """A checkpoint as a folder of parts."""

    suffix = ""

    def is_there(self, path: Path) -> bool:
        """Whether there is a folder."""
        return path.is_dir()

    def write(self, path: Path, state: Mapping[str, Any]) -> None:
        """Write a state that this process has all of."""
        tensors, rest = parted(state)
        path.mkdir()
        save_torch(path / REST, rest)
        save_tensors(path, tensors, no_dist=True)
        names = [file.name for file in path.iterdir()]
        complete(path, {name: fingerprint(path / name) for name in names}, rest)

    def step(self, path: Path) -> int:
        """The step that a whole folder is of."""
        return int(checked(path)["step"])


def parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a run's state, by path, and all the rest."""
    tensors: dict[str, Tensor] = {}
    for name in _TENSORS:
        part = state[name]
        if name == "optimizer":
            for number, kept in part["state"].items():
                tensors |= {f"{name}/{number}/{key}": value for key, value in kept.items()}
        elif part is not None:
            tensors |= {f"{name}/{key}": value for key, value in part.items()}
    rest = {name: value for name, value in state.items() if name not in _TENSORS}
    rest["ema"] = state["ema"] is not None
    return tensors, {"format": RUN_FORMAT, **rest, "param_groups": state["optimizer"]["param_groups"]}


def put_together(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """A run's state from what `parted` made of it."""
    state = {name: value for name, value in rest.items() if name not in ("ema", "param_groups")}
    found: dict[str, dict[str, Any]] = {name: {} for name in _TENSORS}
    for path, value in tensors.items():
        name, _, key = path.partition("/")
        if name == "optimizer":
            number, _, key = key.partition("/")
            found[name].setdefault(number, {})[key] = value
        else:
            found[name][key] = value
    moments = {int(number): kept for number, kept in found["optimizer"].items()}
    return {
        **state,
        "model": found["model"],
        "ema": found["ema"] if rest["ema"] else None,
        "optimizer": {"state": moments, "param_groups": rest["param_groups"]},
    }


def save_tensors(path: Path, tensors: dict[str, Tensor], *, no_dist: bool = False) -> None:
    """Write tensors into a folder; every process of the group its part.

    Raises:
        OSError: it could not be written.
    """
    try:
        with warnings.catch_warnings():
            # That one process is alone is no news.
            warnings.simplefilter("ignore")
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(path), no_dist=no_dist)
    except dcp.api.CheckpointException as error:
        raise os_error(error) from error


def os_error(error: BaseException) -> OSError:
    """What went wrong when tensors were written, as an error of the system."""
    if isinstance(error, dcp.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return error if isinstance(error, OSError) else OSError(" ".join(str(error).split()) or type(error).__name__)


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def complete(path: Path, files: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
    """Say of a folder that it is whole, and have it on disk."""
    absent = [name for name in files if not (path / name).is_file()]
    if absent:
        raise OSError(f"process 0 does not see {absent[0]} of another one: the run folder must be on shared storage")
    for name in (REST, INDEX):
        sync_to_disk(path / name)
    content = {"format": SHARDED_FORMAT, "step": _step_of(rest), "files": dict(sorted(files.items()))}
    (path / SHARDED_MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sync_to_disk(path / SHARDED_MARKER)
    sync_to_disk(path)


def checked(path: Path) -> dict[str, Any]:
    """What a folder says of itself, after all of its files were held against it.

    Raises:
        UnreadableFileError: it was not finished, or a file is missing or is not what was written.
    """
    content = _marker(path)
    for name, known in content["files"].items():
        if not (path / name).is_file():
            raise _damaged(path, f"{name} is missing")
        try:
            found = fingerprint(path / name)
        except OSError as error:
            raise InputError(f"{path / name} cannot be read: {error.strerror}") from error
        if found["bytes"] != known["bytes"]:
            raise _damaged(path, f"{name} has {found['bytes']:,} bytes, not {known['bytes']:,}")
        if found["sha256"] != known["sha256"]:
            raise _damaged(path, f"{name} is not what was written: its digest does not fit")
    # Nothing else holds the marker against anything.
    step = _step_of(read_weights_file(path / REST))
    if content["step"] != step:
        raise _damaged(path, f"{SHARDED_MARKER} says step {content['step']}, and {REST} holds step {step}")
    return content


def read_folder(path: Path, destination: Destination | None = None) -> dict[str, Any]:
    """The state of a run from a checkpoint of parts that is whole (`checked`).

    Args:
        path: of the folder.
        destination: gives tensors to read into, which may lie in parts; others are whole, on the CPU.

    Raises:
        InputError: it is damaged, or holds what no such checkpoint does.
    """
    files = _marker(path)["files"]
    rest = read_weights_file(path / REST)
    if not isinstance(rest, dict) or "param_groups" not in rest:
        raise _damaged(path, f"{REST} holds no state of a run")
    reader = _Reader(path)
    index = reader.read_metadata()
    where = {info.relative_path for info in index.storage_data.values()}
    if foreign := sorted(where - set(files)):
        raise _damaged(path, f"its index names {some(foreign)}, which {SHARDED_MARKER} does not")
    tensors: dict[str, Tensor] = {}
    for name, info in index.state_dict_metadata.items():
        if not isinstance(info, TensorStorageMetadata):
            raise _damaged(path, f"{name} is no tensor")
        into = destination(name, info) if destination is not None else None
        tensors[name] = torch.empty(info.size, dtype=info.properties.dtype) if into is None else into
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except Exception as error:
        # Damage that a digest was made to fit.
        raise _damaged(path, " ".join(str(os_error(error)).split())[:200]) from error
    return put_together(tensors, rest)


class _Reader(dcp.FileSystemReader):
    """PyTorch's reader of such folders, with an index that runs no code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / INDEX
        try:
            index = _IndexUnpickler(io.BytesIO(path.read_bytes())).load()
        except InputError:
            raise
        except Exception as error:
            raise _damaged(path.parent, f"its index is damaged ({type(error).__name__})") from error
        if not isinstance(index, Metadata) or index.storage_data is None:
            raise _damaged(path.parent, f"{INDEX} is no index of tensors")
        index.storage_meta = index.storage_meta or metadata.StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


class _IndexUnpickler(pickle.Unpickler):
    """Knows the classes of an index of tensors, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        if module.split(".")[0] == "pathlib" and name in ("PosixPath", "WindowsPath", "PurePosixPath"):
            # Where it was written, which is not looked at.
            return pathlib.PurePosixPath
        raise InputError(
            f"the index of a sharded checkpoint is refused: it names {module}.{name}, which is no part of one and "
            "could run code"
        )


def _marker(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / SHARDED_MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(path, f"it was not finished, there is no {SHARDED_MARKER} in it") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{SHARDED_MARKER} cannot be read: {error}") from error
    files = content.get("files") if isinstance(content, dict) and content.get("format") == SHARDED_FORMAT else None
    if not isinstance(files, dict) or not isinstance(content.get("step"), int):
        raise _damaged(path, f"{SHARDED_MARKER} is not that of a sharded checkpoint")
    for name, known in files.items():
        if Path(name).name != name or name in ("", "..", ".") or not isinstance(known, dict):
            raise _damaged(path, f"{SHARDED_MARKER} names {name!r}, which is no file in it")
        if not isinstance(known.get("bytes"), int) or not isinstance(known.get("sha256"), str):
            raise _damaged(path, f"{SHARDED_MARKER} says nothing of {name}")
    if not {REST, INDEX} <= files.keys():
        raise _damaged(path, f"{SHARDED_MARKER} lacks {REST} or {INDEX}")
    return content


def _step_of(rest: Any) -> int:
    position = rest.get("position") if isinstance(rest, Mapping) else None
    return int(position.get("step") or 0) if isinstance(position, Mapping) else 0


def _damaged(path: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(f"checkpoint {str(path)!r} cannot be read: {reason}", reason)


def _digest(file: Any) -> Any:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest
