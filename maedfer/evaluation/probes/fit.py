"""Fitting a probe: hyper-parameters by validation clips inside of the training part, then anew on all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from maedfer.errors import InputError, unknown
from maedfer.evaluation.metrics import confusion_matrix, scores
from maedfer.evaluation.probes.split import validation_split

KINDS = ("knn", "linear", "attentive")
# What was published, in a sentence each, for reports.
PROTOCOLS = {
    "knn": "The k training clips whose pooled features have the largest cosine similarity vote for their class, with "
    "weight exp(similarity / 0.07), as in DINO (Caron et al. 2021, arXiv 2104.14294). There k is chosen by the scores "
    "themselves, here by validation clips.",
    "linear": "Multinomial logistic regression with an L2 penalty on pooled features, its strength chosen by "
    "validation clips, as in CLIP (Radford et al. 2021, arXiv 2103.00020, appendix A.3). Features are standardised "
    "here, and the grid is coarser.",
    "attentive": "A learnable query attends to the tokens of a clip, then come a feed-forward network and a linear "
    "layer, trained by AdamW for 20 epochs (400 steps at least), the learning rate falling along a cosine, as in "
    "V-JEPA (Bardes et al. 2024, arXiv 2404.08471). There frames are augmented, a batch is 256 clips, and nothing is "
    "chosen; here learning rate and weight decay are chosen by validation clips, around the published 1e-3 and 0.01.",
}
Settings = Mapping[str, float]
# What is tried first wins where nothing tells settings apart: the published value, or the strongest regularisation.
_GRIDS: dict[str, tuple[Settings, ...]] = {
    "knn": tuple({"k": k} for k in (20, 10, 5, 1, 50, 100, 200)),
    "linear": tuple({"c": float(f"1e{power}")} for power in range(-5, 3)),
    "attentive": tuple({"lr": lr, "weight_decay": decay} for lr in (1e-3, 3e-4, 3e-3) for decay in (0.01, 0.1)),
}


class Probe(Protocol):
    """What a probe has learnt."""

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Float64 [n, classes], of features as it was fitted with."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What validation clips say of settings.

    Args:
        settings: that were tried.
        uar, war: over the validation clips, as shares.
        loss: the mean of -log p of the true class.
    """

    settings: Settings
    uar: float
    war: float
    loss: float


@dataclasses.dataclass(frozen=True)
class ProbeChoice:
    """How the hyper-parameters of a probe were found.

    Args:
        kind: one of `KINDS`.
        chosen: its hyper-parameters.
        trials: all that were tried, in this order; none where there was no choice.
        validation: clips that chose.
    """

    kind: str
    chosen: Settings
    trials: tuple[Trial, ...]
    validation: int

    @property
    def best(self) -> Trial | None:
        """The trial of the hyper-parameters that were chosen."""
        return next((trial for trial in self.trials if trial.settings == self.chosen), None)

    @property
    def at_the_end(self) -> bool:
        """Whether the choice is the smallest or largest of a grid of one number: a better one may lie beyond it."""
        keys = [*self.chosen]
        if len(keys) != 1 or len(self.trials) < 3:
            return False
        values = [trial.settings[keys[0]] for trial in self.trials]
        return self.chosen[keys[0]] in (min(values), max(values))


@dataclasses.dataclass(frozen=True)
class FittedProbe(ProbeChoice):
    """A probe, and how its hyper-parameters were found.

    Args:
        probe: fitted on the whole training part.
    """

    probe: Probe

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Float64 [n, classes], of features [n, C], or tokens [n, T, C] for an attentive probe."""
        return self.probe.probabilities(features)


def probe_grid(kind: str, clips: int) -> tuple[Settings, ...]:
    """The hyper-parameters that are tried for a kind of probe; numbers of neighbours below that of the clips.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in KINDS:
        raise unknown("kind of probe", kind, KINDS)
    grid = _GRIDS[kind]
    return tuple(one for one in grid if one["k"] < clips) or ({"k": 1},) if kind == "knn" else grid


def fit_probe(
    kind: str,
    train: np.ndarray,
    labels: Any,
    *,
    classes: int | None = None,
    groups: Sequence[object] | None = None,
    val: np.ndarray | None = None,
    val_labels: Any = None,
    grid: Sequence[Settings] | None = None,
    metric: str = "uar",
    share: float = 0.2,
    seed: int = 0,
    names: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> FittedProbe:
    """Fit a probe on features of labelled clips.

    Every setting of the grid is fitted on a part of the training clips and scored on the rest of them, or on clips of
    one's own; the best one is fitted again, on the whole training part. Equal scores are told apart by the likelihood
    of the labels, then by the order of the grid.

    Args:
        kind: "knn", "linear" or "attentive"; `fit_knn`, `fit_linear` and `fit_attentive` tell their protocols.
        train: [n, C] features, or [n, T, C] tokens for "attentive".
        labels: [n] whole numbers from 0.
        classes: how many there are; as many as the labels name when None.
        groups: who is seen in each training clip, [n]: nobody is on both sides of the choice.
        val, val_labels: clips to choose by, instead of some of the training part.
        grid: settings to try, instead of `probe_grid`; a single one is taken without a choice.
        metric: "uar" or "war", what the best one is best in.
        share: of the training clips that choose.
        seed: of the split, and of initial weights and order of an attentive probe.
        names: of the classes, for messages.
        progress: called with the share that is done.
        options: of the kind's function, such as device= and heads= of "attentive".

    Raises:
        InputError: features, labels or settings do not fit, or a class has too few clips.
    """
    train, labels = _checked(kind, train, labels, "training clips")
    if metric not in ("uar", "war"):
        raise unknown("metric", metric, ("uar", "war"))
    if not 0 < share < 1:
        raise InputError(f"the share of training clips that choose must be between 0 and 1, both excluded, got {share}")
    count = int(labels.max()) + 1 if classes is None else classes
    if labels.max() >= count:
        raise InputError(f"label {labels.max()} is out of range: there are {count} classes")
    if len(np.unique(labels)) < 2:
        raise InputError("all training clips are of one class: a probe tells two or more apart")
    if kind == "attentive":
        options["seed"] = seed
    inside = None
    if val is None:
        inside = validation_split(labels, groups, share=share, seed=seed, names=names)
        fit_x, fit_y, val_x, val_y = train[~inside], labels[~inside], train[inside], labels[inside]
    else:
        fit_x, fit_y = train, labels
        val_x, val_y = _checked(kind, val, val_labels, "validation clips")
        if val_x.shape[1:] != train.shape[1:] or val_y.max() >= count:
            raise InputError(
                f"validation clips have features {list(val_x.shape[1:])} and labels to {val_y.max()}, training clips "
                f"{list(train.shape[1:])} and {count} classes"
            )
    tried = tuple(probe_grid(kind, len(fit_y)) if grid is None else grid)
    if not tried:
        raise InputError("the grid of settings is empty: give one to take, or several to choose from")
    steps = len(tried) + 1 if len(tried) > 1 else 1
    trials = []
    if len(tried) > 1:
        for number, settings in enumerate(tried):
            share_done = _part(progress, number, steps)
            probe = _fit(kind, fit_x, fit_y, count, {**settings, **options}, share_done)
            trials.append(_trial(settings, probe.probabilities(val_x), val_y, count))
    chosen = tried[0] if not trials else max(trials, key=lambda trial: (getattr(trial, metric), -trial.loss)).settings
    probe = _fit(kind, train, labels, count, {**chosen, **options}, _part(progress, steps - 1, steps))
    if progress is not None:
        progress(1.0)
    return FittedProbe(kind, chosen, tuple(trials), len(val_y) if trials else 0, probe)


def _fit(kind: str, x: np.ndarray, y: np.ndarray, classes: int, options: dict[str, Any], progress: Any) -> Probe:
    # Of the three, the attentive one alone needs torch, and time.
    if kind == "knn":
        from maedfer.evaluation.probes.neighbours import fit_knn

        return fit_knn(x, y, classes, **options)
    if kind == "linear":
        from maedfer.evaluation.probes.linear import fit_linear

        return fit_linear(x, y, classes, **options)
    from maedfer.evaluation.probes.attentive import fit_attentive

    return fit_attentive(x, y, classes, progress=progress, **options)


def _part(progress: Callable[[float], None] | None, number: int, steps: int) -> Callable[[float], None] | None:
    return None if progress is None else lambda share: progress((number + share) / steps)


def _trial(settings: Settings, probabilities: np.ndarray, labels: np.ndarray, classes: int) -> Trial:
    found = scores(confusion_matrix(labels, probabilities.argmax(1), classes))
    loss = -np.log(np.clip(np.take_along_axis(probabilities, labels[:, None], 1), 1e-12, None)).mean()
    return Trial(settings, found["uar"], found["war"], float(loss))


def _checked(kind: str, features: Any, labels: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    if kind not in KINDS:
        raise unknown("kind of probe", kind, KINDS)
    axes = 3 if kind == "attentive" else 2
    shape = "tokens [n, T, C]" if axes == 3 else "features [n, C]"
    numbers = np.asarray(labels if labels is not None else [])
    # A memory map is not read here.
    if getattr(features, "ndim", 0) != axes or numbers.shape != features.shape[:1] or not len(numbers):
        raise InputError(
            f"{what}: a probe of kind {kind!r} takes {shape} and labels [n], got {getattr(features, 'shape', None)} "
            f"and {numbers.shape}"
        )
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0:
        raise InputError(f"{what}: labels must be whole numbers from 0, got {numbers.dtype} from {numbers.min()}")
    return features, numbers.astype(np.int64)
