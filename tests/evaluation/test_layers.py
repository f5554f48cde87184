from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.evaluation.features import extract_features, feature_extractor
from maedfer.evaluation.layers import LayerReader, as_stored, choose_layers, float16_error, token_grid
from maedfer.models import MAEDFER, LGIFormer, normalize_frames
from tests.helpers import randomize, small, small_mae

SHAPE = (3, 8, 32, 32)


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def drawn(**changes: object) -> LGIFormer:
    model = LGIFormer(small(**changes)).eval()
    randomize(model)
    return model


def normal(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("changes", [{}, {"architecture": "vit"}, {"token_type": "all"}, {"token_type": "local"}])
def test_every_layer_is_that_of_the_models_own_stream(frames: torch.Tensor, changes: dict[str, str]) -> None:
    model = drawn(**changes)
    lgi, kind = "architecture" not in changes, changes.get("token_type", "region")
    tokens = {layer: token_grid(model.config, layer, "local", 10_000) for layer in (0, 1, 2)}
    reader = LayerReader(model, (0, 1, 2), tokens)
    with torch.inference_mode():
        found = dict(zip(reader.names, reader.read(frames, views=2), strict=True))
        clips = normalize_frames(frames)
        streams = [model.encoder.embed(clips), *model.forward_intermediates(clips)]
        whole = model.forward_features(clips).unflatten(0, (2, 2)).mean(1)
        order = model.encoder.region_order.flatten().tolist()
        for layer, z in enumerate(streams):
            # A ViT has local tokens alone.
            representative, local = z[:, :, 0], z[:, :, 1 if lgi else 0 :].flatten(1, 2)
            rows = (
                z.flatten(1, 2)
                if kind == "all" or not lgi
                else local
                if kind == "local" or not layer
                else representative
            )
            mean = normal(rows.mean(1))
            expected = whole if layer == 2 else mean.unflatten(0, (2, 2)).mean(1)
            torch.testing.assert_close(found[f"pooled-{layer}"], expected, rtol=1e-4, atol=1e-4)
            # Row-major, which the stream is not; both views of a clip side by side.
            place = [order.index(token) for token in range(len(order))]
            expected = normal(local[:, place]).unflatten(0, (2, 2)).flatten(1, 2)
            torch.testing.assert_close(found[f"tokens-{layer}-local-4x4x4"], expected, rtol=1e-4, atol=1e-4)
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == reader.shapes(2)


def test_the_last_layer_is_what_features_are(frames: torch.Tensor) -> None:
    model = MAEDFER(small_mae()).eval()
    randomize(model)
    known = extract_features(model, [{"frames": frames, "index": torch.arange(4)}], names=list("abcd")).vectors
    reader = LayerReader(feature_extractor(model), (2,), {2: token_grid(model.config.encoder, 2)})
    with torch.inference_mode():
        pooled, tokens = reader.read(frames)
        expected = normal(model.encoder(normalize_frames(frames))[:, :, 0])
    np.testing.assert_allclose(pooled, known, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    # Layers before the last one do not wait for it.
    reader = LayerReader(feature_extractor(model), (1,), {1: token_grid(model.config.encoder, 1)}, pooled=())
    assert reader.names == ["tokens-1-representative-2x2x2"] and reader.read(frames)[0].shape == (4, 8, 32)


def test_means_of_neighbours(frames: torch.Tensor) -> None:
    model = drawn(architecture="vit")
    config = model.config
    assert config.grid == (4, 4, 4)
    grid = token_grid(config, 1, most=20)
    assert (grid.kind, grid.sizes, grid.number) == ("local", (4, 2, 2), 16)
    assert grid.words(config) == "means of local tokens, 4 x 4 x 4 to 4 x 2 x 2"
    with torch.inference_mode():
        (found,) = LayerReader(model, (1,), {1: grid}, pooled=()).read(frames)
        (whole,) = LayerReader(model, (1,), {1: token_grid(config, 1)}, pooled=()).read(frames)
    expected = whole.reshape(4, 4, 2, 2, 2, 2, 32).mean((3, 5)).reshape(4, 16, 32)
    torch.testing.assert_close(found, expected)
    # Sizes that are no multiples.
    odd = dataclasses.replace(config, clip_size=(8, 56, 40), region_size=(2, 7, 5))
    assert token_grid(odd, 1, most=50).sizes == (4, 4, 3)
    assert token_grid(dataclasses.replace(odd, clip_size=(16, 112, 112), region_size=(2, 7, 7)), 1).sizes == (8, 4, 4)


def test_halves_are_as_near_as_they_are_said_to_be() -> None:
    values = torch.randn(1000, 64)
    lost, whole = float16_error(values)
    half = as_stored("tokens-1", values)
    assert half.dtype == np.float16 and as_stored("pooled-1", values).dtype == np.float32
    exact = values.double().numpy()
    assert lost == pytest.approx(((half - exact) ** 2).sum()) and whole == pytest.approx((exact**2).sum())
    assert (lost / whole) ** 0.5 < 2**-11


def test_layers_and_tokens_that_are_not_there() -> None:
    assert choose_layers("all", 3) == (0, 1, 2, 3) and choose_layers("last", 3) == choose_layers(3, 3) == (3,)
    assert choose_layers("0, last", 3) == choose_layers("3, 0,3", 3) == choose_layers([0, 3], 3) == (0, 3)
    for wrong in ("4", "-1", "x", "1,,2", "1.5"):
        with pytest.raises(InputError, match=r"layers are 0 \(before the first block\) to 3"):
            choose_layers(wrong, 3)
    # Before the first block, representative tokens say nothing.
    assert token_grid(small(), 0).kind == "local" and token_grid(small(), 1).kind == "representative"
    assert token_grid(small(), 1).words(small()) == "8 representative tokens"
    with pytest.raises(InputError, match="a ViT has no representative tokens"):
        token_grid(small(architecture="vit"), 1, "representative")
    with pytest.raises(InputError, match="unknown kind of tokens 'all'"):
        token_grid(small(), 1, "all")
    with pytest.raises(InputError, match="must be at least 1"):
        token_grid(small(), 1, most=0)
