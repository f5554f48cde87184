"""Where weights of other people's models lie: a file, a folder of transformers, a folder of DeepSpeed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maedfer.errors import InputError
from maedfer.models.serialization import read_json
from maedfer.models.weight_files import read_weights_file

# What `from_pretrained` of transformers looks for, in its order.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_OTHER_FRAMEWORKS = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index")
_ZERO_TO_FP32 = "put it together with the zero_to_fp32.py that DeepSpeed has left beside it, and give what that writes"
_PART = re.compile(r"-\d{5}-of-\d{5}\.")


@dataclass(frozen=True)
class Source:
    """Weights as they were found.

    Attributes:
        content: what the file holds; of parts, all of them together.
        name: what messages call it.
        folder: where a configuration would lie beside it; None for what came from no file.
    """

    content: Any
    name: str
    folder: Path | None = None


def read_source(path: Path) -> Source:
    """Read weights from a file or from a folder that holds those of one model.

    Raises:
        InputError: there are none, they cannot be read, or parts are missing.
    """
    if not os.path.isdir(path):
        if path.name.endswith(".index.json") or _PART.search(path.name):
            raise InputError(f"{path} is one of several parts of a model: give their folder, {str(path.parent)!r}")
        if "zero_pp_rank_" in path.name:
            raise InputError(f"{path} is a part of a checkpoint of DeepSpeed: {_ZERO_TO_FP32}")
        return Source(read_weights_file(path), str(path), path.parent)
    if tag := deepspeed_folder(path):
        return _deepspeed(tag)
    for name in _WHOLE:
        if os.path.exists(path / name):
            return Source(read_weights_file(path / name), str(path / name), path)
        if os.path.exists(path / f"{name}.index.json"):
            return Source(_parts(path / f"{name}.index.json"), str(path), path)
    raise InputError(f"{str(path)!r} holds no weights that can be read: {instead(path)}")


def deepspeed_folder(path: Path) -> Path | None:
    """The folder with the states of DeepSpeed's latest checkpoint in `path`, or `path` where it is one itself."""
    latest = path / "latest"
    if os.path.isfile(latest):
        try:
            tag = latest.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        if tag and tag == Path(tag).name and os.path.isdir(path / tag):
            return path / tag
    return path if any(path.glob("*mp_rank_*_model_states.pt")) else None


def _deepspeed(folder: Path) -> Source:
    """The weights of a DeepSpeed checkpoint, which are whole in one file up to ZeRO-2."""
    path = folder / "mp_rank_00_model_states.pt"
    if not os.path.isfile(path) or any(folder.glob("zero_pp_rank_*_model_states.pt")):
        raise InputError(f"{str(folder)!r} is a checkpoint of DeepSpeed that ZeRO-3 has cut up: {_ZERO_TO_FP32}")
    if os.path.exists(folder / "mp_rank_01_model_states.pt"):
        raise InputError(
            f"{str(folder)!r} is a checkpoint of DeepSpeed whose layers lie in several files (tensor parallel): "
            "put them together where it was made, and save them by torch.save"
        )
    return Source(read_weights_file(path), str(path), folder)


def _parts(index: Path) -> dict[str, Any]:
    """The weights of a model in several files, as the index names them."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(part, str) for part in places.values()):
        raise InputError(f"{index} has no weight_map of weights and files: it is no index of a model in parts")
    content: dict[str, Any] = {}
    for part in sorted(set(places.values())):
        if part != Path(part).name:
            raise InputError(f"{index} names {part!r}, which is not a file of its own folder")
        if not os.path.exists(index.parent / part):
            raise InputError(f"{index} names {part!r}, which is missing: download all parts of the model")
        weights = read_weights_file(index.parent / part)
        if not isinstance(weights, Mapping):
            raise InputError(f"{index.parent / part} holds a {type(weights).__name__}, not a part of a state dict")
        content |= weights
    missing = [name for name in places if name not in content]
    if missing:
        raise InputError(
            f"{index} places {missing[0]} in {places[missing[0]]!r}, which does not hold it"
            + (f" ({len(missing)} in all)" if len(missing) > 1 else "")
        )
    return content


def instead(path: Path) -> str:
    """What a folder without the weights of a model holds, and what to give."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return f"it cannot be listed: {error.strerror}"
    for name in _OTHER_FRAMEWORKS:
        if name in names:
            return f"{name} is of another framework than PyTorch: save it as model.safetensors with transformers"
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return (
            "it is a checkpoint of torch.distributed.checkpoint: put it together with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    files = [name for name in names if name.endswith((".pth", ".pt", ".bin", ".ckpt", ".safetensors"))]
    if files:
        return f"give one of its files, such as {str(path / files[0])!r}"
    return f"it has neither {' nor '.join(_WHOLE)}"
