"""What an encoder learns of motion from unlabelled videos of faces: pre-trained on them, then asked by probes.

People are divided into two halves. An autoencoder is pre-trained on the faces of one half, with and without the motion
part of its target, and probes of its frozen features are scored on the other half, whom it has never seen; then the
other way around. Nobody labels anything, as a video knows by itself what the probes are asked:

    order     are the frames of a window in their order, or backwards?
    speed     are they 1, 2 or 4 frames of the video apart?
    speaker   who of the people is it? The probe learns this from the first part of their videos, and is scored on the
              last part.

Only order and speed need motion. For a picture of a face none of the three was an aim of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maedfer._progress import counted
from maedfer.data.annotations import Clip
from maedfer.data.shards.clips import ShardClips, read_shards
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import Opener, write_shards
from maedfer.data.video import open_video
from maedfer.errors import InputError, unknown
from maedfer.evaluation.probes import KINDS
from maedfer.preparation.split import split_clips
from maedfer.setting import check_range, documented, setting
from maedfer.studies.grid import Job
from maedfer.train.config import load_config

TASKS = ("order", "speed", "speaker")
SPEEDS = (1, 2, 4)
RANDOM = "random weights"
# What pre-training may reconstruct, as people call it.
TARGETS = {"appearance": "appearance", "joint": "appearance and motion", "motion": "motion", "pixels": "pixels"}
_RECIPE = "synth_pretrain"
# Side of the frames, in pixels: that of the recipe.
SIZE = 64


@documented
@dataclass(frozen=True)
class MotionOptions:
    """How the study is done; the defaults take minutes on two cores for a few minutes of video."""

    steps: int = setting(600, low=1, high=10_000_000, doc="of each pre-training, of 32 samples each")
    seeds: int = setting(1, low=1, high=1000, doc="pre-trainings of each kind")
    stride: int = setting(2, low=1, high=1000, doc="frames of the video from one frame of a sample to the next")
    hop: int = setting(4, low=1, high=1_000_000, doc="frames from one window of a video to the next")
    windows: int = setting(60, low=1, high=1_000_000, doc="windows of a video at most, evenly spread")
    targets: tuple[str, ...] = setting(("appearance", "joint"), doc="what is reconstructed when pre-training")
    probes: tuple[str, ...] = setting(("linear",), doc="kinds of probes: knn, linear, attentive")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_range(field, getattr(self, field.name), field.name)
        for kind, values, known in (("target", self.targets, TARGETS), ("kind of probe", self.probes, KINDS)):
            for value in values:
                if value not in known:
                    raise unknown(kind, value, known)
            if not values or len(set(values)) < len(values):
                raise InputError(f"give at least one {kind}, and each once, got {list(values)}")


@dataclass(frozen=True)
class MotionStudy:
    """A study whose faces are cut out.

    Args:
        out: its folder.
        halves: the clips of each half of the people.
        options: of the study.
        overrides: settings of all pre-trainings.
        frames: of a sample.
        left_out: videos that take no part, with the reason.
    """

    out: Path
    halves: tuple[ShardClips, ShardClips]
    options: MotionOptions
    overrides: tuple[str, ...]
    frames: int
    left_out: tuple[str, ...] = ()

    def job(self, half: int, target: str, seed: int) -> Job:
        """The pre-training on one half."""
        clips = len(self.halves[half])
        batch = min(clips, 4)
        settings = (
            f"data.train={self.halves[half].place}",
            f"data.stride={self.options.stride}",
            f"train.batch_size={batch}",
            # 32 samples a step, of few videos or many.
            f"data.repeats={32 // batch}",
            f"train.max_steps={self.options.steps}",
            f"optim.epochs={1 + self.options.steps // (clips // batch)}",
            f"optim.warmup_epochs={self.options.steps / 16 / (clips // batch):.6g}",
            "augment.multiscale=[1.0,0.875,0.75]",
            "report=false",
            *self.overrides,
            f"model.target={target}",
            f"seed={seed}",
        )
        name = f"{TARGETS[target]}, half {half + 1}" + (f", seed {seed}" if self.options.seeds > 1 else "")
        return Job("pretrain", _RECIPE, self.out / f"half_{half + 1}" / f"{target}_{seed}", settings, name)

    @property
    def jobs(self) -> list[Job]:
        """All pre-trainings."""
        seeds = range(self.options.seeds)
        return [self.job(half, target, seed) for seed in seeds for half in (0, 1) for target in self.options.targets]

    @property
    def conditions(self) -> tuple[str, ...]:
        """What is compared, as people call it."""
        return (RANDOM, *(TARGETS[target] for target in self.options.targets))


def prepare_study(
    clips: Sequence[Clip],
    out: str | Path,
    options: MotionOptions,
    overrides: Sequence[str] = (),
    *,
    opener: Opener | None = None,
    opener_about: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Callable[[float], None] | None = None,
) -> MotionStudy:
    """Divide people into halves and decode their clips into shards; what was decoded before stays.

    Args:
        clips: videos, whose `subject` says who is in them; where it is not known, each is of another person.
        out: folder of the study.
        options: of the study.
        overrides: settings of all pre-trainings.
        opener: opens a clip as its face, see `write_shards`; None = clips show a face already.
        opener_about: what its frames depend on.
        workers: processes that decode.
        progress: takes the share that is decoded.

    Raises:
        InputError: there are fewer than four people, or too few videos are long enough.
    """
    who = [clip.subject or clip.name for clip in clips]
    if len(set(who)) < 4:
        raise InputError(
            f"{people(len(set(who)))} in {counted(len(clips), 'video')}: give videos of four people at least, two for "
            "each half"
        )
    out = Path(out)
    cfg = load_config("pretrain", _RECIPE, [*overrides, "data.train=LIST"], check=False)
    if tuple(cfg.clip_model.clip_size[1:]) != (SIZE, SIZE):
        raise InputError(
            f"model.encoder.clip_size is {list(cfg.clip_model.clip_size)}, and faces of this study are "
            f"{SIZE} x {SIZE}: leave height and width at {SIZE}"
        )
    # Names stand for clips, as paths repeat nowhere in a list.
    folds = split_clips([(str(number), 0) for number in range(len(clips))], who, folds=2)
    parts = [sorted(int(name) for name, _ in fold.test) for fold in folds]
    halves, left_out = [], []
    for half, numbers in enumerate(parts):
        place = out / "faces" / f"half_{half + 1}"

        def share(done: float, size: int, half: int = half) -> None:
            if progress is not None:
                progress((half + done) / 2)

        written = write_shards(
            [dataclasses.replace(clips[number], label=None, subject=who[number]) for number in numbers],
            place,
            ShardOptions(format="raw", size=None if opener is not None else (SIZE, SIZE)),
            opener=opener or open_video,
            opener_about=opener_about,
            workers=workers,
            progress=share,
        )
        left_out += [broken.sentence for broken in written.quarantined]
        halves.append(read_shards(place, labelled=False))
        if not written.quarantined and written.about.quarantined:
            left_out.append(f"{counted(written.about.quarantined, 'video')} of half {half + 1}, as was told before")
    frames = cfg.clip_model.clip_size[0]
    least = (frames - 1) * SPEEDS[-1] + 1
    for half, stored in enumerate(halves):
        long_enough = stored.shards.clips.frames >= least
        known = {stored[number].subject for number in long_enough.nonzero()[0].tolist()}
        if len(known) < 2:
            raise InputError(
                f"half {half + 1} has {people(len(known))} with a video of {least} frames or more ({frames} of them "
                f"{SPEEDS[-1]} apart), and two are needed: give longer videos, or more of them"
            )
        short = [stored[number].name for number in (~long_enough).nonzero()[0].tolist()]
        left_out += [f"{name}: has fewer than {least} frames" for name in short]
    return MotionStudy(out, (halves[0], halves[1]), options, tuple(overrides), frames, tuple(left_out))


def people(count: int) -> str:
    """A number of people, as people say it."""
    return "1 person" if count == 1 else f"{count} people"
