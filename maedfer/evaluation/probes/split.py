"""Validation clips inside of a training part: of every class, and of people that the rest does not show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maedfer.errors import InputError

# Orders of groups that are tried: the first one nearly always fits.
_TRIES = 50


def validation_split(
    labels: np.ndarray,
    groups: Sequence[object] | None = None,
    *,
    share: float = 0.2,
    seed: int = 0,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Choose clips for validation, a share of each class.

    Args:
        labels: int64 [n].
        groups: who is seen in each clip; all clips of one are on the same side. None = every clip by itself.
        share: of the clips of a class, at least one of them and never all; with groups as near to it as they allow.
        seed: another one chooses other clips.
        names: of the classes, for messages.

    Returns:
        bool [n], true for validation.

    Raises:
        InputError: a class has too few clips, or too few groups.
    """
    draw = np.random.default_rng(seed)
    present, counts = np.unique(labels, return_counts=True)
    for label, count in zip(present, counts, strict=True):
        if count < 2:
            raise InputError(
                f"class {_name(label, names)} has 1 training clip: two are needed at least, one to learn from and one "
                "to choose hyper-parameters by: give data.val with clips to choose by, or more clips"
            )
    if groups is None:
        chosen = np.zeros(len(labels), bool)
        for label, count in zip(present, counts, strict=True):
            wanted = min(max(round(share * count), 1), count - 1)
            chosen[draw.permutation(np.flatnonzero(labels == label))[:wanted]] = True
        return chosen
    return _by_group(labels, groups, share, draw, names)


def _by_group(
    labels: np.ndarray, groups: Sequence[object], share: float, draw: np.random.Generator, names: Sequence[str]
) -> np.ndarray:
    numbers: dict[object, int] = {}
    member = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    present, place = np.unique(labels, return_inverse=True)
    clips = np.zeros((len(numbers), len(present)), np.int64)
    np.add.at(clips, (member, place), 1)
    holders = (clips > 0).sum(0)
    if (holders < 2).any():
        label = present[int(np.argmin(holders))]
        raise InputError(
            f"class {_name(label, names)} is shown by 1 subject of the training part: two are needed at least, one to "
            "learn from and one to choose hyper-parameters by: give data.val with clips to choose by, or more clips"
        )
    for _ in range(_TRIES):
        inside = _taken(clips, holders, share, draw)
        if inside is not None:
            return inside[member]
    raise InputError(
        f"the {len(numbers)} subjects of the training part cannot be shared out so that every class is shown by those "
        "who are learnt from and by others, to choose hyper-parameters by: give data.val with clips to choose by"
    )


def _taken(clips: np.ndarray, holders: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray | None:
    """Groups for validation, bool [groups], by their clips [groups, classes]; None where the order drawn leads nowhere.

    First every class gets a group, the rarest one before the others, then whoever brings all of them nearer to their
    share. No class is taken whole.
    """
    total, taken = clips.sum(0), np.zeros(clips.shape[1], np.int64)
    inside = np.zeros(len(clips), bool)
    order = draw.permutation(len(clips))
    for column in np.argsort(holders, kind="stable"):
        if taken[column]:
            continue
        group = next((one for one in order if clips[one, column] and (taken + clips[one] < total).all()), None)
        if group is None:
            return None
        inside[group], taken = True, taken + clips[group]
    for group in order:
        after = taken + clips[group]
        if not inside[group] and (after < total).all() and _far(after, total, share) < _far(taken, total, share):
            inside[group], taken = True, after
    return inside


def _far(taken: np.ndarray, total: np.ndarray, share: float) -> float:
    return float(((taken / total - share) ** 2).sum())


def _name(label: int, names: Sequence[str]) -> str:
    return repr(names[label]) if label < len(names) else str(label)
