"""Pre-training a masked autoencoder on clips without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maedfer._files import atomic_path
from maedfer.data.sampler import SampleKey
from maedfer.models import MAEDFER
from maedfer.train.augmenting import received, settled
from maedfer.train.config import RunConfig, check_config, for_processes
from maedfer.train.hooks import Hook
from maedfer.train.loader import TrainBatches
from maedfer.train.lock import hold
from maedfer.train.processes import Runtime, start
from maedfer.train.run_folder import RunResult, hooks_of_run, open_run, recording
from maedfer.train.signals import Signals
from maedfer.train.tasks import PretrainTask, split_masks
from maedfer.train.trainer import Trainer, announce

# Clips shown in the report.
_SHOWN = 4


def run_pretrain(cfg: RunConfig, hooks: Sequence[Hook] = ()) -> RunResult:
    """Train a masked autoencoder, save it as `<output>/model`, and keep pictures of what it reconstructs.

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
        task = PretrainTask(cfg, runtime)
        model, loaded = task.build(initial=checkpoint is None)
        batches = TrainBatches(cfg, runtime)
        trainer = Trainer(task, model, batches)
        output = Path(cfg.output)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        else:
            save_reconstructions(
                output / "reconstructions_start.npz", trainer.parallel.assembled(model), batches, runtime
            )
        position = trainer.position
        total, lists = trainer.schedule.total, trainer.lists
        with recording(cfg, runtime, total, position.step, position.ending, told, lists) as log:
            announce(trainer, log, checkpoint, loaded)
            trainer.fit(log)
            result = trainer.result
            assert isinstance(result, MAEDFER)
            trainer.checkpoints.finish(lambda: result.save_pretrained(output / "model"))
            with log.may_fail("reconstructions.npz"):
                save_reconstructions(output / "reconstructions.npz", result, batches, runtime)
    return RunResult(output, trainer.position.step, trainer.position.loss)


@torch.no_grad()
def save_reconstructions(path: Path, model: MAEDFER, batches: TrainBatches, runtime: Runtime) -> None:
    """Write what the model makes of a few fixed clips: float16 arrays [n, T, H, W, 3] in [0, 1], by picture."""
    if not runtime.main:
        return
    indices = np.linspace(0, batches.clips - 1, min(_SHOWN, batches.clips)).astype(int)
    samples = [batches.dataset[SampleKey(int(index), 0)] for index in indices]
    batch = batches.dataset.collate(samples)
    # The first sample of each clip.
    repeats = batches.cfg.data.repeats
    frames = received(batches.cfg, batch, runtime.device)[::repeats]
    hidden, _ = split_masks(batch["mask"][::repeats].to(runtime.device))
    was_training = model.training
    model.eval()
    with runtime.autocast():
        pictures = model.reconstruct(frames, hidden)
    model.train(was_training)
    arrays = {name: picture.permute(0, 2, 3, 4, 1).half().cpu().numpy() for name, picture in pictures.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
