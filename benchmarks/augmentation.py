"""Augmentation of batches on the device as workloads: bytes of frames and programs in, bytes of the model's size out.

Programs are those of the recipes: RandAugment "rand-m7-n4-mstd0.5-inc1", which does two operations of four on average,
resized crop, mirror image and erasing; a box of several scales in pre-training. No provider may differ from the
specification in more than one value of a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Timed
from benchmarks.workload import Builders, Candidate, Cost, Settings, Verdict, Workload
from maedfer._programs import BOX, EACH, ERASED, FIRST, MIRROR, NOISE
from maedfer.data.augment.draws import PretrainDraws, draw_erased_box
from maedfer.data.augment.rand_augment import draw_operations, parse_randaugment
from maedfer.kernels import Impl, functional

Sizes = dict[str, Any]

_RANDAUGMENT, _ERASE = "rand-m7-n4-mstd0.5-inc1", 0.25
_MOST_THAT_DIFFER = 1e-3


def _finetune_program(sizes: Sizes) -> Tensor:
    height, width = sizes["size"]
    operations = draw_operations(parse_randaugment(_RANDAUGMENT), height, width)
    program = torch.zeros(FIRST + EACH * len(operations), dtype=torch.float64)
    for place, numbers in enumerate(operations):
        start = FIRST + EACH * place
        program[start : start + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    # The resized crop keeps 0.08 to 1 of the area; its shape hardly matters here.
    side = 0.08 + 0.92 * float(torch.rand(())) ** 0.5
    rows, columns = max(1, int(side * height)), max(1, int(side * width))
    program[BOX] = torch.tensor([(height - rows) // 2, (width - columns) // 3, rows, columns], dtype=torch.float64)
    program[MIRROR] = float(torch.rand(()) < 0.5)
    if torch.rand(()) < _ERASE:
        program[ERASED] = torch.tensor(draw_erased_box(height, width), dtype=torch.float64)
        program[NOISE] = torch.randint(2**32, (2,)).double()
    return program


def _pretrain_program(sizes: Sizes) -> Tensor:
    return PretrainDraws((1.0, 0.875, 0.75, 0.66))(*sizes["frame"])


def _sizes(settings: Settings) -> dict[str, Sizes]:
    if settings.small:
        return {"B=2": {"B": 2, "T": 2, "frame": (20, 24), "size": (16, 16)}}
    sizes = {"B": settings.batch, "T": 16, "frame": (256, 256), "size": (160, 160)}
    return {"B={B}".format(**sizes): sizes}


def _prepare(draw: Callable[[Sizes], Tensor], fit: Any) -> Callable[[Settings, Sizes], Builders]:
    def prepare(settings: Settings, sizes: Sizes) -> Builders:
        torch.manual_seed(0)
        shape = sizes["B"], sizes["T"], *sizes["frame"], 3
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=settings.device)
        program = torch.stack([draw(sizes) for _ in range(sizes["B"])])

        def function(impl: Impl) -> Callable[[Any], Tensor]:
            def run(_: Any = None) -> Tensor:
                return functional.augment(frames, program, size=sizes["size"], fit=fit, impl=impl)

            return run

        want = function("reference")(None)
        costs = {"forward": Cost(frames.nbytes + want.nbytes, 0)}

        def builder(run: Callable[[Any], Tensor]) -> Callable[[], Candidate]:
            def judge() -> Verdict:
                share = float((run(None) != want).float().mean())
                wrong = f"{share:.2%} of the values are not those of the specification"
                return Verdict(share / _MOST_THAT_DIFFER, wrong if share > _MOST_THAT_DIFFER else None)

            return lambda: Candidate(judge, {"forward": Timed(run)}, costs)

        return {"reference": builder(function("reference")), "ours": builder(function("auto"))}

    return prepare


AUGMENTATION = (
    Workload("finetune_augmentation", _sizes, _prepare(_finetune_program, "stretch")),
    Workload("pretrain_augmentation", _sizes, _prepare(_pretrain_program, None)),
)
