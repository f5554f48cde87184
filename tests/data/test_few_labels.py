"""Few labels: shares, nesting, what the choice hangs on, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.data.annotations import Clip, read_annotations
from maedfer.data.dataset import ClipDataset
from maedfer.data.few_labels import FewLabels, SomeClips, choose_few, parse_labels, write_labels
from maedfer.data.shards.clips import read_shards
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.data.source import as_source
from maedfer.errors import InputError
from tests.train.runs import write_clips

CLASSES = ("happy", "sad", "angry")


def listed(counts: tuple[int, ...], folder: str = "") -> list[Clip]:
    clips = []
    for label, count in enumerate(counts):
        clips += [Clip(Path(f"{folder}{label}_{n}.mp4"), label, 1, f"{folder}{label}_{n}.mp4") for n in range(count)]
    order = np.random.default_rng(1).permutation(len(clips))
    return [clips[place] for place in order]


def names(clips: list[Clip], text: str, seed: int = 0) -> set[str]:
    return {clips[place].name for place in choose_few(clips, parse_labels(text), seed, CLASSES)}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("all", FewLabels()),
        ("100%", FewLabels()),
        ("5%", FewLabels(percent=5)),
        (" 0.5 % ", FewLabels(percent=0.5)),
        ("12", FewLabels(count=12)),
    ],
)
def test_ways_to_say_how_many(text: str, meant: FewLabels) -> None:
    assert parse_labels(text) == meant


@pytest.mark.parametrize("text", ["", "0%", "0", "-1", "101%", "5 %%", "five", "1e2", "0.05", "5.5", "nan%", "٥"])
def test_what_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="data.labels must be all, a share of every class"):
        parse_labels(text)


def test_every_class_has_its_share_to_the_nearest_clip() -> None:
    clips = listed((200, 70, 10))
    for text, expected in {"1%": None, "5%": (10, 4, 1), "25%": (50, 18, 3), "7": (7, 7, 7)}.items():
        if expected is None:
            with pytest.raises(
                InputError, match=r"1% of the 10 clips of class 'angry' .* is less than one: give 5% or"
            ):
                names(clips, text)
        else:
            labels = Counter(name[0] for name in names(clips, text))
            assert tuple(labels[str(label)] for label in range(3)) == expected


def test_fewer_labels_are_among_more_for_one_seed_only() -> None:
    clips = listed((120, 60, 40))
    shares = [names(clips, text) for text in ("2%", "2", "5%", "3", "20%", "50%", "all")]
    assert shares[-1] == {clip.name for clip in clips}
    assert shares[0] <= shares[2] <= shares[4] <= shares[5] <= shares[6]
    assert shares[1] <= shares[3] <= shares[5]
    others = [names(clips, "20%", seed) for seed in range(1, 6)]
    assert len({frozenset(one) for one in [shares[4], *others]}) == 6


def test_the_choice_is_as_likely_for_every_clip() -> None:
    clips = listed((10, 10, 10))
    counts = Counter(name for seed in range(400) for name in names(clips, "3", seed))
    # 400 draws of 3 among 10: 120 each, with a standard deviation of 9.
    assert len(counts) == 30 and all(abs(count - 120) < 40 for count in counts.values())


def test_the_choice_hangs_on_names_not_on_their_order_or_the_folder_they_lie_in() -> None:
    clips = listed((30, 30, 30))
    chosen = names(clips, "10%")
    assert names(clips[::-1], "10%") == chosen
    moved = listed((30, 30, 30), "/data/set one/")
    assert {name.rsplit("/", 1)[1] for name in names(moved, "10%")} == chosen


def test_shards_give_the_clips_of_their_list_and_open_them(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "clips", 18)
    clips = read_annotations(data / "train.csv")
    write_shards(clips, tmp_path / "shards", ShardOptions(format="raw"), workers=1)
    shards = read_shards(tmp_path / "shards")
    found = {}
    for kind, source in {"list": as_source(clips), "shards": shards}.items():
        some = SomeClips(source, choose_few(source, parse_labels("2"), 3, CLASSES), parse_labels("2"), 3)
        some.check()
        some.check([0])
        assert some.labels.tolist() == [clip.label for clip in some] and len(some) == 6 and some.form == source.form
        pictures = {}
        for index, clip in enumerate(some):
            with some.open(index) as reader:
                pictures[clip.name] = reader.read(range(len(reader)))
        found[kind] = pictures
    assert found["list"].keys() == found["shards"].keys()
    assert all(np.array_equal(found["list"][name], found["shards"][name]) for name in found["list"])


def test_clips_that_come_again_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_annotations(write_clips(tmp_path / "clips", 12) / "train.csv")
    few = parse_labels("1")
    some = SomeClips(as_source(clips), choose_few(clips, few, 0, CLASSES), few, 0).again_and_again()
    assert len(some) == 12 and [some[index].name for index in range(3)] == [clip.name for clip in some.chosen]
    opened: list[int] = []

    def open_clip(self: SomeClips, index: int, backend: str) -> Any:
        opened.append(index)
        return self.source.open(int(self.places[index]))

    monkeypatch.setattr(SomeClips, "open", open_clip)
    dataset = ClipDataset(some, "views", 2, 1, cache=True)
    frames = [dataset[index]["frames"] for index in range(12)]
    assert opened == [0, 1, 2]
    assert all((frames[index] == frames[index % 3]).all() for index in range(12))


def test_what_was_chosen_reads_back_as_a_list(tmp_path: Path) -> None:
    clips = [
        Clip(Path(name), place % 3, place + 1, name) for place, name in enumerate(["a b.mp4", "c,d", "\udce4", "e"])
    ]
    some = SomeClips(as_source(clips), np.arange(4), parse_labels("1"), 0)
    write_labels(tmp_path / "labels.csv", some, CLASSES)
    again = read_annotations(tmp_path / "labels.csv", classes=CLASSES)
    assert [(clip.name, clip.label) for clip in again] == [(clip.name, clip.label) for clip in clips]
    assert b"a b.mp4,0,happy,1\n" in (tmp_path / "labels.csv").read_bytes()


@pytest.mark.parametrize(
    ("counts", "text", "message"),
    [
        ((5, 0, 3), "50%", "class 'sad' has no clip in data.train"),
        (
            (5, 4, 3),
            "4",
            "4 per class are too many labels for class 'angry', which has 3 in data.train: give 3 or fewer",
        ),
        (
            (500, 400, 30),
            "1%",
            "1% of the 30 clips of class 'angry' in data.train is less than one: give 1.67% or more",
        ),
    ],
)
def test_too_few_labels_for_the_classes_are_refused(counts: tuple[int, ...], text: str, message: str) -> None:
    clips = listed(counts)
    with pytest.raises(InputError) as error:
        names(clips, text)
    assert message in str(error.value)
    if "1.67%" in message:
        assert min(Counter(name[0] for name in names(clips, "1.67%")).values()) == 1
