"""One learnable query that attends to the tokens of a clip, V-JEPA's probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from maedfer.models.attention import layer_norm

# Channels of a head where nobody says how many heads there are.
_HEAD = 64
_INIT = 0.02
LEAST_STEPS = 400


class AttentiveNetwork(nn.Module):
    """A query attends to tokens; then a feed-forward network with residual, and a linear layer.

    Args:
        dim: channels of tokens.
        heads: of the attention.
        classes: how many there are.
        generator: initial weights are drawn from it.
    """

    def __init__(self, dim: int, heads: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(dim))
        self.token_norm, self.norm = layer_norm(dim), layer_norm(dim)
        # Without the first drawing, which would take numbers from torch's global generator.
        self.q, self.kv = skip_init(nn.Linear, dim, dim), skip_init(nn.Linear, dim, 2 * dim)
        self.fc1, self.fc2 = skip_init(nn.Linear, dim, 4 * dim), skip_init(nn.Linear, 4 * dim, dim)
        self.head = skip_init(nn.Linear, dim, classes)
        nn.init.trunc_normal_(self.query, std=_INIT, generator=generator)
        for layer in (self.q, self.kv, self.fc1, self.fc2, self.head):
            nn.init.trunc_normal_(layer.weight, std=_INIT, generator=generator)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.fc2.weight.div_(math.sqrt(2.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, classes] of tokens [B, T, C]."""
        keys, values = self.kv(self.token_norm(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        query = self.q(self.query).unflatten(0, (self.heads, 1, -1)).transpose(0, 1)
        read = nn.functional.scaled_dot_product_attention(
            query.expand(len(tokens), -1, -1, -1).transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        )
        x = self.query + read.transpose(1, 2).flatten(1)
        return self.head(x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x)))))


@dataclass(frozen=True)
class AttentiveProbe:
    """A trained network.

    Args:
        network: on the device it was trained on.
        batch_size: clips that are scored at once.
    """

    network: AttentiveNetwork
    batch_size: int = 256

    @torch.inference_mode()
    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Float64 [n, classes], for tokens [n, T, C]; they may lie on a disk."""
        device = self.network.query.device
        parts = [
            self.network(_tokens(features[start : start + self.batch_size], device)).double().softmax(1).cpu()
            for start in range(0, len(features), self.batch_size)
        ]
        return torch.cat(parts).numpy()


def fit_attentive(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    heads: int | None = None,
    epochs: int = 20,
    least_steps: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> AttentiveProbe:
    """Train V-JEPA's attentive probe on tokens.

    As in V-JEPA (Bardes et al. 2024, arXiv 2404.08471, appendix D, and its attentive_pooler.py): a learnable query
    attends to the normalised tokens with as many heads as the encoder has (queries, keys and values have biases, there
    is no layer after the attention: the published one is never called), is added to what it read, goes through a
    feed-forward network of 4 times the width with residual, and a linear layer. AdamW, no decay of biases and norms, 20
    epochs, the learning rate of 1e-3 falls to 0 along a cosine without warm-up, weight decay 0.01, tokens of several
    views of a clip side by side. There batches are of 256 clips, on bfloat16, of frames augmented anew each epoch, and
    nothing is chosen; V-JEPA 2 (2025, arXiv 2506.09985) chooses lr and weight decay of a grid. Here batches are of 64
    clips in float32, tokens are computed once, and a short list is gone through until there were 400 steps.

    Args:
        features: [n, T, C] tokens of the training clips, of any floating type; they may lie on a disk.
        labels: int64 [n].
        classes: how many there are.
        lr, weight_decay: of AdamW.
        heads: of the attention; about one for each 64 channels when None.
        epochs: times that the clips are gone through.
        least_steps: a short list, with few batches in an epoch, is gone through until there were so many;
            `LEAST_STEPS` when None.
        batch_size: clips of a step.
        seed: of initial weights and order of clips.
        device: where it is trained.
        progress: called with the share that is done.
    """
    device = torch.device(device)
    dim = features.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    network = AttentiveNetwork(dim, heads or _heads(dim), classes, generator).to(device)
    # The published query has three dimensions, and decays as matrices do.
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1 or parameter is network.query]
    others = [parameter for parameter in network.parameters() if parameter.ndim < 2 and parameter is not network.query]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, foreach=True)
    steps = math.ceil(len(labels) / batch_size)
    epochs = max(epochs, math.ceil((LEAST_STEPS if least_steps is None else least_steps) / steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / (epochs * steps))) / 2
    )
    targets = torch.from_numpy(np.asarray(labels, np.int64)).to(device)
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.split(batch_size):
            # A disk is read in its own order.
            places = chosen.sort().values
            loss = nn.functional.cross_entropy(
                network(_tokens(features[places.numpy()], device)), targets[places.to(device)]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress((epoch + 1) / epochs)
    return AttentiveProbe(network.eval())


def _heads(dim: int) -> int:
    return next(heads for heads in range(max(1, dim // _HEAD), 0, -1) if dim % heads == 0)


def _tokens(features: np.ndarray, device: torch.device) -> Tensor:
    # A copy: what is read from a disk cannot be written to, of which torch warns.
    return torch.from_numpy(np.array(features)).to(device).float()
