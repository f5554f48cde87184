"""eNTERFACE05: sentences said by 43 subjects; five folds of consecutive subjects."""

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
CLASSES = {"an": "anger", "di": "disgust", "fe": "fear", "ha": "happiness", "sa": "sadness", "su": "surprise"}
SUBJECTS = ((1, 10), (11, 19), (20, 28), (29, 37), (38, 44))
# One recording that was never cut into sentences.
_LEFT_OUT = 6


def parse(path: str) -> ActedClip | None:
    """Read `s1_an_1.avi`: subject, expression, sentence. A folder `subject 1` on the way overrules the file name."""
    name = recording_name(path).lower()
    match = re.fullmatch(r"s_?([0-9]{1,3})_([a-z]{2})_?[0-9]+\w*", name)
    if match is None or match[2] not in CLASSES:
        return None
    folder = re.search(r"subject[ _]?([0-9]{1,3})", str(Path(path).parent).lower())
    subject = int(folder[1] if folder else match[1])
    if subject == _LEFT_OUT:
        return None
    # Files of one name below different sentences are different recordings, one of them misnamed.
    sentence = re.search(r"([^/]*/)?sentence[ _]?[0-9]+", str(Path(path).parent).lower())
    recording = f"{subject} {sentence[0] if sentence else ''} {name.replace('_', '')}"
    return ActedClip(path, list(CLASSES).index(match[2]), subject, recording)


def folds(paths: Iterable[str], root: Path | None = None, tell: Tell = lambda sentence: None) -> list[Fold]:
    """Split clips, as `acted_clips` takes them; files with names of another form are left out."""
    return subject_folds(acted_clips(paths, parse, root, tell), SUBJECTS, "eNTERFACE05")


PROTOCOL = DatasetProtocol(
    title="eNTERFACE05",
    classes=tuple(CLASSES.values()),
    layout="names `s<subject>_<expression>_<sentence>`; subjects 1-10 (there is no 6), 11-19, 20-28, 29-37, 38-44",
    split="by subject",
    read=lambda root, tell: folds(paths_below(root, tell), root, tell),
    folds=len(SUBJECTS),
    clips=1287,
    test_clips=270,
    parse=parse,
    subjects=tuple(subject for subject in range(1, 45) if subject != _LEFT_OUT),
)
