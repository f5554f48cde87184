"""Goals beside measurements."""

from __future__ import annotations

import pytest

from benchmarks.goals import GOALS, goals, lines
from tests.benchmarks.rows import row

# As it is run by default; eagerly it would be faster here, which no goal of a step looks at.
PAIR = (("ours_compiled", 20.0), ("ours", 10.0), ("reference", 70.0))
FLOORS = {"copy_bytes_per_s": 1e12, "product_flops_per_s": 1e15}


def found(rows: list[dict], what: str) -> dict:
    return next(entry for entry in goals(rows, FLOORS) if entry["goal"] == what)


def test_nothing_is_measured_without_rows() -> None:
    entries = goals([], FLOORS)
    assert len(entries) == len(GOALS) and all(entry["measured"] is None for entry in entries)
    assert all(line.endswith("not measured") for line in lines(entries))
    # A row that was not timed is none.
    failed = [{"workload": "inference", "size": "B=1", "provider": "ours_graph", "mode": None, "failed": "x"}]
    assert goals(failed, FLOORS) == entries


def test_share_of_the_copy_floor_looks_at_bytes_alone() -> None:
    # 1 GB at 1 TB/s is 1 ms.
    rows = [row("region_attention", "S=101", "ours", "forward", 1.25, bytes=10**9, flops=10**15)]
    entry = found(rows, "region attention S=101 forward, share of the copy floor")
    assert entry["measured"] == pytest.approx(0.8) and entry["reached"] is False


def test_speed_is_the_other_time_over_ours() -> None:
    rows = [row("finetune_step", "B=64", name, "step", ms) for name, ms in PAIR]
    entry = found(rows, "fine-tuning step, times eager")
    assert entry["measured"] == pytest.approx(3.5) and entry["reached"] is True
    assert found(rows, "fine-tuning step, times torch.compile")["measured"] is None


def test_memory_counts_weights_on_both_sides() -> None:
    rows = [
        row("finetune_step", "B=64", name, "step", 1.0, memory_bytes=memory, held_bytes=100)
        for name, memory in (("ours", 300), ("reference", 900))
    ]
    entry = found(rows, "fine-tuning step, peak memory over eager's")
    assert entry["measured"] == pytest.approx(0.4) and entry["reached"] is True
    unknown = [{**one, "memory_bytes": None} for one in rows]
    assert found(unknown, "fine-tuning step, peak memory over eager's")["measured"] is None


def test_utilisation_clips_and_graph() -> None:
    rows = [
        row("inference", "B=64", "ours_graph", "forward", 10.0, flops=6 * 10**12),
        row("inference", "B=1", "ours_graph", "forward", 0.9),
        row("pretrain_step", "B=128", "ours_compiled", "step", 40.0, clips_per_s=3200.0),
    ]
    measured = {entry["goal"]: entry for entry in goals(rows, FLOORS)}
    share = measured["inference, share of the matrix product's operations a second"]
    assert share["measured"] == pytest.approx(0.6) and share["reached"]
    assert measured["inference, one clip with a CUDA graph, ms"]["reached"]
    assert measured["pre-training step, clips/s"]["reached"] is False
    assert "pre-training step, clips/s: >= 4000: 3.2e+03, missed" in lines(list(measured.values()))


def test_growth_is_the_cost_of_a_token() -> None:
    rows = [
        row("sweep_step", size, name, "step", ms, tokens=tokens)
        for name, large in (("ours", 42.0), ("vit_sdpa", 80.0))
        for size, tokens, ms in (("base", 800, 10.0), ("frames=64", 3200, large))
    ]
    ours = found(rows, "training step, cost of a token, 64 frames to 16, LGI-Former")
    vit = found(rows, "training step, cost of a token, 64 frames to 16, ViT-B (not linear)")
    assert ours["measured"] == pytest.approx(1.05) and ours["reached"]
    assert vit["measured"] == pytest.approx(2.0) and vit["reached"]
