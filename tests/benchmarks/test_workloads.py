"""What workloads cost at least, and what their check lets through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model_steps import Family, classifier
from benchmarks.operation import Operation, as_tuple
from benchmarks.operations import OPERATIONS
from benchmarks.workload import Cost, Settings, compare, compare_models
from maedfer.kernels import use_impl

SMALL = Settings(small=True)
BY_NAME = {operation.name: operation for operation in OPERATIONS}


def costs(operation: Operation) -> tuple[dict[str, Cost], list[Tensor | None], tuple[Tensor, ...], dict]:
    sizes = next(iter(operation._sizes(SMALL).values()))
    inputs = operation.inputs(SMALL, sizes)
    outputs = as_tuple(operation.call(sizes, "reference", *inputs))
    return operation.costs(sizes, inputs, outputs), inputs, outputs, sizes


def test_bytes_of_region_attention_by_hand() -> None:
    found, *_, sizes = costs(BY_NAME["region_attention"])
    row = sizes["B"] * sizes["M"] * sizes["S"] * sizes["C"] * 4
    # Queries, keys, values, and the result; backward also reads its gradient and writes three.
    assert found["forward"] == Cost(4 * row, 4 * 1 * 2 * 5 * 5 * 32)
    assert found["backward"].bytes == 7 * row
    assert found["both"] == found["forward"] + found["backward"]


def test_bytes_of_the_loss_leave_out_the_visible_cubes() -> None:
    found, inputs, *_ = costs(BY_NAME["masked_appearance_motion_loss"])
    prediction, frames, index = inputs
    assert frames is not None and index is not None and prediction is not None
    # Half of the tokens are hidden; two float32 scalars come out.
    assert found["forward"].bytes == prediction.nbytes + index.nbytes + frames.nbytes // 2 + 8
    assert found["backward"].bytes == found["forward"].bytes + prediction.nbytes


@pytest.mark.parametrize(
    "name", ["region_attention", "inter_region_attention", "linear_residual_layer_norm", "feed_forward"]
)
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    operation = BY_NAME[name]
    found, inputs, outputs, sizes = costs(operation)
    # The other backends are not counted on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = as_tuple(operation.call(sizes, "reference", *inputs))
        forward = counter.get_total_flops()
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        torch.autograd.grad(outputs, wanted, [torch.ones_like(output) for output in outputs])
    assert forward == found["forward"].flops
    assert counter.get_total_flops() == found["both"].flops


def test_operations_of_a_model_are_those_that_pytorch_counts() -> None:
    family = Family(SMALL, classifier(SMALL, "vit"), batch=2, trains=False)
    with (
        use_impl("reference"),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        family.network(*family.inputs)
    assert counter.get_total_flops() == family.cost.flops


def test_the_check_measures_by_the_reference_in_the_same_dtype() -> None:
    want = [torch.randn(100, dtype=torch.float64), torch.randn(100, dtype=torch.float64)]
    low = [x.bfloat16() for x in want]
    assert compare(low, low, want, outputs=1).reason is None
    worse = [low[0], low[1] + 1.0]
    assert "gradient 0 is wrong by" in str(compare(worse, low, want, outputs=1).reason)
    # Two roundings everywhere: no single value shows it, the mean does.
    everywhere = [low[0] * (1 + 2 * torch.finfo(torch.bfloat16).eps), low[1]]
    assert "output 0 is wrong by" in str(compare(everywhere, low, want, outputs=1).reason)
    assert "output 0" in str(compare([low[0] * float("nan"), low[1]], low, want, outputs=1).reason)


def test_the_check_of_models_looks_at_every_gradient() -> None:
    want = [torch.ones(()), torch.randn(1000), 1e-3 * torch.randn(10)]
    assert compare_models(want, want, want, outputs=1, dtype=torch.float32).reason is None
    # Small beside the whole gradient, but not beside what float32 rounds.
    wrong = [*want[:2], torch.zeros(10)]
    assert "gradient 1 is wrong by" in str(compare_models(wrong, want, want, outputs=1, dtype=torch.float32).reason)


def test_the_truth_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(SMALL, classifier(SMALL), batch=5, trains=True)
    whole = family.truth[1]
    monkeypatch.setattr("benchmarks.model_steps._CHUNK", 2)
    parts = Family(SMALL, classifier(SMALL), batch=5, trains=True).truth[1]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)
