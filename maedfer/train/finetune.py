"""Fine-tuning a classifier on labelled clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maedfer.data.few_labels import SomeClips, write_labels
from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import interval_sentence
from maedfer.evaluation.score import headline, summary
from maedfer.models import LGIFormer
from maedfer.models.lora import without_lora
from maedfer.train.augmenting import settled
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.config import RunConfig, check_config, for_processes
from maedfer.train.evaluate import write_results
from maedfer.train.hooks import Hook
from maedfer.train.list_notes import list_notes
from maedfer.train.loader import TrainBatches
from maedfer.train.lock import hold
from maedfer.train.log import RunLog
from maedfer.train.processes import start
from maedfer.train.run_folder import RunResult, hooks_of_run, open_run, recording
from maedfer.train.signals import Signals
from maedfer.train.tasks import FinetuneTask, finetune_notes
from maedfer.train.trainer import Trainer, announce

_TEST_SELECTION = (
    "the best epoch is chosen on the test set (val = test, as the published code does): the scores are optimistic"
)


def run_finetune(cfg: RunConfig, hooks: Sequence[Hook] = ()) -> RunResult:
    """Train a classifier, score it, save it as `<output>/model`.

    Args:
        cfg: the run.
        hooks: are called, in the main process, with every record of the log, beside those of `train.log_to`
            (`maedfer.train.hooks`).

    `maedfer.report.write_report(result.output)` makes a page of the run; the command does so where `report` is true.

    Raises:
        InputError: naming what cannot be used, or why training had to stop.
        Stopped: a signal asked for it (SIGINT, SIGTERM, SIGHUP, SIGUSR1), and where the run stands is saved. It is a
            KeyboardInterrupt. Handlers are set for the time of the call where it is made in the main thread.
    """
    check_config(cfg)
    with Signals().listening() as signals, start(cfg, signals) as runtime, hold(cfg.output, runtime):
        cfg = settled(cfg, runtime.device)
        told = hooks_of_run(cfg, runtime, hooks)
        checkpoint = runtime.on_main(lambda: open_run(cfg))
        # config.yaml has what was asked for.
        cfg = for_processes(cfg, runtime.world)
        task = FinetuneTask(cfg, runtime)
        model, loaded = task.build(initial=checkpoint is None)
        trainer = Trainer(task, model, TrainBatches(cfg, runtime))
        if checkpoint is not None:
            trainer.resume(checkpoint)
        position = trainer.position
        total, lists = trainer.schedule.total, trainer.lists
        with recording(cfg, runtime, total, position.step, position.ending, told, lists) as log:
            announce(trainer, log, checkpoint, loaded)
            notes = runtime.on_main(lambda: list_notes(cfg, trainer.clips), "compares the lists", long=True)
            if isinstance(learned := trainer.batches.dataset.clips, SomeClips):
                runtime.on_main(lambda: write_labels(Path(cfg.output) / "labels.csv", learned, cfg.classes))
            notes = [*notes, *finetune_notes(cfg)]
            for note in [_TEST_SELECTION] * (cfg.eval.select == "test") + notes:
                log.say(note)
                if checkpoint is None:
                    log.record("note", step=0, text=note)
            trainer.fit(log)
            metrics = _finish(task, trainer, log, notes)
    return RunResult(Path(cfg.output), trainer.position.step, trainer.position.loss, metrics)


def _finish(task: FinetuneTask, trainer: Trainer, log: RunLog, of_lists: list[str]) -> dict[str, Any] | None:
    """Save the model that is the result, score it, and write its scores into the run folder, with notes."""
    cfg, runtime = task.cfg, task.runtime
    model, epoch = trainer.result, trainer.position.epoch
    assert isinstance(model, LGIFormer)
    if cfg.eval.select != "last":
        path = trainer.checkpoints.path("best")
        if not path.exists() and "best" in trainer.checkpoints.failed:
            raise InputError(
                f"no epoch is the best one, because no checkpoint of one could be written "
                f"({trainer.checkpoints.failed['best']}): make room, remove {path.parent} and start anew"
            )
        if not path.exists():
            raise InputError("no epoch was scored, so none is the best one: set eval.every to 1")
        try:
            best = load_checkpoint(path)
        except InputError as error:
            raise InputError(f"{error}; to find the best epoch again, remove {path.parent} and start anew") from error
        model.load_state_dict(best["model"])
        epoch = best["position"]["best_epoch"]
        log.say(f"the result is epoch {epoch}, best on {cfg.eval.select} by {cfg.eval.metric.upper()}")
    model = without_lora(model)
    trainer.checkpoints.finish(lambda: model.save_pretrained(Path(cfg.output) / "model"))
    split = "test" if cfg.data.test else "val" if cfg.data.val else ""
    if not split:
        log.say("neither data.test nor data.val is set: nothing is scored")
        return None
    facts: dict[str, Any] = {
        "split": split,
        "epoch": epoch,
        "step": trainer.position.step,
        "select": cfg.eval.select,
        "metric": cfg.eval.metric,
        "views": cfg.eval.views,
        "precision": runtime.precision,
        "weights": "moving average" if cfg.train.ema else "model",
        "trained": trainer.trained.facts(),
    }
    if isinstance(clips := trainer.batches.dataset.clips, SomeClips):
        learned = clips.chosen
        facts["labels"] = {
            "used": cfg.data.labels,
            "seed": learned.seed,
            "clips": len(learned),
            "of": len(learned.source),
            "per_class": np.bincount(learned.labels, minlength=len(cfg.classes)).tolist(),
        }
    predictions = task.predictions(model, epoch, split, cfg.eval.save_features)
    notes = [*trainer.notes, *trainer.lost_notes()]
    if cfg.eval.select == "test":
        notes.append(_TEST_SELECTION)
    elif cfg.eval.select == split:
        notes.append("the epoch was chosen on the clips that are scored: the scores are optimistic")
    metrics = write_results(cfg, runtime, predictions, facts, [*notes, *of_lists])
    log.result = {"split": split, **headline(metrics)}
    log.say(f"{split}: {summary(metrics)}")
    log.say(f"{split}: {interval_sentence(metrics['intervals'])}")
    return metrics
