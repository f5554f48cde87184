"""`load`: a model from wherever its weights lie. No code in a file is ever run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer._values import expand_home, hub_address, hub_name
from maedfer.dataclass_tree import from_dict, to_dict, without
from maedfer.errors import InputError
from maedfer.models.build import build_model, from_pretrained
from maedfer.models.clip_settings import ClipSettings
from maedfer.models.config import model_config
from maedfer.models.digest import fits_digest
from maedfer.models.hub import named, on_disk
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.lora import ALPHA
from maedfer.models.low_rank import merge_state
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.published.checkpoints import SETTINGS_KEY, published_model
from maedfer.models.published.sources import deepspeed_folder, instead, read_source
from maedfer.models.published.videomae_config import PREPROCESSOR_FILE
from maedfer.models.serialization import (
    CONFIG_FILE,
    MODEL_TYPES,
    WEIGHTS_FILE,
    holding_values,
    is_own,
    is_saved_model,
    read_clip_settings,
    read_settings,
)

# What a checkpoint of a run says under "format".
RUN_FORMAT = "maedfer-run-1"
# What a checkpoint in parts says in a file of this name.
SHARDED_FORMAT, SHARDED_MARKER = "maedfer-sharded-1", "complete.json"


def load(
    source: str | Path,
    *,
    args: Mapping[str, Any] | argparse.Namespace | None = None,
    revision: str | None = None,
) -> LGIFormer | MAEDFER:
    """Load a model, in evaluation mode, on the CPU.

    Args:
        source: a folder of `save_pretrained`, the folder of a run that has ended (its model/), a checkpoint of a run
            (.pt; the moving average where there is one), or what other people's code has written: a file of MAE-DFER
            or VideoMAE, a folder of transformers (its config.json is read) or of DeepSpeed. Which of the two and
            whether pre-trained or fine-tuned is told from the names of the weights. A leading ~ is the home folder.
            Or a model on the Hugging Face hub: "hf://user/name", "hf://user/name@revision", or "user/name" where there
            is no such path here; its config.json and model.safetensors are read, and put into the cache.
        args: for other people's weights, constructor arguments that nothing with them tells (see `load_published`).
        revision: of a model on the hub, a branch, tag or commit.

    Raises:
        InputError: there is no such thing, it is damaged, or it holds code.
        MissingDependencyError: the hub was named and huggingface_hub is not installed.
    """
    return load_path(named(source, revision), args)


def load_path(source: str | Path, args: Mapping[str, Any] | argparse.Namespace | None = None) -> LGIFormer | MAEDFER:
    """`load` of what a command line or a setting names: a path that was mistyped is not looked for on the hub."""
    if hub_address(str(source)) is not None:
        return _from_hub(str(source), args)
    path = _existing(source)
    if os.path.isdir(path):
        if (path / SHARDED_MARKER).is_file():
            raise InputError(
                f"{str(source)!r} is a sharded checkpoint of a run: "
                f"'maedfer convert {source} OUT' makes a model or one file of it"
            )
        folder = _model_folder(path)
        if folder is None:
            return published_model(read_source(path), args=args)
        _refuse(args, f"{str(source)!r} has a configuration")
        return from_pretrained(folder)
    if path.name in (CONFIG_FILE, WEIGHTS_FILE) and is_saved_model(path.parent):
        raise InputError(f"{str(source)!r} is a part of a saved model: give its folder, {str(path.parent)!r}")
    if path.name == CONFIG_FILE and os.path.isfile(path):
        raise InputError(f"{str(source)!r} describes a model: give its folder, {str(path.parent)!r}")
    found = read_source(path)
    if isinstance(found.content, dict) and found.content.get("format") == RUN_FORMAT:
        _refuse(args, f"{str(source)!r} is a checkpoint of a run")
        return model_of_run(found.content, str(source))
    return published_model(found, args=args)


def saved_clip_settings(source: str | Path) -> ClipSettings | None:
    """The class names of what `load` takes, and how it reads clips; None where that is not kept with it.

    Raises:
        InputError: it is damaged. What does not exist has nothing to tell.
    """
    if hub_address(str(source)) is not None:
        settings, ours = _hub_settings(str(source))
        return read_clip_settings(settings) if ours else load_path(source).clip_settings
    path = Path(expand_home(str(source)))
    if (folder := saved_folder(path)) is not None:
        return read_clip_settings(folder)
    if os.path.isdir(path):
        return load(path).clip_settings if os.path.isfile(path / CONFIG_FILE) else None
    # The weights of a saved model say nothing, and cannot be given by themselves.
    if not os.path.isfile(path) or path.name == CONFIG_FILE or is_saved_model(path.parent):
        return None
    content = read_source(path).content
    if isinstance(content, dict) and content.get("format") == RUN_FORMAT:
        return ClipSettings.of_run(content.get("config") or {})
    beside = os.path.isfile(path.parent / CONFIG_FILE) or (isinstance(content, dict) and SETTINGS_KEY in content)
    return load(path).clip_settings if beside else None


def saved_folder(source: str | Path) -> Path | None:
    """The folder with config.json and weights that `load` would read; None where it would read other files."""
    if hub_address(str(source)) is not None:
        return on_disk(source) if _hub_settings(str(source))[1] else None
    path = Path(expand_home(str(source)))
    return next((folder for folder in (path, path / "model") if os.path.isdir(path) and is_saved_model(folder)), None)


def _existing(source: str | Path) -> Path:
    """The path, which must be there; a leading ~ is the home folder."""
    path = Path(expand_home(str(source)))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{str(source)!r} does not exist: give a saved model, a run folder, or a checkpoint file{_or_hub(source)}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(source)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return path


def _model_folder(path: Path) -> Path | None:
    """The folder of `save_pretrained` in or at `path`; None for one of other people's code."""
    if os.path.isfile(path / CONFIG_FILE):
        kind = read_settings(path).get("model_type")
        if is_own(kind):
            return path
        if kind != "videomae":
            known = ", ".join([*MODEL_TYPES, "videomae"])
            raise InputError(f"{path / CONFIG_FILE}: model_type is {kind!r}, expected one of {known}")
        return None
    if os.path.isfile(path / "model" / CONFIG_FILE):
        return path / "model"
    if deepspeed_folder(path):
        return None
    for name in ("last.pt", "previous.pt"):
        if os.path.isfile(path / "checkpoints" / name):
            raise InputError(f"run {str(path)!r} has not ended: finish it, or give its checkpoints/{name}")
    raise InputError(
        f"{str(path)!r} is neither a saved model (it has no {CONFIG_FILE}) nor a run folder: {instead(path)}"
        f"{_or_hub(path)}"
    )


def _or_hub(source: str | Path) -> str:
    """What else may have been meant by a path that looks like the name of a model on the hub."""
    found = hub_name(str(source))
    return "" if found is None else f"; a model of the Hugging Face hub is {found}"


def _hub_settings(source: str) -> tuple[Path, bool]:
    """The folder in the cache with the config.json of a model on the hub, and whether that is one of ours.

    Its weights, which may be large, are not asked for yet.

    Raises:
        InputError: the model is of another kind than any that can be read.
    """
    folder = on_disk(source, (CONFIG_FILE,))
    kind = read_settings(folder).get("model_type")
    if not (is_own(kind) or kind == "videomae"):
        known = ", ".join([*MODEL_TYPES, "videomae"])
        raise InputError(f"{source}: model_type is {kind!r} in its {CONFIG_FILE}, expected one of {known}")
    return folder, is_own(kind)


def _from_hub(source: str, args: Mapping[str, Any] | argparse.Namespace | None) -> LGIFormer | MAEDFER:
    """A model of the hub, by config.json and model.safetensors alone."""
    _, ours = _hub_settings(source)
    if not ours:
        folder = on_disk(source, optional=(PREPROCESSOR_FILE,))
        # The file, and not its folder, in which other programs may have put what is not to be read.
        return published_model(read_source(folder / WEIGHTS_FILE), args=args)
    _refuse(args, f"{source!r} has a configuration")
    return from_pretrained(on_disk(source))


def _refuse(args: object, why: str) -> None:
    if args is not None:
        raise InputError(f"{why}: args are for published files only")


def model_of_run(content: Mapping[str, Any], source: str) -> LGIFormer | MAEDFER:
    """The model of a run's checkpoint, whose settings are in the layout of a recipe."""
    if not fits_digest(content):
        raise InputError(
            f"{source} is damaged, or was changed after it was written: its digest does not fit what it holds: give "
            "another checkpoint of the run"
        )
    try:
        settings = dict(content["config"]["model"])
        config = model_config(settings.pop("name"), **settings)
        # Who computes belongs to the machine that made the checkpoint, as with a saved model.
        kind = type(config)
        with holding_values():
            model = build_model(from_dict(kind, without(kind, to_dict(config), "machine")))
        # A run that trains LoRA keeps it by itself.
        alpha = (content["config"].get("train") or {}).get("lora_alpha") or ALPHA
        model.load_state_dict(merge_state(content.get("ema") or content["model"], alpha))
        model.clip_settings = ClipSettings.of_run(content["config"])
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{source} is not a whole checkpoint of a run: it lacks weights or settings") from error
    return model.eval()
