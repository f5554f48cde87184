"""What a results file says about where it was made."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from maedfer._native import build_record

_FOLDER = Path(__file__).resolve().parent

# What matters to products and loops, as Linux has it.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Device, instruction sets, versions, commit, date, and what of csrc was compiled.

    Args:
        device: "cpu" or "cuda".
    """
    processor = _said("model name") or platform.processor()
    flags = (_said("flags") or _said("Features")).split()
    found: dict[str, Any] = {
        "device": f"{processor}, {torch.get_num_threads()} threads",
        "processor": processor,
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        # Changes the rounding and the speed of the kernels, and its default differs between versions of Triton.
        "TRITON_DEFAULT_FP_FUSION": os.environ.get("TRITON_DEFAULT_FP_FUSION"),
        "csrc": [part for part, entry in build_record().items() if entry["built"]],
    }
    if device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        found["cuda"] = torch.version.cuda
    return found


def _commit() -> str | None:
    """What MAEDFER_COMMIT says, for a copy of the files that is no checkout; else the checkout's commit."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=_FOLDER).stdout.strip()
    except OSError:
        found = ""
    return os.environ.get("MAEDFER_COMMIT") or found or None


def _said(key: str) -> str:
    """What Linux says of the first processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
