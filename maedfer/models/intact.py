"""Whether a layer is what it was made as, so that an operation may take its weights without calling it.

Adapters, quantised layers, pruning, parametrisations, sharded weights, hooks and replaced methods all need the layer to
be called. They are many and of other people's making, so none of them is looked for: a layer passes whose class, its
`forward`, its parameters and its call are PyTorch's own, or LoRA's of this package, and everything else is called.

This is asked at every call of a block, so that it counts; torch.compile traces it.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.module_tracker import ModuleTracker

from maedfer.models.low_rank import LoraLinear

# As they were when this was imported: others replace them.
_LINEAR, _LAYER_NORM, _LORA = nn.Linear.forward, nn.LayerNorm.forward, LoraLinear.forward

_log = logging.getLogger("maedfer")


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a linear one or a LayerNorm as PyTorch makes it, whose weights say all that it does.

    So it is with LoRA: `attention.weights` adds it to the weight.
    """
    return not has_global_hooks() and is_plain_leaf(layer)


def is_plain_leaf(layer: nn.Module) -> bool:
    """`is_plain`, where hooks on all modules have been looked for already."""
    kind: Any = type(layer)
    own = layer._parameters
    if kind is nn.Linear and own.get("weight") is not None:
        return kind.forward is _LINEAR and is_called_alone(layer)
    if kind is LoraLinear:
        return kind.forward is _LORA and is_called_alone(layer)
    if kind is nn.LayerNorm and own.get("weight") is not None:
        is_of_channels = len(layer.normalized_shape) == 1  # type: ignore[arg-type]
        is_affine = own.get("bias") is not None
        return is_affine and is_of_channels and kind.forward is _LAYER_NORM and is_called_alone(layer)
    if isinstance(layer, (nn.Linear, nn.LayerNorm)) and has_plain_parameters(layer) and "weight" in layer.__dict__:
        # FSDP1 puts views of its flat parameter in the place of parameters.
        _say(type(layer.weight))
    return False


def is_called_alone(layer: nn.Module) -> bool:
    """Whether calling a module is nothing but its class's `forward`, on parameters as PyTorch makes them."""
    for parameter in layer._parameters.values():
        if type(parameter) is not nn.Parameter and parameter is not None:
            return has_plain_parameters(layer)
    return not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or layer._compiled_call_impl is not None
        or "forward" in layer.__dict__
    )


def has_plain_parameters(layer: nn.Module) -> bool:
    """Whether a layer's parameters are as PyTorch makes them; that others are not is said once for each class."""
    for parameter in layer._parameters.values():
        if parameter is not None and type(parameter) is not nn.Parameter:
            _say(type(parameter))
            return False
    return True


def _say(kind: type) -> None:
    if not torch.compiler.is_compiling():
        _say_once(kind)


@functools.cache
def _say_once(kind: type) -> None:
    """Tell that layers are called for the class of their weights, which may be on purpose or come with sharding."""
    _log.warning(
        "weights of class %s: layers that hold them are called one by one, which is slower than a block as one, with "
        "the same results. Where they come from sharding, shard whole blocks, fully_shard(block): their weights are "
        "plain ones while the block runs",
        kind.__name__,
    )


def is_hooked(layer: nn.Module) -> bool:
    """Whether anything is called beside the layer itself."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def has_global_hooks() -> bool:
    """Whether hooks on all modules want to see every layer.

    Those of PyTorch's counter of operations do not: they follow which module is running, and what is to be counted is
    what runs without them.
    """
    if not torch_module._has_any_global_hook():
        return False
    forward = (torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks)
    backward = (torch_module._global_backward_pre_hooks, torch_module._global_backward_hooks)
    return any(
        not isinstance(getattr(hook, "__self__", None), ModuleTracker)
        for hooks in (*forward, *backward)
        for hook in hooks.values()
    )
