"""Calls of csrc's attention on a CPU; formulas and shapes are in csrc/cpu/kernels/attention.h."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._native_calls import module, rows_of
from maedfer.kernels._operators import implements_on_cpu

_FLOATS = (torch.float32, torch.bfloat16)


def not_supported_reasons(dtype: torch.dtype, keys: int) -> list[str]:
    """Why csrc cannot run groups of `keys` keys of a dtype; empty when it can."""
    reasons = ["Triton's interpreter has the CPU (TRITON_INTERPRET=1)"] if interpreting() else []
    if dtype not in _FLOATS:
        reasons.append(f"{dtype} (csrc's attention takes float32 and bfloat16)")
    if keys < 1:
        reasons.append("groups without keys")
    return reasons


@implements_on_cpu("region_attention_fwd")
def region_attention_fwd(qkv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    _forward([qkv], (q_bias, v_bias), (qkv.shape[-2], num_heads), out)
    return out


@implements_on_cpu("cross_attention_fwd")
def cross_attention_fwd(q: Tensor, kv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
    out = q.new_empty(q.shape)
    _forward([q, kv], (q_bias, v_bias), (q.shape[-2], kv.shape[-2], num_heads), out)
    return out


@implements_on_cpu("region_attention_bwd")
def region_attention_bwd(
    dout: Tensor, qkv: Tensor, q_bias: Tensor | None, num_heads: int, bias_gradients: bool
) -> tuple[Tensor, Tensor]:
    dqkv = qkv.new_empty(qkv.shape)
    dbias = _backward(dout, [qkv], q_bias, (qkv.shape[-2], num_heads), [dqkv], bias_gradients)
    return dqkv, dbias


@implements_on_cpu("cross_attention_bwd")
def cross_attention_bwd(
    dout: Tensor, q: Tensor, kv: Tensor, q_bias: Tensor | None, num_heads: int, bias_gradients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dkv = q.new_empty(q.shape), kv.new_empty(kv.shape)
    dbias = _backward(dout, [q, kv], q_bias, (q.shape[-2], kv.shape[-2], num_heads), [dq, dkv], bias_gradients)
    return dq, dkv, dbias


def _forward(
    inputs: list[Tensor], biases: tuple[Tensor | None, Tensor | None], sizes: tuple[int, ...], out: Tensor
) -> None:
    """Of packed inputs, qkv or q and kv, into contiguous `out`; `sizes` end with the heads."""
    if not out.numel():
        return
    compiled = module("cpu")
    rows = [rows_of(compiled, x) for x in inputs]
    floats = [_floats(bias) for bias in biases]
    attention = compiled.Attention(*(matrix for matrix, _ in rows), *map(_address, floats), *sizes)
    compiled.attention(attention, rows_of(compiled, out)[0], torch.get_num_threads())


def _backward(
    dout: Tensor,
    inputs: list[Tensor],
    q_bias: Tensor | None,
    sizes: tuple[int, ...],
    gradients: list[Tensor],
    bias_gradients: bool,
) -> Tensor:
    """Into contiguous `gradients` of the inputs; returns those of both biases, [2, C], or of zero rows."""
    width = dout.shape[-1]
    total = dout.new_zeros((2 if bias_gradients else 0, width), dtype=torch.float32)
    if not dout.numel():
        for gradient in gradients:
            gradient.zero_()
        return total
    compiled = module("cpu")
    # Sums of each group, which are added up in order.
    groups = dout.numel() // (dout.shape[-2] * width)
    parts = dout.new_empty((groups, *total.shape), dtype=torch.float32)
    rows = [rows_of(compiled, x) for x in [*inputs, dout]]
    *packed, of_out = (matrix for matrix, _ in rows)
    bias = _floats(q_bias)
    attention = compiled.Attention(*packed, _address(bias), 0, *sizes)
    to = compiled.AttentionGradients(of_out, *(rows_of(compiled, x)[0] for x in gradients), parts.data_ptr())
    compiled.attention_gradients(attention, to, total.data_ptr(), torch.get_num_threads())
    return total


def _floats(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float().contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
