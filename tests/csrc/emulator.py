"""The kernels of csrc/cuda on the CPU: builds and calls the emulator of this directory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"
# The numbers of csrc/element.h.
ELEMENTS = {torch.bfloat16: 1, torch.float16: 2}

# In the order of the arguments: i an int64, p an address, b a bool, f a float.
_FUNCTIONS = {
    "emulate_product": "ipppb",
    "emulate_rounding": "iipp",
    "emulate_fault": "i",
    "emulate_region_attention_forward": "iiiiipppiip",
    "emulate_region_attention_backward": "iiiiipppiipiipppii",
    "emulate_tubelets": "pppppppi",
    "emulate_reconstruction_loss": "piiippppbbpp",
    "emulate_region_attention_supported": "ii",
    "emulate_interaction": "ipppbfi",
    "emulate_interaction_plan": "iiiip",
    "emulate_interaction_walkers": "iiii",
}
_TYPES = {"i": ctypes.c_int64, "p": ctypes.c_void_p, "b": ctypes.c_bool, "f": ctypes.c_float}


def compiler() -> str | None:
    """A host compiler that can build the emulator."""
    return shutil.which("g++")


class Emulator:
    """The shared library, built into `directory`."""

    def __init__(self, directory: Path) -> None:
        target = directory / "emulate.so"
        command = [
            compiler() or "g++", "-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra",
            # The compiler of the host has no loops to unroll for these kernels.
            "-Wno-unknown-pragmas",
            f"-I{SOURCES}", f"-I{Path(__file__).parent}", str(Path(__file__).parent / "emulate.cpp"), "-o", str(target),
        ]  # fmt: skip
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        self.library = ctypes.CDLL(str(target))
        self.library.emulator_allow.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool]
        self.library.emulator_error.restype = ctypes.c_char_p
        self.library.emulator_conflicts.restype = ctypes.c_int64
        for name, arguments in _FUNCTIONS.items():
            getattr(self.library, name).argtypes = [_TYPES[argument] for argument in arguments]
            getattr(self.library, name).restype = ctypes.c_int64

    def call(self, name: str, *arguments: object, reads: Sequence[Tensor] = (), writes: Sequence[Tensor] = ()) -> int:
        """What function `name` returns. It may read and write these tensors' memory only, and each byte once.

        Tensors among the arguments become their addresses.
        """
        self.library.emulator_reset()
        for tensor in reads:
            self._allow(tensor, False)
        for tensor in writes:
            self._allow(tensor, True)
        return getattr(self.library, name)(*(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments))

    @property
    def error(self) -> str:
        """The fault that ended the last call; empty if there was none."""
        return self.library.emulator_error().decode()

    @property
    def conflicts(self) -> int:
        """Matrix loads of the last call that met others in a bank of shared memory."""
        return self.library.emulator_conflicts()

    def allow_everything(self) -> None:
        """Let the next call read and write all memory."""
        self.library.emulator_reset()
        self.library.emulator_allow_everything()

    def _allow(self, tensor: Tensor, output: bool) -> None:
        reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if tensor.numel():
            self.library.emulator_allow(tensor.data_ptr(), reach * tensor.element_size(), output)
