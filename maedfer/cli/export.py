"""`maedfer export`: a model as a file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maedfer._values import check_exists
from maedfer.cli._parser import add_command, examples, path
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "export",
        run,
        "write a model for ONNX Runtime, OpenVINO or PyTorch without this package",
        "Write a model as a file that other runtimes run without this package, for any number of clips at once. MODEL\n"
        'is a run, a saved model, a checkpoint or a published file. A classifier gives "logits"; an encoder without\n'
        'classes, or the encoder of a pre-trained model, gives "features", those of maedfer features.\n\n'
        "  onnx      FILE.onnx, opset 20: ONNX Runtime and others\n"
        "  openvino  FILE.xml with its weights in FILE.bin; float32, computed in bfloat16 where OpenVINO is told so\n"
        "  pt2       FILE.pt2, a program of torch.export: any device, and torch.compile\n"
        "  aoti      FILE.pt2, compiled for the processor of this machine (needs g++); its input's shape is checked\n"
        "            only with AOTI_RUNTIME_CHECK_INPUTS=1 in the environment\n\n"
        'The input "clips" is [batch, 3, frames, height, width], RGB: pixels as bytes, which the file normalises, or\n'
        'with --input float32 what the caller has normalised. The metadata holds, as JSON under "maedfer", class\n'
        "names, how clips are read and normalised, and the model's configuration. The file is loaded again and\n"
        "compared with the model before it takes its name; one that differs by more than 1e-4 of the largest value\n"
        "(bfloat16: 0.05) is not kept.",
        examples(
            "maedfer export runs/dfew --format onnx --out dfew.onnx",
            "maedfer export models/dfew1 --format openvino --out dfew1.xml",
            "maedfer export runs/voxceleb2 --format pt2 --input float32 --out features.pt2",
            "maedfer export dfew_fold1.pth --format aoti --dtype bfloat16 --out dfew1.pt2",
        ),
    )
    parser.add_argument("model", metavar="MODEL", type=path, help="run, saved model, checkpoint or published file")
    parser.add_argument("--format", choices=("onnx", "openvino", "pt2", "aoti"), required=True, help="what to write")
    parser.add_argument("--out", metavar="FILE", type=path, required=True, help=".onnx, .xml or .pt2 file to write")
    parser.add_argument(
        "--input", choices=("uint8", "float32"), default="uint8", help="what clips are given as (uint8)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and products (float32)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def run(args: argparse.Namespace) -> int:
    """Export, and say what was written."""
    check_exists(args.model, "a run, a saved model, a checkpoint or a published file")
    from maedfer.evaluation.features import feature_extractor
    from maedfer.evaluation.score import check_finite
    from maedfer.models import MAEDFER, export_model
    from maedfer.models.export import check_export
    from maedfer.models.load import load_path

    kind = check_export(args.out, args.format, input=args.input, dtype=args.dtype)
    for file in kind.files(Path(args.out)):
        if file.exists() and not args.force:
            raise InputError(f"{str(file)!r} exists: choose another name, or give --force to overwrite it")
    model = load_path(args.model)
    check_finite(model, repr(args.model))
    if isinstance(model, MAEDFER):
        print("the features of the encoder are exported: a pre-trained model has no classes", flush=True)
    found = export_model(
        feature_extractor(model),
        args.out,
        args.format,
        input=args.input,
        dtype=args.dtype,
        tell=lambda line: print(line, flush=True),
    )
    sizes = ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in found.files)
    ends = (found.about[end] for end in ("input", "output"))
    taken, given = (f"{end['name']} {end['dtype']} [{', '.join(map(str, end['shape']))}]" for end in ends)
    print(f"wrote {sizes}: {taken} to {given}")
    if not found.about["classes"] and found.about["output"]["name"] == "logits":
        print("the file has no class names: nothing is kept with the model that tells them")
    print(
        f"largest difference from the model: {found.difference:.1e} of the largest value ({found.tolerance:g} allowed)"
    )
    return 0
