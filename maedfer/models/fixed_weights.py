"""Blocks in which the weights of a model do not change, so that what products make of them is made once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from torch import nn

from maedfer.kernels._autocast import autocast_dtype
from maedfer.kernels._packed_weights import PackedWeights
from maedfer.models.low_precision import low_precision_weights

# Entered again, a block finds the memory of its packed weights.
_known: WeakKeyDictionary[nn.Module, tuple[list[int], PackedWeights]] = WeakKeyDictionary()


@contextlib.contextmanager
def fixed_weights(model: nn.Module) -> Iterator[None]:
    """Say that the weights of a model do not change inside of a `with` block.

        with torch.inference_mode(), maedfer.fixed_weights(model):
            for clips in batches:
                probabilities = model(clips).softmax(-1)

    Results are the same, bit for bit. csrc's products on a CPU read weights in an order of their own, into which every
    product brings its weight anew outside of such a block, which counts most with few clips at once. On
    a GPU under autocast the weights are cast once, if autocast is on before the block begins. A training step gains
    likewise, where the passes lie inside of the block and the optimiser's step outside of it:

        for clips, labels in batches:
            with maedfer.fixed_weights(model):
                loss = criterion(model(clips), labels)
                loss.backward()
            optimizer.step()

    A weight that does change inside of the block goes unnoticed. All commands of this package do this.

    Args:
        model: any with blocks of ours, or an accelerated one.
    """
    kinds = {parameter.device.type for parameter in model.parameters()}
    with contextlib.ExitStack() as stack:
        if "cpu" in kinds:
            stack.enter_context(packed_weights(model))
        dtype = autocast_dtype("cuda") if "cuda" in kinds else None
        if dtype is not None:
            stack.enter_context(low_precision_weights(model, dtype))
        yield


def packed_weights(model: nn.Module) -> PackedWeights:
    """The weights of a model on a CPU, packed while a `with` block lasts that may be entered again and again.

    A model has one such block: whoever asks again gets the same.
    """
    parameters = list(model.parameters())
    before, packed = _known.get(model, ([], None))
    numbers = list(map(id, parameters))
    if packed is None or before != numbers:
        packed = PackedWeights(parameters)
        _known[model] = numbers, packed
    return packed
