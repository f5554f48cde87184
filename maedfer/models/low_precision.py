"""Which weights of a model have low copies."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from maedfer.kernels.low_copies import LowCopies
from maedfer.models.encoder import CubeEmbedding
from maedfer.models.intact import is_hooked

# Where the copies are must not change between two blocks of one model, in training and scoring, nor be had twice.
_known: WeakKeyDictionary[nn.Module, tuple[list[nn.Parameter], LowCopies]] = WeakKeyDictionary()


def low_precision_weights(model: nn.Module, dtype: torch.dtype) -> LowCopies:
    """Copies of the weights that products of Triton's path take under autocast, for `with` blocks.

        copies = low_precision_weights(model, torch.bfloat16)
        for batch in batches:
            with copies, torch.autocast("cuda", torch.bfloat16):
                loss = model(batch)
            loss.backward()
            optimizer.step()

    A model has one set of copies, which stays where it is while the model lives: whoever asks again gets the same.

    Layers that are not as PyTorch makes them (adapters, quantised, sharded, hooked) are left out: autocast casts their
    weights.

    Args:
        model: any with blocks of ours.
        dtype: autocast's.
    """
    layers = (layer for layer in model.modules() if type(layer) in (nn.Linear, CubeEmbedding) and not is_hooked(layer))
    candidates = (layer._parameters.get("weight") for layer in layers)
    weights = [weight for weight in candidates if weight is not None and type(weight) is nn.Parameter]
    before, copies = _known.get(model, ([], None))
    if copies is None or copies.dtype != dtype or list(map(id, before)) != list(map(id, weights)):
        copies = LowCopies(weights, dtype)
        _known[model] = weights, copies
    return copies
