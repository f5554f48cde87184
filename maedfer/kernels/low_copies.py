"""Copies of weights in the dtype of the products, made all at once."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor

from maedfer.kernels._products import Held


class LowCopies:
    """Copies of parameters in two bytes a number, which products take while a `with` block lasts.

    Entering the block writes all copies anew, in a few launches whatever the number of parameters; weights must not
    change until it ends. So no copy is ever behind its parameter: that could not be told otherwise, as optimisers that
    are fused into one launch do not count the versions of what they change. The copies stay where they are in memory,
    for CUDA graphs and compiled code to find them. A backward pass belongs before the next block begins, in the same
    block or after it. A block inside of another one is part of that.

    Copies are neither part of a state dict nor copied or pickled with a model.

    Args:
        parameters: those of float32 have a copy; what is no longer of float32 when a block begins has none.
        dtype: of the copies, bfloat16 or float16; other dtypes make no copies.
    """

    def __init__(self, parameters: Iterable[Tensor], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._parameters = list(dict.fromkeys(parameters)) if dtype.itemsize == 2 else []
        self._held: dict[Tensor, Held] = {}
        self._depth = 0

    def __enter__(self) -> LowCopies:
        if self._depth == 0:
            self._refresh()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            for parameter in self._held:
                parameter.__dict__.pop("_maedfer_low_copy", None)

    def _refresh(self) -> None:
        """Write the copies, and hang them on their parameters."""
        held = {parameter: self._of(parameter) for parameter in self._parameters if parameter.dtype == torch.float32}
        with torch.no_grad():
            if held:
                torch._foreach_copy_([one.copy for one in held.values()], list(held))
        for parameter, one in held.items():
            parameter._maedfer_low_copy = one  # type: ignore[attr-defined]
        self._held = held

    def _of(self, parameter: Tensor) -> Held:
        """Where the copy of a parameter is; a new place where the parameter has moved or changed its shape."""
        held = self._held.get(parameter)
        if held is None or held.copy.device != parameter.device or held.copy.shape != parameter.shape:
            # A block may begin in inference mode and be followed by one with gradients.
            with torch.inference_mode(False):
                held = Held(torch.empty_like(parameter, dtype=self.dtype, requires_grad=False))
            if parameter.device.type == "cuda":
                # A graph would otherwise copy it into memory of its own before each replay.
                torch._dynamo.mark_static_address(held.copy, guard=False)
        return held
