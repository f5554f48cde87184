"""A saved classifier whose large weights stay in their file, for whoever needs them once.

csrc multiplies with packings of weights (`fixed_weights`). Where these are made, what they were made of need not be in
memory as well: here it is the file itself, of which the system holds what is looked at until it is let go of.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from maedfer._files import parse_json
from maedfer.errors import InputError
from maedfer.models.config import LGIFormerConfig
from maedfer.models.fixed_weights import packed_weights
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.serialization import WEIGHTS_FILE, key_problems, own_tensors, read_clip_settings, read_config
from maedfer.models.tables import HoldsTables, fill_after_loading
from maedfer.models.weight_files import is_utf8

# Smaller weights are copied.
_LARGE = 1 << 16


class WeightsInFile:
    """Weights of a .safetensors file, in the file. Nobody may write it while they are used; a new one may replace it.

    Args:
        path: of the file.

    Attributes:
        tensors: by name. What is written to them is not written to the file, and is lost when they are let go of.

    Raises:
        OSError, ValueError, KeyError, safetensors.SafetensorError: it is none, or holds other numbers than float32.
    """

    def __init__(self, path: Path) -> None:
        # Refuses a header that does not describe the file.
        with safetensors.safe_open(path, framework="pt"):
            pass
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        begin = 8 + int.from_bytes(self._map[:8], "little")
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self.tensors: dict[str, Tensor] = {}
        for name, entry in parse_json(self._map[8:begin]).items():
            if name != "__metadata__":
                if entry["dtype"] != "F32":
                    raise ValueError(f"{name} is of {entry['dtype']}")
                start, stop = entry["data_offsets"]
                if (begin + start) % 4:
                    raise ValueError(f"{name} is not where numbers of four bytes can be read")
                # Each has a storage of its own: where a tensor is pickled, its whole storage is.
                values = torch.empty(0)
                if start < stop:
                    values = torch.frombuffer(
                        self._map, dtype=torch.float32, count=(stop - start) // 4, offset=begin + start
                    )
                self.tensors[name] = values.view(entry["shape"])

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor is in the file."""
        return 0 <= tensor.data_ptr() - self._bytes.data_ptr() <= len(self._bytes) - tensor.nbytes

    def keep(self, tensor: Tensor) -> None:
        """Put a tensor of the file into memory, where it is, whatever becomes of the file."""
        # What is written is no longer the file's.
        tensor.data.copy_(tensor.detach().clone())

    def let_go(self, tensor: Tensor | None = None) -> None:
        """Give the memory of a tensor back, or of all of them; who looks at it again reads the file again.

        Args:
            tensor: one of `tensors`, or a part of one; others are passed over. None = all of them.
        """
        start, size = 0, len(self._bytes)
        if tensor is not None:
            if not self.has(tensor):
                return
            start, size = tensor.data_ptr() - self._bytes.data_ptr(), tensor.nbytes
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = size + start if tensor is None else (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


def load_in_file(folder: Path) -> tuple[LGIFormer, WeightsInFile] | None:
    """A saved classifier as `load` gives it, but that the weights of its linear layers stay in their file.

    Args:
        folder: with config.json and the weights.

    Returns:
        The model in evaluation mode, and its weights; None where this cannot be done, or `load` has something to say.
    """
    path = folder / WEIGHTS_FILE
    if sys.platform != "linux" or not is_utf8(path) or not os.path.isfile(path):
        return None
    try:
        config = read_config(folder)
        if not isinstance(config, LGIFormerConfig):
            return None
        with torch.device("meta"):
            model = LGIFormer(config)
        held = WeightsInFile(path)
        model.clip_settings = read_clip_settings(folder)
    except (InputError, OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError):
        return None
    tensors = own_tensors(model)
    found, expected = ({name: tuple(value.shape) for name, value in group.items()} for group in (held.tensors, tensors))
    if key_problems(found, expected) or any(value.dtype != torch.float32 for value in tensors.values()):
        return None
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module, value = model.get_submodule(owner), held.tensors[name]
        stays = type(module) is nn.Linear and leaf == "weight" and value.nbytes >= _LARGE
        value = value if stays else value.clone()
        if isinstance(tensor, nn.Parameter):
            module._parameters[leaf] = nn.Parameter(value, tensor.requires_grad)
        else:
            module._buffers[leaf] = value
    for module in model.modules():
        if isinstance(module, HoldsTables):
            fill_after_loading(module)
    left = (*model.parameters(), *model.buffers())
    return None if any(one.is_meta for one in left) else (model.eval(), held)


def let_go_once_packed(model: nn.Module, held: WeightsInFile, run: Callable[[], object]) -> None:
    """Let go of the file of a model's weights: all that passes read is in memory then, whatever becomes of the file.

    Args:
        model: in a block of `fixed_weights`.
        held: its weights.
        run: makes a pass like all that follow, which packs weights.
    """
    packings, packed = packed_weights(model), dict[int, int]()

    def note(weight: Tensor) -> None:
        packed[weight.data_ptr()] = weight.nbytes
        held.let_go(weight)

    held.let_go()
    packings.on_packed = note
    try:
        run()
    finally:
        packings.on_packed = None
    for parameter in filter(held.has, model.parameters()):
        start, stop = parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes
        if sum(size for at, size in packed.items() if start <= at < stop) < parameter.nbytes:
            # Passes may read a part of it as it is. It stays where it is, as packings are known by where they are from.
            held.keep(parameter)
        else:
            held.let_go(parameter)
