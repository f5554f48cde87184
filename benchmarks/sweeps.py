"""Inference and training step over batch, clip length, resolution and region size: how the cost grows with the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.model_steps import classifier, lazily
from benchmarks.workload import Builders, Settings, Workload

Sizes = dict[str, Any]


def _sweep(trains: bool) -> Callable[[Settings, Sizes], Builders]:
    def prepare(settings: Settings, sizes: Sizes) -> Builders:
        changes = {"clip_size": sizes["clip"], "region_size": sizes["region"]}
        lgi, vit = (
            lazily(settings, classifier(settings, kind, **changes), sizes["B"], trains)
            for kind in ("lgi_former", "vit")
        )
        return {"ours": lambda: lgi().candidate(), "vit_sdpa": lambda: vit().candidate("reference")}

    return prepare


def _sweep_sizes(trains: bool) -> Callable[[Settings], dict[str, Sizes]]:
    """Label -> sizes; one thing changes at a time, and "base" begins every series."""

    def sizes(settings: Settings) -> dict[str, Sizes]:
        if settings.small:
            base: Sizes = {"B": 1, "clip": (4, 32, 32), "region": (1, 2, 2)}
            return {"base": base, "frames=8": {**base, "clip": (8, 32, 32)}}
        cuda = settings.device == "cuda"
        # Eight clips fill a GPU; a processor is filled by one, and training on it is too slow for long series.
        base = {"B": 8 if cuda else 1, "clip": (16, 160, 160), "region": (2, 5, 10)}
        if trains and not cuda:
            return {"base": base, "frames=32": {**base, "clip": (32, 160, 160)}}
        regions = ((1, 5, 10), (2, 2, 10), (2, 10, 10), (4, 5, 10))
        return {
            "base": base,
            **{f"batch={b}": {**base, "B": b} for b in (1, 2, 4, 16, 32, 64) if cuda},
            **{f"frames={t}": {**base, "clip": (t, 160, 160)} for t in (32, 64)},
            "pixels=320": {**base, "clip": (16, 320, 320)},
            **{"region=" + "x".join(map(str, r)): {**base, "region": r} for r in regions},
        }

    return sizes


def _tokens(settings: Settings, sizes: Sizes) -> int:
    return classifier(settings, clip_size=sizes["clip"], region_size=sizes["region"]).num_tokens


SWEEPS = (
    Workload("sweep_inference", _sweep_sizes(trains=False), _sweep(trains=False), in_sweep=True, tokens=_tokens),
    Workload("sweep_step", _sweep_sizes(trains=True), _sweep(trains=True), in_sweep=True, tokens=_tokens),
)
