"""What a machine computes fast, and who multiplies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from maedfer.errors import InputError
from maedfer.kernels import _multiplier
from maedfer.models.arithmetic import bfloat16_instructions, computed_by, steady_multiplier, steady_products


@pytest.mark.parametrize(
    ("capabilities", "variants", "name"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, ["avx512_bf16"], "AMX-BF16"),
        ({"avx512_bf16": True}, None, "AVX512-BF16"),
        ({}, ["avx512_bf16", "avx512", "baseline"], "AVX512-BF16"),
        ({}, ["amx", "avx512_bf16"], "AMX-BF16"),
        ({"amx_bf16": False, "avx512_f": True}, ["avx512", "baseline"], ""),
        ({}, None, ""),
    ],
)
def test_instructions_are_found(
    capabilities: dict[str, bool], variants: list[str] | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = None if variants is None else SimpleNamespace(variants=lambda: variants)
    monkeypatch.setattr("maedfer.models.arithmetic.MODULES", {"cpu": compiled})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert bfloat16_instructions.__wrapped__() == name


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("environment", ["", "auto", "pytorch"])
def test_one_library_multiplies_unless_the_environment_names_another(
    compiled: bool, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAEDFER_PRODUCTS", environment)
    monkeypatch.setattr(_multiplier, "_fixed", environment or "auto")
    monkeypatch.setattr("maedfer.models.arithmetic.MODULES", {"cpu": SimpleNamespace() if compiled else None})
    with steady_products():
        inside = _multiplier._fixed
    assert inside == steady_multiplier() == (environment or ("csrc" if compiled else "pytorch"))
    assert _multiplier._fixed == (environment or "auto")


def test_who_computes_is_who_was_asked() -> None:
    assert computed_by("torch", torch.device("cpu")) == "torch"
    with pytest.raises(InputError, match="CUDA|cuda|Triton|triton"):
        computed_by("triton", torch.device("cpu"))
