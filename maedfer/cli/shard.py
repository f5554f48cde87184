"""`maedfer shard`: the clips of a list, decoded once and kept in a few tar files that training reads fast."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import Parser, add_command, class_names, examples, path
from maedfer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maedfer.data.annotations import Clip
    from maedfer.data.shards.options import ShardOptions
    from maedfer.faces.cropped import FaceOpener

# What settings of runs are called here.
_OPTIONS = {"data.classes": "--classes", "data.label_offset": "--label-offset", "data.root": "--root"}


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "shard",
        run,
        "decode the clips of a list once and keep them in a few tar files, which training reads fast",
        "Decode the clips of an annotation list once, and keep their frames as JPEG (or raw) in a few tar files in\n"
        "the WebDataset layout, with an index beside them; data.train=DIR trains from it, data.test=DIR too.\n\n"
        "In DIR:\n"
        "  shard-000000.tar, ...    KEY.json (name, label, times, boxes), KEY.cls, KEY.000000.jpg or KEY.frames.npy\n"
        "  index.json, index.npz    where each clip is, its label and digest; shard-000000.frames.npy, each frame\n"
        "  quarantine.csv           name, line, reason: clips that could not be read; they do not stop the others\n\n"
        "All frames are kept as they are unless --size, --cut, --stride, --max-frames or --crop say otherwise. The\n"
        "same command goes on where an earlier one was ended. The status is 0, 1 where some clips could not be read\n"
        "or --check finds something, 2 where nothing could be done.",
        examples(
            "maedfer shard lists/train.csv --root DFEW --classes dfew --out shards/train --workers 8",
            "maedfer finetune dfew data.train=shards/train data.test=shards/test",
            "maedfer shard voxceleb2.txt --unlabelled --cut 0,32,160,160 --seed 0 --out shards/voxceleb2 --workers 32",
            "maedfer pretrain voxceleb2_pretrain data.train=shards/voxceleb2",
            "maedfer shard recordings.csv --crop --size 224 --out shards/mine       # the largest face of each",
            "maedfer shard --check shards/train                                     # after a copy",
        ),
    )
    parser.usage = "maedfer shard LIST --out DIR [options]\n       maedfer shard --check DIR [--workers N]"
    parser.add_argument("items", nargs="*", metavar="LIST", help="annotation file")
    parser.add_argument("--out", metavar="DIR", type=path, help="folder of the shards")
    parser.add_argument(
        "--check", metavar="DIR", type=path, help="compare all files of a folder of shards with its index"
    )
    _add_list(parser)
    _add_frames(parser)
    parser.add_argument("--shard-size", type=int, metavar="MB", help="most megabytes of a shard (512)")
    parser.add_argument("--clips-per-shard", type=int, metavar="N", help="most clips of a shard (as many as fit)")
    parser.add_argument("--seed", type=int, metavar="N", help="store clips in an order drawn by it (the list's order)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")


def _add_list(parser: Parser) -> None:
    parser.add_argument("--root", metavar="DIR", type=path, help="folder that the list's paths start from (the list's)")
    parser.add_argument("--classes", metavar="NAMES", help="classes in label order: those of a data set, or a,b,c")
    parser.add_argument("--label-offset", type=int, default=0, metavar="N", help="number of the list's first class (0)")
    parser.add_argument("--unlabelled", action="store_true", help="store no labels, for pre-training")


def _add_frames(parser: Parser) -> None:
    parser.add_argument("--format", choices=("jpeg", "raw"), help="jpeg (default), or raw: about ten times the space")
    parser.add_argument("--quality", type=int, metavar="N", help="of jpeg, 1 to 100 (90)")
    parser.add_argument(
        "--size", metavar="N|HxW", help="N: the short side, the aspect is kept; HxW: height and width, stretched to it"
    )
    parser.add_argument("--cut", metavar="T,L,H,W", help="top, left, height, width of what to cut out: augment.crop")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="store every Nth frame (1: all); data.stride is a multiple"
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="of longer clips store N frames from the middle")
    parser.add_argument("--fps", type=float, metavar="N", help="frames a second of folders of frames, for their times")
    parser.add_argument(
        "--crop", action="store_true", help="store the crops of the largest face, N x N by --size (224)"
    )
    parser.add_argument("--margin", type=float, metavar="X", help="with --crop: its side in sides of the face (1.3)")
    parser.add_argument("--detector", metavar="FILE", type=path, help="with --crop: a CenterFace or YuNet file")
    parser.add_argument("--boxes", metavar="FILE", type=path, help="with --crop: boxes made elsewhere")


def run(args: argparse.Namespace) -> int:
    """Write shards, or check them."""
    from maedfer._values import is_address
    from maedfer.data.video.base import shown

    if args.workers < 1:
        raise InputError(f"--workers must be at least 1, got {args.workers}")
    for option in ("check", "out"):
        place = getattr(args, option)
        if place is not None and is_address(place):
            raise InputError(
                f"--{option} {shown(place)} is an address: shards are written and checked in a folder on this machine, "
                "which may be copied there"
            )
    if args.check is not None:
        if args.items or args.out is not None:
            raise InputError("--check takes the folder of shards alone, no LIST and no --out")
        return _check(args.check, args.workers)
    if len(args.items) != 1:
        which = f"got {len(args.items)}: {', '.join(map(repr, args.items[:3]))}" if args.items else "none is given"
        raise InputError(f"one LIST of clips is to be given, {which} (see 'maedfer shard --help')")
    if args.out is None:
        raise InputError("--out DIR is to be given: the folder of the shards")
    options, opener = _options(args), _opener(args)
    return _write(args, _clips(args), options, opener)


def _clips(args: argparse.Namespace) -> Sequence[Clip]:
    from maedfer._values import expand_home
    from maedfer.data.annotations import read_annotations
    from maedfer.data.source import ClipTable
    from maedfer.data.video.base import look_at

    file, labelled = Path(expand_home(args.items[0])), not args.unlabelled
    if not args.items[0]:
        raise InputError("LIST is an empty name: give an annotation file")
    look_at(file)
    try:
        clips = read_annotations(
            file, args.root, labelled=labelled, label_offset=args.label_offset, classes=class_names(args.classes)
        )
    except InputError as error:
        said = str(error)
        for setting, option in _OPTIONS.items():
            said = said.replace(setting, option)
        hint = "; --unlabelled stores clips without labels" if labelled and "no label" in said else ""
        raise InputError(said + hint) from None
    return ClipTable(clips if labelled else (dataclasses.replace(clip, label=None) for clip in clips))


def _write(args: argparse.Namespace, clips: Sequence[Clip], options: ShardOptions, opener: FaceOpener | None) -> int:
    from maedfer._progress import ProgressLine, counted, duration
    from maedfer.data.shards.layout import INDEX_FILE, QUARANTINE_FILE
    from maedfer.data.shards.write import write_shards
    from maedfer.data.video import open_video
    from maedfer.data.video.base import shown

    line = ProgressLine("sharding", sys.stderr)

    def progress(share: float, size: int) -> None:
        line.what = f"sharding, about {_size(size)}" if size else "sharding"
        line(share)

    try:
        written = write_shards(
            clips,
            args.out,
            options,
            classes=() if args.unlabelled else class_names(args.classes),
            opener=open_video if opener is None else opener,
            opener_about=None if opener is None else opener.about(),
            workers=args.workers,
            progress=progress,
        )
    finally:
        line.clear()
    about, folder = written.about, Path(args.out)
    before = f", {written.done_before} of {len(clips)} done before" if written.done_before else ""
    print(
        f"{counted(about.clips, 'clip')}, {about.frames:,} frames{before}: {counted(len(about.shards), 'shard')}, "
        f"{_size(sum(shard.bytes for shard in about.shards))}, in {duration(written.seconds)}; the index is "
        f"{shown(folder / INDEX_FILE)}"
    )
    if about.quarantined:
        first = f" The first: {written.quarantined[0].sentence}" if written.quarantined else ""
        file = shown(folder / QUARANTINE_FILE)
        print(f"{counted(about.quarantined, 'clip')} could not be read; {file} says why.{first}")
    return 1 if about.quarantined else 0


def _options(args: argparse.Namespace) -> ShardOptions:
    from maedfer.data.shards.options import ShardOptions

    names = "format quality stride max_frames fps shard_size clips_per_shard seed".split()
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.format == "raw" and args.quality is not None:
        raise InputError("--quality is that of jpeg: give it without --format raw")
    if args.size is not None:
        found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", args.size)
        if found is None:
            raise InputError(f"--size must be a number, or height x width such as 160x160, got {args.size!r}")
        given["size"] = int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
    if args.cut is not None:
        if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9}){3}", args.cut):
            raise InputError(f"--cut must be top,left,height,width such as 0,32,160,160, got {args.cut!r}")
        given["cut"] = tuple(map(int, args.cut.split(",")))
    try:
        return ShardOptions(**given)
    except InputError as error:
        name, _, rest = str(error).partition(" ")
        raise InputError(f"--{name.replace('_', '-')} {rest}") from None


def _opener(args: argparse.Namespace) -> FaceOpener | None:
    """What cuts faces out; None where clips are stored whole."""
    own = {name: getattr(args, name) for name in ("margin", "detector", "boxes") if getattr(args, name) is not None}
    if not args.crop:
        if own:
            raise InputError(f"--{next(iter(own))} is of crops: give --crop as well")
        return None
    if args.cut is not None:
        raise InputError("--cut and --crop both say what is cut out: give one of them")
    from maedfer.faces.crop_options import CropOptions
    from maedfer.faces.cropped import FaceOpener

    if args.size is not None:
        if "x" in args.size:
            raise InputError(f"--size of crops is one number, as they are square, got {args.size!r}")
        own["size"] = int(args.size)
    try:
        options = CropOptions(**own, format="frames", fps=args.fps)
    except InputError as error:
        raise InputError(f"--{str(error).replace('_', '-', 1)}") from None
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return FaceOpener(options, threads=max(1, processors // args.workers) if args.workers > 1 else 0)


def _check(folder: str, workers: int) -> int:
    from maedfer._progress import ProgressLine, counted
    from maedfer.data.shards.check import check_shards
    from maedfer.data.video.base import shown

    line = ProgressLine("checking", sys.stderr)
    try:
        checked = check_shards(folder, workers=workers, progress=line)
    finally:
        line.clear()
    for sentence in checked.wrong:
        print(sentence)
    about = checked.index.about
    what = f"{counted(about.clips, 'clip')}, {about.frames:,} frames, {counted(len(about.shards), 'shard')}"
    said = f"{len(checked.wrong)} wrong" if checked.wrong else "all as written"
    print(f"{shown(folder)}: {what}: {said}")
    return 1 if checked.wrong else 0


def _size(count: float) -> str:
    """Bytes as people say it."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"
