"""The operations of LGI-Former as workloads: inputs, the least work, and who else can do them.

Sizes are those of the base model: B clips, M regions, S rows a region, H heads, C channels. S = 101 is fine-tuning,
11 pre-training (90% of the tokens hidden), the others are other region sizes. Inputs, weights included, are in the
dtype of the run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.operation import BASE, Function, Operation, Sizes, compiled
from benchmarks.workload import Settings, Skip, nbytes
from maedfer._native import build_record
from maedfer.errors import MissingDependencyError, require
from maedfer.kernels import Impl, functional
from maedfer.kernels.interaction.folding import folds
from maedfer.models import IMAGENET_MEAN, IMAGENET_STD, MAEDFERConfig, model_config
from maedfer.models.attention import LAYER_NORM_EPS
from maedfer.models.encoder import region_order
from maedfer.models.masking import tube_mask


def _randn(settings: Settings, *shape: int, scale: float = 1.0) -> Tensor:
    values = scale * torch.randn(shape, device=settings.device)
    return values.to(settings.dtype).requires_grad_()


def _weight(settings: Settings, out: int, into: int) -> Tensor:
    return _randn(settings, out, into, scale=into**-0.5)


def _norm(settings: Settings, dim: int) -> list[Tensor]:
    return [_randn(settings, dim, scale=0.2), _randn(settings, dim, scale=0.2)]


def _sdpa(settings: Settings, sizes: Sizes) -> Function:
    return lambda qkv: functional.full_attention(qkv, num_heads=sizes["H"])


def _xformers(settings: Settings, sizes: Sizes) -> Function:
    if settings.device != "cuda":
        raise Skip("xformers computes on GPUs only")

    try:
        require("xformers.ops", "xformers")
    except MissingDependencyError as error:
        raise Skip(str(error)) from error
    return lambda qkv: functional.full_attention(qkv, num_heads=sizes["H"], backend="xformers")


def _flex(settings: Settings, sizes: Sizes) -> Function:
    if settings.device != "cuda":
        raise Skip("FlexAttention has no backward pass on a CPU")
    from torch.nn.attention.flex_attention import flex_attention

    # Without compilation it forms the matrices in full, which nobody would use.
    attend = compiled(flex_attention)

    def run(qkv: Tensor) -> Tensor:
        parts = qkv.flatten(0, -3).unflatten(-1, (3, sizes["H"], -1)).permute(2, 0, 3, 1, 4)
        return attend(*parts.unbind()).transpose(1, 2).reshape(*qkv.shape[:-1], -1)

    return run


def _sdpa_cross(settings: Settings, sizes: Sizes) -> Function:
    def run(q: Tensor, kv: Tensor) -> Tensor:
        heads = (q.unflatten(-1, (sizes["H"], -1)), *kv.unflatten(-1, (2, sizes["H"], -1)).unbind(-3))
        out = F.scaled_dot_product_attention(*(part.flatten(0, 1).transpose(1, 2) for part in heads))
        return out.transpose(1, 2).reshape(q.shape)

    return run


def _region_qkv(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    return [_randn(settings, sizes["B"], sizes["M"], sizes["S"], 3 * sizes["C"])]


def _representative_qkv(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    return [_randn(settings, sizes["B"], sizes["M"], 3 * sizes["C"])]


def _first_row_qkv(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    shape = sizes["B"], sizes["M"]
    q = _randn(settings, *shape, 1, sizes["C"])
    return [q, _randn(settings, *shape, sizes["S"], 2 * sizes["C"])]


def _stream(settings: Settings, sizes: Sizes) -> Tensor:
    return _randn(settings, *(sizes[name] for name in "BMSC"))


def _interaction(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    dim = sizes["C"]
    representative = [_randn(settings, sizes["B"], sizes["M"], width) for width in (dim, 2 * dim)]
    query, out = ([_weight(settings, dim, dim), _randn(settings, dim, scale=0.2)] for _ in range(2))
    return [
        _stream(settings, sizes),
        *representative,
        *_norm(settings, dim),
        *query,
        *out,
        *_norm(settings, dim),
    ]


def _interaction_flops(sizes: Sizes) -> int:
    batch, regions, rows, heads, dim = (sizes[name] for name in "BMSHC")
    tokens = regions * (rows - 1)
    if folds(heads, regions, dim):
        # Scores and their product with the values; folding a projection into the keys, another into the values.
        return 2 * batch * (2 * tokens * heads * regions * dim + 2 * regions * dim**2)
    return 2 * batch * (2 * tokens * dim**2 + 2 * tokens * regions * dim)


def _call_interaction(sizes: Sizes, impl: Impl, *inputs: Tensor, folded: bool | None = None) -> tuple[Tensor, Tensor]:
    z, s, kv, *weights = inputs
    norm, query, output, next_norm = zip(weights[::2], weights[1::2], strict=True)
    return functional.local_global_interaction(
        z,
        s,
        kv,
        norm=norm,
        query=query,
        output=output,
        next_norm=next_norm,
        num_heads=sizes["H"],
        eps=LAYER_NORM_EPS,
        folded=folded,
        impl=impl,
    )


def _forced(folded: bool) -> Callable[[Settings, Sizes], Function]:
    """The interaction in one of its two forms, whichever takes fewer multiply-adds."""

    return lambda settings, sizes: functools.partial(_call_interaction, sizes, "auto", folded=folded)


class _Crossover(Operation):
    """800 tokens in more and more regions: where folding stops to pay."""

    def _sizes(self, settings: Settings) -> dict[str, Sizes]:
        if settings.small:
            return super()._sizes(settings)
        found = [{**BASE, "B": settings.batch, "M": m, "S": 1 + 800 // m} for m in (8, 16, 32, 50, 80, 100)]
        return {f"M={sizes['M']}": sizes for sizes in found}


def _residual_norm(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    dim = sizes["C"]
    linear = [_weight(settings, dim, dim), _randn(settings, dim, scale=0.2)]
    return [_stream(settings, sizes), *linear, _stream(settings, sizes), *_norm(settings, dim)]


def _call_residual_norm(sizes: Sizes, impl: Impl, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    x, weight, bias, residual, *norm = inputs
    return functional.linear_residual_layer_norm(
        x, (weight, bias), residual, (norm[0], norm[1]), eps=LAYER_NORM_EPS, impl=impl
    )


def _feed_forward(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    dim, hidden = sizes["C"], 4 * sizes["C"]
    fc1 = [_weight(settings, hidden, dim), _randn(settings, hidden, scale=0.2)]
    fc2 = [_weight(settings, dim, hidden), _randn(settings, dim, scale=0.2)]
    return [_stream(settings, sizes), *fc1, *fc2, _stream(settings, sizes)]


def _call_feed_forward(sizes: Sizes, impl: Impl, *inputs: Tensor) -> Tensor:
    x, weight, bias, out_weight, out_bias, residual = inputs
    return functional.feed_forward_residual(x, (weight, bias), (out_weight, out_bias), residual, impl=impl)


def _gelu_by_a_pass(settings: Settings, sizes: Sizes) -> Function:
    """A library's products and a pass for the GELU: what ours is where its kernel does not fit."""
    if settings.device != "cuda":
        raise Skip("the pass is a kernel for GPUs")
    from maedfer.kernels.sub_layer.functions import BiasGelu, ResidualAdd

    def run(x: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, residual: Tensor) -> Tensor:
        branch = F.linear(BiasGelu.apply(F.linear(x, weight), bias), out_weight)
        return ResidualAdd.apply(residual, branch, out_bias, None)

    return run


def _max_autotune(settings: Settings, sizes: Sizes) -> Function:
    """Inductor's own choice, by measurement, between a library's products and its templates with the GELU in them."""
    if settings.device != "cuda":
        raise Skip("the templates are for GPUs")
    call = functools.partial(_call_feed_forward, sizes, "reference")
    return torch.compile(call, dynamic=False, mode="max-autotune-no-cudagraphs")


def _loss_config(sizes: Sizes) -> MAEDFERConfig:
    config = model_config("mae_dfer_base") if sizes["C"] == BASE["C"] else small_autoencoder()
    assert isinstance(config, MAEDFERConfig)
    return config


def small_autoencoder() -> MAEDFERConfig:
    """An autoencoder for a smoke check."""
    sizes = {"clip_size": (4, 32, 32), "patch_size": (2, 8, 8), "region_size": (2, 2, 2)}
    config = model_config(
        "mae_dfer_base",
        **sizes,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mask_ratio=0.5,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
    )
    assert isinstance(config, MAEDFERConfig)
    return config


def _loss(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    config, device = _loss_config(sizes), settings.device
    encoder = config.encoder
    mask = torch.stack([tube_mask(encoder, config.mask_ratio) for _ in range(sizes["B"])])
    index = mask.nonzero()[:, 1].view(sizes["B"], -1).to(device)
    frames = torch.randint(0, 256, (sizes["B"], 3, *encoder.clip_size), dtype=torch.uint8, device=device)
    return [_randn(settings, *index.shape, encoder.cube_values), frames, index]


def _loss_bytes(sizes: Sizes, inputs: Sequence[Tensor | None]) -> int:
    prediction, frames, index = inputs
    assert prediction is not None and frames is not None
    # Of the frames, the masked cubes: one byte for each value of the prediction.
    return nbytes([prediction, index]) + prediction.numel() * frames.element_size()


def _call_loss(sizes: Sizes, impl: Impl, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    return functional.masked_appearance_motion_loss(*inputs, patch_size=sizes["patch"], impl=impl)


def _torch(call: Callable[..., Any]) -> Callable[[Settings, Sizes], Function]:
    """PyTorch alone, where csrc computes by default."""

    def make(settings: Settings, sizes: Sizes) -> Function:
        if settings.device != "cpu" or not build_record()["cpu"]["built"]:
            raise Skip("this is what ours is, unless csrc computes: on a CPU, where it was built")
        return functools.partial(call, sizes, "torch")

    return make


def _native(call: Callable[..., Any]) -> Callable[[Settings, Sizes], Function]:
    """csrc, where it has to be asked for."""

    def make(settings: Settings, sizes: Sizes) -> Function:
        if settings.device != "cuda":
            raise Skip("on a CPU this is what ours is, where csrc was built")
        return functools.partial(call, sizes, "native")

    return make


def _cubes(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    config = _loss_config(sizes)
    mask = torch.stack([tube_mask(config.encoder, config.mask_ratio) for _ in range(sizes["B"])])
    index = (~mask).nonzero()[:, 1].view(sizes["B"], -1).to(settings.device)
    _, frames, _ = _loss(settings, sizes)
    # The last one tells the dtype of the result.
    return [frames, index, torch.empty(0, dtype=settings.dtype, device=settings.device)]


def _call_cubes(
    sizes: Sizes, impl: Impl, frames: Tensor, index: Tensor, like: Tensor, mix: Tensor | None = None
) -> Tensor:
    return functional.tubelets(
        frames,
        index,
        patch_size=sizes["patch"],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dtype=like.dtype,
        # The truth is computed of inputs in float64.
        mix=None if mix is None else mix.float(),
        impl=impl,
    )


def _cubes_bytes(sizes: Sizes, inputs: Sequence[Tensor | None]) -> int:
    frames, index, _ = inputs
    assert frames is not None and index is not None
    # Of the frames, the visible cubes.
    return index.nbytes + index.numel() * frames.shape[1] * math.prod(sizes["patch"])


def _mixed_cubes(settings: Settings, sizes: Sizes) -> list[Tensor | None]:
    _, frames, _ = _loss(settings, sizes)
    index = region_order(_loss_config(sizes).encoder).flatten().to(settings.device)
    mix = torch.tensor([0.3, 0, 0, 0, 0], device=settings.device)
    return [frames, index, torch.empty(0, dtype=settings.dtype, device=settings.device), mix]


OPERATIONS = (
    Operation(
        "region_attention",
        (101, 11, 41, 51, 201),
        _region_qkv,
        lambda sizes, impl, qkv: functional.region_attention(qkv, num_heads=sizes["H"], impl=impl),
        lambda sizes: 4 * math.prod(sizes[name] for name in "BMSSC"),
        {"sdpa": _sdpa, "flex_attention": _flex, "xformers": _xformers},
    ),
    Operation(
        "inter_region_attention",
        (101,),
        _representative_qkv,
        lambda sizes, impl, qkv: functional.region_attention(qkv, num_heads=sizes["H"], impl=impl),
        lambda sizes: 4 * math.prod(sizes[name] for name in "BMMC"),
        {"sdpa": _sdpa, "flex_attention": _flex, "xformers": _xformers},
        label="M={M}",
    ),
    Operation(
        "cross_attention",
        (101,),
        _first_row_qkv,
        lambda sizes, impl, q, kv: functional.cross_attention(q, kv, num_heads=sizes["H"], impl=impl),
        lambda sizes: 4 * math.prod(sizes[name] for name in "BMSC"),
        {"sdpa": _sdpa_cross},
    ),
    Operation(
        "local_global_interaction",
        (101, 11),
        _interaction,
        _call_interaction,
        _interaction_flops,
    ),
    Operation(
        "layer_norm",
        (101,),
        lambda settings, sizes: [_stream(settings, sizes), *_norm(settings, sizes["C"])],
        lambda sizes, impl, x, *norm: functional.layer_norm(x, norm, eps=LAYER_NORM_EPS, impl=impl),
        lambda sizes: 0,
    ),
    Operation(
        "linear_residual_layer_norm",
        (101,),
        _residual_norm,
        _call_residual_norm,
        lambda sizes: 2 * math.prod(sizes[name] for name in "BMSCC"),
    ),
    Operation(
        "feed_forward",
        (101,),
        _feed_forward,
        _call_feed_forward,
        lambda sizes: 16 * math.prod(sizes[name] for name in "BMSCC"),
        {"pass": _gelu_by_a_pass, "max_autotune_compiled": _max_autotune},
    ),
    Operation(
        "masked_appearance_motion_loss",
        (101,),
        _loss,
        _call_loss,
        lambda sizes: 0,
        {"torch": _torch(_call_loss), "native": _native(_call_loss)},
        read=_loss_bytes,
        label="B={B}",
    ),
    Operation(
        "tubelets",
        (101,),
        _cubes,
        _call_cubes,
        lambda sizes: 0,
        {"torch": _torch(_call_cubes), "native": _native(_call_cubes)},
        read=_cubes_bytes,
        label="B={B}",
    ),
    Operation(
        "mixed_tubelets",
        (101,),
        _mixed_cubes,
        _call_cubes,
        lambda sizes: 0,
        label="B={B}",
    ),
)

# Measured with --sweep only.
CROSSOVERS = (
    _Crossover(
        "folding",
        (101,),
        _interaction,
        _call_interaction,
        _interaction_flops,
        {"folded": _forced(True), "unfolded": _forced(False)},
    ),
)
