"""RAVDESS: two sentences spoken by 24 actors; six folds of consecutive actors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from maedfer.data.protocols._record import (
    ActedClip,
    DatasetProtocol,
    Fold,
    Tell,
    acted_clips,
    paths_below,
    recording_name,
    subject_folds,
)

# In the order of the third field of file names, 01 to 08.
CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SUBJECTS = ((1, 4), (5, 8), (9, 12), (13, 16), (17, 20), (21, 24))


def parse(path: str) -> ActedClip | None:
    """Read `02-01-06-01-02-01-12.mp4`; only speech (second field 01) with a picture (first field 01 or 02)."""
    name = recording_name(path)
    if not re.fullmatch(r"[0-9]{2}(-[0-9]{2}){6}", name):
        return None
    fields = name.split("-")
    if fields[0] not in ("01", "02") or fields[1] != "01":
        return None
    label = int(fields[2]) - 1
    return ActedClip(path, label, int(fields[6]), name[2:]) if 0 <= label < len(CLASSES) else None


def folds(paths: Iterable[str], root: Path | None = None, tell: Tell = lambda sentence: None) -> list[Fold]:
    """Split clips, as `acted_clips` takes them; other files are left out.

    Every recording comes with sound (01-...) and without (02-...): the pictures are the same, and the first counts.
    """
    clips = [clip for path in paths if (clip := parse(path)) is not None]
    with_sound = {clip.recording for clip in clips if recording_name(clip.path).startswith("01")}
    wanted = [
        clip.path for clip in clips if clip.recording not in with_sound or recording_name(clip.path).startswith("01")
    ]
    return subject_folds(acted_clips(wanted, parse, root, tell), SUBJECTS, "RAVDESS")


PROTOCOL = DatasetProtocol(
    title="RAVDESS",
    classes=CLASSES,
    layout="names of seven fields (third: expression 01 to 08, last: actor), speech with picture (01-01 or 02-01) "
    "only; actors 1-4, 5-8, ..., 21-24",
    split="by actor",
    read=lambda root, tell: folds(paths_below(root, tell), root, tell),
    folds=len(SUBJECTS),
    clips=1440,
    test_clips=240,
    parse=parse,
    subjects=tuple(range(1, 25)),
)
