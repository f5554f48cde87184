"""What a training step costs by what is trained (`train.tune`): time, what is kept for the backward pass, memory.

    python -m benchmarks.trained_parts                                  # all, head, norms, lora, blocks_from:12
    python -m benchmarks.trained_parts lora all --clips 16 --device cuda

Every step is measured in a process of its own, the fastest of a few. On a CPU it is the processor's time on one thread,
which other people's work does not lengthen much; on a GPU it is eager and under autocast in bfloat16.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.models import LGIFormer, build_model
from maedfer.train.config import load_config
from maedfer.train.environment import memory_mb
from maedfer.train.optim import leave_out_unused, make_optimizer, parameter_groups, set_lr
from maedfer.train.processes import Runtime
from maedfer.train.tune import Trained, Tune

TUNES = ("all", "head", "norms", "lora", "blocks_from:12")
_MB = 2**20


def measure(tune: str, model: str, clips: int, device: torch.device, steps: int) -> str:
    """One line about a step of training.

    Args:
        tune: `train.tune`.
        model: name of a classifier.
        clips: of one step.
        device: of the model.
        steps: how many are tried.
    """
    torch.manual_seed(0)
    on_gpu = device.type == "cuda"
    given = [f"train.tune={tune}", f"model.name={model}", "model.num_classes=7", "data.train=none"]
    cfg = load_config("finetune", None, given)
    net, what = build_model(cfg.model), Tune.of_run(cfg)
    assert isinstance(net, LGIFormer)
    what.prepare(net)
    net.to(device)
    leave_out_unused(net.eval(), lambda: net(torch.zeros(1, 3, *cfg.clip_model.clip_size, device=device)).sum())
    groups = parameter_groups(net, cfg.optim.weight_decay, 1.0, net.layer_index, cfg.clip_model.depth)
    optimizer = make_optimizer(groups, cfg.optim, device)
    set_lr(optimizer, 1e-4)
    frames = torch.randint(256, (clips, 3, *cfg.clip_model.clip_size), dtype=torch.uint8, device=device)
    labels = torch.arange(clips, device=device) % 7
    runtime = Runtime(device, precision="bf16" if on_gpu else "fp32")
    block = runtime.low_weights(net.train())
    now: Callable[[], float] = time.perf_counter if on_gpu else time.process_time
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    def moment() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return now()

    found = []
    for step in range(steps):
        began = moment()
        # What is kept is looked at once, as that takes time.
        hooks = torch.autograd.graph.saved_tensors_hooks(note if step == 0 else lambda x: x, lambda x: x)
        with block:
            with hooks, runtime.autocast():
                loss = F.cross_entropy(net(frames).float(), labels)
            forward = moment()
            loss.backward()
        backward = moment()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ended = moment()
        found.append((ended - began, forward - began, backward - forward, ended - backward))
    whole, forward, backward, update = min(found)
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return (
        f"{tune:15}{whole:8.3f} s (forward {forward:.3f}, backward {backward:.3f}, optimiser {update:.3f}), "
        f"kept {sum(kept.values()) / _MB:.0f} MB, optimiser {sum(value.nbytes for value in states) / _MB:.0f} MB, "
        f"peak {memory_mb(device):.0f} MB; {Trained.of(net, what)}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.trained_parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tune", nargs="*", default=list(TUNES), help=f"values of train.tune ({' '.join(TUNES)})")
    parser.add_argument("--model", default="lgi_former_base", help="classifier (lgi_former_base)")
    parser.add_argument("--clips", type=int, default=1, help="clips of a step (1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--steps", type=int, default=3, help="steps tried (3)")
    args = parser.parse_args()
    device = torch.device(args.device)
    threads = () if device.type == "cuda" else (1,)
    initial = torch.set_num_threads if threads else None
    with multiprocessing.get_context("spawn").Pool(1, initial, threads, maxtasksperchild=1) as pool:
        for tune in args.tune:
            print(pool.apply(measure, (tune, args.model, args.clips, device, args.steps)), flush=True)


if __name__ == "__main__":
    main()
