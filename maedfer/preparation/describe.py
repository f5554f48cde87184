"""What is said of the clips of a data set that were looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maedfer._progress import counted
from maedfer.data.protocols import Fold
from maedfer.data.video.base import shown
from maedfer.errors import some
from maedfer.preparation.commands import CLIP_FRAMES
from maedfer.preparation.look import EMPTY, MISSING, ClipLook
from maedfer.preparation.material import Material
from maedfer.preparation.published import VOXCELEB2_BROKEN, archives_hint

# Sizes that are told one by one.
_SIZES = 3


def about_clips(looks: Sequence[ClipLook], material: Material) -> tuple[list[str], list[str]]:
    """What was found of clips that can be read, and what to mind.

    Args:
        looks: of them; at least one.
        material: the data set.
    """
    sizes = Counter((look.width, look.height) for look in looks).most_common()
    told = some([f"{width} x {height} ({number:,})" for (width, height), number in sizes], _SIZES)
    what = f"{sizes[0][0][0]} x {sizes[0][0][1]}" if len(sizes) == 1 else f"of {len(sizes):,} sizes: {told}"
    frames = np.array([look.frames for look in looks])
    shortest, longest = int(frames.min()), int(frames.max())
    many = f"{shortest:,} to {longest:,} frames, {np.median(frames):.0f} in the middle"
    found = [f"Frames are {what}.", f"Clips have {many if shortest < longest else counted(longest, 'frame')}."]
    short = int((frames < CLIP_FRAMES).sum())
    if short:
        found.append(f"{counted(short, 'clip')} of fewer than {CLIP_FRAMES} frames: the last one is repeated.")
    mind = []
    if material.frame_size is not None and (sizes[0][0][1], sizes[0][0][0]) != material.frame_size:
        height, width = material.frame_size
        mind.append(
            f"Frames of {material.title} are {width} x {height}, and most of these are {sizes[0][0][0]} x "
            f"{sizes[0][0][1]}: they were made otherwise, and scores cannot be compared with published ones."
        )
    single = [look.path for look in looks if look.frames == 1]
    if single:
        has = "has" if len(single) == 1 else "have"
        mind.append(f"{counted(len(single), 'clip')} {has} one frame, which does not move: {shown(some(single))}.")
    gaps = [look for look in looks if look.gaps]
    if gaps:
        mind.append(
            f"Between the numbers of the frames of {counted(len(gaps), 'clip')} some are left out, as in "
            f"{shown(gaps[0].path)} ({gaps[0].gaps}): not all may be unpacked, or no face was seen in them."
        )
    return found, mind


def about_copies(looks: Sequence[ClipLook], folds: Sequence[Fold]) -> list[str]:
    """A sentence on clips that have the same bytes as others, by their digests."""
    first: dict[str, str] = {}
    known = (look for look in looks if look.digest)
    copies = {look.path: kept for look in known if (kept := first.setdefault(look.digest, look.path)) != look.path}
    if not copies:
        return []
    path, kept = next(iter(copies.items()))
    what = "clip has" if len(copies) == 1 else "clips have"
    sentence = f"{len(copies):,} {what} the same bytes as another one, as {shown(path)} and {shown(kept)}"
    for number, fold in enumerate(folds, 1):
        train = {copies.get(path, path) for path, _ in fold.train}
        both = sum(copies.get(path, path) in train for path, _ in fold.test)
        if both:
            return [
                f"{sentence}; in fold {number}, {both:,} that are tested are trained on too, under another name: "
                "scores do not tell how other clips would fare. Leave the copies out."
            ]
    return [f"{sentence}."]


def about_quarantined(root: Path, material: Material, quarantined: Mapping[str, str], file: str) -> list[str]:
    """Sentences on clips that are left out, by what is wrong with them."""
    if not quarantined:
        return []
    missing = [path for path, reason in quarantined.items() if reason == MISSING]
    empty = [path for path, reason in quarantined.items() if reason.startswith(EMPTY)]
    known = {*missing, *empty}
    rest = [path for path in quarantined if path not in known]
    mind = []
    for paths, what, todo in (
        (missing, "not there", f"unpack or fetch them, and type the same command again.{archives_hint(root)}"),
        (empty, "empty", "unpack them again, and type the same command again."),
        (rest, "not usable", f"{file} says why, and the same command tries them again."),
    ):
        if paths:
            are = "is" if len(paths) == 1 else "are"
            first = f"{shown(paths[0])}" + (f" ({quarantined[paths[0]]})" if paths is rest else "")
            mind.append(f"{counted(len(paths), 'clip')} {are} {what} and left out, the first as {first}: {todo}")
    if material.name == "voxceleb2":
        mind.append(f"Of VoxCeleb2 {VOXCELEB2_BROKEN} clips are known to be broken; others may be damaged copies.")
    tested = {path for fold in material.folds for path, _ in fold.test}
    lost = sum(path in tested for path in quarantined)
    if lost and material.published:
        mind.append(f"{lost:,} of them belong to test parts: scores cannot be compared with published ones.")
    return mind


def about_folds(folds: Sequence[Fold], classes: Sequence[str], validation: int) -> list[str]:
    """How many clips are in each part, and in each class."""
    found = [
        f"Fold {number}: {len(fold.train):,} clips for training, {len(fold.test):,} for test."
        for number, fold in enumerate(folds, 1)
    ]
    if validation:
        found.append(f"{validation:,} clips for validation.")
    counts = Counter(label for rows in folds[0] for _, label in rows) if folds else Counter()
    by_class = ", ".join(f"{shown(name)} {counts[label]:,}" for label, name in enumerate(classes))
    return [*found, *([f"Classes: {by_class}."] if classes else [])]
