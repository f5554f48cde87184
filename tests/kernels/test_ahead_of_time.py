"""Shipped kernels compiled for sm_80, sm_90 and sm_100 and held to their budgets, which needs no GPU."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks import ahead_of_time
from benchmarks.ahead_of_time import ARCHITECTURES, compile_case, compile_launch, jit_compile
from benchmarks.budgets import complaints
from benchmarks.shipped import Array, Case
from benchmarks.tune import representatives
from maedfer.errors import InputError
from maedfer.kernels._configs import Config
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import Launch
from maedfer.kernels.interaction import triton as interaction
from maedfer.kernels.interaction.folding import key_layout

pytestmark = pytest.mark.skipif(interpreting(), reason="nothing can be compiled under TRITON_INTERPRET=1")


def chosen() -> list[tuple[Case, int]]:
    """What is compiled at each run; all of it by `python -m benchmarks ahead-of-time`.

    Code for float32 hardly depends on the architecture, as its exact products are not for matrix units, so that each
    case is compiled for one of the three in turn.
    """
    return [
        *itertools.product(representatives(torch.bfloat16), ARCHITECTURES),
        *zip(representatives(torch.float32), itertools.cycle(ARCHITECTURES)),
    ]


@pytest.mark.parametrize(("case", "arch"), chosen(), ids=str)
def test_shipped_kernels_keep_within_their_budgets(case: Case, arch: int) -> None:
    for kernel, (_, resources) in compile_case(case, arch).items():
        assert not complaints(case, kernel, resources, arch, triton.__version__)


@pytest.mark.parametrize(("arch", "heads", "regions"), [(90, 8, 20), (86, 12, 8)], ids=str)
def test_the_interaction_fits_with_more_heads_and_regions(arch: int, heads: int, regions: int) -> None:
    dtype, dim = torch.bfloat16, 64 * heads
    stream, matrix = Array((1, regions, 11, dim), dtype), Array((1, heads, regions, dim), dtype)
    token, vector, offset = Array((1, regions, dim), dtype), Array((dim,)), Array((1, heads, regions))
    p = Array((1, regions * 11, math.prod(key_layout(heads, regions))), dtype)
    forward = (stream, token, matrix, offset, matrix, vector, vector, 1e-6, dtype, True)
    backward = (stream, stream, token, matrix, matrix, p, 1e-6, torch.float32)
    for operator, arguments in ((interaction.interaction_fwd, forward), (interaction.interaction_bwd, backward)):
        for launch, resources in compile_case(Case("interaction", dtype, operator, arguments), arch).values():
            assert resources.fits(arch), launch.kernel


@triton.jit(do_not_specialize=["count"])
def _probe_kernel(
    out_ptr, shifted_ptr, pixels_ptr, index_ptr, absent_ptr, sixteen, seven, one, large, scale, count,
    SIZE: tl.constexpr,
):  # fmt: skip
    offset = tl.arange(0, SIZE)
    x = tl.load(shifted_ptr + offset * seven + sixteen + one + count + large).to(tl.float32) * scale
    x += tl.load(pixels_ptr + tl.load(index_ptr + offset))
    if absent_ptr is None:
        tl.store(out_ptr + offset, x)


def probe() -> Launch:
    def tensor(size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    args = (
        tensor(64, torch.float32),
        tensor(65, torch.bfloat16)[1:],
        tensor(64, torch.uint8),
        tensor(64, torch.int64),
        None,
        32,
        7,
        1,
        2**40 + 1,
        0.5,
        16,
    )
    return Launch(_probe_kernel, (1,), args, {"SIZE": 64}, Config({}, 2, 3))


@pytest.mark.parametrize("arch", ARCHITECTURES, ids="sm_{}".format)
def test_a_launch_is_compiled_in_the_form_the_jit_gives_it(arch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    kernel = jit_compile(probe(), arch)
    source, names = kernel.src, _probe_kernel.arg_names
    assert list(source.signature) == names
    assert " ".join(source.signature.values()) == (
        "*fp32 *bf16 *u8 *i64 constexpr i32 i32 constexpr i64 fp32 i32 constexpr"
    )
    assert {names[place]: value for (place,), value in source.constants.items()} == {
        "absent_ptr": None,
        "one": 1,
        "SIZE": 64,
    }
    # The shifted tensor starts two bytes into its storage, and `count` is not specialised though it is 16.
    aligned = {names[place] for (place,), value in source.attrs.items() if ["tt.divisibility", 16] in value}
    assert aligned == {"out_ptr", "pixels_ptr", "index_ptr", "sixteen"}
    assert kernel.metadata.target.arch == arch
    assert (kernel.metadata.num_warps, kernel.metadata.num_stages) == (2, 3)
    assert kernel.metadata.enable_fp_fusion


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown architecture '75'"):
        compile_launch(probe(), 75)
    monkeypatch.setattr(ahead_of_time, "interpreting", lambda: True)
    with pytest.raises(InputError, match="under TRITON_INTERPRET=1: start the process without it"):
        compile_launch(probe(), 90)
