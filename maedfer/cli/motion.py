"""`maedfer motion`: what pre-training on one's own face videos teaches an encoder."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.cli._studies import add_grid, device_names, shown_progress
from maedfer.errors import InputError

if TYPE_CHECKING:
    from maedfer.faces.cropped import FaceOpener
    from maedfer.studies.motion import MotionOptions


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "motion",
        run,
        "pre-train on your own face videos, and ask what was learnt of motion",
        "Ask what an encoder learns of motion from videos of faces without labels. The people of the list are divided\n"
        "into two halves. A small autoencoder is pre-trained on the faces of one half, with the motion part of the\n"
        "target and without it, and probes of its frozen features are scored on the other half: are frames in their\n"
        "order or backwards, how fast are they, who is it. Then the other way around. Encoders with random weights\n"
        "are asked the same.\n\n"
        "LIST has a video a line, and who is in it in a column subject; without that, each video is taken to be of\n"
        "another person. The same command goes on where an earlier one was ended.\n\n"
        "In DIR: report.html and report.json, table.csv and table.tex, the faces in faces/, the pre-trainings in\n"
        "half_1/ and half_2/, and what probes say of each window in probes/.",
        examples(
            "maedfer motion videos.csv --out runs/motion",
            "maedfer motion videos.csv --seeds 3 --steps 5000 --probes linear,attentive --out runs/motion \\",
            "    model.encoder.depth=8",
            "maedfer motion data/synth/pretrain.csv --no-crop --subject '(s[0-9]+)_' --out runs/motion_drawn",
        ),
    )
    parser.usage = "maedfer motion LIST [key=value ...] --out DIR [options]"
    parser.add_argument("items", nargs="+", metavar="LIST, key=value", help="list of videos, settings of pre-training")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the study")
    parser.add_argument("--root", metavar="DIR", type=path, help="folder that the list's paths start from (its own)")
    parser.add_argument("--subject", metavar="PATTERN", help="who is in a video, found in its path")
    parser.add_argument(
        "--no-crop", action="store_true", help="the videos show a face already, as maedfer crop cuts it"
    )
    parser.add_argument("--boxes", metavar="FILE", type=path, help="faces that were found elsewhere, see maedfer crop")
    parser.add_argument("--detector", metavar="FILE", type=path, help="detector of your own, see maedfer crop")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that find and cut out faces (1)")
    parser.add_argument("--steps", metavar="N", type=int, help="of each pre-training, of 32 samples each (600)")
    parser.add_argument("--stride", metavar="N", type=int, help="frames from one frame of a sample to the next (2)")
    parser.add_argument("--hop", metavar="N", type=int, help="frames from one window of a video to the next (4)")
    parser.add_argument("--windows", metavar="N", type=int, help="windows of a video at most, evenly spread (60)")
    parser.add_argument(
        "--targets",
        metavar="LIST",
        help="what is reconstructed: appearance, joint (appearance and motion), motion, pixels (appearance,joint)",
    )
    parser.add_argument("--probes", metavar="LIST", help="kinds of probes: knn, linear, attentive (linear)")
    add_grid(parser, "pre-training", seeds=False)
    parser.add_argument("--seeds", metavar="N", type=int, help="pre-trainings of each kind (1)")


def run(args: argparse.Namespace) -> int:
    """Cut faces out, pre-train, ask, and write the page."""
    file, overrides = split_items(args.items, "list of videos")
    if file is None:
        raise InputError("no list of videos is given: maedfer motion LIST --out DIR")
    if args.workers < 1:
        raise InputError(f"--workers must be at least 1, got {args.workers}")
    if args.no_crop and (args.boxes or args.detector):
        raise InputError("--no-crop finds no faces: give it without --boxes and --detector")
    for item in overrides:
        if item.partition("=")[0] in ("data.train", "output", "seed", "model.target", "data.stride"):
            raise InputError(f"{item.partition('=')[0]} is decided by the study: leave it out")
    devices, options = device_names(args.devices), _options(args)
    from maedfer._progress import counted
    from maedfer.data.annotations import read_annotations
    from maedfer.data.shards.unfinished import is_finished
    from maedfer.data.video.base import look_at
    from maedfer.studies.grid import is_done, shares
    from maedfer.studies.motion import SIZE, people, prepare_study

    shares(args.processes, devices)
    look_at(Path(file))
    clips = read_annotations(file, args.root, labelled=False, subject=args.subject or "")
    if args.dry_run and not all(is_finished(Path(args.out) / "faces" / f"half_{half}") for half in (1, 2)):
        who = {clip.subject or clip.name for clip in clips}
        count = 2 * options.seeds * len(options.targets)
        todo = "to be decoded" if args.no_crop else "faces to be cut out"
        print(
            f"{counted(len(clips), 'video')} of {people(len(who))}, {todo}; "
            f"then {counted(count, 'pre-training')} of {counted(options.steps, 'step')}"
        )
        return 0
    opener = None if args.no_crop else _opener(args, SIZE)
    decoding = "cutting faces out" if opener is not None else "decoding"
    with shown_progress() as (_, progress):
        study = prepare_study(
            clips,
            args.out,
            options,
            overrides,
            opener=opener,
            opener_about=None if opener is None else opener.about(),
            workers=args.workers,
            progress=lambda share: progress(decoding, share),
        )
    for reason in study.left_out:
        print(f"left out: {reason}")
    if args.dry_run:
        for job in study.jobs:
            print(f"  {job.title}: {'done' if is_done(job) else 'to be run'}, {job.output}")
        return 0
    from maedfer.studies.motion_page import result_table, sentences, write_motion_page
    from maedfer.studies.motion_probes import run_motion

    training = f"pre-training {len(study.jobs)} encoders"
    with shown_progress() as (say, progress):
        results = run_motion(study, args.processes, devices, say, lambda share: progress(training, share))
    page = write_motion_page(study, results)
    print(result_table(study, results).text(), end="")
    for kind, tasks in results.items():
        print(f"{kind} probe")
        for sentence in sentences(tasks):
            print(f"  {sentence}")
    print(f"report: {page}")
    return 0


def _options(args: argparse.Namespace) -> MotionOptions:
    from maedfer.studies.motion import MotionOptions

    given: dict[str, Any] = {
        name: value
        for name in (field.name for field in dataclasses.fields(MotionOptions))
        if (value := getattr(args, name)) is not None
    }
    for name in ("targets", "probes"):
        if name in given:
            given[name] = tuple(part.strip() for part in given[name].split(","))
    try:
        return MotionOptions(**given)
    except InputError as error:
        raise InputError(f"--{error}" if str(error).split()[0] in given else str(error)) from None


def _opener(args: argparse.Namespace, size: int) -> FaceOpener:
    from maedfer.faces.crop_options import CropOptions
    from maedfer.faces.cropped import FaceOpener

    own = {name: getattr(args, name) for name in ("boxes", "detector") if getattr(args, name) is not None}
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    threads = max(1, processors // args.workers) if args.workers > 1 else 0
    return FaceOpener(CropOptions(**own, size=size, format="frames"), threads=threads)
