from __future__ import annotations

import numpy as np
import torch

from maedfer.evaluation.probes import fit_attentive, fit_linear, fit_probe
from maedfer.evaluation.probes.attentive import AttentiveNetwork


def marked(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of which one is marked and says the class; another one, unmarked, takes it out of the mean again."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, clips)
    tokens = 0.1 * draw.normal(size=(clips, 4, 16)).astype(np.float32)
    rows = np.arange(clips)
    places = np.array([draw.permutation(4)[:2] for _ in rows])
    tokens[rows, places[:, 0], 0] += 3
    tokens[rows, places[:, 0], 1] = 2.0 * labels - 1
    tokens[rows, places[:, 1], 1] = 1 - 2.0 * labels
    return tokens.astype(np.float16), labels


def test_what_the_mean_does_not_hold_is_read_from_tokens() -> None:
    (train, labels), (test, truth) = marked(300, 0), marked(200, 1)
    mean = train.astype(np.float32).mean(1), test.astype(np.float32).mean(1)
    pooled = (fit_linear(mean[0], labels, 2, c=1.0).probabilities(mean[1]).argmax(1) == truth).mean()
    found = fit_probe("attentive", train, labels, grid=[{"lr": 1e-2, "weight_decay": 0.01}], least_steps=120)
    attentive = (found.probabilities(test).argmax(1) == truth).mean()
    assert pooled < 0.65 and found.kind == "attentive" and attentive > 0.95


def test_the_network_is_that_of_its_formula() -> None:
    network = AttentiveNetwork(8, 2, 3, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    tokens = torch.randn(2, 5, 8)
    norm = torch.nn.functional.layer_norm
    expected = []
    for clip in tokens:
        x = norm(clip, (8,), network.token_norm.weight, network.token_norm.bias, 1e-6)
        keys, values = (x @ network.kv.weight.T + network.kv.bias).split(8, 1)
        query = network.query @ network.q.weight.T + network.q.bias
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            weights = (keys[:, head] @ query[head] / 2).softmax(0)
            heads.append(weights @ values[:, head])
        x = network.query + torch.cat(heads)
        y = norm(x, (8,), network.norm.weight, network.norm.bias, 1e-6) @ network.fc1.weight.T + network.fc1.bias
        x = x + torch.nn.functional.gelu(y) @ network.fc2.weight.T + network.fc2.bias
        expected.append(x @ network.head.weight.T + network.head.bias)
    torch.testing.assert_close(network(tokens), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_it_repeats_and_leaves_random_numbers_alone() -> None:
    tokens, labels = marked(40, 0)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    seen: list[float] = []
    first, second = (
        fit_attentive(tokens, labels, 2, seed=1, epochs=3, least_steps=5, batch_size=20, progress=seen.append)
        for _ in range(2)
    )
    assert torch.rand(1) == expected
    np.testing.assert_array_equal(first.probabilities(tokens), second.probabilities(tokens))
    # Two batches in an epoch: three epochs are six steps, which is enough.
    assert seen == [1 / 3, 2 / 3, 1.0] * 2
