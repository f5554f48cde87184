"""One call from a video to its expressions over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maedfer.errors import InputError
from maedfer.models import LGIFormer
from maedfer.prediction.options import check_together, options_from
from maedfer.prediction.prediction import Prediction
from maedfer.prediction.predictor import Predictor, open_predictor

# Options that belong to the model rather than to the video.
_OF_MODEL = ("precision", "device", "batch_size")


def predict(
    video: str | Path,
    checkpoint: str | Path | LGIFormer | Predictor,
    *,
    classes: Sequence[str] | str | None = None,
    calibrate: bool = True,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Prediction:
    """Predict the expressions of each face of a video over time.

        prediction = maedfer.predict("interview.mp4", "runs/dfew")
        prediction.to_pandas()

    Whoever has many videos calls `maedfer.open_predictor` once, and its `predict` for each.

    Args:
        video: a file, or a folder of frames.
        checkpoint: as `open_predictor` takes it, or what that gives.
        classes, calibrate: as `open_predictor` takes them.
        progress: is told the share of the video that has been looked at.
        options: fields of `PredictionOptions`: window, hop, whole, crop, faces, device, ...

    Raises:
        InputError: see `open_predictor` and `Predictor.predict`.
    """
    # What is mistyped, or does nothing, is told before a model is loaded.
    check_together(options_from(**options))
    of_model = {name: options.pop(name) for name in _OF_MODEL if name in options}
    if isinstance(checkpoint, Predictor):
        given = [*of_model, *(["classes"] if classes is not None else []), *([] if calibrate else ["calibrate"])]
        if given:
            raise InputError(f"{given[0]} is chosen when a model is loaded: give it to open_predictor")
        predictor = checkpoint
    else:
        predictor = open_predictor(checkpoint, classes=classes, calibrate=calibrate, **of_model)
    return predictor.predict(video, progress=progress, **options)
