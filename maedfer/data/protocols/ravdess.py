"""RAVDESS: two sentences spoken by 24 actors; six folds of consecutive actors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from maedfer.data.protocols._record import ActedClip, DatasetProtocol, Fold, acted_clips, paths_below, subject_folds

# In the order of the third field of file names, 01 to 08.
CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SUBJECTS = ((1, 4), (5, 8), (9, 12), (13, 16), (17, 20), (21, 24))


def parse(path: str) -> ActedClip | None:
    """Read `02-01-06-01-02-01-12.mp4`; only speech (second field 01) with a picture (first field 01 or 02)."""
    fields = Path(path).stem.split("-")
    if len(fields) != 7 or not all(field.isdecimal() for field in fields):
        return None
    if fields[0] not in ("01", "02") or fields[1] != "01":
        return None
    label = int(fields[2]) - 1
    return ActedClip(path, label, int(fields[6])) if 0 <= label < len(CLASSES) else None


def folds(paths: Iterable[str]) -> list[Fold]:
    """Split clips; other files are left out, and so is the second of the two files of a recording.

    Each comes with sound (01-...) and without (02-...): the pictures are the same.
    """
    clips = {Path(clip.path).stem[2:]: clip for clip in reversed(acted_clips(paths, parse))}
    return subject_folds(list(clips.values())[::-1], SUBJECTS, "RAVDESS")


PROTOCOL = DatasetProtocol(
    title="RAVDESS",
    classes=CLASSES,
    layout="names of seven fields (third: expression 01 to 08, last: actor), speech with picture (01-01 or 02-01) "
    "only; actors 1-4, 5-8, ..., 21-24",
    split="by actor",
    read=lambda root: folds(paths_below(root)),
    folds=len(SUBJECTS),
    clips=1440,
    test_clips=240,
)
