from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from maedfer.data import leaks as module
from maedfer.data.annotations import Clip
from maedfer.data.leaks import leaks, shared_people


def clips(folder: Path, rows: Sequence[tuple[str, int]], source: str) -> list[Clip]:
    return [Clip(folder / name, label, line, name, source) for line, (name, label) in enumerate(rows, 1)]


def test_clips_in_two_lists(tmp_path: Path) -> None:
    train = clips(tmp_path, [("a", 0), ("x/../b", 1), ("c", 0)], "train.csv")
    test = clips(tmp_path, [("d", 0), ("./b", 0), ("a", 0)], "test.csv")
    val = clips(tmp_path, [("e", 0)], "val.csv")
    assert leaks({"data.train": train, "data.val": val, "data.test": test}) == [
        "2 of 3 clips of data.test are in data.train too, 1 of them with another label (the first is './b', in "
        "lines 2 and 2): scores on data.test do not tell how other clips would fare"
    ]
    (same,) = leaks({"data.train": train, "data.test": train})
    assert same.startswith("all 3 clips of data.test are in data.train too, which has no others (the first is 'a', in")
    assert leaks({"data.train": train, "data.val": val}) == []


def test_clips_that_are_listed_twice(tmp_path: Path) -> None:
    twice = clips(tmp_path, [("a", 0), ("b", 0), ("./a", 0), ("a", 0)], "train.csv")
    assert leaks({"data.train": twice}) == [
        "1 clip is more than once in data.train (the first is './a', in lines 1 and 3)"
    ]


def test_a_video_and_its_frames_are_one_clip(tmp_path: Path) -> None:
    train = clips(tmp_path, [("a.mp4", 0), ("b.x", 0)], "train.csv")
    assert len(leaks({"data.train": train, "data.test": clips(tmp_path, [("a", 0), ("c", 0)], "test.csv")})) == 1
    assert leaks({"data.train": train, "data.test": clips(tmp_path, [("b", 0), ("x/a.mp4", 0)], "test.csv")}) == []


def test_relative_paths_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "b").symlink_to("real/a")
    train = clips(Path("real"), [("a", 0)], "train.csv")
    for test in (clips(tmp_path / "link", [("a", 0)], "test.csv"), clips(Path(), [("b", 0)], "test.csv")):
        assert len(leaks({"data.train": train, "data.test": test})) == 1
    # Links of long lists are not followed, as each would cost a look at the disk.
    monkeypatch.setattr(module, "_FOLLOW", 0)
    assert leaks({"data.train": train, "data.test": test}) == []
    assert len(leaks({"data.train": train, "data.test": clips(tmp_path, [("real/a", 0)], "test.csv")})) == 1


def test_people_who_are_in_two_lists_are_told():
    def of(*people):
        return [
            Clip(Path(f"{number}.mp4"), 0, number, f"{number}.mp4", subject=who) for number, who in enumerate(people)
        ]

    train = of("b", "b", "", "c", "a")
    assert shared_people("data.train", train, "data.test", of("d", "", "e")) == []
    assert shared_people("data.train", of("", ""), "data.test", of("", "")) == []
    (some,) = shared_people("data.train", train, "data.test", of("d", "b", "c", "b", ""))
    assert some == (
        "2 of 3 subjects of data.test are in data.train too (the first is 'b'), with 3 of 5 clips: scores on data.test "
        "tell how people who are known fare"
    )
    (every,) = shared_people("data.train", train, "data.test", of("c"))
    assert every.startswith("all 1 subjects of data.test are")
