"""The state of a run whose weights lie in parts with several processes, put together, and parted again.

A checkpoint in one file is the same whatever lay in parts, so that a run goes on with any number of processes, sharded
or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from maedfer.train.checkpoint_folder import Destination
from maedfer.train.optim import Ema
from maedfer.train.parallel import part_like, whole


def gathered(tree: Any, keep: bool) -> Any:
    """Mappings and lists of tensors with those that lie in parts put together, one after the other; all take part.

    Args:
        tree: the same in all processes but for the parts.
        keep: whether this process wants them, on the CPU; others have None in their place.
    """
    if isinstance(tree, Mapping):
        return {key: gathered(value, keep) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [gathered(value, keep) for value in tree]
    if not isinstance(tree, DTensor):
        return tree
    value = whole(tree)
    return value.cpu() if keep else None


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Give a model whole weights, of which it takes its parts where it lies in parts."""
    here = model.state_dict()
    model.load_state_dict(
        {name: part_like(value, here[name]) if name in here else value for name, value in weights.items()}
    )


@torch.no_grad()
def parts_of(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser, whole, as that of one whose parameters lie in parts, if they do."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {
            name: part_like(value, parameters[number])
            if isinstance(value, torch.Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in kept.items()
        }
        for number, kept in state["state"].items()
    }
    return {**state, "state": moments}


def destination(model: nn.Module, ema: Ema | None, optimizer: torch.optim.Optimizer) -> Destination | None:
    """Where a checkpoint in parts is read into, part for part; None where nothing lies in parts."""
    places: dict[str, Any] = {f"model/{name}": value for name, value in model.state_dict().items()}
    if not any(isinstance(value, DTensor) for value in places.values()):
        return None
    if ema is not None:
        places |= {f"ema/{name}": value for name, value in ema.model.state_dict().items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        places |= {f"optimizer/{number}/{name}": parameter for name in ("exp_avg", "exp_avg_sq")}

    def place(name: str, info: TensorStorageMetadata) -> Tensor | None:
        like = places.get(name)
        return torch.zeros_like(like) if isinstance(like, DTensor) and like.shape == info.size else None

    return place
