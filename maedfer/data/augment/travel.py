"""Clips on the way to a device that changes them: frames as they were decoded, and a program for each clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer._programs import BOX, Fit
from maedfer.data.augment.transforms import PretrainAugment, TrainAugment

# Frames of more pixels than so many times the model's are brought to its size before they travel.
_MOST = 4


class Travelling:
    """What a data set does to clips that a device is to change (`maedfer.kernels.functional.augment`).

    The device gives the same bytes as the transform. Frames travel as they are where those of a batch are of one size
    and not much larger than the model's; what is left of the program is the same for others.

    Args:
        transform: what would change the clips on the CPU.
        coded: pictures travel as the JPEG files that they are stored as, in their own size, and are decoded there.
    """

    def __init__(self, transform: TrainAugment | PretrainAugment, coded: bool = False) -> None:
        self.transform, self.coded = transform, coded

    @property
    def fit(self) -> Fit | None:
        """How the device brings frames to size before it does anything else; None = it takes them as they come."""
        return self.transform.fit.fit if isinstance(self.transform, TrainAugment) else None

    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a clip's program, from torch's global generator.

        Args:
            frames: uint8 [T, 3, H, W].

        Returns:
            Frames as they travel, uint8 [T, H', W', 3], and the program, float64 [P].
        """
        if isinstance(self.transform, TrainAugment):
            program = self.transform.draw()
        else:
            frames = self.transform.cut(frames)
            program = self.transform.draw(frames.shape[-2], frames.shape[-1])
        if frames.shape[-2:] != self.size_of(frames.shape[-2:]):
            return self._to_size(frames, program)
        return frames.permute(0, 2, 3, 1), program

    def program(self, frame: Sequence[int]) -> Tensor:
        """Draw the program of a clip that travels as files, from torch's global generator.

        Args:
            frame: height and width of its pictures.

        Raises:
            InputError: the fixed crop does not fit into them.
        """
        if isinstance(self.transform, TrainAugment):
            return self.transform.draw()
        # Nothing is cut out on the way: the box of the program moves instead.
        left = self.transform.cut(torch.empty(tuple(frame), device="meta"))
        program = self.transform.draw(left.shape[0], left.shape[1])
        if self.transform.crop is not None:
            program[BOX][:2] += torch.tensor(self.transform.crop[:2])
        return program

    def size_of(self, frame: Sequence[int]) -> tuple[int, int]:
        """In which size (height, width) frames of a size travel, where all of a batch are of that."""
        height, width = frame
        if isinstance(self.transform, PretrainAugment) and self.transform.crop is not None:
            height, width = (min(sides) for sides in zip(frame, self.transform.crop[2:], strict=True))
        rows, columns = self.transform.size
        return (height, width) if height * width <= _MOST * rows * columns else (rows, columns)

    def _to_size(self, frames: Tensor, program: Tensor) -> tuple[Tensor, Tensor]:
        """Bring frames [T, 3, H, W] to the model's size; returns them [T, H, W, 3] with the program that is left."""
        if isinstance(self.transform, TrainAugment):
            return self.transform.fit(frames).permute(0, 2, 3, 1), program
        left = program.clone()
        left[BOX] = torch.tensor([0, 0, *self.transform.size])
        return self.transform.follow(frames, program).permute(0, 2, 3, 1), left

    def of_one_size(self, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Bring the frames of samples, uint8 [R, T, H, W, 3], to one size."""
        if len({sample["frames"].shape[2:4] for sample in samples}) == 1:
            return [{**sample} for sample in samples]
        return [{**sample, **self._sample_to_size(sample)} for sample in samples]

    def _sample_to_size(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        # What has the model's size has it already, or is brought there with no change.
        clips = sample["frames"].permute(0, 1, 4, 2, 3)
        pairs = [self._to_size(clip, program) for clip, program in zip(clips, sample["program"], strict=True)]
        return {"frames": torch.stack([pair[0] for pair in pairs]), "program": torch.stack([pair[1] for pair in pairs])}
