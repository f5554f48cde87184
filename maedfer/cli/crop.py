"""`maedfer crop`: the faces of videos, cut out, each in a file of its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import Parser, add_command, class_names, examples, path
from maedfer.errors import InputError

if TYPE_CHECKING:
    from maedfer.data.inputs import Input
    from maedfer.faces.crop_options import CropOptions
    from maedfer.faces.write_crops import CroppedFace


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "crop",
        run,
        "find the faces in videos, follow them and cut them out, ready for lists of clips",
        "Find the faces in videos, follow each of them, and cut them out: one file for each face, with the times of\n"
        "the video's own frames. INPUT: videos, folders that are searched for them, folders of frames (--fps),\n"
        "annotation lists (.csv, .txt, .tsv).\n\n"
        "In DIR, in folders like those that were searched:\n"
        "  NAME.mp4         the largest face of the video; with --faces all or N, NAME_face1.mp4, ...; with\n"
        "                   --format frames, folders of jpg files\n"
        "  NAME.boxes.csv   with --save-boxes: frame, time, face, x, y, width, height, score; --boxes takes it\n"
        "  faces.csv        video, face, file, start, end (seconds in the video), frames, video_frames, size of the\n"
        "                   video's frames, mean box, mean score of the detector\n"
        "  failed.csv       the videos of which there is no crop, and why; they do not stop the others\n"
        "  LIST.csv         of each list that was given, with the crops in place of the videos, for finetune\n\n"
        "The same command goes on where an earlier one was ended; what is done is passed over. The status is 0, 1\n"
        "where there is no crop of some videos, 2 where nothing could be done.",
        examples(
            "maedfer lists ravdess --root RAVDESS --out lists/ravdess",
            "maedfer crop lists/ravdess/fold_*/*.csv --root RAVDESS --out crops --workers 8",
            "maedfer finetune ravdess data.train=crops/fold_1_train.csv data.test=crops/fold_1_test.csv",
            "maedfer crop interview.mp4 --faces all --out faces",
            "maedfer crop recordings/ --out faces --dry-run             # videos, minutes, and what cannot be read",
        ),
    )
    parser.usage = "maedfer crop INPUT [INPUT ...] --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="INPUT", help="video, folder or list")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the crops")
    _add_choices(parser)
    parser.add_argument("--root", metavar="DIR", type=path, help="folder that paths in lists start from (the list's)")
    parser.add_argument("--classes", metavar="NAMES", help="of lists with names for labels: a data set, or a,b,c")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and what cannot be read")


def _add_choices(parser: Parser) -> None:
    parser.add_argument("--faces", metavar="WHOM", help="largest (default: by area over time), all, or the N largest")
    parser.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="side of the crops (224: more than the 160 of the recipes, so that random crops have something to take)",
    )
    parser.add_argument("--format", choices=("mp4", "frames"), help="mp4 (default), or folders of jpg")
    parser.add_argument(
        "--quality", type=int, metavar="N", help="mp4: x264's crf, 0 best to 51 (12); frames: of jpg, 1 to 100 (95)"
    )
    parser.add_argument("--margin", type=float, metavar="X", help="side of the crop in sides of the face's box (1.3)")
    parser.add_argument("--detector", metavar="FILE", type=path, help="a CenterFace or YuNet file of your own")
    parser.add_argument("--boxes", metavar="FILE", type=path, help="boxes made elsewhere: frame or time, x, y, ...")
    parser.add_argument("--threshold", type=float, metavar="P", help="least score of a face (0.5)")
    parser.add_argument("--every", type=int, metavar="N", help="faces are looked for in every Nth frame (5)")
    parser.add_argument("--fps", type=float, metavar="N", help="frames a second of folders of frames")
    parser.add_argument("--save-boxes", action="store_true", default=None, help="write the boxes of every frame")


def run(args: argparse.Namespace) -> int:
    """Crop; the status is 1 where there is no crop of some videos."""
    if args.workers < 1:
        raise InputError(f"--workers must be at least 1, got {args.workers}")
    options, classes = _options(args), class_names(args.classes)
    from maedfer._progress import ProgressLine, counted, duration
    from maedfer._values import expand_home
    from maedfer.data.inputs import LIST_SUFFIXES, find_inputs
    from maedfer.data.video.base import shown

    items = [expand_home(item) for item in args.items]
    # Crops in a folder below the one that is searched are no videos to crop.
    inputs = find_inputs(
        items, root=args.root, classes=classes, leave_out=args.out, tell=lambda sentence: print(sentence)
    )
    out = os.path.realpath(args.out)
    for item in inputs:
        if os.path.realpath(item.path).startswith(f"{out}/"):
            raise InputError(f"{shown(item.path)} is in the folder that crops go to: choose another --out")
    lists = [item for item in items if Path(item).suffix.lower() in LIST_SUFFIXES and not os.path.isdir(item)]
    if args.dry_run:
        return _dry_run(inputs, options)
    from maedfer.faces.crop_many import FACES_FILE, FAILED_FILE, crop_videos

    line = ProgressLine("cropping", sys.stderr)
    try:
        result = crop_videos(
            inputs,
            args.out,
            options,
            lists=lists,
            root=args.root,
            classes=classes,
            workers=args.workers,
            progress=line,
        )
    finally:
        line.clear()
    faces = [face for entry in result.entries for face in entry.faces]
    if not faces:
        raise InputError(f"there is no crop of {counted(len(inputs), 'video')}; the first: {result.failed[0].failure}")
    before = f", {result.done_before} of them done before" if result.done_before else ""
    print(
        f"{counted(len(faces), 'face')} of {counted(len(inputs), 'video')}{before}: "
        f"{duration(sum(face.end - face.start for face in faces))} of crops in {duration(result.seconds)}, "
        f"in {Path(args.out) / FACES_FILE}"
    )
    if result.failed:
        print(
            f"There is no crop of {counted(len(result.failed), 'video')}; {Path(args.out) / FAILED_FILE} says why. "
            f"The first: {result.failed[0].failure}"
        )
    partly = [entry for entry in result.entries if entry.faces and max(map(_share, entry.faces)) < 0.5]
    if partly:
        print(
            f"Of {counted(len(partly), 'video')} no crop has half of the frames, the first is "
            f"{partly[0].faces[0].file}: compare frames with video_frames"
        )
    for file in result.lists:
        print(f"List of crops: {file}")
    return 1 if result.failed else 0


def _share(face: CroppedFace) -> float:
    return face.frames / face.video_frames


def _options(args: argparse.Namespace) -> CropOptions:
    from maedfer._values import whole_number
    from maedfer.faces.crop_options import CropOptions

    names = "size format quality margin detector boxes threshold every fps save_boxes".split()
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.faces is not None:
        number = whole_number(args.faces)
        if number is None and args.faces not in ("largest", "all"):
            raise InputError(f"--faces must be largest, all, or a number, got {args.faces!r}")
        given["faces"] = args.faces if number is None else number
    try:
        return CropOptions(**given)
    except InputError as error:
        raise InputError(f"--{str(error).replace('_', '-', 1)}") from None


def _dry_run(inputs: list[Input], options: CropOptions) -> int:
    from maedfer._progress import counted, duration
    from maedfer.faces.crop_many import check_files, measure

    check_files(options)
    frames, seconds, failed = 0, 0.0, 0
    for item in inputs:
        try:
            count, length = measure(item, options.fps)
        except InputError as error:
            failed += 1
            print(error)
        else:
            frames, seconds = frames + count, seconds + length
    print(f"{counted(len(inputs), 'video')}, {duration(seconds)}, {frames:,} frames; {failed} cannot be read")
    return 1 if failed else 0
