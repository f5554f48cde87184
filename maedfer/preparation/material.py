"""What there is to prepare: the clips of a data set, by its own files and names, before any of them is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from maedfer.data.protocols import Fold

# What pictures of a data set show: faces that were cut out, whole recordings, or whatever somebody has filmed.
Kind = Literal["faces", "recordings", "own"]


@dataclass(frozen=True)
class Material:
    """The clips of a data set.

    Args:
        name: of the data set.
        title: as its authors write it.
        recipe: that trains on it.
        kind: what its pictures show.
        layout: what of it lies where, in a sentence.
        classes: names in label order; none where clips have no labels.
        folds: paths relative to the data set's folder, or absolute where they lie elsewhere, and labels; none where
            clips have no labels.
        validation: a part that is given beside the fold.
        unlabelled: paths of the clips where they have no labels.
        subjects: who is in a clip, by its path, as far as it is known.
        found: sentences on what is there.
        mind: sentences on what is not as it should be, and what to do.
        published: number of clips, as published; None of one's own.
        frame_size: height and width of the frames that it comes with, where all have one size.
    """

    name: str
    title: str
    recipe: str
    kind: Kind
    layout: str
    classes: tuple[str, ...] = ()
    folds: Sequence[Fold] = ()
    validation: Sequence[tuple[str, int]] = ()
    unlabelled: Sequence[str] = ()
    subjects: Mapping[str, str] = field(default_factory=dict)
    found: Sequence[str] = ()
    mind: Sequence[str] = ()
    published: int | None = None
    frame_size: tuple[int, int] | None = None
    paths: list[str] = field(init=False)

    def __post_init__(self) -> None:
        listed = (path for fold in self.folds for rows in fold for path, _ in rows)
        paths = sorted({*listed, *(path for path, _ in self.validation), *self.unlabelled})
        object.__setattr__(self, "paths", paths)
