"""One block, inference, training step and pre-training step as workloads, with the ViT baseline beside them.

Weights are float32; below float32 everything runs under autocast. All providers of a family start from the same
weights. A classifier's training step is forward, cross entropy, backward and AdamW; clips are bytes on the device, so
that no loader takes part, and are not mixed, as the truth is computed in parts. Least bytes: inputs and weights read
once, in training also what the optimiser reads and writes; activations are left out, because the least of them depends
on what is recomputed. Operations: those of the executed plan (maedfer.models.profile), three times as many in training.
The ViT baseline is stock PyTorch with scaled_dot_product_attention: our kernels take no part in it. Under autocast the
residual stream of LGI-Former is in autocast's dtype for "ours" and "reference", float32 for "published_plan" as in the
published code. The runtimes that a trained model could be deployed in are in deployed.py.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import deployed
from benchmarks.measure import Timed
from benchmarks.operation import Function, candidate, compiled, results
from benchmarks.operations import small_autoencoder
from benchmarks.published_plan import PublishedPlan
from benchmarks.workload import (
    Builders,
    Candidate,
    Cost,
    Settings,
    Skip,
    Verdict,
    Workload,
    compare_models,
    nbytes,
)
from maedfer.evaluation.replay import Passes
from maedfer.kernels import Impl, use_impl
from maedfer.models import MAEDFER, LGIFormerConfig, MAEDFERConfig, ModelConfig, build_model, model_config, profile
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.low_precision import low_precision_weights

Sizes = dict[str, Any]

# The truth is computed for so many clips at once, so that float32 activations of a large batch need not fit.
_CHUNK = 8
# Losses of the first steps are kept.
_LOSSES = 3

_TINY = {"clip_size": (4, 32, 32), "patch_size": (2, 8, 8), "embed_dim": 32, "depth": 2, "num_heads": 2}


class TrainingLoss(nn.Module):
    """Pre-training's loss as a module of its own, for what wraps modules."""

    def __init__(self, model: MAEDFER) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, visible: Tensor, wanted: Tensor) -> Tensor:
        """The loss of uint8 frames."""
        return self.model.training_loss(frames, visible, wanted)["loss"]


class Family:
    """A network, its inputs, and one step or forward pass of it.

    Args:
        settings: of the run.
        config: of the network.
        batch: clips.
        trains: whether a call is a training step; else it is inference.
    """

    def __init__(self, settings: Settings, config: ModelConfig, batch: int, trains: bool) -> None:
        torch.manual_seed(0)
        self.settings, self.config, self.trains = settings, config, trains
        self.network = build_model(config)
        self.inputs = self._inputs(batch)

    def _inputs(self, batch: int) -> tuple[Tensor, ...]:
        device, config = self.settings.device, self.config
        if isinstance(config, MAEDFERConfig):
            assert isinstance(self.network, MAEDFER)
            numbers = self.network.token_numbers(*self.network.random_masks(batch))
            frames = torch.randint(0, 256, (batch, 3, *config.encoder.clip_size), dtype=torch.uint8)
            return tuple(part.to(device) for part in (frames, *numbers))
        clips = torch.randint(0, 256, (batch, 3, *config.clip_size), dtype=torch.uint8, device=device)
        return (clips, torch.randint(config.num_classes, (batch,), device=device)) if self.trains else (clips,)

    def fresh(self) -> nn.Module:
        """A copy of the network with the weights that all start from."""
        network = copy.deepcopy(self.network).to(self.settings.device)
        step = TrainingLoss(network) if isinstance(network, MAEDFER) else network
        return step.train(self.trains)

    def outcome(self, call: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """The loss of a training step, or logits."""
        if isinstance(self.config, MAEDFERConfig):
            return call(*inputs)
        if self.trains:
            return F.cross_entropy(call(inputs[0]).float(), inputs[1])
        return call(inputs[0])

    def results(
        self, network: nn.Module, call: Callable[..., Tensor], inputs: Sequence[Tensor], precise: bool = False
    ) -> list[Tensor]:
        """Logits; or the loss, then every gradient. With `precise`, in float32 whatever the run has."""
        if not self.trains:
            with torch.no_grad(), autocast(self.settings, precise):
                return [self.outcome(call, inputs).float()]
        with autocast(self.settings, precise):
            loss = self.outcome(call, inputs)
        # The last block's interaction cannot reach the head, so that some parameters get no gradient.
        return [loss.detach(), *torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)]

    @functools.cached_property
    def truth(self) -> tuple[list[Tensor], list[Tensor]]:
        """The reference's results in the precision of the run, and in float32."""
        network = self.fresh()
        exact = self._chunked(network, precise=True)
        return (exact, exact) if self.settings.dtype == torch.float32 else (self._chunked(network, False), exact)

    def _chunked(self, network: nn.Module, precise: bool) -> list[Tensor]:
        total: list[Tensor] = []
        batch = len(self.inputs[0])
        for start in range(0, batch, _CHUNK):
            part = [x[start : start + _CHUNK] for x in self.inputs]
            with use_impl("reference"):
                found = self.results(network, network, part, precise)
            if self.trains:
                share = len(part[0]) / batch
                found = [x * share for x in found]
                total = [a.add_(b) for a, b in zip(total, found, strict=True)] if total else found
            else:
                total = [torch.cat([*total, *found])]
        return total

    @functools.cached_property
    def cost(self) -> Cost:
        """The least work of one call."""
        macs = sum(profile(self.config).macs_executed.values())
        batch, weights = len(self.inputs[0]), nbytes(self.network.parameters())
        if not self.trains:
            return Cost(nbytes(self.inputs) + weights, 2 * macs * batch)
        # Weights read once for products; gradients written and read, weights and two moments read and written.
        return Cost(nbytes(self.inputs) + 9 * weights, 3 * 2 * macs * batch)

    def candidate(
        self, impl: Impl = "auto", wrap: Callable[[Any], Callable[..., Tensor]] = lambda network: network
    ) -> Candidate:
        """A provider: the network by an implementation, wrapped by a compiler or the like."""
        network = self.fresh()
        low_weights, call = self._low_weights(network, impl), wrap(network)
        weights = nbytes(network.parameters())

        def judge() -> Verdict:
            with use_impl(impl), low_weights:
                got = self.results(network, call, self.inputs)
            verdict = compare_models(got, *self.truth, outputs=1, dtype=self.settings.dtype)
            if not self.trains or verdict.reason:
                return verdict
            losses = tuple(float(step()) for _ in range(_LOSSES))
            return Verdict(verdict.error, None, losses)

        def infer(_: Any = None) -> Tensor:
            with use_impl(impl), low_weights, torch.no_grad(), autocast(self.settings):
                return self.outcome(call, self.inputs)

        if not self.trains:
            return Candidate(judge, {"forward": Timed(infer)}, {"forward": self.cost}, weights)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

        def step(_: Any = None) -> Tensor:
            with use_impl(impl), low_weights:
                with autocast(self.settings):
                    loss = self.outcome(call, self.inputs)
                loss.backward()
            optimizer.step()
            # Here and not before: between calls only weights and moments are there.
            optimizer.zero_grad()
            return loss.detach()

        return Candidate(judge, {"step": Timed(step)}, {"step": self.cost}, 3 * weights)

    def _low_weights(self, network: nn.Module, impl: Impl) -> contextlib.AbstractContextManager[Any]:
        """What is done on a GPU: weights are in the products' dtype, written once a step, or once for all clips."""
        if impl != "auto" or self.settings.device != "cuda":
            return contextlib.nullcontext()
        copies = low_precision_weights(network, self.settings.dtype)
        if not self.trains:
            # Never left, so that all calls lie in one block.
            copies.__enter__()
        return copies

    def replayed(self) -> Candidate:
        """Ours, replayed as a CUDA graph in the way that clips are scored."""
        if self.settings.device != "cuda":
            raise Skip("CUDA graphs need a GPU")

        def wrap(network: nn.Module) -> Callable[[Tensor], Tensor]:
            def run(clips: Tensor) -> tuple[Tensor]:
                with autocast(self.settings):
                    return (network(clips),)

            passes = Passes(run, self.settings.device, replay=True)
            # The second one is captured.
            with torch.no_grad():
                for _ in range(2):
                    passes(*self.inputs)

            def call(clips: Tensor) -> Tensor:
                (logits,) = passes(clips)
                assert logits is not None
                return logits

            return call

        return self.candidate(wrap=wrap)


def autocast(settings: Settings, precise: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Autocast to the dtype of a run; nothing for float32 or with `precise`."""
    if precise or settings.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(settings.device, settings.dtype)


def classifier(settings: Settings, kind: str = "lgi_former", **changes: Any) -> LGIFormerConfig:
    """The base classifier, or a small one; its head has weights of the usual size, so that logits can be compared."""
    tiny = {**_TINY, "region_size": (1, 2, 2)} if settings.small else {}
    config = model_config(f"{kind}_base", init_scale=1.0, **{**tiny, **changes})
    assert isinstance(config, LGIFormerConfig)
    return config


def _classifiers(trains: bool) -> Callable[[Settings, Sizes], Builders]:
    def prepare(settings: Settings, sizes: Sizes) -> Builders:
        lgi, vit = (lazily(settings, classifier(settings, kind), sizes["B"], trains) for kind in ("lgi_former", "vit"))
        return {
            "ours": lambda: lgi().candidate(),
            **({} if trains else {"ours_graph": lambda: lgi().replayed()}),
            "reference": lambda: lgi().candidate("reference"),
            "published_plan": lambda: lgi().candidate("reference", PublishedPlan),
            "vit_sdpa": lambda: vit().candidate("reference"),
            **({} if trains else deployed.providers(lgi, settings)),
            # Last, because compiling takes long.
            **({"ours_compiled": lambda: lgi().candidate(wrap=trained)} if trains else {}),
            "reference_compiled": lambda: lgi().candidate("reference", compiled),
            "vit_sdpa_compiled": lambda: vit().candidate("reference", compiled),
        }

    return prepare


def _pretraining(settings: Settings, sizes: Sizes) -> Builders:
    config = small_autoencoder() if settings.small else model_config("mae_dfer_base")
    mae = lazily(settings, config, sizes["B"], trains=True)
    return {
        "ours": lambda: mae().candidate(),
        "reference": lambda: mae().candidate("reference"),
        "ours_compiled": lambda: mae().candidate(wrap=trained),
        "reference_compiled": lambda: mae().candidate("reference", compiled),
    }


def trained(network: nn.Module) -> Callable[..., Tensor]:
    """A network as the trainer runs it on a GPU: compiled and replayed as CUDA graphs."""
    return compiled(network, mode="reduce-overhead")


def lazily(settings: Settings, config: ModelConfig, batch: int, trains: bool) -> Callable[[], Family]:
    """A family that is made when its first provider is."""
    return functools.cache(lambda: Family(settings, config, batch, trains))


def _block(settings: Settings, sizes: Sizes) -> Builders:
    torch.manual_seed(0)
    # One block and all its rows: nothing is left out as in a classifier's last block.
    config = classifier(settings, depth=1, token_type="all", num_classes=0)
    block = LGIBlock.from_config(config).to(settings.device)
    shape = sizes["B"], config.num_regions, 1 + config.region_tokens, config.embed_dim
    # The stream as it is between the blocks of a model.
    z = torch.randn(shape, dtype=settings.dtype, device=settings.device, requires_grad=True)
    inputs, gradients = [z, *block.parameters()], [torch.randn_like(z)]
    macs = profile(config).macs_executed
    flops = 2 * (sum(macs.values()) - macs["embedding"] - macs["head"]) * sizes["B"]
    forward = Cost(nbytes(inputs) + z.nbytes, flops)
    backward = Cost(2 * nbytes(inputs) + z.nbytes, 2 * flops)
    costs = {"forward": forward, "backward": backward, "both": forward + backward}

    def function(impl: Impl, call: Callable[[Tensor], Tensor] = block, precise: bool = False) -> Function:
        def run(x: Tensor, *parameters: Tensor) -> Tensor:
            with use_impl(impl), autocast(settings, precise):
                return call(x)

        return run

    @functools.cache
    def truth() -> tuple[list[Tensor], list[Tensor]]:
        wide = [z.detach().float().requires_grad_(), *block.parameters()]
        exact = results(function("reference", precise=True), wide, [gradients[0].float()])
        return results(function("reference"), inputs, gradients), exact

    def judge(got: list[Tensor]) -> Verdict:
        return compare_models(got, *truth(), outputs=1, dtype=settings.dtype)

    def builder(make: Callable[[], Function]) -> Callable[[], Candidate]:
        return lambda: candidate(make(), inputs, gradients, judge, costs)

    return {
        "ours": builder(lambda: function("auto")),
        "reference": builder(lambda: function("reference")),
        "reference_compiled": builder(lambda: function("reference", compiled(block))),
    }


def _one_and_many(settings: Settings) -> dict[str, Sizes]:
    return {f"B={batch}": {"B": batch} for batch in sorted({1, settings.batch}, reverse=True)}


def _whole_batch(settings: Settings) -> dict[str, Sizes]:
    return {f"B={settings.batch}": {"B": settings.batch}}


def _double_batch(settings: Settings) -> dict[str, Sizes]:
    return {f"B={2 * settings.batch}": {"B": 2 * settings.batch}}


MODELS = (
    Workload("finetune_step", _whole_batch, _classifiers(trains=True)),
    Workload("inference", _one_and_many, _classifiers(trains=False)),
    Workload("pretrain_step", _double_batch, _pretraining),
    Workload("block", _whole_batch, _block),
)
