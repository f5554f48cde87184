"""How far changes to training clips are from those of the published way, in grey levels.

    python -m benchmarks.differences CLIP [CLIP ...]

CLIP is a video file or a folder of frames, of which two frames are taken. Pictures are brought to 160 x 160 and changed
by `maedfer.data.augment` and by Pillow as in `benchmarks.loading.published`, with the same numbers: each operation of
RandAugment alone at magnitudes drawn about 7, chains of four with probability 0.5 each, the resizing before them, and
the resized crop after them, which published code does in float32 without rounding. Last, what is left of normal noise
in erased boxes, which are bytes here. Rows are printed: largest and mean difference, share of values that differ, and
share that differ by more than one.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.loading import published
from maedfer._programs import Interpolation, noise_table
from maedfer.data import open_video
from maedfer.data.augment.draws import TrainDraws
from maedfer.data.augment.operations import operations_by
from maedfer.data.augment.rand_augment import OPERATIONS, apply_operation

SIZE, CHAINS, CROPS = 160, 150, 60
# What one calls right the other calls left; what interpolates.
_TURNED = ("rotate", "translate_x", "translate_y")
_MOVING = (*_TURNED, "shear_x", "shear_y")
_INTERPOLATIONS: tuple[Interpolation, ...] = ("bicubic", "bilinear")


class Difference(NamedTuple):
    """Of two sets of values, in grey levels."""

    largest: float
    mean: float
    share: float
    above_one: float


class Step(NamedTuple):
    """An operation as it was drawn."""

    name: str
    magnitude: float
    negative: bool


def difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Difference:
    """What pairs of pictures differ in."""
    off = np.concatenate([np.abs(one.astype(np.float64) - other).ravel() for one, other in pairs])
    return Difference(float(off.max()), float(off.mean()), float((off > 0).mean()), float((off > 1).mean()))


def pictures_of(clips: Sequence[Path]) -> list[np.ndarray]:
    """Squares of two frames of each clip: uint8 [side, side, 3]."""
    found = []
    for clip in clips:
        with open_video(clip) as video:
            for frame in video.read([len(video) // 3, len(video) // 2]):
                side = min(frame.shape[:2])
                found.append(np.ascontiguousarray(frame[:side, :side]))
    return found


def resized(picture: np.ndarray) -> np.ndarray:
    """By Pillow: uint8 [SIZE, SIZE, 3]."""
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def steps(draw: random.Random) -> Iterator[Step]:
    """The operations of a chain that are applied."""
    for _ in range(4):
        step = Step(draw.choice(list(OPERATIONS)), min(max(draw.gauss(7.0, 0.5), 0.0), 10.0), draw.random() < 0.5)
        if draw.random() < 0.5:
            yield step


def ours(picture: np.ndarray, step: Step, interpolation: Interpolation) -> np.ndarray:
    """The operation on a picture."""
    out = apply_operation(
        _clip(picture), step.name, step.magnitude, negative=step.negative, interpolation=interpolation
    )
    return _picture(out)


def theirs(picture: np.ndarray, step: Step) -> np.ndarray:
    """The same by Pillow."""
    sign = -1.0 if step.negative != (step.name in _TURNED) else 1.0
    change = published.OPERATIONS[list(OPERATIONS).index(step.name)]
    return np.asarray(change(Image.fromarray(picture), step.magnitude / 10, sign))


def measure(pictures: Sequence[np.ndarray]) -> Iterator[tuple[str, Difference]]:
    """Rows: what was compared, and the difference."""
    faces = [resized(picture) for picture in pictures]
    by = operations_by()
    brought = [
        (_picture(by.resize(_clip(picture), (SIZE, SIZE))), face) for picture, face in zip(pictures, faces, strict=True)
    ]
    yield "resized to the model's size", difference(brought)
    for interpolation in _INTERPOLATIONS:
        draw, chains = random.Random(1), []
        alone: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for number in range(CHAINS):
            face = faces[number % len(faces)]
            one = other = face
            for step in steps(draw):
                alone.setdefault(step.name, []).append((ours(face, step, interpolation), theirs(face, step)))
                one, other = ours(one, step, interpolation), theirs(other, step)
            chains.append((one, other))
        for name, pairs in sorted(alone.items()):
            if name in _MOVING:
                yield f"{name}, {interpolation}", difference(pairs)
            elif interpolation == "bicubic":
                yield name, difference(pairs)
        yield f"chains of operations, {interpolation}", difference(chains)
    crops = []
    torch.manual_seed(0)
    draw_box = TrainDraws((SIZE, SIZE), "", (0.08, 1.0), (3 / 4, 4 / 3), 0.0, 0.0)
    for number in range(CROPS):
        clip = _clip(faces[number % len(faces)])
        top, left, height, width = (int(value) for value in draw_box()[:4])
        box = clip[..., top : top + height, left : left + width]
        exact = functional.interpolate(box.double(), (SIZE, SIZE), mode="bilinear", align_corners=False)
        crops.append((by.resize(box, (SIZE, SIZE)).numpy(), exact.numpy()))
    yield "resized crop, against no rounding", difference(crops)


def noise() -> tuple[float, float, float]:
    """Mean, deviation and share of cut off values of the noise in erased boxes, over all channels, normalised."""
    table = noise_table().astype(np.float64)
    mean, deviation = (np.array(part)[:, None] for part in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    values = (table - mean) / deviation
    return float(values.mean()), float(values.std(axis=1).mean()), float(np.isin(table, (0, 255)).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP", help="video file or folder of frames")
    torch.set_num_threads(1)
    for name, found in measure(pictures_of(parser.parse_args(arguments).clips)):
        print(
            f"{name:36} largest {found.largest:6.2f}, mean {found.mean:.4f}, {found.share:.2%} of values differ, "
            f"{found.above_one:.3%} by more than 1"
        )
    mean, deviation, cut = noise()
    print(f"{'noise of erased boxes':36} mean {mean:.4f}, deviation {deviation:.4f}, {cut:.2%} of values cut off")
    return 0


def _clip(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


def _picture(clip: Tensor) -> np.ndarray:
    return clip[0].permute(1, 2, 0).numpy()


if __name__ == "__main__":
    sys.exit(main())
