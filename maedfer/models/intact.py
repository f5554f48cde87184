"""Whether a layer is what it was made as, so that an operation may take its weights without calling it.

Adapters, quantised layers, pruning, parametrisations, sharded weights, hooks and replaced methods all need the layer to
be called. They are many and of other people's making, so none of them is looked for: a layer passes whose class, its
`forward`, its parameters and its call are PyTorch's own, and everything else is called.

This is asked at every call of a block, so that it counts; torch.compile traces it.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.module_tracker import ModuleTracker

# As they were when this was imported: others replace them.
_LINEAR, _LAYER_NORM = nn.Linear.forward, nn.LayerNorm.forward


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a linear one or a LayerNorm as PyTorch makes it, whose weights say all that it does."""
    return not has_global_hooks() and is_plain_leaf(layer)


def is_plain_leaf(layer: nn.Module) -> bool:
    """`is_plain`, where hooks on all modules have been looked for already."""
    kind: Any = type(layer)
    if kind is nn.Linear:
        return layer._parameters.get("weight") is not None and kind.forward is _LINEAR and is_called_alone(layer)
    if kind is nn.LayerNorm:
        own = layer._parameters
        is_affine = own.get("weight") is not None and own.get("bias") is not None
        is_of_channels = len(layer.normalized_shape) == 1  # type: ignore[arg-type]
        return is_affine and is_of_channels and kind.forward is _LAYER_NORM and is_called_alone(layer)
    return False


def is_called_alone(layer: nn.Module) -> bool:
    """Whether calling a module is nothing but its class's `forward`, on parameters as PyTorch makes them."""
    if is_hooked(layer) or layer._compiled_call_impl is not None or "forward" in layer.__dict__:
        return False
    for parameter in layer._parameters.values():
        if parameter is not None and type(parameter) is not nn.Parameter:
            return False
    return True


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
