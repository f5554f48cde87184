"""What models, blocks and layers refuse, and in which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maedfer import layers as drop_in
from maedfer.errors import InputError
from maedfer.kernels import functional
from maedfer.models import MAEDFER, LGIFormer, build_model, normalize_frames
from maedfer.models.attention import Attention, FeedForward, FullAttention
from maedfer.models.transformer_block import TransformerBlock
from tests.helpers import small, small_mae

BLOCKS: list[Any] = [
    drop_in.LGIBlock,
    TransformerBlock,
    drop_in.RegionAttention,
    drop_in.InterRegionAttention,
    drop_in.LocalGlobalAttention,
]
SIZES: list[tuple[dict[str, Any], str]] = [
    ({"num_heads": 0}, "num_heads must be a whole number, 1 or more, got 0"),
    ({"num_heads": -2}, "num_heads must be a whole number, 1 or more, got -2"),
    ({"num_heads": 2.0}, "num_heads must be a whole number, 1 or more, got 2.0"),
    ({"num_heads": True}, "num_heads must be a whole number, 1 or more, got True"),
    ({"num_heads": 3}, "num_heads 3 does not divide dim 32"),
    ({"dim": 0}, "dim must be a whole number, 1 or more, got 0"),
    ({"dim": "32"}, "dim must be a whole number, 1 or more, got '32'"),
    ({"drop_path": 1.0}, "drop_path must be in [0, 1), got 1.0"),
    ({"drop_path": -0.1}, "drop_path must be in [0, 1), got -0.1"),
    ({"drop_path": float("nan")}, "drop_path must be in [0, 1), got nan"),
    ({"drop_path": None}, "drop_path must be in [0, 1), got None"),
    ({"qkv_bias": "no"}, "qkv_bias must be True or False, got 'no'"),
    ({"impl": "fast"}, "unknown implementation 'fast'"),
]
OF_BLOCKS: list[tuple[dict[str, Any], str]] = [
    ({"mlp_ratio": 0}, "mlp_ratio must be above 0"),
    ({"mlp_ratio": -4.0}, "mlp_ratio must be above 0"),
    ({"mlp_ratio": 0.01}, "so that dim * mlp_ratio is 1 or more, got 0.01"),
    ({"mlp_ratio": float("inf")}, "mlp_ratio must be above 0"),
    ({"mlp_ratio": "4"}, "mlp_ratio must be above 0"),
]
OF_LAYERS: list[tuple[dict[str, Any], str]] = [
    ({"eps": 0.0}, "eps must be a number above 0, got 0.0"),
    ({"eps": -1e-6}, "eps must be a number above 0"),
    ({"eps": float("nan")}, "eps must be a number above 0, got nan"),
]


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_sizes_that_cannot_be(kind: Any) -> None:
    for changes, message in SIZES + (OF_BLOCKS if kind in BLOCKS[:2] else OF_LAYERS):
        with pytest.raises(InputError, match=re.escape(message)):
            kind(**{"dim": 32, "num_heads": 2, **changes})
    assert isinstance(kind(np.int64(32), np.int64(2), drop_path=np.float64(0.1)), nn.Module)


def test_sizes_of_parts() -> None:
    for make, message in [
        (lambda: Attention(32, 0), "num_heads must be"),
        (lambda: Attention(32, 2, bias="yes"), "bias must be True or False"),  # type: ignore[arg-type]
        (lambda: FullAttention(32, 2, backend="flash"), "unknown attention backend 'flash'"),
        (lambda: TransformerBlock(32, 2, backend="flash"), "unknown attention backend 'flash'"),
        (lambda: FeedForward(32, 0), "hidden must be a whole number, 1 or more, got 0"),
        (lambda: drop_in.LGIBlock(32, 2, inter_region="no"), "inter_region must be True or False"),  # type: ignore[arg-type]
        (lambda: LGIFormer({"depth": 2}), "LGIFormer takes a LGIFormerConfig, got dict"),  # type: ignore[arg-type]
        (lambda: MAEDFER(small()), "MAEDFER takes a MAEDFERConfig, got LGIFormerConfig"),  # type: ignore[arg-type]
        (lambda: build_model(small()).reset_head(-1), "num_classes must be a whole number, 0 or more"),
        (lambda: build_model(small()).reset_head(2.5), "num_classes must be a whole number"),  # type: ignore[arg-type]
        (lambda: build_model(small()).freeze(1.5), "blocks must be a whole number"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            make()


def clips(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2, 3, 8, 32, 32)) -> Tensor:
    return torch.ones(shape, dtype=dtype)


CLIPS: list[tuple[Callable[[], Any], str]] = [
    (lambda: clips(torch.int64), "clips must be uint8, or floating point, got torch.int64: frames.to(torch.uint8)"),
    (lambda: clips(torch.int32), "clips must be uint8, or floating point, got torch.int32"),
    (lambda: clips(torch.bool), "clips must be uint8, or floating point, got torch.bool"),
    (lambda: clips(torch.complex64), "clips must be uint8, or floating point, got torch.complex64"),
    (lambda: clips(torch.float64), "clips are torch.float64, the model's weights torch.float32"),
    (lambda: clips(torch.float16), "clips are torch.float16, the model's weights torch.float32"),
    (lambda: clips(shape=(3, 8, 32, 32)), "of shape [B, 3, 8, 32, 32] (channels, then clip_size), got [3, 8, 32, 32]"),
    (lambda: clips(shape=(2, 8, 3, 32, 32)), "got [2, 8, 3, 32, 32]"),
    (lambda: clips(shape=()), "got []"),
    (lambda: np.ones((2, 3, 8, 32, 32)), "clips must be a torch.Tensor, got ndarray"),
    (lambda: [clips()], "clips must be a torch.Tensor, got list"),
    (lambda: None, "clips must be a torch.Tensor, got NoneType"),
]


@pytest.mark.parametrize(("make", "message"), CLIPS, ids=[message for _, message in CLIPS])
def test_clips_that_are_not_the_models(make: Callable[[], Any], message: str) -> None:
    classifier, vit = build_model(small()), build_model(small(architecture="vit"))
    autoencoder = build_model(small_mae())
    numbers = autoencoder.token_numbers(*autoencoder.random_masks(2))
    calls: list[Callable[[Any], Any]] = [
        classifier,
        vit,
        classifier.forward_features,
        classifier.forward_intermediates,
        classifier.attention_maps,
        lambda value: autoencoder(value, *numbers),
        lambda value: autoencoder.encode(value, numbers[0]),
        lambda value: autoencoder.training_loss(value, *numbers),
    ]
    for call in calls:
        with pytest.raises(InputError, match=re.escape(message)):
            call(make())


def test_clips_of_a_dtype_that_autocast_converts_are_taken() -> None:
    model = build_model(small())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(clips(torch.float16)).isfinite().all()
        with pytest.raises(InputError, match=r"clips are torch.float64, .* give clips.to\(torch.float32\), or uint8"):
            model(clips(torch.float64))
    assert model.double()(clips(torch.float64)).dtype == torch.float64
    assert model(clips(torch.uint8)).dtype == torch.float64


def test_clips_are_mixed_as_bytes_only() -> None:
    model, mix = build_model(small()), torch.tensor([0.4, 0, 0, 0, 0])
    frames = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    assert not torch.equal(model(frames, mix), model(frames))
    with pytest.raises(InputError, match="clips that are mixed are given as bytes, uint8, got torch.float32"):
        model(clips(torch.float32), mix)
    with pytest.raises(InputError, match=r"mix must be .* float32 \[5\] on cpu, got torch.float32 \[4\] on cpu"):
        model(frames, mix[1:])


def test_a_model_without_memory_says_so() -> None:
    with torch.device("meta"):
        model = build_model(small())
    with pytest.raises(InputError, match="the model's tables are on the meta device"):
        model(clips())
    assert model(clips().to("meta")).shape == (2, 5)
    filled = build_model(small())
    with pytest.raises(InputError, match=r"clips are on meta, the model is on cpu: clips.to\('cpu'\)"):
        filled(clips().to("meta"))


def test_numbers_of_tokens_that_are_not_the_models() -> None:
    model = build_model(small_mae())
    hidden, _ = model.random_masks(2)
    visible, wanted = model.token_numbers(hidden)
    refused: list[tuple[Any, Any, str]] = [
        (
            visible[:1],
            wanted,
            "visible must be numbers of tokens by region, int64 [2, 8, V], got torch.int64 [1,",
        ),
        (visible.flatten(1)[:, None], wanted, "got torch.int64 [2, 1, 32]"),
        (visible.int(), wanted, "visible and wanted must be numbers of tokens, int64"),
        (None, wanted, "visible must be a torch.Tensor, got NoneType"),
        (visible, wanted.tolist(), "wanted must be a torch.Tensor, got list"),
        (visible, wanted[:, :0], "wanted must name one token or more of each clip, [2, n], got [2, 0]"),
        (visible, wanted[:1], "[2, n], got [1, 32]"),
        (visible - 64, wanted, f"visible must be numbers of tokens from 0 to 63, got {int(visible.min()) - 64} to"),
        (visible, wanted + 64, "wanted must be numbers of tokens from 0 to 63"),
    ]
    for one, other, message in refused:
        with pytest.raises(InputError, match=re.escape(message)):
            model(clips(), one, other)
    with pytest.raises(InputError, match="batch must be a whole number, 1 or more, got 0"):
        model.random_masks(0)


def test_masks_that_are_not_the_models() -> None:
    model = build_model(small_mae())
    hidden, _ = model.random_masks(2)
    with pytest.raises(InputError, match="hidden must be a torch.Tensor, got list"):
        model.token_numbers(hidden.tolist())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"decoded must be bool \[2, 64\] as hidden is, got torch.int64 \[2, 64\]"):
        model.token_numbers(hidden, hidden.long())
    with pytest.raises(InputError, match="decoded names tokens that are not hidden"):
        model.token_numbers(hidden, ~hidden)
    with pytest.raises(InputError, match="clips must be uint8, or floating point, got torch.int64"):
        model.reconstruct(clips(torch.int64), hidden)


def test_frames_that_cannot_be_normalised() -> None:
    with pytest.raises(InputError, match="frames must be uint8, or floating point, got torch.int64"):
        normalize_frames(clips(torch.int64))
    with pytest.raises(InputError, match=r"frames must be \[B, I, ...\], .* got \[3, 8\]"):
        normalize_frames(torch.zeros(3, 8))


def test_streams_and_masks_that_are_not_a_layers() -> None:
    z = torch.zeros(2, 4, 7, 32)
    for kind in BLOCKS:
        layer = kind(32, 2)
        rows = "..., K" if kind is TransformerBlock else "B, M, S"
        for value, message in [
            (z.long(), "the stream must be floating point, got torch.int64"),
            (z[..., :16], f"the stream must be [{rows}, 32], got [2, 4, 7, 16]"),
            (z[0, 0, 0], f"the stream must be [{rows}, 32], got [32]"),
            (z.numpy(), "the stream must be a torch.Tensor, got ndarray"),
        ]:
            with pytest.raises(InputError, match=re.escape(message)):
                layer(value)
        if kind in (drop_in.InterRegionAttention, drop_in.LocalGlobalAttention):
            continue
        for mask in (torch.ones(7), torch.ones(6, dtype=torch.bool), torch.ones(2, 4, 7)):
            with pytest.raises(InputError, match="attend_to must be bool"):
                layer(z, mask)
        with pytest.raises(InputError, match="attend_to must be a torch.Tensor, got list"):
            layer(z, [True] * 7)
    with pytest.raises(InputError, match="x must be a torch.Tensor, got list"):
        drop_in.split_regions([1, 2], (2,))  # type: ignore[arg-type]
    for size in (2, (2.0, 2), "22", (True, 2)):
        with pytest.raises(InputError, match="region_size must be positive whole numbers, one for each dimension"):
            drop_in.region_mask((4, 4), size)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="grid must be positive whole numbers"):
        drop_in.region_mask((4, 0), (2, 2))


@pytest.mark.parametrize("num_heads", [0, -2, 5])
def test_heads_that_do_not_divide_an_operations_channels(num_heads: int) -> None:
    qkv = torch.zeros(2, 3, 4, 96)
    pair = (torch.ones(32), torch.zeros(32))
    layer = (torch.zeros(32, 32), torch.zeros(32))
    for call in (
        lambda: functional.region_attention(qkv, num_heads=num_heads),
        lambda: functional.full_attention(qkv, num_heads=num_heads),
        lambda: functional.cross_attention(qkv[..., :32], qkv[..., 32:], num_heads=num_heads),
        lambda: functional.local_global_interaction(
            qkv[..., :32],
            qkv[:, :, 0, :32],
            qkv[:, :, 0, 32:],
            norm=pair,
            query=layer,
            output=layer,
            next_norm=pair,
            num_heads=num_heads,
            eps=1e-6,
        ),
    ):
        with pytest.raises(InputError, match=f"num_heads {num_heads} does not divide the channels"):
            call()


def test_maps_of_what_does_not_tell_them() -> None:
    for model in (build_model(small()), build_model(small(architecture="vit"))):
        block: Any = model.encoder.blocks[1]
        name = "attention" if model.config.architecture == "vit" else "intra_attention"
        setattr(block, name, nn.Identity())
        with pytest.raises(InputError, match="no attention maps of Identity, which is in an attention's place"):
            model.attention_maps(clips())
