"""A block and the steps of training and inference, as the trainer runs them, counted on fake tensors.

Base models under autocast with float32 parameters and the settings of the recipes "dfew" and
"voxceleb2_pretrain", by Triton's kernels, without torch.compile. Batches are on the device. A step is counted after
another one, when the optimiser has its moments and what is kept between steps is there.

A block is what one more of them adds: a fine-tuning model of four blocks less one of three. So a LayerNorm that is done
in the pass that ends the block before belongs to the block before, and the last block, of which less is computed, is no
part of it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.static.counter import Counter, Summary, difference, summary
from benchmarks.static.pretend import DEVICE, backward, build, gpu
from maedfer.kernels import use_impl
from maedfer.models import MAEDFERConfig, build_model
from maedfer.train.config import RunConfig, load_config
from maedfer.train.loader import MaskDraw
from maedfer.train.optim import Ema, make_optimizer, parameter_groups, set_lr
from maedfer.train.processes import Runtime
from maedfer.train.tasks import FinetuneTask, ForwardPass, PretrainTask, Task

BATCH, PRETRAIN_BATCH = 64, 128

TRACES = (
    "block",
    f"finetune_step-{BATCH}",
    f"inference-{BATCH}",
    "inference-1",
    f"pretrain_step-{PRETRAIN_BATCH}",
)

# Clips of each.
CLIPS = {name: int(name.partition("-")[2] or BATCH) for name in TRACES}

_PRECISION = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def trace(name: str, arch: int, dtype: torch.dtype = torch.bfloat16) -> Summary:
    """Launches and bytes of one of `TRACES`.

    Args:
        name: which.
        arch: of the GPU.
        dtype: of autocast; what scales losses in float16 is not counted.
    """
    runtime = Runtime(DEVICE, precision=_PRECISION[dtype])
    kind, _, batch = name.partition("-")
    with gpu(arch), use_impl("triton"):
        if kind == "inference":
            return _infer(runtime, int(batch))
        if kind != "block":
            return _train(runtime, kind.removesuffix("_step"))
        shorter, longer = (_train(runtime, "finetune", depth, optimise=False) for depth in (3, 4))
        return difference(longer, shorter)


def _config(task: str, depth: int | None) -> RunConfig:
    if task == "pretrain":
        return load_config(task, "voxceleb2_pretrain", [f"train.batch_size={PRETRAIN_BATCH}"], check=False)
    changes = [f"train.batch_size={BATCH}", *([f"model.depth={depth}"] if depth else [])]
    return load_config(task, "dfew", changes, check=False)


def _train(runtime: Runtime, kind: str, depth: int | None = None, optimise: bool = True) -> Summary:
    """One training step: the second."""
    cfg = _config(kind, depth)
    # What a task draws for a batch on the CPU is really drawn, here and in `_batch`.
    with _disable_current_modes():
        task: Task = PretrainTask(cfg, runtime) if kind == "pretrain" else FinetuneTask(cfg, runtime)
    model: Any = build(lambda: build_model(cfg.model)).train()
    forward_pass = ForwardPass(task, model)
    batch = _batch(task)
    groups = parameter_groups(
        model, cfg.optim.weight_decay, cfg.optim.layer_decay, model.layer_index, cfg.clip_model.depth,
        model.no_weight_decay(),
    )  # fmt: skip
    optimizer = make_optimizer(groups, cfg.optim, DEVICE)
    ema = Ema(model, cfg.train.ema) if cfg.train.ema else None
    low_weights = _low_weights(runtime, model)
    for step in range(2):
        with Counter() as counter:
            set_lr(optimizer, 1e-4)
            drawn = _drawn(task, model, batch)
            with low_weights:
                with runtime.autocast():
                    losses = forward_pass(drawn)
                counter.stage = "backward"
                backward(losses["loss"], lambda node: setattr(counter, "node", node))
            counter.stage, counter.node = "optimiser", ""
            if optimise:
                if cfg.optim.clip_grad is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.optim.clip_grad)
                optimizer.step()
                if ema is not None:
                    ema.update(model, step)
            optimizer.zero_grad(set_to_none=True)
    return summary(counter.units)


def _batch(task: Task) -> dict[str, Tensor]:
    """A batch as the trainer puts it on the device."""
    size = task.cfg.train.batch_size
    with _disable_current_modes():
        batch = {"frames": torch.empty(size, 3, *task.cfg.clip_model.clip_size, dtype=torch.uint8)}
        if isinstance(task.cfg.model, MAEDFERConfig):
            draw = MaskDraw(task.cfg.model)
            batch["mask"] = torch.stack([draw(torch.Generator().manual_seed(clip)) for clip in range(size)])
        else:
            batch["label"] = torch.zeros(size, dtype=torch.int64)
        batch = {"frames": batch["frames"], **task.prepare(batch)}
    return {name: value.to(DEVICE) for name, value in batch.items()}


def _low_weights(runtime: Runtime, model: Any) -> contextlib.AbstractContextManager[Any]:
    """Where products find the weights in autocast's dtype; earlier revisions cast each of them in every pass."""
    return runtime.low_weights(model) if hasattr(runtime, "low_weights") else contextlib.nullcontext()


def _drawn(task: Task, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with what is drawn for it on the device."""
    if not hasattr(model, "draw_keep"):
        # Earlier revisions mixed clips here, and blocks drew for themselves.
        return getattr(task, "draw", lambda batch: batch)(batch)
    keep = model.draw_keep(len(batch["frames"]))
    return batch if keep is None else {**batch, "keep": keep}


def _infer(runtime: Runtime, batch: int) -> Summary:
    """Logits of a batch: the second call."""
    cfg = _config("finetune", None)
    model = build(lambda: build_model(cfg.model)).eval()
    clips = torch.empty(batch, 3, *cfg.clip_model.clip_size, dtype=torch.uint8, device=DEVICE)
    with _low_weights(runtime, model), torch.no_grad():
        for _ in range(2):
            with Counter() as counter, runtime.autocast():
                model(clips)
    return summary(counter.units)
