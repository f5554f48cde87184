"""CREMA-D: sentences said by 91 actors; five folds of consecutive actors."""

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

# By the code in file names; in label order.
CLASSES = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
SUBJECTS = ((1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091))


def parse(path: str) -> ActedClip | None:
    """Read `1001_DFA_ANG_XX.flv`: actor, sentence, expression, intensity."""
    name = recording_name(path).upper()
    match = re.fullmatch(r"([0-9]{4})_[A-Z0-9]{3}_([A-Z]{3})_[A-Z0-9]{2}", name)
    if match is None or match[2] not in CLASSES:
        return None
    return ActedClip(path, list(CLASSES).index(match[2]), int(match[1]), name)


def folds(paths: Iterable[str], root: Path | None = None, tell: Tell = lambda sentence: None) -> list[Fold]:
    """Split clips, as `acted_clips` takes them; files with names of another form are left out."""
    return subject_folds(acted_clips(paths, parse, root, tell), SUBJECTS, "CREMA-D")


PROTOCOL = DatasetProtocol(
    title="CREMA-D",
    classes=tuple(CLASSES.values()),
    layout="names `<actor>_<sentence>_<expression>_<level>`; actors 1001-1018, 1019-1036, 1037-1054, 1055-1072, "
    "1073-1091",
    split="by actor",
    read=lambda root, tell: folds(paths_below(root, tell), root, tell),
    folds=len(SUBJECTS),
    clips=7442,
    test_clips=1463,
    parse=parse,
    subjects=tuple(range(SUBJECTS[0][0], SUBJECTS[-1][1] + 1)),
)
