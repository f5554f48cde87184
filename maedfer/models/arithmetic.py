"""What a machine computes fast, and what keeps results the same from one process to another."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import torch

from maedfer._native import MODULES
from maedfer.kernels import choose
from maedfer.kernels._multiplier import ENVIRONMENT, use_multiplier


@functools.cache
def bfloat16_instructions() -> str:
    """The instructions by which the processor multiplies bfloat16, as its makers call them; "" where it has none."""
    # csrc asks the processor itself. PyTorch's answer is the only one where nothing was compiled.
    compiled = MODULES["cpu"]
    variants = compiled.variants() if compiled is not None else []
    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16", False) or any(name.startswith("amx") for name in variants):
        return "AMX-BF16"
    return "AVX512-BF16" if has.get("avx512_bf16", False) or "avx512_bf16" in variants else ""


def steady_multiplier() -> str:
    """Who multiplies on a CPU inside of `steady_products`: a library's name, or "auto" where that may change."""
    return os.environ.get(ENVIRONMENT) or ("csrc" if MODULES["cpu"] is not None else "pytorch")


@contextlib.contextmanager
def steady_products() -> Iterator[None]:
    """Let one library make all products on a CPU inside of a `with` block.

    Which one is the fastest is measured otherwise, by every process anew, and two of them may come to different
    choices, whose sums differ by roundings. What the environment says of MAEDFER_PRODUCTS holds here as well.
    """
    with contextlib.nullcontext() if os.environ.get(ENVIRONMENT) else use_multiplier(steady_multiplier()):
        yield


def computed_by(impl: str, device: torch.device) -> str:
    """Who computes a model of a setting on a device, as `kernels.choose` names them: only passes of Triton's kernels
    ("triton") can be captured as CUDA graphs."""
    return choose(impl, device)
