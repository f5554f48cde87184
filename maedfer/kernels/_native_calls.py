"""What calls of the compiled modules take: element types, streams, and where the cubes of tokens lie.

The modules take pointers, sizes and a stream, and know nothing of PyTorch. Operators' native.py check arguments,
allocate outputs and call them, as operators that torch.compile, fake tensors and opcheck see.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer._native import MODULES, absent
from maedfer.errors import InputError
from maedfer.kernels._autocast import autocast_dtype, product_dtype
from maedfer.kernels._dispatch import interpreting

# Element types by the numbers of csrc/element.h.
ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def module(part: str) -> Any:
    """A compiled module, "cpu" or "cuda".

    Raises:
        InputError: it is not there.
    """
    compiled = MODULES[part]
    if compiled is None:
        raise InputError(absent(part))
    return compiled


def module_for(x: Tensor) -> tuple[Any, str]:
    """The compiled module for a tensor's device, and the name of the part.

    Raises:
        InputError: it is not there.
    """
    part = "cuda" if x.device.type == "cuda" else "cpu"
    return module(part), part


def operator_reasons(x: Tensor, *weights: Tensor | None) -> list[str]:
    """Why csrc cannot run an operator on a CPU that Triton has too, on x and with these weights; empty when it can.

    They are read in the dtype of x; where autocast is on, in its dtype.
    """
    if interpreting():
        return ["Triton's interpreter has the CPU (TRITON_INTERPRET=1)"]
    dtype = product_dtype(x)
    odd = [str(one) for one in dict.fromkeys((x.dtype, dtype)) if one not in (torch.float32, torch.bfloat16)]
    if odd:
        return [f"{' and '.join(odd)} (csrc takes float32 and bfloat16)"]
    lowered = (dtype,) if autocast_dtype("cpu") is None else (dtype, torch.float32)
    mixed = [str(weight.dtype) for weight in weights if weight is not None and weight.dtype not in lowered]
    return [f"weights of {mixed[0]} for products of {dtype}"] if mixed else []


@contextlib.contextmanager
def current_stream(x: Tensor) -> Iterator[int]:
    """Make a tensor's GPU the current one; gives the stream that work on it goes to."""
    with torch.cuda.device(x.device):
        yield torch.cuda.current_stream().cuda_stream


def launched(error: int) -> None:
    """Raise what a launch has returned, if it is an error."""
    if error:
        raise RuntimeError(f"a kernel of maedfer._cuda was not launched: CUDA error {error}")


def cube_reasons(dtype: torch.dtype, frames: Tensor, patch_size: Sequence[int]) -> list[str]:
    """Why cubes of these frames cannot be read, or results of this dtype written; empty when they can.

    Args:
        dtype: of cubes, or of predictions.
        frames: [B, I, T, H, W].
        patch_size: of a cube.
    """
    reasons = []
    on_gpu = frames.device.type == "cuda"
    if len(patch_size) != 3:
        reasons.append(f"patches of {len(patch_size)} dimensions (cubes of frames, rows and columns are read)")
    if dtype not in _FLOATS:
        reasons.append(f"{dtype} (float32, bfloat16 and float16 are written)")
    if frames.dtype != torch.uint8 and (on_gpu or frames.dtype != torch.float32):
        reasons.append(f"frames of {frames.dtype} (uint8 is read{'' if on_gpu else ', and float32'})")
    return reasons


def check_cubes(frames: Tensor, index: Tensor, patch_size: Sequence[int]) -> None:
    """Refuse token numbers and cubes that frames do not have.

    Raises:
        InputError: shapes, dtypes or devices do not fit.
    """
    if frames.dim() != 5 or len(patch_size) != 3:
        raise InputError(f"frames must be [B, I, T, H, W] with cubes (t, h, w), got {list(frames.shape)}, {patch_size}")
    if any(size % part or not size for size, part in zip(frames.shape[2:], patch_size, strict=True)):
        raise InputError(f"cubes of {tuple(patch_size)} do not divide clips of {tuple(frames.shape[2:])}")
    if index.dtype != torch.int64 or index.dim() not in (1, 2) or index.device != frames.device:
        raise InputError(
            f"index must be int64 [B, n] or [n] on {frames.device}, "
            f"got {index.dtype} {list(index.shape)} on {index.device}"
        )
    if index.dim() == 2 and index.shape[0] != frames.shape[0]:
        raise InputError(f"index names tokens of {index.shape[0]} clips, there are {frames.shape[0]}")


def geometry(compiled: Any, frames: Tensor, patch_size: Sequence[int]) -> tuple[Any, Any]:
    """Clips and cubes as a compiled module takes them."""
    grid = [size // part for size, part in zip(frames.shape[2:], patch_size, strict=True)]
    return compiled.Clips(frames.shape[1], *grid, *frames.stride()), compiled.Cube(*patch_size)


def rows_of(compiled: Any, x: Tensor) -> tuple[Any, Tensor]:
    """The rows of x [..., C], as the compiled module takes them, and the tensor that holds them while it works.

    Read and written in place wherever rows lie at two steps at most, such as the local tokens of a stream
    [B, M, S, C]; of other views it is a copy, which is good for reading only.
    """
    columns = x.shape[-1]
    rows = x.numel() // max(1, columns)
    if x.is_contiguous():
        # Most are, and calls of small tensors are not to be dearer than what they do. No group is of no rows: rows of
        # nothing are counted by what is made of them.
        return compiled.Matrix(x.data_ptr(), ELEMENTS[x.dtype], rows, columns, columns, max(1, rows), 0), x
    places = _row_places(x)
    if places is None:
        x = x.contiguous()
        places = columns, max(1, rows), 0
    return compiled.Matrix(x.data_ptr(), ELEMENTS[x.dtype], rows, columns, *places), x


def _row_places(x: Tensor) -> tuple[int, int, int] | None:
    """Step between rows, rows of a group, step between groups, in elements; None where rows lie otherwise."""
    if not x.numel():
        # Steps of nothing may be anything, and do not change by a copy.
        return x.shape[-1], 1, 0
    if x.is_contiguous():
        return x.shape[-1], x.numel() // x.shape[-1], 0
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        return None
    # From the last dimension on, those are joined that are one walk in memory.
    steps: list[tuple[int, int]] = []
    for size, step in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if size == 1:
            continue
        if steps and step == steps[-1][0] * steps[-1][1]:
            steps[-1] = steps[-1][0] * size, steps[-1][1]
        else:
            steps.append((size, step))
    if len(steps) > 2:
        return None
    (rows, step), (_, outer) = [*steps, *[(1, 0)] * 2][:2]
    return step, rows, outer
