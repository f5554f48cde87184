"""Scoring clips with a classifier: temporal views, the mean of their softmax, and the scores in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maedfer.evaluation.predictions import Predictions
from maedfer.models import LGIFormer


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
        Probabilities, float32 [n, classes]; features, float32 [n, C], where they were asked for.
    """
    pooled = model.forward_features(frames) if features else None
    logits = model(frames) if pooled is None else model.head(pooled)
    probabilities = logits.float().softmax(1).unflatten(0, (-1, views)).mean(1)
    return probabilities, None if pooled is None else pooled.float().unflatten(0, (-1, views)).mean(1)


@torch.inference_mode()
def predict(
    model: LGIFormer,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    names: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str],
    views: int = 1,
    features: bool = False,
    device: torch.device | str = "cpu",
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> Predictions:
    """Class probabilities of every clip, each scored once over all processes.

    Args:
        model: the classifier, on the device; its mode is put back in the end.
        batches: "frames" as in `score_views`, and "index", the number of the clip that each of them shows.
        names, labels: of all clips.
        classes: names, in label order.
        views: of each clip.
        features: also return pooled features.
        device: of the model.
        autocast: the arithmetic of a forward pass.
        gather: gives the values of all processes, where several share the clips.

    Raises:
        RuntimeError: the batches did not hold every clip once.
    """
    was_training = model.training
    model.eval()
    found: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    try:
        for batch in batches:
            with autocast():
                frames = batch["frames"].to(device, non_blocking=True)
                probabilities, pooled = score_views(model, frames, views=views, features=features)
            rows = probabilities.cpu().numpy()
            vectors = [None] * len(rows) if pooled is None else pooled.cpu().numpy()
            found.update(zip(batch["index"][::views].tolist(), zip(rows, vectors, strict=True), strict=True))
    finally:
        model.train(was_training)
    parts = gather(found)
    everything = {index: value for part in parts for index, value in part.items()}
    scored = sum(map(len, parts))
    if scored != len(names) or everything.keys() != set(range(len(names))):
        raise RuntimeError(f"{len(names)} clips were to be scored once each, got {scored} scores")
    ordered = [everything[index] for index in range(len(names))]
    return Predictions(
        names=list(names),
        labels=np.asarray(labels, np.int64),
        probabilities=np.stack([row for row, _ in ordered]),
        classes=tuple(classes),
        features=np.stack([vector for _, vector in ordered]) if features else None,
    )


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that go to the log."""
    return {key: metrics[key] for key in ("uar", "war", "macro_f1", "weighted_f1", "loss", "n")}


def summary(metrics: Mapping[str, Any]) -> str:
    """The scores as a line for people, in per cent."""
    recalls = ", ".join(
        f"{name} {_percent(value)}" for name, value in zip(metrics["classes"], metrics["recall"], strict=True)
    )
    notes = "".join(f"; {note}" for note in metrics["notes"])
    uar, war, f1 = (_percent(metrics[key]) for key in ("uar", "war", "macro_f1"))
    return f"UAR {uar}, WAR {war}, macro F1 {f1} over {metrics['n']} clips (recall: {recalls}){notes}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
