"""What is trained: one object for each task, shared by the run, the dry run and the trainer.

A task knows how its model is made, what a batch costs, and how the model is scored. Optimiser, schedule, processes and
checkpoints are the trainer's.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.data.annotations import Clip
from maedfer.data.augment.mixup import Mixup
from maedfer.evaluation.predictions import Predictions
from maedfer.evaluation.score import headline, summary
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, LoadReport, build_model
from maedfer.models.encoder import region_order
from maedfer.models.masking import token_numbers, visible_tokens
from maedfer.train.augmenting import received
from maedfer.train.config import RunConfig, config_tree
from maedfer.train.evaluate import predict_list
from maedfer.train.loader import MaskDraw, ViewBatches
from maedfer.train.log import RunLog
from maedfer.train.optim import leave_out_unused
from maedfer.train.processes import Runtime, process_seed
from maedfer.train.tune import Tune
from maedfer.train.weights import initialise

Batch = dict[str, Tensor]


class Task(abc.ABC):
    """A model to train and what it is trained for.

    Args:
        cfg: the run.
        runtime: processes and device.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime) -> None:
        self.cfg, self.runtime = cfg, runtime

    @abc.abstractmethod
    def build(self, initial: bool = True) -> tuple[LGIFormer | MAEDFER, LoadReport | None]:
        """The model on the device; parameters that no loss reaches are not trained.

        Args:
            initial: whether the weights of `train.init` are taken over.

        Returns:
            The model, and what was taken over.
        """

    def prepare(self, batch: Batch) -> Batch:
        """What is made of a batch of the loader on the CPU, besides its frames."""
        return {}

    def send(self, batch: Batch) -> Batch:
        """A batch of the loader, prepared, on the device; frames that travelled are changed there by their programs."""
        device = self.runtime.device
        sent = {name: value.to(device, non_blocking=True) for name, value in self.prepare(batch).items()}
        return {**sent, "frames": received(self.cfg, batch, device)}

    @staticmethod
    @abc.abstractmethod
    def losses(model: Any, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a batch, "loss" with a gradient among them: what one step of training computes."""

    def lists(self) -> dict[str, Sequence[Clip]]:
        """The lists of clips to be scored, by name."""
        return {}

    def is_scored(self, epoch: int, last: bool) -> bool:
        """Whether the model is scored after an epoch, counted from 1."""
        return False

    def score(self, model: nn.Module, epoch: int, step: int, log: RunLog) -> float | None:
        """Score the model after an epoch: what "best" is judged by."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What must be remembered to go on as if nothing had happened."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        assert not state


class ForwardPass(nn.Module):
    """A training pass from batch to losses as a module, for what takes modules whole: data parallelism, a compiler."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses = task.losses

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch on the device."""
        return self.losses(self.model, batch)


class PretrainTask(Task):
    """Masked autoencoding of clips without labels. Masks come with the batch, so that nothing is drawn here."""

    def __init__(self, cfg: RunConfig, runtime: Runtime) -> None:
        super().__init__(cfg, runtime)
        self.order = region_order(cfg.clip_model)

    def build(self, initial: bool = True) -> tuple[MAEDFER, LoadReport | None]:
        """The masked autoencoder."""
        model = build_model(self.cfg.model)
        assert isinstance(model, MAEDFER)
        model.clip_settings = ClipSettings.of_run(config_tree(self.cfg))
        loaded = initialise(model, self.cfg.train.init) if initial and self.cfg.train.init else None
        model.to(self.runtime.device)
        # Noise rather than zeros: the normalised target of a flat cube is not defined.
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(256, (1, 3, *self.cfg.clip_model.clip_size), generator=generator, dtype=torch.uint8)
        batch = self.send({"frames": frames, "mask": MaskDraw(model.config)(generator)[None]})
        leave_out_unused(model.eval(), lambda: self.losses(model, batch)["loss"])
        return model, loaded

    def prepare(self, batch: Batch) -> Batch:
        """Numbers of tokens in place of masks, as to count them on a GPU would be to wait for it."""
        hidden, decode = split_masks(batch["mask"])
        decoded = token_numbers(hidden if decode is None else decode)
        return {"visible": visible_tokens(hidden, self.order), "decoded": decoded}

    @staticmethod
    def losses(model: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss of uint8 frames, with its two parts, appearance and motion."""
        return model.training_loss(batch["frames"], batch["visible"], batch["decoded"], batch.get("keep"))


class FinetuneTask(Task):
    """Classification of labelled clips: cross entropy with mixed and smoothed targets, scored by temporal views.

    After an epoch the clips that `eval.select` names are scored, or else those there are.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime) -> None:
        super().__init__(cfg, runtime)
        augment = cfg.augment
        # Batches are mixed differently in each process.
        self.mixup = Mixup(
            augment.mixup,
            augment.cutmix,
            augment.smoothing,
            cfg.clip_model.num_classes,
            prob=augment.mixup_prob,
            switch_prob=augment.mixup_switch_prob,
            seed=cfg.seed + process_seed(runtime.rank),
        )
        select = cfg.eval.select
        self.split = select if select != "last" else "val" if cfg.data.val else "test" if cfg.data.test else ""
        self._batches: dict[str, ViewBatches] = {}
        self._latest: tuple[int, str, Predictions] | None = None

    def build(self, initial: bool = True) -> tuple[LGIFormer, LoadReport | None]:
        """The classifier, without gradients where weights are not trained, and with LoRA where that is."""
        model = build_model(self.cfg.model)
        assert isinstance(model, LGIFormer)
        model.clip_settings = ClipSettings.of_run(config_tree(self.cfg))
        loaded = initialise(model, self.cfg.train.init) if initial and self.cfg.train.init else None
        Tune.of_run(self.cfg).prepare(model)
        model.to(self.runtime.device)
        clip = torch.zeros(1, 3, *self.cfg.clip_model.clip_size, device=self.runtime.device)
        leave_out_unused(model.eval(), lambda: model(clip).sum())
        return model, loaded

    def prepare(self, batch: Batch) -> Batch:
        """How clips are mixed, and their targets; the embedding mixes them as it normalises their bytes."""
        # Frames may come in another size.
        mix, target = self.mixup.draw(batch["label"], *self.cfg.clip_model.clip_size[1:])
        return {"mix": mix, "target": target}

    @staticmethod
    def losses(model: Any, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy."""
        logits = model(batch["frames"], batch["mix"], batch.get("keep"))
        return {"loss": F.cross_entropy(logits.float(), batch["target"])}

    def lists(self) -> dict[str, Sequence[Clip]]:
        """The lists of clips to be scored, by name; they are read now, so that a mistake in one costs no training."""
        for split in ("val", "test"):
            if getattr(self.cfg.data, split) and split not in self._batches:
                self._batches[split] = ViewBatches(self.cfg, self.runtime, getattr(self.cfg.data, split))
        return {split: batches.entries for split, batches in self._batches.items()}

    def is_scored(self, epoch: int, last: bool) -> bool:
        """Every `eval.every` epochs, and after the last one."""
        every = self.cfg.eval.every
        return bool(self.split and every) and (epoch % every == 0 or last)

    def score(self, model: nn.Module, epoch: int, step: int, log: RunLog) -> float | None:
        """Score, log it, and give the metric that "best" is judged by, where epochs are chosen at all."""
        metrics = self.predictions(model, epoch, self.split).metrics()
        log.record("eval", split=self.split, epoch=epoch, step=step, **headline(metrics))
        log.say(f"epoch {epoch}, {self.split}: {summary(metrics)}")
        return metrics[self.cfg.eval.metric] if self.cfg.eval.select != "last" else None

    def predictions(self, model: nn.Module, epoch: int, split: str, features: bool = False) -> Predictions:
        """Predictions after an epoch; those made last are kept."""
        if self._latest is not None and self._latest[:2] == (epoch, split) and not features:
            return self._latest[2]
        assert isinstance(model, LGIFormer)
        found = predict_list(model, self._batches[split], self.runtime, self.cfg, features)
        self._latest = (epoch, split, found)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Where the random numbers of mixup stand."""
        return self.mixup.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.mixup.load_state_dict(state)


def finetune_notes(cfg: RunConfig) -> list[str]:
    """What is to be said of settings of fine-tuning that do less than they seem to, a sentence each."""
    augment = cfg.augment
    notes = Tune.of_run(cfg).notes(cfg)
    if augment.mixup_prob and (augment.mixup or augment.cutmix) and cfg.train.batch_size * cfg.data.repeats == 1:
        notes.append(
            "train.batch_size is 1: mixup and CutMix mix the clips of one process's pass with each other, so that none "
            "is mixed; with 2 or more, and fewer processes or passes, they are"
        )
    return notes


def split_masks(masks: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split masks as `MaskDraw` makes them into hidden tokens and those to reconstruct, [B, K] each."""
    return (masks, None) if masks.dim() == 2 else (masks[:, 0], masks[:, 1])
