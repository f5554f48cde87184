"""Whether passes are compiled and replayed as CUDA graphs: decided once for a run, and told."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from maedfer.errors import InputError
from maedfer.kernels import choose
from maedfer.train.settings import RunConfig


@dataclass(frozen=True)
class Compiling:
    """What is done to passes.

    Args:
        compiled: those of training go through torch.compile.
        replayed: those of training, compiled, are replayed as CUDA graphs.
        scoring: so are those that score clips or compute their features, which need no compiler.
        why: what there is to say of that, for people; "" where all is as it always was.
    """

    compiled: bool = False
    replayed: bool = False
    scoring: bool = False
    why: str = ""

    @classmethod
    def of_run(cls, cfg: RunConfig, device: torch.device, world: int = 1) -> Compiling:
        """What the settings come to on a device.

        Args:
            cfg: the run.
            device: of the model.
            world: number of processes.

        Raises:
            InputError: graphs were asked for without a GPU, or without its kernels, or of weights that lie in parts.
        """
        train, on_gpu = cfg.train, device.type == "cuda"
        if train.cuda_graphs == "true" and not on_gpu:
            raise InputError("train.cuda_graphs needs a CUDA device: leave it out on a CPU")
        compiled = on_gpu if train.compile == "auto" else train.compile == "true"
        if not on_gpu:
            return cls(compiled, why="compiled" if compiled else "")
        # Other implementations copy constants to the GPU in every pass, which no capture allows.
        computes = choose(cfg.clip_model.impl, device)
        by_kernels = computes == "triton"
        if train.cuda_graphs == "true" and not by_kernels:
            raise InputError(
                f"train.cuda_graphs replays Triton's kernels, and model.impl comes to {computes!r} here: leave it out"
            )
        sharded = train.sharding == "full" and world > 1
        if train.cuda_graphs == "true" and sharded:
            raise InputError(
                "train.cuda_graphs needs weights that stay where they are, and with train.sharding=full they are "
                "brought together anew in every pass: leave one of them out"
            )
        scoring = compiled and by_kernels if train.cuda_graphs == "auto" else train.cuda_graphs == "true"
        replayed = scoring and compiled and train.accumulate == 1 and not sharded
        if cfg.task == "evaluate":
            why = "batches replayed as CUDA graphs" if scoring else "batches run eagerly"
        elif not compiled:
            why = "run eagerly (train.compile=false)"
        elif replayed:
            why = "compiled and replayed as CUDA graphs"
        elif train.cuda_graphs == "false":
            why = "compiled, not replayed (train.cuda_graphs=false)"
        elif not by_kernels:
            why = "compiled, not replayed (CUDA graphs are for Triton's kernels)"
        elif sharded:
            why = "blocks compiled, not replayed (weights are brought together anew in every pass)"
        else:
            why = "compiled, not replayed (gradients of train.accumulate passes cannot be added up in CUDA graphs)"
        return cls(compiled, replayed, scoring, why)
