"""What a run would go on from, found without the package's own way to find it, and damage done to that."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.soak.inside import digest


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole: its file, the steps that were done, a digest of its weights."""

    path: Path
    step: int
    weights: str

    def before(self) -> Found | None:
        """The one before `last`, if it can be read."""
        return _found(self.path.with_name("previous.pt"))


def find(output: Path, besides: Collection[str] = ()) -> Found | None:
    """The newest checkpoint of a run that can be read.

    Args:
        output: the run folder.
        besides: fingerprints of files that were edited, which can be read and must not be taken.
    """
    paths = (output / "checkpoints" / f"{name}.pt" for name in ("last", "previous"))
    return next((one for path in paths if (one := _found(path)) and fingerprint(path) not in besides), None)


def damage(output: Path, how: str, draw: random.Random) -> None:
    """Do to `last` what disks and people do."""
    path = output / "checkpoints" / "last.pt"
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


def fingerprint(path: Path) -> str:
    """What tells the content of a file from that of any other."""
    return hashlib.blake2b(path.read_bytes()).hexdigest()


def _found(path: Path) -> Found | None:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, weights_only=True)
        return Found(path, state["position"]["step"], digest(state["model"]))
    except Exception:
        # Whatever is wrong with it.
        return None
