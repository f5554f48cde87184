"""What can be chosen of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maedfer.errors import InputError, unknown
from maedfer.explanation.attention import check_blocks
from maedfer.explanation.clips import check_frames, encoder_config
from maedfer.explanation.evidence import class_names, class_number
from maedfer.explanation.reconstruction import check_masks
from maedfer.models import MAEDFER, LGIFormer

ATTENTION, EVIDENCE, RECONSTRUCTION = "attention", "evidence", "reconstruction"
WHAT = (ATTENTION, EVIDENCE, RECONSTRUCTION)


@dataclass(frozen=True)
class Explaining:
    """What is to be made for each video.

    Args:
        what: of `WHAT`; all that the model can give when empty.
        blocks: numbers of the blocks whose maps are drawn; the first, the middle and the last one when None. Films
            show the last of them.
        head: whose maps are drawn, from 0 on; the mean over heads when None.
        target: class whose evidence is looked for; the most probable one when None.
        seeds: of the masks of reconstructions.
        mask_ratio: share of the tokens that is hidden; the model's own when None.
        at: seconds at which a window is wanted for pictures; see `look_at_video`.
        film: whether films are made.
        smooth: interpolate maps between tokens.
    """

    what: tuple[str, ...] = ()
    blocks: tuple[int, ...] | None = None
    head: int | None = None
    target: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    mask_ratio: float | None = None
    at: float | None = None
    film: bool = True
    smooth: bool = True


def parts_of(model: LGIFormer | MAEDFER, chosen: Explaining, name: str = "the model") -> tuple[str, ...]:
    """What is to be made of a model, after a look at whether it can be.

    Args:
        model: a classifier, a feature extractor or an autoencoder.
        chosen: what was asked for.
        name: of the model, for messages.

    Raises:
        InputError: it cannot, or a choice is for what is not made; says what the model can give.
    """
    check_frames(encoder_config(model), name)
    for what in chosen.what:
        if what not in WHAT:
            raise unknown("explanation", what, WHAT)
    able: tuple[str, ...]
    if isinstance(model, MAEDFER):
        able, kind = (ATTENTION, RECONSTRUCTION), "a masked autoencoder, weights of pre-training"
    elif model.config.num_classes:
        able, kind = (ATTENTION, EVIDENCE), "a classifier, which has no decoder"
    else:
        able, kind = (ATTENTION,), "a feature extractor without a head"
    for what in chosen.what:
        if what not in able:
            raise InputError(f"{name} holds {kind}: there is no {what} of it, only {' and '.join(able)}")
    parts = tuple(what for what in WHAT if what in (chosen.what or able))
    _check_used("blocks", chosen.blocks is not None, ATTENTION, parts, kind)
    _check_used("head", chosen.head is not None, ATTENTION, parts, kind)
    _check_used("class", chosen.target is not None, EVIDENCE, parts, kind)
    _check_used("mask_ratio", chosen.mask_ratio is not None, RECONSTRUCTION, parts, kind)
    _check_used("seeds", chosen.seeds != Explaining().seeds, RECONSTRUCTION, parts, kind)
    if isinstance(model, MAEDFER):
        check_masks(model.config, chosen.seeds, chosen.mask_ratio)
    config = encoder_config(model)
    check_blocks(chosen.blocks, config.depth)
    if chosen.head is not None and not 0 <= chosen.head < config.num_heads:
        raise InputError(f"head {chosen.head} is out of range: {name} has {config.num_heads} heads, from 0 on")
    if chosen.target is not None and isinstance(model, LGIFormer):
        class_number(as_target(chosen.target, class_names(model)), class_names(model))
    return parts


def as_target(text: str, names: Sequence[str]) -> str | int:
    """A class as it is typed: one of the names, or its number."""
    return int(text) if text not in names and text.isdecimal() else text


def _check_used(option: str, given: bool, part: str, parts: Sequence[str], kind: Any) -> None:
    if given and part not in parts:
        raise InputError(f"{option} is for the {part}, which is not made of {kind}: leave it out")
