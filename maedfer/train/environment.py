"""What a run ran on: versions, device, code; and what the device can do and has used."""

from __future__ import annotations

import datetime
import functools
import hashlib
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
    return {
        **machine(runtime),
        "command": sys.argv,
        "host": platform.node(),
        "started": now(),
        "ended": None,
    }


def machine(runtime: Runtime) -> dict[str, Any]:
    """What results may depend on beside settings and clips: versions, device, arithmetic, code of the package."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "maedfer": __version__}
    versions.update({name: _version(name) for name in _PACKAGES})
    # A class of its own, which a checkpoint must not hold.
    versions["torch"] = str(torch.__version__)
    cuda = runtime.device.type == "cuda"
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(runtime.device) if cuda else f"CPU ({torch.get_num_threads()} threads)",
        "cuda": torch.version.cuda if cuda else None,
        "processes": runtime.world,
        "precision": runtime.precision,
        **git_state(),
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


@functools.cache
def git_state() -> dict[str, str | None]:
    """The revision of the package's own checkout, with "-dirty" where files have changed, and a digest of the changes.

    Returns:
        "git_revision", and as "git_changes" the SHA-256 of `git diff HEAD`; None where there is no such thing.
    """
    # The package's own checkout only: an installed package may well lie inside of somebody else's repository.
    root = Path(__file__).resolve().parents[2]
    revision = changes = None
    if (root / ".git").exists():
        said = _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        revision = said.decode().strip() or None
        if revision and revision.endswith("-dirty"):
            diff = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
            changes = hashlib.sha256(diff).hexdigest() if diff else None
    return {"git_revision": revision, "git_changes": changes}


def _git(root: Path, *words: str) -> bytes:
    try:
        return subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return b""
