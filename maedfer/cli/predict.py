"""`maedfer predict`: expressions over time, of every face in videos of one's own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from maedfer._values import check_exists, expand_home, list_items, seconds, whole_number
from maedfer.cli._parser import Parser, add_command, examples, path
from maedfer.errors import InputError, require


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "predict",
        run,
        "find the faces in videos and predict their expressions over time",
        "Find the faces in videos, follow them, and predict the expression of each of them over time. INPUT: videos,\n"
        "folders that are searched for them, folders of frames (--fps), lists of clips (.csv, .txt, .tsv); or one\n"
        "device (/dev/video0) or URL that PyAV opens, which is looked at until it ends or Ctrl-C. CHECKPOINT is a\n"
        "run, a saved model, or a published fine-tuned file (with --classes).\n\n"
        "For each input, in DIR:\n"
        "  NAME.csv         a row for each window and face, written as it goes: video, face, start, end, time (all in\n"
        "                   seconds as a player shows them), x, y, width, height, detection, frames, status,\n"
        "                   prediction, confidence, p_CLASS, ...; status is ok, partial (the face is there for a part\n"
        "                   of the window) or no_face, with empty cells\n"
        "  NAME.json        what it comes to: minutes, shares of the classes, faces, speed, versions, settings\n"
        "  NAME.png         the timeline of each face; not with --whole or --no-plot\n"
        "  NAME.boxes.csv   the faces that were found in frames, for --boxes\n"
        "  NAME.mp4, NAME.npz, NAME.segments.csv      with --annotate, --features, --segments\n"
        "and of all inputs summary.csv, a line each, and failed.csv, with the reason, where one could not be read; it\n"
        "does not stop the others. The status is 0, 1 where inputs have failed, 2 where nothing could be done.\n\n"
        "The same command goes on where an earlier one was ended, by whatever, after the last window that is written;\n"
        "what is done is passed over. Confidences are calibrated only if the checkpoint holds a temperature. A label\n"
        "says what annotators would see in a face, not what somebody feels.",
        examples(
            "maedfer predict interview.mp4 --checkpoint runs/dfew --out results",
            "maedfer predict interviews/ --checkpoint dfew_fold1.pth --classes dfew --out results --faces largest",
            "maedfer predict interviews/ --checkpoint runs/dfew --out results --dry-run       # hours, disk",
            "maedfer predict talk.mp4 --checkpoint runs/dfew --out results --annotate --between 1:00 2:30",
            "maedfer predict test.csv --checkpoint runs/dfew --out results --whole --no-crop  # as maedfer evaluate",
            "maedfer predict /dev/video0 --checkpoint runs/dfew --out live",
        ),
    )
    parser.usage = "maedfer predict INPUT [INPUT ...] --checkpoint CHECKPOINT --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="INPUT", help="video, folder, list, device or URL")
    parser.add_argument(
        "--checkpoint", metavar="CHECKPOINT", type=path, required=True, help="run, saved model or published file"
    )
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the results")
    parser.add_argument("--classes", metavar="NAMES", help="a data set (dfew), or names in label order: a,b,c")
    add_looking(parser)
    parser.add_argument("--whole", action="store_true", help="one score a clip, as maedfer evaluate samples it")
    _add_writing(parser)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="of the model")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N (auto: a GPU where there is one)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows at once (1 on a CPU, 32 on a GPU)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read videos and find faces; 0 = none beside this one"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, how long it will take, stop")


def add_looking(parser: Parser, *, hop: str = "1", faces: str = "all") -> None:
    """Add the options that say how a video is looked at, with what they are by default."""
    parser.add_argument("--hop", type=time_in_seconds, metavar="S", help=f"seconds from one window to the next ({hop})")
    parser.add_argument(
        "--window",
        type=time_in_seconds,
        metavar="S",
        help="seconds of a window (the model's: 2.56 for 16 frames, stride 4)",
    )
    parser.add_argument("--faces", type=_faces, metavar="WHOM", help=f"all, largest, or the N largest ({faces})")
    parser.add_argument("--between", nargs=2, type=time_in_seconds, metavar=("A", "B"), help="seconds, or 1:02:03")
    parser.add_argument("--no-crop", action="store_true", help="frames are face crops already")
    parser.add_argument("--detector", metavar="FILE", type=path, help="a CenterFace or YuNet file of your own")
    parser.add_argument("--boxes", metavar="FILE", type=path, help="boxes made elsewhere: frame or time, x, y, ...")
    parser.add_argument("--threshold", type=float, metavar="P", help="least score of a face (0.5)")
    parser.add_argument("--every", type=int, metavar="N", help="faces are looked for in every Nth frame (5)")
    parser.add_argument("--margin", type=float, metavar="X", help="side of the crop in sides of the face's box (1.3)")
    parser.add_argument(
        "--coverage", type=float, metavar="P", help="share of a window in which a face must be there (0.5)"
    )
    parser.add_argument("--fps", type=float, metavar="N", help="frames a second of folders of frames")


def _add_writing(parser: Parser) -> None:
    parser.add_argument(
        "--columns", choices=("maedfer", "openface", "pyfeat"), default="maedfer", help="names of the columns"
    )
    parser.add_argument("--annotate", action="store_true", help="write the video with boxes, names and bars")
    parser.add_argument("--features", action="store_true", help="write the windows' features")
    parser.add_argument("--segments", metavar="FILE", type=path, help="pool over turns: start, end, label")
    parser.add_argument("--no-plot", action="store_true", help="write no timelines")
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew where results are there, rather than go on"
    )


def run(args: argparse.Namespace) -> int:
    """Predict; the status is 1 where inputs have failed."""
    options = looking_options(args)
    check_exists(args.checkpoint, "a run, a saved model or a published file")
    if args.workers is not None and args.workers < 0:
        raise InputError(f"--workers must be at least 0, got {args.workers}")
    from maedfer.data.video.base import shown
    from maedfer.prediction.inputs import check_options, check_out, find_videos
    from maedfer.prediction.segments import read_segments, strangers

    def say(line: str) -> None:
        print(line, flush=True)

    videos = find_videos(args.items, args.out, say)
    check_options(options, videos)
    if args.annotate and videos[0].live:
        raise InputError(
            f"--annotate reads the video again, which cannot be done with {shown(videos[0].told)}: leave it out"
        )
    # Found only after the first video, it would be found after hours.
    if not (args.no_plot or options.whole):
        require("matplotlib.figure", "predict")
    if args.annotate:
        require("PIL.ImageDraw", "video")
    given = [file for file in (options.boxes, options.detector, args.segments, args.checkpoint) if file is not None]
    # Lists of videos.
    given += [item for item in map(expand_home, args.items) if os.path.isfile(item)]
    segments = None if args.segments is None else read_segments(args.segments)
    for name in strangers(segments or (), [video.path for video in videos]):
        say(f"{shown(args.segments)}: {shown(name)!r} is none of the videos: its turns are passed over")
    if not args.dry_run:
        check_out(Path(args.out), videos, given)
    from maedfer.prediction.batch import Wanted, predict_videos
    from maedfer.prediction.predictor import open_predictor
    from maedfer.prediction.products import Products
    from maedfer.prediction.summary import calibration

    predictor = open_predictor(
        args.checkpoint,
        classes=_classes(args.classes),
        precision=options.precision,
        device=options.device,
        batch_size=options.batch_size,
    )
    note = calibration(predictor.temperature)
    products = Products(plot=not args.no_plot, annotate=args.annotate, segments=segments, note=note)
    wanted = Wanted(Path(args.out), args.columns, args.features, products, args.overwrite)
    if args.dry_run:
        from maedfer.prediction.dry_run import dry_run

        return int(dry_run(videos, predictor, options, wanted, args.workers, say) > 0)
    return int(predict_videos(videos, predictor, options, wanted, args.workers, say) > 0)


def looking_options(args: argparse.Namespace, **first: Any) -> Any:
    """The options, those checked that are given; `first` says what is not given."""
    import dataclasses

    from maedfer.prediction.options import PredictionOptions, options_from
    from maedfer.setting import check_range

    chosen: dict[str, Any] = {**first, "crop": not args.no_crop}
    for field in dataclasses.fields(PredictionOptions):
        value = getattr(args, field.name, None)
        if value is not None:
            value = tuple(value) if isinstance(value, list) else value
            check_range(field, value, f"--{field.name.replace('_', '-')}")
            chosen[field.name] = value
    return options_from(**chosen)


def _classes(text: str | None) -> list[str] | str | None:
    if text is None:
        return None
    if text.startswith("["):
        return [str(name) for name in list_items(text, "--classes")]
    return [name.strip() for name in text.split(",")] if "," in text else text


def time_in_seconds(text: str) -> float:
    """The type of an argument that is a time: seconds, or 1:02:03."""
    value = seconds(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither seconds nor minutes:seconds")
    return value


def _faces(text: str) -> str | int:
    if text in ("all", "largest"):
        return text
    count = whole_number(text)
    if count is None or count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither all, largest, nor a number from 1 on")
    return count
