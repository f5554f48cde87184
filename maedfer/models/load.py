"""`load`: a model from wherever its weights lie. No code in a file is ever run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer.dataclass_tree import from_dict, to_dict, without
from maedfer.errors import InputError
from maedfer.models.build import build_model, from_pretrained
from maedfer.models.config import model_config
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.published.checkpoints import published_model, read_checkpoint
from maedfer.models.serialization import CONFIG_FILE, WEIGHTS_FILE, is_saved_model

# What a checkpoint of a run says under "format".
RUN_FORMAT = "maedfer-run-1"


def load(source: str | Path, *, args: Mapping[str, Any] | argparse.Namespace | None = None) -> LGIFormer | MAEDFER:
    """Load a model, in evaluation mode, on the CPU.

    Args:
        source: a folder of `save_pretrained`, the folder of a run that has ended (its model/), a checkpoint of a run
            (.pt; the moving average where there is one), or a published file: MAE-DFER's or VideoMAE's, which of the
            two and whether pre-trained or fine-tuned is told from the names of the weights.
        args: for a published file, constructor arguments that neither file nor weights tell (see `load_published`).

    Raises:
        InputError: there is no such thing, it is damaged, or it holds code.
    """
    path = Path(source)
    if path.is_dir():
        folder = _model_folder(path)
        _refuse(args, f"{str(source)!r} has a configuration")
        return from_pretrained(folder)
    if not path.is_file():
        raise InputError(f"{str(source)!r} does not exist: give a saved model, a run folder, or a checkpoint file")
    if path.name in (CONFIG_FILE, WEIGHTS_FILE) and is_saved_model(path.parent):
        raise InputError(f"{str(source)!r} is a part of a saved model: give its folder, {str(path.parent)!r}")
    content = read_checkpoint(path)
    if isinstance(content, dict) and content.get("format") == RUN_FORMAT:
        _refuse(args, f"{str(source)!r} is a checkpoint of a run")
        return _from_run(content, str(source))
    return published_model(content, str(source), args=args)


def _model_folder(path: Path) -> Path:
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if (path / "checkpoints" / "last.pt").is_file():
        raise InputError(f"run {str(path)!r} has not ended: finish it, or give its checkpoints/last.pt")
    raise InputError(f"{str(path)!r} is neither a saved model (it has no {CONFIG_FILE}) nor a run folder")


def _refuse(args: object, why: str) -> None:
    if args is not None:
        raise InputError(f"{why}: args are for published files only")


def _from_run(content: Mapping[str, Any], source: str) -> LGIFormer | MAEDFER:
    """The model of a run's checkpoint, whose settings are in the layout of a recipe."""
    try:
        settings = dict(content["config"]["model"])
        config = model_config(settings.pop("name"), **settings)
        # Who computes belongs to the machine that made the checkpoint, as with a saved model.
        kind = type(config)
        model = build_model(from_dict(kind, without(kind, to_dict(config), "machine")))
        model.load_state_dict(content.get("ema") or content["model"])
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{source} is not a whole checkpoint of a run: it lacks weights or settings") from error
    return model.eval()
