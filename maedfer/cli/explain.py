"""`maedfer explain`: what a model looks at, what raises a class, what an autoencoder makes of what is hidden."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from maedfer._values import check_exists, expand_home, list_items
from maedfer.cli._parser import add_command, class_names, examples, path
from maedfer.cli.predict import add_looking, looking_options, time_in_seconds
from maedfer.errors import InputError, require


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "explain",
        run,
        "show what a model looks at in videos, what raises a class, what it reconstructs",
        "Show what a model looks at in a video: faces are found as maedfer predict finds them, and for each video and\n"
        "face DIR gets pictures of one window and films of all of them.\n\n"
        "  NAME.attention.png      what representative tokens read (a ViT: what tokens are given), by block, over the\n"
        "                          frames, and the attention rollout through all blocks\n"
        "  NAME.blocks.png         every block\n"
        "  NAME.regions.png        how regions read one another: inter-region attention, local-global interaction\n"
        "  NAME.interaction.png    which local tokens read from which region\n"
        "  NAME.evidence.png       a classifier: what raises and lowers a class, by occlusion\n"
        "  NAME.reconstruction.png pre-training: input, masked, reconstruction and motion, for several masks\n"
        "  NAME.attention.mp4, NAME.reconstruction.mp4     the same over time\n"
        "  NAME.npz                the arrays\n"
        "and of all together report.html and report.json; with --embed LIST also features.csv and features.png, where\n"
        "the clips of a list lie by their features (UMAP where umap-learn is installed, else t-SNE).\n\n"
        "CHECKPOINT is a run, a saved model, a checkpoint or a published file. INPUT: videos, folders that are\n"
        "searched for them, folders of frames (--fps), lists of clips. The status is 1 where inputs have failed.",
        examples(
            "maedfer explain runs/dfew interview.mp4 --out explained",
            "maedfer explain runs/dfew talk.mp4 --out explained --between 1:00 1:20 --class happy --blocks 1,8,16",
            "maedfer explain runs/voxceleb2_pretrain talk.mp4 --out explained --what reconstruction --masks 0,1,2,3",
            "maedfer explain runs/dfew crops/ --out explained --no-crop --no-film",
            "maedfer explain runs/synth --embed test.csv --subject 's[0-9]+' --out explained",
        ),
    )
    parser.usage = "maedfer explain CHECKPOINT [INPUT ...] --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="CHECKPOINT, INPUT", help="model, and videos, folders or lists")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the results")
    parser.add_argument("--what", metavar="WHAT", help="of attention, evidence, reconstruction: a,b (all there is)")
    parser.add_argument("--blocks", metavar="N,N", help="blocks to draw, from 1 on (first, middle, last)")
    parser.add_argument("--head", type=int, metavar="N", help="one attention head, from 0 on (their mean)")
    parser.add_argument("--class", dest="target", metavar="NAME", help="class to explain (the most probable one)")
    parser.add_argument("--classes", metavar="NAMES", help="a data set (dfew), or names in label order: a,b,c")
    parser.add_argument("--masks", metavar="N,N", help="seeds of the masks (0,1,2)")
    parser.add_argument("--mask-ratio", type=float, metavar="P", help="share of the tokens to hide (the model's)")
    parser.add_argument("--at", type=time_in_seconds, metavar="S", help="moment that pictures are of")
    parser.add_argument("--squares", action="store_true", help="draw tokens as squares, not interpolated")
    parser.add_argument("--no-film", action="store_true", help="write no mp4")
    add_looking(parser, hop="half a window", faces="largest")
    parser.add_argument(
        "--embed", metavar="LIST", type=path, help="lay the features of a list's clips out in the plane"
    )
    parser.add_argument("--embed-by", choices=("auto", "umap", "tsne"), default="auto", help="how (auto)")
    parser.add_argument("--subject", metavar="PATTERN", help="who is in a clip of that list, found in its name")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --embed's layout (0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N (auto: a GPU where there is one)")


def run(args: argparse.Namespace) -> int:
    """Explain; the status is 1 where inputs have failed."""
    if not args.items:
        raise InputError("explain needs a CHECKPOINT: a run, a saved model, a checkpoint or a published file")
    checkpoint, items = expand_home(args.items[0]), [expand_home(item) for item in args.items[1:]]
    check_exists(checkpoint, "a run, a saved model, a checkpoint or a published file")
    if not items and args.embed is None:
        raise InputError("there is nothing to explain: give videos, folders or lists after the model, or --embed LIST")
    blocks = None if args.blocks is None else _numbers(args.blocks, "--blocks")
    masks = None if args.masks is None else _numbers(args.masks, "--masks")
    # Which of the faces is explained where nothing is said; a crop has one.
    first = {} if args.no_crop else {"faces": "largest"}
    options = looking_options(args, **first)
    require("matplotlib.figure", "predict")
    require("PIL.ImageDraw", "video")
    from maedfer.data.inputs import find_inputs
    from maedfer.explanation.options import Explaining
    from maedfer.explanation.run import check_names
    from maedfer.prediction.options import check_together

    check_together(options, lambda name: "--no-crop" if name == "crop" else f"--{name}")
    chosen = Explaining(
        what=() if args.what is None else tuple(name.strip() for name in args.what.split(",")),
        blocks=blocks,
        head=args.head,
        target=args.target,
        **({} if masks is None else {"seeds": masks}),
        mask_ratio=args.mask_ratio,
        at=args.at,
        film=not args.no_film,
        smooth=not args.squares,
    )
    out = Path(args.out)
    videos = find_inputs(items, reserved={"report", "features"}, leave_out=out, tell=_say) if items else []
    read = [file for file in (options.boxes, options.detector, args.embed, checkpoint) if file is not None]
    check_names(out, [video.name for video in videos], [*read, *(video.path for video in videos)])
    return _explain(args, checkpoint, videos, chosen, options)


def _explain(args: argparse.Namespace, checkpoint: str, videos: Any, chosen: Any, options: Any) -> int:
    from maedfer._progress import ProgressLine, counted
    from maedfer.data.video.base import shown
    from maedfer.dataclass_tree import to_dict
    from maedfer.explanation.options import parts_of
    from maedfer.explanation.page import PageHead, write_page
    from maedfer.explanation.run import explain_video, explaining_options, load_model, name_classes

    model = load_model(checkpoint, args.device)
    # Those of a list may be named too where the model has none.
    has_classes = getattr(model.config, "num_classes", 0) > 0
    if args.classes is not None and (args.embed is None or has_classes):
        name_classes(model, class_names(args.classes), repr(checkpoint))
    parts = parts_of(model, chosen, repr(checkpoint))
    if args.hop is None:
        options = explaining_options(model, options)
    out = Path(args.out)
    line, faces, failed = ProgressLine(), [], []
    for number, video in enumerate(videos):
        line.start(f"explaining {shown(video.name)}" + (f" ({number + 1} of {len(videos)})" if len(videos) > 1 else ""))
        try:
            found = explain_video(
                model, video.path, out, name=video.name, chosen=chosen, options=options, progress=line
            )
        except InputError as error:
            if len(videos) == 1:
                raise
            line.clear()
            print(f"maedfer: {error}", file=sys.stderr, flush=True)
            failed.append(str(error))
            continue
        line.clear()
        for face in found:
            _say(f"{face.name}: {counted(face.windows, 'window')}, pictures of {face.time:.2f} s: {_words(face)}")
        faces += found
    features = None if args.embed is None else _embed(args, checkpoint, out)
    if not faces and features is None:
        raise InputError(f"none of {counted(len(videos), 'input')} could be explained: see above")
    settings = {
        "what": list(parts),
        "explaining": to_dict(chosen),
        "looking": to_dict(options),
        "embed": None if args.embed is None else {"list": args.embed, "by": args.embed_by, "seed": args.seed},
    }
    page = write_page(out, faces, PageHead(checkpoint, _about(model), settings, failed), features)
    _say(f"report: {page}")
    return int(bool(failed))


def _embed(args: argparse.Namespace, checkpoint: str, out: Path) -> Any:
    from maedfer._files import atomic_path
    from maedfer.explanation.embedding import feature_map
    from maedfer.train.features import features_config, run_features
    from maedfer.train.sources import read_clips

    named = [] if args.classes is None else [f"data.classes=[{', '.join(map(repr, class_names(args.classes)))}]"]
    if args.subject is not None:
        named.append(f"data.subject={args.subject}")
    cfg = features_config(checkpoint, [f"data.test={args.embed}", f"train.device={args.device}", *named])
    found = run_features(cfg)
    who = {clip.name: clip.subject for clip in read_clips(cfg, args.embed, labelled=False)}
    classes = cfg.data.classes
    features = feature_map(
        found, classes=classes, subjects=[who.get(name, "") for name in found.names], method=args.embed_by,
        seed=args.seed,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    features.write(out / "features.csv")
    with atomic_path(out / "features.png") as part:
        features.plot().savefig(part, format="png", dpi=150, metadata={"Software": None})
    _say(f"features of {len(found.names)} clips in the plane ({features.method}): {out / 'features.csv'}")
    return features


def _about(model: Any) -> str:
    config = getattr(model.config, "encoder", model.config)
    design = "LGI-Former" if config.architecture == "lgi" else "ViT"
    return f"{design} with {config.depth} blocks of {config.embed_dim} channels, {config.num_heads} heads"


def _words(face: Any) -> str:
    words = []
    if face.evidence is not None:
        words.append(f"{face.evidence.name} {face.evidence.probability:.2f}")
    if face.reconstruction is not None:
        words.append(f"loss {face.reconstruction.loss.mean():.4f}")
    return ", ".join([*words, *(path.name for path in face.files.values())])


def _numbers(text: str, option: str) -> tuple[int, ...]:
    items = list_items(text, option) if text.startswith("[") else [item.strip() for item in text.split(",")]
    try:
        return tuple(int(str(item)) for item in items)
    except ValueError:
        raise InputError(f"{option} must be whole numbers with commas between them, got {text!r}") from None


def _say(line: str) -> None:
    print(line, flush=True)
