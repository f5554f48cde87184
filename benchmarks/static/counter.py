"""Launches and bytes of what runs on fake tensors.

A launch is one call of an ATen operator that computes: views, allocations and results without elements are none, and a
call over lists of tensors is as many as PyTorch's kernels take at once. One of our operators is what its launcher
launches, and PyTorch's operators that the launcher calls beside it.

Bytes are those of the tensors that a launch reads and writes, each once; what is repeated by a stride of zero counts
once, too. Of our kernels all tensors count that they are given. What caches save and what is read again is not in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

import maedfer
from maedfer.kernels._launch import Launch, recording

# A launch of PyTorch's that moves less is tiny: 3 us at 3 TB/s, less than it takes a host to launch it.
TINY_BYTES = 10_000_000

KINDS = ("product", "ours", "tiny", "other")

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")
_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")

# What changes a tensor without reading it.
_OVERWRITING = ("copy_", "_foreach_copy_", "fill_", "zero_", "bernoulli_", "uniform_", "normal_", "random_")

# Tensors of a list, and blocks of 65,536 numbers, that one launch of PyTorch's takes, by how many lists go together.
_MOST_TENSORS, _MOST_BLOCKS, _BLOCK = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}, 320, 65536

_PACKAGE = Path(maedfer.__file__).parent


@dataclass(frozen=True)
class Unit:
    """One launch.

    Args:
        kind: of `KINDS`.
        name: of the operator or of our kernel.
        stage: "forward", "backward" or "optimiser".
        where: the function of the package that calls for it, or the node of the graph.
        bytes: that it moves.
    """

    kind: str
    name: str
    stage: str
    where: str
    bytes: int


class Counter(TorchDispatchMode):
    """Notes every launch inside of a `with` block.

    Attributes:
        units: the launches.
        stage: what they are noted as.
        node: of the graph that is differentiated, where there is one.
    """

    def __init__(self, stage: str = "forward", where: str = "") -> None:
        super().__init__()
        self.units: list[Unit] = []
        self.stage, self.node, self._caller = stage, "", where
        self._ours: dict[Any, list[Unit]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        read = [x for x in leaves if isinstance(x, Tensor)]
        on_gpu = _device(kwargs).type != "cpu" or any(x.device.type != "cpu" for x in read)
        if not on_gpu and not any(isinstance(x, FakeTensor) for x in read):
            # What is drawn on the CPU is really drawn.
            with _disable_current_modes():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func.namespace == "maedfer":
            self.units += self._launched(func, args, kwargs)
        elif func.namespace == "aten":
            self._note(func, args, read, result)
        return result

    def _note(self, func: Any, args: Any, read: list[Tensor], result: Any) -> None:
        name = func._overloadpacket.__name__
        written = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        changed = _changed(func, args)
        if name in _ALLOCATIONS or name.startswith("_local_scalar"):
            return
        places = {x.untyped_storage()._cdata for x in read}
        fresh = [x for x in written if x.untyped_storage()._cdata not in places]
        if not changed and not fresh:
            return
        if not any(x.numel() for x in (changed or fresh)):
            return
        if name in _OVERWRITING:
            read = [x for x in read if not any(x is other for other in changed)]
        moved = [x for x in (*read, *(changed or fresh)) if x.numel()]
        count = _launches_of_lists(args) if name.startswith(("_foreach", "_fused_ad")) else 1
        total = sum(map(once, moved))
        kind = "product" if _is_product(name) else "tiny" if total < TINY_BYTES * count else "other"
        self.units += [Unit(kind, name, self.stage, self._where(), total // count)] * count

    def _launched(self, func: Any, args: Any, kwargs: Any) -> list[Unit]:
        """What the launcher of one of our operators launches, found on meta tensors."""
        leaves = tree_leaves((args, kwargs))
        key = (func, *(_outline(x) if isinstance(x, Tensor) else str(x) for x in leaves))
        if key not in self._ours:
            with _disable_current_modes():
                meta = tree_map_only(Tensor, _meta, (args, kwargs))
                nested = Counter(self.stage, func._overloadpacket.__name__)
                on_gpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
                with recording() as launches, nested:
                    func.redispatch(on_gpu, *meta[0], **meta[1])
            ours = [
                Unit(
                    "ours",
                    kernel_name(launch),
                    self.stage,
                    nested._caller,
                    sum(map(once, _tensors(launch))),
                )
                for launch in launches
            ]
            self._ours[key] = ours + nested.units
        where = self._where()
        return [Unit(u.kind, u.name, self.stage, where, u.bytes) for u in self._ours[key]]

    def _where(self) -> str:
        if self.node:
            return self.node
        if self._caller:
            return self._caller
        frame = sys._getframe(2)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if _PACKAGE in path.parents:
                return f"{path.parent.name}/{path.stem}.{frame.f_code.co_name}"
            frame = frame.f_back  # type: ignore[assignment]
        return self.stage


def kernel_name(launch: Launch) -> str:
    """The name of a launch's kernel, without what all have."""
    return launch.kernel.__name__.removeprefix("_").removesuffix("_kernel")


def once(x: Tensor) -> int:
    """Bytes of a tensor's own elements, each once."""
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * x.element_size()


def _tensors(launch: Launch) -> list[Tensor]:
    """The tensors that a launch is given, by pointers or by descriptors."""
    return [x for x in (getattr(arg, "base", arg) for arg in launch.args) if isinstance(x, Tensor)]


def _device(kwargs: dict[str, Any]) -> torch.device:
    return torch.device(kwargs.get("device") or "cpu")


def _changed(func: Any, args: Sequence[Any]) -> list[Tensor]:
    """Arguments that an operator writes to."""
    found: list[Any] = []
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += value if isinstance(value, (list, tuple)) else [value]
    return [x for x in found if isinstance(x, Tensor)]


def _is_product(name: str) -> bool:
    return name in _PRODUCTS or "attention" in name


def _launches_of_lists(args: Sequence[Any]) -> int:
    """How many launches PyTorch makes of a call over lists of tensors."""
    lists: list[Sequence[Tensor]] = [
        x for x in args if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor) and x[0].dim()
    ]
    if not lists:
        return 1
    most = _MOST_TENSORS[min(5, len(lists))]
    count = tensors = blocks = 0
    for x in lists[0]:
        tensors += 1
        left = -(-x.numel() // _BLOCK)
        while left:
            taken = min(left, _MOST_BLOCKS - blocks)
            left, blocks = left - taken, blocks + taken
            if blocks == _MOST_BLOCKS:
                # A tensor that is not done goes on in the next launch.
                count, blocks, tensors = count + 1, 0, 1 if left else 0
        if tensors == most:
            count, blocks, tensors = count + 1, 0, 0
    return count + (1 if blocks else 0)


def _outline(x: Tensor) -> tuple[Any, ...]:
    return (*x.shape, *x.stride(), x.dtype, x.device.type)


def _meta(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


# Launches and bytes by stage and kind ("stages"), and by who makes them ("callers").
Summary = dict[str, Any]


def summary(units: Iterable[Unit]) -> Summary:
    """Launches and bytes of units together."""
    callers: dict[tuple[str, ...], list[int]] = {}
    for unit in units:
        found = callers.setdefault((unit.stage, unit.kind, unit.name, unit.where), [0, 0])
        found[0] += 1
        found[1] += unit.bytes
    return _summary(callers)


def difference(longer: Summary, shorter: Summary) -> Summary:
    """What one has beyond the other."""
    callers = {tuple(key): [launches, moved] for *key, launches, moved in longer["callers"]}
    for *key, launches, moved in shorter["callers"]:
        found = callers.setdefault(tuple(key), [0, 0])
        found[0] -= launches
        found[1] -= moved
    return _summary({key: found for key, found in callers.items() if any(found)})


def _summary(callers: dict[tuple[str, ...], list[int]]) -> Summary:
    every = ("forward", "backward", "optimiser")
    stages = {stage: {kind: {"launches": 0, "bytes": 0} for kind in KINDS} for stage in (*every, "all")}
    for (stage, kind, *_), (launches, moved) in callers.items():
        for name in (stage, "all"):
            stages[name][kind]["launches"] += launches
            stages[name][kind]["bytes"] += moved
    ran = {stage for stage, *_ in callers}
    return {
        "stages": {name: kinds for name, kinds in stages.items() if name in ran or name == "all"},
        "callers": [[*key, *found] for key, found in sorted(callers.items())],
    }
