"""Where the loader's time goes: reading a clip's frames, changing them at random, and the rest.

    python -m benchmarks.loader CLIP [CLIP ...] --results benchmarks/results

CLIP is a video file or a folder of frames. Each is loaded as in fine-tuning (RandAugment, random resized crop, flip,
erasing) and as in pre-training (multi-scale crop) in one thread, 16 frames of 160 x 160. Writes loader_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from maedfer.data.augment import PretrainAugment, TrainAugment
from maedfer.data.readers import open_video
from maedfer.data.sampling import pretrain_indices, train_indices
from maedfer.errors import InputError
from maedfer.files import atomic_path


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="video files or folders of frames")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each clip")
    parser.add_argument("--results", type=Path, help="folder that takes loader_cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        rows = [row for clip in args.clips for row in measure(clip, args.rounds)]
    except InputError as error:
        print(f"loader: error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(
            f"{row['clip']:30} {row['task']:9} reading {row['reading_ms']:7.1f} ms, "
            f"transform {row['transform_ms']:6.1f} ms ({row['transform_share']:.0%}), "
            f"{row['clips_per_s']:.1f} clips/s a core"
        )
    if args.results:
        with atomic_path(args.results / "loader_cpu.json") as path:
            path.write_text(json.dumps({"machine": machine("cpu"), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(clip: Path, rounds: int) -> Sequence[dict[str, Any]]:
    """A row for each task, means over samples that are drawn anew.

    Raises:
        InputError: the clip cannot be read.
    """
    rows = []
    for task, transform, rule in (
        ("finetune", TrainAugment(160), train_indices),
        ("pretrain", PretrainAugment(160), pretrain_indices),
    ):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        reading, changing, shape = [], [], None
        for number in range(rounds + 2):
            started = time.perf_counter()
            with open_video(clip) as reader:
                frames = reader.read(sorted(set(rule(len(reader), 16, 4, generator).tolist())))
            read = time.perf_counter()
            pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
            transform(pictures).transpose(0, 1).contiguous()
            # The first two warm up.
            if number > 1:
                reading.append(1e3 * (read - started))
                changing.append(1e3 * (time.perf_counter() - read))
                shape = list(frames.shape)
        # Operations of RandAugment differ by a factor of ten, so that their mean counts.
        both = statistics.mean(reading), statistics.mean(changing)
        rows.append(
            {
                "clip": clip.name,
                "task": task,
                "last_shape": shape,
                "reading_ms": both[0],
                "transform_ms": both[1],
                "transform_share": both[1] / sum(both),
                "clips_per_s": 1e3 / sum(both),
            }
        )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
