"""Which runs are seeds of one condition."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from maedfer.dataclass_tree import keys_of
from maedfer.errors import InputError
from maedfer.report.run_data import read_run
from maedfer.train.settings import RunConfig

# Settings that belong to the machine and still decide what is compared: clips, global batch, the weights scored.
_DECIDING = frozenset(
    "data.train data.val data.test train.batch_size train.accumulate train.global_batch".split()
    + "eval.checkpoint eval.runs".split()
)
# Settings in which the seeds of one condition may differ.
FREE = (keys_of(RunConfig, "machine") | {"seed"}) - _DECIDING


def group_runs(runs: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Put runs together that differ in nothing but the seed and settings of the machine.

    Where `train.precision` was left to the device, what it came to tells runs apart.

    Args:
        runs: run folders.

    Returns:
        Run folders by condition, in the order given. A condition has the name that those of its folders share.

    Raises:
        InputError: fewer than two runs, one of them given twice, or a folder that is no run.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2:
        raise InputError(f"{len(paths) or 'no'} run{'' if paths else 's'} to compare: give two or more")
    groups: dict[str, list[Path]] = {}
    for number, path in enumerate(paths):
        if path.resolve() in {other.resolve() for other in paths[:number]}:
            raise InputError(f"run {str(path)!r} is given twice: a comparison takes each once")
        leaves = {key: value for key, value in read_run(path).leaves().items() if key not in FREE}
        # Nothing is known of a run without settings.
        key = json.dumps(leaves, sort_keys=True, default=str) if leaves else str(path)
        groups.setdefault(key, []).append(path)
    return dict(zip(_labels(list(groups.values())), groups.values(), strict=True))


def _labels(groups: Sequence[Sequence[Path]]) -> list[str]:
    folder = os.path.commonpath([path.absolute().parent for group in groups for path in group])
    names = [[os.path.relpath(path.absolute(), folder) for path in group] for group in groups]
    labels = [group[0] if len(group) == 1 else _shared_start(group).rstrip("_-./ ") for group in names]
    # Folders that share no beginning, or the same one, stand in full.
    clear = all(labels) and len(set(labels)) == len(labels)
    return labels if clear else [", ".join(group) for group in names]


def _shared_start(names: Sequence[str]) -> str:
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False))
    return "".join(column[0] for column in columns)
