"""Weights in the form that csrc multiplies them in, made once while they do not change."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

import torch
from torch import Tensor

from maedfer.kernels._native_calls import ELEMENTS, module, rows_of

# Blocks that have begun and not ended.
_active: list[PackedWeights] = []

_Key = tuple[object, ...]


class PackedWeights:
    """Packed weights on a CPU, kept while a `with` block lasts: what `LowCopies` is on a GPU.

    csrc multiplies with weights that lie in panels (csrc/cpu/kernels/products.h). Outside of a block every product
    packs its weight; inside, the first product with a weight, or with a part or the transpose of one, does it for all
    that follow. Weights must not change until the block ends: no packing is looked at again. Entering the block anew
    forgets what was packed, but for the memory, which is used again. A block inside of another one of the same weights
    is part of that.

    Args:
        parameters: the weights. Memory of others is packed for every product, as it may hold something else by then.

    Attributes:
        on_packed: is told of each weight, or part of one, that has been packed; None = nobody is.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(dict.fromkeys(parameters))
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._held: dict[_Key, Tensor] = {}
        self._ready: set[_Key] = set()
        self._lock = threading.Lock()
        self._depth = 0
        self.on_packed: Callable[[Tensor], None] | None = None

    def __enter__(self) -> PackedWeights:
        if self._depth == 0:
            self._begin()
            _active.append(self)
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            _active.remove(self)

    def _begin(self) -> None:
        on_cpu = (x.untyped_storage() for x in self._parameters if x.device.type == "cpu")
        places = sorted({(storage.data_ptr(), storage.nbytes()) for storage in on_cpu})
        self._starts = [start for start, _ in places]
        self._ends = [start + size for start, size in places]
        # What the last block did not use is given back.
        self._held = {key: self._held[key] for key in self._ready}
        self._ready = set()

    def holds(self, address: int) -> bool:
        """Whether memory is that of a parameter."""
        number = bisect.bisect_right(self._starts, address) - 1
        return number >= 0 and address < self._ends[number]

    def packed(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """See `packed`, of a weight that this holds."""
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, dtype, module("cpu").variant())
        if key not in self._ready:
            with self._lock:
                if key not in self._ready:
                    self._held[key] = pack(weight, dtype, self._held.get(key))
                    self._ready.add(key)
                    if self.on_packed is not None:
                        self.on_packed(weight)
        return self._held[key]


def packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight as csrc multiplies with it, packed now or earlier in a block of `PackedWeights`.

    Args:
        weight: [N, K] float32 or bfloat16 on a CPU, of any strides; a transposed view is no detour.
        dtype: of the products, float32 or bfloat16.

    Returns:
        Bytes, which the instruction set in use reads.
    """
    scope = scope_of(weight)
    return pack(weight, dtype) if scope is None else scope.packed(weight, dtype)


def scope_of(weight: Tensor) -> PackedWeights | None:
    """The block that keeps the packings of a weight."""
    if not _active:
        return None
    address = weight.data_ptr()
    return next((scope for scope in _active if scope.holds(address)), None)


def pack(weight: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Pack a weight, into `out` where there is such a packing already."""
    if weight.stride(0) == 1 and weight.stride(1) != 1:
        return pack_rows(weight.t(), dtype, out)
    return _pack(weight, False, tuple(weight.shape), dtype, out)


def pack_rows(x: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Pack x [..., N], the right operand of a product whose depth is rows of x."""
    return _pack(x, True, (x.shape[-1], x.shape[:-1].numel()), dtype, out)


def _pack(x: Tensor, transposed: bool, size: tuple[int, ...], dtype: torch.dtype, out: Tensor | None) -> Tensor:
    compiled, element = module("cpu"), ELEMENTS[dtype]
    if out is None:
        # A block may begin in inference mode and be followed by one with gradients.
        with torch.inference_mode(False):
            out = torch.empty(compiled.packed_size(*size, element), dtype=torch.uint8)
    matrix, _held = rows_of(compiled, x)
    compiled.pack(matrix, transposed, element, out.data_ptr(), torch.get_num_threads())
    return out
