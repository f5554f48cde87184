"""What was measured as tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.cpu.kinds import KINDS
from benchmarks.cpu.sides import PROVIDERS

Row = dict[str, Any]

_LEGEND = (
    "Milliseconds a clip: median ± half of what lies between the 20th and the 80th percentile; in brackets how many "
    "times as fast as the peer (median over rounds), and the share of the time that the floor is."
)


def tables(results: dict[str, Any]) -> list[str]:
    """Lines: a row for each work, a column for each provider; where the time goes, if that was asked for; the machine.

    Args:
        results: of `measure`.
    """
    rows = results["rows"]
    providers = [name for name in PROVIDERS if any(row["provider"] == name for row in rows)]
    head = ["", "threads", "clips", *(name.replace("_", " ") for name in providers), "floor"]
    body = []
    for work in dict.fromkeys(map(_work, rows)):
        by = {row["provider"]: row for row in rows if _work(row) == work}
        floors = {f"{row['floor_ms']:.0f}" for row in by.values() if "floor_ms" in row}
        op, dtype, threads, batch = work
        cells = [_cell(by[name]) if name in by else "" for name in providers]
        body.append([f"{op.replace('_', ' ')}, {dtype}", str(threads), str(batch), *cells, *(floors or [""])])
    worked = " Times are those that the processor worked." if results["settings"]["clock"] == "processor" else ""
    lines = [*_markdown(head, body), "", _LEGEND + worked]
    profiled = [row for row in rows if "kinds_ms" in row]
    if profiled:
        kinds = [kind for kind in KINDS if any(row["kinds_ms"][kind] >= 0.05 for row in profiled)]
        lines += ["", *_markdown(["ms a clip", "threads", "clips", "", *kinds, "sum"], map(_kinds(kinds), profiled))]
    failed = [f"{_name(row)}: {row['failed']}" for row in rows if "failed" in row]
    return [*lines, *([""] if failed else []), *failed, "", _where(results)]


def _markdown(head: Iterable[str], body: Iterable[list[str]]) -> list[str]:
    head = list(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def _cell(row: Row) -> str:
    if "ms_per_clip" not in row:
        return "failed" if "failed" in row else "-"
    ratio = f"{row['speed_of_peer']:.2f}x; " if "speed_of_peer" in row and row["provider"] != "peer" else ""
    digits = 0 if row["ms_per_clip"] >= 100 else 1
    spread = (row["p80"] - row["p20"]) / 2
    return f"{row['ms_per_clip']:.{digits}f} ± {spread:.{digits}f} ({ratio}{row['of_floor']:.0%})"


def _kinds(kinds: list[str]) -> Any:
    def cells(row: Row) -> list[str]:
        ms = row["kinds_ms"]
        place = [f"{row['op'].replace('_', ' ')}, {row['dtype']}", str(row["threads"]), str(row["batch"])]
        values = [f"{ms[kind]:.1f}" for kind in kinds]
        return [*place, row["provider"].replace("_", " "), *values, f"{sum(ms.values()):.1f}"]

    return cells


def _where(results: dict[str, Any]) -> str:
    here, peer = results["machine"], results["peer"]
    sides = "ours alone"
    if peer is not None:
        sides = "same weights on both sides, outputs compared"
        if not peer["shares_weights"]:
            sides = f"weights are not shared and outputs not compared ({peer['apart']})"
    instructions = ", ".join(here["instructions"]) or "no instruction sets known"
    return (
        f"{here['processor']} ({instructions}), PyTorch {here['torch']}, commit {here['commit']}, "
        f"csrc {'compiled' if 'cpu' in here['csrc'] else 'not compiled'}; {sides}."
    )


def _work(row: Row) -> tuple[str, str, int, int]:
    return row["op"], row["dtype"], row["threads"], row["batch"]


def _name(row: Row) -> str:
    return f"{row['op'].replace('_', ' ')}, {row['dtype']}, {row['batch']} clips, {row['provider']}"
