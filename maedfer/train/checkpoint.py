"""Checkpoints of a run: written whole or not at all, read without running code.

A checkpoint holds tensors and plain values only, so that `torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import random
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maedfer._files import remove_temporaries
from maedfer.errors import InputError
from maedfer.models.digest import DIGEST, content_digest, fits_digest
from maedfer.models.load import RUN_FORMAT
from maedfer.models.weight_files import UnreadableFileError, read_weights_file, save_torch, write_torch_file
from maedfer.train.checkpoint_folder import Destination, read_folder
from maedfer.train.config import RunConfig, differing_keys, resolve
from maedfer.train.config_file import as_it_was

# What a checkpoint must hold to be gone on from, beside its settings.
_STATE = ("position", "model", "optimizer", "scaler", "meter", "processes", "lists", "global_batch")


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` with its digest so that `path` holds either the old file or the whole new one, whatever happens.

    Raises:
        InputError: it could not be written (disk full, no permission); the previous file is untouched.
    """
    write_torch_file(path, _with_digest(state))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` with its digest into a file of nobody else.

    Raises:
        OSError: it could not be written; a part of it may be there.
    """
    save_torch(path, _with_digest(state))


def _with_digest(state: Mapping[str, Any]) -> dict[str, Any]:
    content = {"format": RUN_FORMAT, **state}
    return {**content, DIGEST: content_digest(content)}


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote into a run folder, or the model in it."""
    for place in (Path(folder), Path(folder) / "checkpoints", Path(folder) / "model"):
        remove_temporaries(place)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU and hold it against its checksums and, where it has one, its digest.

    Raises:
        UnreadableFileError: it is cut short, damaged, changed, or something else than a file of weights.
        InputError: absent, not a checkpoint of a run, or a pickle that would run code.
    """
    if not Path(path).is_file():
        raise InputError(f"checkpoint {str(path)!r} does not exist")
    try:
        state = read_weights_file(path)
    except UnreadableFileError as error:
        raise _unreadable(path, error.reason) from error
    if not isinstance(state, dict) or state.get("format") != RUN_FORMAT:
        raise InputError(
            f"{str(path)!r} is not a checkpoint of a run (published weights go to train.init or eval.checkpoint)"
        )
    if not is_intact(path):
        raise _unreadable(path, "its checksums do not fit what it holds")
    if not fits_digest(state):
        raise _unreadable(path, "its digest does not fit what it holds")
    return state


def _unreadable(path: str | Path, reason: str) -> UnreadableFileError:
    message = f"checkpoint {str(path)!r} cannot be read: it is damaged or no checkpoint: {reason}"
    return UnreadableFileError(message, reason)


def check_same_run(path: str | Path, there: RunConfig, here: RunConfig) -> None:
    """Refuse to go on from settings that would give another run.

    Args:
        path: of the checkpoint, for the message.
        there, here: settings of the run that made it, and of this one.

    Raises:
        InputError: naming every key that differs.
    """
    keys = differing_keys(there, here)
    if keys:
        raise InputError(
            f"{str(path)!r} was made with other settings: {'; '.join(keys)}: "
            "use the same ones to resume, or another output folder for a new run"
        )


def load_resumable(
    path: str | Path, cfg: RunConfig, global_batch: int, into: Destination | None = None
) -> dict[str, Any]:
    """Read a checkpoint to go on from.

    Args:
        path: of the checkpoint, a file, or a folder that is whole.
        cfg: settings of the run that goes on.
        global_batch: clips of one of its steps.
        into: where a folder is read into, see `read_folder`.

    Raises:
        InputError: it cannot be read, holds weights only, or belongs to a run with other settings.
    """
    try:
        state = read_folder(Path(path), into) if Path(path).is_dir() else load_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}; {way_on(path)}" if Path(path).exists() else str(error)) from error
    if not isinstance(state.get("config"), dict):
        raise InputError(f"checkpoint {str(path)!r} says nothing of the settings it was made with: {way_on(path)}")
    check_same_run(path, resolve(as_it_was(state["config"])), cfg)
    if "optimizer" not in state:
        raise InputError(f"{str(path)!r} holds weights only and cannot be resumed from: use last.pt or epoch_*.pt")
    absent = [name for name in _STATE if name not in state]
    if absent:
        raise InputError(f"checkpoint {str(path)!r} lacks {', '.join(absent)}: {way_on(path)}")
    if state["global_batch"] != global_batch:
        raise InputError(
            f"{str(path)!r} was made with {state['global_batch']} clips a step, here they are {global_batch}: "
            "train.batch_size x processes x train.accumulate must stay the same"
        )
    return state


def is_intact(path: str | Path) -> bool:
    """Whether a file is what was written, by its checksums, which PyTorch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    # Flipped bytes may also name a way of compression that zipfile has NotImplementedError for.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, struct.error):
        return False


def way_on(path: str | Path) -> str:
    """What to do about a checkpoint that cannot be gone on from."""
    folder = Path(path).parent
    found = (other for other in folder.glob("epoch_*.pt") if other != Path(path))
    # Numbers have three digits, or more: epoch_1000 is later than epoch_999.
    others = sorted(found, key=lambda other: (len(other.name), other.name), reverse=True)
    before = [folder / "previous.pt"] if Path(path).name == "last.pt" else []
    earlier = next((other for other in (*before, *others) if is_intact(other)), None)
    anew = f"remove {folder} to start anew" if folder.name == "checkpoints" else "start anew"
    if earlier is not None:
        return f"go on from an earlier one with train.resume={earlier}, or {anew}"
    best = folder / "best.pt"
    if best != Path(path) and best.is_file():
        return f"{anew}; {best} still holds the weights of the best epoch"
    if (folder.parent / "model").is_dir():
        return f"{anew}; {folder.parent / 'model'} still holds what the run came to"
    return anew


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator of this process as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, key, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(key).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put every random generator of this process back to a `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, key, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
