"""What a predictor takes and computes in, and that its scores are those of the model, whatever is beside a clip."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.evaluation.score import score_views
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, MAEDFERConfig
from maedfer.models.published.checkpoints import published_file
from maedfer.prediction.predictor import Predictor, open_predictor, weights_digest
from tests.prediction.models import CLASSES, CONFIG, classifier, head

NAMELESS = ClipSettings(stride=2)


def clips(count: int, views: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, views, *CONFIG.clip_size, 3), np.uint8)


@pytest.fixture
def model() -> LGIFormer:
    return classifier()


@pytest.fixture
def predictor(model: LGIFormer) -> Predictor:
    return open_predictor(model, device="cpu")


@pytest.mark.parametrize("views", [1, 3])
def test_scores_are_those_of_an_evaluation(model: LGIFormer, predictor: Predictor, views: int) -> None:
    given = clips(5, views)
    frames = torch.from_numpy(given).flatten(0, 1).permute(0, 4, 1, 2, 3).contiguous()
    with torch.inference_mode():
        expected, features = score_views(model, frames, views=views, features=True)
    assert features is not None
    found = predictor.score(given)
    assert found.probabilities.dtype == np.float64 and found.features.dtype == np.float32
    assert np.ptp(found.probabilities, 0).max() > 0.02
    np.testing.assert_allclose(found.probabilities, expected.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.features, features.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_score_does_not_depend_on_what_is_scored_with_it(model: LGIFormer, precision: str) -> None:
    given = clips(7)
    alone = open_predictor(model, device="cpu", precision=precision).score(given)  # type: ignore[arg-type]
    for batch_size in (2, 4, 7, 20):
        together = open_predictor(model, device="cpu", precision=precision, batch_size=batch_size)  # type: ignore[arg-type]
        for order in (np.arange(7), np.arange(7)[::-1]):
            found = together.score(given[order])
            np.testing.assert_array_equal(found.probabilities, alone.probabilities[order])
            np.testing.assert_array_equal(found.features, alone.features[order])


def test_batches_are_filled_up_where_their_size_might_matter(model: LGIFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maedfer.models.arithmetic.steady_multiplier", lambda: "pytorch")
    predictor = open_predictor(model, device="cpu", batch_size=4)
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    assert predictor.score(clips(6, 2)).probabilities.shape == (6, 3)
    assert seen == [8, 8]


def test_a_batch_that_a_gpu_cannot_hold_is_told(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(frames: torch.Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(predictor, "_passes", full)
    with pytest.raises(InputError, match=r"not enough memory for 1 window at once: choose a smaller batch_size"):
        predictor.score(clips(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_on_a_gpu_are_full_and_replayed(model: LGIFormer, precision: str) -> None:
    given = clips(11)
    expected = open_predictor(copy.deepcopy(model), device="cpu", precision="fp32").score(given)
    predictor = open_predictor(model, device="cuda", precision=precision, batch_size=4)  # type: ignore[arg-type]
    first, second, third = (predictor.score(given) for _ in range(3))
    np.testing.assert_allclose(first.probabilities, expected.probabilities, atol=1e-5 if precision == "fp32" else 0.05)
    for found in (second, third, predictor.score(given[:4])):
        np.testing.assert_allclose(found.probabilities, first.probabilities[: len(found.probabilities)], atol=1e-6)
    # cuBLAS may round the rows of a product differently from place to place.
    order = np.arange(11)[::-1]
    np.testing.assert_allclose(predictor.score(given[order]).probabilities, third.probabilities[order], atol=1e-6)


def test_no_clips_have_no_scores(predictor: Predictor) -> None:
    found = predictor.score(clips(0))
    assert found.probabilities.shape == (0, 3) and found.features.shape == (0, 16)


def test_a_temperature_divides_logits(model: LGIFormer) -> None:
    given = clips(4, 2)
    warm = Predictor(model, CLASSES, temperature=2.5)
    frames = torch.from_numpy(given).flatten(0, 1).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        logits = model(frames).double().numpy().reshape(4, 2, 3) / 2.5
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(warm.score(given).probabilities, expected.mean(1), rtol=0, atol=1e-6)
    assert warm.about["temperature"] == 2.5
    cold = open_predictor(model, device="cpu").score(given)
    assert np.abs(cold.probabilities - warm.score(given).probabilities).max() > 0.01
    np.testing.assert_array_equal(cold.features, warm.score(given).features)


@pytest.mark.parametrize("bad", [clips(2)[:, 0], clips(2).astype(np.float32), clips(2)[..., :2], clips(2)[:, :, :3]])
def test_clips_of_another_shape_are_refused(predictor: Predictor, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"clips must be uint8 \[n, views, 4, 16, 16, 3\], got "):
        predictor.score(bad)


def test_logits_that_are_not_finite_are_refused(model: LGIFormer, predictor: Predictor) -> None:
    with torch.no_grad():
        head(model).weight.fill_(3e38)
    with pytest.raises(InputError, match=r"logits are not finite .* float32 overflows"):
        predictor.score(clips(1))


def test_saved_models_checkpoints_and_published_files_are_opened(model: LGIFormer, tmp_path: Path) -> None:
    given, expected = clips(2), open_predictor(model, device="cpu").score(clips(2))
    model.save_pretrained(tmp_path / "saved")
    saved = open_predictor(tmp_path / "saved", device="cpu")
    assert saved.classes == CLASSES and saved.input.stride == 2 and saved.checkpoint == str(tmp_path / "saved")
    np.testing.assert_array_equal(saved.score(given).probabilities, expected.probabilities)
    assert json.loads(json.dumps(saved.about))["weights_sha256"] == weights_digest(model)
    torch.save(published_file(classifier(settings=NAMELESS)), tmp_path / "published.pth")
    published = open_predictor(tmp_path / "published.pth", classes=list(CLASSES), device="cpu")
    np.testing.assert_array_equal(published.score(given).probabilities, expected.probabilities)
    assert published.about["weights_sha256"] == saved.about["weights_sha256"]


def test_a_digest_is_that_of_names_shapes_and_values(model: LGIFormer) -> None:
    other = copy.deepcopy(model)
    assert weights_digest(other) == weights_digest(model)
    with torch.no_grad():
        head(other).bias[0] += 1e-7
    assert weights_digest(other) != weights_digest(model)


def test_classes_are_the_models_or_given() -> None:
    nameless = classifier(settings=NAMELESS)
    with pytest.raises(InputError, match=r"the model does not name its 3 classes: give classes, .*dfew"):
        open_predictor(nameless)
    assert open_predictor(nameless, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    assert open_predictor(classifier(), classes=CLASSES).classes == CLASSES
    seven = classifier(dataclasses.replace(CONFIG, num_classes=7), NAMELESS)
    for given in ("dfew", ["dfew"]):
        assert open_predictor(seven, classes=given).classes[:2] == ("happy", "sad")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b"], r"classes has 2 names \(a, b\) but the model has 3 classes"),
        (["a", "b", "a"], "classes has a name twice"),
        (["glad", "calm", "cross"], "classes has those of the model in another order"),
        (["a", "b", "c"], "classes has those of the model under other names"),
        ("dfew", r"classes has 7 names .* but the model has 3 classes"),
        ("dfeew", "unknown data set 'dfeew': did you mean 'dfew'"),
    ],
)
def test_other_classes_are_refused(classes: list[str] | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_predictor(classifier(), classes=classes)


def test_models_that_give_no_expressions_are_refused(tmp_path: Path) -> None:
    encoder = dataclasses.replace(CONFIG, num_classes=0)
    with pytest.raises(InputError, match="the model holds a feature extractor without a head"):
        open_predictor(LGIFormer(encoder))
    autoencoder = MAEDFER(MAEDFERConfig(encoder=encoder, decoder_dim=16, decoder_depth=1, decoder_heads=2))
    autoencoder.save_pretrained(tmp_path / "pretrained")
    with pytest.raises(InputError, match=r"pretrained' holds a masked autoencoder, weights of pre-training"):
        open_predictor(tmp_path / "pretrained")
    with pytest.raises(InputError, match=r"does not exist"):
        open_predictor(tmp_path / "absent")


def test_weights_that_are_not_finite_are_refused() -> None:
    model = classifier()
    with torch.no_grad():
        head(model).bias[1] = torch.nan
    with pytest.raises(InputError, match=r"the model holds weights that are not finite numbers, in head.bias"):
        open_predictor(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ({"device": "cuda:99"}, "device is 'cuda:99' but torch finds"),
        ({"precision": "fp64"}, "unknown precision 'fp64'"),
        ({"precision": "fp16", "device": "cpu"}, "fp16 needs a GPU"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_computed_in_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_predictor(classifier(), **options)  # type: ignore[arg-type]


def test_auto_is_bfloat16_where_a_processor_multiplies_it_fast(bfloat16_processor: str) -> None:
    found = open_predictor(classifier(), device="cpu")
    assert found.precision == "bf16" and bfloat16_processor in found.precision_why
    exact = open_predictor(classifier(), device="cpu", precision="fp32")
    assert (exact.precision, exact.precision_why) == ("fp32", "float32, as asked for")
    difference = np.abs(found.score(clips(4)).probabilities - exact.score(clips(4)).probabilities).max()
    assert 0 < difference < 0.05


def test_auto_is_float32_elsewhere() -> None:
    found = open_predictor(classifier(), device="cpu")
    assert found.precision == "fp32" and "neither AMX-BF16 nor AVX512-BF16" in found.precision_why
    slow = open_predictor(classifier(), device="cpu", precision="bf16")
    assert slow.precision == "bf16" and "slow here" in slow.precision_why


def test_weights_are_let_go_with_the_predictor() -> None:
    from maedfer.kernels import _packed_weights

    before = len(_packed_weights._active)
    predictor = open_predictor(classifier(), device="cpu")
    predictor.score(clips(1))
    assert len(_packed_weights._active) == before + 1
    del predictor
    assert len(_packed_weights._active) == before
