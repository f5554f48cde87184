"""How far a kernel may be from the truth: the reference in float64 is the truth, the reference in the kernel's own
dtype the measure (sections 6 and 7 of the kernels' design: twice its error forward, three times for gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._dispatch import interpreting

Operation = Callable[..., Tensor | tuple[Tensor, ...]]

# The interpreter's product of bfloat16 tiles is wrong; float64 exists there only.
DTYPES = (
    [torch.float64, torch.float32, torch.float16] if interpreting() else [torch.float32, torch.bfloat16, torch.float16]
)

_FORWARD, _GRADIENT, _ROUNDINGS, _RMS = 2.0, 3.0, 4.0, 0.005


def randn(*shape: int, dtype: torch.dtype, device: torch.device, scale: float = 1.0, grad: bool = True) -> Tensor:
    """Normal values that are the same on every device."""
    return (torch.randn(*shape) * scale).to(device, dtype).requires_grad_(grad)


def expanded_like(x: Tensor) -> Tensor:
    """A gradient of stride 0 everywhere, as `sum().backward()` makes."""
    return torch.ones((), dtype=x.dtype, device=x.device).expand(x.shape)


def interaction(z: Tensor, s: Tensor, kv: Tensor, *weights: Tensor | None, **sizes: Any) -> tuple[Tensor, Tensor]:
    """The interaction's specification with its weights side by side: norm, query, output and next norm."""
    norm, query, output, next_norm = zip(weights[::2], weights[1::2], strict=True)
    parts: dict[str, Any] = {"norm": norm, "query": query, "output": output, "next_norm": next_norm}
    return reference.local_global_interaction(z, s, kv, **parts, **sizes)


def check(
    fast: Operation, specification: Operation, inputs: Sequence[Tensor | None], gradient: Callable = torch.randn_like
) -> None:
    """Compare outputs and the gradients of every input that requires one.

    Args:
        fast: the operation under test.
        specification: its reference, called with the same inputs.
        inputs: tensors (views keep their strides) or None.
        gradient: makes the gradient of an output.
    """
    outputs = _tuple(fast(*inputs))
    gradients = [gradient(output) for output in outputs]
    results = [*outputs, *_gradients(outputs, inputs, gradients)]
    low = _run(specification, inputs, gradients, None)
    true = _run(specification, inputs, gradients, torch.float64)
    assert len(results) == len(low) == len(true)
    for number, (got, plain, want) in enumerate(zip(results, low, true, strict=True)):
        forward = number < len(outputs)
        name = f"output {number}" if forward else f"gradient {number - len(outputs)}"
        assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
        assert got.dtype == plain.dtype, f"{name}: {got.dtype}, not {plain.dtype}"
        if want.numel():
            _within(name, got.double(), plain.double(), want, torch.finfo(got.dtype).eps, forward)


def _within(name: str, got: Tensor, plain: Tensor, want: Tensor, eps: float, forward: bool) -> None:
    error, allowed = (got - want).abs().max(), (plain - want).abs().max()
    # In float64 the plain path is the truth itself and measures nothing.
    roundings = 16 * _ROUNDINGS if eps == torch.finfo(torch.float64).eps else _ROUNDINGS
    factor = _FORWARD if forward else _GRADIENT
    budget = factor * allowed + roundings * eps * want.abs().max()
    assert error <= budget, f"{name}: error {float(error):.3g}, allowed {float(budget):.3g}"
    # An error everywhere, which the largest one does not show. Of few numbers the plain path may be further off itself.
    length, plain_length, whole = (float(x.square().mean().sqrt()) for x in (got - want, plain - want, want))
    assert length <= max(_RMS * (whole + eps), factor * plain_length), f"{name}: root mean square error {length:.3g}"


def _run(
    operation: Operation, inputs: Sequence[Tensor | None], gradients: list[Tensor], dtype: torch.dtype | None
) -> list[Tensor]:
    copies = [_copy(x, dtype) for x in inputs]
    outputs = _tuple(operation(*copies))
    gradients = [gradient.to(output.dtype) for gradient, output in zip(gradients, outputs, strict=True)]
    return [*outputs, *_gradients(outputs, copies, gradients)]


def _copy(x: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    if x is None or not x.is_floating_point():
        return x
    return x.detach().to(dtype or x.dtype).requires_grad_(x.requires_grad)


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor | None], gradients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    return torch.autograd.grad(outputs, wanted, gradients) if wanted else ()


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
