"""What is put around a model so that several processes train it: nothing, DistributedDataParallel, or FSDP2.

All of it is PyTorch's. By default every process has the whole model and gradients are averaged
(DistributedDataParallel). With `train.sharding=full` every process keeps a part of each weight, its gradient and its
optimiser state (`torch.distributed.fsdp.fully_shard`): the weights of a block are brought together while it runs, in
the arithmetic of the run; those of LayerNorms, the embedding and the head, a small part, stay together through a pass,
in float32. Gradients are averaged in float32. The blocks run in the schedule of the fused operations either way
(`maedfer.models.units`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from maedfer.models import MAEDFER, LGIFormer
from maedfer.models.units import BlockUnit, recompute_blocks, units_of
from maedfer.train.processes import Runtime
from maedfer.train.settings import RunConfig
from maedfer.train.tasks import ForwardPass, Task

# Buffers are tables that never change, and are not to be exchanged. PyTorch 2.11 has another name for that than 2.14.
_SAME_BUFFERS: Any = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


class Parallel:
    """A training pass with what is around its model.

    Args:
        task: what is trained.
        model: of the task, whole and alike in all processes; with `train.sharding=full` its weights become parts.

    Attributes:
        forward_pass: from batch to losses.
        sharded: whether weights lie in parts.
        low_weights: a block for the passes of a step, see `Runtime.low_weights`.
    """

    def __init__(self, task: Task, model: LGIFormer | MAEDFER) -> None:
        cfg, self.runtime = task.cfg, task.runtime
        self.model = model
        self.sharded = is_sharded(cfg, self.runtime.world)
        if cfg.train.recompute:
            recompute_blocks(model)
        forward_pass = ForwardPass(task, model)
        compiling = self.runtime.compiling
        mode = "reduce-overhead" if compiling.replayed else None
        self._settled = False
        self.units: list[BlockUnit] = []
        self.low_weights: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.sharded:
            self._skeleton = _skeleton(model)
            self.units = shard(forward_pass, model, self.runtime, compiled=compiling.compiled)
        else:
            self.low_weights = self.runtime.low_weights(model)
            if compiling.compiled:
                forward_pass.compile(mode=mode)
        self.forward_pass: nn.Module = forward_pass
        if self.runtime.world > 1 and not self.sharded:
            devices = [self.runtime.device] if self.runtime.device.type == "cuda" else None
            self.forward_pass = DistributedDataParallel(
                forward_pass, device_ids=devices, gradient_as_bucket_view=True, **_SAME_BUFFERS
            )

    @property
    def words(self) -> str:
        """What is around the model, for people; "" where nothing is."""
        if self.runtime.world == 1:
            return ""
        if not self.sharded:
            return f"copied to {self.runtime.world} processes"
        whole = sum(unit.is_fused for unit in self.units)
        slow = "" if whole == len(self.units) else f", {len(self.units) - whole} of them layer by layer"
        return f"sharded over {self.runtime.world} processes in {len(self.units)} blocks{slow}"

    def exchange(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged between processes once a step, in its last backward pass."""
        if isinstance(self.forward_pass, FSDPModule):
            self.forward_pass.set_requires_gradient_sync(last)
        if last or not isinstance(self.forward_pass, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward_pass.no_sync()

    def settle(self, batch: dict[str, Tensor]) -> None:
        """Run one pass for nothing before the first, with a batch on the device.

        DistributedDataParallel sorts gradients anew after its first backward pass, and in which order those of several
        processes are added up hangs on their places: without this, the first step of a run that goes on would not
        repeat that of one that was never interrupted.
        """
        if self._settled or not isinstance(self.forward_pass, DistributedDataParallel):
            return
        self._settled = True
        with self.runtime.autocast():
            losses = self.forward_pass(batch)
        losses["loss"].backward()
        self.forward_pass.zero_grad(set_to_none=True)

    def draw_keep(self, clips: int) -> Tensor | None:
        """Draw stochastic depth's factors for a pass of so many clips of this process.

        All processes draw those of the clips of all of them, alike, and take their own, so that a clip's factors hang
        on its place in the batch of all processes and not on their number.
        """
        return self.model.draw_keep(clips, (self.runtime.rank, self.runtime.world))

    def shard_alike(self, model: nn.Module) -> None:
        """Leave a part of each weight of another model of the same kind with each process, if so it is with the model.

        It is not to be run.
        """
        if self.sharded:
            shard(nn.Sequential(model), model, self.runtime)

    def assembled(self, model: Any) -> Any:
        """A model as one that is whole in every process, which all take part in; the model itself if it is whole.

        Args:
            model: the one that is trained, or one that was sharded alike.
        """
        if not self.sharded:
            return model
        copied = copy.deepcopy(self._skeleton)
        copied.load_state_dict({name: whole(value) for name, value in model.state_dict().items()}, assign=True)
        return copied.train(model.training)


def is_sharded(cfg: RunConfig, world: int) -> bool:
    """Whether weights lie in parts: one process alone has all of them."""
    return cfg.train.sharding == "full" and world > 1


def shard(around: nn.Module, model: nn.Module, runtime: Runtime, *, compiled: bool = False) -> list[BlockUnit]:
    """Leave a part of each weight of a model with each process.

    Args:
        around: the module that is called and holds the model.
        model: whole.
        runtime: processes, device and arithmetic.
        compiled: have torch.compile run the blocks.

    Returns:
        Units of the model's blocks, which bring their weights together.
    """
    mesh = init_device_mesh(runtime.device.type, (runtime.world,))
    low = runtime.low_dtype
    # What a block is given is in the dtype that autocast and its operations choose.
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
    units = units_of(model)
    for unit in units:
        if compiled:
            unit.compile_runs()
        fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=set(unit.norms()))
    # PyTorch finds the units below the module that is called.
    around.add_module("units", nn.ModuleList(units))
    theirs = {parameter for unit in units for parameter in unit.weights()}
    fully_shard(around, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), ignored_params=theirs)
    return units


def whole(value: Tensor) -> Tensor:
    """A tensor that lies in parts as a whole one, on every process; all take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_like(value: Tensor, other: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of `other`, on its device; nothing is sent."""
    if not isinstance(other, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def _skeleton(model: nn.Module) -> Any:
    """A copy of a model without the memory of its weights."""
    empty: dict[int, Any] = {
        id(one): nn.Parameter(torch.empty_like(one, device="meta"), requires_grad=one.requires_grad)
        for one in model.parameters()
    }
    return copy.deepcopy(model, empty)
