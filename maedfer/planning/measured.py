"""What was measured of one device, as numbers with the file that they come from.

The package does without benchmarks/ at run time, so the numbers stand here too; tests/planning/test_measured.py holds
them to the results files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["shards", "raw", "videos", "frames"]

GPU = "measured: H100 80GB, bfloat16, commit 90581d0, benchmarks/results/gpu.json"
KERNELS = "measured: H100 80GB, bfloat16, commit c7451a6, benchmarks/results/gpu_kernels.json"
LOADING = "measured: one core of an AMD EPYC, commit fff5cd9, benchmarks/results/loading_cpu.json"


@dataclass(frozen=True)
class MeasuredPass:
    """A pass of a base model on an H100, 16 x 160 x 160, in bfloat16: forward and backward pass, and the optimiser.

    Args:
        clips: of the pass.
        kernels_ms: time of its kernels, one after the other; 0 where it was not measured by kernel.
        launches: kernels that it starts.
        eager_ms: the whole pass run eagerly, in which the GPU waits for its processor.
        flops: operations.
        memory_bytes: peak on top of weights and optimiser, gradients among it.
        parameters: numbers of the model.
    """

    clips: int
    kernels_ms: float
    launches: int
    eager_ms: float
    flops: float
    memory_bytes: int
    parameters: int


PASSES = {
    "pretrain": MeasuredPass(128, 35.277, 1044, 134.67, 9930333487104, 8432541696, 92_760_192),
    "finetune": MeasuredPass(64, 43.875, 945, 128.79, 15936699826176, 12757302784, 84_878_343),
}
# ViT-B's fine-tuning step, of which only the whole was measured.
VIT_MEMORY = MeasuredPass(64, 0.0, 0, 100.71, 30984164573184, 17925137920, 86_232_583)

# Scoring clips, replayed as a CUDA graph: 64 clips and one, by the same kernels.
SCORING_MS = {64: 13.954, 1: 1.2304}
SCORING_LAUNCHES = 269
SCORING_FLOPS = 5312233275392 / 64

# Milliseconds of a core for a clip of 16 frames of 160 x 160 that is changed on the GPU, or by the loader, and bytes
# that are read for it.
CLIP_MS: dict[tuple[str, Source], tuple[float, float, float]] = {
    ("pretrain", "shards"): (2.6228, 3.8965, 114_701),
    ("pretrain", "videos"): (17.463, 18.773, 156_800),
    ("finetune", "shards"): (3.1318, 7.0020, 121_627),
    ("finetune", "frames"): (6.7874, 12.319, 338_227),
}
# What decoding takes of that: 16 pictures of 0.1 ms.
DECODING_MS = 1.5
CLIP_FRAMES, CLIP_SIDE = 16, 160
# Of a picture of 160 x 160 in a shard (JPEG, quality 90).
PICTURE_BYTES = 7734.4


def launch_seconds() -> float:
    """Time that a kernel of a replayed graph takes however few clips there are: a line through the two measurements."""
    (many, ms), (few, least) = SCORING_MS.items()
    return (least - few * (ms - least) / (many - few)) / SCORING_LAUNCHES / 1000
