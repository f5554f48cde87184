"""Pre-training a masked autoencoder on clips without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maedfer._files import atomic_path
from maedfer.data.dataset import SampleKey
from maedfer.models import MAEDFER, LGIFormerConfig, build_model, profile
from maedfer.models.encoder import region_order
from maedfer.models.masking import token_numbers, visible_tokens
from maedfer.train.config import RunConfig, check_config
from maedfer.train.loader import TrainBatches
from maedfer.train.optim import leave_out_unused
from maedfer.train.processes import Runtime, start
from maedfer.train.run_folder import RunResult, finish_report, open_run, recording
from maedfer.train.trainer import Trainer, announce
from maedfer.train.weights import initialise

# Clips shown in the report.
_SHOWN = 4


def run_pretrain(cfg: RunConfig) -> RunResult:
    """Train a masked autoencoder, save it as `<output>/model`, and keep pictures of what it reconstructs.

    Raises:
        InputError: naming what cannot be used, or why training had to stop.
    """
    check_config(cfg)
    with start(cfg) as runtime:
        checkpoint = runtime.on_main(lambda: open_run(cfg))
        model = build_model(cfg.model)
        assert isinstance(model, MAEDFER)
        loaded = initialise(model, cfg.train.init) if cfg.train.init and checkpoint is None else None
        model.to(runtime.device)
        batches = TrainBatches(cfg, runtime)
        _leave_out_unused(model.eval(), runtime)
        flops = profile(cfg.model).flops_per_train_clip
        trainer = Trainer(cfg, runtime, model, batches, ReconstructionLoss(model.config.encoder), flops=flops)
        output = Path(cfg.output)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        else:
            save_reconstructions(output / "reconstructions_start.npz", model, batches, runtime)
        with recording(cfg, runtime, trainer.schedule.total, trainer.position.step) as log:
            announce(cfg, trainer, log, checkpoint, loaded)
            trainer.fit(log)
            result = trainer.result
            assert isinstance(result, MAEDFER)
            runtime.on_main(lambda: result.save_pretrained(output / "model"))
            save_reconstructions(output / "reconstructions.npz", result, batches, runtime)
        report = finish_report(cfg, runtime)
    return RunResult(output, trainer.position.step, trainer.position.loss, report=report)


class ReconstructionLoss:
    """The loss of masked autoencoding; masks come with the batch, so that nothing is drawn here.

    Args:
        encoder: gives the regions.
    """

    def __init__(self, encoder: LGIFormerConfig) -> None:
        self.order = region_order(encoder)

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of tokens in place of masks, as to count them on a GPU would be to wait for it."""
        hidden, decode = split_masks(batch.pop("mask"))
        wanted = token_numbers(hidden if decode is None else decode)
        return {**batch, "visible": visible_tokens(hidden, self.order), "wanted": wanted}

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a prepared batch of uint8 frames, with its two parts, appearance and motion."""
        return model(batch["frames"], batch["visible"], batch["wanted"], "loss")

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def split_masks(masks: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split masks as `MaskDraw` makes them into hidden tokens and those to reconstruct, [B, K] each."""
    return (masks, None) if masks.dim() == 2 else (masks[:, 0], masks[:, 1])


@torch.no_grad()
def save_reconstructions(path: Path, model: MAEDFER, batches: TrainBatches, runtime: Runtime) -> None:
    """Write what the model makes of a few fixed clips: float16 arrays [n, T, H, W, 3] in [0, 1], by picture."""
    if not runtime.main:
        return
    indices = np.linspace(0, batches.clips - 1, min(_SHOWN, batches.clips)).astype(int)
    samples = [batches.dataset[SampleKey(int(index), 0)] for index in indices]
    frames = torch.stack([sample["frames"][0] for sample in samples]).to(runtime.device)
    masks = torch.stack([sample["mask"][0] for sample in samples]).to(runtime.device)
    hidden, _ = split_masks(masks)
    was_training = model.training
    model.eval()
    with runtime.autocast():
        pictures = model.reconstruct(frames, hidden)
    model.train(was_training)
    arrays = {name: picture.permute(0, 2, 3, 4, 1).half().cpu().numpy() for name, picture in pictures.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _leave_out_unused(model: MAEDFER, runtime: Runtime) -> None:
    # Noise rather than zeros: the normalised target of a flat cube is not defined.
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(1, 3, *model.config.encoder.clip_size, generator=generator).to(runtime.device)
    hidden, decoded = (None if mask is None else mask.to(runtime.device) for mask in model.random_masks(1, generator))
    assert hidden is not None
    visible, wanted = model.token_numbers(hidden, decoded)
    leave_out_unused(model, lambda: model.training_loss(frames, visible, wanted)["loss"])
