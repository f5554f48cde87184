"""A loader written the way that published code loads clips: one frame after the other, by decord and Pillow.

It is our own, from the description of that way: decord opens a video with one thread and gives 16 frames at stride 4;
pre-training crops every frame, as a picture of Pillow's, to one of the multi-scale boxes. Fine-tuning opens a jpg file
for each frame, brings it to the model's size and applies RandAugment as timm lists it; then the clip becomes float32,
is normalised, cropped at random, mirrored and erased. What either gives is float32, normalised. Pictures are turned,
sheared and shifted bicubically, as by the published settings.

Positions of frames are drawn by `maedfer.data.sampling` from the sample's key, so that both loaders read the same ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# decord brings libraries of its own: where they are loaded first, PyAV's encoders take theirs from them and fail.
import av  # noqa: F401
import decord
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from maedfer.data.sampler import SampleKey
from maedfer.data.sampling import pretrain_indices, train_indices

_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
_FILL = (128, 128, 128)
_MEAN = torch.tensor([0.485, 0.456, 0.406])
_DEVIATION = torch.tensor([0.229, 0.224, 0.225])
_SHARES = (1.0, 0.875, 0.75, 0.66)

Picture = Image.Image
Box = tuple[int, int, int, int]


class PublishedPretraining(Dataset[dict[str, Any]]):
    """Videos as samples of pre-training.

    Args:
        videos: the files.
        size: side of the result.
        crop: top, left, height, width of a box that is cut out of every frame first.
        changes: whether frames are changed at all; they come as they are read otherwise.
    """

    def __init__(self, videos: Sequence[Path], size: int, crop: Box, changes: bool = True) -> None:
        self.videos, self.size, self.crop, self.changes = list(videos), size, crop, changes

    def __len__(self) -> int:
        return len(self.videos)

    def frames(self, key: SampleKey, offset: int = 0) -> np.ndarray:
        """Decode a sample's frames, or those `offset` frames later: uint8 [16, H, W, 3]."""
        reader = decord.VideoReader(str(self.videos[key.index]), num_threads=1, ctx=decord.cpu(0))
        positions = pretrain_indices(len(reader), 16, 4, torch.Generator().manual_seed(key.seed)) + offset
        return reader.get_batch(positions.clip(0, len(reader) - 1).tolist()).asnumpy()

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Load a sample; frames: float32 [3, 16, size, size], or uint8 [16, H, W, 3] that are not changed."""
        frames = self.frames(key)
        if not self.changes:
            return {"frames": torch.from_numpy(frames), "label": -1, "index": key.index}
        top, left, height, width = self.crop
        pictures = [Image.fromarray(frame) for frame in frames]
        pictures = [picture.crop((left, top, left + width, top + height)) for picture in pictures]
        box = _multiscale_box(*pictures[0].size, random.Random(key.seed))
        pictures = [picture.crop(box).resize((self.size, self.size), _BILINEAR) for picture in pictures]
        return {"frames": _normalised(pictures), "label": -1, "index": key.index}


class PublishedFinetuning(Dataset[dict[str, Any]]):
    """Folders of jpg pictures as samples of fine-tuning.

    Args:
        folders: the clips; names sort as the frames follow each other.
        size: side of the result.
        changes: whether frames are changed at all; they come as they are read otherwise.
    """

    def __init__(self, folders: Sequence[Path], size: int, changes: bool = True) -> None:
        self.folders, self.size, self.changes = list(folders), size, changes

    def __len__(self) -> int:
        return len(self.folders)

    def pictures(self, key: SampleKey, offset: int = 0) -> list[Picture]:
        """Read a sample's frames, or those `offset` frames later."""
        files = sorted(self.folders[key.index].glob("*.jpg"))
        positions = train_indices(len(files), 16, 4, torch.Generator().manual_seed(key.seed)) + offset
        found = []
        for position in positions.clip(0, len(files) - 1).tolist():
            with Image.open(files[position]) as picture:
                found.append(picture.convert("RGB"))
        return found

    def frames(self, key: SampleKey, offset: int = 0) -> np.ndarray:
        """Read a sample's frames, or those `offset` frames later: uint8 [16, H, W, 3]."""
        return np.stack([np.asarray(picture) for picture in self.pictures(key, offset)])

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Load a sample; frames: float32 [3, 16, size, size], or uint8 [16, H, W, 3] that are not changed."""
        if not self.changes:
            return {"frames": torch.from_numpy(self.frames(key)), "label": 0, "index": key.index}
        draw = random.Random(key.seed)
        pictures = [picture.resize((self.size, self.size), _BILINEAR) for picture in self.pictures(key)]
        clip = _normalised(rand_augment(pictures, draw))
        top, left, height, width = _resized_crop_box(clip.shape[-2], clip.shape[-1], draw)
        clip = clip[..., top : top + height, left : left + width]
        clip = functional.interpolate(clip, (self.size, self.size), mode="bilinear", align_corners=False)
        if draw.random() < 0.5:
            clip = clip.flip(-1)
        if draw.random() < 0.25:
            _erase(clip, draw)
        return {"frames": clip, "label": 0, "index": key.index}


def rand_augment(pictures: list[Picture], draw: random.Random) -> list[Picture]:
    """Apply four operations at magnitude 7 (deviation 0.5) with probability 0.5 each, the same to all pictures."""
    for operation in draw.choices(OPERATIONS, k=4):
        if draw.random() < 0.5:
            level = min(max(draw.gauss(7.0, 0.5), 0.0), 10.0) / 10
            sign = draw.choice((-1.0, 1.0))
            pictures = [operation(picture, level, sign) for picture in pictures]
    return pictures


def _enhance(kind: Callable[[Picture], Any]) -> Callable[[Picture, float, float], Picture]:
    return lambda picture, level, sign: kind(picture).enhance(max(0.1, 1.0 + 0.9 * level * sign))


def _affine(picture: Picture, *matrix: float) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, _BICUBIC, fillcolor=_FILL)


def _solarize_add(picture: Picture, level: float, sign: float) -> Picture:
    table = [min(255, value + int(level * 110)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


# Of a picture, the level from 0 to 1 and the sign of operations that have two directions.
OPERATIONS: list[Callable[[Picture, float, float], Picture]] = [
    lambda picture, level, sign: ImageOps.autocontrast(picture),
    lambda picture, level, sign: ImageOps.equalize(picture),
    lambda picture, level, sign: ImageOps.invert(picture),
    lambda picture, level, sign: picture.rotate(sign * level * 30, _BICUBIC, fillcolor=_FILL),
    lambda picture, level, sign: ImageOps.posterize(picture, max(1, 4 - int(level * 4))),
    lambda picture, level, sign: ImageOps.solarize(picture, 256 - int(level * 256)),
    _solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda picture, level, sign: _affine(picture, 1, sign * level * 0.3, 0, 0, 1, 0),
    lambda picture, level, sign: _affine(picture, 1, 0, 0, sign * level * 0.3, 1, 0),
    lambda picture, level, sign: _affine(picture, 1, 0, sign * level * 0.45 * picture.width, 0, 1, 0),
    lambda picture, level, sign: _affine(picture, 1, 0, 0, 0, 1, sign * level * 0.45 * picture.height),
]


def _normalised(pictures: list[Picture]) -> Tensor:
    """Float32 [3, T, H, W]."""
    tensors = [torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 for picture in pictures]
    clip = torch.stack(tensors, 1)
    return (clip - _MEAN.view(3, 1, 1, 1)) / _DEVIATION.view(3, 1, 1, 1)


def _multiscale_box(width: int, height: int, draw: random.Random) -> Box:
    """A box (left, top, right, bottom): its sides are shares of the short one, one step apart at most."""
    sides = [int(min(width, height) * share) for share in _SHARES]
    pairs = [(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1]
    across, down = draw.choice(pairs)
    # Corners, centre, middles of the edges, and halfway between centre and corners, in quarters of what is left.
    even = [(x, y) for x in (0, 2, 4) for y in (0, 2, 4)]
    x, y = draw.choice(even + [(x, y) for x in (1, 3) for y in (1, 3)])
    left, top = x * ((width - across) // 4), y * ((height - down) // 4)
    return left, top, left + across, top + down


def _resized_crop_box(height: int, width: int, draw: random.Random) -> Box:
    """A box (top, left, height, width) of 0.08 to 1 of the area and of 3/4 to 4/3 as wide as it is high."""
    for _ in range(10):
        area = height * width * draw.uniform(0.08, 1.0)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return draw.randint(0, height - down), draw.randint(0, width - across), down, across
    return 0, 0, height, width


def _erase(clip: Tensor, draw: random.Random) -> None:
    """Fill a box of 0.02 to 1/3 of the area with noise, which is new in every frame."""
    height, width = clip.shape[-2:]
    for _ in range(10):
        area = height * width * draw.uniform(0.02, 1 / 3)
        ratio = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
        down, across = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if down < height and across < width:
            top, left = draw.randint(0, height - down), draw.randint(0, width - across)
            for number in range(clip.shape[1]):
                clip[:, number, top : top + down, left : left + across] = torch.randn(3, down, across)
            return
