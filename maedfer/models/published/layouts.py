"""Where a checkpoint keeps its weights: under which key, behind which prefix, as which kind of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maedfer.errors import InputError, some

# Keys that training scripts put weights under: MAE-DFER's own, DeepSpeed's, Lightning's, and other usual ones. Those of
# a moving average come last: a file that has both is read without it, as the published code does.
WRAPPERS = (
    *("model", "module", "state_dict", "model_state_dict", "model_state", "net", "network", "weights"),
    *("model_ema", "state_dict_ema", "ema_state_dict", "ema", "ema_model"),
)
# What torch.compile, FSDP and checkpointing put into names, in front or in the middle.
_INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# The names that every layout has once: the cube embedding of published weights and of transformers' VideoMAE.
_ANCHOR = re.compile(r"^(.*?)(?:encoder\.)?patch_embed\.proj\.weight$")
_VIDEOMAE_ANCHOR = re.compile(r"^(.*?)(?:videomae\.)?embeddings\.patch_embeddings\.projection\.weight$")
_OWN = "encoder.embedding.weight"
# Smaller tensors may share or repeat their values as they like.
_SMALL = 1 << 20


class Unwrapped(NamedTuple):
    """A checkpoint in its parts.

    Attributes:
        state: the weights, by names without prefixes.
        arguments: what the training script kept beside them under "args"; empty when there is nothing.
        ignored: keys of the file that hold other weights, with the reason.
    """

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    ignored: dict[str, str]


def unwrap(content: Any, name: str) -> Unwrapped:
    """Split what a file holds into weights and what the training script kept beside them.

    Args:
        content: a state dict, or one under a usual key, as `read_weights_file` gives it.
        name: what messages call the file.

    Raises:
        InputError: there are no weights, or several, or something among them that is no weight.
    """
    if isinstance(content, Tensor):
        raise InputError(f"{name} holds a single tensor {list(content.shape)}, not a state dict of named weights")
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{name} holds {found}, not a state dict")
    arguments = content.get("args")
    inside = _holders(content)
    ignored = {key: f"the weights under {inside[0]!r} were taken" for key in inside[1:]}
    if inside:
        # Lightning and accelerators nest them once more.
        content = content[inside[0]]
        deeper = _holders(content)
        content = content[deeper[0]] if deeper else content
    elif not any(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(repr(key) for key in list(content)[:8]) or "none"
        zero = "; of DeepSpeed, give the folder, or what its zero_to_fp32.py writes" if _is_deepspeed(content) else ""
        raise InputError(
            f"{name} holds no weights: expected a state dict, or one under a key such as 'model', 'module' or "
            f"'state_dict', found the keys {keys}{zero}"
        )
    state = {}
    for key, value in content.items():
        _check_weight(key, value, name)
        state[key] = value
    if isinstance(arguments, Mapping):
        arguments = dict(arguments)
    else:
        # An argparse.Namespace, of which no module needs to be known here.
        arguments = dict(vars(arguments)) if hasattr(arguments, "__dict__") else {}
    arguments = {key: value for key, value in arguments.items() if isinstance(key, str)}
    return Unwrapped(_without_prefixes(state, name), arguments, ignored)


def _holders(content: Mapping[Any, Any]) -> list[str]:
    """Usual keys under which there are weights, the best first."""
    return [
        key
        for key in WRAPPERS
        if isinstance(content.get(key), Mapping)
        and any(isinstance(value, (Tensor, Mapping)) for value in content[key].values())
    ]


def _is_deepspeed(content: Mapping[Any, Any]) -> bool:
    return any(str(key) in ("ds_version", "ds_config", "optimizer_state_dict", "param_shapes") for key in content)


def _check_weight(key: Any, value: Any, name: str) -> None:
    """Refuse what cannot be the weight of a layer."""
    if not isinstance(key, str):
        raise InputError(f"{name}: {key!r} is no name of a weight: the names of a state dict are text")
    if not isinstance(value, Tensor):
        kind = "None" if value is None else f"of type {type(value).__name__}"
        raise InputError(f"{name}: {key} is {kind}, and not a tensor: keep the weights alone in the file")
    wrong = ""
    if value.device.type == "meta":
        wrong = "has a shape and no values (device meta)"
    elif value.is_nested:
        wrong = "is nested"
    elif value.layout is not torch.strided:
        wrong = f"is sparse ({value.layout})"
    elif value.is_quantized:
        wrong = f"is quantised ({value.dtype})"
    elif not value.is_floating_point():
        wrong = f"is of {value.dtype}"
    if wrong:
        raise InputError(f"{name}: {key} {wrong}, and weights are dense tensors of real numbers: save it as such")
    size = value.numel() * value.element_size()
    if size > _SMALL and size > value.untyped_storage().nbytes():
        raise InputError(f"{name}: {key} says that it is {list(value.shape)}, which is more than the file holds")
    if value.numel() == 0:
        raise InputError(
            f"{name}: {key} is empty {list(value.shape)}, as ZeRO-3 of DeepSpeed leaves weights that it has cut up: "
            "put them together with the zero_to_fp32.py beside the checkpoint, and give what that writes"
        )


def _without_prefixes(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Take off what wrappers of models put before and into names.

    Raises:
        InputError: naming the prefixes, when only some of the names have one or there are several.
    """
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        short = ".".join(part for part in key.split(".") if part not in _INSERTED)
        if short in plain:
            raise InputError(f"{name} has {short} twice, with and without one of {', '.join(_INSERTED)}: keep one")
        plain[short] = value
    prefixes = {found[1] for key in plain for anchor in (_ANCHOR, _VIDEOMAE_ANCHOR) if (found := anchor.match(key))}
    if len(prefixes) > 1:
        listed = ", ".join(repr(prefix) for prefix in sorted(prefixes))
        raise InputError(f"{name} holds several models, with names that begin with {listed}: keep the weights of one")
    prefix = prefixes.pop() if prefixes else _shared_prefix(plain)
    # A classifier that its owner calls "encoder" is no autoencoder: all its names begin so.
    if not prefix and all(key.startswith("encoder.") for key in plain) and _OWN not in plain:
        prefix = "encoder."
    if not prefix:
        return plain
    others = [key for key in plain if not key.startswith(prefix)]
    if others:
        raise InputError(
            f"{name}: its weights have the prefix {prefix!r}, and beside them there are {some(others)}: keep those "
            f"that begin with {prefix!r}"
        )
    return _without_prefixes({key.removeprefix(prefix): value for key, value in plain.items()}, name)


def _shared_prefix(state: Mapping[str, Tensor]) -> str:
    """What is before all names of weights whose cube embedding is missing: "module.", "model." or nothing."""
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in state):
            return prefix
    return ""
