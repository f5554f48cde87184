from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from maedfer.data import source as source_module
from maedfer.data.annotations import Clip, read_annotations
from maedfer.data.augment.transforms import EvalTransform, PretrainAugment, TrainAugment
from maedfer.data.dataset import ClipDataset, ClipError, Mode, collate
from maedfer.data.sampler import EpochSampler, SampleKey
from maedfer.data.sampling import pretrain_indices, train_indices, view_indices
from maedfer.data.video.readers import Backend, PyAVReader, VideoReader, open_video
from maedfer.errors import InputError
from tests.data.media import pictures, write_video


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos and a folder of frames, in `path label` lines; frame k of clip c has grey value 10 + 20 c + k / 2."""
    root = tmp_path_factory.mktemp("data")
    lines = []
    for number, length in enumerate((40, 1, 23, 70, 9, 64)):
        write_video(root / f"{number}.mp4", pictures(length), options={"preset": "ultrafast"})
        lines.append(f"{number}.mp4 {number % 3}")
    (root / "frames").mkdir()
    for number, picture in enumerate(pictures(30)):
        Image.fromarray(picture).save(root / "frames" / f"{number}.jpg")
    lines.append("frames 2")
    (root / "list.csv").write_text("\n".join(lines))
    return root / "list.csv"


@pytest.fixture
def clips_list(listing: Path) -> list[Clip]:
    return read_annotations(listing, num_classes=3)


def draw_mask(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(6, generator=generator) < 0.5


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_frames_are_those_of_the_sampling_rules(clips_list: list[Clip]) -> None:
    rules: dict[Mode, Any] = {"train": train_indices, "pretrain": pretrain_indices}
    for mode, rule in rules.items():
        dataset = ClipDataset(clips_list, mode, frames=8, stride=4, repeats=3)
        for index in (0, 3, 1, 6):
            sample = dataset[SampleKey(index, seed=77)]
            generator = torch.Generator().manual_seed(77)
            with open_video(clips_list[index].path) as reader:
                expected = [reader.read(rule(len(reader), 8, 4, generator)) for _ in range(3)]
            assert sample["frames"].dtype == torch.uint8 and sample["frames"].is_contiguous()
            assert torch.equal(sample["frames"], torch.from_numpy(np.array(expected)).permute(0, 4, 1, 2, 3))
            assert (sample["label"], sample["index"], sample["skipped"]) == (clips_list[index].label, index, 0)
    dataset = ClipDataset(clips_list, "views", frames=8, stride=2, views=3)
    sample = dataset[3]
    with open_video(clips_list[3].path) as reader:
        expected = [reader.read(positions) for positions in view_indices(70, 8, 2, 3)]
    assert torch.equal(sample["frames"], torch.from_numpy(np.array(expected)).permute(0, 4, 1, 2, 3))


def test_a_sample_depends_on_its_key_alone(clips_list: list[Clip]) -> None:
    dataset = ClipDataset(clips_list, "train", 8, 4, TrainAugment(32), repeats=2, mask_fn=draw_mask)
    first = dataset[SampleKey(3, 5)]
    before = torch.get_rng_state()
    dataset[SampleKey(0, 9)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1234)
    assert same(first, dataset[SampleKey(3, 5)])
    other = dataset[SampleKey(3, 6)]
    assert not torch.equal(first["frames"], other["frames"])
    assert first["mask"].shape == (2, 6) and not torch.equal(first["mask"], other["mask"])
    # Repeats differ from each other.
    assert not torch.equal(first["frames"][0], first["frames"][1])
    assert not torch.equal(first["mask"][0], first["mask"][1])


def test_repeats_decode_once(clips_list: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    reads: list[list[int]] = []

    def counting(path: Path, backend: Backend) -> VideoReader:
        opened.append(path)
        reader = open_video(path, backend)
        read = reader.read

        def count(positions: Any) -> np.ndarray:
            reads.append(list(positions))
            return read(positions)

        monkeypatch.setattr(reader, "read", count)
        return reader

    monkeypatch.setattr(source_module, "open_video", counting)
    ClipDataset(clips_list, "pretrain", 8, 4, repeats=4)[SampleKey(3, 1)]
    assert len(opened) == 1 and len(reads) == 1
    assert reads[0] == sorted(set(reads[0]))


def test_cache_decodes_once_and_changes_nothing(clips_list: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [SampleKey(index, seed) for index in (3, 1, 6) for seed in (1, 2)]
    plain = ClipDataset(clips_list, "train", 8, 4, TrainAugment(32), repeats=2, mask_fn=draw_mask)
    cached = ClipDataset(clips_list, "train", 8, 4, TrainAugment(32), repeats=2, mask_fn=draw_mask, cache=True)
    expected = [plain[key] for key in keys]
    opened: list[Path] = []

    def counting(path: Path, backend: Backend) -> VideoReader:
        opened.append(path)
        return open_video(path, backend)

    monkeypatch.setattr(source_module, "open_video", counting)
    for _ in range(2):
        assert all(same(cached[key], sample) for key, sample in zip(keys, expected, strict=True))
    assert len(opened) == 3
    cached.fill_cache()
    assert len(opened) == len(clips_list)
    with pytest.raises(InputError, match="cache=True"):
        plain.fill_cache()


def test_collate_folds_repeats_into_the_batch(clips_list: list[Clip]) -> None:
    dataset = ClipDataset(clips_list, "train", 4, 2, EvalTransform((24, 32)), repeats=2, mask_fn=draw_mask)
    samples = [dataset[SampleKey(index, index)] for index in (4, 0, 2)]
    batch = collate(samples)
    assert batch["frames"].shape == (6, 3, 4, 24, 32)
    assert batch["index"].tolist() == [4, 4, 0, 0, 2, 2] and batch["label"].tolist() == [1, 1, 0, 0, 2, 2]
    assert torch.equal(batch["frames"][2:4], samples[1]["frames"]) and torch.equal(
        batch["mask"][4], samples[2]["mask"][0]
    )
    assert batch["skipped"] == 0


def test_clips_without_label_and_of_mixed_size(tmp_path: Path, listing: Path) -> None:
    write_video(tmp_path / "small.mp4", pictures(5, 32, 48))
    clips = [Clip(tmp_path / "small.mp4", None, 1, "small.mp4"), *read_annotations(listing)]
    dataset = ClipDataset(clips, "pretrain", 4, 1)
    assert dataset[0]["label"] == -1
    with pytest.raises(InputError, match=r"sizes \[\(32, 48\), \(64, 96\)\] cannot form a batch"):
        collate([dataset[0], dataset[1]])
    dataset.transform = PretrainAugment(32)
    assert collate([dataset[0], dataset[1]])["frames"].shape == (2, 3, 4, 32, 32)


@pytest.fixture
def broken(tmp_path: Path, listing: Path) -> list[Clip]:
    good = [line.split()[0] for line in listing.read_text().splitlines()]
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 1000)
    (tmp_path / "list.csv").write_text(
        f"{listing.parent / good[0]} 0\nempty.mp4 1\nnoise.mp4 2\n{listing.parent / good[2]} 1\ngone.mp4 2\n"
    )
    return read_annotations(tmp_path / "list.csv")


def test_errors_name_the_annotation_line_and_the_clip(broken: list[Clip]) -> None:
    dataset = ClipDataset(broken, "train", 4, 2)
    for index, words in ((1, "0 bytes"), (2, "not a readable video"), (4, "no such file")):
        with pytest.raises(InputError, match=words) as caught:
            dataset[index]
        assert str(caught.value).startswith(f"{broken[index].source}:{index + 1}: {broken[index].path}")
    too_large = ClipDataset(broken, "pretrain", 4, 2, PretrainAugment(32, crop=(0, 0, 200, 200)))
    with pytest.raises(InputError, match=r"list.csv:1: crop 0,0,200,200 .* frames of 64x96"):
        too_large[0]


def test_errors_in_workers_stay_one_line(broken: list[Clip]) -> None:
    dataset = ClipDataset(broken, "train", 4, 2)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert str(caught.value) == f"{broken[1].source}:2: {broken[1].path}: the file is empty (0 bytes)"


def test_skip_takes_the_next_good_clip_and_warns_once(broken: list[Clip], caplog: pytest.LogCaptureFixture) -> None:
    dataset = ClipDataset(broken, "train", 4, 2, on_error="skip")
    with caplog.at_level(logging.WARNING):
        for told in ([1, 2], [1]):
            sample = dataset[SampleKey(1, 8)]
            assert (sample["index"], sample["label"], sample["skipped"]) == (3, 1, 2)
            # What is wrong with the clip that was asked for is told each time, with those on the way once.
            why = sample.pop("broken")
            assert list(why) == told and "list.csv:2: " in why[1]
            assert same({**sample, "skipped": 0}, dataset[SampleKey(3, 8)])
        # Past the end, from the beginning.
        assert dataset[SampleKey(4, 8)]["index"] == 0
    assert [record.getMessage().count("list.csv:") for record in caplog.records] == [1, 1, 1]
    assert sorted(dataset.broken) == [1, 2, 4]
    # A sample counts once, however many clips were passed over for it.
    assert collate([dataset[1], dataset[3]])["skipped"] == 1 and collate([dataset[1], dataset[3]])["broken"].keys() == {
        1
    }
    assert "broken" not in collate([dataset[0], dataset[3]])
    hopeless = ClipDataset([broken[1], broken[4]], "train", 4, 2, on_error="skip")
    with pytest.raises(InputError, match="none of the 2 clips can be read"):
        hopeless[0]


def test_skip_survives_whatever_a_clip_is(
    tmp_path: Path, listing: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{listing.parent / '0.mp4'}\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / os.fsdecode(b"\xe9.mp4")).write_bytes(b"noise" * 1000)
    video = (listing.parent / "0.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(video[: len(video) // 2])
    (tmp_path / "crash.mp4").write_bytes(video)
    names = ["pipe.mp4", "loop.mp4", "list.m3u8", "empty", os.fsdecode(b"\xe9.mp4"), "cut.mp4", "x" * 300, "a\0b"]
    names += ["pipe.mp4/x", "crash.mp4"]
    clips = [Clip(tmp_path / name, 0, line, name, "list.csv") for line, name in enumerate(names, 1)]
    good = Clip(listing.parent / "2.mp4", 1, len(clips) + 1, "2.mp4", "list.csv")

    def crash(index: Any, *read: Any) -> PyAVReader:
        if index.path.name == "crash.mp4":
            raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid start byte")
        return PyAVReader(index, *read)

    monkeypatch.setattr("maedfer.data.video.readers.PyAVReader", crash)
    dataset = ClipDataset([*clips, good], "train", 4, 2, on_error="skip")
    with caplog.at_level(logging.WARNING):
        sample = dataset[0]
    assert (sample["index"], sample["label"], sample["skipped"]) == (len(clips), 1, len(clips))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(clips) and all(message.isprintable() for message in messages)
    strict = ClipDataset([*clips, good], "train", 4, 2)
    for index in range(len(clips)):
        with pytest.raises(ClipError, match=f"^list.csv:{index + 1}: "):
            strict[index]


def test_settings_are_checked(clips_list: list[Clip]) -> None:
    with pytest.raises(InputError, match="did you mean 'pretrain'"):
        ClipDataset(clips_list, "pretraining")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one clip"):
        ClipDataset([], "train")
    with pytest.raises(InputError, match="repeats 0"):
        ClipDataset(clips_list, "train", repeats=0)
    with pytest.raises(InputError, match="on_error"):
        ClipDataset(clips_list, "train", on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [False, True])
def test_workers_give_the_batches_of_one_process(clips_list: list[Clip], cache: bool) -> None:
    def batches(workers: int, start: int = 0) -> list[dict[str, torch.Tensor]]:
        dataset = ClipDataset(clips_list, "train", 8, 2, TrainAugment(32), repeats=2, mask_fn=draw_mask, cache=cache)
        sampler = EpochSampler(len(dataset), seed=3, batch_size=2)
        loader = DataLoader(
            dataset,
            batch_size=2,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
        )
        out = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            sampler.start_batch = start
            out += list(loader)
        return out

    alone = batches(0)
    assert len(alone) == 6
    # Readers and decoders were used in this process before the workers are forked.
    assert all(same(a, b) for a, b in zip(alone, batches(2), strict=True))
    resumed = batches(0, start=1)
    assert all(same(a, b) for a, b in zip(alone[1:3] + alone[4:], resumed, strict=True))
