"""Which implementation runs, and what is said when it cannot."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from maedfer import _native
from maedfer.errors import InputError, MissingDependencyError
from maedfer.kernels import _dispatch, choose, current_impl, functional, use_impl
from maedfer.kernels._dispatch import interpreting
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.skipif(interpreting(), reason="the interpreter has other reasons")

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_csrc_else_plain_pytorch_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _dispatch._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="maedfer"):
        for there, answer in ((object(), "native"), (None, "torch")):
            monkeypatch.setitem(_native.MODULES, "cpu", there)
            assert choose("auto", CPU) == answer and choose("auto", CPU) == answer
    native, torch_alone = (record.message for record in caplog.records)
    assert native == 'impl="auto" on cpu: native'
    assert torch_alone.startswith('impl="auto" on cpu: torch (csrc\'s CPU part is not there')


def test_an_explicit_choice_never_falls_back() -> None:
    qkv = torch.randn(2, 5, 24)
    with pytest.raises(InputError, match='impl="triton" cannot run here: tensors are on the cpu device'):
        functional.region_attention(qkv, num_heads=2, impl="triton")
    with use_impl("triton"), pytest.raises(InputError, match="cannot run here"):
        functional.region_attention(qkv, num_heads=2)
    # A call's own choice counts more than what is in force.
    with use_impl("triton"):
        functional.region_attention(qkv, num_heads=2, impl="torch")


def test_csrc_is_chosen_only_where_it_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match='impl="cuda" cannot run here: tensors are on the cpu device'):
        choose("cuda", CPU)
    with pytest.raises(InputError, match='impl="native" cannot run here: tensors are on the meta device'):
        choose("native", torch.device("meta"))
    for part in ("cpu", "cuda"):
        # FakeTensorMode stands for a GPU: tensors that have no memory.
        with FakeTensorMode():
            monkeypatch.setitem(_native.MODULES, part, object())
            assert choose("native", torch.device(part)) == "native"
            monkeypatch.setitem(_native.MODULES, part, None)
            message = f'impl="native" cannot run here: csrc\'s {part.upper()} part is not there'
            with pytest.raises(InputError, match=message):
                choose("native", torch.device(part))
    with FakeTensorMode():
        with pytest.raises(InputError, match='impl="cuda" cannot run here: csrc\'s CUDA part is not there'):
            choose("cuda", torch.device("cuda"))
        monkeypatch.setitem(_native.MODULES, "cuda", object())
        assert choose("cuda", torch.device("cuda")) == "native"


GPU = torch.device("cuda", 0)
CANNOT = {"triton": lambda: ["too wide"]}
# An operation by what there is for it beside PyTorch.
NOTHING: dict[str, Any] = {}
TRITON = {"triton": list}
BOTH = {"triton": list, "native": {"cpu": list, "cuda": list}}
NATIVE = {"native": {"cpu": list, "cuda": list}}
NATIVE_CANNOT = {"triton": list, "native": {"cpu": lambda: ["odd"], "cuda": lambda: ["odd"]}}


@pytest.mark.parametrize(
    ("impl", "device", "operation", "answer"),
    [
        ("reference", GPU, BOTH, "reference"),
        ("torch", GPU, BOTH, "torch"),
        ("torch", CPU, BOTH, "torch"),
        ("auto", GPU, BOTH, "triton"),
        ("auto", GPU, NATIVE, "torch"),
        ("auto", GPU, NOTHING, "torch"),
        ("auto", GPU, CANNOT, "torch"),
        ("auto", CPU, BOTH, "native"),
        ("auto", CPU, TRITON, "torch"),
        ("auto", CPU, NATIVE_CANNOT, "torch"),
        ("triton", GPU, BOTH, "triton"),
        ("triton", GPU, NATIVE, "torch"),
        ("triton", GPU, CANNOT, "too wide"),
        ("triton", CPU, BOTH, 'impl="triton" cannot run here: tensors are on the cpu device'),
        ("triton", CPU, NOTHING, "tensors are on the cpu device"),
        ("native", GPU, BOTH, "native"),
        ("native", GPU, TRITON, "triton"),
        ("native", GPU, CANNOT, 'impl="triton" cannot run here: too wide'),
        ("native", GPU, NOTHING, "torch"),
        ("native", GPU, NATIVE_CANNOT, 'impl="native" cannot run here: odd'),
        ("native", CPU, BOTH, "native"),
        ("native", CPU, TRITON, "torch"),
        ("native", CPU, NATIVE_CANNOT, 'impl="native" cannot run here: odd'),
        ("cuda", GPU, BOTH, "native"),
        ("cuda", GPU, TRITON, "triton"),
        ("cuda", CPU, BOTH, 'impl="cuda" cannot run here: tensors are on the cpu device'),
        ("cuda", CPU, NOTHING, 'impl="cuda" cannot run here: tensors are on the cpu device'),
    ],
)
def test_who_computes(
    impl: str, device: torch.device, operation: dict[str, Any], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("cpu", "cuda"):
        monkeypatch.setitem(_native.MODULES, part, object())
    on_cpu = _dispatch.device_reasons("cpu", None)
    monkeypatch.setattr(_dispatch, "device_reasons", lambda kind, index: () if kind == "cuda" else on_cpu)
    if answer in _dispatch.IMPLS:
        assert _dispatch.resolve(impl, device, torch.float32, **operation) == answer
        with use_impl(impl):  # type: ignore[arg-type]
            assert _dispatch.resolve("auto", device, torch.float32, **operation) == answer
    else:
        with pytest.raises(InputError, match=answer):
            _dispatch.resolve(impl, device, torch.float32, **operation)


def test_use_impl_is_undone_after_an_error() -> None:
    with pytest.raises(RuntimeError), use_impl("reference"):
        assert current_impl() == "reference"
        raise RuntimeError
    assert current_impl() == "auto"
    with pytest.raises(InputError, match="unknown implementation 'tritton'"), use_impl("tritton"):  # type: ignore[arg-type]
        pass


def test_the_environment_sets_the_default() -> None:
    """It is read when the package is imported: another time in a process that is there only for this."""
    code = """if True:
        import importlib, os
        from maedfer.errors import InputError
        from maedfer.kernels import _dispatch
        for value in ("reference", "", "fast"):
            os.environ["MAEDFER_IMPL"] = value
            try:
                print(importlib.reload(_dispatch).current_impl())
            except InputError as error:
                print(error)
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second, third = run.stdout.splitlines()
    assert (first, second) == ("reference", "auto") and "MAEDFER_IMPL='fast': choose one of" in third


def test_without_csrc_for_gpus_pytorchs_compiler_is_not_imported() -> None:
    code = (
        "import sys, torch; before = 'torch._dynamo' in sys.modules; sys.modules['maedfer._cuda'] = None; "
        "import maedfer.kernels; sys.exit(not before and 'torch._dynamo' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_reasons_are_asked_only_where_code_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(impl: str, dtype: torch.dtype = torch.float32, **operation: Any) -> str:
        return _dispatch.resolve(impl, CPU, dtype, **operation)

    def asked() -> list[str]:
        return pytest.fail("asked")

    monkeypatch.setitem(_native.MODULES, "cpu", None)
    assert resolve("auto", triton=asked, native={"cpu": asked}) == "torch"
    assert resolve("torch", triton=asked, native={"cpu": asked}) == "torch"
    monkeypatch.setattr(_dispatch, "device_reasons", lambda kind, index: ())
    with pytest.raises(InputError, match="float16, bfloat16 and float32, not torch.float64"):
        resolve("triton", torch.float64, triton=asked)


def test_old_gpus_and_missing_triton_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    assert "compute capability 7.5" in _dispatch.device_reasons("cuda", 0)[0]
    monkeypatch.setattr(_dispatch, "_HAS_TRITON", False)
    assert "pip install triton" in _dispatch.device_reasons("cuda", 0)[0]


def test_full_attention_through_xformers_has_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = torch.randn(2, 7, 48)

    class Stand:
        @staticmethod
        def memory_efficient_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # The library's documented layout: [batch, rows, heads, head dim].
            assert q.shape == k.shape == v.shape == (2, 7, 4, 4)
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    monkeypatch.setattr("maedfer.kernels.region_attention.api.require", lambda module, extra: Stand)
    want = functional.full_attention(qkv, num_heads=4)
    assert torch.allclose(functional.full_attention(qkv, num_heads=4, backend="xformers"), want, atol=1e-6)
    assert torch.allclose(functional.region_attention(qkv, num_heads=4, impl="reference"), want, atol=1e-6)
    with pytest.raises(InputError, match="unknown attention backend 'flash'"):
        functional.full_attention(qkv, num_heads=4, backend="flash")


def test_missing_xformers_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(MissingDependencyError, match="xformers"):
        functional.full_attention(torch.randn(1, 3, 12), num_heads=2, backend="xformers")
