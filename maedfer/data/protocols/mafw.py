"""MAFW: clips with a single label out of eleven, in five given folds."""

from __future__ import annotations

from pathlib import Path

from maedfer.data.protocols._record import DatasetProtocol, Fold, Rows, Tell, named_rows

CLASSES = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip


# Where the split may lie: as the published code has it, as the data set comes.
SPLITS = ("split", "Train & Test Set")


def read(root: Path, tell: Tell) -> list[Fold]:
    """Read the five folds: lines `00001.mp4 anger`, frames in a folder without the suffix."""

    split = next((name for name in SPLITS if (root / name).is_dir()), SPLITS[0])

    def rows(part: str, fold: int) -> Rows:
        file = f"{split}/single/no_caption/set_{fold}/{part}.txt"
        return named_rows(root, file, CLASSES, lambda name: f"data/frames/{name.split('.')[0]}")

    return [Fold(rows("train", fold), rows("test", fold)) for fold in range(1, 6)]


PROTOCOL = DatasetProtocol(
    title="MAFW",
    classes=CLASSES,
    layout="`split/single/no_caption/set_{1..5}/{train,test}.txt` (or in `Train & Test Set/`); frames in "
    "`data/frames/<clip>/` (png)",
    split="given",
    read=read,
    folds=5,
    clips=9172,
    test_clips=1839,
    faces=True,
)
