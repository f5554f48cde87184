"""Public data sets in the layouts that they come in."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from maedfer.data import open_video, read_annotations
from maedfer.data.protocols import PROTOCOLS
from maedfer.errors import InputError
from maedfer.train.config import load_config
from tests.preparation import trees
from tests.preparation.conftest import Prepare


def boxes(tmp_path: Path) -> str:
    """Boxes of what `trees.video` draws, for every video below the data set's folder."""
    rows = [
        (path.relative_to(tmp_path / "root").as_posix(), frame, 26, 18, 12, 12)
        for path in (tmp_path / "root").rglob("*.*")
        if path.suffix in (".mp4", ".flv", ".avi")
        for frame in range(4)
    ]
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "frame", "x", "y", "width", "height"), *rows])
    return str(tmp_path / "boxes.csv")


def check_lists(dataset: str, tmp_path: Path, command: str, test_clips: list[int]) -> None:
    """The last command's settings are understood, and every clip of the lists can be read."""
    words = shlex.split(command)
    assert words[:3] == ["maedfer", "finetune", dataset]
    cfg = load_config("finetune", dataset, words[3:])
    assert cfg.classes == PROTOCOLS[dataset].classes
    for fold, count in enumerate(test_clips, 1):
        parts = {}
        for part in ("train", "test"):
            file = tmp_path / f"out/fold_{fold}/{part}.csv"
            parts[part] = read_annotations(file, cfg.data.root, len(cfg.classes))
            for clip in parts[part]:
                with open_video(clip.path) as reader:
                    assert len(reader)
        assert len(parts["test"]) == count
        assert not {clip.path for clip in parts["train"]} & {clip.path for clip in parts["test"]}


@pytest.mark.parametrize("place", ["jpg_256", "Clip/jpg_256", "jpg_224", "clip_224x224", "Clip/clip_224x224"])
def test_dfew(place: str, prepare: Prepare, tmp_path: Path) -> None:
    trees.dfew(tmp_path / "root", place)
    prepared = prepare("dfew")
    assert prepared.found[0] == f"5 clips, folders of frames in {tmp_path}/root/{place}."
    assert "The version of 16 frames a clip (*_16f) is here too and not used, as in the published code." in (
        prepared.found
    )
    assert "Frames are 40 x 40." in prepared.found and "Clips have 3 frames." in prepared.found
    assert any(
        sentence.startswith("In the middle frames of 5 clips the face covers 64 %") for sentence in prepared.found
    )
    assert "Published are 11,697 clips, 2,341 of them in the test part of fold 1; found were 5 and 1." in prepared.mind
    assert any(
        sentence.startswith("Frames of DFEW are 256 x 256, and most of these are 40 x 40") for sentence in prepared.mind
    )
    assert not prepared.quarantined and prepared.clips == 5
    check_lists("dfew", tmp_path, prepared.commands[-1], [1] * 5)


def test_whole_pictures_in_place_of_faces_are_told(prepare: Prepare, tmp_path: Path) -> None:
    trees.dfew(tmp_path / "root", height=36, width=64, face=10)
    warning = next(sentence for sentence in prepare("dfew").mind if "do not look like crops" in sentence)
    assert warning.startswith("In the middle frames of 5 clips the face covers 4 % of the picture (median)")
    assert "take the frames of faces that the data set comes with, or cut them out by --crop yes" in warning
    assert "41 on MAFW reach 15.6" in warning


def test_ferv39k(prepare: Prepare, tmp_path: Path) -> None:
    trees.ferv39k(tmp_path / "root")
    prepared = prepare("ferv39k")
    check_lists("ferv39k", tmp_path, prepared.commands[-1], [1])


def test_mafw(prepare: Prepare, tmp_path: Path) -> None:
    trees.mafw(tmp_path / "root")
    prepared = prepare("mafw")
    assert prepared.found[0].endswith("folders of frames in " + str(tmp_path / "root/data/frames") + ".")
    check_lists("mafw", tmp_path, prepared.commands[-1], [1] * 5)


def test_recordings_without_their_faces_are_cropped_and_told(prepare: Prepare, tmp_path: Path) -> None:
    trees.mafw(tmp_path / "root", faces=False)
    prepared = prepare("mafw", boxes=boxes(tmp_path), size=32)
    assert any(
        sentence.startswith("The folders of faces that come with MAFW are not here") for sentence in prepared.mind
    )
    assert "Faces were cut out of 5 clips, into crops/." in prepared.found
    check_lists("mafw", tmp_path, prepared.commands[-1], [1] * 5)


@pytest.mark.parametrize(
    ("dataset", "tree", "tests", "left_out"),
    [
        ("crema_d", trees.crema_d, [2] * 5, ""),
        ("ravdess", trees.ravdess, [1] * 6, "12 other videos below the folder are not of the protocol"),
        ("enterface05", trees.enterface05, [1] * 5, "1 other video below the folder is not of the protocol"),
    ],
)
def test_whole_recordings_are_cropped(
    dataset: str, tree: Callable[[Path], None], tests: list[int], left_out: str, prepare: Prepare, tmp_path: Path
) -> None:
    tree(tmp_path / "root")
    prepared = prepare(dataset, boxes=boxes(tmp_path), size=32)
    clips = sum(tests)
    assert f"Faces were cut out of {clips} clips, into crops/." in prepared.found
    assert any(sentence.startswith(left_out) for sentence in prepared.found)
    assert f"data.root={tmp_path}/out/crops" in prepared.commands[-1]
    check_lists(dataset, tmp_path, prepared.commands[-1], tests)
    with open_video(next((tmp_path / "out/crops").rglob("*.mp4"))) as crop:
        assert crop.size == (32, 32)
        # The box and 1.3 of its side: the share of red is known.
        red = crop.read([1])[0]
        assert abs(((red[..., 0] > 150) & (red[..., 2] < 100)).mean() - 1 / 1.3**2) < 0.06


def test_recordings_that_are_crops_already_are_not_cropped_again(prepare: Prepare, tmp_path: Path) -> None:
    for actor in (1, 5, 9, 13, 17, 21):
        name = f"Actor_{actor:02d}/01-01-03-01-01-01-{actor:02d}.mp4"
        trees.video(tmp_path / "root" / name, height=40, width=40, face=32)
    prepared = prepare("ravdess")
    assert any(sentence.startswith("The videos are square: they are taken for crops") for sentence in prepared.found)
    assert f"data.root={tmp_path}/root" in prepared.commands[-1] and not (tmp_path / "out/crops").exists()
    check_lists("ravdess", tmp_path, prepared.commands[-1], [1] * 6)


def test_voxceleb2(prepare: Prepare, tmp_path: Path) -> None:
    trees.voxceleb2(tmp_path / "root")
    prepared = prepare("voxceleb2")
    clips = [
        "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4",
        "dev/mp4/id00012/21Uxsk56VDQ/00002.mp4",
        "dev/mp4/id00015/0fijmz4vTVU/00001.mp4",
    ]
    assert (tmp_path / "out/pretrain.csv").read_text().split() == clips
    assert list(prepared.quarantined) == ["dev/mp4/id00015/0fijmz4vTVU/00002.mp4"]
    assert (
        "Published are 1,092,009 clips of 5,994 speakers; found were 4 of 2. Fewer may mean that not all parts are "
        "unpacked." in prepared.mind
    )
    # A face of 0.16 of the picture is as it should be in VoxCeleb2's wider crops.
    assert not any("do not look like crops" in sentence for sentence in prepared.mind)
    words = shlex.split(prepared.commands[-1])
    assert words[:3] == ["maedfer", "pretrain", "voxceleb2_pretrain"]
    cfg = load_config("pretrain", "voxceleb2_pretrain", words[3:])
    assert len(read_annotations(cfg.data.train, cfg.data.root, labelled=False)) == 3
    for place in ("dev", "dev/mp4"):
        assert len(read_lists(tmp_path, place)) == 4


def read_lists(tmp_path: Path, place: str) -> list[str]:
    from maedfer.preparation.published import find_voxceleb2

    return find_voxceleb2(tmp_path / "root" / place).paths


def test_what_is_not_unpacked_is_told(prepare: Prepare, tmp_path: Path) -> None:
    root = tmp_path / "root"
    trees.mafw(root)
    for number in range(1, 6):
        for file in (root / f"data/frames/{number:05d}").iterdir():
            file.unlink()
        (root / f"data/frames/{number:05d}").rmdir()
        (root / f"data/clips/{number:05d}.mp4").unlink()
    (root / "data/frames.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"none of the 5 clips of MAFW is there, .*: unpack data/frames.zip"):
        prepare("mafw")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no speakers' folders .* nor in dev/mp4 below it: unpack data/frames.zip"):
        prepare("voxceleb2")
