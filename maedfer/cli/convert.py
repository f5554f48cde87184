"""`maedfer convert`: between published checkpoints and saved models; one file of a sharded checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer._files import parse_json, read_file
from maedfer._values import expand_home
from maedfer.cli._parser import add_command, examples, path
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "convert",
        run,
        "convert a published checkpoint into a model folder, or back",
        "Convert a published checkpoint into a folder with config.json and model.safetensors, which maedfer.load,\n"
        "train.init and eval.checkpoint read; or, with --to published, such a folder, a run folder or a checkpoint of\n"
        "a run into a .pth under the published parameter names, with the arguments beside them that make the same\n"
        "model when it is read here again. Values are kept bit for bit, no key is left out, and a file that holds\n"
        "anything but weights and plain arguments is refused. Weights of VideoMAE in the layout of Hugging Face are\n"
        "read too, as a file or as the folder that from_pretrained takes; the config.json in it says the number of\n"
        "heads and the size of the clips. A sharded checkpoint of a run (train.checkpoint=sharded) becomes one\n"
        "file to go on from where OUT ends in .pt, else a model folder.",
        examples(
            "maedfer convert checkpoint-49.pth models/voxceleb2 --task pretrain",
            "maedfer convert dfew_fold1.pth models/dfew1 --task finetune",
            "maedfer convert weights.pth models/mine --task finetune --args '{\"lg_region_size\": [2, 5, 10]}'",
            "maedfer convert videomae-huge models/huge          # a folder of transformers",
            "maedfer convert models/dfew1 dfew_fold1.pth --to published",
            "maedfer convert runs/voxceleb2/checkpoints/last models/voxceleb2",
        ),
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=path,
        help="published file or folder of transformers or DeepSpeed; with --to published what maedfer.load takes",
    )
    parser.add_argument(
        "out", metavar="OUT", type=path, help="folder to write; with --to published the .pth file to write"
    )
    parser.add_argument(
        "--task", choices=("finetune", "pretrain"), help="what the published file is (default: told from its keys)"
    )
    parser.add_argument(
        "--args",
        metavar="JSON",
        dest="model_args",
        help="published constructor arguments, as JSON or a file of it, for what the weights and the file do not tell",
    )
    parser.add_argument("--to", choices=("maedfer", "published"), default="maedfer", help="what to write")
    parser.add_argument("--keys", action="store_true", help="list every key with its shape in the report")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> int:
    """Convert, and print the report."""
    out, source = Path(args.out), Path(args.source)
    if out.exists() and not args.force and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{args.out!r} exists: choose another name, or give --force to overwrite it")
    if not source.exists():
        raise InputError(f"{args.source!r} does not exist: give a published checkpoint or a model folder")
    from maedfer.models.load import SHARDED_MARKER

    if (source / SHARDED_MARKER).is_file():
        return _one_of_parts(source, out, args)
    if args.to == "published":
        if args.task or args.model_args:
            raise InputError("--task and --args describe a published file: they do not go with --to published")
        state = _to_published(source, out)
        print(f"wrote {out}: {len(state)} tensors under published names, in {{'model': ..., 'args': ...}}")
    else:
        state = _from_published(source, out, args.task, _model_args(args.model_args))
        print(f"wrote {out / 'config.json'} and {out / 'model.safetensors'}")
    if args.keys:
        for name, shape in state.items():
            print(f"  {name}  {shape}")
    return 0


def _one_of_parts(source: Path, out: Path, args: argparse.Namespace) -> int:
    """Make one file, or a saved model, of a checkpoint into which several processes wrote their parts."""
    from maedfer.models.load import model_of_run
    from maedfer.train.checkpoint import save_checkpoint
    from maedfer.train.checkpoint_folder import checked, read_folder

    if args.task or args.model_args or args.to == "published":
        raise InputError(
            "--task, --args and --to are for published files: a sharded checkpoint becomes a .pt file of the run, or a "
            "model folder, which can be converted further"
        )
    content = checked(source)
    state = read_folder(source)
    if out.suffix == ".pt":
        save_checkpoint(out, state)
        print(f"wrote {out}: the checkpoint of step {content['step']} in one file, of {len(content['files'])} files")
    else:
        model_of_run(state, str(source)).save_pretrained(out)
        print(f"wrote {out / 'config.json'} and {out / 'model.safetensors'}: the model of step {content['step']}")
    if args.keys:
        for name, value in (state["ema"] or state["model"]).items():
            print(f"  {name}  {list(value.shape)}")
    return 0


def _from_published(source: Path, out: Path, task: Any, model_args: dict[str, Any] | None) -> dict[str, Any]:
    from maedfer.evaluation.score import check_finite
    from maedfer.models import MAEDFER, load_published
    from maedfer.models.published.checkpoints import published_table

    model = load_published(source, task, model_args)
    check_finite(model, str(source))
    report = model.load_report
    assert report is not None
    task = "pretrain" if isinstance(model, MAEDFER) else "finetune"
    print(f"read {source} as {task}: {len(report.used)} keys, all used")
    for key, reason in report.ignored.items():
        print(f"  ignored {key}: {reason}")
    for key in report.fresh:
        print(f"  left as initialised: {key}")
    print("  settings: " + _listed(report.settings))
    if report.assumed:
        print(f"  {report.assumptions}")
    if model.clip_settings is not None:
        print(f"  clips: {_listed(vars(model.clip_settings))}")
    model.save_pretrained(out)
    table = published_table(model)
    return {key: list(table[key].shape) for key in report.used if key in table}


def _to_published(source: Path, out: Path) -> dict[str, Any]:
    from maedfer.evaluation.score import check_finite
    from maedfer.models import MAEDFER
    from maedfer.models.load import load_path
    from maedfer.models.published.checkpoints import published_file
    from maedfer.models.weight_files import write_torch_file

    model = load_path(source)
    check_finite(model, str(source))
    content = published_file(model)
    if not out.parent.is_dir():
        raise InputError(f"cannot write {str(out)!r}: there is no folder {str(out.parent)!r}")
    write_torch_file(out, content)
    print("  arguments: " + _listed(content["args"]))
    if isinstance(model, MAEDFER):
        ours = {"decoder_order": "published", "decoder_keep": 1.0}
        changed = {
            key: getattr(model.config, key) for key, there in ours.items() if getattr(model.config, key) != there
        }
        if changed:
            print(
                f"  the published code knows no {_listed(changed)}: its decoder computes otherwise, its encoder alike"
            )
    return {key: list(value.shape) for key, value in content["model"].items()}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in values.items())


def _model_args(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    where = "--args"
    if not text.lstrip().startswith("{"):
        where = f"--args {text}"
        try:
            text = read_file(expand_home(text)).decode("utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{where} is neither JSON nor a readable file: {reason}") from error
    try:
        values = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a JSON object of argument names and values, got {text.strip()[:60]!r}")
    return values
