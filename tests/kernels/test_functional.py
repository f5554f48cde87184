"""Every operation of functional.py: all implementations against the reference, and what surrounds them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels import functional
from maedfer.kernels._dispatch import interpreting
from tests.helpers import IMPLEMENTATIONS, KERNELS, device_of, relative_error
from tests.kernels.oracle import check, randn

B, M, S, C, H, EPS = 2, 4, 5, 32, 2, 1e-6

FAST = [impl for impl in IMPLEMENTATIONS if impl != "reference"]

Shapes = tuple[tuple[int, ...] | None, ...]
LINEAR: Shapes = ((C, 64), (C,))
FFN: Shapes = ((64, C), (64,), *LINEAR)

# Name -> inputs' shapes and the call on them with an implementation.
OPERATIONS: dict[str, tuple[Shapes, Callable[..., Tensor | tuple[Tensor, ...]]]] = {
    "region_attention": (
        ((B, M, S, 3 * C),),
        lambda x, impl: functional.region_attention(x, num_heads=H, impl=impl),
    ),
    "region_attention_one_group": (
        ((S, 3 * C),),
        lambda x, impl: functional.region_attention(x, num_heads=H, impl=impl),
    ),
    "region_attention_with_biases": (
        ((B, M, S, 3 * C), (C,), (C,)),
        lambda x, q, v, impl: functional.region_attention(x, num_heads=H, bias=(q, v), impl=impl),
    ),
    "cross_attention_with_a_bias": (
        ((B, M, 1, C), (B, M, S, 2 * C), (C,)),
        lambda q, kv, v, impl: functional.cross_attention(q, kv, num_heads=H, bias=(None, v), impl=impl),
    ),
    "cross_attention": (
        ((B, M, 1, C), (B, M, S, 2 * C)),
        lambda q, kv, impl: functional.cross_attention(q, kv, num_heads=H, impl=impl),
    ),
    "layer_norm": (
        ((B, M, S, C), (C,), (C,)),
        lambda x, w, b, impl: functional.layer_norm(x, (w, b), eps=EPS, impl=impl),
    ),
    "linear_residual": (
        ((B, M, S, 64), *LINEAR, (B, M, S, C)),
        lambda x, w, b, z, impl: functional.linear_residual(x, (w, b), z, impl=impl),
    ),
    "linear_residual_dropped": (
        ((B, M, S, 64), *LINEAR, (B, M, S, C)),
        lambda x, w, b, z, impl: functional.linear_residual(x, (w, b), z, keep=keep(z, 2), impl=impl),
    ),
    "linear_residual_layer_norm": (
        ((B, M, S, 64), *LINEAR, (B, M, S, C), (C,), (C,)),
        lambda x, w, b, z, g, h, impl: functional.linear_residual_layer_norm(x, (w, b), z, (g, h), eps=EPS, impl=impl),
    ),
    "linear_residual_layer_norm_representative": (
        ((B, M, S, 64), *LINEAR, (B, M, S, C), (C,), (C,)),
        lambda x, w, b, z, g, h, impl: functional.linear_residual_layer_norm_representative(
            x, (w, b), z, (g, h), eps=EPS, keep=keep(z, 2), impl=impl
        ),
    ),
    "feed_forward_residual": (
        ((B, M, S, C), *FFN, (B, M, S, C)),
        lambda x, w, b, v, c, z, impl: functional.feed_forward_residual(
            x, (w, b), (v, c), z, keep=keep(z, 2), impl=impl
        ),
    ),
    "feed_forward_residual_layer_norm": (
        ((B, M, S, C), *FFN, (B, M, S, C), (C,), (C,)),
        lambda x, w, b, v, c, z, g, h, impl: functional.feed_forward_residual_layer_norm(
            x, (w, b), (v, c), z, (g, h), eps=EPS, impl=impl
        ),
    ),
    "local_global_interaction": (
        ((B, M, S, C), (B, M, C), (B, M, 2 * C), (C,), (C,), (C,), (C, C), (C,), (C, C), (C,), (C,), (C,)),
        lambda z, s, kv, *rest: interaction(z, s, kv, *rest, keep=keep(z, 1)),
    ),
    # Sixteen regions and eight channels: folding does not pay.
    "local_global_interaction_unfolded": (
        ((B, 16, 3, 8), (B, 16, 8), (B, 16, 16), (8,), (8,), (8,), (8, 8), None, (8, 8), (8,), (8,), (8,)),
        lambda *inputs: interaction(*inputs, keep=None),
    ),
}


def interaction(z: Tensor, s: Tensor, kv: Tensor, *rest: Any, **others: Any) -> tuple[Tensor, Tensor]:
    """The interaction of weights side by side, then the implementation."""
    kv_bias, *weights, impl = rest
    norm, query, output, next_norm = zip(weights[::2], weights[1::2], strict=True)
    parts: dict[str, Any] = {"norm": norm, "query": query, "output": output, "next_norm": next_norm, "kv_bias": kv_bias}
    return functional.local_global_interaction(z, s, kv, **parts, **others, num_heads=H, eps=EPS, impl=impl)


def keep(like: Tensor, dims: int) -> Tensor:
    """Stochastic depth's factors over the first dimensions, some of them zero."""
    shape = like.shape[:dims]
    return torch.tensor([0.0, 1.25, 1.25, 1.25, 0.0, 1.25, 1.25, 1.25])[: shape.numel()].reshape(shape).to(like)


def tensors(shapes: Shapes, device: torch.device) -> list[Tensor | None]:
    """Random inputs."""
    return [None if shape is None else randn(*shape, dtype=torch.float32, device=device) for shape in shapes]


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("name", OPERATIONS)
def test_implementations_agree_with_the_reference(name: str, impl: str) -> None:
    shapes, call = OPERATIONS[name]
    device = device_of(impl)
    inputs = tensors(shapes, device)
    check(lambda *x: call(*x, impl), lambda *x: call(*x, "reference"), inputs)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("regions", [4, 16])
def test_folded_and_unfolded_interaction_agree(regions: int, impl: str) -> None:
    """Whichever of the two would be chosen."""
    dim, device = 32, device_of(impl)
    shapes = ((2, regions, 3, dim), (2, regions, dim), (2, regions, 2 * dim), *[(dim,)] * 3, *[(dim, dim), (dim,)] * 2)
    inputs = tensors((*shapes, (dim,), (dim,)), device)
    for folded in (True, False):
        call = functools.partial(interaction, keep=None, folded=folded)
        check(lambda *x, call=call: call(*x, impl), lambda *x, call=call: call(*x, "reference"), inputs)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("frames_are", ["uint8", "float"])
def test_loss_agrees_with_the_reference(frames_are: str, impl: str) -> None:
    device = device_of(impl)
    frames = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8, device=device)
    frames = frames if frames_are == "uint8" else frames / 255.0
    index = torch.tensor([[1, 2, 5], [0, 7, 3]], device=device)
    prediction = randn(2, 3, 96, dtype=torch.float32, device=device)

    def loss(which: str) -> list[Tensor]:
        parts = functional.masked_appearance_motion_loss(prediction, frames, index, patch_size=(2, 4, 4), impl=which)  # type: ignore[arg-type]
        return [*parts, *torch.autograd.grad(0.3 * parts[0] + 0.7 * parts[1], prediction)]

    for got, want in zip(loss(impl), loss("reference"), strict=True):
        assert got.dtype == want.dtype and torch.allclose(got, want, rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError, match=r"prediction must be \[B, n, 96\]"):
        functional.masked_appearance_motion_loss(prediction[..., :90], frames, index, patch_size=(2, 4, 4), impl=impl)  # type: ignore[arg-type]


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "region_attention_one_group"])
def test_empty_batches(name: str, impl: str) -> None:
    shapes, call = OPERATIONS[name]
    empty = tuple((0, *shape[1:]) if shape is not None and len(shape) > 2 else shape for shape in shapes)
    inputs = tensors(empty, device_of(impl))
    out = call(*inputs, impl)
    outputs = out if isinstance(out, tuple) else (out,)
    assert all(part.shape[0] == 0 for part in outputs)
    gradients = torch.autograd.grad([part.sum() for part in outputs], [x for x in inputs if x is not None])
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_compiles_without_a_graph_break(name: str, impl: str) -> None:
    shapes, call = OPERATIONS[name]
    inputs = tensors(shapes, device_of(impl))
    leaves = [x for x in inputs if x is not None]

    def loss(*x: Tensor | None) -> Tensor:
        out = call(*x, impl)
        return sum(part.square().mean() for part in (out if isinstance(out, tuple) else (out,)))  # type: ignore[return-value]

    want = loss(*inputs)
    torch._dynamo.reset()
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs)
    assert torch.allclose(got, want, rtol=1e-5)
    pairs = zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True)
    for one, other in pairs:
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("name", OPERATIONS)
def test_autocast(name: str, impl: str) -> None:
    """Products in autocast's dtype, gradients in that of the parameters."""
    shapes, call = OPERATIONS[name]
    device = device_of(impl)
    inputs = tensors(shapes, device)
    want = call(*inputs, "reference")
    # The interpreter's product of bfloat16 tiles is wrong.
    with torch.autocast(device.type, torch.float16 if interpreting() else torch.bfloat16):
        got = call(*inputs, impl)
    wants, gots = (x if isinstance(x, tuple) else (x,) for x in (want, got))
    for one, other in zip(gots, wants, strict=True):
        assert relative_error(one.double(), other.double()) < 0.05
    leaves = [x for x in inputs if x is not None]
    gradients = torch.autograd.grad([x.float().square().sum() for x in gots], leaves)
    assert all(gradient.dtype == torch.float32 and torch.isfinite(gradient).all() for gradient in gradients)
