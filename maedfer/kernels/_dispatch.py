"""Which implementation of an operation runs: decided here and nowhere else.

"reference" is the specification, "torch" the same mathematics arranged for speed in PyTorch alone (any device),
"triton" the fused kernels, and PyTorch where an operation needs none, "native" what is compiled from csrc/: on a CPU
all operations but attention with a mask, which is PyTorch's, on a GPU those that it has, the others being Triton's.
"cuda" is another word for "native" on a GPU. "auto" takes the first that can run of triton, native on a CPU, and torch:
csrc's kernels for GPUs have to be asked for until they have been timed. An explicit choice that cannot run raises and
says why; it never falls back.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NoReturn, get_args

import torch

from maedfer._native import MODULES, absent
from maedfer.errors import InputError, unknown
from maedfer.kernels._configs import capability

Impl = Literal["auto", "reference", "torch", "native", "triton", "cuda"]

# Tells why something cannot run; nothing when it can.
Reasons = Callable[[], list[str]]

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
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    triton: Reasons | None = None,
    native: Mapping[str, Reasons] | None = None,
) -> str:
    """Choose between "reference", "torch", "native" and "triton" for one call.

    Args:
        impl: the caller's choice; "auto" leaves it to `current_impl`.
        device: of the inputs.
        dtype: of what is computed.
        triton: why the operation's Triton kernel cannot run these sizes; None where there is no such kernel. Called
            only where kernels can run at all.
        native: the same of csrc, for each kind of device that it has the operation for. Called only where that part
            was compiled.

    Raises:
        InputError: "triton", "native" or "cuda" was chosen and cannot run.
    """
    requested = _current if impl == "auto" else impl
    if requested in ("reference", "torch"):
        return requested
    kind = device.type
    compiled = None if native is None else native.get(kind)
    if requested in ("native", "cuda"):
        if kind != "cuda" and (kind != "cpu" or requested == "cuda"):
            _refuse(requested, [f"tensors are on the {kind} device"])
        if compiled is not None:
            missing = _native_reasons(kind, compiled)
            if missing:
                _refuse(requested, missing)
            return "native"
        if kind == "cpu":
            return "torch"
    reasons: Sequence[str] = device_reasons(kind, device.index) + dtype_reasons(dtype)
    if triton is not None and not reasons:
        reasons = triton()
    if requested != "auto":
        if reasons:
            _refuse("triton", reasons)
        return "torch" if triton is None else "triton"
    if triton is not None and not reasons:
        choice = "triton"
    elif kind == "cpu" and compiled is not None:
        reasons = _native_reasons(kind, compiled)
        choice = "torch" if reasons else "native"
    else:
        choice = "torch"
    if triton is not None and not torch.compiler.is_compiling():
        _say_once(kind, choice, "; ".join(reasons))
    return choice


def choose(impl: str, device: torch.device) -> str:
    """What `impl` comes to on a device, before any size is known.

    Raises:
        InputError: no such implementation, or one was chosen that cannot run, for want of a device or of compiled code.
    """
    check_name(impl)
    # Of an index, where the device has several; this also finds out whether it is there.
    x = torch.empty(0, device=device)
    return resolve(impl, x.device, x.dtype, triton=list, native={"cpu": list, "cuda": list})


def _native_reasons(kind: str, compiled: Reasons) -> list[str]:
    return [absent(kind)] if MODULES[kind] is None else compiled()


def _refuse(impl: str, reasons: Sequence[str]) -> NoReturn:
    raise InputError(f'impl="{impl}" cannot run here: {"; ".join(reasons)}. Choose impl="auto" or "torch"')


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
    if torch.compiler.is_compiling():
        # Tracing knows this call, and no caches.
        properties = torch.cuda.get_device_properties(index)
        major, minor = properties.major, properties.minor
    else:
        major, minor = capability(torch.cuda.current_device() if index is None else index)
    if major < 8:
        return (f"the GPU has compute capability {major}.{minor}, the kernels need 8.0",)
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
