"""CREMA-D: sentences said by 91 actors; five folds of consecutive actors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from maedfer.data.protocols._record import ActedClip, DatasetProtocol, Fold, acted_clips, paths_below, subject_folds

# By the code in file names; in label order.
CLASSES = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
SUBJECTS = ((1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091))


def parse(path: str) -> ActedClip | None:
    """Read `1001_DFA_ANG_XX.flv`: actor, sentence, expression, intensity."""
    match = re.fullmatch(r"(\d{4})_\w{3}_([A-Z]{3})_\w{2}", Path(path).stem)
    if match is None or match[2] not in CLASSES:
        return None
    return ActedClip(path, list(CLASSES).index(match[2]), int(match[1]))


def folds(paths: Iterable[str]) -> list[Fold]:
    """Split clips; files with names of another form are left out."""
    return subject_folds(acted_clips(paths, parse), SUBJECTS, "CREMA-D")


PROTOCOL = DatasetProtocol(
    title="CREMA-D",
    classes=tuple(CLASSES.values()),
    layout="names `<actor>_<sentence>_<expression>_<level>`; actors 1001-1018, 1019-1036, 1037-1054, 1055-1072, "
    "1073-1091",
    split="by actor",
    read=lambda root: folds(paths_below(root)),
    folds=len(SUBJECTS),
    clips=7442,
    test_clips=1463,
)
