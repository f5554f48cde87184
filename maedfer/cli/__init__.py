"""The command line: `maedfer pretrain`, `maedfer finetune`, `maedfer evaluate` and what helps with them, one file each.

Modules of this package import torch and everything that needs it inside the functions that do the work, so that help
and usage errors appear at once.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from maedfer.cli import (
    ablate,
    compare,
    convert,
    crop,
    crossval,
    doctor,
    evaluate,
    explain,
    export,
    features,
    fewlabels,
    finetune,
    info,
    lists,
    motion,
    plan,
    predict,
    prepare,
    pretrain,
    probe,
    push,
    report,
    reproduce,
    settings,
    shard,
    synth,
)
from maedfer.cli._parser import Parser, examples, parse
from maedfer.errors import InputError, MissingDependencyError, Stopped, shortened, unknown

# What a command line, a file or a machine can get wrong; anything else is a defect of the program and shows its trace.
_USER_ERRORS = (InputError, MissingDependencyError, OSError)
# What torch says in a RuntimeError where the memory of the machine, not that of a GPU, does not suffice.
_NO_MEMORY = "DefaultCPUAllocator"
# What to say of a command that was interrupted and can be gone on with.
_GOES_ON = dict.fromkeys(("pretrain", "finetune"), "; the same command goes on from the last checkpoint") | {
    "predict": "; the same command, without --overwrite, goes on after the last window that is written",
    "crop": "; the same command goes on with the videos that are not done",
    "probe": "; the same command goes on with the clips that are not done",
    "prepare": "; the same command goes on with the clips that are not done",
    "ablate": "; the same command goes on with the runs that are not done",
    "fewlabels": "; the same command goes on with the runs that are not done",
    "shard": "; the same command goes on with the clips that are not done",
    "reproduce": "; the same command goes on with the folds that are not done",
    "motion": "; the same command goes on with the pre-trainings that are not done",
    "crossval": "; the same command goes on with the folds that are not done",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0, 1 where some of many inputs have failed, 2 for what the user can mend (one line on stderr),
        130 when interrupted, 128 and the signal's number when a run was stopped by one and saved.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    try:
        try:
            return _run(argv)
        finally:
            # Here, not when Python ends, so that a full disk or a closed pipe is told like any other failure.
            sys.stdout.flush()
    except Stopped as stop:
        if os.environ.get("RANK", "").strip() in ("", "0"):
            _complain(f"maedfer: {one_line(stop)}")
        return stop.status
    except KeyboardInterrupt:
        more = _GOES_ON.get(argv[0], "") if argv else ""
        _complain(f"\nmaedfer: interrupted{more}")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`maedfer info | head`).
        _give_up(sys.stdout)
        return 1
    except Exception as error:
        memory = type(error).__name__ in ("OutOfMemoryError", "MemoryError") or _NO_MEMORY in str(error)
        if not isinstance(error, _USER_ERRORS) and not memory:
            raise
        if "--traceback" in argv or os.environ.get("MAEDFER_TRACEBACK", "0") not in ("", "0"):
            _complain(traceback.format_exc().rstrip())
        _complain(f"maedfer: error: {one_line(error)}")
        try:
            sys.stdout.flush()
        except OSError:
            _give_up(sys.stdout)
        return 2


def prepare_streams() -> None:
    """Make printing safe: any text can be printed, and to a stream that was closed before the program began.

    A character that the stream cannot hold, or a byte of a file's name that is no UTF-8, becomes an escape.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is not None:
            continue
        # The lowest number that is free is given, so that no file that is opened later gets this stream's prints.
        os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="maedfer",
        description="Dynamic facial expression recognition with MAE-DFER and LGI-Former: pre-train on unlabelled face\n"
        "video, fine-tune on labelled clips, evaluate, look at the result.",
        epilog=examples(
            "maedfer synth --out data/synth                      # a data set to try everything on",
            "maedfer pretrain synth_pretrain data.train=data/synth/pretrain.csv",
            "maedfer finetune dfew data.train=train.csv data.test=test.csv train.init=runs/voxceleb2_pretrain",
            "maedfer evaluate --run runs/dfew",
            "maedfer crossval dfew --lists prepared/dfew data.root=/data/DFEW --out runs/dfew   # all folds, pooled",
            "maedfer prepare ravdess --root RAVDESS --out prepared/ravdess   # a data set: checked, cropped, split",
            "maedfer crop recordings/ --out faces               # every video's largest face, cut out",
            "maedfer shard train.csv --out shards/train         # clips decoded once, for data.train=shards/train",
            "maedfer predict interviews/ --checkpoint runs/dfew --out results      # expressions over time",
            "maedfer explain runs/dfew interview.mp4 --out explained               # what the model looks at",
            "maedfer features runs/voxceleb2_pretrain data.test=clips.csv --out features.npz",
            "maedfer probe runs/voxceleb2_pretrain data.train=train.csv data.test=test.csv --out probes",
            "maedfer compare runs/dfew_0 runs/dfew_1 runs/mine_0 runs/mine_1 --out runs/comparison",
            "maedfer plan voxceleb2_pretrain --gpus 1,8,64      # hours, reading, links, failures and price of a run",
            "maedfer info lgi_former_base                        # parameters and multiply-adds",
            "maedfer export runs/dfew --format onnx --out dfew.onnx",
            "maedfer doctor                                      # what works here, for a bug report",
        )
        + "\n\nmaedfer COMMAND --help tells more. MAEDFER_TRACEBACK=1 or --traceback shows where an error came from.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for module in (
        pretrain,
        finetune,
        evaluate,
        crossval,
        reproduce,
        motion,
        features,
        probe,
        predict,
        explain,
        plan,
        settings,
        report,
        compare,
        fewlabels,
        ablate,
        lists,
        prepare,
        crop,
        shard,
        synth,
        info,
        doctor,
        convert,
        export,
        push,
    ):
        module.add_commands(commands)
    return parser


def one_line(error: BaseException) -> str:
    """The message of an error as one line."""
    if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
        return "the memory of this machine is not enough: lower the sizes of model, or train.batch_size"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {shortened(repr(error.filename))}"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU has not enough memory: lower train.batch_size (and raise train.accumulate), or set " + (
            "model.checkpoint_blocks=true"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # An error in a loader process arrives with that process's trace in its message; the last line is the message.
    if lines[0].startswith("Caught ") and len(lines) > 1:
        return lines[-1].partition(f"{type(error).__name__}: ")[2] or lines[-1]
    # Words without end (a list where a name was to be, a path that is none) are cut.
    return re.sub(r"\S{300,}", lambda word: shortened(word[0]), " ".join(lines))


def _complain(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Nobody reads it; the status tells.
        _give_up(sys.stderr)


def _give_up(stream: Any) -> None:
    # Python must not fail again when it flushes in the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(argv: list[str]) -> int:
    parser = build_parser()
    command = next((item for item in argv if not item.startswith("-")), None)
    known = parser.commands()
    if command is not None and command not in known:
        raise unknown("command", command, known)
    args = parse(parser, argv)
    if args.version:
        from maedfer import __version__

        print(f"maedfer {__version__}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    status: int = args.run(args)
    return status
