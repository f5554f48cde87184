"""A small model trained by the fast implementations and by the reference: every loss, and the weights in the end.

Fifty steps of AdamW with stochastic depth, four where an interpreter runs the kernels. Rounding differs between
implementations and training amplifies it, a thousandfold and more in these steps, so that on a CPU the runs are in
float64, where nothing wrong can hide behind it. A GPU and csrc have float32 kernels only.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import Impl, use_impl
from maedfer.kernels._dispatch import interpreting
from maedfer.models import MAEDFER, LGIFormer, normalize_frames
from tests.helpers import IMPLEMENTATIONS, device_of, small, small_mae

STEPS = 4 if interpreting() else 50
# Of a loss, and of the way of the weights, relative.
TOLERANCES = {torch.float64: (1e-9, 1e-8), torch.float32: (1e-3, 1e-2)}

FAST = [impl for impl in IMPLEMENTATIONS if impl != "reference"]


def train(task: str, impl: Impl, device: torch.device, dtype: torch.dtype) -> tuple[list[float], Tensor]:
    """Losses of every step and the change of all weights as one vector."""
    torch.manual_seed(0)
    encoder = small(drop_path=0.2 if task == "finetune" else 0.0)
    model = LGIFormer(encoder) if task == "finetune" else MAEDFER(small_mae(encoder=encoder))
    model.to(device, dtype).train()
    before = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(1)
    # Smooth, so that hidden cubes can be guessed.
    coarse = torch.rand(4, 3, 2, 3, 3, generator=generator)
    frames = F.interpolate(coarse, size=encoder.clip_size, mode="trilinear").to(device, dtype)
    labels = torch.tensor([0, 1, 2, 3], device=device)
    losses = []
    for step in range(STEPS):
        # Stochastic depth must draw alike on every device.
        torch.manual_seed(step)
        half = slice(0, 2) if step % 2 else slice(2, 4)
        with use_impl(impl):
            if isinstance(model, LGIFormer):
                logits = model(normalize_frames(frames[half]))
                loss = F.cross_entropy(logits, labels[half])
            else:
                hidden, _ = model.random_masks(2, generator)
                loss = model.training_loss(frames[half], *model.token_numbers(hidden.to(device)))["loss"]
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return losses, after - before


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_trains_as_the_reference_does(task: str, impl: Impl) -> None:
    device = device_of(impl)
    dtype = torch.float64 if device.type == "cpu" and impl != "native" else torch.float32
    want, want_change = train(task, "reference", device, dtype)
    got, change = train(task, impl, device, dtype)
    assert want[-1] < 0.95 * want[0], "the reference does not learn"
    worst = max(abs(one - other) / abs(other) for one, other in zip(got, want, strict=True))
    distance = float((change - want_change).norm() / want_change.norm())
    assert worst <= TOLERANCES[dtype][0], f"a loss differs by {worst:.2g}"
    assert distance <= TOLERANCES[dtype][1], f"the weights' way differs by {distance:.2g}"
