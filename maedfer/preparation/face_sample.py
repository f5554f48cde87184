"""Whether clips show faces that were cut out, or whole pictures: a detector looks at some of them.

Scores fall without a word where a model that was trained on faces is given whole pictures: published weights that reach
a UAR of 41 on MAFW reach 15.6 on frames which somebody took out of its recordings without cutting out the faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maedfer.data.video import open_video
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.faces.frame import Detections, Detector, Frame
from maedfer.preparation.look import ClipLook

# Clips that are looked at.
SAMPLE = 48
# The least share of the picture that a face covers in crops of faces: those of `maedfer crop` have 0.4 to 0.5, those of
# VoxCeleb2, which are wider, 0.15 to 0.3, whole pictures of films and interviews 0.02 to 0.15.
LEAST_SHARE = 0.2
LEAST_SHARE_WIDE = 0.1
# A second face counts from this share of the first one's area on.
_SECOND = 0.25
# Shares of the clips from which on that nobody, or several, are seen is worth a sentence.
_MANY = 0.2


@dataclass(frozen=True)
class FaceSample:
    """What a detector saw in the middle frames of some clips.

    Args:
        clips: how many were looked at.
        none: those in which it saw nobody.
        several: those in which there is a second face of a quarter of the first one's size or more.
        share: median share of the picture that the largest face covers, of those with a face; 0 without any.
        first_none, first_several: of each, the first clip; "" without any.
    """

    clips: int
    none: int
    several: int
    share: float
    first_none: str = ""
    first_several: str = ""

    def are_crops(self, least: float = LEAST_SHARE) -> bool:
        """Whether most of the clips show a face that fills the picture."""
        return self.share >= least and self.none <= self.clips / 2


def sample_faces(root: Path, looks: Sequence[ClipLook], detector: Detector, most: int = SAMPLE) -> FaceSample:
    """Look for faces in the middle frames of some of the clips, evenly spread.

    Args:
        root: the data set's folder.
        looks: clips that can be read, in the order of their paths.
        detector: see `maedfer.faces.open_detector`.
        most: clips that are looked at.
    """
    count = min(most, len(looks))
    shares: list[float] = []
    none: list[str] = []
    several: list[str] = []
    seen = 0
    for look in (looks[(2 * number + 1) * len(looks) // (2 * count)] for number in range(count)):
        try:
            with open_video(root / look.path) as reader:
                picture = reader.read([len(reader) // 2])[0]
        except InputError:
            # What cannot be read any more is told elsewhere.
            continue
        seen += 1
        (found,) = detector.detect([Frame(0, 0.0, picture)])
        covered = _shares(found, picture)
        if not len(covered):
            none.append(look.path)
            continue
        shares.append(float(covered.max()))
        if (covered >= _SECOND * covered.max()).sum() > 1:
            several.append(look.path)
    median = float(np.median(shares)) if shares else 0.0
    return FaceSample(seen, len(none), len(several), median, *(names[0] if names else "" for names in (none, several)))


def about_faces(sample: FaceSample, kind: str, least: float = LEAST_SHARE) -> tuple[list[str], list[str]]:
    """What a sample says of clips that are trained on as they are: what was found, and what to mind."""
    if not sample.clips:
        return [], []
    seen = (
        f"In the middle frames of {sample.clips} clips the face covers {100 * sample.share:.0f} % of the picture "
        f"(median); nobody is seen in {sample.none}, several faces in {sample.several}."
    )
    if not sample.are_crops(least):
        what = (
            "take the frames of faces that the data set comes with, or cut them out by --crop yes"
            if kind == "faces"
            else "cut the faces out by --crop yes"
        )
        return [], [
            f"{seen} These do not look like crops of faces, of which the face covers {100 * least:.0f} % and more: "
            f"{what}. Published weights that reach a UAR of 41 on MAFW reach 15.6 on frames of whole pictures."
        ]
    mind = []
    if sample.none > _MANY * sample.clips:
        mind.append(
            f"Nobody is seen in {sample.none} of {sample.clips} clips, the first is {shown(sample.first_none)}."
        )
    if sample.several > _MANY * sample.clips:
        mind.append(
            f"Several faces are in {sample.several} of {sample.clips} clips, as in {shown(sample.first_several)}: whose"
            " face is meant cannot be seen."
        )
    return [seen], mind


def _shares(found: Detections, picture: np.ndarray) -> np.ndarray:
    """Share of the picture that each box covers: float [n]."""
    height, width = picture.shape[:2]
    ends = np.minimum(found.boxes[:, :2] + found.boxes[:, 2:], (width, height))
    sides = (ends - np.maximum(found.boxes[:, :2], 0)).clip(0)
    return sides.prod(1, dtype=np.float64) / (height * width)
