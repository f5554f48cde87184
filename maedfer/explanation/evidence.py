"""What raises a class: occlusion. A part of the clip is hidden, and it is measured how much the class loses by that.

For every window of tokens (a box in time, height and width) its pixels are replaced, and its evidence is

    log(p / (1 - p)) of the clip  -  log(p / (1 - p)) of the clip without the window,

the weight of evidence in nats (Robnik-Sikonja and Kononenko, "Explaining Classifications For Individual Instances",
IEEE TKDE 2008; hiding parts of pictures: Zeiler and Fergus, ECCV 2014). Log-odds do not saturate as probabilities do.
Where windows overlap a token has the mean of theirs.

Two kinds of windows are asked for by name. "places" are tubes through all of the time, a fifth of the picture wide,
blurred: where a class is seen. "moments" are all of the picture for the time of one token, filled with every pixel's
mean over time: when it is seen. A box in place and time hides little that other moments do not show.

It is measured on the model, whatever it is built of, and asks nothing of its attention. Its limits: a clip with a
window replaced is none that the model has been trained on; where two parts can stand in for each other, neither has
evidence; and it tells of windows of the size that was chosen, filled in the way that was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.errors import InputError, unknown
from maedfer.explanation.clips import Clip, as_batch, as_shares, check_frames, encoder_config, evaluating, pictures_of
from maedfer.explanation.figures import LEAST, PictureRow, middles, moments, painted_frames, picture_rows, short_name
from maedfer.explanation.overlay import enlarge_smoothly, signed_scale
from maedfer.models import LGIFormer, LGIFormerConfig, normalize_frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a window is filled with: a blurred copy of the clip, its mean colour, or every pixel's mean over time, which
# leaves the picture and takes the movement away.
Fill = Literal["blur", "mean", "still"]
# Windows by name.
Windows = Literal["places", "moments"]
# Parts of the picture's sides that places are wide.
_PARTS = 5


@dataclass(frozen=True)
class ClassEvidence:
    """What raises and lowers a class in one clip.

    Args:
        config: of the model.
        target, name: the class, by its number and its name.
        probability: of the class for the clip as it is.
        probabilities: float64 [classes] of all of them.
        values: float32 [*grid], nats of log-odds that the class loses without the token's windows; below zero where it
            gains.
        occluded: float64 [n], log-odds of the class without each window.
        windows: int64 [n, 3], the first token of each, as (time, height, width).
        window: tokens of a window along each dimension.
        fill: what windows were filled with.
        frames: uint8 [T, H, W, 3], what the model was shown.
    """

    config: LGIFormerConfig
    target: int
    name: str
    probability: float
    probabilities: np.ndarray
    values: np.ndarray
    occluded: np.ndarray
    windows: np.ndarray
    window: tuple[int, ...]
    fill: str
    frames: np.ndarray

    def plot(self, *, smooth: bool = True) -> Figure:
        """Draw the evidence over the frames: red raises the class, blue lowers it.

        Args:
            smooth: interpolate between tokens; otherwise every token is a square.
        """
        return evidence_rows([self], smooth=smooth)


def evidence_rows(found: Sequence[ClassEvidence], *, smooth: bool = True) -> Figure:
    """Draw evidence for a class in one clip over its frames, a row for each kind of windows.

    Args:
        found: of one clip and class.
        smooth: interpolate between tokens; otherwise every token is a square.
    """
    first = found[0]
    config, name = first.config, short_name(first.name)
    cubes, titles = moments(config)
    places = middles(config, cubes)
    clip = enlarge_smoothly(first.frames, LEAST)
    rows = [PictureRow("the clip", clip[places])]
    # One scale, so that rows can be compared.
    scale = signed_scale(np.concatenate([one.values.ravel() for one in found]), "change of\nlog-odds")
    for one in found:
        whole = [length == side for length, side in zip(one.window, config.grid, strict=True)]
        where = "when" if whole[1] and whole[2] else "where" if whole[0] else "where and when"
        # A moment is as long as a cube: between two of them nothing is known.
        painted = painted_frames(clip, one.values, config, scale, smooth and where != "when")
        rows.append(PictureRow(f"{name}:\n{where} it is seen", painted[places], scale))
    note = f"p({name}) = {first.probability:.2f}. Red: without it the class loses; blue: it gains."
    return picture_rows(rows, titles, note=note)


def class_evidence(
    model: LGIFormer,
    clip: Clip,
    target: int | str | None = None,
    *,
    window: tuple[int, int, int] | Windows = "places",
    step: tuple[int, int, int] | None = None,
    fill: Fill | None = None,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
) -> ClassEvidence:
    """What raises a class in a clip, by occlusion; the module says how it is computed and what its limits are.

    Args:
        model: a classifier; it is held in evaluation mode.
        clip: uint8 [3, T, H, W] or [T, H, W, 3], as large as the model takes it.
        target: the class, by number or name; the most probable one when None.
        window: "places", "moments", or the tokens of a window along time, height and width.
        step: tokens from one window to the next; a window when None, half of one for places.
        fill: what a window is filled with: "blur", "mean" (the clip's mean colour) or "still" (each pixel's mean over
            time, which takes the movement away); "blur" when None, "still" for moments.
        batch_size: clips at once.
        progress: is told the share of the windows that is done.

    Returns:
        The evidence of every token. A window takes a pass of the model: 81 places, 8 moments for the base model.

    Raises:
        InputError: no classifier, a clip of another shape or dtype, no such class, or a window that does not fit.
    """
    if not isinstance(model, LGIFormer) or not model.config.num_classes:
        raise InputError("evidence for a class needs a classifier: this model has no classes, fine-tune it first")
    config = encoder_config(model)
    check_frames(config)
    if isinstance(window, str) and window not in get_args(Windows):
        raise unknown("kind of window", window, get_args(Windows))
    if fill is None:
        fill = "still" if window == "moments" else "blur"
    if fill not in get_args(Fill):
        raise unknown("fill", fill, get_args(Fill))
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    names = class_names(model)
    wanted = None if target is None else class_number(target, names)
    time, height, width = config.grid
    size: tuple[int, ...]
    if window == "places":
        size = (time, max(1, height // _PARTS), max(1, width // _PARTS))
    else:
        size = (1, height, width) if isinstance(window, str) else _sizes("window", window, config)
    steps = size if window != "places" else (time, max(1, size[1] // 2), max(1, size[2] // 2))
    if step is not None:
        steps = _sizes("step", step, config)
    batch = as_batch(model, clip)
    shares = as_shares(batch)
    filling = _filling(shares, fill, tuple(one * patch for one, patch in zip(size, config.patch_size, strict=True)))
    corners = [_starts(side, length, stride) for side, length, stride in zip(config.grid, size, steps, strict=True)]
    windows = np.array(list(product(*corners)), np.int64)
    with evaluating(model):
        logits = model(normalize_frames(shares)).double()[0]
        number = int(logits.argmax()) if wanted is None else wanted
        hidden: list[float] = []
        for some in _occluded(shares, filling, windows, size, config.patch_size, batch_size):
            hidden += _log_odds(model(normalize_frames(some)).double(), number).tolist()
            if progress is not None:
                progress(len(hidden) / len(windows))
    occluded = np.array(hidden)
    differences = float(_log_odds(logits[None], number)[0]) - occluded
    total, count = np.zeros(config.grid), np.zeros(config.grid)
    for corner, difference in zip(windows.tolist(), differences.tolist(), strict=True):
        place = tuple(slice(at, at + length) for at, length in zip(corner, size, strict=True))
        total[place] += difference
        count[place] += 1
    probabilities = logits.softmax(0).cpu().numpy()
    frames = pictures_of(batch, config)
    assert frames is not None
    return ClassEvidence(
        config,
        number,
        names[number],
        float(probabilities[number]),
        probabilities,
        # Steps longer than a window leave tokens that are in none: nothing is known of them.
        np.divide(total, count, out=np.zeros_like(total), where=count > 0).astype(np.float32),
        occluded,
        windows,
        size,
        fill,
        frames,
    )


def class_names(model: LGIFormer) -> tuple[str, ...]:
    """Names of a model's classes, "class 0" and so on where it has none."""
    known = () if model.clip_settings is None else tuple(model.clip_settings.classes)
    return known or tuple(f"class {number}" for number in range(model.config.num_classes))


def class_number(target: int | str, names: tuple[str, ...]) -> int:
    """The number of a class that is given by its number or name.

    Raises:
        InputError: there is no such class.
    """
    if isinstance(target, str):
        if target not in names:
            raise unknown("class", target, names)
        return names.index(target)
    if isinstance(target, bool) or not isinstance(target, (int, np.integer)) or not 0 <= target < len(names):
        raise InputError(f"class {target!r} is out of range: the model has {len(names)} classes, from 0 on")
    return int(target)


def _sizes(name: str, given: tuple[int, ...], config: LGIFormerConfig) -> tuple[int, ...]:
    sizes, grid = tuple(given), config.grid
    if len(sizes) != len(grid) or any(not isinstance(one, int) or one < 1 for one in sizes):
        raise InputError(f"{name} must be {len(grid)} whole numbers from 1 on, got {given!r}")
    if any(one > side for one, side in zip(sizes, grid, strict=True)):
        raise InputError(f"{name} {list(sizes)} is larger than the token grid {list(grid)}")
    return sizes


def _starts(side: int, length: int, step: int) -> list[int]:
    """Where windows begin along a dimension; the last one ends where it ends."""
    return sorted({*range(0, side - length + 1, step), side - length})


def _occluded(
    shares: Tensor,
    filling: Tensor,
    windows: np.ndarray,
    size: tuple[int, ...],
    patch: tuple[int, ...],
    batch_size: int,
) -> Iterator[Tensor]:
    """Clips without one window each, some at a time: float32 [n, 3, T, H, W]."""
    for at in range(0, len(windows), batch_size):
        some = windows[at : at + batch_size]
        clips = shares.repeat(len(some), 1, 1, 1, 1)
        for clip, corner in zip(clips, some.tolist(), strict=True):
            place = tuple(
                slice(start * cube, (start + length) * cube)
                for start, length, cube in zip(corner, size, patch, strict=True)
            )
            clip[(slice(None), *place)] = filling[0][(slice(None), *place)]
        yield clips


def _filling(shares: Tensor, fill: str, pixels: tuple[int, ...]) -> Tensor:
    """What windows are filled with: float32 [1, 3, T, H, W]."""
    if fill == "mean":
        return shares.mean((2, 3, 4), keepdim=True).expand_as(shares)
    if fill == "still":
        return shares.mean(2, keepdim=True).expand_as(shares)
    # Nothing finer than half of a window is left.
    frames = shares[0].transpose(0, 1)  # [T, 3, H, W]
    for axis, length in ((2, pixels[1]), (3, pixels[2])):
        frames = _blur(frames, axis, length / 2)
    return frames.transpose(0, 1)[None]


def _blur(frames: Tensor, axis: int, deviation: float) -> Tensor:
    """Gaussian blur along one axis of [T, 3, H, W], the border's pixels repeated."""
    reach = max(1, round(3 * deviation))
    places = torch.arange(-reach, reach + 1, dtype=frames.dtype, device=frames.device)
    kernel = torch.exp(-0.5 * (places / deviation) ** 2)
    kernel = (kernel / kernel.sum()).view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
    padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    flat = F.pad(frames, padding, mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(flat, kernel)[:, 0].unflatten(0, frames.shape[:2])


def _log_odds(logits: Tensor, target: int) -> Tensor:
    """log(p / (1 - p)) of a class: [n] of [n, classes]; the logit itself where there is one class alone."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1)
    return logits[:, target] - others.logsumexp(1)
