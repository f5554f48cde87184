"""Every shipped kernel compiled for sm_80, sm_90 and sm_100, which needs no GPU."""

from __future__ import annotations

import functools

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels import _ahead_of_time
from maedfer.kernels._ahead_of_time import ARCHITECTURES, MATRIX_UNITS, compile_launch, jit_compile
from maedfer.kernels._configs import Config
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._shipped import Case, cases
from maedfer.kernels._utils import Launch
from tests.kernels.make_resources import compiled, numbers, read

pytestmark = pytest.mark.skipif(interpreting(), reason="nothing can be compiled under TRITON_INTERPRET=1")

# Kernels that are built around matrix products.
MATRIX_KERNELS = ("attention", "interaction")

table = functools.cache(read)


@pytest.mark.parametrize("arch", ARCHITECTURES, ids="sm_{}".format)
@pytest.mark.parametrize("case", cases(), ids=str)
def test_shipped_kernels(case: Case, arch: int) -> None:
    for kernel, resources in compiled(case, arch).items():
        assert resources.fits(arch), f"{kernel} cannot be launched: {resources}"
        assert not resources.spills, f"{kernel} spills: {resources}"
        if case.dtype == torch.bfloat16 and any(name in kernel for name in MATRIX_KERNELS):
            # Blocks of few rows have only the older instructions; a newer architecture's never run on an older one.
            units = set(MATRIX_UNITS.values()) & set(resources.instructions)
            assert units and units <= {"HMMA", MATRIX_UNITS[arch]}, f"{kernel}: {resources.instructions}"
        known = table().get((arch, str(case), kernel))
        assert known is not None, "not in resources.json: run python -m tests.kernels.make_resources"
        if triton.__version__ in known:
            expected = known[triton.__version__]
            assert numbers(resources) == expected, "changed: run python -m tests.kernels.make_resources, read the diff"


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
    monkeypatch.setattr(_ahead_of_time, "interpreting", lambda: True)
    with pytest.raises(InputError, match="under TRITON_INTERPRET=1: start the process without it"):
        compile_launch(probe(), 90)
