"""The fast path inside models that were built by other people's code.

`accelerate(model)` finds the blocks of the published MAE-DFER code (and of AVF-MAE++, whose blocks have a fourth
attention) by the names and shapes of their parts, and gives each of them another `forward`. Parameters, buffers, state
dict, hooks and the order of `named_parameters` stay as they are, as no module is replaced or added.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from maedfer.errors import InputError
from maedfer.kernels import Impl, functional
from maedfer.kernels._dispatch import check_name
from maedfer.models.attention import attend_to_all, library, packed_bias
from maedfer.models.fused import BlockParts
from maedfer.models.intact import has_global_hooks, is_called_alone, is_plain_leaf
from maedfer.models.lgi_block import LGIStages
from maedfer.models.stochastic_depth import Keep
from maedfer.models.transformer_block import TransformerStages

# Where a block keeps what runs in its place: in its dictionary, where no module is looked for.
_ADAPTER = "_maedfer"

_STAGES = {"first": "intra", "second": "inter", "third": "interaction", "fourth": "feedback"}


@dataclass
class Acceleration:
    """What `accelerate` has done.

    Attributes:
        blocks: names of the blocks that are accelerated, in the order of the model.
        left: why others were left as they are, by name.
    """

    blocks: list[str]
    left: dict[str, str]
    _modules: list[nn.Module] = field(repr=False, default_factory=list)

    def undo(self) -> None:
        """Give every block its own `forward` back."""
        for block in self._modules:
            block.__dict__.pop("forward", None)
            block.__dict__.pop(_ADAPTER, None)
        torch.compiler.reset()


def accelerate(model: nn.Module, impl: Impl = "auto", strict: bool = True) -> Acceleration:
    """Run the blocks of a published model through the fused operations.

    Works on a model as it is, inside DistributedDataParallel, and before or after torch.compile (which compiles anew).
    Blocks follow their own `drop_path` and draw the same random numbers as before. A block of which anything is not
    what it was here when it is called (an adapter in a layer's place, hooks, pruning, quantisation), or that drops out
    in training, runs as it did before. The published attention never calls `q`, `kv` and (in places) `qkv`: what was
    put there has no effect then either, and there is a warning. Calling this again on an accelerated model changes
    the implementation.

    Args:
        model: holds LGI-Former blocks (`first_attn`, ..., called with the stream [B * M, S, C] and B) or
            transformer blocks (`norm1`, `attn`, `norm2`, `mlp`) of the published code.
        impl: "auto", "reference", "torch", "native" or "triton", as everywhere.
        strict: refuse a model that has such blocks with parts that are not known; else leave those blocks alone.

    Returns:
        What was done, and a way to undo it.

    Raises:
        InputError: nothing to accelerate, or (`strict`) a block that is not understood, with the reason. The model is
            then unchanged.
    """
    check_name(impl)
    adapters: dict[str, PublishedLGIBlock | PublishedTransformerBlock] = {}
    left: dict[str, str] = {}
    for name, block in model.named_modules():
        kind = _kind(block)
        if kind is None:
            continue
        reason = _refusal(block, kind)
        if reason:
            left[name] = reason
        else:
            adapters[name] = (PublishedLGIBlock if kind == "lgi" else PublishedTransformerBlock)(block, impl)
    if left and strict:
        name, reason = next(iter(left.items()))
        more = f" ({len(left)} blocks in all)" if len(left) > 1 else ""
        raise InputError(f"{name or 'the model'} cannot be accelerated: {reason}{more}; strict=False leaves it alone")
    if not adapters:
        raise InputError(
            f"{type(model).__name__} has no blocks of the published MAE-DFER or AVF-MAE++ code "
            "(modules with first_attn, norm2 and mlp, or with norm1, attn, norm2 and mlp)"
        )
    for adapter in adapters.values():
        forward = _lgi_forward if isinstance(adapter, PublishedLGIBlock) else _forward
        adapter.block.__dict__[_ADAPTER] = adapter
        adapter.block.__dict__["forward"] = MethodType(forward, adapter.block)
    # What was compiled before has the old way in it.
    torch.compiler.reset()
    return Acceleration(list(adapters), left, [adapter.block for adapter in adapters.values()])


def _lgi_forward(block: Any, x: Tensor, b: int) -> Tensor:
    """The published signature: x [B * M, S, C] and B; returns [B * M, S, C]."""
    adapter = block.__dict__[_ADAPTER]
    if not adapter.is_current:
        return adapter.run_as_before(x, b)
    return adapter.run(x.unflatten(0, (b, len(x) // max(1, b)))).flatten(0, 1)


def _forward(block: Any, x: Tensor) -> Tensor:
    """The published signature: x [B, K, C]; returns [B, K, C]."""
    adapter = block.__dict__[_ADAPTER]
    return adapter.run(x) if adapter.is_current else adapter.run_as_before(x)


# A copy or pickle of a bound method looks for this name in the block.
_lgi_forward.__name__ = _forward.__name__ = "forward"


class SplitAttention:
    """The published attention of two projections, `q` and `kv`, as ours is called.

    Args:
        inner: holds the projections.
        impl: who computes.
    """

    def __init__(self, inner: Any, impl: Impl) -> None:
        self.inner, self.impl, self.num_heads = inner, impl, inner.num_heads

    def __call__(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        return self.proj(self.heads(x, context, attend_to))

    def heads(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """See `Attention.heads`."""
        q = functional.linear(x, self._query, impl=self.impl)
        kv = self.project_kv(x if context is None else context)
        return functional.cross_attention(q, kv, num_heads=self.num_heads, mask=attend_to, impl=self.attending)

    def project_kv(self, context: Tensor, *, with_bias: bool = True) -> Tensor:
        """Packed keys and values [..., 2C]; `with_bias` adds that of the values."""
        bias = packed_bias(self.v_bias) if with_bias and self.v_bias is not None else None
        return functional.linear(context, (self.inner.kv.weight, bias), impl=self.impl)

    def query_and_kv(self, context: Tensor, *, with_bias: bool = True) -> tuple[functional.Linear, Tensor]:
        """See `Attention.query_and_kv`."""
        return self._query, self.project_kv(context, with_bias=with_bias)

    @property
    def v_bias(self) -> Tensor | None:
        """The bias [C] of the values."""
        return self.inner.v_bias

    @property
    def _query(self) -> functional.Linear:
        """Weight [C, C] and bias [C] of the queries' projection."""
        return self.inner.q.weight, self.inner.q_bias

    @property
    def proj(self) -> nn.Linear:
        """The output projection."""
        return self.inner.proj

    @property
    def attending(self) -> Impl:
        """Who computes the attention itself."""
        return self.impl


class SplitFullAttention(SplitAttention):
    """The same over all tokens of a clip, left to a library."""

    @property
    def attending(self) -> Impl:
        """PyTorch, or the specification."""
        return library(self.impl)


class PackedAttention:
    """The published attention of one projection, `qkv`, over all tokens, as ours is called.

    Args:
        inner: holds the projection.
        impl: who computes.
    """

    def __init__(self, inner: Any, impl: Impl) -> None:
        self.inner, self.impl, self.num_heads = inner, impl, inner.num_heads

    def __call__(self, x: Tensor, attend_to: Tensor | None = None) -> Tensor:
        """See `Attention.forward`."""
        return self.proj(self.heads(x, attend_to))

    def heads(self, x: Tensor, attend_to: Tensor | None = None) -> Tensor:
        """See `Attention.heads`."""
        inner = self.inner
        if inner.q_bias is None:
            qkv = inner.qkv(x)
        else:
            qkv = functional.linear(x, (inner.qkv.weight, packed_bias(inner.q_bias, inner.v_bias)), impl=self.impl)
        return attend_to_all(qkv, self.num_heads, impl=self.impl, attend_to=attend_to)

    @property
    def proj(self) -> nn.Linear:
        """The output projection."""
        return self.inner.proj


class Adapter(BlockParts):
    """What both kinds of adapters share: the published block behind them, and its stochastic depth.

    Args:
        block: the published one.
        impl: who computes.
    """

    block: Any

    def __init__(self, block: Any, impl: Impl) -> None:
        self.block, self.impl = block, impl
        # Every module inside, and under which name in which other one.
        self.inside = [
            (holder, name, part, type(part))
            for holder in block.modules()
            for name, part in holder._modules.items()
            if part is not None
        ]
        # Changed layers that have been looked at already.
        self.watched: dict[str, nn.Module] = {}

    @property
    def is_current(self) -> bool:
        """Whether the block is made of what it was, and nothing in it has to be called for more than its weights."""
        if has_global_hooks() or any(value is not None for value in self.block._parameters.values()):
            return False
        for holder, name, part, kind in self.inside:
            if holder._modules.get(name) is not part or type(part) is not kind:
                return False
            if not (is_plain_leaf(part) if kind in (nn.Linear, nn.LayerNorm) else is_called_alone(part)):
                return False
            if isinstance(part, nn.Dropout) and part.p > 0.0 and part.training:
                return False
        return True

    def run_as_before(self, *inputs: Any) -> Tensor:
        """The block's own forward pass; warns, once a layer, where it takes a changed one's weight without calling."""
        forward = type(self.block).forward
        taken = {
            f"{stage}.{name}": layer
            for stage, attention in self.block.named_children()
            for name, layer in attention.named_children()
            if name in ("q", "kv", "qkv") and not is_plain_leaf(layer)
        }
        changed = {name: layer for name, layer in taken.items() if self.watched.get(name) is not layer}
        if not changed or torch.compiler.is_compiling():
            return forward(self.block, *inputs)
        called: set[str] = set()
        handles = [
            layer.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name, layer in changed.items()
        ]
        try:
            out: Tensor = forward(self.block, *inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.watched.update(changed)
        mute = sorted(changed.keys() - called)
        if mute:
            warnings.warn(
                f"{type(self.block).__name__} takes the weight of {', '.join(mute)} and never calls it: what was put "
                f"there ({type(changed[mute[0]]).__name__}, or its hooks) may have no effect, with and without "
                "maedfer.accelerate; put it into proj, fc1 or fc2, or load the model by maedfer.load, which calls it",
                stacklevel=2,
            )
        return out

    def draw(self, z: Tensor) -> Keep:
        """Factors of the block's own stochastic depth, drawn as it draws them: one for each row of a published call.

        What it draws tells which rows are kept; their factor is made anew, as it rounds it to 16 bits under autocast.
        """
        drop = self.block.drop_path
        if isinstance(drop, nn.Identity) or not drop.training or not drop.drop_prob:
            return Keep()
        exact = torch.promote_types(z.dtype, torch.float32)
        factor = 1.0 / (1.0 - drop.drop_prob) if getattr(drop, "scale_by_keep", True) else 1.0
        keeps: dict[str, Tensor] = {}
        for name, dims in self.branches(z.dim() - 2).items():
            shape = z.shape[:dims]
            ones = functional.product_operand(z.new_ones(math.prod(shape), 1, 1))
            keeps[name] = (drop(ones).reshape(shape) != 0).to(exact) * factor
        return Keep(**keeps)


class PublishedLGIBlock(Adapter, LGIStages):
    """A published LGI-Former block with the stages of ours."""

    def __init__(self, block: Any, impl: Impl) -> None:
        super().__init__(block, impl)
        self.dim = block.norm2.normalized_shape[0]
        self.intra_region = getattr(block, "first_attn_type", "self")
        self.inter_region = hasattr(block, "second_attn")
        self.interaction = getattr(block, "third_attn_type", "cross") if hasattr(block, "third_attn") else "none"
        self.feedback = "clip" if hasattr(block, "fourth_attn") else "none"
        for theirs, ours in _STAGES.items():
            if not hasattr(block, f"{theirs}_attn"):
                continue
            kind = SplitFullAttention if ours == "feedback" else SplitAttention
            setattr(self, f"{ours}_attention", kind(getattr(block, f"{theirs}_attn"), impl))
            setattr(self, f"{ours}_norm", getattr(block, f"{theirs}_attn_norm0"))
            if hasattr(block, f"{theirs}_attn_norm1"):
                setattr(self, f"{ours}_context_norm", getattr(block, f"{theirs}_attn_norm1"))
        self.ffn_norm, self.ffn = block.norm2, block.mlp


class PublishedTransformerBlock(Adapter, TransformerStages):
    """A published transformer block (the decoder's, the ViT's) with the steps of ours."""

    def __init__(self, block: Any, impl: Impl) -> None:
        super().__init__(block, impl)
        self.dim = block.norm2.normalized_shape[0]
        self.norm, self.attention = block.norm1, PackedAttention(block.attn, impl)
        self.ffn_norm, self.ffn = block.norm2, block.mlp


def _kind(block: nn.Module) -> str | None:
    """Which published block this looks like: "lgi", "vit", or none."""
    parts = _parts(block)
    if {"first_attn", "norm2", "mlp"} <= parts.keys():
        return "lgi"
    if parts.keys() - {"drop_path"} == {"norm1", "attn", "norm2", "mlp"} and hasattr(parts["attn"], "qkv"):
        return "vit"
    return None


def _parts(block: nn.Module) -> dict[str, Any]:
    """Children by name, one that has two names under both."""
    return {name: part for name, part in block._modules.items() if part is not None}


def _refusal(block: nn.Module, kind: str) -> str:
    """Why a block cannot be stood in for; empty when it can."""
    if "forward" in block.__dict__ and _ADAPTER not in block.__dict__:
        return "its forward has been replaced already, by something else"
    parts = _parts(block)
    drop = parts.pop("drop_path", None)
    if drop is None or not (isinstance(drop, nn.Identity) or hasattr(drop, "drop_prob")):
        return f"its drop_path is {_described(drop)}, not nn.Identity or a module with drop_prob"
    own = next((name for name, parameter in block._parameters.items() if parameter is not None), None)
    if own:
        return f"it has parameters of its own ({own}): scaled residuals are not known"
    known = {"norm1", "attn"} if kind == "vit" else _lgi_parts(block)
    known |= {"norm2", "mlp"}
    if known != parts.keys():
        absent, strange = ", ".join(sorted(known - parts.keys())), ", ".join(sorted(parts.keys() - known))
        return f"its parts are not the published ones (absent: {absent or 'none'}; not known: {strange or 'none'})"
    attentions = [name for name in parts if name.endswith("attn")]
    norms: list[Any] = [part for name, part in parts.items() if "norm" in name]
    if any(type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None for norm in norms):
        return "its norms are not all nn.LayerNorm with weight and bias"
    if len({norm.eps for norm in norms}) > 1:
        return "its norms do not share one eps"
    check = _packed_refusal if kind == "vit" else _split_refusal
    for name in attentions:
        reason = check(parts[name], int(norms[0].normalized_shape[0]))
        if reason:
            return f"{name} {reason}"
    mlp = parts["mlp"]
    if type(getattr(mlp, "fc1", None)) is not nn.Linear or type(getattr(mlp, "fc2", None)) is not nn.Linear:
        return "mlp has no linear layers fc1 and fc2"
    act = getattr(mlp, "act", None)
    if type(act) is not nn.GELU or act.approximate != "none":
        return f"mlp.act is {_described(act)}, not the exact nn.GELU"
    return _unknown_layers(mlp, {"fc1", "fc2", "act"}, "mlp")


def _lgi_parts(block: nn.Module) -> set[str]:
    """Attentions and norms that a block of these switches has."""
    names = set()
    for stage in _STAGES:
        if not hasattr(block, f"{stage}_attn"):
            continue
        names |= {f"{stage}_attn", f"{stage}_attn_norm0"}
        default = "self" if stage in ("first", "second") else "cross"
        if getattr(block, f"{stage}_attn_type", default) == "cross":
            names.add(f"{stage}_attn_norm1")
    if "fourth_attn" in names and "third_attn_norm1" not in names:
        # It reads what a third attention of the type "cross" leaves.
        names.add("third_attn_norm1")
    return names


def _split_refusal(attention: nn.Module, dim: int) -> str:
    linear = {"q": (dim, dim), "kv": (dim, 2 * dim), "proj": (dim, dim)}
    return _attention_refusal(attention, linear, dim)


def _packed_refusal(attention: nn.Module, dim: int) -> str:
    return _attention_refusal(attention, {"qkv": (dim, 3 * dim), "proj": (dim, dim)}, dim)


def _attention_refusal(attention: nn.Module, linear: dict[str, tuple[int, int]], dim: int) -> str:
    for name, (inputs, outputs) in linear.items():
        layer = getattr(attention, name, None)
        if type(layer) is not nn.Linear or (layer.in_features, layer.out_features) != (inputs, outputs):
            return f"has no linear layer {name} from {inputs} to {outputs} channels, but {_described(layer)}"
        if (layer.bias is None) != (name != "proj"):
            return f"has {'no' if layer.bias is None else 'a'} bias in {name}"
    heads = getattr(attention, "num_heads", None)
    if not isinstance(heads, int) or heads < 1 or dim % heads:
        return f"has num_heads {heads!r}, which does not divide {dim}"
    if not math.isclose(getattr(attention, "scale", math.nan), (dim // heads) ** -0.5, rel_tol=1e-6):
        return f"has scale {getattr(attention, 'scale', None)!r}, not 1 / sqrt({dim // heads})"
    biases = [getattr(attention, name, None) for name in ("q_bias", "v_bias")]
    if (biases[0] is None) != (biases[1] is None):
        return "has only one of q_bias and v_bias"
    return _unknown_layers(attention, set(linear), "its")


def _unknown_layers(module: nn.Module, known: set[str], whose: str) -> str:
    """Anything but known layers, dropout and nothing."""
    for name, layer in module.named_children():
        if name not in known and not isinstance(layer, nn.Dropout | nn.Identity):
            return f"{whose} layer {name} is {_described(layer)}, which is not known"
    return ""


def _described(value: Any) -> str:
    return "absent" if value is None else repr(value).splitlines()[0]
