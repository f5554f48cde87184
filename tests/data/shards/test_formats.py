"""Other people's readers of WebDataset tars read ours."""

from __future__ import annotations

import importlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.data import read_annotations
from maedfer.data.annotations import write_annotations
from maedfer.data.shards.check import check_shards
from maedfer.data.shards.layout import Stored
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.data.video import open_video
from tests.data.media import difference, pictures, write_video


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_video(folder / f"{number}.mp4", pictures(3 + number, 24, 32))
    write_annotations(folder / "list.csv", [(f"{number}.mp4", number % 3) for number in range(4)])
    return folder / "list.csv"


def made(source: Path, out: Path, stored: Stored) -> list[Path]:
    write_shards(read_annotations(source), out, ShardOptions(stored, clips_per_shard=2), classes=("a", "b", "c"))
    return sorted(out.glob("*.tar"))


def frames_of(source: Path, name: str) -> np.ndarray:
    with open_video(source.parent / name) as reader:
        return reader.read(range(len(reader)))


def test_tarfile_reads_them(source: Path, tmp_path: Path) -> None:
    for tar in made(source, tmp_path / "out", "raw"):
        with tarfile.open(tar) as file:
            arrays = [name for name in file.getnames() if name.endswith(".npy")]
            for name in arrays:
                about = json.load(file.extractfile(f"{name[:9]}.json"))  # type: ignore[arg-type]
                content = file.extractfile(name).read()  # type: ignore[union-attr]
                np.testing.assert_array_equal(np.load(io.BytesIO(content)), frames_of(source, about["name"]))
            assert len(arrays) == 2


@pytest.mark.parametrize("stored", ["jpeg", "raw"])
def test_webdataset_reads_them(source: Path, tmp_path: Path, stored: Stored) -> None:
    webdataset = pytest.importorskip("webdataset")
    tars = [str(tar) for tar in made(source, tmp_path / "out", stored)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(4)]
    for number, sample in enumerate(samples):
        _compare(sample, source, number, stored)


def _compare(sample: dict[str, Any], source: Path, number: int, stored: Stored) -> None:
    about, frames = sample["json"], frames_of(source, f"{number}.mp4")
    assert (about["name"], about["class"], sample["cls"]) == (f"{number}.mp4", "abc"[number % 3], number % 3)
    if stored == "raw":
        np.testing.assert_array_equal(sample["frames.npy"], frames)
    else:
        stored_frames = np.stack([sample[f"{frame:06d}.jpg"] for frame in range(about["frames"])])
        assert stored_frames.shape == frames.shape and difference(stored_frames, frames) < 3


@pytest.mark.parametrize("stored", ["jpeg", "raw"])
def test_energon_reads_them(source: Path, tmp_path: Path, stored: Stored) -> None:
    energon: Any = pytest.importorskip("megatron.energon", reason="energon, which brings 30 packages, is not installed")
    factory = importlib.import_module("megatron.energon.flavors.webdataset").BaseWebdatasetFactory
    tars = [tar.name for tar in made(source, tmp_path / "out", stored)]
    factory.prepare_dataset(tmp_path / "out", tars, split_parts_ratio=[("train", 1.0)], shuffle_seed=None, workers=1)
    (tmp_path / "out/.nv-meta/dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")

    class Encoder(energon.DefaultTaskEncoder):  # type: ignore[misc, name-defined]
        cookers = (energon.Cooker(energon.stateless(lambda sample: dict(sample))),)

        def encode_sample(self, sample: Any) -> Any:
            return sample

    samples = energon.get_train_dataset(
        tmp_path / "out",
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
        repeat=False,
    )
    found = {sample["__key__"]: sample for sample in energon.get_loader(samples)}
    assert sorted(found) == [f"{number:09d}" for number in range(4)]
    for number in range(4):
        sample = found[f"{number:09d}"]
        for name in [name for name in sample if name.endswith(".jpg")]:
            sample[name] = (255 * sample[name].permute(1, 2, 0)).round().byte().numpy()
        _compare(sample, source, number, stored)
    # What energon puts beside does no harm.
    assert not check_shards(tmp_path / "out").wrong
