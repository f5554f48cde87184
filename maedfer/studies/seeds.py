"""What several seeds of one condition came to: mean, spread, and the interval that their number allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import student
from maedfer.report.run_data import read_run
from maedfer.studies.pooled import METRICS
from maedfer.studies.tables import Measured


def over_seeds(values: Sequence[float]) -> Measured:
    """Mean, sample standard deviation, and the 95 % interval of the mean by Student's t.

    Args:
        values: shares in [0, 1], one a seed; a single one has neither spread nor interval, and two have no
            interval, as Student's t makes nearly all of [0, 1] of them.

    Returns:
        The limits of the interval are held between 0 and 1.
    """
    found = Measured.over(values)
    if found.spread is None or len(values) == 2:
        return found
    reach = student(0.975, len(values) - 1) * found.spread / math.sqrt(len(values))
    return Measured(found.value, found.spread, max(0.0, found.value - reach), min(1.0, found.value + reach))


def scores_of(folder: Path) -> dict[str, float]:
    """UAR and WAR of a run that has ended.

    Raises:
        InputError: it has no scores.
    """
    scores = read_run(folder).scores
    if scores is None:
        raise InputError(f"{str(folder)!r} has no metrics.json: run the study again")
    return {metric: float(getattr(scores, metric)) for metric in METRICS}


def about_seeds(seeds: Sequence[int]) -> str:
    """What the numbers beside a mean over seeds are."""
    names = ", ".join(map(str, seeds))
    if len(seeds) == 1:
        return f"One seed ({names}): how far another would be from it is not known."
    if len(seeds) == 2:
        return (
            f"Mean ± sample standard deviation over seeds {names}: two are too few for an interval that says anything."
        )
    return (
        f"Mean ± sample standard deviation over seeds {names}; in brackets the 95 % interval of the mean by "
        "Student's t, for these test clips."
    )
