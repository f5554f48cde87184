"""Another batch size, or a batch whose size is odd, must not compile anything anew."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.ahead_of_time import jit_compile
from benchmarks.shipped import CLIPS, Array, Case
from benchmarks.tune import representatives
from maedfer.kernels._dispatch import interpreting

pytestmark = pytest.mark.skipif(interpreting(), reason="nothing can be compiled under TRITON_INTERPRET=1")


def of_clips(case: Case, clips: int) -> Case:
    """The same operator on another number of clips."""

    def resized(argument: Any) -> Any:
        if not isinstance(argument, Array) or not argument.shape or argument.shape[0] % CLIPS:
            return argument
        # Channels and hidden channels, of vectors and of weights, are multiples of it, too.
        if len(argument.shape) <= 2 and argument.shape[0] != CLIPS:
            return argument
        return dataclasses.replace(argument, shape=(argument.shape[0] // CLIPS * clips, *argument.shape[1:]))

    return dataclasses.replace(case, arguments=tuple(resized(argument) for argument in case.arguments))


@pytest.mark.parametrize("case", representatives(torch.bfloat16), ids=str)
def test_batch_sizes_share_what_is_compiled(case: Case) -> None:
    compiled = [[jit_compile(launch, 90) for launch in of_clips(case, clips).launches(90)] for clips in (1, 3, 64, 70)]
    for other in compiled[1:]:
        assert len(other) == len(compiled[0])
        assert all(one is two for one, two in zip(other, compiled[0], strict=True))
