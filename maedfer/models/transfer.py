"""From a pre-trained autoencoder to a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.dataclass_tree import differences, keys_of, to_dict
from maedfer.errors import InputError
from maedfer.models.config import LGIFormerConfig
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.load_report import LoadReport
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.positions import interpolate_grid
from maedfer.models.serialization import key_problems


@torch.no_grad()
def load_pretrained(model: LGIFormer, source: MAEDFER | LGIFormer) -> LoadReport:
    """Copy the encoder of `source` into `model`, strictly; head and its LayerNorm stay as initialised.

    Clip and region size may differ: a learned position table and the representative tokens are interpolated then.
    A sine-cosine table is computed from the configuration: set `position_grid` to the pre-training grid to have it
    interpolated as well.

    Args:
        model: the classifier to fill.
        source: a pre-trained autoencoder, or another classifier.

    Returns:
        What was used, adapted, and left as it was.

    Raises:
        InputError: the encoders are of different architecture, with the differing settings or keys.
    """
    theirs: LGIFormerConfig = source.config.encoder if isinstance(source, MAEDFER) else source.config
    ours = model.config
    free = keys_of(LGIFormerConfig, "results", "machine") | rounded_alike(theirs, ours)
    differ = differences(to_dict(theirs), to_dict(ours), free=free)
    if differ:
        raise InputError(f"the pre-trained encoder is of another architecture: {', '.join(differ)}")
    adapted: list[str] = []
    grids = {
        "positions": (theirs.grid, ours.grid),
        "representative_tokens": (theirs.region_grid, ours.region_grid),
    }
    fitted: dict[str, Tensor] = {}
    for name, parameter in source.encoder.named_parameters():
        value = parameter.detach()
        if name in grids and grids[name][0] != grids[name][1]:
            value = interpolate_grid(value, *grids[name])
            adapted.append(f"encoder.{name}")
        fitted[name] = value
    target = dict(model.encoder.named_parameters())
    problems = key_problems(
        {name: tuple(value.shape) for name, value in fitted.items()},
        {name: tuple(value.shape) for name, value in target.items()},
    )
    if problems:
        raise InputError(f"the pre-trained encoder does not fit: {problems}")
    for name, parameter in target.items():
        parameter.copy_(fitted[name])
    ignored = {
        name: "only used in pre-training" if isinstance(source, MAEDFER) else "the head is made anew"
        for name, _ in source.named_parameters()
        if not name.startswith("encoder.")
    }
    fresh = tuple(name for name, _ in model.named_parameters() if not name.startswith("encoder."))
    return LoadReport(
        used=tuple(f"encoder.{name}" for name in fitted), ignored=ignored, fresh=fresh, adapted=tuple(adapted)
    )


def rounded_alike(theirs: LGIFormerConfig, ours: LGIFormerConfig) -> set[str]:
    """ "mlp_ratio" where it gives the same hidden width: weights tell it only up to rounding."""
    widths = {(config.embed_dim, int(config.embed_dim * config.mlp_ratio)) for config in (theirs, ours)}
    return {"mlp_ratio"} if len(widths) == 1 else set()
