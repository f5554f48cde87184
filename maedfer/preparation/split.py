"""Dividing one's own clips into parts for training and test: nobody in both, and classes in like shares."""

from __future__ import annotations

import random
from collections.abc import Sequence

from maedfer.data.protocols import Fold
from maedfer.errors import InputError


def split_clips(
    rows: Sequence[tuple[str, int]],
    subjects: Sequence[str] | None = None,
    *,
    folds: int = 1,
    test: float = 0.2,
    seed: int = 0,
) -> list[Fold]:
    """Divide clips into folds.

    The largest groups go first, each to the part that lacks most of the classes that the group has; who is first among
    equals is drawn. The same clips and seed give the same folds, in whatever order the clips come.

    Args:
        rows: paths and labels.
        subjects: who is in each clip; clips of one subject are all in one part. None = clips are divided one by one.
        folds: parts that are each tested once; 1 = one split.
        test: share of the clips for test, where there is one split.
        seed: of the order among equals.

    Returns:
        Folds whose rows are sorted by path.

    Raises:
        InputError: there are fewer clips, or subjects, than parts.
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for position, row in enumerate(sorted(rows)):
        groups.setdefault(str(position), []).append(row)
    if subjects is not None:
        groups = {}
        for subject, row in sorted(zip(subjects, rows, strict=True)):
            groups.setdefault(subject, []).append(row)
    shares = [1 - test, test] if folds == 1 else [1 / folds] * folds
    if len(groups) < len(shares):
        what = "clips" if subjects is None else "subjects"
        raise InputError(f"{len(groups)} {what} cannot be divided into {len(shares)} parts")
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -len(groups[name]))
    totals: dict[int, int] = {}
    for _, label in rows:
        totals[label] = totals.get(label, 0) + 1
    parts: list[list[tuple[str, int]]] = [[] for _ in shares]
    counts = [dict.fromkeys(totals, 0) for _ in shares]
    for left, name in zip(range(len(order), 0, -1), order, strict=True):
        group = groups[name]
        labels = [label for _, label in group]
        empty = [part for part, rows_of in enumerate(parts) if not rows_of]
        # No part stays empty.
        choice = empty if len(empty) >= left else range(len(shares))

        def lack(part: int, labels: list[int] = labels) -> tuple[float, float]:
            whole = shares[part]
            by_class = sum(1 - counts[part][label] / (whole * totals[label]) for label in labels) / len(labels)
            return round(by_class, 9), 1 - len(parts[part]) / (whole * len(rows))

        best = max(choice, key=lack)
        parts[best] += group
        for label in labels:
            counts[best][label] += 1
    if folds == 1:
        return [Fold(sorted(parts[0]), sorted(parts[1]))]
    return [
        Fold(sorted(row for other, part in enumerate(parts) if other != number for row in part), sorted(parts[number]))
        for number in range(folds)
    ]
