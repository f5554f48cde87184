"""What of a classifier is trained: all of it, or a small part of its parameters (`train.tune`).

Weights that are not trained take no state of the optimiser, and where nothing below a block is trained, its input needs
no gradient: autograd keeps nothing of what lies below, and the backward pass ends there.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormer, LGIFormerConfig, ModelProfile, add_lora, build_model
from maedfer.models.lora import ALPHA, RANK, TARGETS
from maedfer.models.low_rank import A, B
from maedfer.train.settings import RunConfig

_KINDS = ("all", "head", "norms", "lora")
_BLOCKS = "blocks_from:"
_LORA = ("rank", "alpha", "targets")


@dataclass(frozen=True)
class Tune:
    """What is trained.

    Args:
        kind: "all", "head", "norms", "lora" or "blocks".
        first: the first block, from 0, of which anything is; None where the embedding and the tokens are trained too.
        rank, alpha, targets: LoRA's, see `add_lora`.
    """

    kind: str = "all"
    first: int | None = None
    rank: int = RANK
    alpha: float = ALPHA
    targets: tuple[str, ...] | None = None

    @classmethod
    def of_run(cls, cfg: RunConfig) -> Tune:
        """What the settings come to.

        Raises:
            InputError: they contradict each other, or the model has no such blocks or layers.
        """
        train, depth = cfg.train, cfg.clip_model.depth
        given = [f"train.lora_{name}" for name in _LORA if getattr(train, f"lora_{name}") not in (None, ())]
        asked = ("lora" if given else "all") if train.tune == "auto" else train.tune
        if cfg.task == "pretrain":
            keys = (
                given
                + ["train.tune"] * (train.tune not in ("auto", "all"))
                + ["train.freeze_blocks"] * bool(train.freeze_blocks)
            )
            if keys:
                raise InputError(f"{keys[0]} is for fine-tuning: pre-training trains all weights, leave it out")
            return cls()
        if given and asked != "lora":
            raise InputError(f"{given[0]} is for train.tune=lora, which is {asked!r} here: leave one of them out")
        if train.freeze_blocks > depth:
            raise InputError(f"train.freeze_blocks must be between 0 and {depth}, got {train.freeze_blocks}")
        if asked.startswith(_BLOCKS):
            return cls("blocks", _first_block(asked, train.freeze_blocks, depth))
        if asked not in _KINDS:
            raise unknown("train.tune", asked, ("auto", *_KINDS, f"{_BLOCKS}N"))
        if asked == "head" and train.freeze_blocks:
            raise InputError("train.tune=head trains no block at all: leave train.freeze_blocks out")
        if asked != "lora":
            return cls(asked, train.freeze_blocks or (None if asked == "all" else 0))
        tune = cls(
            asked,
            train.freeze_blocks,
            RANK if train.lora_rank is None else train.lora_rank,
            ALPHA if train.lora_alpha is None else train.lora_alpha,
            train.lora_targets or None,
        )
        assert isinstance(cfg.model, LGIFormerConfig)
        _check_lora(cfg.model, tune)
        return tune

    def prepare(self, model: LGIFormer) -> None:
        """Stop training what is not to be trained, and add LoRA where it is."""
        if self.kind == "lora":
            add_lora(model, self.rank, self.alpha, self.targets, first_block=self.first or 0)
        elif self.kind in ("all", "blocks"):
            if self.first is not None:
                model.freeze(self.first)
        else:
            model.requires_grad_(False)
            model.head.requires_grad_(True)
            if self.kind == "norms":
                for part in (model.head_norm, *model.encoder.blocks[self.first or 0 :]):
                    for layer in part.modules():
                        if isinstance(layer, nn.LayerNorm):
                            layer.requires_grad_(True)

    @property
    def words(self) -> str:
        """What is trained, for people; "" where nothing was asked to keep its weights."""
        if self.first is None:
            return ""
        if self.kind == "head":
            return "the head"
        lora = f"LoRA of rank {self.rank} (alpha {self.alpha:g}) on {', '.join(self.targets or TARGETS)}"
        if self.kind in ("all", "blocks"):
            return f"blocks from {self.first} on and the head"
        where = f" from block {self.first} on" if self.first else ""
        return f"{lora}{where}, and the head" if self.kind == "lora" else f"LayerNorms{where} and the head"

    def notes(self, cfg: RunConfig) -> list[str]:
        """What a reader of the scores should know: frozen weights that nobody has trained."""
        if cfg.task != "finetune" or self.first is None or cfg.train.init:
            return []
        return ["weights are kept as they were drawn at random: train.tune and train.freeze_blocks go with train.init"]


@dataclass(frozen=True)
class Trained:
    """How many numbers of a model are trained.

    Args:
        tune: what is, for people; "" where nothing was asked to keep its weights.
        parameters: the numbers of the model, those of LoRA not counted, which are merged into them in the end.
        trained: those that are trained, LoRA's among them.
        frozen: those of the model that keep their values.
        share: trained over parameters.
    """

    tune: str
    parameters: int
    trained: int
    frozen: int
    share: float

    @classmethod
    def of(cls, model: nn.Module, tune: Tune) -> Trained:
        """Count."""
        named = [(name.rpartition(".")[2] in (A, B), parameter) for name, parameter in model.named_parameters()]
        own = [parameter for is_lora, parameter in named if not is_lora]
        parameters = sum(parameter.numel() for parameter in own)
        trained = sum(parameter.numel() for _, parameter in named if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in own if not parameter.requires_grad)
        return cls(tune.words, parameters, trained, frozen, trained / parameters)

    def facts(self) -> dict[str, Any]:
        """As plain values, for files; "all" where nothing was asked to keep its weights."""
        return {**asdict(self), "tune": self.tune or "all"}

    def __str__(self) -> str:
        whole = f"{self.parameters / 1e6:.2f} M parameters"
        return (
            f"{whole}, {self.trained / 1e6:.3g} M trained ({100 * self.share:.3g}%): {self.tune}"
            if self.tune
            else whole
        )


def flops_per_clip(model: nn.Module, costs: ModelProfile, depth: int) -> float:
    """Operations of one training step and clip, by which parameters are trained.

    A forward pass, and two thirds more of the blocks from the first trained one on: gradients of what they are given,
    and of weights where any matrix is trained.

    Args:
        model: whose parameters are trained or not.
        costs: of a forward pass.
        depth: number of blocks.
    """
    share, of_weights = 0.0, False
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith("encoder."):
            inside = name.startswith("encoder.blocks.")
            share = max(share, 1 - int(name.split(".")[2]) / depth if inside else 1.0)
            of_weights |= parameter.ndim > 1
    return costs.flops_per_train_clip / 3 * (1 + share * (1 + of_weights))


@functools.lru_cache(maxsize=8)
def _check_lora(config: LGIFormerConfig, tune: Tune) -> None:
    """Whether the model has such layers and they are large enough is known by who adds it."""
    with torch.device("meta"):
        tune.prepare(build_model(config))


def _first_block(tune: str, freeze_blocks: int, depth: int) -> int:
    """The number after `blocks_from:`."""
    number = tune.removeprefix(_BLOCKS).strip()
    if not (number.isascii() and number.isdigit()) or int(number) > depth:
        raise InputError(f"train.tune={_BLOCKS}N trains blocks N, N + 1, ... from 0 on, N up to {depth}, got {tune!r}")
    if freeze_blocks:
        raise InputError(
            f"train.tune={tune} and train.freeze_blocks={freeze_blocks} say the same: leave one of them out"
        )
    return int(number)
