"""The training loop of pre-training and fine-tuning.

An epoch is a row of optimiser steps, a step a row of `train.accumulate` forward and backward passes. Losses stay on
the device and are fetched, averaged over processes and checked once in a while (`Meter`), so that a step does not wait
for the GPU. A checkpoint holds everything the next step depends on: a run that was killed and resumed ends with the
weights of one that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from maedfer._progress import counted, duration
from maedfer.data.annotations import Clip
from maedfer.kernels import choose
from maedfer.models import MAEDFER, LGIFormer, LoadReport, profile
from maedfer.models.hub import pinned
from maedfer.models.lora import without_lora
from maedfer.train.agreement import Agreement
from maedfer.train.checkpoints import LatestCheckpoint
from maedfer.train.conditions import conditions
from maedfer.train.environment import memory_mb, peak_flops
from maedfer.train.guards import GuardedStep, Incidents, Recent, skipped_note
from maedfer.train.loader import TrainBatches
from maedfer.train.log import RunLog
from maedfer.train.meter import Meter, Pace
from maedfer.train.optim import Ema, groups_of, make_optimizer, run_schedule, set_lr
from maedfer.train.parallel import Parallel
from maedfer.train.processes import seed_all
from maedfer.train.quarantine import Quarantine
from maedfer.train.run_state import Position, go_on_from, state_of, weights_of
from maedfer.train.same_clips import identity, sizes
from maedfer.train.sharded_checkpoints import checkpoints_of
from maedfer.train.stopping import Stopping
from maedfer.train.tasks import Task
from maedfer.train.tune import Trained, Tune, flops_per_clip
from maedfer.train.watch import DeadGradients, SpikeWatch
from maedfer.train.weights import brief

# Steps after which losses are fetched from the device even if nothing is logged.
_FETCH_EVERY = 50


class Trainer:
    """Trains the model of a task and keeps its checkpoints.

    Args:
        task: what is trained.
        model: of the task; its parameters must be the same in all processes.
        batches: the training clips.
    """

    def __init__(self, task: Task, model: LGIFormer | MAEDFER, batches: TrainBatches) -> None:
        cfg, runtime = task.cfg, task.runtime
        self.task, self.model, self.batches = task, model, batches
        self.cfg, self.runtime = cfg, runtime
        # A resumed run must learn from the same clips, and is told where others are scored.
        self.clips: dict[str, Sequence[Clip]] = {"train": batches.dataset.clips, **task.lists()}
        self.lists = {name: identity(clips) for name, clips in self.clips.items() if name != "train"}
        self.lists["train"] = batches.identity
        self.sizes = {name: sizes(clips) for name, clips in self.clips.items()} if runtime.main else {}
        self.conditions = conditions(cfg, runtime, self.lists)
        # What a reader of the scores must know of how the run went on.
        self.notes: list[str] = []
        self.checkpoints = checkpoints_of(cfg, runtime)
        self.position = Position()
        # Broken clips that this process passed over in the epoch.
        self.skipped = 0
        self.meter = Meter()
        # What all processes decide alike: that a step is skipped, that the run stops after one, that clips are broken.
        self.agreement = Agreement(runtime, ("skip", "stop", "broken"))
        self.stopping = Stopping(self)
        self.trained = Trained.of(model, Tune.of_run(cfg))
        self.schedule = run_schedule(cfg, batches.clips, len(batches), runtime.world)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")
        self.ema = Ema(model, cfg.train.ema) if cfg.train.ema else None
        self.parallel = Parallel(task, model)
        if self.ema is not None:
            self.parallel.shard_alike(self.ema.model)
        # Of the parts, where weights lie in parts.
        self.optimizer = make_optimizer(groups_of(model, cfg), cfg.optim, runtime.device)
        self.spikes, self.dead = SpikeWatch(), DeadGradients(model)
        self.guarded = GuardedStep(
            model, self.optimizer, self.scaler, self.ema, self.agreement, self.dead, cfg.optim.clip_grad
        )
        learned = batches.dataset.clips
        steps = self.schedule.steps_per_epoch
        self.incidents = Incidents(runtime, learned, steps, cfg.train.max_skipped, self._kept)
        self.quarantine = Quarantine(cfg, runtime, learned)
        # What is drawn in the loop, stochastic depth, is drawn alike in all processes.
        seed_all(cfg.seed)

    @property
    def result(self) -> LGIFormer | MAEDFER:
        """The model to score and save: the moving average where there is one, which may have LoRA.

        Where weights lie in parts this is a whole copy, and all processes take part in making it.
        """
        return self.parallel.assembled(self.ema.model if self.ema is not None else self.model)

    def describe(self) -> str:
        """What is trained, and how, as a line for people."""
        cfg, runtime, schedule = self.cfg, self.runtime, self.schedule
        decoded = "decoded and " if cfg.data.decode == "cuda" else ""
        return (
            f"{cfg.model_name}, {self.trained}, on {runtime.device} in {runtime.precision} "
            f"by {choose(cfg.clip_model.impl, runtime.device)}"
            + (f", {self.parallel.words}" if self.parallel.words else "")
            + (f", {runtime.compiling.why}: " if runtime.compiling.why else ": ")
            + f"{counted(self.batches.clips, 'clip')}, {counted(schedule.total, 'step')} of "
            f"{counted(schedule.global_batch, 'clip')} ({cfg.train.batch_size} x "
            f"{runtime.world} {'process' if runtime.world == 1 else 'processes'} x "
            f"{cfg.train.accumulate} {'pass' if cfg.train.accumulate == 1 else 'passes'}"
            + (f", {cfg.data.repeats} samples of each" if cfg.data.repeats > 1 else "")
            + (f", {decoded}changed on the device" if cfg.augment.device == "cuda" else "")
            + f"), {schedule.steps_per_epoch} an epoch, learning rate {schedule.peak:.3g} to {schedule.floor:.3g}"
        )

    def fit(self, log: RunLog) -> None:
        """Train until the end of the schedule.

        Raises:
            Stopped: a signal came; where the run stands is saved.
            InputError: too many steps in a row were skipped, or too many clips cannot be read.
        """
        self.log = log
        self.quarantine.open(going_on=bool(self.position.step))
        self.pace = Pace(self.position.step, self.schedule.total)
        self.flops = flops_per_clip(self.model, profile(self.cfg.model), self.cfg.clip_model.depth)
        with self.stopping.watching():
            if self.position.ending:
                self._end_epoch()
            while self.position.step < self.schedule.total:
                self._epoch()
        self._kept()
        self.log.progress(self.position.step, "training is complete", "")
        for note in self.lost_notes():
            self.log.say(note)

    def lost_notes(self) -> list[str]:
        """What readers of a trained model's scores must know of steps and clips that were lost."""
        return [*skipped_note(self.position, self.schedule.total), *self.quarantine.notes()]

    def _epoch(self) -> None:
        position, train = self.position, self.cfg.train
        done = position.step - position.epoch * self.schedule.steps_per_epoch
        steps = min(self.schedule.steps_per_epoch - done, self.schedule.total - position.step)
        self.model.train()
        with contextlib.closing(self.batches.epoch(position.epoch, done * train.accumulate)) as batches:
            for remaining in reversed(range(steps)):
                self._step(batches)
                step = position.step
                if step % train.log_every == 0 or step == self.schedule.total:
                    self._report()
                elif step % _FETCH_EVERY == 0:
                    self._fetch()
                if self.stopping.asked and remaining:
                    self.stopping.end(self.stopping.asked)
                # The end of an epoch saves by itself.
                if train.save_steps and step % train.save_steps == 0 and remaining:
                    self.save("last")
        self._fetch()
        position.epoch += 1
        means = self.meter.take("epoch")
        position.loss = means.get("loss")
        skipped, self.skipped = sum(self.runtime.gather(self.skipped)), 0
        self.log.record("epoch", step=position.step, epoch=position.epoch, **means, skipped=skipped)
        if skipped:
            were = "1 clip could not be read and was" if skipped == 1 else f"{skipped} clips could not be read and were"
            self.log.say(f"epoch {position.epoch}: {were} replaced by others")
        if self._is_scored() or self._is_kept():
            # First of all: a clip that cannot be read or a want of memory may stop what follows, and then the epoch is
            # not trained again.
            position.ending = True
            self.save("last")
            self.stopping.between_epochs()
        self._end_epoch()

    def _end_epoch(self) -> None:
        if self._is_scored():
            self._score()
        self.position.ending = False
        if self._is_kept():
            self.save(f"epoch_{self.position.epoch:03d}")
        self.save("last")
        self.stopping.between_epochs()
        self.pace.restart()

    def _is_scored(self) -> bool:
        return self.task.is_scored(self.position.epoch, self.position.step >= self.schedule.total)

    def _is_kept(self) -> bool:
        return bool(self.cfg.train.save_every) and self.position.epoch % self.cfg.train.save_every == 0

    def _step(self, batches: Iterator[dict[str, Tensor]]) -> None:
        step = self.runtime.about.step = self.position.step
        set_lr(self.optimizer, self.schedule(step))
        with self.parallel.low_weights:
            noted = self._passes(batches)
        self.agreement.say("broken", float(self.quarantine.pending))
        norm = self.guarded(step + 1, noted["loss"])
        self.incidents.note(Recent(step + 1, self._learned, noted["loss"], norm))
        if self.cfg.optim.clip_grad is not None:
            noted["grad_norm"] = norm
        self.meter.add(step + 1, noted)
        self.position.step += 1
        self._heed()

    def _heed(self, everything: bool = False) -> None:
        """Take note of what the processes agreed upon in the steps that can be read, or in all."""
        for agreed in self.agreement.read(everything):
            if agreed.flags["broken"]:
                self.quarantine.merge(agreed.step, self.log)
            self.incidents.learn(agreed, self.position, self.log, self.model)

    def _passes(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The forward and backward passes of a step; returns its losses."""
        accumulate = self.cfg.train.accumulate
        noted: dict[str, Tensor] = {}
        self._learned: list[int] = []
        for part in range(accumulate):
            asked = time.perf_counter()
            with self.stopping.waiting(part):
                batch = next(batches)
            clips = len(batch["index"])
            self.pace.add(clips, time.perf_counter() - asked)
            self.skipped += int(batch.pop("skipped"))
            self._learned += (indices := batch["index"].tolist())
            broken: Any = batch.pop("broken", {})
            self.quarantine.meet(broken, indices, self.position.epoch + 1)
            batch = self.task.send(batch)
            # Not inside of what is compiled, where other numbers are drawn.
            if (keep := self.parallel.draw_keep(clips)) is not None:
                batch["keep"] = keep
            self.parallel.settle(batch)
            with self.parallel.exchange(part == accumulate - 1):
                if self.runtime.compiling.replayed:
                    # What the last pass left in the graphs' memory may be written over.
                    torch.compiler.cudagraph_mark_step_begin()
                with self.runtime.autocast():
                    losses = self.parallel.forward_pass(batch)
                self.scaler.scale(losses["loss"] / accumulate).backward()
            for name, value in losses.items():
                share = value.detach().float() / accumulate
                noted[name] = noted[name] + share if name in noted else share
        return noted

    def _fetch(self) -> None:
        for step, losses in self.meter.fetch(self.runtime):
            if (usual := self.spikes.look(losses["loss"])) is not None:
                self.incidents.spike(step, losses["loss"], usual, self.spikes.told, self.log)
        self.incidents.dead(self.position.step, self.dead.look(), self.log)

    def _report(self) -> None:
        self._fetch()
        step, runtime, schedule = self.position.step, self.runtime, self.schedule
        rate, waiting, left = self.pace.read(step)
        peak = peak_flops(runtime)
        utilisation = self.flops * rate / peak if peak else None
        rate *= runtime.world
        epoch = (step - 1) // schedule.steps_per_epoch + 1
        losses, lr = self.meter.take("window"), schedule(step - 1)
        values = {
            "lr": lr,
            "clips_per_s": round(rate, 3),
            "data_wait": round(waiting, 4),
            "mfu": None if utilisation is None else round(utilisation, 4),
            "memory_mb": round(memory_mb(runtime.device), 1),
            "seconds_left": round(left, 1),
        }
        if self.scaler.is_enabled():
            values["loss_scale"] = self.scaler.get_scale()
        self.log.record("step", step=step, epoch=epoch, **losses, **values)
        shown = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        speed = f"{rate:.1f} clips/s, waiting for data {waiting:.0%}"
        if utilisation is not None:
            speed += f", utilisation {utilisation:.0%}"
        head = f"epoch {epoch}/{math.ceil(schedule.total / schedule.steps_per_epoch)} step {step}/{schedule.total}"
        tail = f"{speed}, {values['memory_mb']:.0f} MB, {duration(left)} left"
        self.log.progress(step, f"{head}: {shown} lr {lr:.2e}, {tail}", f"{shown} {speed}")
        self.pace.restart()

    def _score(self) -> None:
        position = self.position
        with self.stopping.scoring():
            score = self.task.score(without_lora(self.result), position.epoch, position.step, self.log)
        if score is not None and (position.best is None or score > position.best):
            before = position.best, position.best_epoch
            position.best, position.best_epoch = score, position.epoch
            if not self.save("best", weights_only=True):
                # The one that is there stays the best.
                position.best, position.best_epoch = before
                self.notes.append(
                    f"epoch {position.epoch} was better than all before it, and its weights could not be saved: the "
                    "best epoch is one of the others"
                )

    def save(self, name: str, weights_only: bool = False, *, stops: bool = False) -> bool:
        """Write the checkpoint of a name: all that a resumed run needs, or the model to be scored alone.

        The last one stays what it was while steps are skipped, unless the run is at its end, or `stops` here.

        Returns:
            Whether it is written; a disk that takes nothing is told, and does not end the run.

        Raises:
            InputError: too many steps in a row were skipped.
        """
        self._heed(everything=True)
        self._fetch()
        position = self.position
        if name == "last" and position.in_a_row and position.step < self.schedule.total and not stops:
            return False
        return not self._told(self.checkpoints.write(name, weights_of(self) if weights_only else state_of(self)), name)

    def _kept(self) -> str:
        """The checkpoint that holds what the run last had, as sentences have it; "" where there is none."""
        if waited := self.checkpoints.wait():
            self._told(waited, "last")
        newest = self.checkpoints.newest
        return "" if newest is None else f"{newest[0]} (step {newest[1]})"

    def _told(self, said: list[str], name: str) -> str:
        """Tell what became of a checkpoint; gives why it could not be written."""
        for text in said:
            self.log.say(text)
        if why := self.checkpoints.failed.get(name, ""):
            self.log.record("not_saved", step=self.position.step, name=name, why=why)
        return why

    def resume(self, checkpoint: LatestCheckpoint) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            InputError: it cannot be read, or belongs to a run with other settings or other clips to learn from.
        """
        go_on_from(self, checkpoint.path)
        self.checkpoints.newest = checkpoint.path, self.position.step
        self.notes += checkpoint.said


def announce(trainer: Trainer, log: RunLog, checkpoint: LatestCheckpoint | None, loaded: LoadReport | None) -> None:
    """Tell what starts: from which weights, on what, for how long."""
    cfg = trainer.cfg
    if loaded is not None:
        source = pinned(cfg.train.init)
        log.record("init", step=0, source=source, **asdict(loaded))
        log.say(f"weights of {source}: {brief(loaded)}")
    if checkpoint is not None:
        step = trainer.position.step
        log.say(f"going on from {checkpoint.path}, step {step}")
        for note in trainer.notes:
            log.say(note)
        for note in checkpoint.said:
            log.record("note", step=step, text=note)
    if checkpoint is None:
        log.record("trained", step=0, **trainer.trained.facts())
    log.say(trainer.describe())
    if trainer.runtime.precision_why:
        log.say(trainer.runtime.precision_why)
