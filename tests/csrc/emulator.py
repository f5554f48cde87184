"""The kernels of csrc/cuda on the CPU: builds and calls the emulator of this directory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"

# In the order of the arguments: i an int64, p an address, b a bool.
_FUNCTIONS = {
    "emulate_fault": "i",
    "emulate_tubelets": "pppppppi",
    "emulate_reconstruction_loss": "piiippppbbpp",
}
_TYPES = {"i": ctypes.c_int64, "p": ctypes.c_void_p, "b": ctypes.c_bool}


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
        self.library.emulator_error.restype = ctypes.c_char_p
        for name, arguments in _FUNCTIONS.items():
            getattr(self.library, name).argtypes = [_TYPES[argument] for argument in arguments]
            getattr(self.library, name).restype = ctypes.c_int64

    def call(self, name: str, *arguments: int | bool) -> int:
        """What function `name` returns; addresses are numbers."""
        self.library.emulator_reset()
        return getattr(self.library, name)(*arguments)

    @property
    def error(self) -> str:
        """The fault that ended the last call; empty if there was none."""
        return self.library.emulator_error().decode()
