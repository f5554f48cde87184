"""DFEW: clips of films, those with a single label, in five given folds."""

from __future__ import annotations

from pathlib import Path

from maedfer.data.protocols._record import DatasetProtocol, Fold, Rows, Tell, split_lines
from maedfer.errors import InputError

CLASSES = ("happy", "sad", "neutral", "anger", "surprise", "disgust", "fear")
# Where the frame folders may lie, in the order of preference: by the name that the published code gives them, by those
# that the data set has had. All hold the same pictures of 256 x 256, whatever their names say.
FRAMES = ("jpg_256", "Clip/jpg_256", "jpg_224", "Clip/jpg_224", "clip_224x224", "Clip/clip_224x224")


def read(root: Path, tell: Tell) -> list[Fold]:
    """Read the five folds."""
    frames = next((name for name in FRAMES if (root / name).is_dir()), FRAMES[0])

    def rows(part: str, fold: int) -> Rows:
        return _rows(root, f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv", frames)

    return [Fold(rows("train", fold), rows("test", fold)) for fold in range(1, 6)]


def _rows(root: Path, file: str, frames: str) -> Rows:
    """Read `video_name,label` with labels from 1, below one header line; frames are in folders of five digits."""
    rows: Rows = []
    for number, (where, fields) in enumerate(split_lines(root, file, ",")):
        if number == 0 and not fields[0].isdecimal():
            continue
        if len(fields) != 2 or not fields[0].isdecimal() or fields[1] not in tuple("1234567"):
            raise InputError(f"{where}: not 'number,label' with a label from 1 to 7: {','.join(fields)!r}")
        rows.append((f"{frames}/{int(fields[0]):05d}", int(fields[1]) - 1))
    return rows


PROTOCOL = DatasetProtocol(
    title="DFEW",
    classes=CLASSES,
    layout="`EmoLabel_DataSplit/{train,test}(single-labeled)/set_{1..5}.csv` (number and label, 1 to 7); "
    "frames in `jpg_256/<5 digits>/`, `jpg_224/...` or `clip_224x224/...`, or in one of these below `Clip/`",
    split="given",
    read=read,
    folds=5,
    clips=11697,
    test_clips=2341,
    faces=True,
    frame_size=(256, 256),
)
