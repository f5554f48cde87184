from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maedfer.data.annotations import Clip
from maedfer.data.dataset import ClipDataset
from maedfer.data.leaks import leaks
from maedfer.data.sampler import SampleKey
from maedfer.data.shards.clips import ShardClips, read_shards
from maedfer.data.source import as_source
from maedfer.errors import InputError
from tests.data.shards.made import Made, make_shards


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_shards(tmp_path_factory.mktemp("made") / "shards", counts=(5, 1, 12, 7, 9))


def changed(made: Made, folder: Path, **settings: Any) -> Path:
    """The shards with other settings in index.json."""
    folder.mkdir()
    for file in made.folder.iterdir():
        (folder / file.name).symlink_to(file)
    about = json.loads((made.folder / "index.json").read_text())
    about["settings"] |= settings
    (folder / "index.json").unlink()
    (folder / "index.json").write_text(json.dumps(about))
    return folder


class Noting:
    """Stands for a store, and notes what it is told of."""

    def __init__(self, store: Any, remote: bool) -> None:
        self.store, self.remote = store, remote
        self.told: list[tuple[str, int, int]] = []

    def prefetch(self, name: str, start: int, stop: int) -> None:
        self.told.append((name, start, stop))
        raise InputError("told later")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def test_clips_have_the_names_labels_and_lines_of_their_list(made: Made) -> None:
    clips = read_shards(made.folder, labelled=False)
    assert as_source(clips) is clips and len(clips) == 5 and clips.stride == 1 and clips.cut is None
    assert [clip.name for clip in clips] == [f"a b/clip {number}.mp4" for number in range(5)]
    assert [clip.label for clip in clips] == [0, None, 2, 0, 1] and clips.labels.tolist() == [0, -1, 2, 0, 1]
    assert [clip.where for clip in clips[1:3]] == ["list.csv:2", "list.csv:3"]
    assert clips[-1] == clips[4] and len({clip.path for clip in clips}) == 5
    with pytest.raises(IndexError):
        clips[5]
    for number, frames in enumerate(made.frames):
        with clips.open(number) as reader:
            assert np.array_equal(reader.read(range(len(reader))), frames)
    with pytest.raises(InputError, match="holds shards, which backend 'pyav' cannot read; use 'auto'"):
        clips.open(0, "pyav")


def test_samples_are_those_of_the_frames_that_are_stored(made: Made) -> None:
    dataset = ClipDataset(read_shards(made.folder, labelled=False), "pretrain", 4, 2, repeats=2)
    again = pickle.loads(pickle.dumps(dataset))
    for number, frames in enumerate(made.frames):
        sample = dataset[SampleKey(number, 7)]
        assert sample["frames"].shape == (2, 3, 4, *frames.shape[1:3]) and sample["index"] == number
        known = {frame.tobytes() for frame in frames}
        assert all(frame.numpy().tobytes() in known for frame in sample["frames"].permute(0, 2, 3, 4, 1).flatten(0, 1))
        assert torch.equal(again[SampleKey(number, 7)]["frames"], sample["frames"])


def test_labels_and_classes_must_be_those_of_the_run(made: Made) -> None:
    where = r"shard-000000.tar: clip 000000003 \(a b/clip 1.mp4\)"
    with pytest.raises(InputError, match=where + r" has no label \(1 of 5 clips\): .*--unlabelled"):
        read_shards(made.folder)
    labelled = make_shards(made.folder.parent / "labelled", counts=(3,)).folder
    assert len(read_shards(labelled, 3, classes=["a", "b", "c"])) == 1
    with pytest.raises(InputError, match=r"the shards have the classes \['a', 'b', 'c'\].*another order"):
        read_shards(labelled, 3, classes=["b", "a", "c"])
    with pytest.raises(InputError, match="under other names"):
        read_shards(labelled, 3, classes=["a", "b", "d"])
    with pytest.raises(InputError, match=r"clip 000000001 .* has label 0, not one of 0 to -1 \(1 of 1 clips\)"):
        read_shards(labelled, 0)


def test_shards_that_are_missing_or_cut_short_are_found_before_training(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", counts=(3, 3, 3, 3, 3)).folder
    clips = read_shards(folder, labelled=False)
    clips.check()
    (folder / "shard-000000.tar").unlink()
    tar = folder / "shard-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"^2 of 3 shards cannot be read: .*shard-000000.tar.*; .*shard-000002.tar"):
        read_shards(folder, labelled=False).check()


def test_frames_of_every_so_many_are_sampled_at_the_distance_of_the_recording(made: Made, tmp_path: Path) -> None:
    clips = read_shards(changed(made, tmp_path / "third", stride=3), labelled=False)
    assert clips.stride == 3
    dense = ClipDataset(read_shards(made.folder, labelled=False), "views", 3, 2)
    assert torch.equal(ClipDataset(clips, "views", 3, 6)[2]["frames"], dense[2]["frames"])
    with pytest.raises(InputError, match=r"every 3 frames one is stored, .* data.stride=4: .* a multiple of 3"):
        ClipDataset(clips, "views", 3, 4)
    for number, wrong in enumerate((0, "2", 1.5)):
        with pytest.raises(InputError, match=r"index.json: is damaged \(stride cannot be"):
            read_shards(changed(made, tmp_path / f"damaged {number}", stride=wrong), labelled=False)
    with pytest.raises(InputError, match=r"index.json: is damaged \(cut cannot be"):
        read_shards(changed(made, tmp_path / "damaged cut", cut=[1, 2, 3]), labelled=False)
    assert read_shards(changed(made, tmp_path / "cut", cut=[1, 2, 30, 40]), labelled=False).cut == (1, 2, 30, 40)


def test_a_disk_is_told_of_whole_blocks_and_a_server_asked_for_neighbours(made: Made) -> None:
    clips = read_shards(made.folder, labelled=False)
    arrays = clips.shards.clips
    ends = (arrays.offset + arrays.length).tolist()
    for remote, indices, block, expected in (
        (False, [1], 4, [("shard-000000.tar", 0, ends[1]), ("shard-000001.tar", 0, ends[3])]),
        (False, [4], 4, [("shard-000002.tar", 0, ends[4])]),
        (True, [1], 4, []),
        (True, [0, 1], 4, [("shard-000000.tar", 0, ends[1])]),
        (True, [1, 3], 4, [("shard-000000.tar", ends[0], ends[1]), ("shard-000001.tar", 0, ends[3])]),
        # To ask for what is between would take longer.
        (True, [0, 4], 5, []),
    ):
        store = Noting(clips.store, remote)
        ShardClips(str(made.folder), clips.shards, store).expect(indices, block)  # type: ignore[arg-type]
        assert store.told == expected, (remote, indices)


def test_a_batch_is_read_block_by_block(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_shards(made.folder, labelled=False)
    happened: list[Any] = []
    monkeypatch.setattr(clips, "expect", lambda indices, block: happened.append((indices, block)))
    keys = [SampleKey(index, index) for index in (4, 1, 2, 0, 3)]
    expected = [ClipDataset(clips, "train", 2, 1)[key] for key in keys]
    dataset = ClipDataset(clips, "train", 2, 1, block=2)
    original = clips.open

    def opening(index: int, backend: Any) -> Any:
        happened.append(index)
        return original(index, backend)

    monkeypatch.setattr(clips, "open", opening)
    samples = dataset.__getitems__(keys)
    assert happened == [([0, 1], 2), 0, 1, ([2, 3], 2), 2, 3, ([4], 2), 4]
    assert [sample["index"] for sample in samples] == [4, 1, 2, 0, 3]
    assert all(torch.equal(a["frames"], b["frames"]) for a, b in zip(samples, expected, strict=True))


def test_clips_of_shards_are_the_same_where_their_pictures_are(made: Made) -> None:
    clips = read_shards(made.folder, labelled=False)
    part = read_shards(make_shards(made.folder.parent / "part", counts=(5, 1)).folder, labelled=False)
    (sentence,) = leaks({"data.train": clips, "data.test": part})
    assert sentence.startswith("all 2 clips of data.test are in data.train too (the first is 'a b/clip 0.mp4', in ")
    other = read_shards(make_shards(made.folder.parent / "other", counts=(5, 2)).folder, labelled=False)
    (sentence,) = leaks({"data.train": clips, "data.test": other})
    assert sentence.startswith("1 of 2 clips of data.test")
    files = [Clip(Path("x", name), 0, 1, name, "test.csv") for name in ("a b/clip 1.mp4", "b.mp4")]
    (sentence,) = leaks({"data.train": clips, "data.test": files})
    assert sentence.startswith("whether clips of data.test are in data.train too is not known")
    assert sentence.endswith("; 1 of 2 names of data.test are in data.train too")
    assert leaks({"data.test": files[1:], "data.train": clips})[0].endswith("that they were made of")


def test_shards_that_are_not_finished_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".unfinished").mkdir()
    with pytest.raises(InputError, match="these shards are not finished: the same `maedfer shard` command goes on"):
        read_shards(tmp_path)
    made = make_shards(tmp_path / "whole", counts=(3,))
    # What a process has left that was killed in its last step.
    (made.folder / ".unfinished").mkdir()
    assert len(read_shards(made.folder)) == 1


def test_shards_that_store_clips_in_different_ways_cannot_be_compared(made: Made, tmp_path: Path) -> None:
    clips = read_shards(made.folder, labelled=False)
    raw = read_shards(make_shards(tmp_path / "raw", "raw", counts=(5, 1)).folder, labelled=False)
    (sentence,) = leaks({"data.train": clips, "data.test": raw})
    assert sentence == (
        "whether clips of data.test are in data.train too is not known, as their shards store pictures in different "
        "ways; 2 of 2 names of data.test are in data.train too"
    )
    small = read_shards(changed(made, tmp_path / "small", size=20), labelled=False)
    assert leaks({"data.train": clips, "data.test": small})[0].startswith("whether clips of data.test are in")
    other_order = read_shards(changed(made, tmp_path / "order", seed=3, shard_size=1), labelled=False)
    assert leaks({"data.train": clips, "data.test": other_order})[0].startswith("all 5 clips of data.test are in")
