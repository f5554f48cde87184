"""What a run ran on: versions, device, code; and what the device can do and has used."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from maedfer import __version__
from maedfer.train.processes import Runtime

_PACKAGES = (
    "torch",
    "triton",
    "torchvision",
    "numpy",
    "einops",
    "safetensors",
    "av",
    "decord",
    "pillow",
    "pyyaml",
    "tqdm",
)
# Peak dense matrix throughput in FLOP/s with 16-bit inputs, by a part of the device's name; the first match counts.
# Manufacturers' data sheets, without sparsity.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("A30", 165e12),
    ("A40", 150e12),
    ("RTX A6000", 155e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


def environment(runtime: Runtime) -> dict[str, Any]:
    """What a run ran on: versions, device, git revision of the package, command line, start time."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "maedfer": __version__}
    versions.update({name: _version(name) for name in _PACKAGES})
    versions["torch"] = torch.__version__
    cuda = runtime.device.type == "cuda"
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(runtime.device) if cuda else f"CPU ({torch.get_num_threads()} threads)",
        "cuda": torch.version.cuda if cuda else None,
        "processes": runtime.world,
        "precision": runtime.precision,
        "git_revision": _git_revision(),
        "command": sys.argv,
        "host": platform.node(),
        "started": now(),
        "ended": None,
    }


def peak_flops(runtime: Runtime) -> float | None:
    """The device's peak FLOP/s in the arithmetic of the run; None where it is not known."""
    if runtime.device.type != "cuda" or runtime.precision == "fp32":
        return None
    name = torch.cuda.get_device_name(runtime.device)
    return next((peak for part, peak in _PEAKS if part in name), None)


def memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the GPU's allocator, or the resident set of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    # The package's own checkout only: an installed package may well lie inside of somebody else's repository.
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
