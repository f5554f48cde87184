"""What is compared: the peer and ours, each as it stands, compiled, and in the ways that it has to compute in bfloat16.

Training is a forward pass, cross entropy and a backward pass: the optimiser is left out, as it is the same for both.
Float32 results of the peer, in PyTorch's own operations, are the truth. In bfloat16 a side may be wrong by what
`compare_models` grants beside the peer's own error under autocast. What disagrees is not timed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu.peer import Peer
from benchmarks.deployed import RUNTIMES, Deployed
from benchmarks.operation import compiled
from benchmarks.workload import COMPILED, Skip, Verdict, compare_models
from maedfer.errors import InputError
from maedfer.models import accelerate
from maedfer.models.published.checkpoints import published_gradients
from maedfer.train.processes import Runtime

INFERENCE, TRAINING = "inference", "training_step"

# Provider -> what it is.
PROVIDERS = {
    "peer": "the peer; under autocast in bfloat16",
    "peer_compiled": "the same by torch.compile",
    "accelerated": "a copy of the peer after maedfer.accelerate",
    "ours": "ours; in bfloat16 with weights in bfloat16, in training under autocast",
    "ours_autocast": "ours under autocast",
    "ours_compiled": "what `ours` is, by torch.compile",
    **{name: f"a file of `maedfer export` in {name}, where it is named" for name in RUNTIMES},
}


@dataclass(frozen=True)
class Work:
    """What all sides do.

    Attributes:
        op: INFERENCE or TRAINING.
        dtype: of the products.
        threads: that PyTorch uses.
        batch: clips at once.
    """

    op: str
    dtype: torch.dtype
    threads: int
    batch: int

    @property
    def is_low(self) -> bool:
        """Whether products are in bfloat16."""
        return self.dtype != torch.float32

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass."""
        return self.op == TRAINING

    @property
    def providers(self) -> tuple[str, ...]:
        """Those that do this, in the order of measuring."""
        if self.trains:
            return "peer", "accelerated", "ours"
        return tuple(name for name in PROVIDERS if self.is_low or name != "ours_autocast")

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        clips = "1 clip" if self.batch == 1 else f"{self.batch} clips"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.op.replace('_', ' ')}, {dtype}, {clips}, {threads}"


class Sides:
    """The sides of a comparison, with the copies of the models that they need.

    Args:
        peer: the two models.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._known: dict[tuple[str, torch.dtype, int], list[Tensor]] = {}

    @functools.cached_property
    def accelerated(self) -> nn.Module:
        """A copy of the peer with our blocks.

        Raises:
            Skip: it has no blocks that are known.
        """
        network = copy.deepcopy(self.peer.network)
        assert network is not None
        try:
            accelerate(network)
        except InputError as error:
            raise Skip(str(error)) from error
        return network

    @functools.cached_property
    def low(self) -> nn.Module:
        """A copy of ours with weights in bfloat16."""
        return copy.deepcopy(self.peer.ours).bfloat16()

    @functools.cached_property
    def deployed(self) -> Deployed:
        """Ours as files."""
        return Deployed(self.peer.ours, "float32")

    def call(self, provider: str, work: Work) -> Callable[[], Tensor]:
        """What is timed: gives logits, or the loss with gradients left in the parameters.

        Raises:
            Skip: the provider cannot do this here.
        """
        clips = self._clips(work.batch)
        if provider in RUNTIMES:
            deployed = self.deployed.open(provider, work.dtype)
            return lambda: deployed(clips)
        network = self._network(provider, work)
        network.train(work.trains)
        # The trainer's own arithmetic, so that what it does is what is measured.
        runtime = Runtime(torch.device("cpu"), precision="bf16" if work.is_low else "fp32")
        if work.trains:
            # The peer is on its own.
            weights = contextlib.nullcontext() if provider == "peer" else runtime.low_weights(network)
            labels = torch.arange(work.batch) % self.classes

            def step() -> Tensor:
                network.zero_grad(set_to_none=True)
                with weights:
                    with runtime.autocast():
                        loss = F.cross_entropy(network(clips).float(), labels)
                    loss.backward()
                return loss.detach()

            return step
        run = compiled(network) if provider.endswith(COMPILED) else network
        casts = work.is_low and provider in ("ours", "ours_compiled")

        def infer() -> Tensor:
            with torch.no_grad():
                if casts:
                    return run(clips.to(work.dtype))
                with runtime.autocast():
                    return run(clips)

        return infer

    def _network(self, provider: str, work: Work) -> nn.Module:
        if provider.startswith("ours"):
            low = work.is_low and not work.trains and provider != "ours_autocast"
            return self.low if low else self.peer.ours
        if self.peer.network is None:
            raise Skip("there is no peer")
        return self.accelerated if provider == "accelerated" else self.peer.network

    def check(self, provider: str, work: Work, call: Callable[[], Tensor]) -> Verdict | None:
        """Compare a side's results with the truth; None where there is none. It is the first call of the side."""
        is_ours = provider.startswith("ours") or provider in RUNTIMES
        if self.peer.network is None or (is_ours and not self.peer.shares_weights):
            call()
            return None
        low, truth = (self._peers(work, dtype) for dtype in (work.dtype, torch.float32))
        verdict = compare_models(self._results(provider, work, call), low, truth, outputs=1, dtype=work.dtype)
        return dataclasses.replace(verdict, reason=verdict.reason and self._named(verdict.reason))

    def _named(self, reason: str) -> str:
        """What is wrong, with the peer's name in the place of a gradient's number."""
        names = list(self._parameters)
        return re.sub(r"^gradient (\d+)", lambda found: f"the gradient of {names[int(found[1])]}", reason)

    def _results(self, provider: str, work: Work, call: Callable[[], Tensor]) -> list[Tensor]:
        """Logits; or the loss, then gradients in the order of the peer's parameters."""
        out = [call().float()]
        if not work.trains:
            return out
        network = self._network(provider, work)
        if provider.startswith("ours"):
            assert network is self.peer.ours
            found = published_gradients(self.peer.ours)
        else:
            found = {name: x.grad for name, x in network.named_parameters() if x.grad is not None}
        network.zero_grad(set_to_none=True)
        # Parameters that cannot reach the loss have zeros or nothing.
        return out + [self._matching(found, name, x) for name, x in self._parameters.items()]

    @functools.cached_property
    def _parameters(self) -> dict[str, Tensor]:
        assert self.peer.network is not None
        return {name: x for name, x in self.peer.network.named_parameters() if x.requires_grad}

    @staticmethod
    def _matching(found: dict[str, Tensor], name: str, parameter: Tensor) -> Tensor:
        """A gradient by the peer's name, which may have more in front than a published one."""
        key = next((key for key in found if name == key or name.endswith(f".{key}")), None)
        return torch.zeros_like(parameter) if key is None else found[key].reshape(parameter.shape).float()

    def _peers(self, work: Work, dtype: torch.dtype) -> list[Tensor]:
        """The peer's results in one of the dtypes, whatever the threads."""
        place = work.op, dtype, work.batch
        if place not in self._known:
            work = dataclasses.replace(work, dtype=dtype)
            self._known[place] = self._results("peer", work, self.call("peer", work))
        return self._known[place]

    def _clips(self, batch: int) -> Tensor:
        return torch.randn(batch, 3, *self.peer.ours.config.clip_size, generator=torch.Generator().manual_seed(0))

    @property
    def classes(self) -> int:
        """Of the logits."""
        return self.peer.ours.config.num_classes
