"""FERV39k: clips of 22 scenes, with given lists for training and test."""

from __future__ import annotations

from pathlib import Path

from maedfer.data.protocols._record import DatasetProtocol, Fold, Rows, Tell, named_rows

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def read(root: Path, tell: Tell) -> list[Fold]:
    """Read the lists of all scenes, `Action/Happy/0267 Happy`, as one fold."""

    def rows(part: str) -> Rows:
        file = f"4_setups/All_scenes/{part}_All.csv"
        return named_rows(root, file, CLASSES, lambda name: f"2_ClipsforFaceCrop/{name}")

    return [Fold(rows("train"), rows("test"))]


PROTOCOL = DatasetProtocol(
    title="FERV39k",
    classes=CLASSES,
    layout="`4_setups/All_scenes/{train,test}_All.csv`; frames in `2_ClipsforFaceCrop/<scene>/<expression>/<clip>/`",
    split="given",
    read=read,
    folds=1,
    clips=38935,
    test_clips=7847,
    faces=True,
    clip_parts=3,
)
