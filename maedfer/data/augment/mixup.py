"""Mixup and CutMix of whole batches, with label smoothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maedfer.errors import InputError


class Mixup:
    """Mix every clip of a batch with the one at the opposite place, by one ratio for the batch.

    Args:
        mixup: alpha of the Beta distribution that the ratio of a blend is drawn from; 0 = no blending.
        cutmix: the same for a box, equal in all frames, taken from the other clip; 0 = no boxes.
        smoothing: share of every target that is spread over all classes.
        num_classes: number of classes.
        prob: share of batches that are mixed.
        switch_prob: share of mixed batches that get a box, where both kinds are on.
        seed: start of the random numbers, which are this object's own.
    """

    def __init__(
        self,
        mixup: float,
        cutmix: float,
        smoothing: float,
        num_classes: int,
        *,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        seed: int = 0,
    ) -> None:
        if min(mixup, cutmix) < 0 or not 0 <= smoothing < 1:
            raise InputError(
                f"mixup {mixup} and cutmix {cutmix} must not be negative, smoothing {smoothing} must be in [0, 1)"
            )
        self.mixup, self.cutmix = mixup, cutmix
        self.prob, self.switch_prob = prob, switch_prob
        self.smoothing, self.num_classes = smoothing, num_classes
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, labels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Draw how a batch is mixed; what takes its frames does the mixing (see `kernels.functional.tubelets`).

        Args:
            labels: int64 [B].
            height, width: of the frames.

        Returns:
            (keep, top, bottom, left, right), float32 [5]: inside of the box the other clip takes a clip's place,
            outside of it the clip keeps the share `keep`. And float32 targets [B, num_classes] that sum to 1.
        """
        targets = functional.one_hot(labels, self.num_classes).float()
        targets = targets * (1 - self.smoothing) + self.smoothing / self.num_classes
        # torch draws from Beta distributions by its global generator only.
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=self.generator)))
        apply, switch, row, column = random.random(4)
        ratios = [random.beta(alpha, alpha) if alpha else 1.0 for alpha in (self.mixup, self.cutmix)]
        if apply >= self.prob or not (self.mixup or self.cutmix):
            return torch.tensor([1.0, 0, 0, 0, 0]), targets
        if self.cutmix and (not self.mixup or switch < self.switch_prob):
            *box, share = cut_box(height, width, ratios[1], row, column)
            mix = torch.tensor([1.0, *box])
        else:
            share = ratios[0]
            mix = torch.tensor([share, 0, 0, 0, 0])
        return mix, targets * share + targets.flip(0) * (1 - share)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the random numbers stand."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        self.generator.set_state(state["generator"])


def cut_box(height: int, width: int, ratio: float, row: float, column: float) -> tuple[int, int, int, int, float]:
    """Place CutMix's box.

    Args:
        height, width: of the frames.
        ratio: share of the picture that should stay.
        row, column: centre of the box, as shares of height and width in [0, 1).

    Returns:
        top, bottom, left, right of the box cut off at the border, and the share that really stays.
    """
    side = math.sqrt(1 - ratio)
    box_height, box_width = int(height * side), int(width * side)
    y, x = int(row * height), int(column * width)
    top, bottom = max(y - box_height // 2, 0), min(y + box_height // 2, height)
    left, right = max(x - box_width // 2, 0), min(x + box_width // 2, width)
    return top, bottom, left, right, 1 - (bottom - top) * (right - left) / (height * width)
