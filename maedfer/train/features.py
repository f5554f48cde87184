"""Features of the clips of a list by any model, pre-trained or fine-tuned, as a command computes them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maedfer import __version__
from maedfer._progress import ProgressLine
from maedfer.errors import InputError
from maedfer.evaluation.features import Features, check_format, extract_features, feature_extractor, write_features
from maedfer.evaluation.score import check_finite
from maedfer.models import LGIFormer
from maedfer.models.load import load_path
from maedfer.train.config import RunConfig, load_config
from maedfer.train.evaluate import for_this_machine
from maedfer.train.loader import ViewBatches
from maedfer.train.processes import Runtime, start


def features_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings that clips are read by: those of the run that made the model, or kept with it, and overrides.

    Args:
        source: what `maedfer.load` takes.
        overrides: `section.key=value`, as for an evaluation; `data.test` is the list.

    Raises:
        InputError: unknown key, a value of the wrong type, or no list.
    """
    cfg = load_config("evaluate", None, overrides, check=False, first={"eval.checkpoint": str(source)})
    if not cfg.data.test:
        raise InputError("data.test is not set: give the annotation file of the clips, with labels or without")
    return cfg


def run_features(cfg: RunConfig, out: Sequence[str | Path] = (), per_view: bool = False) -> Features:
    """Compute the features of the clips of `data.test` and write them down.

    Args:
        cfg: from `features_config`.
        out: files to write, see `maedfer.evaluation.write_features`.
        per_view: keep the features of each temporal view instead of their mean.

    Raises:
        InputError: naming what cannot be used, or a clip that cannot be read (all of them, where `eval.on_error` is
            "skip").
    """
    for path in out:
        check_file(Path(path))
    with start(cfg) as runtime:
        loaded = load_path(cfg.eval.checkpoint)
        check_finite(loaded, repr(cfg.eval.checkpoint))
        model, cfg = for_this_machine(feature_extractor(loaded), cfg)
        model.to(runtime.device)
        batches = ViewBatches(cfg, runtime, cfg.data.test, labelled=False)
        line = ProgressLine("features")
        with runtime.low_weights(model):
            found = extract_features(
                model,
                batches,
                names=[clip.name for clip in batches.entries],
                labels=batches.labels,
                views=batches.views,
                per_view=per_view,
                device=runtime.device,
                autocast=runtime.autocast,
                replay=runtime.compiling.scoring,
                gather=runtime.gather,
                progress=(lambda done: line(batches.share(done))) if runtime.main else None,
            )
        if runtime.main:
            line.clear()
        found = dataclasses.replace(found, about=_about(cfg, runtime, type(loaded).__name__, model, per_view))
        runtime.on_main(lambda: [write_features(path, found) for path in out], "writes features", long=True)
    return found


def check_file(path: Path) -> None:
    """Refuse a file that features cannot be written to, before they are computed.

    Raises:
        InputError: its name has another end, or its folder is absent or cannot be written.
    """
    check_format(path)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{str(path)!r} cannot be written: give a file in a folder that exists and can be written")


def _about(cfg: RunConfig, runtime: Runtime, kind: str, model: LGIFormer, per_view: bool) -> dict[str, Any]:
    config = model.config
    tokens = {"region": "representative tokens", "local": "local tokens", "all": "all tokens"}[config.token_type]
    pooled = tokens if config.architecture == "lgi" else "all tokens"
    norm = "the LayerNorm before its head" if kind != "MAEDFER" else "a LayerNorm that is not trained"
    return {
        "maedfer": __version__,
        "model": cfg.eval.checkpoint,
        "kind": kind,
        "features": f"mean of the {pooled} after the last block, through {norm}",
        "list": cfg.data.test,
        "root": cfg.data.root,
        "classes": list(cfg.data.classes),
        "clip_size": list(config.clip_size),
        "stride": cfg.data.stride,
        "fit": cfg.data.fit,
        "views": cfg.eval.views,
        "per_view": per_view,
        "precision": runtime.precision,
        "notes": [runtime.precision_why] if runtime.precision_why else [],
    }
