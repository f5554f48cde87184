"""What an autoencoder makes of what is hidden from it, for several masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from maedfer.errors import InputError
from maedfer.explanation.clips import Clip, as_batch, as_shares, check_frames, evaluating
from maedfer.explanation.figures import LEAST, PictureRow, moments, motion_gain, picture_rows
from maedfer.explanation.overlay import enlarge
from maedfer.models import MAEDFER, LGIFormer, MAEDFERConfig, tube_mask
from maedfer.models.masking import hidden_per_window

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_PARTS = ("appearance", "motion")


@dataclass(frozen=True)
class Reconstruction:
    """A clip with parts hidden, and what the model predicts for them; n masks. Pictures are float32 in [0, 1].

    Predictions are brought back to pixels by the mean and standard deviation of each true cube, where the model's
    target is normalised: `maedfer.MAEDFER.reconstruct` says how.

    Args:
        config: of the model.
        seeds: of the masks.
        mask_ratio: share of the tokens that is hidden.
        hidden: bool [n, *grid], True for tokens that the encoder does not see.
        original: [T, H, W, 3].
        masked: [n, T, H, W, 3], hidden cubes grey.
        full: [n, T, H, W, 3], hidden cubes as they are predicted.
        appearance: [n, T, H, W, 3], the predicted first frame of each hidden cube, held over it.
        motion: [n, T, H, W, 3], the predicted change from the first frame of each cube, round 0.5.
        true_motion: [T, H, W, 3], the true one.
        loss: float64 [n], what pre-training minimises, over all hidden tokens.
        appearance_loss, motion_loss: float64 [n], its two parts, unweighted.
    """

    config: MAEDFERConfig
    seeds: tuple[int, ...]
    mask_ratio: float
    hidden: np.ndarray
    original: np.ndarray
    masked: np.ndarray
    full: np.ndarray
    appearance: np.ndarray
    motion: np.ndarray
    true_motion: np.ndarray
    loss: np.ndarray
    appearance_loss: np.ndarray
    motion_loss: np.ndarray

    @property
    def target(self) -> str:
        """What the model was trained for: "joint", "appearance", "motion" or "pixels"."""
        return self.config.target

    def plot(self) -> Figure:
        """Draw original, masked clip and reconstruction in rows, and motion where that was trained."""
        config, target = self.config.encoder, self.target
        cubes, titles = moments(config)
        # The last frame of a cube: what changes within it is seen there.
        last = cubes * config.patch_size[0] + config.patch_size[0] - 1

        def cells(pictures: np.ndarray) -> np.ndarray:
            values = (np.clip(pictures, 0, 1) * 255 + 0.5).astype(np.uint8)
            return enlarge(values[last], LEAST)

        rows = [PictureRow("original", cells(self.original))]
        for place, seed in enumerate(self.seeds):
            rows.append(PictureRow(f"masked\n(seed {seed})", cells(self.masked[place])))
            if target != "motion":
                name = "appearance" if target == "appearance" else "reconstruction"
                pictures = self.appearance if target == "appearance" else self.full
                rows.append(PictureRow(f"{name}\nloss {self.loss[place]:.3f}", cells(pictures[place])))
        if target in ("joint", "motion"):
            gain = motion_gain(self.true_motion)
            strength = "" if gain == 1 else f"\n({gain:g} times)"
            rows.append(PictureRow(f"motion{strength}", cells(0.5 + gain * (self.true_motion - 0.5))))
            for place, seed in enumerate(self.seeds):
                remark = f"(seed {seed})" if target == "joint" else f"loss {self.loss[place]:.3f}"
                rows.append(PictureRow(f"predicted\n{remark}", cells(0.5 + gain * (self.motion[place] - 0.5))))
        return picture_rows(rows, titles)


def reconstruct(
    model: MAEDFER, clip: Clip, *, seeds: Sequence[int] = (0, 1, 2), mask_ratio: float | None = None
) -> Reconstruction:
    """Hide parts of a clip and let a pre-trained model predict them.

    Args:
        model: of pre-training, with its decoder; it is held in evaluation mode.
        clip: uint8 [3, T, H, W] or [T, H, W, 3], as large as the model takes it.
        seeds: of the masks, one each; masks are tubes, as in pre-training.
        mask_ratio: share of the tokens to hide; the model's own when None.

    Raises:
        InputError: a classifier, a clip of another shape or dtype, no seed, or a ratio that hides all or nothing.
    """
    if not isinstance(model, MAEDFER):
        kind = "a classifier" if isinstance(model, LGIFormer) else type(model).__name__
        raise InputError(f"a reconstruction needs a model of pre-training with its decoder, got {kind}")
    config = model.config
    check_frames(config.encoder)
    ratio = check_masks(config, seeds, mask_ratio)
    masks = torch.stack([tube_mask(config.encoder, ratio, torch.Generator().manual_seed(seed)) for seed in seeds])
    batch = as_batch(model, clip)
    frames = as_shares(batch)
    found: dict[str, list[np.ndarray]] = {}
    with evaluating(model):
        for hidden in masks:
            pictures = model.reconstruct(frames, hidden[None])
            visible, wanted = model.token_numbers(hidden[None])
            losses = model.training_loss(frames, visible, wanted)
            for name, values in pictures.items():
                found.setdefault(name, []).append(values[0].float().permute(1, 2, 3, 0).cpu().numpy())
            for name, value in (("loss", losses["loss"]), *((f"{key}_loss", losses[key]) for key in _PARTS)):
                found.setdefault(name, []).append(value.double().cpu().numpy())
    original = found.pop("original")[0]
    cube = config.encoder.patch_size[0]
    motion = original - original[::cube].repeat(cube, 0) + 0.5
    return Reconstruction(
        config,
        tuple(seeds),
        float(ratio),
        masks.reshape(len(masks), *config.encoder.grid).numpy(),
        original,
        true_motion=motion.clip(0, 1),
        **{name: np.stack(values) for name, values in found.items()},
    )


def check_masks(config: MAEDFERConfig, seeds: Sequence[int], mask_ratio: float | None) -> float:
    """The share of tokens that masks hide.

    Args:
        config: of the model.
        seeds: of the masks.
        mask_ratio: as of `reconstruct`.

    Raises:
        InputError: no seeds, or what is none; or a ratio that hides all or nothing.
    """
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise InputError(f"seeds must be whole numbers from 0 on, at least one, got {list(seeds)}")
    ratio = config.mask_ratio if mask_ratio is None else float(mask_ratio)
    hidden_per_window(config.encoder, ratio)
    return ratio
