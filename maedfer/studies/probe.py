"""What is in the features of a frozen encoder, by probes: the study that `maedfer probe` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maedfer import __version__
from maedfer._progress import ProgressLine
from maedfer._values import expand_home
from maedfer.dataclass_tree import from_dict, split_override
from maedfer.errors import InputError, unknown
from maedfer.evaluation.features import feature_extractor
from maedfer.evaluation.layers import TokenGrid, choose_layers, pooled_name, token_grid, tokens_name
from maedfer.evaluation.predictions import Predictions, Skipped
from maedfer.evaluation.probes.fit import KINDS, FittedProbe, fit_probe
from maedfer.evaluation.probes.split import validation_split
from maedfer.evaluation.score import check_finite
from maedfer.models import MAEDFER, LGIFormer, build_model, load
from maedfer.setting import documented, setting
from maedfer.studies.probe_features import Extractor, LabelledClips, ListFeatures, Say
from maedfer.studies.probe_files import check_folder, write_study
from maedfer.studies.probe_fits import KeptFits
from maedfer.studies.probe_results import FEATURES, ProbeResult, ProbeTask, ScoredProbe
from maedfer.train.config import RunConfig, load_config
from maedfer.train.evaluate import for_this_machine
from maedfer.train.list_notes import list_notes
from maedfer.train.lock import hold
from maedfer.train.processes import Runtime, seed_all, start
from maedfer.train.recipes import read_section
from maedfer.train.settings import DataConfig
from maedfer.train.sources import look_for, read_clips

BASELINES = ("", "random")


@documented
@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """What is asked of the features of a model."""

    kinds: tuple[str, ...] = setting(KINDS, doc="kinds of probes: knn, linear, attentive")
    layers: str = setting(
        "last", doc="0 (before the first block) to the number of blocks, several as 0,2,4; all, or last"
    )
    seeds: int = setting(3, low=1, high=1000, doc="probes of each kind, of seed, seed + 1, ...")
    baseline: str = setting("", doc="random: also probe random weights of the same architecture")
    tokens: str = setting(
        "", doc="what an attentive probe reads, representative or local tokens; representative where there are such"
    )
    max_tokens: int = setting(128, low=1, doc="local tokens of a view at most; neighbours are averaged")
    metric: str = setting("uar", doc="what hyper-parameters are best in, uar or war")
    share: float = setting(0.2, above=0, below=1, doc="share of the training clips that choose hyper-parameters")


def probe_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings that clips are read by: those of the run that made the model, or kept with it, and overrides.

    Args:
        source: what `maedfer.load` takes.
        overrides: `section.key=value`, as for an evaluation. `data.train` and `data.test` must be among them, since a
            run's own lists may be of another kind; `data.classes` need not be those of the model.

    Raises:
        InputError: unknown key, a value of the wrong type, or a list that is not given.
    """
    given: dict[str, Any] = {"eval.checkpoint": str(source)}
    for override in overrides:
        given |= dict(split_override(RunConfig, override, read_section))
    named = given.pop("data.classes", None)
    for part in ("train", "test"):
        if not given.get(f"data.{part}"):
            raise InputError(f"data.{part} is not set: give the annotation file of the clips, with their labels")
    given.setdefault("data.val", "")
    cfg = load_config("evaluate", None, (), check=False, first=given)
    if named is not None:
        # The model's own classes are what its head tells apart, and no probe looks at that.
        classes = from_dict(DataConfig, {"classes": named}, path="data").classes
        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, classes=classes))
    # Every clip is read once.
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, cache=False))


def run_probe(
    source: str | Path,
    overrides: Sequence[str],
    out: str | Path,
    options: ProbeOptions | None = None,
    *,
    say: Say = print,
) -> ProbeResult:
    """Probe the features of a frozen encoder.

    Features of every clip are computed once and kept in `out`/features, float32, tokens float16; a call that was ended
    goes on where it was, and a later one reads them. The same holds for every probe that is finished, in `out`/fits.
    For every kind, layer and seed, hyper-parameters are chosen by validation clips (of `data.val`, or by subject where
    every training clip says who it shows, else by clip, from the training part), the probe is fitted again on the whole
    training part, and scored on the test part.

    Args:
        source: what `maedfer.load` takes: pre-trained or fine-tuned, LGI-Former or ViT.
        overrides: settings of an evaluation, with data.train and data.test.
        out: folder for features, fits, probe.json, probe.csv, report.html and runs/, a folder a probe, which `maedfer
            compare` reads.
        options: what is asked.
        say: takes sentences for people.

    Raises:
        InputError: naming what cannot be used, or a clip that cannot be read (all of them, where `eval.on_error` is
            "skip").
    """
    options = options or ProbeOptions()
    _check_options(options)
    cfg = dataclasses.replace(probe_config(source, overrides), output=expand_home(str(out)))
    with start(cfg) as runtime:
        if runtime.world > 1:
            raise InputError("probes are fitted by one process: start the command by itself, without torchrun")
        loaded = load(cfg.eval.checkpoint)
        check_finite(loaded, repr(cfg.eval.checkpoint))
        model, cfg = _as_extractor(loaded, cfg)
        depth = model.config.depth
        layers = choose_layers(options.layers, depth)
        grids: dict[int, TokenGrid] = {}
        if "attentive" in options.kinds:
            grids = {layer: token_grid(model.config, layer, options.tokens, options.max_tokens) for layer in layers}
        lists = _lists(cfg)
        classes, notes = _classes(cfg, lists)
        _check_split(cfg, options, lists, classes)
        notes += list_notes(cfg, {one.part: one.entries for one in lists})
        check_folder(Path(cfg.output))
        with hold(cfg.output, runtime):
            pooled = layers if {"knn", "linear"} & {*options.kinds} else ()
            study = _Study(cfg, options, runtime, layers, grids, pooled, classes, say)
            scored = study.probes(model, lists, "model")
            if options.baseline:
                scored += study.probes(_random(loaded, cfg), lists, "random")
            about = _about(cfg, runtime, loaded, model, study, lists)
            return write_study(cfg, runtime, scored, about, [*notes, *study.notes], say)


def _check_options(options: ProbeOptions) -> None:
    if not options.kinds:
        raise InputError(f"no kind of probe is asked for: give one or several of {', '.join(KINDS)}")
    for kind in options.kinds:
        if kind not in KINDS:
            raise unknown("kind of probe", kind, KINDS)
    if options.baseline not in BASELINES:
        raise unknown("baseline", options.baseline, BASELINES[1:])
    if options.metric not in ("uar", "war"):
        raise unknown("metric", options.metric, ("uar", "war"))
    if not 1 <= options.seeds <= 1000:
        raise InputError(f"the number of seeds must be between 1 and 1000, got {options.seeds}")
    if not 0 < options.share < 1:
        raise InputError(f"the share of clips that choose must be between 0 and 1, both excluded, got {options.share}")


@dataclasses.dataclass
class _Study:
    """What all probes of a study share; `notes` are sentences for the reader of its scores."""

    cfg: RunConfig
    options: ProbeOptions
    runtime: Runtime
    layers: tuple[int, ...]
    grids: Mapping[int, TokenGrid]
    pooled: tuple[int, ...]
    classes: tuple[str, ...]
    say: Say
    notes: list[str] = dataclasses.field(default_factory=list)
    rounding: float | None = None

    def probes(self, model: LGIFormer, lists: Sequence[LabelledClips], who: str) -> list[ScoredProbe]:
        """Fit and score all probes on the features of a model."""
        model.to(self.runtime.device)
        folder = Path(self.cfg.output) / FEATURES
        extractor = Extractor(self.cfg, self.runtime, folder, who, self.pooled, self.grids, self.say)
        found = extractor.of_lists(model, lists)
        heads = model.config.num_heads
        model.cpu()
        for features in found.values():
            self._note_broken(features)
            if features.rounding is not None:
                self.rounding = max(self.rounding or 0.0, features.rounding)
        seeds = [self.cfg.seed + number for number in range(self.options.seeds)]
        tasks = [
            ProbeTask(who, kind, layer, seed) for layer in self.layers for kind in self.options.kinds for seed in seeds
        ]
        fits, about = KeptFits(Path(self.cfg.output), self.say), self._fit_options(heads)
        names = [self._array(task) for task in tasks]
        keys = [fits.key(task, name, found, len(self.classes), about) for task, name in zip(tasks, names, strict=True)]
        kept = {task: one for task, key in zip(tasks, keys, strict=True) if (one := fits.read(task, key)) is not None}
        what = "probes" + (" of random weights" if who == "random" else "")
        if kept:
            self.say(f"{what}: {len(kept)} of {len(tasks)} are fitted already, and are read from {fits.folder}")
        line = ProgressLine(what)
        scored = []
        for number, (task, name, key) in enumerate(zip(tasks, names, keys, strict=True)):

            def progress(share: float, number: int = number) -> None:
                line((number + share) / len(tasks))

            progress(0.0)
            if task in kept:
                choice, probabilities = kept[task]
            else:
                choice = fitted = self._fit(found, task, name, heads, progress)
                probabilities = fitted.probabilities(found["test"].features(name)).astype(np.float32)
                fits.keep(task, key, choice, probabilities)
            scored.append(ScoredProbe(task, choice, self._predictions(found["test"], probabilities)))
        line.clear()
        return scored

    def _array(self, task: ProbeTask) -> str:
        """Name of the features that a probe reads."""
        return tokens_name(task.layer, self.grids[task.layer]) if task.kind == "attentive" else pooled_name(task.layer)

    def _fit_options(self, heads: int) -> dict[str, Any]:
        """What fits depend on besides features, task and classes."""
        options = self.options
        return {
            "metric": options.metric,
            "share": options.share,
            "heads": heads,
            "device": self.runtime.device.type,
        }

    def _fit(
        self, found: Mapping[str, ListFeatures], task: ProbeTask, name: str, heads: int, progress: Any
    ) -> FittedProbe:
        train, val = found["train"], found.get("val")
        own: dict[str, Any] = {"device": self.runtime.device, "heads": heads} if task.kind == "attentive" else {}
        return fit_probe(
            task.kind,
            train.features(name),
            train.labels,
            classes=len(self.classes),
            groups=train.subjects if val is None else None,
            val=None if val is None else val.features(name),
            val_labels=None if val is None else val.labels,
            metric=self.options.metric,
            share=self.options.share,
            seed=task.seed,
            names=self.classes,
            progress=progress,
            **own,
        )

    def _predictions(self, test: ListFeatures, probabilities: np.ndarray) -> Predictions:
        entries = test.clips.entries
        return Predictions(
            [entries[row].name for row in test.rows],
            test.labels,
            probabilities,
            self.classes,
            skipped=tuple(
                Skipped(entries[row].name, int(test.clips.labels[row]), why) for row, why in sorted(test.broken.items())
            ),
            subjects=tuple(test.subjects or ()),
        )

    def _note_broken(self, features: ListFeatures) -> None:
        if features.broken and features.clips.part != "test":
            whole = len(features.clips.entries)
            note = (
                f"{len(features.broken)} of {whole} clips of data.{features.clips.part} could not be read and are left "
                f"out, the first one: {features.broken[min(features.broken)]}"
            )
            if note not in self.notes:
                self.notes.append(note)


def _as_extractor(loaded: LGIFormer | MAEDFER, cfg: RunConfig) -> tuple[LGIFormer, RunConfig]:
    # Its head takes no part; the classes of the settings are those of the lists.
    model, ours = for_this_machine(feature_extractor(loaded), cfg)
    return model, dataclasses.replace(ours, data=cfg.data)


def _random(loaded: LGIFormer | MAEDFER, cfg: RunConfig) -> LGIFormer:
    """A model of the same architecture whose weights nobody has trained, drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        seed_all(cfg.seed)
        return _as_extractor(build_model(loaded.config).eval(), cfg)[0]


def _lists(cfg: RunConfig) -> list[LabelledClips]:
    """The lists with their labels.

    Raises:
        InputError: they cannot be read, or clips are missing.
    """
    parts = [part for part in ("train", "val", "test") if getattr(cfg.data, part)]
    found = []
    for part in parts:
        file = getattr(cfg.data, part)
        try:
            found.append(LabelledClips.of(part, file, read_clips(cfg, file, any_class=True)))
        except InputError as error:
            if cfg.data.classes and "label" in str(error):
                hint = f"data.classes is [{', '.join(cfg.data.classes)}] here; data.classes=[] takes numbers as labels"
                raise InputError(f"{error} ({hint})") from error
            raise
        if cfg.eval.on_error == "raise":
            look_for(found[-1].entries, file)
    return found


def _classes(cfg: RunConfig, lists: Sequence[LabelledClips]) -> tuple[tuple[str, ...], list[str]]:
    """Names of the classes, and what is to be said of them.

    Raises:
        InputError: a class of one list is not in the training list, or there is one class only.
    """
    train = lists[0]
    highest = max(int(one.labels.max()) for one in lists)
    classes = tuple(cfg.data.classes) or tuple(str(label) for label in range(highest + 1))
    known = {*train.labels.tolist()}
    if len(known) < 2:
        raise InputError(f"all clips of data.train ({train.file}) are of one class: a probe tells two or more apart")
    for other in lists[1:]:
        strange = sorted({*other.labels.tolist()} - known)
        if strange:
            raise InputError(
                f"data.{other.part} ({other.file}) has clips of class {classes[strange[0]]!r} and data.train "
                f"({train.file}) has none: a probe cannot know that class, give lists of the same classes"
            )
    notes = []
    absent = [name for label, name in enumerate(classes) if label not in known]
    if absent and cfg.data.classes:
        notes.append(f"no clips of {', '.join(absent)} in data.train")
    return classes, notes


def _check_split(cfg: RunConfig, options: ProbeOptions, lists: Sequence[LabelledClips], classes: Sequence[str]) -> None:
    """Refuse training clips of which none can choose hyper-parameters, before features are computed."""
    if not cfg.data.val:
        train = lists[0]
        for number in range(options.seeds):
            seed = cfg.seed + number
            validation_split(train.labels, train.subjects or None, share=options.share, seed=seed, names=classes)


def _about(
    cfg: RunConfig,
    runtime: Runtime,
    loaded: LGIFormer | MAEDFER,
    model: LGIFormer,
    study: _Study,
    lists: Sequence[LabelledClips],
) -> dict[str, Any]:
    config = model.config
    chosen = "data.val" if len(lists) == 3 else "subject" if lists[0].subjects else "clip"
    report = loaded.load_report
    if report is not None and report.assumed:
        study.notes.append(f"{cfg.eval.checkpoint}: {report.assumptions}")
    return {
        "maedfer": __version__,
        "model": cfg.eval.checkpoint,
        "kind": type(loaded).__name__,
        "architecture": config.architecture,
        "depth": config.depth,
        "channels": config.embed_dim,
        "layers": list(study.layers),
        "tokens": {str(layer): grid.words(config) for layer, grid in study.grids.items()},
        "float16_rounding": study.rounding,
        "classes": list(study.classes),
        "lists": {one.part: one.file for one in lists},
        "clips": {one.part: len(one.entries) for one in lists},
        "chosen_by": chosen,
        "clip_size": list(config.clip_size),
        "stride": cfg.data.stride,
        "fit": cfg.data.fit,
        "views": cfg.eval.views,
        "precision": runtime.precision,
        "precision_why": runtime.precision_why,
        "options": dataclasses.asdict(study.options),
    }
