"""Fine-tuning a classifier on labelled clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.data.augment.mixup import Mixup
from maedfer.errors import InputError
from maedfer.evaluation.predictions import Predictions
from maedfer.evaluation.score import headline, summary
from maedfer.models import LGIFormer, build_model, normalize_frames, profile
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.config import RunConfig, check_config
from maedfer.train.evaluate import predict_list, write_results
from maedfer.train.loader import TrainBatches, ViewBatches, identity
from maedfer.train.log import RunLog
from maedfer.train.optim import leave_out_unused
from maedfer.train.processes import Runtime, process_seed, start
from maedfer.train.run_folder import RunResult, finish_report, open_run, recording
from maedfer.train.trainer import Trainer, announce
from maedfer.train.weights import initialise

_TEST_SELECTION = (
    "the best epoch is chosen on the test set (val = test, as the published code does): the scores are optimistic"
)


def run_finetune(cfg: RunConfig) -> RunResult:
    """Train a classifier, score it, save it as `<output>/model`.

    Raises:
        InputError: naming what cannot be used, or why training had to stop.
    """
    check_config(cfg)
    with start(cfg) as runtime:
        checkpoint = runtime.on_main(lambda: open_run(cfg))
        model = build_model(cfg.model)
        assert isinstance(model, LGIFormer)
        loaded = initialise(model, cfg.train.init) if cfg.train.init and checkpoint is None else None
        model.to(runtime.device)
        if cfg.train.freeze_blocks:
            model.freeze(cfg.train.freeze_blocks)
        clip = torch.zeros(1, 3, *cfg.clip_model.clip_size, device=runtime.device)
        leave_out_unused(model.eval(), lambda: model(clip).sum())
        scorer = Scorer(cfg, runtime)
        batches = TrainBatches(cfg, runtime)
        flops = profile(cfg.model).flops_per_train_clip
        loss = ClassificationLoss(cfg, runtime.rank)
        trainer = Trainer(cfg, runtime, model, batches, loss, scorer, flops, scorer.lists())
        if checkpoint is not None:
            trainer.resume(checkpoint)
        with recording(cfg, runtime, trainer.schedule.total, trainer.position.step) as log:
            announce(cfg, trainer, log, checkpoint, loaded)
            if cfg.eval.select == "test":
                log.say(_TEST_SELECTION)
                if checkpoint is None:
                    log.record("note", step=0, text=_TEST_SELECTION)
            scorer.log = log
            trainer.fit(log)
            metrics = _finish(cfg, runtime, trainer, scorer, log)
        report = finish_report(cfg, runtime)
    return RunResult(Path(cfg.output), trainer.position.step, trainer.position.loss, metrics, report)


class Scorer:
    """Scores the model after an epoch on the clips that `eval.select` names, or else on those there are.

    Args:
        cfg: the run.
        runtime: processes and device.
    """

    log: RunLog

    def __init__(self, cfg: RunConfig, runtime: Runtime) -> None:
        self.cfg, self.runtime = cfg, runtime
        self._batches: dict[str, ViewBatches] = {}
        self._latest: tuple[int, str, Predictions] | None = None
        select = cfg.eval.select
        self.split = select if select != "last" else "val" if cfg.data.val else "test" if cfg.data.test else ""
        # Clip lists are read now, so that a mistake in one stops the run before it has cost anything.
        for split in ("val", "test"):
            if getattr(cfg.data, split):
                self._batches[split] = ViewBatches(cfg, runtime, getattr(cfg.data, split))

    def lists(self) -> dict[str, str]:
        """What tells each list of clips from others."""
        return {split: identity(batches.entries) for split, batches in self._batches.items()}

    def __call__(self, model: nn.Module, epoch: int, step: int, last: bool) -> float | None:
        """Score after an epoch if its turn has come, log it, and return what "best" is judged by."""
        every = self.cfg.eval.every
        if not self.split or not every or (epoch % every and not last):
            return None
        metrics = self.predictions(model, epoch, self.split).metrics()
        self.log.record("eval", split=self.split, epoch=epoch, step=step, **headline(metrics))
        self.log.say(f"epoch {epoch}, {self.split}: {summary(metrics)}")
        return metrics[self.cfg.eval.metric] if self.cfg.eval.select != "last" else None

    def predictions(self, model: nn.Module, epoch: int, split: str, features: bool = False) -> Predictions:
        """Predictions after an epoch; those made last are kept."""
        if self._latest is not None and self._latest[:2] == (epoch, split) and not features:
            return self._latest[2]
        assert isinstance(model, LGIFormer)
        found = predict_list(model, self._batches[split], self.runtime, self.cfg, features)
        self._latest = (epoch, split, found)
        return found


class ClassificationLoss:
    """Cross entropy with mixed and smoothed targets.

    Args:
        cfg: the run.
        rank: of this process, so that batches are mixed differently in each.
    """

    def __init__(self, cfg: RunConfig, rank: int) -> None:
        augment = cfg.augment
        self.mixup = Mixup(
            augment.mixup,
            augment.cutmix,
            augment.smoothing,
            cfg.clip_model.num_classes,
            prob=augment.mixup_prob,
            switch_prob=augment.mixup_switch_prob,
            seed=cfg.seed + process_seed(rank),
        )

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing to do."""
        return batch

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch of uint8 frames and labels."""
        video, targets = self.mixup(normalize_frames(batch["frames"]), batch["label"])
        return {"loss": F.cross_entropy(model(video).float(), targets)}

    def state_dict(self) -> dict[str, Any]:
        """Where the random numbers of mixup stand."""
        return self.mixup.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.mixup.load_state_dict(state)


def _finish(cfg: RunConfig, runtime: Runtime, trainer: Trainer, scorer: Scorer, log: RunLog) -> dict[str, Any] | None:
    model, epoch = trainer.result, trainer.position.epoch
    assert isinstance(model, LGIFormer)
    if cfg.eval.select != "last":
        path = trainer.folder / "best.pt"
        if not path.is_file():
            raise InputError("no epoch was scored, so none is the best one: set eval.every to 1")
        best = load_checkpoint(path)
        model.load_state_dict(best["model"])
        epoch = best["position"]["best_epoch"]
        log.say(f"the result is epoch {epoch}, best on {cfg.eval.select} by {cfg.eval.metric.upper()}")
    runtime.on_main(lambda: model.save_pretrained(Path(cfg.output) / "model"))
    split = "test" if cfg.data.test else "val" if cfg.data.val else ""
    if not split:
        log.say("neither data.test nor data.val is set: nothing is scored")
        return None
    facts = {
        "split": split,
        "epoch": epoch,
        "step": trainer.position.step,
        "select": cfg.eval.select,
        "metric": cfg.eval.metric,
        "views": cfg.eval.views,
        "weights": "moving average" if cfg.train.ema else "model",
    }
    predictions = scorer.predictions(model, epoch, split, cfg.eval.save_features)
    notes = []
    if cfg.eval.select == "test":
        notes.append(_TEST_SELECTION)
    elif cfg.eval.select == split:
        notes.append("the epoch was chosen on the clips that are scored: the scores are optimistic")
    metrics = write_results(cfg, runtime, predictions, facts, notes)
    log.say(f"{split}: {summary(metrics)}")
    return metrics
