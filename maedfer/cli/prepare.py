"""`maedfer prepare`: a data set as it lies on disk becomes lists that can be trained on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import add_command, class_names, examples, path
from maedfer.errors import InputError

if TYPE_CHECKING:
    from maedfer.preparation.options import PrepareOptions


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    protocols = Path(__file__).resolve().parent.parent / "data" / "protocols"
    names = sorted([*(file.stem for file in protocols.glob("[!_]*.py")), "voxceleb2"])
    parser = add_command(
        commands,
        "prepare",
        run,
        "check a data set, crop its faces where need be, and write lists fold by fold",
        "Look at every clip of a data set, cut the faces out where they are whole recordings, and write the lists of\n"
        "its folds, with a report in words, a manifest with digests, and the command to type next.\n\n"
        f"Data sets: {', '.join(names)};\n"
        "folder (a class per folder in ROOT, or folders train, test and val of such) and list (an annotation file of\n"
        "one's own, --list), which are divided by --subject, --folds, --test and --seed.\n\n"
        "In DIR:\n"
        "  report.txt       what was found, what to mind, the commands to type next\n"
        "  manifest.json    files, sizes, digests (SHA-256), versions, settings\n"
        "  quarantine.csv   clips that are left out of the lists, and why\n"
        "  classes.txt, fold_1/train.csv, fold_1/test.csv, ...; pretrain.csv where clips have no labels\n"
        "  crops/           the faces of whole recordings, as maedfer crop writes them\n\n"
        "The same command goes on where an earlier one was ended, and tries again the clips that have changed. The\n"
        "status is 0, 1 where clips are left out, 2 where nothing could be done.",
        examples(
            "maedfer prepare dfew --root /data/DFEW --out prepared/dfew --dry-run",
            "maedfer prepare ravdess --root /data/RAVDESS --out prepared/ravdess --workers 8",
            "maedfer prepare voxceleb2 --root /data/VoxCeleb2 --out prepared/voxceleb2 --workers 16 --no-digests",
            "maedfer prepare folder --root my_clips --out prepared/mine --subject '(p[0-9]+)_' --folds 5",
            "maedfer prepare list --list clips.csv --out prepared/mine --subject person --test 0.25",
        ),
    )
    parser.add_argument("dataset", metavar="DATASET", help="name of the data set, folder, or list")
    parser.add_argument("--root", metavar="ROOT", type=path, help="folder that the data set is in")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder to write to")
    parser.add_argument("--dry-run", action="store_true", help="look at some of the clips, say all, write nothing")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (1)")
    parser.add_argument("--check", metavar="WHAT", help="decode of each clip its ends (default) or all frames")
    parser.add_argument(
        "--no-digests", dest="digests", action="store_false", default=None, help="do not read all bytes"
    )
    crops = parser.add_argument_group("crops")
    crops.add_argument("--crop", metavar="WHETHER", help="yes, no, or auto (default): where clips are whole recordings")
    crops.add_argument("--size", type=int, metavar="N", help="side of the crops in pixels (224)")
    crops.add_argument("--detector", metavar="FILE", type=path, help="a CenterFace or YuNet file of your own")
    crops.add_argument("--boxes", metavar="FILE", type=path, help="boxes made elsewhere: video, frame, x, y, ...")
    crops.add_argument("--fps", type=float, metavar="N", help="frames a second of folders of frames")
    own = parser.add_argument_group("your own clips")
    own.add_argument("--list", dest="list_file", metavar="FILE", type=path, help="the annotation file of `list`")
    own.add_argument(
        "--classes", metavar="NAMES", help="classes of `list` in label order: those of a data set, or a,b,c"
    )
    own.add_argument("--subject", metavar="WHO", help="a column of the list, or a pattern that is found in each path")
    own.add_argument("--folds", type=int, metavar="N", help="parts that are each tested once (1: one split)")
    own.add_argument("--test", type=float, metavar="X", help="share for test, where there is one split (0.2)")
    own.add_argument("--seed", type=int, metavar="N", help="says which clips are in which part (0)")
    own.add_argument("--unlabelled", action="store_true", default=None, help="`folder` has no classes: to pre-train")
    parser.add_argument("--shard", action="store_true", default=None, help="next, write shards and train from them")


def run(args: argparse.Namespace) -> int:
    """Prepare; the status is 1 where clips are left out."""
    options = _options(args)
    from maedfer._progress import ProgressLine, counted
    from maedfer.preparation.prepare import prepare_dataset

    line: list[ProgressLine] = []

    def progress(what: str, share: float) -> None:
        if not line or line[0].what != what:
            for earlier in line:
                earlier.clear()
            line[:] = [ProgressLine(what, sys.stderr)]
        line[0](share)

    try:
        prepared = prepare_dataset(args.dataset, args.root, args.out, options, dry_run=args.dry_run, progress=progress)
    except InputError as error:
        raise _as_options(error) from None
    finally:
        for shown in line:
            shown.clear()
    print(prepared.text, end="")
    where = "" if args.dry_run else f", in {args.out}"
    print(f"\n{counted(prepared.clips, 'clip')} {'would be' if args.dry_run else 'are'} in the lists{where}.")
    print("Next, with train.init=... where there are pre-trained weights:")
    for command in prepared.commands:
        print(f"  {command}")
    return 1 if prepared.quarantined else 0


def _options(args: argparse.Namespace) -> PrepareOptions:
    from maedfer.preparation.options import PrepareOptions

    names = "list_file subject folds test seed unlabelled crop size detector boxes fps check digests workers shard"
    given = {name: value for name in names.split() if (value := getattr(args, name)) is not None}
    given["classes"] = class_names(args.classes)
    try:
        return PrepareOptions(**given)
    except InputError as error:
        raise _as_options(error) from None


def _as_options(error: InputError) -> InputError:
    """The error of an option, which begins with its name, with the dashes that it is typed with."""
    from dataclasses import fields

    from maedfer.preparation.options import PrepareOptions

    word = str(error).split(" ")[0].split("[")[0]
    known = {*(field.name for field in fields(PrepareOptions)), "list", "root"}
    return InputError(f"--{error}") if word in known else error
