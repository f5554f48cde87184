from typing import Any

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.evaluation.predictions import Skipped
from maedfer.evaluation.score import check_finite, headline, predict, score_views, summary
from maedfer.models import LGIFormer, LGIFormerConfig, normalize_frames

CONFIG = LGIFormerConfig(
    clip_size=(4, 16, 16), patch_size=(2, 4, 4), region_size=(1, 2, 4), embed_dim=16, depth=2, num_heads=2,
    num_classes=3, init_scale=1.0,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LGIFormer(CONFIG).eval()


@pytest.fixture
def frames():
    return torch.randint(0, 256, (6, 3, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def batches(frames, order=((2, 2, 0, 0), (1, 1))):
    """Three clips of two views in two batches, in an order of their own."""
    for indices in order:
        rows = [2 * clip + view % 2 for view, clip in enumerate(indices)]
        yield {"frames": frames[rows], "index": torch.tensor(indices)}


def test_models_are_given_bytes(model, frames):
    seen = []
    model.encoder.embedding.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    predict(model, batches(frames), names="abc", labels=[0, 1, 2], classes="xyz", views=2, features=True)
    assert seen == [torch.uint8, torch.uint8]


def test_bytes_and_normalised_clips_have_equal_scores(model, frames):
    with torch.no_grad():
        for given in (frames, normalize_frames(frames)):
            assert (model(given) - model(normalize_frames(frames))).abs().max() < 2e-7 * 10
            probabilities, _ = score_views(model, given, views=2)
            expected = model(normalize_frames(frames)).softmax(1).unflatten(0, (3, 2)).mean(1)
            torch.testing.assert_close(probabilities, expected, rtol=1e-6, atol=1e-7)


def test_clips_come_in_the_order_of_their_numbers(model, frames):
    model.train()
    found = predict(model, batches(frames), names="abc", labels=[2, 1, 0], classes="xyz", views=2, features=True)
    assert model.training
    assert (found.names, found.labels.tolist(), found.classes) == (["a", "b", "c"], [2, 1, 0], ("x", "y", "z"))
    with torch.no_grad():
        expected, features = score_views(model.eval(), frames, views=2, features=True)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-6)
    assert found.features is not None and features is not None
    np.testing.assert_allclose(found.features, features, rtol=1e-5, atol=1e-6)


def test_parts_of_several_processes_are_put_together(model, frames):
    first, second = (list(part) for part in (batches(frames, [(2, 2, 0, 0)]), batches(frames, [(1, 1)])))
    options: dict[str, Any] = {"names": "abc", "labels": [0, 1, 2], "classes": "xyz", "views": 2}
    others: list[Any] = []

    def sent(part: Any) -> list[Any]:
        others.append(part)
        return [part]

    with pytest.raises(RuntimeError, match="3 clips were to be scored once each, got 1 scores"):
        predict(model, second, **options, gather=sent)
    found = predict(model, first, **options, gather=lambda part: [part, *others])
    np.testing.assert_array_equal(found.probabilities, predict(model, [*first, *second], **options).probabilities)
    with pytest.raises(RuntimeError, match="got 4 scores"):
        predict(model, [*first, *second], **options, gather=lambda part: [part, *others])


def test_weights_and_logits_that_are_not_finite_are_named(model, frames):
    options: dict[str, Any] = {"names": ["a", "b", "c"], "labels": [0, 1, 2], "classes": "xyz", "views": 2}
    healthy = model.head.bias.detach().clone()
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    with pytest.raises(InputError, match=r"the model holds weights that are not finite numbers, in head\.bias:"):
        predict(model, batches(frames), **options)
    with pytest.raises(InputError, match=r"mine holds weights .* in head_norm\.weight and 1 more: .* diverged"):
        with torch.no_grad():
            model.head_norm.weight[0] = float("inf")
        try:
            check_finite(model, "mine")
        finally:
            with torch.no_grad():
                model.head_norm.weight[0] = 1.0
                model.head.bias.copy_(healthy)
    check_finite(model, "mine")
    # Minus infinity would be a probability of 0, which is finite.
    model.head.register_forward_hook(lambda module, given, logits: logits.index_fill(1, torch.tensor([2]), -torch.inf))
    with pytest.raises(InputError, match="the logits of clip 'c' are not finite although the weights are"):
        predict(model, batches(frames), **options)


def test_clips_that_cannot_be_read_are_left_out_and_told(model, frames):
    options: dict[str, Any] = {"names": ["a", "b", "c"], "labels": [2, 1, 0], "classes": "xyz", "views": 2}
    whole = predict(model, batches(frames), **options)
    told: list[int] = []
    first, _ = batches(frames)
    found = predict(model, [first, {"broken": {1: "list:2: torn"}}], **options, progress=told.append)
    assert (found.names, found.labels.tolist()) == (["a", "c"], [2, 0])
    assert found.skipped == (Skipped("b", 1, "list:2: torn"),)
    np.testing.assert_array_equal(found.probabilities, whole.probabilities[[0, 2]])
    assert told == [2, 3]
    everything = {"broken": {index: f"list:{index + 1}: torn" for index in (2, 0, 1)}}
    with pytest.raises(InputError, match="none of the 3 clips can be read; the first one: list:1: torn"):
        predict(model, [everything], **options)


def test_scores_in_words():
    scores = {"uar": 0.5, "war": 0.25, "macro_f1": None, "weighted_f1": 0.0, "loss": 1.0, "n": 4}
    metrics = {**scores, "notes": ["few"], "classes": ["x", "y"], "recall": [0.5, None], "confusion": []}
    assert summary(metrics) == "UAR 50.00%, WAR 25.00%, macro F1 none over 4 clips (recall: x 50.00%, y none); few"
    assert headline(metrics) == scores
    assert headline({**metrics, "skipped": 2}) == {**scores, "skipped": 2}
