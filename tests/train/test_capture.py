"""What is captured waits for nothing and copies nothing: whole passes on a GPU that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.static.pretend import DEVICE, backward, build, gpu
from maedfer.evaluation.score import score_views
from maedfer.kernels import use_impl
from maedfer.kernels._dispatch import interpreting
from maedfer.models import MAEDFER, LGIFormer, add_lora
from maedfer.train.processes import Runtime
from maedfer.train.tasks import FinetuneTask, PretrainTask
from tests.helpers import small, small_mae

pytestmark = pytest.mark.skipif(interpreting(), reason="the interpreter runs no kernels on fake tensors")

RUNTIME = Runtime(DEVICE, precision="bf16")


class Watch(TorchDispatchMode):
    """Operators that touch a tensor outside of the GPU. One that asks for a value is an error of fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.strays: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.device != DEVICE for tensor in tensors):
            self.strays.append(func.name())
        return out


@pytest.fixture(autouse=True)
def pretended() -> Iterator[None]:
    with gpu(90), use_impl("triton"):
        yield


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=DEVICE)


def batches() -> dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Tensor]]]:
    frames = on_gpu(4, 3, 8, 32, 32, dtype=torch.uint8)
    numbers = {"visible": on_gpu(4, 8, 4, dtype=torch.int64), "decoded": on_gpu(4, 32, dtype=torch.int64)}
    encoder = small(drop_path=0.5)
    labelled = {"frames": frames, "mix": on_gpu(5), "target": on_gpu(4, 5)}
    return {
        "finetune": (lambda: LGIFormer(encoder), FinetuneTask.losses, labelled),
        "lora": (lambda: add_lora(LGIFormer(encoder)), FinetuneTask.losses, labelled),
        "pretrain": (lambda: MAEDFER(small_mae(encoder=encoder)), PretrainTask.losses, {"frames": frames, **numbers}),
    }


@pytest.mark.parametrize("task", ["finetune", "lora", "pretrain"])
def test_a_step_of_training(task: str) -> None:
    make, losses, batch = batches()[task]
    model: Any = build(make).train()
    with RUNTIME.low_weights(model), Watch() as watch:
        keep = model.draw_keep(4)
        with RUNTIME.autocast():
            loss = losses(model, {**batch, "keep": keep})["loss"]
        backward(loss)
    assert watch.seen > 100 and not watch.strays


def test_scores_and_features() -> None:
    model: Any = build(lambda: LGIFormer(small())).eval()
    frames = on_gpu(4, 3, 8, 32, 32, dtype=torch.uint8)
    with RUNTIME.low_weights(model), Watch() as watch, torch.no_grad(), RUNTIME.autocast():
        score_views(model, frames, views=2, features=True)
        model.forward_features(frames)
    assert watch.seen > 50 and not watch.strays
