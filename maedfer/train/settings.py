"""The settings of a run: one tree of frozen dataclasses. Defaults are those of fine-tuning in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maedfer.models import LGIFormerConfig, MAEDFERConfig
from maedfer.setting import documented, setting
from maedfer.train.data_settings import AugmentConfig, DataConfig

Task = Literal["pretrain", "finetune", "evaluate"]
# What is decided by the machine, unless it is said.
Switch = Literal["auto", "true", "false"]


@documented
@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine schedule, both per step."""

    lr: float = setting(
        1e-3,
        low=0,
        high=100,
        by_task={"pretrain": 3e-4},
        doc="peak learning rate for a global batch of `lr_batch` clips, scaled linearly to the actual one (batch_size "
        "* processes * accumulate, or global_batch; repeats do not count)",
    )
    lr_batch: int = setting(
        256,
        low=0,
        high=10_000_000,
        doc="global batch that `lr` and `min_lr` are meant for; 0 = any, they are not scaled",
    )
    min_lr: float = setting(
        1e-6, low=0, high=100, by_task={"pretrain": 1e-5}, doc="learning rate at the end, scaled like `lr`"
    )
    betas: tuple[float, float] = setting(
        (0.9, 0.999),
        low=0,
        below=1,
        by_task={"pretrain": (0.9, 0.95)},
        doc="AdamW's moving averages",
    )
    eps: float = setting(1e-8, above=0, high=1, doc="AdamW's epsilon")
    weight_decay: float = setting(
        0.05,
        low=0,
        high=100,
        doc="for weight matrices; biases, 1-D parameters, tokens and position tables have none",
    )
    layer_decay: float = setting(
        0.75,
        above=0,
        high=1,
        by_task={"pretrain": 1.0},
        doc="factor on the learning rate from one block to the one below it; 1 = off",
    )
    clip_grad: float | None = setting(None, above=0, high=1_000_000, doc="largest gradient norm; null = no clipping")
    warmup_epochs: float = setting(5.0, low=0, high=1_000_000, doc="epochs in which the learning rate rises from 0")
    epochs: int = setting(100, low=1, high=1_000_000, by_task={"pretrain": 50}, doc="passes over the training clips")


@documented
@dataclass(frozen=True)
class TrainConfig:
    """How the loop runs."""

    batch_size: int = setting(
        96,
        low=1,
        high=1_000_000,
        by_task={"pretrain": 128},
        belongs_to="machine",
        doc="clips of one process in one forward pass, before `data.repeats`",
    )
    accumulate: int = setting(
        1, low=1, high=1_000_000, belongs_to="machine", doc="forward passes for one optimiser step"
    )
    global_batch: int = setting(
        0,
        low=0,
        high=10_000_000,
        belongs_to="machine",
        doc="clips of an optimiser step over all processes: `accumulate` is then what that takes of `batch_size` and "
        "the number of processes, so that one command means the same run on any number; 0 = batch_size * processes * "
        "accumulate",
    )
    ema: float = setting(
        0.0,
        low=0,
        below=1,
        doc="decay of the moving average of the weights, which is then evaluated and saved; 0 = off",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        doc="arithmetic of the forward pass; auto = bf16 where the GPU has it, else fp16; on a CPU fp32, but bf16 to "
        "score clips and compute features where the processor has AMX-BF16 or AVX512-BF16",
    )
    sharding: Literal["none", "full"] = setting(
        "none",
        belongs_to="machine",
        doc="what several processes have of the model: none = each all of it (DistributedDataParallel); full = each a "
        "part of the weights, their gradients and the optimiser's state (FSDP2), for models that do not fit otherwise",
    )
    recompute: bool = setting(
        False,
        belongs_to="machine",
        doc="run every block, the decoder's too, once more in the backward pass instead of keeping its activations: "
        "the same results, less memory, a third more work",
    )
    compile: Switch = setting(
        "auto",
        belongs_to="machine",
        doc="compile the passes of training by torch.compile, with the same losses to rounding; auto = on a GPU. false "
        "runs them eagerly, to look for a fault",
    )
    cuda_graphs: Switch = setting(
        "auto",
        belongs_to="machine",
        doc="replay passes as CUDA graphs, so that a GPU does not wait for launches: those of training where they are "
        "compiled, and those that score clips or compute features. auto = on a GPU, where `compile` is on and Triton's "
        "kernels compute; passes of training not where `accumulate` adds gradients up",
    )
    device: str = setting("auto", belongs_to="machine", doc="auto, cpu, cuda or cuda:N")
    resume: str = setting(
        "auto",
        path=True,
        belongs_to="machine",
        doc="auto = go on from the run folder's last checkpoint if there is one, none = insist on an empty run "
        "folder, or the path of a checkpoint of the same settings",
    )
    save_every: int = setting(
        0,
        low=0,
        high=1_000_000,
        belongs_to="machine",
        doc="keep a checkpoint every so many epochs; 0 = none. The last one is always there",
    )
    save_steps: int = setting(
        0,
        low=0,
        high=1_000_000_000,
        belongs_to="machine",
        doc="also renew the last checkpoint every so many steps; 0 = after epochs only",
    )
    checkpoint: Literal["file", "sharded"] = setting(
        "file",
        belongs_to="machine",
        doc="checkpoints to go on from: one file, put together by process 0, or a folder into which every process "
        "writes its part (torch.distributed.checkpoint), on storage that all share; `maedfer convert` makes one file "
        "of it. Either goes on with any number of processes",
    )
    save_async: bool = setting(
        False,
        belongs_to="machine",
        doc="write sharded checkpoints while the run goes on, from a copy in memory; the next one waits for it",
    )
    log_every: int = setting(
        10, low=1, high=1_000_000_000, belongs_to="machine", doc="steps between two lines of the log"
    )
    max_skipped: int = setting(
        20,
        low=0,
        high=1_000_000_000,
        belongs_to="machine",
        doc="steps in a row that are skipped, as the loss or the gradient is not finite, until the run stops; 1 = the "
        "first one stops it, 0 = however many",
    )
    max_steps: int = setting(
        0,
        low=0,
        high=1_000_000_000,
        doc="length of the run in optimiser steps, its schedule included, where that is below `optim.epochs`; 0 = by "
        "epochs",
    )
    init: str = setting(
        "",
        path=True,
        doc="weights to start from: a folder of save_pretrained, a run folder, or a published file or folder",
    )
    freeze_blocks: int = setting(
        0, low=0, high=1000, doc="fine-tuning: blocks, from the embedding on, that keep their weights"
    )
    tune: str = setting(
        "auto",
        doc="fine-tuning: what is trained: all; head, the linear layer alone; norms, every LayerNorm and the head; "
        "lora, LoRA and the head; blocks_from:N, blocks N, N + 1, ... (from 0) and the head, the same as "
        "`freeze_blocks` N. auto = lora where one of its settings is given, else all. With norms and lora, "
        "`freeze_blocks` leaves the blocks below out",
    )
    lora_rank: int | None = setting(None, low=1, high=65_536, doc="rank r of LoRA; null = 8")
    lora_alpha: float | None = setting(
        None, above=0, high=1_000_000, doc="LoRA's product is multiplied by alpha / r; null = 16"
    )
    lora_targets: tuple[str, ...] = setting(
        (),
        doc="layers that have LoRA, by their name or that of a part they are in, such as inter_attention or ffn; "
        "empty = qkv, proj, fc1, fc2 of all blocks",
    )
    timeout: int = setting(
        600,
        low=1,
        high=31_536_000,
        belongs_to="machine",
        doc="seconds that processes wait for others that do not get on, and that one may take for what the others wait "
        "for, such as a checkpoint, before the run ends. Reading lists and checking files may take any time",
    )
    lost_after: int = setting(
        60,
        low=0,
        high=31_536_000,
        belongs_to="machine",
        doc="seconds without a sign of life after which a process of several is taken for lost, and the run ends; 0 = "
        "never",
    )
    deterministic: bool = setting(
        False,
        doc="the same bits twice on one machine, with as many processes and threads: what does not repeat bit for bit "
        "is refused, nothing is chosen by its speed",
    )
    threads: int = setting(
        0, low=0, high=4096, belongs_to="machine", doc="CPU threads of each process; 0 = as torch decides"
    )
    tensorboard: bool = setting(True, belongs_to="machine", doc="also write event files where tensorboard is installed")
    log_to: tuple[str, ...] = setting(
        (),
        belongs_to="machine",
        doc="who else is told every record of the log while training: wandb, mlflow, or `module:function` of your own",
    )


@documented
@dataclass(frozen=True)
class EvalConfig:
    """How clips are scored, and which epoch's weights are the result."""

    views: int = setting(2, low=1, high=1000, doc="temporal views of a clip, their softmax averaged")
    every: int = setting(
        1, low=0, high=1_000_000, doc="epochs between two evaluations while training; 0 = only in the end"
    )
    batch_size: int = setting(
        0,
        low=0,
        high=1_000_000,
        belongs_to="machine",
        doc="clips of one process in one forward pass; 0 = `train.batch_size`",
    )
    select: Literal["last", "val", "test"] = setting(
        "last",
        doc="the weights that are saved and scored: the last ones, those best on `data.val`, or those best on "
        "`data.test` (what the published code does; the log and metrics.json say so)",
    )
    metric: Literal["uar", "war"] = setting("war", doc='score by which "best" is judged')
    on_error: Literal["raise", "skip"] = setting(
        "raise",
        belongs_to="machine",
        doc="what to do with a clip to be scored that cannot be read: stop, or leave it out of the scores, which count "
        "such clips (metrics.json) and name them (skipped.csv)",
    )
    save_features: bool = setting(False, belongs_to="machine", doc="write features.npz beside pred.csv")
    checkpoint: str = setting(
        "",
        path=True,
        belongs_to="machine",
        doc="evaluate: a run folder, one of its checkpoints, a saved model, or a published file or folder",
    )
    runs: tuple[str, ...] = setting(
        (),
        path=True,
        belongs_to="machine",
        doc="evaluate: run folders whose pred.csv are put together and scored once (the folds of a protocol)",
    )


@documented
@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run."""

    task: Task = setting(doc="what is run")
    output: str = setting(
        path=True, belongs_to="machine", doc="the run folder; empty = `runs/` and the name of the recipe"
    )
    model: LGIFormerConfig | MAEDFERConfig = setting(
        doc="the model: a masked autoencoder to pre-train, else a classifier"
    )
    model_name: str = setting(
        "lgi_former_base",
        by_task={"pretrain": "mae_dfer_base"},
        doc="the named model whose sizes are the base that the other keys of `model` change",
    )
    seed: int = setting(
        0,
        low=0,
        high=2**63 - 1,
        doc="of weights, order, augmentation, masks and everything else that is drawn",
    )
    data: DataConfig = setting(DataConfig(), doc="the clips and how they are read")
    augment: AugmentConfig = setting(AugmentConfig(), doc="changes made to training clips")
    optim: OptimConfig = setting(OptimConfig(), doc="AdamW and the schedule of its learning rate")
    train: TrainConfig = setting(TrainConfig(), doc="how the loop runs")
    eval: EvalConfig = setting(EvalConfig(), doc="how clips are scored")
    report: bool = setting(True, belongs_to="machine", doc="the command writes report.html in the end")

    @property
    def clip_model(self) -> LGIFormerConfig:
        """The configuration that holds the clip's size: the encoder's when pre-training."""
        return self.model.encoder if isinstance(self.model, MAEDFERConfig) else self.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where `data.classes` is empty."""
        return self.data.classes or tuple(str(index) for index in range(self.clip_model.num_classes))
