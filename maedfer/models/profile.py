"""Parameters and multiply-adds of a model, for one clip, by part.

Matrix products and convolutions are counted, one multiply-add each (the paper's tool also counts norms and the like,
about 0.15 G for the base model). The published plan computes everything in every block and embeds every cube; the
executed plan is that of our models, as fused.py has it: hidden cubes are not embedded, the last block skips what cannot
reach the head, and, unless impl="reference", the projections of the interaction are folded into its keys and values
where that takes fewer of them.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from maedfer.kernels.interaction.folding import folds
from maedfer.models.build import build_model
from maedfer.models.config import LGIFormerConfig, MAEDFERConfig, ModelConfig
from maedfer.models.fused import Step, plan
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.masking import hidden_per_window

Macs = dict[str, int]


@dataclasses.dataclass(frozen=True)
class ModelProfile:
    """Size and cost of a model.

    Attributes:
        parameters: number of trainable values; shared ones count once.
        parameters_by_part: the same, by part.
        tokens: K, tokens of a clip.
        visible_tokens: tokens that the encoder sees (all but in pre-training).
        regions: M.
        macs_published: multiply-adds of one clip's forward pass by part, published plan.
        macs_executed: the same for the plan that is executed.
    """

    parameters: int
    parameters_by_part: dict[str, int]
    tokens: int
    visible_tokens: int
    regions: int
    macs_published: Macs
    macs_executed: Macs

    @property
    def flops_per_train_clip(self) -> int:
        """Operations of one training step and clip: two a multiply-add, backward counted as twice the forward."""
        return 3 * 2 * sum(self.macs_executed.values())


def profile(config: ModelConfig) -> ModelProfile:
    """Count parameters and multiply-adds of the model that `config` describes, without allocating it."""
    with torch.device("meta"):
        model = build_model(config)
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part_of(name)
        parts[part] = parts.get(part, 0) + parameter.numel()
    encoder = config if isinstance(config, LGIFormerConfig) else config.encoder
    visible = encoder.num_tokens
    if isinstance(config, MAEDFERConfig):
        hidden, window = hidden_per_window(encoder, config.mask_ratio)
        visible = encoder.num_tokens // window * (window - hidden)
    return ModelProfile(
        parameters=sum(parts.values()),
        parameters_by_part=parts,
        tokens=encoder.num_tokens,
        visible_tokens=visible,
        regions=encoder.num_regions,
        macs_published=_macs(config, visible, None),
        macs_executed=_macs(config, visible, _plan(model)),
    )


def _plan(model: LGIFormer | MAEDFER) -> list[Step]:
    """How the model runs the blocks of its encoder."""
    only = isinstance(model, LGIFormer) and model.reads_representative_only
    return plan(model.encoder.blocks, representative_only=only)


def _macs(config: ModelConfig, visible: int, steps: list[Step] | None) -> Macs:
    """Multiply-adds by part when blocks are run in `steps`; the published plan when None."""
    classifier = isinstance(config, LGIFormerConfig)
    encoder = config if isinstance(config, LGIFormerConfig) else config.encoder
    dim, tokens = encoder.embed_dim, encoder.num_tokens
    total: Macs = {"embedding": (tokens if steps is None else visible) * encoder.cube_values * dim}
    for number in range(encoder.depth):
        step = None if steps is None else steps[number]
        if encoder.architecture == "lgi":
            block = _lgi_macs(encoder, visible // encoder.num_regions, step)
        else:
            block = _vit_macs(dim, encoder.mlp_ratio, tokens if classifier else visible)
        for part, macs in block.items():
            total[part] = total.get(part, 0) + macs
    if isinstance(config, LGIFormerConfig):
        total["head"] = dim * config.num_classes
        return total
    hidden = tokens - visible
    decoded = hidden if steps is None else max(1, int(config.decoder_keep * hidden))
    width = config.decoder_dim
    total["encoder to decoder"] = visible * dim * width
    for part, macs in _vit_macs(width, encoder.mlp_ratio, visible + decoded).items():
        total[f"decoder {part}"] = config.decoder_depth * macs
    total["decoder head"] = decoded * width * encoder.cube_values
    return total


def _vit_macs(dim: int, mlp_ratio: float, rows: int) -> Macs:
    return {"attention": 4 * rows * dim**2 + 2 * rows**2 * dim, "feed-forward": 2 * rows * dim * int(dim * mlp_ratio)}


def _lgi_macs(config: LGIFormerConfig, local: int, step: Step | None) -> Macs:
    """One block with `local` tokens a region, run as `step` says; everything in full when None."""
    dim, regions = config.embed_dim, config.num_regions
    rows = regions * (1 + local)
    only = step is not None and step.representative_only
    prunes = step is not None and step.prunes
    cross_intra = config.intra_region == "cross"
    queries = regions if cross_intra or prunes else rows
    keys = regions * local if cross_intra else rows
    keys_of_a_query = local if cross_intra else 1 + local
    macs = {"intra-region attention": _attention_macs(dim, queries, keys, keys_of_a_query)}
    if config.inter_region:
        macs["inter-region attention"] = _attention_macs(dim, regions, regions, regions)
    if config.interaction == "self":
        macs["local-global interaction"] = _attention_macs(dim, rows, rows, 1 + local)
    elif config.interaction == "cross" and not prunes:
        if step is not None and step.block.is_fused and folds(config.num_heads, regions, dim):
            # Scores and their product with the folded values; keys, values, and the folding of each.
            folded = 2 * regions * local * config.num_heads * regions * dim + 4 * regions * dim**2
            macs["local-global interaction"] = folded
        else:
            macs["local-global interaction"] = _attention_macs(dim, regions * local, regions, regions)
    if config.feedback != "none":
        keys_of_a_query = regions * local if config.feedback == "clip" else local
        macs["feedback attention"] = _attention_macs(dim, regions, regions * local, keys_of_a_query)
    macs["feed-forward"] = 2 * (regions if only else rows) * dim * int(dim * config.mlp_ratio)
    return macs


def _attention_macs(dim: int, queries: int, keys: int, keys_of_a_query: int) -> int:
    """Query and output projections, key and value projections, scores and their product with the values."""
    return 2 * queries * dim**2 + 2 * keys * dim**2 + 2 * queries * keys_of_a_query * dim


def _part_of(name: str) -> str:
    if not name.startswith("encoder."):
        return "decoder" if "decoder" in name or name == "mask_token" else "head"
    inner = name.removeprefix("encoder.")
    if not inner.startswith("blocks."):
        return {"embedding": "embedding", "positions": "positions"}.get(inner.split(".")[0], "representative tokens")
    stage = inner.split(".")[2].split("_")[0]
    names = {
        "intra": "intra-region attention",
        "inter": "inter-region attention",
        "interaction": "local-global interaction",
        "feedback": "feedback attention",
        "ffn": "feed-forward",
    }
    return names.get(stage, "attention")


def giga(macs: Macs) -> float:
    """Sum of the parts in units of 1e9."""
    return math.fsum(macs.values()) / 1e9
