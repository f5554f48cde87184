"""What can be chosen of a prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from maedfer.dataclass_tree import from_dict
from maedfer.errors import InputError
from maedfer.setting import documented, setting


@documented
@dataclass(frozen=True)
class PredictionOptions:
    """How a video is looked at. What changes rows is of `results`, who computes is of the `machine`."""

    window: float | None = setting(
        None, above=0, doc="seconds that a window spans; None = the model's frames at its stride at 25 frames a second"
    )
    hop: float = setting(1.0, above=0, doc="seconds from the start of a window to that of the next one")
    whole: bool = setting(False, doc="one score a clip, its frames sampled exactly as an evaluation samples them")
    crop: bool = setting(True, doc="find faces and cut them out; without it frames are face crops already")
    faces: Literal["all", "largest"] | int = setting(
        "all", doc="whom a window is scored for: everybody, the largest face, or the N largest ones"
    )
    coverage: float = setting(
        0.5,
        above=0,
        high=1,
        doc="share of a window's frames, of those that the video has, in which a face must be there to be scored",
    )
    between: tuple[float, float] | None = setting(None, low=0, doc="seconds between which a video is looked at")
    fps: float | None = setting(None, above=0, doc="frames a second of a folder of frames, which tells no times")
    detector: str | None = setting(None, doc="file of a detector (CenterFace, YuNet); None = CenterFace", path=True)
    boxes: str | None = setting(None, doc="CSV of boxes made elsewhere, instead of a detector", path=True)
    threshold: float = setting(0.5, above=0, below=1, doc="least score of a face")
    every: int = setting(5, low=1, high=50, doc="frames from one that faces are looked for in to the next one")
    margin: float = setting(1.3, low=0.5, doc="side of the square that is cut out, in longer sides of the face's box")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", doc="arithmetic of the model; auto = bf16 where the processor or the GPU multiplies it fast"
    )
    device: str = setting("auto", belongs_to="machine", doc="cpu, cuda, cuda:1, or auto = a GPU where there is one")
    batch_size: int | None = setting(
        None, low=1, belongs_to="machine", doc="windows at once; None = 1 on a CPU, 32 on a GPU"
    )


# Options that do nothing where another one is not as it is by default.
_USELESS = {
    "crop": ("boxes", "detector", "threshold", "every", "margin", "faces"),
    "whole": ("hop", "window", "coverage"),
    "boxes": ("detector", "threshold", "every"),
}
# Shorter hops would show the same frames over and over: tables have milliseconds.
_LEAST_HOP = 0.001


def options_from(base: PredictionOptions | None = None, **values: Any) -> PredictionOptions:
    """Options from what is given by name.

    Args:
        base: what is not given is as it is there; as it is by default when None.
        values: fields of `PredictionOptions`.

    Raises:
        InputError: no such option, or a value of another type or out of its range; names it.
    """
    found = from_dict(PredictionOptions, values, base)
    if isinstance(found.faces, int) and found.faces < 1:
        raise InputError(f"faces must be all, largest, or how many of the largest ones, at least 1, got {found.faces}")
    if found.between is not None and found.between[0] > found.between[1]:
        start, end = found.between
        raise InputError(f"between must be two seconds, the earlier one first, got {start:g} and {end:g}")
    return found


def spelled_here(name: str) -> str:
    """How an option is written in Python, where it is not as it is by default."""
    return "crop=False" if name == "crop" else name


def check_together(options: PredictionOptions, spelled: Callable[[str], str] = spelled_here) -> PredictionOptions:
    """Refuse options that do not go together.

    Args:
        options: which are given back.
        spelled: how whoever gave them writes the name of one.

    Raises:
        InputError: one of them does nothing beside another one, or the hop is too short.
    """
    if options.hop < _LEAST_HOP:
        raise InputError(f"{spelled('hop')} must be {_LEAST_HOP:g} s at least, got {options.hop:g}")
    plain = PredictionOptions()
    changed = {name for name in vars(plain) if getattr(options, name) != getattr(plain, name)}
    for first, others in _USELESS.items():
        for second in others:
            if first in changed and second in changed:
                raise InputError(f"{spelled(first)} and {spelled(second)} do not go together: leave one of them out")
    return options
