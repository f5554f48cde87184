"""What is meant by the items of a command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maedfer.data.inputs import Input, find_inputs
from maedfer.errors import InputError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return folder


def named(inputs: list[Input]) -> dict[str, str]:
    return {clip.name: clip.path.as_posix() for clip in inputs}


def test_folders_are_searched_for_videos_and_for_folders_of_frames(tmp_path: Path) -> None:
    make(
        tmp_path,
        "b/2.MP4", "b/1.mov", "b/.hidden.mp4", "b/notes.txt", "a/frames/0001.jpg", "a/frames/0002.jpg",
        "__MACOSX/b/1.mov", "cover.png", ".cache/3.mp4", "old/x.mpeg",
    )  # fmt: skip
    (tmp_path / "b/again").symlink_to(tmp_path)
    told: list[str] = []
    found = find_inputs([tmp_path], tell=told.append)
    assert named(found) == {
        "a/frames": f"{tmp_path}/a/frames",
        "b/1": f"{tmp_path}/b/1.mov",
        "b/2": f"{tmp_path}/b/2.MP4",
        "old/x": f"{tmp_path}/old/x.mpeg",
    }
    assert [clip.name for clip in found] == sorted(clip.name for clip in found)
    assert told == [f"{tmp_path} has 1 picture beside its clips, which are left out."]


def test_a_folder_of_frames_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "take 1", "1.png", "2.png")
    monkeypatch.chdir(tmp_path / "take 1")
    assert named(find_inputs(["."])) == {"take 1": "."}
    assert named(find_inputs([tmp_path / "take 1/"])) == {"take 1": f"{tmp_path}/take 1"}


def test_names_are_told_apart(tmp_path: Path) -> None:
    make(tmp_path, "x/1.mp4", "y/1.mp4", "y/1.avi", "y/2.mp4", "y/2/3.mp4", "y/summary.mp4")
    assert named(find_inputs([tmp_path / "y"], reserved=["summary"])).keys() == {
        "1.avi", "1.mp4", "2.mp4", "2/3", "summary.mp4",
    }  # fmt: skip
    both = named(find_inputs([tmp_path / "x/1.mp4", tmp_path / "y"]))
    assert both["x/1"] == f"{tmp_path}/x/1.mp4" and both["y/1.mp4"] == f"{tmp_path}/y/1.mp4"
    assert both.keys() == {"x/1", "y/1.mp4", "y/1.avi", "y/2.mp4", "y/2/3", "y/summary"}
    assert len(find_inputs([tmp_path / "y", tmp_path / "y/1.mp4", f"{tmp_path}/y/../y/2.mp4"])) == 5


def test_a_name_may_be_anothers_with_its_suffix(tmp_path: Path) -> None:
    make(tmp_path, "x.mp4", "x.avi", "x.mp4.mp4")
    assert named(find_inputs([tmp_path])).keys() == {"x.mp4", "x.avi", "x.mp4.mp4"}


def test_a_clip_may_lie_in_the_folder_of_another(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/b/1.jpg", "a_2/1.jpg")
    (tmp_path / "list.txt").write_text("a\na/b\na_2\n")
    assert named(find_inputs([tmp_path / "list.txt"])).keys() == {"a_3", "a/b", "a_2"}


def test_names_keep_bytes_and_quotes(tmp_path: Path) -> None:
    odd = [b'a "quoted" name.mp4', b"line\nbreak.mp4", b"caf\xe9.mp4"]
    for name in odd:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    assert {os.fsencode(clip.name + ".mp4") for clip in find_inputs([tmp_path])} == set(odd)


def test_a_list_may_name_the_folder_that_it_is_in(tmp_path: Path) -> None:
    make(tmp_path / "take", "1.jpg")
    (tmp_path / "take/list.txt").write_text(".\n")
    assert named(find_inputs([tmp_path / "take/list.txt"])).keys() == {"take"}


def test_results_below_what_is_searched_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/out/b.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "a/out")
    assert named(find_inputs([tmp_path / "a"])).keys() == {"out/b"}
    assert named(find_inputs([tmp_path / "a"], leave_out=tmp_path / "link")).keys() == {"a"}
    # Of results in the very folder that is searched nothing tells videos apart.
    assert named(find_inputs([tmp_path / "a/out"], leave_out=tmp_path / "a/out")).keys() == {"b"}


def test_lists_bring_places(tmp_path: Path) -> None:
    make(tmp_path, "data/s1/1.mp4", "data/s2/1.mp4", "other/9.mp4")
    file = tmp_path / "train.csv"
    file.write_text(f"path,label\ns1/1.mp4,3\ns2/1.mp4,0\n{tmp_path}/other/9.mp4,1\n")
    found = find_inputs([file], root=tmp_path / "data")
    assert [clip.name for clip in found[:2]] == ["s1/1", "s2/1"]
    assert not any(clip.name.startswith(("/", "..")) for clip in found)
    file.write_text("data/s1/1.mp4 angry\ndata/s2/1.mp4 sad\n")
    assert named(find_inputs([file], classes=["sad", "angry"])).keys() == {"data/s1/1", "data/s2/1"}
    with pytest.raises(InputError, match=r"train.csv: none of its 2 clips exists.*names of its classes"):
        find_inputs([file])


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such file"):
        find_inputs([tmp_path / "none.mp4"])
    with pytest.raises(InputError, match="neither a video nor pictures"):
        find_inputs([tmp_path / "empty"])
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty.csv: the annotation file lists no clips"):
        find_inputs([tmp_path / "empty.csv"])
    with pytest.raises(InputError, match="nothing to do"):
        find_inputs([])


def test_a_link_that_leads_nowhere_does_not_hide_what_is_beside_it(tmp_path: Path) -> None:
    make(tmp_path, "1.mp4")
    (tmp_path / "round").symlink_to("round")
    # Named as a video, it is one that cannot be read, which is to be told with the others.
    (tmp_path / "2.mp4").symlink_to("2.mp4")
    told: list[str] = []
    assert list(named(find_inputs([tmp_path], tell=told.append))) == ["1", "2"] and not told


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path, "1.mp4"))
    with pytest.raises(InputError, match="an item is an empty name"):
        find_inputs([""])
