"""AdamW's parameter groups, the learning rate of every step, the moving average of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer
from maedfer.train.config import OptimConfig, RunConfig


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    layer_index: Callable[[str], int] | None = None,
    depth: int = 0,
    no_decay: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Sort trainable parameters by weight decay and learning-rate scale.

    Biases, 1-D parameters and the names in `no_decay` get no weight decay. A parameter of layer i gets the scale
    `layer_decay ** (depth + 1 - i)`: 1 for the head, less for every block below.

    Returns:
        Groups with "params", "weight_decay" and "lr_scale".
    """
    exempt = set(no_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") or name in exempt else weight_decay
        scale = 1.0
        if layer_decay != 1.0 and layer_index is not None:
            scale = layer_decay ** (depth + 1 - layer_index(name))
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def groups_of(
    model: LGIFormer | MAEDFER, cfg: RunConfig, no_decay: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Sort the parameters of a run's model, as `parameter_groups`.

    Args:
        model: what is trained.
        cfg: the run.
        no_decay: names that get no weight decay; what the model says where it is None.
    """
    exempt = model.no_weight_decay() if no_decay is None else no_decay
    optim, depth = cfg.optim, cfg.clip_model.depth
    return parameter_groups(model, optim.weight_decay, optim.layer_decay, model.layer_index, depth, exempt)


def make_optimizer(groups: list[dict[str, Any]], config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over `groups`, its learning rate to be set at every step with `set_lr`."""
    if not groups:
        raise InputError("no parameter is left to train: lower train.freeze_blocks")
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=device.type == "cuda")


class Schedule:
    """Learning rate by step: linear from 0 to the peak, then a cosine to the minimum, as published.

    The last step of the warm-up has the peak, and the first after it has it again. The cosine gets to the minimum one
    step after the last.

    Args:
        config: `lr` and `min_lr` are scaled by global_batch / lr_batch.
        global_batch: clips of one optimiser step over all processes.
        steps_per_epoch: optimiser steps of an epoch.
        max_steps: length of the schedule where it is not given by the epochs; 0 = by the epochs.

    Raises:
        InputError: the warm-up is longer than the run.
    """

    def __init__(self, config: OptimConfig, global_batch: int, steps_per_epoch: int, max_steps: int = 0) -> None:
        self.global_batch, self.steps_per_epoch = global_batch, steps_per_epoch
        scale = global_batch / config.lr_batch if config.lr_batch else 1.0
        self.peak, self.floor = config.lr * scale, config.min_lr * scale
        self.total = config.epochs * steps_per_epoch
        if max_steps:
            self.total = min(self.total, max_steps)
        self.warmup = round(config.warmup_epochs * steps_per_epoch)
        if self.warmup > self.total:
            raise InputError(
                f"the warm-up of {self.warmup} steps (optim.warmup_epochs={config.warmup_epochs:g}) is longer than the "
                f"run of {self.total} steps: lower optim.warmup_epochs"
            )

    def __call__(self, step: int) -> float:
        """The learning rate of optimiser step `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * step / max(1, self.warmup - 1)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * min(1.0, progress)))


def run_schedule(cfg: RunConfig, clips: int, batches: int, world: int) -> Schedule:
    """The schedule of a run.

    Args:
        cfg: the run.
        clips: to train on.
        batches: of one process in an epoch.
        world: number of processes.

    Raises:
        InputError: there are too few clips for a step, or too few steps for the warm-up.
    """
    global_batch = cfg.train.batch_size * world * cfg.train.accumulate
    steps = batches // cfg.train.accumulate
    if not steps:
        raise InputError(
            f"{clips} training clips do not fill one batch of {global_batch} "
            "(train.batch_size x processes x train.accumulate): lower it, or give more clips"
        )
    return Schedule(cfg.optim, global_batch, steps, cfg.train.max_steps)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class Ema:
    """Moving average of a model's weights. The decay grows with the steps, so that it forgets the initial weights.

    Of LoRA it averages A and B. Weights that are not trained are those of the model, not copies.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        shared: dict[int, Any] = {id(one): one for one in model.parameters() if not one.requires_grad}
        self.model: Any = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, skip: Tensor | None = None) -> None:
        """Move towards the weights of `model` after an optimiser step.

        Args:
            model: whose weights are averaged.
            step: of the optimiser, counted from 0.
            skip: a scalar on the device, 1 where the step was left out, so that this is as well; nobody waits for it.
        """
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        pairs = [
            pair for pair in zip(self.model.parameters(), model.parameters(), strict=True) if pair[1].requires_grad
        ]
        mine, new = local(pair[0] for pair in pairs), local(pair[1] for pair in pairs)
        if skip is None:
            torch._foreach_lerp_(mine, new, weight)
            return
        # The same, by a factor that only the device knows.
        way = torch._foreach_sub(new, mine)
        torch._foreach_mul_(way, weight * (1.0 - skip))
        torch._foreach_add_(mine, way)


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process has of tensors that may lie in parts; changing it changes them."""
    return [value.to_local() if isinstance(value, DTensor) else value for value in tensors]


@torch.enable_grad()
def leave_out_unused(model: nn.Module, loss: Callable[[], Tensor]) -> list[str]:
    """Stop gradients of the parameters that a loss does not reach, so that DistributedDataParallel need not look.

    Such are those of the last block that only feed tokens nobody reads. They would not change anyway: without a
    gradient, AdamW leaves a parameter alone.

    Args:
        model: in evaluation mode, so that nothing is drawn.
        loss: runs the model on a clip.

    Returns:
        Names of the parameters.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), [parameter for _, parameter in named], allow_unused=True)
    unused = [(name, parameter) for (name, parameter), grad in zip(named, gradients, strict=True) if grad is None]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    return [name for name, _ in unused]
