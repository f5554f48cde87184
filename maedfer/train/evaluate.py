"""Scoring clips: temporal views, the mean of their softmax, pred.csv, metrics.json, features.npz."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._files import atomic_path
from maedfer._progress import ProgressLine, counted
from maedfer._values import Plain, is_null
from maedfer.data.subjects import SubjectPattern
from maedfer.dataclass_tree import keys_of
from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import interval_facts, interval_sentence
from maedfer.evaluation.class_map import ClassMap
from maedfer.evaluation.predictions import Predictions, pool, read_predictions, write_predictions
from maedfer.evaluation.score import check_finite, headline, predict, summary
from maedfer.models import LGIFormer, LGIFormerConfig
from maedfer.models.hub import pinned
from maedfer.models.load import load_path
from maedfer.train.calibrate import Calibration, check_calibration, sentences
from maedfer.train.config import RunConfig, check_config, read_config, replace_model, run_folder_of
from maedfer.train.list_notes import list_notes
from maedfer.train.loader import ViewBatches
from maedfer.train.lock import hold
from maedfer.train.log import RunLog, write_json
from maedfer.train.precision import recorded_precision
from maedfer.train.processes import Runtime, start
from maedfer.train.recipes import read_tree
from maedfer.train.run_folder import RunResult, open_evaluation, recording
from maedfer.train.same_clips import identity


def run_evaluate(cfg: RunConfig, calibrate: bool = False) -> RunResult:
    """Score a model on `data.test`, or put the predictions of several runs together and score them once.

    Args:
        cfg: the evaluation.
        calibrate: also fit a temperature on `data.val` and keep it with the model. pred.csv and all scores stay those
            of the probabilities as they are; "calibration" in metrics.json says what the temperature changes.

    `maedfer.report.write_report(result.output)` makes a page of the scores; the command does so where `report` is true.

    Raises:
        InputError: naming what cannot be used.
    """
    check_config(cfg)
    if calibrate:
        check_calibration(cfg)
    with start(cfg) as runtime, hold(cfg.output, runtime):
        # What is wrong with what is given is found before anything is written.
        if cfg.eval.runs:
            parts = [_with_subjects(cfg, part) for part in read_runs(cfg.eval.runs)]
            pooled, notes = _pool(cfg, parts)
        else:
            model, cfg = model_to_score(cfg)
            mapping = read_class_map(cfg, model)
            model.to(runtime.device)
            batches = ViewBatches(cfg, runtime, cfg.data.test)
            if mapping is not None:
                mapping.kept(batches.labels)
            calibration = Calibration(cfg, runtime, model, batches.entries) if calibrate else None
        runtime.on_main(lambda: open_evaluation(cfg))
        scored = {} if cfg.eval.runs else {"test": identity(batches.entries)}
        if not cfg.eval.runs and calibration is not None:
            scored["val"] = identity(calibration.batches.entries)
        with recording(cfg, runtime, clips=scored) as log:
            if cfg.eval.runs:
                folds = _folds(cfg, parts, log)
                notes += _several_precisions(folds)
                facts: dict[str, Any] = {"split": "test", "folds": folds, "mean_of_folds": mean_of_folds(folds)}
                metrics = write_results(cfg, runtime, pooled, facts, notes)
            else:
                log.say(
                    f"scoring {cfg.eval.checkpoint} on {cfg.data.test}, {counted(cfg.eval.views, 'view')} of a clip"
                    + (f", {runtime.compiling.why}" if runtime.compiling.why else "")
                )
                lists = {"test": batches.entries}
                if calibration is not None:
                    lists = {"val": calibration.batches.entries, **lists}
                notes = [
                    *other_clip_settings(cfg, model),
                    *runtime.on_main(lambda: list_notes(cfg, lists), "compares the lists", long=True),
                    *_not_applied(model, calibrate),
                ]
                if runtime.precision_why:
                    log.say(runtime.precision_why)
                if model.load_report is not None and model.load_report.assumed:
                    log.say(f"{cfg.eval.checkpoint}: {model.load_report.assumptions}")
                for note in notes:
                    log.say(note)
                if calibration is not None:
                    calibration.fit(
                        predict_list(model, calibration.batches, runtime, cfg, False, show=runtime.main, logits=True)
                    )
                predictions = predict_list(model, batches, runtime, cfg, show=runtime.main, logits=calibrate)
                facts = {
                    "split": "test",
                    "views": cfg.eval.views,
                    "checkpoint": pinned(cfg.eval.checkpoint),
                    "precision": runtime.precision,
                }
                if calibration is not None:
                    facts["calibration"] = calibration.facts(predictions)
                if mapping is not None:
                    predictions, told, more = mapping.apply(predictions)
                    facts["class_map"] = {"file": cfg.data.class_map, **told}
                    for note in more:
                        log.say(note)
                    notes += more
                metrics = write_results(cfg, runtime, predictions, facts, notes)
                if calibration is not None:
                    runtime.on_main(calibration.keep)
                    for line in sentences(facts["calibration"]):
                        log.say(line)
                    log.say(f"the temperature is kept in {calibration.folder}")
            log.record("eval", split="test", **headline(metrics))
            log.say(summary(metrics, () if cfg.eval.runs else notes))
            log.say(interval_sentence(metrics["intervals"]))
            log.say(f"scores: {Path(cfg.output) / 'metrics.json'}")
    return RunResult(Path(cfg.output), metrics=metrics)


def predict_list(
    model: LGIFormer,
    batches: ViewBatches,
    runtime: Runtime,
    cfg: RunConfig,
    features: bool | None = None,
    show: bool = False,
    logits: bool = False,
) -> Predictions:
    """What a model says about the clips of a list, the same on every process.

    Args:
        model: the classifier, on the device.
        batches: views of the clips.
        runtime: processes and device.
        cfg: for the names of the classes. With `data.class_map` probabilities are of the model's own, labels are not.
        features: also return pooled features; `eval.save_features` when None.
        show: print how far it is.
        logits: also return the logits of every view.

    Raises:
        InputError: a clip cannot be read (all of them, where `eval.on_error` is "skip"), or weights or logits are not
            finite.
    """
    line = ProgressLine("scoring")
    with runtime.low_weights(model):
        found = predict(
            model,
            batches,
            names=[clip.name for clip in batches.entries],
            labels=batches.labels,
            classes=own_classes(cfg, model) if cfg.data.class_map else cfg.classes,
            subjects=[clip.subject for clip in batches.entries],
            views=batches.views,
            features=cfg.eval.save_features if features is None else features,
            logits=logits,
            device=runtime.device,
            autocast=runtime.autocast,
            replay=runtime.compiling.scoring,
            gather=runtime.gather,
            progress=(lambda done: line(batches.share(done))) if show else None,
        )
    if show:
        line.clear()
    return found


def write_results(
    cfg: RunConfig, runtime: Runtime, predictions: Predictions, facts: dict[str, Any], notes: list[str] | None = None
) -> dict[str, Any]:
    """Write pred.csv, metrics.json and, where there are such, features.npz and skipped.csv into the run folder.

    Args:
        facts: what else metrics.json says, such as the epoch that was scored.
        notes: sentences for the reader of the scores.

    Returns:
        The contents of metrics.json.
    """
    metrics = {**predictions.metrics(), **facts}
    metrics["notes"] = [*metrics["notes"], *(notes or [])]
    metrics["intervals"] = interval_facts(
        predictions.labels, predictions.predicted, predictions.classes, predictions.subjects
    )
    if runtime.main:
        output = Path(cfg.output)
        write_predictions(output / "pred.csv", predictions)
        write_json(output / "metrics.json", metrics)
        if predictions.features is None:
            # Those of an earlier evaluation would pass for these.
            (output / "features.npz").unlink(missing_ok=True)
        else:
            # The file object keeps numpy from adding a suffix to the temporary name.
            with atomic_path(output / "features.npz") as path, open(path, "wb") as file:
                np.savez_compressed(
                    file,
                    features=predictions.features.astype(np.float32),
                    labels=predictions.labels,
                    predictions=predictions.predicted,
                    names=np.asarray(predictions.names),
                )
    return metrics


def model_to_score(cfg: RunConfig) -> tuple[LGIFormer, RunConfig]:
    """The classifier that `eval.checkpoint` names, on the CPU, and the run with that model's configuration.

    Raises:
        InputError: it cannot be loaded, is no classifier, has other classes than the settings or the same ones in
            another order, or holds weights that are not finite.
    """
    model = load_path(cfg.eval.checkpoint)
    if not isinstance(model, LGIFormer):
        raise InputError(f"{cfg.eval.checkpoint!r} holds a masked autoencoder: only a classifier can be scored")
    if not model.config.num_classes:
        raise InputError(f"{cfg.eval.checkpoint!r} holds a feature extractor without a head: it gives no classes")
    if cfg.data.classes and not cfg.data.class_map and len(cfg.data.classes) != model.config.num_classes:
        raise InputError(
            f"data.classes names {len(cfg.data.classes)} classes but {cfg.eval.checkpoint!r} has "
            f"{model.config.num_classes}: give the classes it was trained on"
        )
    if not cfg.data.class_map:
        _check_classes(cfg, model)
    check_finite(model, repr(cfg.eval.checkpoint))
    return for_this_machine(model, cfg)


def for_this_machine(model: LGIFormer, cfg: RunConfig) -> tuple[LGIFormer, RunConfig]:
    """The model as this machine computes it, in evaluation mode, and the run with that model's configuration.

    Raises:
        InputError: the settings cannot be run with it.
    """
    # Who computes is asked of the settings: it belongs to this machine and not to the one that trained.
    chosen = {name: getattr(cfg.clip_model, name) for name in keys_of(LGIFormerConfig, "machine")}
    config = dataclasses.replace(model.config, drop_path=cfg.clip_model.drop_path, **chosen)
    cfg = replace_model(cfg, config)
    check_config(cfg)
    scored = LGIFormer(config)
    scored.load_state_dict(model.state_dict())
    scored.clip_settings, scored.load_report = model.clip_settings, model.load_report
    return scored.eval(), cfg


def read_class_map(cfg: RunConfig, model: LGIFormer) -> ClassMap | None:
    """The map of `data.class_map`; None where there is none.

    Raises:
        InputError: it cannot be read, names no class or one that is not known.
    """
    if not cfg.data.class_map:
        return None
    where = f"data.class_map {cfg.data.class_map!r}"
    return ClassMap(own_classes(cfg, model), cfg.data.classes, read_targets(cfg.data.class_map, where), where)


def read_targets(file: str | Path, where: str) -> dict[str, str]:
    """What a file of a map says: class of the data set by class of the model, of those that have one.

    Args:
        file: YAML.
        where: what messages call it.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    tree = read_tree(file, "lines 'class of the model: class of the data set'")
    targets = {}
    for source, target in tree.items():
        if not isinstance(source, str) or not (target is None or isinstance(target, str)):
            raise InputError(f"{where}: {source!r} must go to one class of the data set, a name, got {target!r}")
        if target and not (isinstance(target, Plain) and is_null(target)):
            targets[str(source)] = str(target)
    return targets


def own_classes(cfg: RunConfig, model: LGIFormer) -> tuple[str, ...]:
    """Names of the model's classes, whatever the settings say; their numbers where nothing names them."""
    return _known_classes(cfg, model) or tuple(str(index) for index in range(model.config.num_classes))


def _known_classes(cfg: RunConfig, model: LGIFormer) -> tuple[str, ...]:
    known = model.clip_settings.classes if model.clip_settings is not None else ()
    folder = run_folder_of(cfg.eval.checkpoint)
    if not known and folder is not None:
        known = read_config(folder / "config.yaml").data.classes
    return known


def _check_classes(cfg: RunConfig, model: LGIFormer) -> None:
    """Refuse names of classes that are not the model's own, in its order: its scores would go to the wrong ones."""
    known, given = _known_classes(cfg, model), cfg.data.classes
    if not known or not given or given == known:
        return
    what = "in another order" if sorted(given) == sorted(known) else "under other names"
    raise InputError(
        f"data.classes has the classes of {cfg.eval.checkpoint!r} {what}: {list(given)} here, {list(known)} there: "
        "leave data.classes out to take the model's, and number the labels of data.test in that order"
    )


def other_clip_settings(cfg: RunConfig, model: LGIFormer) -> list[str]:
    """What is to be said where clips are not read as the model was trained to see them."""
    trained = model.clip_settings
    if trained is None:
        return []
    here = {"stride": cfg.data.stride, "fit": cfg.data.fit}
    there = {"stride": trained.stride, "fit": trained.fit}
    return [
        f"data.{name} is {value} here, the model was trained with {there[name]}"
        for name, value in here.items()
        if value != there[name]
    ]


def _not_applied(model: LGIFormer, calibrate: bool) -> list[str]:
    """That scores are of probabilities as they are, where somebody may take them for calibrated ones."""
    if not calibrate and (model.clip_settings is None or model.clip_settings.temperature is None):
        return []
    return ["pred.csv and all scores but those under calibration are of probabilities without a temperature"]


def read_runs(folders: Sequence[str]) -> list[Predictions]:
    """The predictions of runs that are to be pooled.

    Raises:
        InputError: a run has none, or is given twice.
    """
    parts, known = [], set()
    for folder in folders:
        if (place := Path(folder).resolve()) in known:
            raise InputError(f"run {folder!r} is given twice: its clips would count twice")
        known.add(place)
        if not (Path(folder) / "pred.csv").is_file():
            raise InputError(f"eval.runs: {folder!r} has no pred.csv: give folders of runs that have ended")
        parts.append(read_predictions(Path(folder) / "pred.csv"))
        if not parts[-1].names:
            raise InputError(f"eval.runs: the pred.csv of {folder!r} holds no clips: evaluate the run anew")
    return parts


def _with_subjects(cfg: RunConfig, part: Predictions) -> Predictions:
    """Predictions with who is in each clip, where a pattern says it."""
    if not cfg.data.subject:
        return part
    find = SubjectPattern(cfg.data.subject)
    return dataclasses.replace(part, subjects=tuple(map(find, part.names)))


def _pool(cfg: RunConfig, parts: Sequence[Predictions]) -> tuple[Predictions, list[str]]:
    pooled, notes = pool(parts)
    if cfg.data.classes and cfg.data.classes != pooled.classes:
        raise InputError(
            f"data.classes is {list(cfg.data.classes)} but the runs have {list(pooled.classes)}: leave it out, the "
            "runs say what their classes are"
        )
    return pooled, notes


def _folds(cfg: RunConfig, parts: Sequence[Predictions], log: RunLog) -> list[dict[str, Any]]:
    folds = []
    for folder, part in zip(cfg.eval.runs, parts, strict=True):
        metrics = part.metrics()
        folds.append({"run": folder, **headline(metrics), "precision": recorded_precision(folder)})
        log.say(f"{folder}: {summary(metrics)}")
    means = mean_of_folds(folds)
    log.say(
        f"mean of the {counted(len(folds), 'run')}: UAR {means['uar']['mean']:.2%}, WAR {means['war']['mean']:.2%}; "
        "what follows is of all clips together"
    )
    return folds


def mean_of_folds(folds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and sample standard deviation of the scores of folds, each counted alike; not those of all clips together.

    Args:
        folds: the scores of each, two at least for a deviation.
    """
    found = {}
    for key in ("uar", "war", "macro_f1", "weighted_f1"):
        values = [fold[key] for fold in folds]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found[key] = {"mean": float(np.mean(values)), "std": spread}
    return found


def _several_precisions(folds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of folds that were not scored in one arithmetic."""
    names = sorted({fold["precision"] for fold in folds if fold["precision"]})
    return [f"the folds were scored in {' and '.join(names)}"] if len(names) > 1 else []
