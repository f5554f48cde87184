"""The section of a comparison on runs that were scored on the same clips: tests, intervals, what may be printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maedfer._progress import counted
from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import LEVEL, RESAMPLES
from maedfer.evaluation.paired import SCORES, SameClips, match_clips, mcnemar, pooled_intervals
from maedfer.evaluation.predictions import Predictions
from maedfer.report import page as html
from maedfer.report.sections import Numbers

_HOW = (
    "Scores above are those of these seeds on these very clips; here it is told how far they hold for others. Clips "
    "are drawn with replacement, the same ones for all runs (subjects with all their clips, where it is known who is "
    "in each). Where a condition has several seeds, what seeds vary by is added, and the interval is that of Student's "
    "t with as few degrees of freedom as seeds leave; the same seeds of two conditions are pairs. One seed says "
    "nothing of others: its interval is that of these very weights. McNemar's test is exact, looks at clips that one "
    "of two runs alone has right, and takes clips for independent of each other, whoever is in them."
)


def same_clips(conditions: Mapping[str, Sequence[tuple[str, Predictions | None]]], pairs: bool) -> tuple[str, Numbers]:
    """Means with intervals over seeds and clips, differences to the first condition, and McNemar's tests.

    Args:
        conditions: the runs of each, a name and predictions (None where there is no pred.csv) each; the first condition
            is what others are compared to.
        pairs: whether the runs of conditions are pairs, by the same seeds.
    """
    notes: list[str] = []
    means: dict[str, Any] = {}
    differences: list[dict[str, Any]] = []
    (base, first), *others = conditions.items()
    for label, runs in conditions.items():
        try:
            clips = _matched(runs)
            means[label] = _pooled(clips, [range(len(runs))], False)
        except InputError as error:
            notes.append(f'"{label}": {error}')
    for label, runs in others:
        if base not in means or label not in means:
            continue
        try:
            differences.append(_difference(base, first, label, runs, pairs))
        except InputError as error:
            notes.append(f'"{label}" and "{base}": {error}')
    if not means:
        return "", {}
    sentences = [sentence for item in differences for sentence in item["sentences"]]
    if len(differences) > 1:
        sentences.append(
            f'Each interval and p is for itself: {len(differences)} conditions are compared with "{base}".'
        )
    body = [html.listing(sentences), _mean_table(conditions, means)]
    body += [_difference_table(differences)] if differences else []
    body += [html.paragraph(f"{RESAMPLES:,} resamples. {_HOW}", "note")]
    body += [html.paragraph(f"Not compared: {note}.", "note") for note in notes]
    found = {"means": means, "differences": differences, "sentences": sentences, "notes": notes}
    return html.section("On the same clips", *body), found


def _matched(runs: Sequence[tuple[str, Predictions | None]]) -> SameClips:
    known = []
    for name, predictions in runs:
        if predictions is None or not predictions.names:
            raise InputError(f"{name} has no pred.csv with clips")
        known.append(predictions)
    return match_clips(known, [name for name, _ in runs])


def _pooled(clips: SameClips, conditions: Sequence[Sequence[int]], pairs: bool) -> dict[str, Any]:
    by_subject = len(set(clips.subjects)) > 1
    found = pooled_intervals(clips, conditions, by_subject, pairs=pairs)
    return {**found, "over": "subjects" if by_subject else "clips", "clips": len(clips.labels)}


def _difference(
    base: str,
    first: Sequence[tuple[str, Predictions | None]],
    label: str,
    runs: Sequence[tuple[str, Predictions | None]],
    pairs: bool,
) -> dict[str, Any]:
    clips = _matched([*first, *runs])
    before, after = range(len(first)), range(len(first), len(first) + len(runs))
    found = _pooled(clips, [before, after], pairs)
    if None in found["uar"]["difference_interval"]:
        raise InputError("one clip is too few for an interval")
    tests = []
    if len(first) == len(runs) == 1 or pairs:
        for one, two in zip(before, after, strict=True):
            test = mcnemar(clips.right[one], clips.right[two])
            tests.append({"base_alone": test.first_alone, "alone": test.second_alone, "p": test.p, "mid_p": test.mid_p})
    item = {"condition": label, "to": base, "seeds": [len(first), len(runs)], **found, "mcnemar": tests}
    return {**item, "sentences": [_sentence(item, name) for name in SCORES]}


def _sentence(item: Mapping[str, Any], name: str) -> str:
    """A difference in words that may be printed as they stand."""
    part, seeds = item[name], item["seeds"]
    (low, high), difference = part["difference_interval"][0], part["difference"][0]
    before, after = part["mean"]
    over = counted(item["clips"], "clip")
    if item["over"] == "subjects":
        over += f" of {counted(item['units'], 'subject')}"
    several = max(seeds) > 1
    of = ""
    if several:
        of = f"means of {seeds[1]} and {seeds[0]} seeds, " if seeds[0] != seeds[1] else f"means of {seeds[0]} seeds, "
    drawn = f"{'seeds and ' if several else ''}{item['over']}"
    text = (
        f'{name.upper()} of "{item["condition"]}" is {html.percent(after)} % and of "{item["to"]}" '
        f"{html.percent(before)} %: {html.points(difference)} points, {100 * LEVEL:g} % interval {html.points(low)} to "
        f"{html.points(high)} ({of}{over}; bootstrap over {drawn})"
    )
    if low > 0 or high < 0:
        text += ", more than chance would give."
    else:
        text += ", which may be chance."
    if name == "war" and not several:
        (test,) = item["mcnemar"]
        text += (
            f" McNemar's exact test: p = {_p(test['p'])} ({test['alone']:,} clips right in the former alone, "
            f"{test['base_alone']:,} in the latter)."
        )
    if not several:
        text += " One run of each: nothing is said of other seeds."
    return text


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _mean_table(conditions: Mapping[str, Sequence[Any]], means: Mapping[str, Any]) -> str:
    rows = []
    for label, found in means.items():
        cells: list[str | tuple[str, str]] = [label, f"{len(conditions[label]):,}"]
        cells += [_cell(found[name]["mean"][0], found[name]["interval"][0], signed=False) for name in SCORES]
        rows.append([*cells, f"{found['clips']:,}", f"{found['units']:,} {found['over']}"])
    head = ("condition", "seeds", "UAR (%)", "WAR (%)", "clips", "drawn are")
    return html.table(head, rows)


def _difference_table(differences: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for item in differences:
        cells: list[str | tuple[str, str]] = [f"{item['condition']} \N{MINUS SIGN} {item['to']}"]
        cells += [
            _cell(item[name]["difference"][0], item[name]["difference_interval"][0], signed=True) for name in SCORES
        ]
        tests = item["mcnemar"]
        alone = " · ".join(f"{test['alone']:,} : {test['base_alone']:,}" for test in tests)
        cells += [alone or html.DASH, " · ".join(_p(test["p"]) for test in tests) or html.DASH]
        rows.append(cells)
    head = ("difference", "UAR (points)", "WAR (points)", "clips right alone", "McNemar's p, seed by seed")
    return html.table(head, rows)


def _cell(value: float, interval: tuple[float, float] | None, signed: bool) -> tuple[str, str]:
    show = html.points if signed else html.percent
    return show(value), html.DASH if interval is None else f"{show(interval[0])} to {show(interval[1])}"
