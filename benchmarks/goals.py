"""What the fast path is meant to reach on an H100 in bfloat16, beside what a run measured.

Each goal looks its rows up by workload, size, provider and mode; where one is missing the goal is "not measured". Steps
and inference are judged as they are run on a GPU by default: replayed as CUDA graphs, training compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Floors = dict[str, float]


class Missing(LookupError):
    """A row that a goal needs is not there."""


class Table:
    """Rows by what they measure.

    Args:
        rows: of a results file.
        floors: of the same file.
    """

    def __init__(self, rows: Sequence[Row], floors: Floors) -> None:
        self.floors = floors
        self._rows = {
            (row["workload"], row["size"], row["provider"], row["mode"]): row for row in rows if row.get("ms")
        }

    def __call__(self, workload: str, size: str, provider: str, mode: str) -> Row:
        """One row.

        Raises:
            Missing: it was not measured.
        """
        key = (workload, size, provider, mode)
        if key not in self._rows:
            raise Missing(", ".join(key))
        return self._rows[key]


@dataclass(frozen=True)
class Goal:
    """A number to reach.

    Attributes:
        what: in words.
        target: the number.
        measure: finds it in a table of rows.
        at_most: whether less is better.
    """

    what: str
    target: float
    measure: Callable[[Table], float]
    at_most: bool = False


def goals(rows: Sequence[Row], floors: Floors) -> list[dict[str, Any]]:
    """Every goal with what was measured (None where it was not) and whether it is reached."""
    table = Table(rows, floors)
    found = []
    for goal in GOALS:
        entry: dict[str, Any] = {"goal": goal.what, "target": goal.target, "at_most": goal.at_most}
        try:
            value = goal.measure(table)
        except Missing as missing:
            entry |= {"measured": None, "reached": None, "missing": str(missing)}
        else:
            reached = value <= goal.target if goal.at_most else value >= goal.target
            entry |= {"measured": value, "reached": reached}
        found.append(entry)
    return found


def lines(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Goals for people."""
    out = []
    for entry in entries:
        if entry["measured"] is None:
            result = "not measured"
        else:
            result = f"{entry['measured']:.3g}, {'reached' if entry['reached'] else 'missed'}"
        sign = "<=" if entry["at_most"] else ">="
        out.append(f"{entry['goal']}: {sign} {entry['target']:g}: {result}")
    return out


def _of_copy(workload: str, size: str, mode: str) -> Callable[[Table], float]:
    def measure(table: Table) -> float:
        row = table(workload, size, "ours", mode)
        return row["bytes"] / table.floors["copy_bytes_per_s"] / (row["ms"] * 1e-3)

    return measure


def _speed(workload: str, size: str, mode: str, over: str, ours: str = "ours") -> Callable[[Table], float]:
    return lambda table: table(workload, size, over, mode)["ms"] / table(workload, size, ours, mode)["ms"]


def _step_speed(over: str) -> Callable[[Table], float]:
    """As the trainer runs it: compiled and replayed."""
    return _speed("finetune_step", "B=64", "step", over, "ours_compiled")


def _memory(table: Table) -> float:
    def peak(provider: str) -> float:
        row = table("finetune_step", "B=64", provider, "step")
        if row.get("memory_bytes") is None:
            raise Missing("peak memory")
        return row["memory_bytes"] + row["held_bytes"]

    # Not of the replayed step: what a graph holds is not seen as allocated.
    return peak("ours") / peak("reference")


def _utilisation(table: Table) -> float:
    row = table("inference", "B=64", "ours_graph", "forward")
    return row["flops"] / (row["ms"] * 1e-3) / table.floors["product_flops_per_s"]


def _growth(workload: str, mode: str, size: str, provider: str) -> Callable[[Table], float]:
    """Cost of a token in the larger clip over that in the base clip; 1 is linear growth."""

    def measure(table: Table) -> float:
        large, base = (table(workload, label, provider, mode) for label in (size, "base"))
        return (large["ms"] / large["tokens"]) / (base["ms"] / base["tokens"])

    return measure


def _growths() -> list[Goal]:
    found = []
    for work, workload, mode in (("inference", "sweep_inference", "forward"), ("training step", "sweep_step", "step")):
        for size, much in (("frames=64", "64 frames to 16"), ("pixels=320", "320 pixels to 160")):
            what = f"{work}, cost of a token, {much}"
            found.append(Goal(f"{what}, LGI-Former", 1.15, _growth(workload, mode, size, "ours"), at_most=True))
            found.append(Goal(f"{what}, ViT-B (not linear)", 1.15, _growth(workload, mode, size, "vit_sdpa")))
    return found


_ATTENTION, _INTERACTION = "region_attention", "local_global_interaction"

GOALS = (
    Goal("region attention S=101 forward, share of the copy floor", 0.85, _of_copy(_ATTENTION, "S=101", "forward")),
    Goal("region attention S=101 backward, share of the copy floor", 0.70, _of_copy(_ATTENTION, "S=101", "backward")),
    Goal("region attention S=101, both, times SDPA's speed", 1.5, _speed(_ATTENTION, "S=101", "both", "sdpa")),
    Goal("region attention S=11, both, times SDPA's speed", 3.0, _speed(_ATTENTION, "S=11", "both", "sdpa")),
    Goal("folded interaction forward, share of the copy floor", 0.80, _of_copy(_INTERACTION, "S=101", "forward")),
    Goal("folded interaction backward, share of the copy floor", 0.65, _of_copy(_INTERACTION, "S=101", "backward")),
    Goal("folded interaction, both, times the unfolded", 3.0, _speed(_INTERACTION, "S=101", "both", "reference")),
    Goal("fine-tuning step, times eager", 3.0, _step_speed("reference")),
    Goal("fine-tuning step, times torch.compile", 1.5, _step_speed("reference_compiled")),
    Goal("fine-tuning step, times compiled ViT-B", 2.0, _step_speed("vit_sdpa_compiled")),
    Goal("fine-tuning step, peak memory over eager's", 0.5, _memory, at_most=True),
    Goal("inference, times eager", 3.0, _speed("inference", "B=64", "forward", "reference", "ours_graph")),
    Goal("inference, share of the matrix product's operations a second", 0.55, _utilisation),
    Goal(
        "inference, one clip with a CUDA graph, ms",
        1.0,
        lambda table: table("inference", "B=1", "ours_graph", "forward")["ms"],
        at_most=True,
    ),
    Goal(
        "pre-training step, clips/s",
        4000.0,
        lambda table: table("pretrain_step", "B=128", "ours_compiled", "step")["clips_per_s"],
    ),
    *_growths(),
)
