"""csrc's products against float64: every instruction set that runs here, every layout, and packings that are kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer._native import MODULES, absent
from maedfer.errors import InputError
from maedfer.kernels import _multiplier
from maedfer.kernels import _native_products as products
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._multiplier import use_multiplier
from maedfer.kernels._packed_weights import PackedWeights
from tests.helpers import relative_error

pytestmark = [
    pytest.mark.skipif(MODULES["cpu"] is None, reason=absent("cpu")),
    pytest.mark.skipif(interpreting(), reason="csrc's products are not bound under Triton's interpreter"),
]

VARIANTS = MODULES["cpu"].variants() if MODULES["cpu"] is not None else []
DTYPES = (torch.float32, torch.bfloat16)
# (rows, N, K): tails of tiles, panels, vectors, blocks of depth and parts of rows; nothing of each.
SHAPES = [(1, 1, 1), (7, 65, 33), (101, 130, 100), (290, 77, 1100), (23, 600, 2050), (0, 3, 4), (5, 0, 3), (3, 5, 0)]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    with use_multiplier("csrc"):
        yield


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives back the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def close(got: Tensor, want: Tensor, plain: Tensor) -> None:
    """No further from the truth than twice what PyTorch is in float32, and some roundings of the result."""
    assert got.shape == want.shape
    if got.numel():
        error, theirs = (got.double() - want).abs().max(), (plain.double() - want).abs().max()
        allowed = 2 * theirs + (1 if got.dtype == torch.bfloat16 else 4) * torch.finfo(got.dtype).eps * want.abs().max()
        assert error <= allowed, f"error {float(error):.3g}, allowed {float(allowed):.3g}"


def strided(rows: int, columns: int, dtype: torch.dtype, kind: int) -> Tensor:
    """The same numbers wherever they lie: packed, with a gap after each row, in two steps, or transposed."""
    x = torch.randn(rows, columns).to(dtype)
    if kind == 1:
        return torch.cat([x, torch.full((rows, 3), float("nan"), dtype=dtype)], 1)[:, :columns]
    if kind == 2 and rows and rows % 2 == 0:
        x = x.unflatten(0, (2, -1))
        return torch.cat([torch.full((2, 1, columns), float("nan"), dtype=dtype), x], 1)[:, 1:]
    return x.t().contiguous().t() if kind == 3 else x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products(variant: str, dtype: torch.dtype, threads: None) -> None:
    for number, (rows, size, depth) in enumerate(SHAPES):
        for kind in range(4):
            low, high = DTYPES[(number + kind) % 2], DTYPES[kind // 2]
            x, weight = strided(rows, depth, low, kind), strided(size, depth, high, (kind + number) % 2 * 3)
            bias, residual = torch.randn(size).to(low), strided(rows, size, high, kind).reshape(*x.shape[:-1], size)
            true = F.linear(x.to(dtype).double(), weight.to(dtype).double())
            plain = F.linear(x.to(dtype).float(), weight.to(dtype).float())
            keep = torch.tensor([2.0, 0.5]) if x.dim() == 3 else None
            got = []
            for count in (1, 2):
                torch.set_num_threads(count)
                got.append(
                    products.product(
                        x, weight, dtype=dtype, bias=bias, residual=residual, keep=keep, out_dtype=torch.float32
                    )
                )
            assert torch.equal(*got)
            factors = 1.0 if keep is None else keep[:, None, None]
            want = residual.double() + factors * (true + bias.double())
            close(got[0], want, residual.float() + factors * (plain + bias.float()))
            close(products.product(x, weight, dtype=dtype), true, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_gradients(variant: str, dtype: torch.dtype, threads: None) -> None:
    for number, (size, inside, rows) in enumerate(SHAPES):
        for kind in range(3):
            dout, x = strided(rows, size, DTYPES[kind % 2], kind), strided(rows, inside, DTYPES[number % 2], kind)
            got = []
            for count in (1, 2):
                torch.set_num_threads(count)
                got.append(products.weight_gradient(dout, x, dtype=dtype, want_sums=True))
            assert all(torch.equal(one, other) for one, other in zip(*got, strict=True))
            left, right = dout.reshape(rows, size).to(dtype).double(), x.reshape(rows, inside).to(dtype).double()
            plain = left.float().t() @ right.float()
            close(got[0][0], left.t() @ right, plain)
            close(got[0][1], left.sum(0), left.float().sum(0))
            alone = products.weight_gradient(dout, x, dtype=dtype, out_dtype=dtype)
            assert alone[0].dtype == dtype and alone[1].shape == (0,)
            close(alone[0], left.t() @ right, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kept", [None, torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_gelu_and_its_slope(variant: str, dtype: torch.dtype, kept: torch.dtype | None, threads: None) -> None:
    for rows, size, depth in ((1, 1, 1), (7, 65, 33), (290, 77, 20), (0, 3, 4)):
        x, weight, bias = torch.randn(rows, depth).to(dtype), torch.randn(size, depth), torch.randn(size)
        u = F.linear(x.double(), weight.to(dtype).double(), bias.double()).requires_grad_()
        true = F.gelu(u)
        (slope,) = torch.autograd.grad(true.sum(), u)
        act, got = products.product_gelu(x, weight, bias, kept)
        close(act, true.detach(), F.gelu(F.linear(x.float(), weight.to(dtype).float(), bias)))
        if kept is None:
            assert got.shape == (0,)
            continue
        assert got.dtype == kept and got.shape == act.shape
        steep = (got.double() - 28) / 200 if kept == torch.uint8 else got.double()
        allowed = 0.5 / 200 if kept == torch.uint8 else torch.finfo(kept).eps / 2 * 1.13
        assert not rows or (steep - slope).abs().max() <= allowed + 1e-5
        dy, out_weight = torch.randn(rows, 40).to(dtype), torch.randn(40, size)
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(products.product_times_slope(dy, out_weight.t(), got, True))
        assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
        du, sums = results[0]
        plain = dy.float() @ out_weight.to(dtype).float() * steep.float()
        close(du, dy.double() @ out_weight.to(dtype).double() * steep, plain)
        close(sums, du.double().sum(0), du.float().sum(0))
        assert products.product_times_slope(dy, out_weight.t(), got, False)[1].shape == (0,)


def test_packings_are_kept_inside_of_a_block_only() -> None:
    weight = nn.Parameter(torch.randn(70, 20))
    x = torch.randn(9, 20)

    def product(of: Tensor) -> Tensor:
        return products.product(x, of, dtype=torch.float32)

    kept = PackedWeights([weight])
    for _ in range(2):
        with kept:
            before = product(weight)
            transposed = products.product(torch.ones(1, 70), weight.t(), dtype=torch.float32)
            with torch.no_grad():
                weight.mul_(2)
            # What must not be done shows that the packing is taken, of a part in its own right.
            with kept:
                assert torch.equal(product(weight.detach()), before)
            assert torch.equal(product(weight[:64]), 2 * before[:, :64])
            assert torch.equal(products.product(torch.ones(1, 70), weight.t(), dtype=torch.float32), transposed)
            assert not torch.equal(products.product(x, weight, dtype=torch.bfloat16).float(), before)
        assert torch.equal(product(weight), 2 * before)
    # Memory of nobody's parameter may hold something else by the next product.
    with kept:
        other = torch.randn(70, 20)
        first = product(other)
        other.mul_(2)
        assert torch.equal(product(other), 2 * first)
    with pytest.raises(ZeroDivisionError), kept:
        raise ZeroDivisionError
    weight.data = torch.randn(30, 20)
    with kept, torch.inference_mode():
        assert torch.equal(product(weight), product(weight.detach().clone()))
    with kept:
        product(weight).sum()


def test_an_instruction_set_has_its_own_packings() -> None:
    compiled, weight, x = MODULES["cpu"], nn.Parameter(torch.randn(70, 20)), torch.randn(9, 20)
    assert compiled is not None
    before = compiled.variant()
    with PackedWeights([weight]):
        for name in VARIANTS:
            compiled.choose_variant(name)
            close(
                products.product(x, weight, dtype=torch.float32),
                F.linear(x.double(), weight.double()),
                F.linear(x, weight),
            )
    compiled.choose_variant(before)


def test_compiles_and_is_known_to_fake_tensors() -> None:
    x, weight, bias = torch.randn(3, 5, 20), torch.randn(8, 20), torch.randn(8)
    ops = torch.ops.maedfer
    for args in ((None, None, None), (bias, torch.randn(3, 5, 8), torch.rand(3))):
        torch.library.opcheck(ops.native_product.default, (x, weight, *args, torch.bfloat16, torch.float32))
    for sums in (False, True):
        torch.library.opcheck(
            ops.native_weight_gradient.default, (torch.randn(3, 5, 8), x, torch.float32, torch.bfloat16, sums)
        )
    torch._dynamo.reset()

    def run(x: Tensor) -> Tensor:
        return products.product(x, weight, bias=bias, dtype=torch.float32).relu()

    assert torch.equal(torch.compile(run, backend="aot_eager", fullgraph=True)(x), run(x))


@pytest.mark.parametrize("name", ["onednn", "pytorch"])
def test_a_library_takes_the_place_of_csrc(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    real = _multiplier.library_product

    def watched(*args: Any) -> Tensor:
        called.append(args[0])
        return real(*args)

    monkeypatch.setattr(products, "library_product", watched)
    x, weight, bias = torch.randn(2, 3, 40)[:, 1:], torch.randn(30, 40), torch.randn(30)
    residual, keep, dout = torch.randn(2, 2, 30), torch.tensor([2.0, 0.5]), torch.randn(2, 2, 30)

    def run(dtype: torch.dtype) -> list[Tensor]:
        rounded, dy = x.to(dtype), dout.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            act, slope = products.product_gelu(rounded, weight, bias, torch.float32)
            return [
                products.product(x, weight, dtype=dtype, bias=bias, residual=residual, keep=keep),
                products.product(dy, weight.t(), dtype=dtype),
                *products.weight_gradient(dout, x, dtype=dtype, want_sums=True),
                *(act, slope),
                *products.product_times_slope(torch.ones(2, 2, 40, dtype=dtype), weight, slope, True),
            ]

    for dtype in DTYPES:
        want = run(dtype)
        with use_multiplier(name):
            got = run(dtype)
        assert called == [name] * 5
        called.clear()
        for one, other in zip(got, want, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
            # Sums of 40 numbers in two orders, by compilers that join other multiplications and additions.
            allowed = 16 * torch.finfo(torch.float32).eps if dtype == torch.float32 else 1e-2
            assert relative_error(one.double(), other.double()) < allowed


def test_who_multiplies_is_measured_once_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maedfer")
    monkeypatch.setattr(_multiplier, "_choices", {})
    monkeypatch.setattr(_multiplier, "_fixed", "auto")
    monkeypatch.setattr(_multiplier, "_REPEATS", 2)
    tried: list[tuple[int, ...]] = []

    def choose(kind: str, wrong: float = 0.0, rows: int = 100, slow: float = 0.0, library: float = 0.0) -> str:
        def trial(x: Tensor, other: Tensor) -> Tensor:
            tried.append(tuple(x.shape))
            time.sleep(slow)
            return real("pytorch", kind, x, other) + wrong

        def sleepy(*args: Any) -> Tensor:
            time.sleep(library)
            return real(*args)

        real = _multiplier.library_product
        with monkeypatch.context() as patch:
            patch.setattr(_multiplier, "library_product", sleepy)
            return _multiplier.multiplier(kind, rows, (512, 256), torch.float32, lambda kind, dtype: trial)

    # Whoever sleeps is slower, which needs no clock.
    assert choose(_multiplier.BY_ROWS, library=0.03) == "csrc"
    count = len(tried)
    assert count and tried[0] == (128, 256)
    assert choose(_multiplier.BY_ROWS, slow=0.1) == "csrc" and len(tried) == count
    assert choose(_multiplier.BY_ROWS_TRANSPOSED, slow=0.05) != "csrc"
    assert tried[-1] == (128, 256) and "input gradient products of 128 rows with [512, 256] in float32" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert choose(_multiplier.OVER_ROWS, wrong=1.0, library=0.03) != "csrc" and tried[-1] == (128, 512)
    assert "csrc is off by" in caplog.text
    # Small products, and those whose bits must not depend on a measurement, are csrc's.
    count = len(tried)
    assert choose(_multiplier.BY_ROWS, rows=16, slow=1.0) == "csrc"
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(_multiplier.OVER_ROWS, slow=1.0) == "csrc"
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(tried) == count


def test_real_candidates_agree(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "maedfer")
    monkeypatch.setattr(_multiplier, "_choices", {})
    monkeypatch.setattr(_multiplier, "_fixed", "auto")
    for dtype in DTYPES:
        x, weight = torch.randn(100, 512).to(dtype), torch.randn(128, 512)
        products.product(x, weight, dtype=dtype)
        products.product(torch.randn(100, 128).to(dtype), weight.t(), dtype=dtype)
        products.weight_gradient(torch.randn(100, 128).to(dtype), x, dtype=dtype)
    assert len(caplog.records) == 6 and all(record.levelno == logging.INFO for record in caplog.records)


def test_unknown_multipliers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="mkl"), use_multiplier("mkl"):
        pass
    monkeypatch.setattr(_multiplier, "_has_onednn", lambda: False)
    x = torch.randn(2, 2)
    with use_multiplier("onednn"), pytest.raises(InputError, match="MAEDFER_PRODUCTS=onednn, but this PyTorch has no"):
        products.product(x, x, dtype=torch.float32)
    with pytest.raises(InputError, match="MAEDFER_PRODUCTS='blas': choose one of auto, csrc, onednn, pytorch"):
        _multiplier._chosen({"MAEDFER_PRODUCTS": "blas"})


def test_what_does_not_fit_is_refused() -> None:
    x, weight = torch.randn(4, 6), torch.randn(5, 6)
    for bad, what in (
        ({"x": x.double()}, "torch.float64"),
        ({"weight": weight.half()}, "torch.float16"),
        ({"weight": weight[:, 1:]}, r"x \[4, 6\], weight \[5, 5\]"),
        ({"bias": torch.randn(4)}, r"bias \[4\]"),
        ({"residual": torch.randn(2, 2, 5)}, r"residual \[2, 2, 5\]"),
        ({"out_dtype": torch.float16}, "torch.float16"),
    ):
        with pytest.raises(InputError, match=what):
            products.product(**{"x": x, "weight": weight, "dtype": torch.float32, **bad})  # type: ignore[arg-type]
    for dout in (torch.randn(3, 5), torch.randn(4, 5).half()):
        with pytest.raises(InputError, match="rows that belong together"):
            products.weight_gradient(dout, x, dtype=torch.float32)
