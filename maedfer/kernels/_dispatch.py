"""Which implementation of an operation runs.

"reference" is the specification, "torch" the same mathematics arranged for speed in plain PyTorch (any device),
"triton" the fused kernels, "cuda" those of csrc/ for the operations that it has and Triton's for the rest. "auto" takes
the first of triton, torch that can run. An explicit choice that cannot run raises and says why; it never falls back.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from maedfer._native import MODULES, absent
from maedfer.errors import InputError, unknown

Impl = Literal["auto", "reference", "torch", "triton", "cuda"]

IMPLS: tuple[str, ...] = get_args(Impl)

ENVIRONMENT = "MAEDFER_IMPL"

_log = logging.getLogger("maedfer")

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRET = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

# Read once: what a process does must not depend on when something else changes its environment.
_current = os.environ.get(ENVIRONMENT, "") or "auto"
if _current not in IMPLS:
    raise InputError(f"environment variable {ENVIRONMENT}={_current!r}: choose one of {', '.join(IMPLS)}")


def current_impl() -> str:
    """What operations use that are not told: the innermost `use_impl`, else MAEDFER_IMPL, else "auto"."""
    return _current


@contextlib.contextmanager
def use_impl(impl: Impl) -> Iterator[None]:
    """Use an implementation inside a `with` block, for everything whose own choice is "auto".

    The choice belongs to the process, not to a thread.

    Raises:
        InputError: no such implementation.
    """
    global _current
    check_name(impl)
    before, _current = _current, impl
    try:
        yield
    finally:
        _current = before


def check_name(impl: str) -> None:
    """Refuse a name that is no implementation.

    Raises:
        InputError: naming those that are.
    """
    if impl not in IMPLS:
        raise unknown("implementation", impl, IMPLS)


def resolve(
    impl: str, x: Tensor, reasons: Callable[[], list[str]] = list, compiled: Callable[[], list[str]] | None = None
) -> str:
    """Choose between "reference", "torch", "triton" and "cuda" for one call.

    Args:
        impl: the caller's choice; "auto" leaves it to `current_impl`.
        x: an input, for its device and dtype.
        reasons: tells why the operation's Triton kernel cannot run these sizes, nothing when it can. Called only where
            kernels can run at all.
        compiled: the same of the operation's kernel in csrc/; None where it has none, so that "cuda" means "triton".

    Raises:
        InputError: "triton" or "cuda" was chosen and cannot run.
    """
    chosen = _current if impl == "auto" else impl
    if chosen in ("reference", "torch"):
        return chosen
    if chosen == "cuda":
        against = [f"tensors are on the {x.device.type} device"] if x.device.type != "cuda" else []
        against = against or (compiled() if compiled is not None else [])
        if against:
            raise InputError(f'impl="cuda" cannot run here: {"; ".join(against)}. Choose impl="auto" or "torch"')
        if compiled is not None:
            return "cuda"
        chosen = "triton"
    against = [*device_reasons(x.device.type, x.device.index), *dtype_reasons(x.dtype)] or reasons()
    if chosen == "triton":
        if against:
            raise InputError(f'impl="triton" cannot run here: {"; ".join(against)}. Choose impl="auto" or "torch"')
        return "triton"
    choice = "torch" if against else "triton"
    if not torch.compiler.is_compiling():
        _say_once(x.device.type, choice, "; ".join(against))
    return choice


def choose(impl: str, device: torch.device) -> str:
    """What `impl` comes to on a device, before any size is known.

    Raises:
        InputError: no such implementation, or "triton" or "cuda" was chosen and cannot run, for want of a device or of
            compiled code.
    """
    check_name(impl)
    return resolve(impl, torch.empty(0, device=device), compiled=lambda: [] if MODULES["cuda"] else [absent("cuda")])


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels (TRITON_INTERPRET=1 when the process started)."""
    return _INTERPRET


def device_reasons(kind: str, index: int | None) -> tuple[str, ...]:
    """Why no Triton kernel can run on a device; empty when they can."""
    if not _HAS_TRITON:
        return ("the package triton is not installed (pip install triton)",)
    if _INTERPRET and kind in ("cpu", "meta"):
        return ()
    if kind != "cuda":
        return (f"tensors are on the {kind} device, the kernels need CUDA",)
    if torch.version.hip is not None:
        return ("the kernels have not been made for ROCm",)
    gpu = torch.cuda.get_device_properties(index)
    if gpu.major < 8:
        return (f"the GPU has compute capability {gpu.major}.{gpu.minor}, the kernels need 8.0",)
    return ()


def dtype_reasons(dtype: torch.dtype) -> tuple[str, ...]:
    """Why no Triton kernel can run on a dtype; empty when they can."""
    if _INTERPRET:
        # Its product of two bfloat16 tiles is wrong without notice (Triton 3.9).
        if dtype in (torch.float16, torch.float32, torch.float64):
            return ()
        return (f"Triton's interpreter takes float16, float32 and float64, not {dtype}",)
    if dtype in (torch.float16, torch.bfloat16, torch.float32):
        return ()
    return (f"the kernels take float16, bfloat16 and float32, not {dtype}",)


@functools.cache
def _say_once(device: str, choice: str, why: str) -> None:
    _log.info('impl="auto" on %s: %s%s', device, choice, f" ({why})" if why else "")
