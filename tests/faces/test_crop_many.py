"""Crops of many videos: gone on with after any end, and never mixed up."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maedfer._workers import DIED, in_processes
from maedfer.data import read_annotations
from maedfer.data.inputs import Input, find_inputs
from maedfer.errors import InputError
from maedfer.faces import crop_many
from maedfer.faces.crop_journal import JOURNAL_FILE, CropJournal
from maedfer.faces.crop_many import crop_videos, list_names
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.write_crops import CroppedFace
from tests.data.media import pictures, write_video
from tests.faces.dying import square_or_die


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Clips of one name in two folders, one without a face and one that is none, and boxes of the others."""
    folder = tmp_path / "videos"
    rows: list[tuple[object, ...]] = []
    for number, name in enumerate(["a/1.mp4", "a/2.mp4", "b/1.mp4", "b/empty.mp4"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, pictures(6 + number, 48, 64))
        last = -1 if "empty" in name else 5
        rows += [(name, frame, 10 + number, 10, 20, 20) for frame in range(last + 1)]
    rows.append(("b/empty.mp4", 0, "", "", "", ""))
    (folder / "b/broken.mp4").write_bytes(b"no video")
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "frame", "x", "y", "width", "height"], *rows])
    return folder


@pytest.fixture
def options(tmp_path: Path) -> CropOptions:
    return CropOptions(size=32, boxes=str(tmp_path / "boxes.csv"))


def content(folder: Path) -> dict[str, bytes]:
    """All files but the journal, whose lines are in the order in which videos were done."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != JOURNAL_FILE
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_faces_and_failures_are_listed(videos: Path, options: CropOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shares: list[float] = []
    result = crop_videos(find_inputs([videos]), out, options, progress=shares.append)
    assert content(out).keys() == {"a/1.mp4", "a/2.mp4", "b/1.mp4", "faces.csv", "failed.csv"}
    assert [row["file"] for row in table(out / "faces.csv")] == ["a/1.mp4", "a/2.mp4", "b/1.mp4"]
    first = table(out / "faces.csv")[0]
    assert first == {
        "video": f"{videos}/a/1.mp4", "face": "1", "file": "a/1.mp4", "start": "0.000000", "end": "0.240000",
        "frames": "6", "video_frames": "6", "frame_width": "64", "frame_height": "48", "x": "10.00", "y": "10.00",
        "width": "20.00", "height": "20.00", "detection": "1.0000",
    }  # fmt: skip
    failed = table(out / "failed.csv")
    assert [row["video"] for row in failed] == [f"{videos}/b/broken.mp4", f"{videos}/b/empty.mp4"]
    assert failed[1]["reason"] == "no face was found in its 9 frames" and "\n" not in failed[0]["reason"]
    assert [entry.name for entry in result.failed] == ["b/broken", "b/empty"]
    assert shares == sorted(shares) and shares[-1] == 1


def test_a_run_goes_on_after_any_end(
    videos: Path, options: CropOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = find_inputs([videos])
    crop_videos(inputs, tmp_path / "whole", options)
    expected, out = content(tmp_path / "whole"), tmp_path / "out"
    real, done = crop_many.crop_video, []

    def ended_by_the_second(*args: Any, **kwargs: Any) -> Any:
        done.append(args[1])
        if len(done) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(crop_many, "crop_video", ended_by_the_second)
    with pytest.raises(KeyboardInterrupt):
        crop_videos(inputs, out, options)
    assert [row["file"] for row in table(out / "faces.csv")] == ["a/1.mp4"]
    # What a process leaves that is killed: a line without its end, files without their names.
    with (out / JOURNAL_FILE).open("ab") as journal:
        journal.write(b'{"name": "a/2", "vid')
    (out / "a/.2.mp4.abcd1234.tmp").write_bytes(b"half")
    (out / ".x\ny.abcd1234.tmp").mkdir()
    result = crop_videos(inputs, out, options)
    assert done == ["a/1", "a/2", "a/2", "b/1", "b/broken", "b/empty"] and result.done_before == 1
    assert content(out) == expected and not (out / ".x\ny.abcd1234.tmp").exists()
    # What is done stays, but for what is gone, has changed, or could not be read.
    (out / "a/2.mp4").unlink()
    os.utime(videos / "b/1.mp4", ns=(0, 0))
    done.clear()
    done += ["", ""]
    crop_videos(inputs, out, options)
    assert done[2:] == ["a/2", "b/1", "b/broken"] and content(out) == expected
    write_video(videos / "b/broken.mp4", pictures(3))
    os.remove(videos / "b/empty.mp4")
    crop_videos(inputs[:4], out, options)
    assert "b/broken.mp4: no line of it is of" not in (out / "failed.csv").read_text()


def test_processes_make_the_same_files(videos: Path, options: CropOptions, tmp_path: Path) -> None:
    inputs = find_inputs([videos])
    crop_videos(inputs, tmp_path / "one", options)
    crop_videos(inputs, tmp_path / "two", options, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_process_that_dies_costs_its_own_video_alone() -> None:
    results = dict(in_processes(range(5), square_or_die, 2, (0, DIED)))
    assert "has died" in results.pop(2)[1]
    assert results == {0: 0, 1: 1, 3: 9, 4: 16}


def test_lists_are_written_with_the_crops(videos: Path, options: CropOptions, tmp_path: Path) -> None:
    for fold in ("fold_1", "fold_2"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "train.csv").write_text("a/2.mp4 3\nb/empty.mp4 1\na/1.mp4 0\n")
    lists = [tmp_path / "fold_1/train.csv", tmp_path / "fold_2/train.csv"]
    inputs = find_inputs(lists, root=videos)
    result = crop_videos(inputs, tmp_path / "out", options, lists=lists, root=videos)
    assert [path.name for path in result.lists] == ["fold_1_train.csv", "fold_2_train.csv"]
    clips = read_annotations(result.lists[1])
    assert [(clip.name, clip.label) for clip in clips] == [("a/2.mp4", 3), ("a/1.mp4", 0)]
    assert all(clip.path.is_file() for clip in clips)
    assert list_names(["x/faces.csv", "x/test.txt"]) == ["faces_list.csv", "test.csv"]
    assert list_names(["l/test.csv", "l/test.txt", "l/../l/test.csv"]) == ["test.csv", "test_2.csv", "test.csv"]


def test_what_is_no_journal_stays_as_it_is(options: CropOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for text in ("a line without an end", "{}\nand one", '{"settings": 3}\nand one'):
        (out / JOURNAL_FILE).write_text(text)
        with pytest.raises(InputError, match="is no journal of crops"), CropJournal(out, {}):
            pass
        assert (out / JOURNAL_FILE).read_text() == text
    with CropJournal(tmp_path / "new", {}) as journal:
        journal.add(Input(tmp_path, "1"), [CroppedFace(1, "..", 0, 1, 1, 1, 64, 48, (1, 2, 3, 4), 1.0)], "", True)
    with pytest.raises(InputError, match="is no journal of crops"), CropJournal(tmp_path / "new", {}):
        pass
    # A process that was killed with its first line.
    for text in ("", '{"set', '{"settings": {"si'):
        (out / JOURNAL_FILE).write_text(text)
        with CropJournal(out, {"size": 3}):
            pass
        assert (out / JOURNAL_FILE).read_text() == '{"settings": {"size": 3}}\n'
    # Or with its first video.
    (out / ".a.mp4.abcd1234.tmp").touch()
    with CropJournal(out, {"size": 3}):
        assert not (out / ".a.mp4.abcd1234.tmp").exists()


def test_crops_that_a_changed_video_has_no_more_are_removed(videos: Path, options: CropOptions, tmp_path: Path) -> None:
    item, out = Input(videos / "a/1.mp4", "1"), tmp_path / "out"

    def face(number: int) -> CroppedFace:
        return CroppedFace(number, f"1_face{number}", 0, 1, 1, 1, 64, 48, (1, 2, 3, 4), 1.0)

    for number in (1, 2):
        (out / f"1_face{number}").mkdir(parents=True)
    (out / "1.boxes.csv").touch()
    (out / JOURNAL_FILE).touch()
    with CropJournal(out, {"save_boxes": True}) as journal:
        journal.add(item, [face(1), face(2)], "", True)
    with CropJournal(out, {"save_boxes": True}) as journal:
        journal.add(item, [], "cannot be read", False)
        assert (out / "1_face1").exists() and (out / "1_face2").exists()
        journal.add(item, [face(2)], "", True)
        assert not (out / "1_face1").exists() and (out / "1_face2").exists() and (out / "1.boxes.csv").exists()
        journal.add(item, [], "no face", True)
    assert [path.name for path in out.iterdir()] == [JOURNAL_FILE]


@pytest.mark.parametrize(
    ("format", "faces", "names"),
    [("frames", "all", ["a", "a_face1/b"]), ("mp4", 2, ["a", "a_face1.mp4/x/b"]), ("mp4", "largest", ["a", "a.mp4/b"])],
)
def test_crops_do_not_take_the_place_of_folders(
    videos: Path, options: CropOptions, tmp_path: Path, format: Any, faces: Any, names: list[str]
) -> None:
    inputs = [Input(videos / f"a/{number}.mp4", name) for number, name in enumerate(names, 1)]
    options = replace(options, format=format, faces=faces)
    with pytest.raises(InputError, match="crops of 'a' may be called .*, which is the folder that those of 'a"):
        crop_videos(inputs, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_of_the_journal(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    journal = CropJournal(tmp_path, {})
    with pytest.raises(InputError, match="cannot write to .*: No space left"), journal:
        journal._file = full.open("ab")
        journal._write({"a": 1})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: (out / JOURNAL_FILE).unlink(), "is not empty and holds no crops"),
        (lambda out: (out / JOURNAL_FILE).write_text("something else\n"), "is no journal of crops"),
    ],
)
def test_folders_of_other_things_are_refused(
    videos: Path, options: CropOptions, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    inputs = [Input(videos / "a/1.mp4", "1")]
    crop_videos(inputs, tmp_path / "out", options)
    before = content(tmp_path / "out")
    with pytest.raises(InputError, match=r"holds crops with other settings \(size\)"):
        crop_videos(inputs, tmp_path / "out", CropOptions(size=48, boxes=options.boxes))
    with pytest.raises(InputError, match=r"holds crops of .*a/1.mp4 under the name '1'"):
        crop_videos([Input(videos / "b/1.mp4", "1")], tmp_path / "out", options)
    with (
        CropJournal(tmp_path / "out", crop_many._about(options, None)),
        pytest.raises(InputError, match="another process"),
    ):
        crop_videos(inputs, tmp_path / "out", options)
    spoil(tmp_path / "out")
    with pytest.raises(InputError, match=words):
        crop_videos(inputs, tmp_path / "out", options)
    assert content(tmp_path / "out") == before


def test_a_full_disk_ends_it(
    videos: Path, options: CropOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise InputError("cannot write a.mp4: No space left on device") from OSError(28, "No space left on device")

    monkeypatch.setattr(crop_many, "crop_video", full)
    with pytest.raises(InputError, match="No space left"):
        crop_videos(find_inputs([videos]), tmp_path / "out", options)
    assert content(tmp_path / "out") == {}
