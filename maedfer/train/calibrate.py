"""`maedfer evaluate --calibrate`: a temperature from validation clips, kept with the model."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maedfer._values import hub_address
from maedfer.data.annotations import Clip
from maedfer.errors import InputError, MissingDependencyError
from maedfer.evaluation.calibration import calibration_facts, fit_temperature
from maedfer.evaluation.predictions import Predictions
from maedfer.models import ClipSettings, LGIFormer
from maedfer.models.load import saved_folder
from maedfer.models.serialization import write_clip_settings
from maedfer.train.config import RunConfig, config_tree
from maedfer.train.list_notes import trained_on
from maedfer.train.loader import ViewBatches
from maedfer.train.processes import Runtime

_NAMES = {"ECE": "ece", "NLL": "nll", "Brier": "brier"}


def check_calibration(cfg: RunConfig) -> Path:
    """Refuse an evaluation that cannot calibrate, before anything is computed.

    Returns:
        The folder of the saved model that is to keep the temperature.

    Raises:
        InputError: several runs are pooled, there are no validation clips, or no place for the temperature.
    """
    if cfg.eval.runs:
        raise InputError("--calibrate fits the temperature of one model: give one --run, or eval.checkpoint")
    if cfg.data.class_map:
        raise InputError("--calibrate fits a temperature on the model's own classes: leave data.class_map out")
    source = cfg.eval.checkpoint
    if hub_address(source) is not None:
        raise InputError(
            f"{source!r} has no place for a temperature: take it as a folder of your own, "
            f"maedfer.load({source!r}).save_pretrained(FOLDER), calibrate that, and push it again"
        )
    folder = saved_folder(source)
    if folder is None and os.path.exists(source):
        raise InputError(
            f"{source!r} has no place for a temperature: give the folder of a run that has ended or of a saved model, "
            "which `maedfer convert` makes of a checkpoint"
        )
    if not cfg.data.val:
        raise InputError(
            "--calibrate needs validation clips and data.val is not set: give data.val=LIST, an annotation file of "
            "clips that are neither trained nor tested on"
        )
    return Path(source) if folder is None else folder


class Calibration:
    """The temperature of a model that is evaluated.

    Args:
        cfg: the evaluation.
        runtime: its processes.
        model: the classifier.
        test: the clips of `data.test`.

    Attributes:
        batches: the validation clips, whose predictions `fit` is to be given.

    Raises:
        InputError: see `check_calibration`; or the validation clips are those that are scored or were trained on, or
            the model is not shown clips as it was trained to see them.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime, model: LGIFormer, test: Sequence[Clip]) -> None:
        self.cfg = cfg
        self.folder = check_calibration(cfg)
        self._known = model.clip_settings or ClipSettings.of_run(config_tree(cfg))
        for key in ("stride", "fit"):
            here, there = getattr(cfg.data, key), getattr(self._known, key)
            if here != there:
                raise InputError(
                    f"data.{key} is {here} here and the model was trained with {there}: a temperature is for clips "
                    "that are read as the model was trained to see them; leave it out"
                )
        self.batches = ViewBatches(cfg, runtime, cfg.data.val)
        runtime.on_main(lambda: self._check_clips(test), "compares the lists", long=True)
        self._validation: Predictions | None = None
        self.temperature = 1.0

    def _check_clips(self, test: Sequence[Clip]) -> None:
        trained: Sequence[Clip] = ()
        with contextlib.suppress(InputError, MissingDependencyError):
            # That they are not known is said with the scores.
            trained = trained_on(self.cfg)
        own = _places(self.batches.entries)
        for clips, what in ((test, "that are scored"), (trained, "that the model was trained on")):
            if own <= _places(clips):
                raise InputError(
                    f"all clips of data.val={self.cfg.data.val} are among those {what}: a temperature that is fitted "
                    "on them says nothing of other clips; give clips that are neither trained nor tested on"
                )

    def fit(self, validation: Predictions) -> None:
        """Fit the temperature.

        Args:
            validation: what the model says of the validation clips, with logits.

        Raises:
            InputError: no temperature is the best one.
        """
        assert validation.logits is not None
        what = f"the validation clips of {self.cfg.data.val}"
        self.temperature = fit_temperature(validation.logits, validation.labels, what)
        self._validation = validation

    def facts(self, test: Predictions) -> dict[str, Any]:
        """What metrics.json says of it.

        Args:
            test: what the model says of the clips that are scored, with logits.
        """
        assert self._validation is not None
        found = {"temperature": self.temperature, "fitted_on": self.cfg.data.val}
        for split, part in (("validation", self._validation), ("test", test)):
            assert part.logits is not None
            found[split] = calibration_facts(part.logits, part.labels, self.temperature)
        return found

    def keep(self) -> None:
        """Write the temperature into the configuration of the saved model."""
        write_clip_settings(self.folder, dataclasses.replace(self._known, temperature=self.temperature))


def sentences(facts: dict[str, Any]) -> list[str]:
    """What `Calibration.facts` says, for the log."""
    lines = [f"temperature {facts['temperature']:.4g}, fitted on {facts['validation']['n']} validation clips"]
    for split in ("validation", "test"):
        before, after = facts[split]["before"], facts[split]["after"]
        pairs = (f"{name} {before[key]:.4f} -> {after[key]:.4f}" for name, key in _NAMES.items())
        lines.append(f"{split}: {', '.join(pairs)}")
    return lines


def _places(clips: Sequence[Clip]) -> set[str]:
    return {clip.digest or os.path.realpath(clip.path) for clip in clips}
