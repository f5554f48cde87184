"""Features of clips in the plane: UMAP or t-SNE, coloured by class, shaped by subject."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from maedfer._figure_style import MUTED, PALETTE, PAPER, blank, styled
from maedfer._progress import counted
from maedfer.errors import InputError, require, unknown
from maedfer.evaluation.features import Features
from maedfer.evaluation.predictions import write_table
from maedfer.prediction.class_colours import class_colours
from maedfer.report.sections import tsne

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["auto", "umap", "tsne"]
# Fewer clips have no neighbourhoods to speak of.
_FEWEST = 8
# One marker a subject, as far as they go.
_SHAPES = "o^sDvPX*<>pd"


@dataclass(frozen=True)
class FeatureMap:
    """Features in the plane.

    Args:
        points: float64 [n, 2].
        names: of the clips, n of them.
        labels: int64 [n], -1 where there is none.
        classes: names, in label order; labels are shown as numbers where there are none.
        subjects: who is in each clip, n of them, "" where that is not known; empty where nobody is known.
        method: how they were made: "UMAP, 15 neighbours" or "t-SNE, perplexity 30".
    """

    points: np.ndarray
    names: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    subjects: tuple[str, ...]
    method: str

    @property
    def shapes(self) -> dict[str, str]:
        """The marker of each subject; none where nobody is known, or there are more people than markers."""
        people = sorted({*self.subjects} - {""})
        return dict(zip(people, _SHAPES, strict=False)) if 1 < len(people) <= len(_SHAPES) else {}

    def plot(self, *, width: float = 7.4) -> Figure:
        """Draw the points: a colour a class, and a shape a subject where there are at most twelve of them.

        Args:
            width: of the figure, in inches.
        """
        return _scatter(self, width)

    def write(self, path: str | Path) -> None:
        """Write a CSV: name, label, class, subject, x, y.

        Raises:
            InputError: it cannot be written.
        """
        rows = (
            [name, "" if label < 0 else int(label), self._class(int(label)), who, f"{x:.6g}", f"{y:.6g}"]
            for name, label, who, (x, y) in zip(
                self.names, self.labels, self.subjects or [""] * len(self.names), self.points.tolist(), strict=True
            )
        )
        write_table(Path(path), ["name", "label", "class", "subject", "x", "y"], rows)

    def _class(self, label: int) -> str:
        return self.classes[label] if 0 <= label < len(self.classes) else ""


def feature_map(
    features: Features,
    *,
    classes: Sequence[str] = (),
    subjects: Sequence[str] = (),
    method: Method = "auto",
    seed: int = 0,
) -> FeatureMap:
    """Lay features out in the plane. Neighbours are shown faithfully; distances between groups mean nothing.

    Args:
        features: of clips, as `maedfer.evaluation.extract_features` gives them: one vector a clip.
        classes: names, in label order.
        subjects: who is in each clip, as many as there are clips.
        method: "umap" (needs umap-learn), "tsne" (needs scikit-learn), or "auto", UMAP where it is installed.
        seed: of the layout, which is repeatable on one machine.

    Raises:
        InputError: fewer than eight clips, features of several views, or that are not finite or all the same; or
            another number of subjects than of clips.
        MissingDependencyError: the package of the method is absent.
    """
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))
    vectors, count = features.vectors, len(features.names)
    if vectors.ndim != 2:
        raise InputError(f"a map of features needs one vector a clip, [n, C], got {list(vectors.shape)}")
    if count < _FEWEST:
        raise InputError(f"a map of features needs {_FEWEST} clips at least, got {counted(count, 'clip')}")
    if not np.isfinite(vectors).all() or not np.ptp(vectors, 0).any():
        raise InputError("features are not finite, or the same for all clips: there is nothing to lay out")
    if subjects and len(subjects) != count:
        raise InputError(f"there are {len(subjects)} subjects of {count} clips: give one for each clip")
    if method == "auto":
        method = "umap" if importlib.util.find_spec("umap") is not None else "tsne"
    if method == "umap":
        neighbours = min(15, count - 1)
        reducer = require("umap", "umap").UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
        points = np.asarray(reducer.fit_transform(vectors), np.float64)
        words = f"UMAP, {neighbours} neighbours"
    else:
        perplexity = float(min(30, count // 4))
        points, words = tsne(vectors, perplexity, seed), f"t-SNE, perplexity {perplexity:g}"
    people = tuple(subjects) if any(subjects) else ()
    return FeatureMap(points, list(features.names), features.labels, tuple(classes), people, words)


@styled
def _scatter(found: FeatureMap, width: float) -> Figure:
    figure = blank(width, 0.66 * width)
    axis = figure.subplots()
    size = float(np.clip(12000 / len(found.points), 12, 34))
    x, y = found.points.T
    shapes = found.shapes
    labels = sorted({*found.labels.tolist()})
    who = np.array(found.subjects or [""] * len(found.points))
    handles = []
    colours = class_colours(found.classes) if found.classes else list(PALETTE)
    for label in labels:
        colour = MUTED if label < 0 else colours[label % len(colours)]
        chosen = found.labels == label
        for person in shapes or {"": "o"}:
            some = chosen & (who == person) if shapes else chosen
            marker = shapes.get(person, "o") if shapes else ("o" if label < len(colours) else "^")
            axis.scatter(x[some], y[some], s=size, color=colour, marker=marker, edgecolors=PAPER, linewidths=0.3)
        unknown_people = chosen & ~np.isin(who, list(shapes)) if shapes else np.zeros_like(chosen)
        if unknown_people.any():
            axis.scatter(x[unknown_people], y[unknown_people], s=size, color=colour, marker=".")
        name = "no label" if label < 0 else found._class(label) or f"class {label}"
        if len(labels) > 1 or label >= 0:
            handles.append(axis.scatter([], [], s=24, color=colour, label=name))
    for person, marker in shapes.items():
        handles.append(axis.scatter([], [], s=24, color=MUTED, marker=marker, label=person))
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if handles:
        figure.legend(handles=handles, loc="outside right center", labelspacing=0.7, handletextpad=0.3)
    return figure
