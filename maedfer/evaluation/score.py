"""Scoring clips with a classifier: temporal views, the mean of their softmax, and the scores in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from maedfer._progress import counted
from maedfer.errors import InputError, some
from maedfer.evaluation.predictions import Predictions, Skipped
from maedfer.evaluation.replay import Passes
from maedfer.models import LGIFormer

T = TypeVar("T")


def score_views(
    model: LGIFormer, frames: Tensor, *, views: int = 1, features: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Class probabilities of a batch of clips, the mean over the views of each.

    Args:
        model: the classifier, in evaluation mode.
        frames: uint8 [n * views, I, *clip_size], the views of a clip one after the other; the model normalises them.
        views: of each clip.
        features: also return pooled features.

    Returns:
        Probabilities, float32 [n, classes], NaN for a clip of which a logit is not finite; features, float32 [n, C],
        where they were asked for.
    """
    probabilities, pooled, _ = _score_views(model, frames, views, features)
    return probabilities, pooled


def _score_views(model: LGIFormer, frames: Tensor, views: int, features: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """What `score_views` returns, and the logits, float32 [n, views, classes]."""
    pooled = model.forward_features(frames) if features else None
    logits = (model(frames) if pooled is None else model.classify(pooled)).float()
    # Softmax would make a plain 0 of minus infinity.
    logits = logits.masked_fill(~logits.isfinite(), torch.nan)
    probabilities = logits.softmax(1).unflatten(0, (-1, views)).mean(1)
    pooled = None if pooled is None else pooled.float().unflatten(0, (-1, views)).mean(1)
    return probabilities, pooled, logits.unflatten(0, (-1, views))


@torch.inference_mode()
def predict(
    model: LGIFormer,
    batches: Iterable[Mapping[str, Any]],
    *,
    names: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str],
    subjects: Sequence[str] = (),
    views: int = 1,
    features: bool = False,
    logits: bool = False,
    device: torch.device | str = "cpu",
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    replay: bool = False,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Class probabilities of every clip, each scored once over all processes.

    Args:
        model: the classifier, on the device; its mode is put back in the end.
        batches: "frames" as in `score_views`, and "index", the number of the clip that each of them shows; "broken",
            where it is there, says of clips that could not be read what is wrong, by number.
        names, labels: of all clips.
        classes: names, in label order.
        subjects: who is in each clip, "" where that is not known; empty = it is of none.
        views: of each clip.
        features: also return pooled features.
        logits: also return the logits of every view.
        device: of the model.
        autocast: the arithmetic of a forward pass.
        replay: replay passes as CUDA graphs, see `Passes`.
        gather: gives the values of all processes, where several share the clips.
        progress: is told how many clips this process is done with.

    Raises:
        InputError: weights or logits are not finite, or no clip could be read.
        RuntimeError: the batches did not hold every clip once.
    """

    def run(frames: Tensor) -> tuple[Tensor | None, ...]:
        # Inside of what is captured, so that no cast of a weight outlives it.
        with autocast():
            found = _score_views(model, frames, views, features)
            return found if logits else found[:2]

    passes = Passes(run, device, replay)

    def score(frames: Tensor, indices: list[int]) -> Iterator[tuple[np.ndarray | None, ...]]:
        parts = [None if part is None else part.cpu().numpy() for part in passes(frames)]
        assert parts[0] is not None
        check_rows(parts[0], [names[index] for index in indices], model, "logits")
        return zip(*([None] * len(indices) if part is None else part for part in parts), strict=True)

    found, broken = run_over_clips(model, batches, score, len(names), views=views, gather=gather, progress=progress)
    kept = sorted(found)

    def stacked(part: int) -> np.ndarray:
        return np.stack([value for index in kept if (value := found[index][part]) is not None])

    return Predictions(
        names=[names[index] for index in kept],
        labels=np.asarray([labels[index] for index in kept], np.int64),
        probabilities=stacked(0),
        classes=tuple(classes),
        features=stacked(1) if features else None,
        skipped=tuple(Skipped(names[index], int(labels[index]), broken[index]) for index in sorted(broken)),
        logits=stacked(2) if logits else None,
        subjects=tuple(subjects[index] for index in kept) if any(subjects) else (),
    )


def run_over_clips(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    compute: Callable[[Tensor, list[int]], Iterable[T]],
    count: int,
    *,
    views: int,
    gather: Callable[[Any], list[Any]],
    progress: Callable[[int], None] | None,
) -> tuple[dict[int, T], dict[int, str]]:
    """Compute something for every clip of a list, each once over all processes, the model in evaluation mode.

    Args:
        model: what computes; its mode is put back in the end.
        batches, views, gather, progress: as in `predict`.
        compute: takes the frames of a batch and the numbers of its clips, and gives a value for each clip.
        count: of the clips.

    Returns:
        The values by number of the clip; and of those that could not be read, what is wrong.

    Raises:
        InputError: no clip could be read.
        RuntimeError: the batches did not hold every clip once.
    """
    was_training = model.training
    model.eval()
    found: dict[int, T] = {}
    broken: dict[int, str] = {}
    done = 0
    try:
        for batch in batches:
            broken.update(batch.get("broken", {}))
            indices = batch["index"][::views].tolist() if "index" in batch else []
            if indices:
                found.update(zip(indices, compute(batch["frames"], indices), strict=True))
            done += len(indices) + len(batch.get("broken", {}))
            if progress is not None:
                progress(done)
    finally:
        model.train(was_training)
    parts = gather((found, broken))
    values = {index: value for part, _ in parts for index, value in part.items()}
    reasons = {index: reason for _, part in parts for index, reason in part.items()}
    scored = sum(len(part) + len(wrong) for part, wrong in parts)
    if scored != count or {*values, *reasons} != set(range(count)):
        raise RuntimeError(f"{count} clips were to be scored once each, got {scored} scores")
    if not values:
        raise InputError(f"none of the {count} clips can be read; the first one: {reasons[min(reasons)]}")
    return values, reasons


def check_finite(model: nn.Module, name: str) -> None:
    """Refuse a model with weights that are not finite: whatever it says is worth nothing.

    Args:
        model: the model.
        name: what the message calls it.

    Raises:
        InputError: naming the first such tensor, and how many there are.
    """
    wrong = not_finite(model)
    if wrong:
        raise InputError(
            f"{name} holds weights that are not finite numbers, in {some(wrong, 1)}: the training that made it "
            "diverged, or the file is damaged"
        )


def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters and kept buffers that hold NaN or infinity."""
    return [
        name for name, value in model.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]


def check_rows(rows: np.ndarray, names: Sequence[str], model: nn.Module, what: str) -> None:
    """Refuse rows of clips that are not finite, by the first tensor of the model that is not, or else by the clip."""
    wrong = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(1))
    if len(wrong):
        check_finite(model, "the model")
        raise InputError(
            f"the {what} of clip {names[wrong[0]]!r} are not finite although the weights are: the arithmetic "
            "overflows, try train.precision=fp32"
        )


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that go to the log, and how many clips were skipped, if any."""
    found = {key: metrics[key] for key in ("uar", "war", "macro_f1", "weighted_f1", "loss", "n")}
    return {**found, "skipped": metrics["skipped"]} if metrics.get("skipped") else found


def summary(metrics: Mapping[str, Any], said: Sequence[str] = ()) -> str:
    """The scores as a line for people, in per cent, with the notes that they have not just been told (`said`)."""
    recalls = ", ".join(
        f"{name} {_percent(value)}" for name, value in zip(metrics["classes"], metrics["recall"], strict=True)
    )
    notes = "".join(f"; {note}" for note in metrics["notes"] if note not in said)
    uar, war, f1 = (_percent(metrics[key]) for key in ("uar", "war", "macro_f1"))
    return f"UAR {uar}, WAR {war}, macro F1 {f1} over {counted(metrics['n'], 'clip')} (recall: {recalls}){notes}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
