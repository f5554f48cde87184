"""The numbers that plans start from are those of the results files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maedfer.models import model_config, profile
from maedfer.planning import SHEETS
from maedfer.planning.measured import (
    CLIP_MS,
    PASSES,
    PICTURE_BYTES,
    SCORING_FLOPS,
    SCORING_LAUNCHES,
    SCORING_MS,
    VIT_MEMORY,
    launch_seconds,
)
from maedfer.train.environment import _PEAKS
from tests.helpers import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


def results(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


GPU, KERNELS, LOADING = (results(name) for name in ("gpu.json", "gpu_kernels.json", "loading_cpu.json"))


def row(workload: str, provider: str, clips: int) -> dict[str, Any]:
    (found,) = (
        row
        for row in GPU["rows"]
        if (row["workload"], row["provider"], row.get("sizes")) == (workload, provider, {"B": clips})
    )
    return dict(found)


@pytest.mark.parametrize("task", PASSES)
def test_passes(task: str) -> None:
    whole = PASSES[task]
    found = row(f"{task}_step", "ours", whole.clips)
    (call,) = (call for call in KERNELS["calls"] if call["call"] == f"{task}_step:ours")
    assert whole.eager_ms == pytest.approx(found["ms"], rel=1e-3)
    assert whole.kernels_ms == pytest.approx(call["kernels_ms"], rel=1e-3)
    assert whole.launches == sum(kernel["launches"] for kernel in call["kernels"])
    assert (whole.flops, whole.memory_bytes) == (found["flops"], found["memory_bytes"])
    # Weights and two averages of each in float32.
    assert 12 * whole.parameters == pytest.approx(found["held_bytes"], rel=1e-4)
    costs = profile(model_config("mae_dfer_base" if task == "pretrain" else "lgi_former_base"))
    assert whole.parameters == costs.parameters
    assert whole.flops / whole.clips == pytest.approx(costs.flops_per_train_clip, rel=1e-4)


def test_vit() -> None:
    found = row("finetune_step", "vit_sdpa", VIT_MEMORY.clips)
    assert (VIT_MEMORY.memory_bytes, VIT_MEMORY.flops) == (found["memory_bytes"], found["flops"])
    assert 12 * VIT_MEMORY.parameters == pytest.approx(found["held_bytes"], rel=1e-4)


def test_scoring() -> None:
    for clips, ms in SCORING_MS.items():
        found = row("inference", "ours_graph", clips)
        assert ms == pytest.approx(found["ms"], rel=1e-3)
        assert found["flops"] / clips == pytest.approx(SCORING_FLOPS)
    (call,) = (call for call in KERNELS["calls"] if call["call"] == "inference:ours")
    assert sum(kernel["launches"] for kernel in call["kernels"]) == SCORING_LAUNCHES
    # Replayed, it takes no longer than its kernels one after the other: what plans take of training too.
    assert row("inference", "ours_graph", 64)["ms"] == pytest.approx(call["kernels_ms"], rel=0.02)
    # The line through both sizes.
    slope = (SCORING_MS[64] - SCORING_MS[1]) / 63
    assert 1000 * launch_seconds() * SCORING_LAUNCHES + 64 * slope == pytest.approx(SCORING_MS[64])


def test_commits_that_are_named() -> None:
    text = (REPOSITORY / "maedfer" / "planning" / "measured.py").read_text(encoding="utf-8")
    for found in (GPU, KERNELS, LOADING):
        assert f"commit {found['machine']['commit'][:7]}" in text


def test_clips() -> None:
    for (task, source), (on_gpu, by_loader, read) in CLIP_MS.items():
        name = "pictures" if source == "frames" else source
        for ms, changes in ((on_gpu, False), (by_loader, True)):
            (found,) = (
                row
                for row in LOADING["rows"]
                if (row["task"], row["loader"], row["source"], row["changes"], row["cores"])
                == (task, "ours", name, changes, 1)
            )
            assert ms == pytest.approx(found["processor_ms"], rel=1e-3)
            if not changes:
                assert read == pytest.approx(found["read_bytes"], rel=1e-3)
    assert pytest.approx(LOADING["clips"]["shards"]["pictures"]["frame_bytes"], rel=1e-3) == PICTURE_BYTES


def test_data_sheets_agree_with_those_of_training() -> None:
    for name, sheet in SHEETS.items():
        peak = next(peak for part, peak in _PEAKS if part.replace(" ", "") == name.upper())
        assert sheet.tflops * 1e12 == peak
