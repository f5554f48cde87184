"""The CUDA C++ kernels without a GPU: their source on the CPU under an emulator of threads, and compiled by nvcc."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels.interaction.folding import fold, key_layout
from tests.csrc.emulator import ELEMENTS, SOURCES, Emulator
from tests.kernels import oracle
from tests.kernels.oracle import check

DTYPES = [torch.bfloat16, torch.float16]
ROWS = [1, 2, 11, 16, 17, 41, 50, 65, 90, 101, 112, 128]

UNSUPPORTED, MISALIGNED = 801, 716


def finish(emulator: Emulator, result: int) -> None:
    """No error, no fault, and no operand in the way of another."""
    assert emulator.error == ""
    assert result == 0
    assert emulator.conflicts == 0


def unwritten(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matrix_instructions(emulator: Emulator, dtype: torch.dtype, transposed: bool) -> None:
    a, b = torch.randn(16, 16).to(dtype), torch.randn(16, 8).to(dtype)
    stored = (a.t().contiguous(), b) if transposed else (a, b.t().contiguous())
    out = torch.empty(16, 8)
    result = emulator.call("emulate_product", ELEMENTS[dtype], *stored, out, transposed, reads=stored, writes=[out])
    assert (result, emulator.error) == (0, "")
    start = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(8, 0).repeat(1, 4)
    torch.testing.assert_close(out, a.float() @ b.float() + start)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding(emulator: Emulator, dtype: torch.dtype) -> None:
    near = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).float().repeat(3)
    values = torch.nextafter(near, torch.tensor([0.0, 1e38, -1e38]).repeat_interleave(1 << 16))
    between = (near + near.roll(1)) / 2
    values = torch.cat([near, values, between, torch.randn(999) * 2.0 ** torch.randint(-30, 20, (999,))])
    want, bits = values.to(dtype), torch.zeros(len(values), dtype=dtype)
    emulator.call("emulate_rounding", ELEMENTS[dtype], len(values), values, bits)
    assert torch.equal(bits.isnan(), want.isnan())
    assert torch.equal(bits.nan_to_num(1.0), want.nan_to_num(1.0))
    assert torch.equal(values.nan_to_num(1.0), want.float().nan_to_num(1.0))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (0, "race"),
        (1, "race"),
        (2, "not aligned"),
        (3, "out of range"),
        (4, "waits for ever: barrier"),
        (5, "read out of range"),
        (6, "waits for ever: shuffle"),
        (7, "race"),
        (8, ""),
    ],
    ids=str,
)
def test_faults_are_found(emulator: Emulator, fault: int, message: str) -> None:
    assert (emulator.call("emulate_fault", fault) == 0) == (message == "")
    assert message in emulator.error


def attention(emulator: Emulator, qkv: Tensor, heads: int) -> Tensor:
    """The kernel on packed products [G, S, 3C]."""
    groups, rows, packed = qkv.shape
    q, k, v = qkv.split(packed // 3, dim=-1)
    out = unwritten(groups, rows, packed // 3, dtype=qkv.dtype)
    result = emulator.call(
        "emulate_region_attention_forward",
        ELEMENTS[qkv.dtype], groups, rows, heads, packed // 3 // heads, q, k, v, *qkv.stride()[:2], out,
        reads=[qkv], writes=[out],
    )  # fmt: skip
    finish(emulator, result)
    return out


def attention_gradient(emulator: Emulator, dout: Tensor, qkv: Tensor, heads: int) -> Tensor:
    """The kernel's gradient, packed like its input but contiguous."""
    groups, rows, packed = qkv.shape
    gradient = unwritten(groups, rows, packed, dtype=qkv.dtype)
    result = emulator.call(
        "emulate_region_attention_backward",
        ELEMENTS[qkv.dtype], groups, rows, heads, packed // 3 // heads, *qkv.split(packed // 3, dim=-1),
        *qkv.stride()[:2], dout, *dout.stride()[:2], *gradient.split(packed // 3, dim=-1), *gradient.stride()[:2],
        reads=[qkv, dout], writes=[gradient],
    )  # fmt: skip
    finish(emulator, result)
    return gradient


def emulated_attention(emulator: Emulator, heads: int):
    """Forward and backward kernel as a differentiable function of packed products."""

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, qkv: Tensor) -> Tensor:
            ctx.save_for_backward(qkv)
            return attention(emulator, qkv, heads)

        @staticmethod
        def backward(ctx, dout: Tensor) -> Tensor:
            (qkv,) = ctx.saved_tensors
            return attention_gradient(emulator, dout, qkv, heads)

    return Attention.apply


def plain_attention(heads: int):
    return lambda qkv: reference.attention(*qkv.chunk(3, dim=-1), num_heads=heads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_attention(emulator: Emulator, rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    qkv = torch.randn(3 if rows < 40 else 1, rows, 3 * 128).to(dtype).requires_grad_()
    check(emulated_attention(emulator, 2), plain_attention(2), [qkv])


def test_attention_of_strided_groups_in_poisoned_memory(emulator: Emulator) -> None:
    wide = torch.full((3, 23, 3 * 64 + 40), float("nan"), dtype=torch.bfloat16)
    qkv = wide[:, 1:18, 16 : 16 + 3 * 64]
    qkv.copy_(torch.randn(qkv.shape))
    check(emulated_attention(emulator, 1), plain_attention(1), [qkv.requires_grad_()])
    dout = wide.detach().clone()[:, :17, :64].copy_(torch.randn(3, 17, 64))
    want = attention_gradient(emulator, dout.contiguous(), qkv.detach(), 1)
    assert torch.equal(attention_gradient(emulator, dout, qkv.detach(), 1), want)


def test_attention_of_no_groups(emulator: Emulator) -> None:
    qkv = torch.zeros(0, 11, 3 * 64, dtype=torch.float16)
    assert attention(emulator, qkv, 1).shape == (0, 11, 64)
    assert attention_gradient(emulator, torch.zeros(0, 11, 64, dtype=torch.float16), qkv, 1).shape == qkv.shape


def test_attention_with_large_scores(emulator: Emulator) -> None:
    qkv = (torch.randn(1, 19, 3 * 64) * 12).to(torch.bfloat16).requires_grad_()
    check(emulated_attention(emulator, 1), plain_attention(1), [qkv])


def test_attention_that_has_no_kernel(emulator: Emulator) -> None:
    def run(rows: int, head_dim: int, shift: int = 0, stride: int = 192) -> int:
        qkv, out = torch.zeros(2 * 129 * 400, dtype=torch.float16)[shift:], torch.zeros(2 * 129 * 128)
        return emulator.call(
            "emulate_region_attention_forward",
            ELEMENTS[torch.float16], 1, rows, 1, head_dim, qkv, qkv, qkv, 0, stride, out, reads=[qkv], writes=[out],
        )  # fmt: skip

    assert [run(129, 64), run(0, 64), run(8, 48), run(8, 64)] == [UNSUPPORTED, UNSUPPORTED, UNSUPPORTED, 0]
    assert [run(8, 64, shift=1), run(8, 64, stride=196)] == [MISALIGNED, MISALIGNED]


EPS = 1e-6


def interaction(emulator: Emulator, *inputs: Tensor, keep_p: bool = False, walkers: int = 0) -> tuple[Tensor, ...]:
    """The kernel on z, s, A, a, V and the next LayerNorm's weight and shift: y and n, and p if it is kept."""
    z, s, matrix, offset, values, weight, _ = inputs
    clips, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    groups, together, keys = key_layout(heads, regions)
    assert groups == 1
    y, n = unwritten(*z.shape, dtype=z.dtype), unwritten(*z.shape, dtype=z.dtype)
    p = unwritten(clips, regions * rows, together * keys, dtype=z.dtype)
    outputs = (y, n, p) if keep_p else (y, n)
    pointers = torch.tensor([x.data_ptr() for x in (*inputs, *outputs)] + [0] * (not keep_p))
    strides = (*z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *offset.stride(), *values.stride()[:3])
    result = emulator.call(
        "emulate_interaction",
        ELEMENTS[z.dtype], torch.tensor([clips, regions, rows, heads, dim]), pointers, torch.tensor(strides),
        weight.dtype == torch.float32, EPS, walkers, reads=inputs, writes=outputs,
    )  # fmt: skip
    finish(emulator, result)
    return outputs


def plain_interaction(z: Tensor, s: Tensor, matrix: Tensor, offset: Tensor, values: Tensor, weight: Tensor,
                      shift: Tensor, keep_p: bool = False) -> tuple[Tensor, ...]:  # fmt: skip
    """The formula of the kernel's file, p in the kernel's layout."""
    heads, regions, dim = matrix.shape[1:]
    _, together, keys = key_layout(heads, regions)
    xhat = F.layer_norm(z[:, :, 1:], (dim,), eps=EPS).flatten(1, 2)
    scores = xhat @ matrix.flatten(1, 2).transpose(1, 2) + offset.flatten(1).unsqueeze(1).to(xhat.dtype)
    p = scores.unflatten(2, (heads, regions)).softmax(dim=3)
    x = z[:, :, 1:] + (p.flatten(2) @ values.flatten(1, 2)).unflatten(1, (regions, -1))
    y = torch.cat([s.unsqueeze(2), x], dim=2)
    n = reference.layer_norm(y, (weight.to(y.dtype), shift.to(y.dtype)), eps=EPS)
    p = F.pad(p, (0, keys - regions, 0, together - heads)).flatten(2).unflatten(1, (regions, -1))
    return (y, n, F.pad(p, (0, 0, 1, 0)).flatten(1, 2)) if keep_p else (y, n)


def interaction_inputs(clips: int, regions: int, rows: int, heads: int, dim: int, dtype: torch.dtype,
                       weights: torch.dtype = torch.float32) -> list[Tensor]:  # fmt: skip
    torch.manual_seed(regions)
    z = torch.randn(clips, regions, rows, dim) + 0.5
    z[:, :, 0] = float("nan")
    matrix, values = (torch.randn(heads, clips, regions, dim).to(dtype).transpose(0, 1) for _ in range(2))
    offset = torch.randn(heads, clips, regions).transpose(0, 1)
    s = torch.randn(clips, regions, dim).to(dtype)
    affine = [torch.randn(dim).to(weights) for _ in range(2)]
    return [z.to(dtype), s, matrix * dim**-0.5, offset, values, *affine]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("clips", "regions", "rows", "heads", "dim"),
    [
        (1, 8, 101, 8, 512),
        (2, 8, 11, 8, 512),
        (1, 8, 11, 6, 384),
        (1, 5, 10, 7, 256),
        (2, 1, 3, 1, 256),
        (1, 1, 20, 64, 256),
        (2, 2, 7, 16, 256),
        (1, 3, 6, 8, 256),
        (1, 4, 2, 4, 384),
        (1, 9, 5, 3, 256),
        (1, 16, 2, 4, 256),
        (1, 16, 1, 1, 256),
        (0, 8, 11, 8, 512),
    ],
    ids=str,
)
def test_interaction(
    emulator: Emulator, clips: int, regions: int, rows: int, heads: int, dim: int, dtype: torch.dtype
) -> None:
    inputs = interaction_inputs(clips, regions, rows, heads, dim, dtype)
    check(lambda *x: interaction(emulator, *x), plain_interaction, inputs)


@pytest.mark.parametrize("walkers", [1, 2, 5, 99])
def test_interaction_keeps_probabilities_of_any_walkers(emulator: Emulator, walkers: int) -> None:
    inputs = interaction_inputs(2, 6, 23, 5, 256, torch.bfloat16, torch.bfloat16)
    check(
        lambda *x: interaction(emulator, *x, keep_p=True, walkers=walkers),
        partial(plain_interaction, keep_p=True),
        inputs,
    )


def test_interaction_of_strided_stream_in_poisoned_memory(emulator: Emulator) -> None:
    inputs = interaction_inputs(2, 3, 9, 4, 256, torch.float16)
    wide = torch.full((3, 4, 21, 2, 256), float("nan"), dtype=torch.float16)
    z, s = wide[1:, :3, 2:20:2, 1], wide[:2, 1:, 20, 0]
    z.copy_(inputs[0])
    s.copy_(inputs[1])
    check(lambda *x: interaction(emulator, *x, walkers=2), plain_interaction, [z, s, *inputs[2:]])


def test_interaction_against_the_formula_that_is_folded(emulator: Emulator) -> None:
    torch.manual_seed(0)
    regions, rows, heads, dim, dtype = 8, 6, 8, 256, torch.bfloat16
    z, s, kv = (torch.randn(1, regions, *shape).to(dtype) for shape in [(rows, dim), (dim,), (2 * dim,)])
    norm_weight, norm_bias, q_bias, out_bias, weight, shift = (torch.randn(dim).to(dtype) for _ in range(6))
    q_weight, out_weight = ((torch.randn(dim, dim) * dim**-0.5).to(dtype) for _ in range(2))
    keep = torch.tensor([1.25]).to(dtype)
    sublayer = (norm_weight, norm_bias, q_weight, q_bias, out_weight, out_bias, keep)

    def fast(z: Tensor, s: Tensor, kv: Tensor) -> tuple[Tensor, ...]:
        norm, query, output = (norm_weight, norm_bias), (q_weight, q_bias), (out_weight, out_bias)
        matrices = fold(kv, norm=norm, query=query, output=output, num_heads=heads, keep=keep)
        return interaction(emulator, z, s, *matrices, weight, shift)

    def slow(z: Tensor, s: Tensor, kv: Tensor) -> tuple[Tensor, ...]:
        *weights, factors = (x.to(z.dtype) for x in sublayer)
        after = weight.to(z.dtype), shift.to(z.dtype)
        return oracle.interaction(z, s, kv, *weights, *after, num_heads=heads, eps=EPS, keep=factors)

    check(fast, slow, [z, s, kv])


@pytest.mark.parametrize(
    ("regions", "heads", "channels", "limit", "expected"),
    [
        (8, 8, 512, 232448, (1, 64, 4, 205568)),
        (8, 8, 512, 166912, (0, 0, 0, 0)),
        (8, 6, 384, 166912, (1, 64, 4, 156416)),
        (8, 4, 256, 166912, (1, 32, 4, 74496)),
        (8, 16, 512, 232448, (0, 0, 0, 0)),
        (17, 1, 512, 232448, (0, 0, 0, 0)),
        (8, 8, 320, 232448, (0, 0, 0, 0)),
        (8, 8, 512, 180000, (1, 64, 2, 168448)),
    ],
    ids=str,
)
def test_interaction_plan(
    emulator: Emulator, regions: int, heads: int, channels: int, limit: int, expected: tuple[int, ...]
) -> None:
    plan = torch.zeros(3, dtype=torch.int64)
    supported = emulator.call("emulate_interaction_plan", regions, heads, channels, limit, plan)
    assert (supported, *plan.tolist()) == expected


def test_interaction_walkers(emulator: Emulator) -> None:
    def walkers(clips: int, rows: int) -> int:
        return emulator.call("emulate_interaction_walkers", clips, rows, 4, 132)

    # One wave of blocks where it fills the GPU; more than one where a second wave would be nearly empty.
    assert walkers(64, 808) == 2
    assert walkers(132, 808) == 1
    assert walkers(1, 808) == 13
    assert walkers(256, 88) == 1


def test_interaction_that_has_no_kernel(emulator: Emulator) -> None:
    def run(heads: int, dim: int, shift: int = 0, stride: int = 512) -> int:
        data, out = torch.zeros(40000, dtype=torch.float16), torch.zeros(40000, dtype=torch.float16)
        pointers = torch.tensor([data.data_ptr() + shift] + [data.data_ptr()] * 6 + [out.data_ptr()] * 2 + [0])
        sizes, strides = torch.tensor([1, 8, 2, heads, dim]), torch.tensor([0, 0, stride] + [0] * 11)
        # The kernel itself would not start: the emulator allows it no memory.
        return emulator.call("emulate_interaction", 0, sizes, pointers, strides, False, EPS, 0)

    assert [run(16, 512), run(8, 320)] == [UNSUPPORTED, UNSUPPORTED]
    assert [run(8, 512, shift=2), run(8, 512, stride=500)] == [MISALIGNED, MISALIGNED]


# The number of kernels of each.
COMPILED = {
    "region_attention.cu": 32,
    "local_global_interaction.cu": 6,
    "tubelets.cu": 9,
    "reconstruction_loss.cu": 24,
}


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("source", COMPILED)
def test_compiled_kernels_do_not_spill(source: str, arch: int, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("compiling the kernels needs nvcc")
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{arch}", "-Xptxas", "-v"]
    built = subprocess.run(
        [*command, "-o", str(tmp_path / "kernels.cubin"), str(SOURCES / source)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        built.stderr,
        re.DOTALL,
    )
    assert len(found) == COMPILED[source]
    for name, *numbers in found:
        kernel = re.sub(r"^_ZN7maedfer\d+|EEEvNS_.*$", "", name)
        print(f"sm_{arch} {kernel}: stack {numbers[0]}, spilled {numbers[1]}, registers {numbers[3]}")
    assert [name for name, stack, stores, loads, _ in found if (stack, stores, loads) != ("0", "0", "0")] == []
