"""What a run would go on from, found without the package's own way to find it, and damage done to that."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
import warnings
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from tests.soak.inside import digest

# Of a checkpoint that is a folder: what is no tensor, the index of those, and what says that it is whole.
REST, INDEX, MARKER = "run.pt", ".metadata", "complete.json"


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole: its file or folder, the steps that were done, a digest of its weights."""

    path: Path
    step: int
    weights: str

    def before(self) -> Found | None:
        """The one before `last`, if it can be read."""
        return _found(self.path.with_name(f"previous{self.path.suffix}"))


def find(output: Path, besides: Collection[str] = ()) -> Found | None:
    """The newest checkpoint of a run that can be read.

    Args:
        output: the run folder.
        besides: fingerprints of checkpoints that were edited, which can be read and must not be taken.
    """
    names = [f"{name}{suffix}" for name in ("last", "previous") for suffix in (".pt", "")]
    paths = (output / "checkpoints" / name for name in names)
    return next((one for path in paths if (one := _found(path)) and fingerprint(path) not in besides), None)


def path_of(output: Path) -> Path:
    """Where the latest checkpoint of a run is."""
    path = output / "checkpoints" / "last.pt"
    return path if path.is_file() else path.with_suffix("")


def content(path: Path, start: str = "") -> dict[str, Any]:
    """What a checkpoint holds; tensors of a folder are whole, by their paths, under "tensors".

    Args:
        path: of a file or a folder.
        start: of the paths of those tensors of a folder that are read.

    Raises:
        Exception: it is not whole, in whatever way.
    """
    if path.suffix:
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        return dict(torch.load(path, weights_only=True))
    marker = json.loads((path / MARKER).read_bytes())
    assert {REST, INDEX} < marker["files"].keys()
    for name, known in marker["files"].items():
        here = (path / name).read_bytes()
        assert (len(here), hashlib.sha256(here).hexdigest()) == (known["bytes"], known["sha256"])
    rest = torch.load(path / REST, weights_only=True)
    assert rest["position"]["step"] == marker["step"]
    return {**rest, "tensors": _tensors(path, start)}


def damage(output: Path, how: str, draw: random.Random) -> None:
    """Do to `last` what disks and people do."""
    path = path_of(output)
    (_damage_file if path.suffix else _damage_folder)(path, how, draw)


def fingerprint(path: Path) -> str:
    """What tells the content of a checkpoint from that of any other."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return hashlib.blake2b(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def _damage_file(path: Path, how: str, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[: draw.randrange(1, len(content))])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "removed":
        path.unlink()
    else:
        state = torch.load(path, weights_only=True)
        name = draw.choice([name for name, value in state["model"].items() if value.is_floating_point()])
        state["model"][name].view(-1)[0] += 1e-3
        # A file of its own: the one there may have another name too.
        path.unlink()
        torch.save(state, path)


def _damage_folder(path: Path, how: str, draw: random.Random) -> None:
    one = draw.choice(sorted(path.iterdir()))
    if how == "removed":
        shutil.rmtree(path)
    elif how == "unmarked":
        (path / MARKER).unlink()
    elif how == "part removed":
        one.unlink()
    elif how == "part of another":
        # As of a copy that was broken off: parts have the same names, and often the same sizes, in all checkpoints.
        part = draw.choice(sorted(path.glob("__*")))
        shutil.copyfile(path.with_name("previous") / part.name, part)
    elif how == "index edited":
        # Two tensors of the same shape in each other's place, which are read without any complaint.
        index = pickle.loads((path / INDEX).read_bytes())
        like = {key.fqn: key for key in index.storage_data}
        left, right = sorted(name for name in like if name.startswith("optimizer/0/exp_avg"))[:2]
        places = index.storage_data
        places[like[left]], places[like[right]] = places[like[right]], places[like[left]]
        (path / INDEX).write_bytes(pickle.dumps(index))
    elif how == "edited":
        rest = torch.load(path / REST, weights_only=True)
        rest["position"]["step"] += 1
        torch.save(rest, path / REST)
    else:
        _damage_file(one, how, draw)


def _tensors(path: Path, start: str) -> dict[str, Tensor]:
    """What PyTorch itself reads from a folder, whole, in one process."""
    reader = dcp.FileSystemReader(path)
    index: dict[str, Any] = reader.read_metadata().state_dict_metadata
    found: dict[str, Any] = {
        name: torch.empty(info.size, dtype=info.properties.dtype)
        for name, info in index.items()
        if name.startswith(start)
    }
    with warnings.catch_warnings():
        # That it is one process.
        warnings.simplefilter("ignore")
        dcp.load(found, storage_reader=reader, no_dist=True)
    return found


def _found(path: Path) -> Found | None:
    try:
        state = content(path, "model/")
        return Found(path, state["position"]["step"], digest(state["model"] if path.suffix else state["tensors"]))
    except Exception:
        # Whatever is wrong with it.
        return None
