"""The windows and probes of `maedfer.studies.motion`: what a video knows by itself, asked of frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from maedfer.data.annotations import Clip
from maedfer.errors import InputError
from maedfer.evaluation.features import feature_extractor
from maedfer.evaluation.layers import LayerReader, TokenGrid, token_grid
from maedfer.evaluation.paired import SameClips, pooled_intervals
from maedfer.evaluation.predictions import Predictions, write_predictions
from maedfer.evaluation.probes import fit_probe
from maedfer.models import MAEDFER, build_model, load
from maedfer.studies.grid import run_jobs
from maedfer.studies.motion import RANDOM, SPEEDS, TARGETS, TASKS, MotionStudy, people

# Of a video, what the probe of the speaker learns from; the rest is what it is scored on.
_FIRST_PART = 0.6
_BATCH = 64


class MotionWindow(NamedTuple):
    """A sample of a video that a probe is asked about.

    Args:
        clip: number of the video in its half.
        frames: which frames of it, in the order in which they are shown.
        label: what is true of it.
    """

    clip: int
    frames: tuple[int, ...]
    label: int

    def name(self, clip: Clip) -> str:
        """What pred.csv calls it."""
        return f"{clip.name}#{self.frames[0]}-{self.frames[-1]}:{abs(self.frames[1] - self.frames[0])}"


class Asked(NamedTuple):
    """A question to the probes of one half.

    Args:
        train, test: windows with what is true of them; of two halves, or of one.
        same_half: the training windows are of the half that is scored.
    """

    train: list[MotionWindow]
    test: list[MotionWindow]
    same_half: bool


def run_motion(
    study: MotionStudy,
    processes: int = 0,
    devices: Sequence[str] = (),
    say: Callable[[str], None] = print,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Pre-train what is not done, ask the probes, and write what they say.

    Args:
        study: from `prepare_study`.
        processes, devices: that pre-trainings are spread over.
        say, progress: take lines, and the share of the pre-trainings that is done.

    Returns:
        By kind of probe and task: "classes", "chance", "windows", "people", "scores" (mean UAR and WAR of each
        condition, with intervals over people) and "gains" (of the last target over all others).

    Raises:
        InputError: a pre-training failed, or a probe has too little to learn from.
    """
    run_jobs(study.jobs, processes, say, progress, devices=devices)
    results: dict[str, Any] = {}
    for kind in study.options.probes:
        for task in TASKS:
            found = _asked_of_all(study, kind, task)
            for name, predictions in found.items():
                folder = study.out / "probes" / kind / task
                folder.mkdir(parents=True, exist_ok=True)
                write_predictions(folder / f"{name.replace(' ', '_')}.csv", predictions)
            results.setdefault(kind, {})[task] = _compared(study, task, found)
            say(f"  {kind} probe, {task}: {_told(results[kind][task])}")
    return results


def _asked_of_all(study: MotionStudy, kind: str, task: str) -> dict[str, Predictions]:
    """What the probes say on the windows of both halves, by name of the encoder: condition and seed."""
    everybody = sorted({clip.subject for half in study.halves for clip in half})
    classes = {"order": ("forward", "backward"), "speed": tuple(map(str, SPEEDS)), "speaker": tuple(everybody)}[task]
    found: dict[str, Predictions] = {}
    for seed in range(study.options.seeds):
        for target in (None, *study.options.targets):
            parts = [_asked_of_one(study, kind, task, half, target, seed, everybody) for half in (0, 1)]
            names, labels, probabilities, who = (list(column) for column in zip(*parts, strict=True))
            found[f"{RANDOM if target is None else TARGETS[target]}, seed {seed}"] = Predictions(
                [name for part in names for name in part],
                np.concatenate(labels),
                np.concatenate(probabilities).astype(np.float32),
                classes,
                subjects=tuple(person for part in who for person in part),
            )
    return found


def _asked_of_one(
    study: MotionStudy, kind: str, task: str, half: int, target: str | None, seed: int, everybody: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Names, labels, probabilities and subjects of the windows of one half, by what was pre-trained on the other."""
    asked, other = _question(study, task, half), 1 - half
    reader = _encoder(study, kind, other, target, seed)
    source = half if asked.same_half else other
    train, test = (
        _features(study, reader, part, windows) for part, windows in ((source, asked.train), (half, asked.test))
    )
    names_of_train = [study.halves[source][window.clip].subject for window in asked.train]
    if task == "speaker":
        # Those of the other half can be nobody here.
        here = sorted({study.halves[half][window.clip].subject for window in (*asked.train, *asked.test)})
        place = {person: number for number, person in enumerate(here)}
        probe = fit_probe(kind, train, [place[name] for name in names_of_train], classes=len(here), seed=seed)
        columns = [everybody.index(person) for person in here]
        probabilities = np.zeros((len(test), len(everybody)))
        probabilities[:, columns] = probe.probabilities(test)
        labels = np.array([everybody.index(study.halves[half][window.clip].subject) for window in asked.test])
    else:
        count = 2 if task == "order" else len(SPEEDS)
        truth = [window.label for window in asked.train]
        probe = fit_probe(kind, train, truth, classes=count, groups=names_of_train, seed=seed)
        probabilities, labels = probe.probabilities(test), np.array([window.label for window in asked.test])
    clips = [study.halves[half][window.clip] for window in asked.test]
    named = [window.name(clip) for window, clip in zip(asked.test, clips, strict=True)]
    return named, labels, probabilities, [clip.subject for clip in clips]


def _question(study: MotionStudy, task: str, half: int) -> Asked:
    """The windows that probes learn from and are scored on, when one half is tested."""
    frames, stride = study.frames, study.options.stride
    if task == "speaker":
        train: list[MotionWindow] = []
        test: list[MotionWindow] = []
        for clip, start in _starts(study, half, stride):
            last, border = start + _span(frames, stride) - 1, int(_FIRST_PART * _length(study, half, clip))
            if last < border or start >= border:
                (train if last < border else test).append(MotionWindow(clip, _places(start, frames, stride), 0))
        # Who is in one part alone cannot be learnt, or not be scored.
        both = {study.halves[half][w.clip].subject for w in train} & {study.halves[half][w.clip].subject for w in test}
        if len(both) < 2:
            raise InputError(
                f"half {half + 1} has {people(len(both))} whose video is long enough to tell them "
                "apart by another part of it, and two are needed: give longer videos, or a smaller --hop"
            )
        kept = [[w for w in part if study.halves[half][w.clip].subject in both] for part in (train, test)]
        return Asked(kept[0], kept[1], True)
    parts = []
    for part in (1 - half, half):
        windows = []
        if task == "order":
            for clip, start in _starts(study, part, stride):
                places = _places(start, frames, stride)
                windows += [MotionWindow(clip, places, 0), MotionWindow(clip, places[::-1], 1)]
        else:
            for clip, start in _starts(study, part, SPEEDS[-1]):
                # All speeds show the same moment in the middle.
                middle = start + (_span(frames, SPEEDS[-1]) - 1) / 2
                for label, speed in enumerate(SPEEDS):
                    first = int(middle - (_span(frames, speed) - 1) / 2)
                    windows.append(MotionWindow(clip, _places(first, frames, speed), label))
        parts.append(windows)
    return Asked(parts[0], parts[1], False)


def _starts(study: MotionStudy, half: int, stride: int) -> Iterator[tuple[int, int]]:
    """Video and first frame of each window of a half."""
    for clip in range(len(study.halves[half])):
        count = _length(study, half, clip) - _span(study.frames, stride) + 1
        starts = np.arange(0, max(0, count), study.options.hop)
        if len(starts) > study.options.windows:
            starts = starts[np.linspace(0, len(starts) - 1, study.options.windows).astype(int)]
        for start in starts.tolist():
            yield clip, start


def _encoder(study: MotionStudy, kind: str, half: int, target: str | None, seed: int) -> LayerReader:
    """Reads the features that a probe takes, of what was pre-trained on a half; of random weights for no target."""
    job = study.job(half, target or study.options.targets[0], seed)
    if target is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = build_model(job.settings().model)
    else:
        model = load(job.output)
    assert isinstance(model, MAEDFER)
    extractor = feature_extractor(model.eval())
    depth = extractor.config.depth
    tokens: dict[int, TokenGrid] = {depth: token_grid(extractor.config, depth)} if kind == "attentive" else {}
    return LayerReader(extractor, [depth], tokens, pooled=() if tokens else None)


@torch.inference_mode()
def _features(study: MotionStudy, reader: LayerReader, half: int, windows: Sequence[MotionWindow]) -> np.ndarray:
    """Float32 [n, C], or [n, T, C] of tokens, in the order of the windows."""
    clips, found = study.halves[half], []
    frames: np.ndarray | None = None
    at = -1
    for first in range(0, len(windows), _BATCH):
        batch = []
        for window in windows[first : first + _BATCH]:
            if window.clip != at:
                with clips.open(window.clip) as video:
                    frames, at = video.read(range(len(video))), window.clip
            assert frames is not None
            batch.append(torch.from_numpy(frames[list(window.frames)]))
        (features,) = reader.read(torch.stack(batch).permute(0, 4, 1, 2, 3).contiguous())
        found.append(features.float().numpy())
    return np.concatenate(found)


def _compared(study: MotionStudy, task: str, found: Mapping[str, Predictions]) -> dict[str, Any]:
    """Scores of the conditions over both halves, and what the last target gains, with intervals over people."""
    runs, seeds, names = list(found.values()), study.options.seeds, study.conditions
    first = runs[0]
    # Predictions come seed by seed.
    groups = [[seed * len(names) + place for seed in range(seeds)] for place in range(len(names))]
    clips = SameClips(first.labels, np.stack([run.predicted for run in runs]), first.classes, first.subjects)
    scored = pooled_intervals(clips, groups, True, pairs=True)
    against = pooled_intervals(clips, [groups[-1], *groups[:-1]], True, pairs=True)
    present = len(set(first.labels.tolist()))
    # Each half is asked about its own people alone.
    chance = 1 / present if task != "speaker" else _chance_of_speakers(study, first)
    return {
        "classes": list(first.classes),
        "chance": chance,
        "windows": len(first.labels),
        "people": scored["units"],
        "scores": {
            name: {
                key: {"mean": scored[key]["mean"][place], "interval": scored[key]["interval"][place]}
                for key in ("uar", "war")
            }
            for place, name in enumerate(names)
        },
        "gains": {
            name: {
                key: {
                    "mean": -against[key]["difference"][place],
                    "interval": [-edge for edge in against[key]["difference_interval"][place][::-1]],
                }
                for key in ("uar", "war")
            }
            for place, name in enumerate(names[:-1])
        },
    }


def _chance_of_speakers(study: MotionStudy, found: Predictions) -> float:
    """The UAR of who guesses among the people of the half that is asked about."""
    halves = [{clip.subject for clip in half} & set(found.subjects) for half in study.halves]
    return sum(map(bool, halves)) / sum(map(len, halves))


def _told(result: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {score['uar']['mean']:.1%} [{score['uar']['interval'][0]:.1%}, {score['uar']['interval'][1]:.1%}]"
        for name, score in result["scores"].items()
    ]
    return f"UAR {', '.join(parts)}, chance {result['chance']:.1%}"


def _length(study: MotionStudy, half: int, clip: int) -> int:
    return int(study.halves[half].shards.clips.frames[clip])


def _span(frames: int, stride: int) -> int:
    """Frames of the video from the first of a window to its last."""
    return (frames - 1) * stride + 1


def _places(start: int, frames: int, stride: int) -> tuple[int, ...]:
    return tuple(range(start, start + _span(frames, stride), stride))
