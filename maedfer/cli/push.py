"""`maedfer push`: a model and its card to the Hugging Face hub."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from maedfer._values import expand_home, hub_name
from maedfer.cli._parser import add_command, examples, path
from maedfer.errors import InputError, require


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "push",
        run,
        "put a model with its card on the Hugging Face hub",
        "Put a model into a repository on the Hugging Face hub, in one commit: config.json, model.safetensors and, as\n"
        "README.md, a card: what the model is, its scores with intervals, confusion of classes, calibration,\n"
        "settings, versions, how it is used, and what a label is not. MODEL is a run that has ended or a saved\n"
        "model. The card names no folders, clips, machines or people; whoever publishes says the licence, nothing\n"
        "guesses it. A new repository is private unless --public is given. The token is that of `hf auth login`,\n"
        "or HF_TOKEN.",
        examples(
            "maedfer push runs/dfew user/dfew-lgi-former --dry-run    # the files and the card; nothing is sent",
            'maedfer push runs/dfew user/dfew-lgi-former --license cc-by-nc-4.0 --data "DFEW, fold 1"',
            "maedfer push models/dfew1 user/dfew1 --scores runs/evaluation --public",
            "maedfer push runs/dfew user/dfew-lgi-former --card mine.md",
        ),
    )
    parser.add_argument("model", metavar="MODEL", type=path, help="a run that has ended, or a saved model")
    parser.add_argument("repository", metavar="USER/NAME", help="repository on the hub, made where it is not there")
    parser.add_argument("--dry-run", action="store_true", help="show the files and the card; nothing is sent or asked")
    parser.add_argument(
        "--card",
        metavar="FILE",
        help="a card of your own; keep = leave that of the repository as it is; "
        "new = also write over one that somebody has written",
    )
    parser.add_argument("--data", metavar="NAME", help='data set that the scores are of, "DFEW, fold 1"')
    parser.add_argument("--scores", metavar="DIR", type=path, help="run or evaluation whose scores the card tells")
    parser.add_argument("--license", metavar="ID", help="mit, cc-by-nc-4.0, ..., or other with --license-name")
    parser.add_argument("--license-name", metavar="NAME", help="name of another licence")
    parser.add_argument("--license-link", metavar="URL", help="where its text is")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", help="insist that only its owners can see the repository")
    seen.add_argument("--public", action="store_true", help="everybody can see the repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to write to (main)")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")


def run(args: argparse.Namespace) -> int:
    """Push, and say where it is; or show what would be pushed."""
    name = hub_name(args.repository.removeprefix("hf://"))
    if name is None or name.revision is not None:
        raise InputError(f"{args.repository!r} is no name of a repository: give user/name")
    if not os.path.isdir(args.model):
        raise InputError(f"{args.model!r} is no folder: give a run that has ended, or a saved model")
    if not args.dry_run:
        require("huggingface_hub", "hub")
    from maedfer.evaluation.score import check_finite
    from maedfer.models import load
    from maedfer.models.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, push
    from maedfer.models.load import saved_folder

    folder = saved_folder(args.model)
    if folder is None:
        raise InputError(
            f"{args.model!r} is neither a run that has ended nor a saved model: finish the run, or make a saved model "
            "of a checkpoint by maedfer convert"
        )
    card = _card(args, name.repository)
    # What cannot be loaded again is not for others.
    check_finite(load(folder), repr(args.model))
    files: dict[str, Path | bytes] = {file: folder / file for file in (CONFIG_FILE, WEIGHTS_FILE)}
    if card is not None:
        files[CARD_FILE] = card.encode()
    if args.dry_run:
        print(f"{name}" + (f", branch {args.revision}" if args.revision else ""))
        for file, content in files.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            print(f"  {file:<20}{size / 1e6:>10.3f} MB")
        print("\n" + (card if card is not None else "the card that is there stays"))
        if args.data is None and "\nmetrics:\n" in (card or ""):
            print(
                "the scores stand in the card alone: --data NAME says of which data set they are, for the hub to list"
            )
        print("nothing was sent")
        return 0
    private = True if args.private else False if args.public else None
    address = push(
        files,
        name.repository,
        private=private,
        revision=args.revision,
        message=args.message,
        replace_card=args.card is not None,
    )
    print(f"pushed: {address}")
    return 0


def _card(args: argparse.Namespace, repository: str) -> str | None:
    """The text of the card; None where that of the repository stays."""
    from maedfer.models.card import CardFacts, read_card
    from maedfer.report.model_card import model_card

    own = args.card not in (None, "new")
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("data", "scores", "license", "license_name", "license_link")
        if getattr(args, name) is not None
    ]
    if own and given:
        raise InputError(
            f"{given[0]} is for a card that is written here: leave it out, or leave out --card {args.card}"
        )
    if args.card == "keep":
        return None
    if own:
        return read_card(expand_home(args.card))
    facts = CardFacts(args.license, args.license_name, args.license_link, args.data)
    return str(model_card(args.model, repository, facts, args.scores))
