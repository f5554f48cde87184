"""One's own clips, in folders and in lists."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from maedfer.cli import build_parser
from maedfer.cli._parser import parse
from maedfer.data import read_annotations
from maedfer.data.protocols import PROTOCOLS
from maedfer.errors import InputError
from maedfer.preparation import Prepared, PrepareOptions, commands, prepare_dataset
from maedfer.train.config import load_config
from tests.preparation import trees
from tests.preparation.conftest import Prepare


def settings(prepared: Prepared) -> Any:
    words = shlex.split(prepared.commands[-1])
    return load_config(words[1], words[2], words[3:])


def rows(file: Path) -> dict[str, int | None]:
    return {clip.name: clip.label for clip in read_annotations(file, labelled=False)}


def test_a_class_per_folder(prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    (tmp_path / "root/notes").mkdir()
    (tmp_path / "root/notes/read me.txt").write_text("text")
    prepared = prepare("folder", subject=r"(p\d)_", folds=3)
    assert any(sentence.endswith("it is no class.") and "notes" in sentence for sentence in prepared.mind)
    cfg = settings(prepared)
    assert cfg.classes == ("a happy", "sad") and (tmp_path / "out/classes.txt").read_text() == "a happy\nsad\n"
    # Of eight clips a batch has two. Three frames a clip: every one is taken.
    assert cfg.train.batch_size == 2
    assert cfg.data.stride == 1 and cfg.data.root == str(tmp_path / "root")
    tested = set()
    for fold in (1, 2, 3):
        found = rows(tmp_path / f"out/fold_{fold}/test.csv")
        assert all(label == ("sad" in path) for path, label in found.items()) and len(found) == 4
        (person,) = {path.split("/")[1][:2] for path in found}
        tested.add(person)
        assert not any(person in path for path in rows(tmp_path / f"out/fold_{fold}/train.csv"))
    assert tested == {"p1", "p2", "p3"}
    # The lists say who is who.
    assert all(
        clip.subject == clip.name.split("/")[1][:2] for clip in read_annotations(tmp_path / "out/fold_1/test.csv")
    )
    # Fewer folds leave no lists of the others.
    again = prepare("folder")
    assert any("Say who is who by --subject." in sentence for sentence in again.mind)
    assert [path.name for path in sorted((tmp_path / "out").glob("fold_*"))] == ["fold_1"]


def test_folders_of_a_split(prepare: Prepare, tmp_path: Path) -> None:
    for part, number in (("Train", 3), ("val", 1), ("test", 2)):
        for name in ("calm", "moved"):
            for clip in range(number):
                trees.frames(tmp_path / "root" / part / name / f"{part}{clip}")
    cfg = settings(prepare("folder"))
    assert [len(rows(Path(file))) for file in (cfg.data.train, cfg.data.val, cfg.data.test)] == [6, 2, 4]
    assert rows(tmp_path / "out/val.csv") == {"val/calm/val0": 0, "val/moved/val0": 1}
    with pytest.raises(InputError, match="folds is for clips that are to be divided: its folders are parts already"):
        prepare("folder", folds=2)
    (tmp_path / "root/Train/moved").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="only one of its folders holds clips"):
        prepare("folder")


def test_unlabelled_clips_are_for_pre_training(prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    prepared = prepare("folder", unlabelled=True)
    cfg = settings(prepared)
    assert cfg.task == "pretrain" and cfg.augment.crop is None
    assert len(rows(Path(cfg.data.train))) == prepared.clips == 12
    assert not (tmp_path / "out/classes.txt").exists()


def test_whole_pictures_are_cropped(prepare: Prepare, tmp_path: Path) -> None:
    for name in ("calm", "moved"):
        for clip in range(2):
            trees.video(tmp_path / f"root/{name}/{clip}.mp4")
    dry = prepare("folder", dry_run=True)
    assert f"Faces would be cut out, into {tmp_path}/out/crops." in dry.found and not (tmp_path / "out").exists()
    assert any("the face covers 5 % of the picture (median)" in sentence for sentence in dry.found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maedfer.faces.crop_many.open_detector", lambda *_, **__: trees.RedDetector())
        prepared = prepare("folder", size=32)
    assert prepared.commands == dry.commands
    cfg = settings(prepared)
    assert all((Path(cfg.data.root) / path).is_file() for path in rows(Path(cfg.data.train)))
    # Nobody wants them cropped again.
    with pytest.raises(InputError, match="is in the folder of the data set"):
        prepare_dataset("folder", tmp_path, tmp_path / "out")


def test_folders_of_frames_need_their_rate_to_be_cropped(prepare: Prepare, tmp_path: Path) -> None:
    for name in ("calm", "moved"):
        for clip in range(2):
            trees.frames(tmp_path / f"root/{name}/{clip}", height=36, width=64, face=10)
    with pytest.raises(InputError, match="4 folders of frames, the first is .* give the frames a second by --fps"):
        prepare("folder", dry_run=True)
    assert prepare("folder", dry_run=True, fps=25.0).clips == 4
    assert any("cut the faces out by --crop yes" in sentence for sentence in prepare("folder", crop="no").mind)


@pytest.mark.parametrize(
    ("text", "options", "classes", "labels"),
    [
        ("path,emotion,person\n{0},sad,x\n{1},glad,x\n{2},sad,y\n{3},glad,y\n", {}, ("glad", "sad"), [1, 0, 1, 0]),
        ("{0} 2\n{1} 1\n{2} 2\n{3} 1\n", {}, ("class_1", "class_2"), [1, 0, 1, 0]),
        ("{0} 2\n{1} 1\n{2} 2\n{3} 1\n", {"classes": ("a", "b")}, ("a", "b"), [1, 0, 1, 0]),
        ("{0} 0\n{1} 1\n{2} 1\n{3} 0\n", {"classes": ("b", "a")}, ("b", "a"), [0, 1, 1, 0]),
        ("{0};sad\n{1};glad\n{2};sad\n{3};glad\n", {"classes": ("sad", "glad")}, ("sad", "glad"), [0, 1, 0, 1]),
    ],
    ids=["names", "numbers from 1", "names for them", "numbers from 0", "given names"],
)
def test_lists(
    text: str, options: dict[str, Any], classes: tuple[str, ...], labels: list[int], red: None, tmp_path: Path
) -> None:
    names = [f"clips/take {number}" for number in range(4)]
    for name in names:
        trees.frames(tmp_path / name)
    (tmp_path / "my list.csv").write_text(text.format(*names))
    chosen = PrepareOptions(list_file=str(tmp_path / "my list.csv"), test=0.5, **options)
    prepared = prepare_dataset("list", None, tmp_path / "out", chosen)
    cfg = settings(prepared)
    assert cfg.classes == classes
    found = {**rows(Path(cfg.data.train)), **rows(Path(cfg.data.test))}
    assert found == dict(zip(names, labels, strict=True)) and cfg.data.root == str(tmp_path)


def test_a_column_says_who_is_in_a_clip(red: None, tmp_path: Path) -> None:
    people = ["x", "y", "z", "x", "y", "z"]
    lines = []
    for number, person in enumerate(people):
        trees.frames(tmp_path / f"elsewhere/{number}")
        lines.append(f"{tmp_path}/elsewhere/{number},{number % 2},{person}\n")
    (tmp_path / "list.csv").write_text("path,label,Person Name\n" + "".join(lines))
    (tmp_path / "root").mkdir()

    def run(subject: str) -> Prepared:
        chosen = PrepareOptions(list_file=str(tmp_path / "list.csv"), subject=subject, folds=3)
        return prepare_dataset("list", tmp_path / "root", tmp_path / "out", chosen)

    run("person name")
    for fold in (1, 2, 3):
        found = rows(tmp_path / f"out/fold_{fold}/test.csv")
        # Clips elsewhere keep their whole path.
        (who,) = {people[int(path.rsplit("/", 1)[1])] for path in found}
        assert len(found) == 2 and all(Path(path).is_absolute() for path in found) and who in "xyz"
    with pytest.raises(InputError, match=r"list.csv: no column is named 'actor' in its first line"):
        run("actor")
    with pytest.raises(InputError, match=r"subject '\(q\)' is not found in '.*elsewhere/0': every clip must have one"):
        run("(q)")


def test_lists_without_labels_are_for_pre_training(red: None, tmp_path: Path) -> None:
    for number in range(3):
        trees.frames(tmp_path / f"c{number}")
    (tmp_path / "list.txt").write_text("c0\nc1\nc2\nc1\n")
    chosen = PrepareOptions(list_file=str(tmp_path / "list.txt"))
    prepared = prepare_dataset("list", tmp_path, tmp_path / "out", chosen)
    assert settings(prepared).task == "pretrain" and prepared.clips == 3
    assert "1 line of the list name clips that others have named before." in prepared.mind


def test_labels_that_are_taken_for_a_part_of_the_path(red: None, tmp_path: Path) -> None:
    trees.frames(tmp_path / "c0")
    (tmp_path / "list.txt").write_text("c0 happy\nc1 sad\n")
    with pytest.raises(InputError, match=r"list.txt:1: 'c0 happy' is not there, but 'c0' is: name the classes by --cl"):
        prepare_dataset("list", tmp_path, tmp_path / "out", PrepareOptions(list_file=str(tmp_path / "list.txt")))
    (tmp_path / "list.txt").write_text("path label\nc0 happy\nc1 happy\n")
    with pytest.raises(InputError, match="all clips are of one class, happy: there is nothing to tell apart"):
        prepare_dataset("list", tmp_path, tmp_path / "out", PrepareOptions(list_file=str(tmp_path / "list.txt")))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("0", "100000000"), "label 100000000 would be that of class 100000000, the most are 1000: name the column"),
        (("happy", "", "sad"), "list.csv:3: the line has no label"),
    ],
)
def test_labels_that_are_none(lines: tuple[str, ...], message: str, red: None, tmp_path: Path) -> None:
    rows = [f"c{number},{label}\n" for number, label in enumerate((*lines, lines[0]))]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))
    with pytest.raises(InputError, match=re.escape(message)):
        prepare_dataset("list", tmp_path, tmp_path / "out", PrepareOptions(list_file=str(tmp_path / "list.csv")))


def test_lists_of_an_earlier_choice_are_gone(prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    for options in ({"folds": 2}, {"unlabelled": True}, {}):
        prepare("folder", **options)
        lists = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.csv"))
        folds = range(1, options.get("folds", 1) + 1)
        of_folds = [f"fold_{fold}/{part}.csv" for fold in folds for part in ("test", "train")]
        assert lists == (["pretrain.csv"] if options.get("unlabelled") else of_folds)


@pytest.mark.parametrize("name", ["two\nlines", os.fsdecode(b"\xe4"), " calm"])
def test_names_that_no_class_can_have(name: str, prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    (tmp_path / "root/sad").rename(tmp_path / "root" / name)
    with pytest.raises(InputError, match="^class .* has a name with line breaks, spaces around it or letters") as error:
        prepare("folder")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (("a/1", "a/2"), "only one of its folders holds clips"),
        (("1", "2"), "its folders .1, 2. are clips, folders of frames, and not classes"),
        ((), "no folders are in it, of which each is to hold the clips of a class"),
    ],
)
def test_other_folders(tree: tuple[str, ...], message: str, prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in tree:
        trees.frames(tmp_path / "root" / name)
    with pytest.raises(InputError, match=message):
        prepare("folder")
    assert not (tmp_path / "out").exists()


def test_shards_come_first_where_they_are_asked_for(prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    commands = prepare("folder", shard=True).commands
    out = tmp_path / "out"
    for command in commands[:-1]:
        parse(build_parser(), shlex.split(command)[1:])
    assert [shlex.split(command)[:3] for command in commands[:-1]] == [
        ["maedfer", "shard", f"{out}/fold_1/{part}.csv"] for part in ("train", "test")
    ]
    assert shlex.split(commands[0])[3:] == [
        "--root", f"{tmp_path}/root", "--out", f"{out}/shards/fold_1/train", "--classes", "a happy,sad",
    ]  # fmt: skip
    assert f"data.train={out}/shards/fold_1/train" in commands[-1] and "data.root" not in commands[-1]


def test_batches_are_those_of_the_recipes() -> None:
    of_recipes = {load_config("finetune", name, [], check=False).train.batch_size for name in PROTOCOLS}
    pretrain = load_config("pretrain", "voxceleb2_pretrain", [], check=False)
    assert ({commands._BATCH}, commands._PRETRAIN_BATCH) == (of_recipes, pretrain.train.batch_size)
    assert pretrain.augment.crop == commands.VOXCELEB2_CUT
