"""Other runtimes as providers of inference. Nothing is asserted of times."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import deployed
from benchmarks.model_steps import Family, classifier
from benchmarks.workload import Settings, Skip
from maedfer.models import build_model
from tests.helpers import small

SMALL = Settings(small=True)


def family() -> Family:
    return Family(SMALL, classifier(SMALL), batch=2, trains=False)


def test_a_runtime_computes_what_the_model_does() -> None:
    made = family()
    candidate = deployed.providers(lambda: made, SMALL)["onnxruntime"]()
    verdict = candidate.check()
    assert verdict.reason is None and verdict.error < 1
    assert candidate.timed["forward"].run(None).shape == (2, 7)
    # Other weights than those of the file.
    with torch.no_grad():
        made.network.get_parameter("head.weight").mul_(1.1)
    del made.truth
    assert "output 0 is wrong by" in str(candidate.check().reason)


def test_what_cannot_be_measured_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, name, message in (
        (replace(SMALL, device="cuda"), "openvino", "openvino is measured on processors"),
        (replace(SMALL, dtype=torch.bfloat16), "onnxruntime", "onnxruntime does not compute in bfloat16 on processors"),
        (replace(SMALL, dtype=torch.float16), "openvino", "openvino does not compute in float16 on processors"),
    ):
        with pytest.raises(Skip, match=message):
            deployed.providers(family, settings)[name]()
    network = build_model(small())
    monkeypatch.setattr(deployed, "machine", lambda: {"instructions": ["avx2"]})
    with pytest.raises(Skip, match="the processor has no products of bfloat16"):
        deployed.Deployed(network, "uint8").open("openvino", torch.bfloat16)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Skip, match="pip install .*onnxruntime"):
        deployed.Deployed(network, "uint8").open("onnxruntime", torch.float32)
