"""What two processes gain on a CPU, and what DistributedDataParallel and FSDP2 cost a step.

    python -m benchmarks.scaling                      # benchmarks/results/scaling_cpu.json
    python -m benchmarks.scaling --small --turns 2    # a check of the machinery, no measurement

Every way makes the same steps of pre-training, of the same global batch, with one thread a process; the clips are drawn
at random and lie in memory, so that no reading is in it. Ways are measured in turns, so that what else the machine does
meets all of them, and the median of the turns counts. Two processes share the machine's memory and caches, and gloo's
exchange goes through its loopback: nothing of this says how GPUs and networks scale, which was not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.machine import machine
from maedfer.models import MAEDFER
from maedfer.models.units import recompute_blocks
from maedfer.train.config import load_config
from maedfer.train.optim import groups_of, make_optimizer, set_lr
from maedfer.train.parallel import shard
from maedfer.train.processes import Runtime, seed_all
from maedfer.train.tasks import ForwardPass, PretrainTask

RESULTS = Path(__file__).with_name("results") / "scaling_cpu.json"
# Name, processes, what is around the model, whether blocks are recomputed.
WAYS = (
    ("one process", 1, "none", False),
    ("one process, recomputed blocks", 1, "none", True),
    ("one process in DDP", 1, "ddp", False),
    ("one process in FSDP2", 1, "fsdp2", False),
    ("two processes, DDP", 2, "ddp", False),
    ("two processes, FSDP2", 2, "fsdp2", False),
)


class Way:
    """A model with what is around it, to make steps with.

    Args:
        rank, world: this process among those of the way.
        around: "none", "ddp" or "fsdp2".
        recompute: whether blocks are.
        args: of the command.
    """

    def __init__(self, rank: int, world: int, around: str, recompute: bool, args: argparse.Namespace) -> None:
        runtime = Runtime(torch.device("cpu"), rank, world)
        cfg = load_config("pretrain", None, [f"model.name={args.model}", "data.train=none", "output=none"])
        seed_all(0)
        task = PretrainTask(cfg, runtime)
        self.model, _ = task.build()
        assert isinstance(self.model, MAEDFER)
        if recompute:
            recompute_blocks(self.model)
        self.run: nn.Module = ForwardPass(task, self.model)
        self.low: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if around == "fsdp2":
            shard(self.run, self.model, runtime)
        else:
            self.low = runtime.low_weights(self.model)
        if around == "ddp":
            self.run = DistributedDataParallel(self.run, gradient_as_bucket_view=True)
        self.optimizer = make_optimizer(groups_of(self.model, cfg), cfg.optim, runtime.device)
        set_lr(self.optimizer, 1e-5)
        share = args.clips // world
        generator = torch.Generator().manual_seed(rank)
        frames = torch.randint(256, (share, 3, *cfg.clip_model.clip_size), generator=generator, dtype=torch.uint8)
        hidden, decoded = self.model.random_masks(share, generator)
        visible, wanted = self.model.token_numbers(hidden, decoded)
        self.batch: dict[str, Tensor] = {"frames": frames, "visible": visible, "decoded": wanted}

    def step(self) -> float:
        """Seconds of a step."""
        dist.barrier()
        began = time.perf_counter()
        with self.low:
            self.run(self.batch)["loss"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began


def work(rank: int, world: int, port: int, pipe: Any, args: argparse.Namespace) -> None:
    """One of the processes of all ways that take so many: makes steps of the way that is named."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    ways = {name: Way(rank, world, around, again, args) for name, count, around, again in WAYS if count == world}
    while (name := pipe.recv()) is not None:
        pipe.send([ways[name].step() for _ in range(args.steps)])
    dist.destroy_process_group()


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step of each way: the median over turns and steps, the first turn left out."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[int, list[Any]] = {1: [], 2: []}
    workers = []
    for world, ends in pipes.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(world):
            ours, theirs = context.Pipe()
            ends.append(ours)
            workers.append(context.Process(target=work, args=(rank, world, port, theirs, args), daemon=True))
            workers[-1].start()
    found: dict[str, list[float]] = {name: [] for name, *_ in WAYS}
    for turn in range(args.turns + 1):
        for name, world, *_ in WAYS:
            for pipe in pipes[world]:
                pipe.send(name)
            # A step is over when it is in all processes.
            steps = [max(times) for times in zip(*(pipe.recv() for pipe in pipes[world]), strict=True)]
            found[name] += steps if turn else []
    for ends in pipes.values():
        for pipe in ends:
            pipe.send(None)
    for worker in workers:
        worker.join(60)
    return {name: statistics.median(times) for name, times in found.items()}


def lines(seconds: dict[str, float], clips: int) -> list[str]:
    """What was found, for people."""
    one = seconds["one process"]
    return [
        f"{name:32}{value * 1000:9.1f} ms a step, {clips / value:7.2f} clips/s, {one / value:5.2f} x one process"
        for name, value in seconds.items()
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mae_dfer_small", help="masked autoencoder (mae_dfer_small)")
    parser.add_argument("--clips", type=int, default=4, help="of a step, over all processes, an even number (4)")
    parser.add_argument("--steps", type=int, default=2, help="of a turn (2)")
    parser.add_argument("--turns", type=int, default=5, help="that count; one more comes first (5)")
    parser.add_argument("--small", action="store_true", help="a tiny model, and nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    args = parser.parse_args()
    if args.small:
        args.model = "mae_dfer_tiny"
    seconds = measure(args)
    print("\n".join(lines(seconds, args.clips)))
    if not args.small:
        given = {name: getattr(args, name) for name in ("model", "clips", "steps", "turns")}
        content = {"machine": machine(), "cores": os.cpu_count(), **given, "seconds_a_step": seconds}
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
