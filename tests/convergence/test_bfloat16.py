"""Training in bfloat16 on a CPU against float32, as `train.precision` chooses them: within the spread of seeds.

A small model learns clips that are drawn anew in every step. Losses of the two come apart as rounding grows with the
steps, so that they are compared where runs end, with what another seed changes.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels._dispatch import interpreting
from maedfer.models import MAEDFER, LGIFormer
from maedfer.models.low_precision import low_precision_weights
from tests.helpers import small, small_mae

# Steps and learning rate: steeper, a classifier amplifies rounding as it does another seed.
SCHEDULE = {"pretrain": (30, 3e-3), "finetune": (60, 5e-4)}
BATCH, SEEDS = 8, 3
# Steps of which the mean is the loss in the end.
LAST = 10

pytestmark = pytest.mark.skipif(interpreting(), reason="the interpreter takes no bfloat16")


def drawn(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Clips in bytes, [B, 3, 8, 32, 32]: smooth shapes of their classes, under smooth shapes of their own."""
    shapes = torch.rand(5, 3, 2, 3, 3, generator=torch.Generator().manual_seed(5))
    noise = torch.rand(len(labels), 3, 4, 6, 6, generator=generator)
    size = (8, 32, 32)
    clips = F.interpolate(shapes[labels], size, mode="trilinear") + F.interpolate(noise, size, mode="trilinear")
    return (clips * 127).byte()


def train(task: str, seed: int, low: bool) -> tuple[list[float], float, float]:
    """Losses of every step, and on clips that were not learned, loss and accuracy (0 where there are no classes)."""
    torch.manual_seed(seed)
    steps, lr = SCHEDULE[task]
    encoder = small(drop_path=0.1 if task == "finetune" else 0.0)
    model = LGIFormer(encoder) if task == "finetune" else MAEDFER(small_mae(encoder=encoder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    weights = low_precision_weights(model, torch.bfloat16)

    def arithmetic() -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if low else contextlib.nullcontext()

    def loss_of(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clips = drawn(labels, generator)
        with arithmetic():
            if isinstance(model, LGIFormer):
                logits = model(clips).float()
                return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()
            hidden, _ = model.random_masks(len(labels), generator)
            return model.training_loss(clips, *model.token_numbers(hidden))["loss"], torch.zeros(())

    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with weights if low else contextlib.nullcontext():
            loss, _ = loss_of(torch.randint(5, (BATCH,), generator=generator), generator)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        unseen, score = loss_of(torch.arange(100) % 5, torch.Generator().manual_seed(99))
    return losses, unseen.item(), score.item()


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_differs_from_float32_by_less_than_seeds_do(task: str) -> None:
    exact, low = ([train(task, seed, low) for seed in range(SEEDS)] for low in (False, True))
    assert all(np.mean(losses[-LAST:]) < 0.95 * losses[0] for losses, _, _ in exact), "float32 does not learn"
    assert all(np.abs(np.subtract(one[0], other[0])).max() > 0 for one, other in zip(low, exact, strict=True))
    for what, of in {"loss": lambda run: np.mean(run[0][-LAST:]), "loss on other clips": lambda run: run[1]}.items():
        one, other = (np.array([of(run) for run in runs]) for runs in (low, exact))
        difference, spread = np.sqrt(np.square(one - other).mean()), np.ptp(other)
        assert difference <= spread, f"the {what} in the end differs by {difference:.4f}, by seeds {spread:.4f}"
    for (_, _, accuracy), (_, _, wanted) in zip(low, exact, strict=True):
        assert abs(accuracy - wanted) <= 0.05, f"accuracy is {accuracy:.2f}, in float32 {wanted:.2f}"
