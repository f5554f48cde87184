"""`maedfer probe`: what is in the features of a frozen encoder."""

from __future__ import annotations

import argparse
from typing import Any

from maedfer._values import check_exists, expand_home
from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "probe",
        run,
        "tell what is in the features of a frozen model: nearest neighbours, linear and attentive probes",
        "Probe the features of a frozen encoder: fit small classifiers on the clips of data.train and score them on\n"
        "those of data.test. MODEL is a run, a saved model, a checkpoint or a published file, pre-trained or\n"
        "fine-tuned; of a fine-tuned one the encoder is probed and not its head. Labels may be of anything that is\n"
        "known of a clip; data.classes=[a, b] names them.\n\n"
        "Features are computed once for each clip, of all layers that are asked for in one pass, and kept in\n"
        "DIR/features, and what a finished probe says in DIR/fits: the same command goes on where an interrupted one\n"
        "was, and another probe reads the features again.\n"
        "Hyper-parameters are chosen by validation clips: those of data.val, else a share of the training clips, of\n"
        "other subjects where lists say who is in a clip; then the probe is fitted again on all training clips.\n\n"
        "knn        votes of the nearest clips by cosine similarity, as in DINO\n"
        "linear     L2-regularised logistic regression on standardised features, as in CLIP\n"
        "attentive  a learnable query attends to the tokens of a clip, as in V-JEPA\n\n"
        "DIR gets probe.json, probe.csv, table.csv and table.tex, report.html, and runs/, a folder a probe, with\n"
        "pred.csv, for `maedfer compare`; with several layers depth.png. Earlier results there are replaced.",
        examples(
            "maedfer probe runs/voxceleb2 data.train=train.csv data.test=test.csv --out probes/voxceleb2",
            "maedfer probe runs/voxceleb2 data.train=train.csv data.test=test.csv --out probes/voxceleb2 \\",
            "    --layer all --kind linear --baseline random",
            "maedfer probe dfew_fold1.pth data.train=train.csv data.test=test.csv data.val=val.csv --seeds 5 --out p",
            "maedfer probe videomae.pth data.train=a.csv data.test=b.csv --tokens local --max-tokens 392 --out p",
        ),
    )
    parser.usage = "maedfer probe MODEL data.train=FILE data.test=FILE [key=value ...] --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="MODEL, key=value", help="model and settings, see above")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of features and results")
    parser.add_argument(
        "--kind", metavar="KINDS", default="knn,linear,attentive", help="kinds of probes (default: %(default)s)"
    )
    parser.add_argument(
        "--layer",
        metavar="LAYERS",
        default="last",
        help="0 (before the first block) to the number of blocks; several as 0,2,4; all; last (default: %(default)s)",
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="probes of each kind (default: %(default)s)")
    parser.add_argument("--baseline", choices=("random",), help="also probe random weights of the same architecture")
    parser.add_argument(
        "--tokens",
        choices=("representative", "local"),
        help="what the attentive probe reads (default: representative tokens where there are such)",
    )
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=int,
        default=128,
        help="local tokens of a view at most; neighbours are averaged (default: %(default)s)",
    )
    parser.add_argument(
        "--metric", choices=("uar", "war"), default="uar", help="what hyper-parameters are best in (default: uar)"
    )
    parser.add_argument(
        "--share", metavar="X", type=float, default=0.2, help="of the training clips that choose (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Probe, write, and say what came out."""
    model, overrides = split_items(args.items, "model")
    if model is None:
        raise InputError("probe needs a MODEL: a run, a saved model, a checkpoint or a published file")
    model = expand_home(model)
    check_exists(model, "a run, a saved model, a checkpoint or a published file")
    from maedfer.studies.probe import ProbeOptions, run_probe

    kinds = tuple(dict.fromkeys(kind.strip() for kind in args.kind.split(",") if kind.strip()))
    options = ProbeOptions(
        kinds=kinds,
        layers=args.layer,
        seeds=args.seeds,
        baseline=args.baseline or "",
        tokens=args.tokens or "",
        max_tokens=args.max_tokens,
        metric=args.metric,
        share=args.share,
    )
    run_probe(model, overrides, args.out, options, say=lambda text: print(text, flush=True))
    return 0
