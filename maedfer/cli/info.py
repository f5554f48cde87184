"""`maedfer info`: what a model consists of and costs, which models there are, and what this installation has."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from maedfer._values import expand_home, hub_address
from maedfer.cli._parser import add_command, examples, split_items
from maedfer.errors import InputError, unknown


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "info",
        run,
        "print parameters, tokens, regions and multiply-adds of a model",
        "Print parameters, tokens, regions and the multiply-adds of one clip by part: as the published code computes\n"
        "them (nothing folded, nothing pruned) and as this package does. Matrix products and convolutions count.\n\n"
        "MODEL is a name, a folder of save_pretrained, a run folder, or a model of the Hugging Face hub,\n"
        "hf://user/name; without it, the known names are listed.\n"
        "Fields of its configuration can be changed with field=value.",
        examples(
            "maedfer info",
            "maedfer info lgi_former_base",
            "maedfer info lgi_former_base inter_region=false interaction=none",
            "maedfer info lgi_former_base region_size=[1,5,10] --json",
            "maedfer info mae_dfer_base encoder.region_size=[2,2,10]",
            "maedfer info runs/dfew",
            "maedfer info --build",
        ),
    )
    parser.usage = "maedfer info [MODEL] [field=value ...] [options]"
    parser.add_argument("items", nargs="*", metavar="MODEL, field=value", help="model and changes to it, see above")
    parser.add_argument("--json", action="store_true", help="print JSON (counts are whole numbers)")
    parser.add_argument(
        "--build", action="store_true", help="print versions, what of csrc was compiled, and what auto means here"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    model, overrides = split_items(args.items, "model")
    if args.build:
        if args.items:
            raise InputError("info --build takes no model")
        from maedfer.doctor.build import build

        _show(build(), args.json)
        return 0
    from maedfer.models import list_models

    if model is None:
        if overrides:
            raise InputError(f"info {overrides[0]} changes a model: name one before it ({', '.join(list_models())})")
        _show({"models": list_models()} if args.json else list_models(), args.json)
        return 0
    facts = describe(model, overrides)
    print(json.dumps(facts, indent=2) if args.json else _table(facts))
    return 0


def describe(model: str, overrides: list[str]) -> dict[str, Any]:
    """Facts about a model as plain values.

    Args:
        model: name, folder of save_pretrained, or run folder.
        overrides: `field=value`, with or without a leading "model.".

    Raises:
        InputError: no such model, field or value.
    """
    from maedfer.dataclass_tree import to_dict
    from maedfer.models.profile import profile

    config = _config(model, overrides)
    cost = profile(config)
    clip = getattr(config, "encoder", config) if hasattr(config, "decoder_dim") else config
    return {
        "model": model,
        "class": "MAEDFER" if clip is not config else "LGIFormer",
        "parameters": cost.parameters,
        "tokens": cost.tokens,
        "token_grid": list(clip.grid),
        "regions": cost.regions,
        "region_size": list(clip.region),
        "region_tokens": clip.region_tokens,
        "macs_published": {**cost.macs_published, "total": sum(cost.macs_published.values())},
        "macs_executed": {**cost.macs_executed, "total": sum(cost.macs_executed.values())},
        "flops_per_train_clip": cost.flops_per_train_clip,
        "config": to_dict(config),
    }


def _config(model: str, overrides: list[str]) -> Any:
    from maedfer.dataclass_tree import former_names, from_dict, set_key, split_override
    from maedfer.models import MAEDFERConfig, list_models, model_config
    from maedfer.models.config import full_key
    from maedfer.train.recipes import read_section

    base = model_config(model) if model in list_models() else _saved_config(expand_home(model))
    kind: Any = type(base)
    changes: dict[str, Any] = {}
    for override in overrides:
        for key, value in split_override(kind, override.removeprefix("model."), read_section):
            whole = full_key(key) if kind is MAEDFERConfig else key
            set_key(changes, former_names(kind).get(whole, whole), value)
    return model_config(model, **changes) if model in list_models() else from_dict(kind, changes, base)


def _saved_config(model: str) -> Any:
    from maedfer.models import list_models
    from maedfer.models.hub import on_disk
    from maedfer.models.serialization import CONFIG_FILE, read_config

    if hub_address(model) is not None:
        return read_config(on_disk(model, (CONFIG_FILE,)))
    for folder in (Path(model), Path(model) / "model"):
        if (folder / CONFIG_FILE).is_file():
            return read_config(folder)
    if (Path(model) / "config.yaml").is_file():
        from maedfer.train.config import read_config as read_run

        return read_run(Path(model) / "config.yaml").model
    if Path(model).is_dir():
        raise InputError(f"folder {model!r} holds neither a saved model ({CONFIG_FILE}) nor a run (config.yaml)")
    if Path(model).is_file():
        raise InputError(f"{model!r} is a file: make a folder of it with maedfer convert {model} FOLDER first")
    raise unknown("model", model, list_models())


def _show(facts: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2))
    elif isinstance(facts, dict):
        from maedfer.doctor.build import PACKAGES

        width = max(map(len, facts))
        for key, value in facts.items():
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            print(f"{key:<{width}}  {'not installed' if key in PACKAGES and value is None else text}")
    else:
        print("\n".join(facts))


def _table(facts: dict[str, Any]) -> str:
    def sizes(values: list[int]) -> str:
        return " x ".join(map(str, values))

    config = facts["config"]
    clip = config.get("encoder") if facts["class"] == "MAEDFER" else config
    head = {
        "parameters": f"{facts['parameters'] / 1e6:.2f} M",
        "clip": f"{sizes(clip['clip_size'])}, cubes of {sizes(clip['patch_size'])}",
        "tokens": f"{facts['tokens']} ({sizes(facts['token_grid'])})",
        "regions": f"{facts['regions']} of {facts['region_tokens']} tokens ({sizes(facts['region_size'])})",
        "training": f"{facts['flops_per_train_clip'] / 1e9:.1f} GFLOP a clip, forward and backward",
    }
    lines = [f"{facts['model']} ({facts['class']})", *(f"  {key:<12}{value}" for key, value in head.items()), ""]
    published, executed = facts["macs_published"], facts["macs_executed"]
    parts = [*dict.fromkeys([*published, *executed])]
    parts.append(parts.pop(parts.index("total")))
    width = max(30, *(len(part) + 4 for part in parts))
    lines.append(f"{'multiply-adds of one clip (G)':<{width}}{'published plan':>16}{'executed plan':>16}")
    for part in parts:
        values = (f"{plan[part] / 1e9:.2f}" if part in plan else "-" for plan in (published, executed))
        lines.append(f"  {part:<{width - 2}}" + "".join(f"{value:>16}" for value in values))
    return "\n".join(lines)
