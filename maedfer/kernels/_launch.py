"""What the launchers share: launching, recording launches, and sizes."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from maedfer.kernels._configs import Config


@dataclass(frozen=True)
class Launch:
    """One kernel launch: enough to compile it without a GPU."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    config: Config

    @property
    def described(self) -> list[Tensor]:
        """The tensors that it moves by descriptors."""
        return [arg.base for arg in self.args if isinstance(arg, TensorDescriptor)]


_recorder: list[Launch] | None = None


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of running them inside a `with` block; inputs may then be on the meta device."""
    global _recorder
    before, _recorder = _recorder, []
    try:
        yield _recorder
    finally:
        _recorder = before


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, config: Config, **constants: Any) -> None:
    """Run a kernel on the device of its first tensor, on the current stream. An empty grid is no launch.

    Args:
        kernel: a function under triton.jit.
        grid: number of programs along each axis.
        args: run-time arguments in the kernel's order.
        config: tile constants, warps and stages.
        constants: further constexpr arguments; enable_fp_fusion=False rounds products before they are added.
    """
    if 0 in grid:
        return
    names = _argument_names(kernel.fn)
    for name, size in config.tiles.items():
        # Some tiles are read by the launcher alone.
        if name in names:
            constants.setdefault(name, size)
    if _recorder is not None:
        _recorder.append(Launch(kernel, grid, args, constants, config))
        return
    # Its default differs between versions of Triton.
    constants.setdefault("enable_fp_fusion", True)
    constants.update(num_warps=config.num_warps, num_stages=config.num_stages)
    tensors = (arg.base if isinstance(arg, TensorDescriptor) else arg for arg in args)
    with _on_device(next(x.device for x in tensors if isinstance(x, Tensor))):
        kernel[grid](*args, **constants)


@functools.cache
def _argument_names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


_AS_IT_IS = contextlib.nullcontext()


def _on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _AS_IT_IS
    return torch.cuda.device(device)


@functools.lru_cache(1024)
def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that is not below `size` and `least`."""
    # Triton's own takes longer, as it is made for constants of kernels.
    return max(least, 1 << max(0, size - 1).bit_length())


def contiguous(x: Tensor | None) -> Tensor | None:
    """x without gaps, where there is one."""
    return x if x is None or x.is_contiguous() else x.contiguous()


def rows_of(x: Tensor) -> Tensor:
    """View [..., R, C] as [G, R, C] with unit stride along C; copies only what cannot be viewed so."""
    x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
    return x.unsqueeze(0) if x.dim() == 2 else x.flatten(0, -3)


def accumulator(dtype: torch.dtype) -> Any:
    """What sums are kept in: float32, or float64 for float64 (under the interpreter)."""
    return triton.language.float64 if dtype == torch.float64 else triton.language.float32


def dot_precision(dtype: torch.dtype) -> str:
    """How float32 products are computed: exactly, unless PyTorch is allowed TF32 in its own."""
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allowed else "ieee"
