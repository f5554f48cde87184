"""Checkpoints of a run: written whole or not at all, read without running code.

A checkpoint holds tensors and plain values only, so that `torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maedfer._files import atomic_path
from maedfer.errors import InputError
from maedfer.models.load import RUN_FORMAT
from maedfer.train.config import RunConfig, differing_keys, resolve


def save_checkpoint(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` so that `path` holds either the old file or the whole new one, whatever happens.

    Raises:
        InputError: it could not be written (disk full, no permission); the previous file is untouched.
    """
    path = Path(path)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": RUN_FORMAT, **state}, file)
            file.flush()
        except RuntimeError as error:
            # torch wraps the OSError of a failed write, or reports only what followed from it.
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0]) from error


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote a checkpoint."""
    for path in Path(folder).glob(".*.pt.*.tmp"):
        path.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        InputError: absent, cut short, not a checkpoint of a run, or a pickle that would run code.
    """
    if not Path(path).is_file():
        raise InputError(f"checkpoint {str(path)!r} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {str(path)!r} holds something other than tensors and plain values, and is not loaded "
            "because that could run code"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"checkpoint {str(path)!r} cannot be read: it is damaged or no checkpoint") from error
    if not isinstance(state, dict) or state.get("format") != RUN_FORMAT:
        raise InputError(
            f"{str(path)!r} is not a checkpoint of a run (published weights go to train.init or eval.checkpoint)"
        )
    return state


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


def load_resumable(path: str | Path, cfg: RunConfig, global_batch: int) -> dict[str, Any]:
    """Read a checkpoint to go on from.

    Args:
        path: of the checkpoint.
        cfg: settings of the run that goes on.
        global_batch: clips of one of its steps.

    Raises:
        InputError: it cannot be read, holds weights only, or belongs to a run with other settings.
    """
    state = load_checkpoint(path)
    check_same_run(path, resolve(state["config"]), cfg)
    if "optimizer" not in state:
        raise InputError(f"{str(path)!r} holds weights only and cannot be resumed from: use last.pt or epoch_*.pt")
    if state["global_batch"] != global_batch:
        raise InputError(
            f"{str(path)!r} was made with {state['global_batch']} clips a step, here they are {global_batch}: "
            "train.batch_size x processes x train.accumulate must stay the same"
        )
    return state


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
