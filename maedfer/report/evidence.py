"""Sections on how far scores can be trusted: intervals, scores of each class, and how sure a model is of what it says.

All of it is computed from pred.csv, so that runs of earlier versions have it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maedfer.evaluation.bootstrap import LEVEL, RESAMPLES, interval_facts
from maedfer.evaluation.predictions import Predictions, read_predictions
from maedfer.report import page as html
from maedfer.report.reliability_figure import reliability_diagram
from maedfer.report.run_data import RunData, number
from maedfer.report.sections import Numbers

_NAMES = {"uar": "UAR", "war": "WAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}
# Classes that are away from more resamples than this have too few clips for what is said of them.
_RARE = 0.01


class Evidence:
    """What the predictions of a run come to.

    Args:
        run: the run; without a pred.csv that holds clips there is nothing.

    Attributes:
        predictions: of the run, None where there are none.
        metrics: their scores.
        intervals: of these, see `interval_facts`.

    Raises:
        InputError: pred.csv is broken.
    """

    def __init__(self, run: RunData) -> None:
        path = run.path / "pred.csv"
        found = read_predictions(path) if run.scores is not None and path.is_file() else None
        self.run = run
        self.predictions: Predictions | None = found if found is not None and found.names else None
        self.metrics: dict[str, Any] = {}
        self.intervals: dict[str, Any] = {}
        if self.predictions is not None:
            self.metrics = self.predictions.metrics()
            self.intervals = interval_facts(
                self.predictions.labels,
                self.predictions.predicted,
                self.predictions.classes,
                self.predictions.subjects,
            )

    @property
    def by_subject(self) -> Mapping[str, Any] | None:
        """Intervals over subjects, where it is known who is in clips."""
        found: Mapping[str, Any] | None = self.intervals.get("by_subject")
        return found

    def of_scores(self) -> tuple[str, Numbers]:
        """A table of scores with their intervals."""
        if self.predictions is None:
            return "", {}
        columns = [("by formula, over clips", self.intervals["by_formula"])]
        columns.append(("bootstrap, over clips", self.intervals["by_clip"]))
        if self.by_subject is not None:
            columns.append((f"bootstrap, over {self.by_subject['units']} subjects", self.by_subject))
        rows = [
            [name, html.percent(self.metrics[key]), *(_span(part.get(key)) for _, part in columns)]
            for key, name in _NAMES.items()
        ]
        head = ("score", "value (%)", *(name for name, _ in columns))
        return html.section(
            f"{100 * LEVEL:g} % intervals",
            html.table(head, rows),
            *(html.paragraph(text, "note") for text in self._words()),
        ), {**self.intervals}

    def _words(self) -> list[str]:
        words = [
            "By formula: Wilson's interval of WAR, and of UAR the recalls' combined (Zou, Huang and Zhang 2009). "
            f"Bootstrap: between percentiles of {RESAMPLES:,} resamples. Over clips: how far off scores may be with "
            "other clips of the same people."
        ]
        if self.by_subject is not None:
            words[0] += " Over subjects: with other people, whom models are for; clips of one person are alike."
        if note := self.intervals["note"]:
            words.append(f"{note[0].upper()}{note[1:]}.")
        elif self.by_subject is None:
            words.append(
                "It is not known who is in the clips. Where people are in several of them, intervals over clips are "
                "too narrow: a column subject in the list, or data.subject, gives those over subjects."
            )
        absent: dict[str, float] = {}
        for key in ("by_clip", "by_subject"):
            for name, share in ((self.intervals[key] or {}).get("absent") or {}).items():
                absent[name] = max(share, absent.get(name, 0.0))
        told = [f"{name} ({share:.0%})" for name, share in absent.items() if share > _RARE]
        if told:
            words.append(f"Too few clips for an interval, as some resamples have none of them: {', '.join(told)}.")
        return words

    def of_classes(self) -> str:
        """A table of the scores of each class, for the section of classes."""
        if self.predictions is None:
            return ""
        counts = [sum(row) for row in self.metrics["confusion"]]
        rows = []
        for index, name in enumerate(self.predictions.classes):
            cells: list[str | tuple[str, str]] = [name, f"{counts[index]:,}"]
            for key in ("recall", "precision"):
                value = self._share(key, index)
                cells.append(
                    html.DASH if value is None else (html.percent(value), _span(self._of_share(key, index), 1))
                )
            cells += [html.percent(self.metrics[key][index]) for key in ("f1", "auc")]
            rows.append(cells)
        known = [value for value in self.metrics["class_precision"] if value is not None]
        mean_precision = sum(known) / len(known) if known else None
        means = (self.metrics["uar"], mean_precision, self.metrics["macro_f1"], self.metrics["macro_auc"])
        rows.append(["mean of the classes", f"{sum(counts):,}", *map(html.percent, means)])
        head = ("class", "clips", "recall (%)", "precision (%)", "F1 (%)", "AUC (%)")
        over = "Wilson's, over clips"
        if self.by_subject is not None:
            over = f"by bootstrap over subjects (where all or none are right, {over})"
        note = (
            f"Below recall and precision their intervals, {over}. AUC: of the class against all others, the share of "
            "pairs of clips whose probabilities are in the right order. A dash: nothing to count."
        )
        return html.table(head, rows) + html.paragraph(note, "note")

    def _share(self, key: str, index: int) -> float | None:
        # In metrics.json, "precision" is that of the arithmetic.
        value: float | None = self.metrics["class_precision" if key == "precision" else key][index]
        return value

    def _of_share(self, key: str, index: int) -> tuple[float, float]:
        """The interval of a class's recall or precision; resamples of clips that are all right tell nothing."""
        value, by_subject = self._share(key, index), self.by_subject
        part = self.intervals["by_formula"] if by_subject is None or value in (0.0, 1.0) else by_subject
        low, high = part[key][index]
        return low, high

    def of_confidence(self) -> tuple[str, Numbers]:
        """Reliability diagram, calibration error and Brier score; with a temperature where one was fitted."""
        if self.predictions is None:
            return "", {}
        curves = {"as it is": self.metrics["reliability"]}
        items = [
            ("ECE (%)", html.percent(self.metrics["ece"]), "mean gap between confidence and share that is right"),
            ("Brier score", f"{self.metrics['brier']:.4f}", "squared distance of probabilities, 0 to 2"),
            ("loss", f"{self.metrics['loss']:.4f}", "mean of -log p of the true class"),
        ]
        found: Numbers = {key: self.metrics[key] for key in ("ece", "brier", "loss", "reliability")}
        after, temperature = _calibrated(self.run.metrics)
        if after is not None:
            name, ece = f"with temperature {temperature:.3g}", html.percent(number(after.get("ece")))
            items.append((name, ece, "ECE (%), of the same clips"))
            found["with_temperature"] = {"temperature": temperature, **after}
            curve = _curve(after.get("reliability"))
            if curve is not None:
                curves[name] = curve
        bins = len(self.metrics["reliability"]["clips"])
        caption = (
            f"Clips by their largest probability, in {bins} bins: a dot is a bin, the larger the more clips it has. "
            "Below the dashed line the model is surer than it is right."
        )
        alt = "Share that is right over confidence"
        drawing = html.figure(reliability_diagram(curves), "reliability", alt, caption)
        return html.section("How sure it is", html.tiles(items, small=True), drawing), found

    def of_class_map(self) -> tuple[str, Numbers]:
        """Which classes of the model were scored as which of the data set."""
        facts = self.run.metrics.get("class_map")
        targets = facts.get("map") if isinstance(facts, Mapping) else None
        if not isinstance(facts, Mapping) or not isinstance(targets, Mapping):
            return "", {}
        rows = [[str(source), str(target)] for source, target in targets.items()]
        rows += [[str(name), f"{html.DASH} left out"] for name in _listed(facts.get("model_classes_left_out"))]
        away = facts.get("dataset_classes_left_out")
        for name, count in away.items() if isinstance(away, Mapping) else ():
            clips = number(count)
            rows.append([html.DASH, f"{name}, left out" + ("" if clips is None else f" ({clips:,.0f} clips)")])
        table = html.table(("class of the model", "scored as class of the data set"), rows, 2)
        return html.section("Classes of another data set", table), dict(facts)


def _span(interval: Sequence[float] | None, digits: int = 2) -> str:
    if interval is None:
        return html.DASH
    return f"{html.percent(interval[0], digits)} to {html.percent(interval[1], digits)}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _calibrated(metrics: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, float]:
    """What metrics.json says of the scored clips at a fitted temperature, and that; None where it says nothing."""
    facts = metrics.get("calibration")
    part: Any = facts.get("test") if isinstance(facts, Mapping) else None
    after = part.get("after") if isinstance(part, Mapping) else None
    temperature = number(facts.get("temperature")) if isinstance(facts, Mapping) else None
    if not isinstance(after, Mapping) or temperature is None:
        return None, 1.0
    return after, temperature


def _curve(value: Any) -> Mapping[str, list[Any]] | None:
    """A reliability curve of metrics.json, None where it is none."""
    if not isinstance(value, Mapping):
        return None
    clips, sure, right = (_listed(value.get(key)) for key in ("clips", "confidence", "right"))
    counts = [number(count) for count in clips]
    if not clips or None in counts or not len(clips) == len(sure) == len(right) or not sum(map(float, clips)) > 0:
        return None
    if any(count and None in (number(one), number(two)) for count, one, two in zip(counts, sure, right, strict=True)):
        return None
    return {"clips": clips, "confidence": sure, "right": right}
