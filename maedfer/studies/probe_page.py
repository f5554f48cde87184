"""The page of a study of probes, and its picture of scores over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer._figure_style import styled
from maedfer._files import atomic_path
from maedfer.evaluation.probes.fit import PROTOCOLS
from maedfer.report import figures
from maedfer.report import page as html
from maedfer.report.figures import Curve, Panel
from maedfer.studies.probe_results import METRICS, ProbeGroup, choice, footer, grid_note, told
from maedfer.studies.tables import Column, Measured, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHOSEN_BY = {
    "data.val": "the clips of data.val",
    "subject": "a share of the training clips, of people that the others do not show",
    "clip": "a share of the training clips; who is in them is not known, so that people may be on both sides",
}
PICTURE = "depth.png"
# In the palette.
_GREY = 6


def write_page(
    out: Path,
    groups: Sequence[ProbeGroup],
    tables: Sequence[Table],
    about: Mapping[str, Any],
    sentences: Sequence[str],
    notes: Sequence[str],
) -> Path:
    """Write report.html and report.json, and depth.png where there are several layers; returns the page."""
    best = told(groups)
    kinds = [group.kind for group in best]
    picture = out / PICTURE
    depth = ""
    if len(about["layers"]) > 1:
        drawing = depth_figure(groups, int(about["depth"]))
        with atomic_path(picture) as temporary:
            drawing.savefig(temporary, format="png")
        caption = (
            "Mean over seeds, the band one sample standard deviation to either side; dashed are random weights. Layer "
            "0 is the stream before the first block."
        )
        depth = html.section("Score over depth", html.figure(drawing, "depth", "UAR and WAR by layer", caption))
    else:
        picture.unlink(missing_ok=True)
    body = [
        html.tiles(tile for group in best for tile in _tiles(group)),
        html.listing(sentences),
        "".join(html.callout(note, warn=True) for note in notes),
        depth,
        *(table.section() for table in tables),
        _choices(groups),
        _confusions(best),
        html.section(
            "How it was done",
            html.paragraph(_features(about)),
            html.paragraph(
                f"Hyper-parameters were chosen by {_CHOSEN_BY[about['chosen_by']]}; then each probe was fitted again "
                "on the whole training part. The test part chose nothing."
            ),
            html.listing(f"{kind}: {PROTOCOLS[kind]}" for kind in kinds),
        ),
        html.settings("Settings", {key: value for key, value in about.items() if key != "tokens"}),
    ]
    name = Path(about["model"]).name
    title, subtitle = f"Probes of {name}", f"test: {'/'.join(Path(about['lists']['test']).parts[-2:])}"
    numbers = {
        **about,
        "kind": "probe",
        "title": title,
        "tables": [table.numbers() for table in tables],
        "notes": list(notes),
    }
    return html.write(out, html.page(title, subtitle, body, footer()), numbers)


@styled
def depth_figure(groups: Sequence[ProbeGroup], depth: int) -> Figure:
    """UAR and WAR of every kind over the layers; random weights dashed.

    Args:
        groups: of several layers.
        depth: blocks of the encoder.
    """
    kinds = list(dict.fromkeys(group.kind for group in groups))
    panels = []
    for metric in METRICS:
        lines = {}
        for who in dict.fromkeys(group.who for group in groups):
            for kind in kinds:
                chosen = [group for group in groups if (group.who, group.kind) == (who, kind)]
                values = [getattr(group, metric) for group in chosen]
                mean = np.array([value.value for value in values])
                spread = np.array([value.spread or 0.0 for value in values])
                label = kind if who == "model" else f"{kind}, random weights"
                x = [group.layer for group in chosen]
                low, high = (mean - spread, mean + spread) if spread.any() else (None, None)
                lines[label] = Curve(x, mean, low, high, kinds.index(kind), who == "random")
        if metric == "uar":
            layers = [group.layer for group in groups]
            chance = 1 / len({*groups[0].probes[0].predictions.labels.tolist()})
            lines["chance"] = Curve([min(layers), max(layers)], [chance, chance], color=_GREY, dashed=True)
        panels.append(Panel(metric.upper(), "layer", lines, percent=True))
    figure = figures.curves(panels, width=9.6, height=3.2)
    # One legend for both, below, where no line is.
    axes = figure.axes
    for axis in axes:
        legend = axis.get_legend()
        if legend is not None:
            legend.remove()
        axis.set_xlim(-0.02 * depth, 1.02 * depth)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(kinds) + 1)
    return figure


def _tiles(group: ProbeGroup) -> list[tuple[str, str, str]]:
    found = []
    for metric in METRICS:
        value: Measured = getattr(group, metric)
        spread = "" if value.spread is None else f" ± {html.percent(value.spread)} over seeds"
        note = f"layer {group.layer}{spread}"
        found.append((f"{group.kind}, {metric.upper()} (%)", html.percent(value.value), note))
    return found


def _choices(groups: Sequence[ProbeGroup]) -> str:
    """What validation clips have chosen."""
    rows = tuple(
        (
            ("random weights, " if group.who == "random" else "") + group.kind,
            group.layer,
            " · ".join(dict.fromkeys(choice(one.fitted.chosen) for one in group.probes)),
        )
        for group in groups
    )
    columns = (Column("probe", text=True), Column("layer"), Column("chosen, each by some seed", text=True))
    note = grid_note(groups)
    table = Table("", columns, rows, (f"{note}.",) if note else ())
    return html.section("Hyper-parameters", html.fold("What validation clips chose", table.html()))


def _confusions(best: Sequence[ProbeGroup]) -> str:
    drawings = []
    for group in best:
        classes = group.probes[0].predictions.classes
        if len(classes) > 20:
            continue
        counts = np.sum([one.confusion for one in group.probes], axis=0)
        title = f"{group.kind}, layer {group.layer}"
        drawing = figures.confusion_matrix(counts, classes, title=title, width=3.35, clips=False)
        drawings.append(html.figure(drawing, f"confusion-{group.kind}", f"Confusion matrix of {title}"))
    if not drawings:
        return ""
    caption = "Confusion matrices, counts added up over seeds: share of each true class in %."
    return html.section("Classes", html.row(*drawings), html.paragraph(caption, "note"))


def _features(about: Mapping[str, Any]) -> str:
    clips = about["clips"]
    counts = f"{clips['train']:,} training and {clips['test']:,} test clips"
    if "val" in clips:
        counts += f", {clips['val']:,} clips to choose by"
    computed = about["precision_why"] or f"computed in {about['precision']}"
    text = (
        f"Features of {counts} by the frozen encoder, {about['views']} views of a clip, {computed}. Pooled features, "
        "for knn and linear, are the mean of the tokens that the model's head reads, through a LayerNorm, averaged "
        "over views. "
    )
    if about["tokens"]:
        kinds = dict.fromkeys(about["tokens"].values())
        text += (
            f"The attentive probe reads of each view {'; '.join(kinds)}, normalised without weights, kept as float16, "
            f"which changes them by {100 * about['float16_rounding']:.2g} % of their size (root mean square)."
        )
    return text
