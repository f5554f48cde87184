"""Clips that travel, and are changed by their programs, are those that the loader changes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maedfer.data.annotations import Clip, read_annotations
from maedfer.data.augment.transforms import PretrainAugment, TrainAugment
from maedfer.data.augment.travel import Travelling
from maedfer.data.dataset import ClipDataset, ClipError, collate
from maedfer.data.sampler import SampleKey
from maedfer.errors import InputError
from maedfer.kernels.functional import augment


def write(folder: Path, sizes: list[tuple[int, int]]) -> list[Clip]:
    """Folders of six frames, one of each size; a list of them."""
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes):
        clip = folder / f"clip_{number}"
        clip.mkdir()
        for time in range(6):
            small = Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8))
            small.resize((width, height), Image.Resampling.BILINEAR).save(clip / f"{time}.png")
    (folder / "list.csv").write_text("".join(f"clip_{number} {number % 2}\n" for number in range(len(sizes))))
    return read_annotations(folder / "list.csv")


TRANSFORMS: dict[str, Any] = {
    "train": TrainAugment((24, 20), randaugment="rand-m9-n3-mstd1-inc1-p0.8", erase=0.5),
    "train, cropped": TrainAugment((24, 20), fit="crop", erase=0.5),
    "pretrain": PretrainAugment((24, 20)),
    "pretrain, cropped": PretrainAugment((24, 20), crop=(2, 3, 20, 17)),
}
SIZES = {"as they are": [(30, 26)] * 5, "of different sizes": [(30, 26), (24, 20), (25, 40), (200, 90), (24, 20)]}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_clips_are_those_that_the_loader_changes(tmp_path: Path, name: str, sizes: str) -> None:
    transform, mode = TRANSFORMS[name], name.partition(",")[0]
    clips, travelling = write(tmp_path, SIZES[sizes]), Travelling(transform)

    def mask(generator: torch.Generator) -> torch.Tensor:
        return torch.rand(5, generator=generator)

    here, away = (
        ClipDataset(clips, mode, 4, 1, how, repeats=2, mask_fn=mask)  # type: ignore[arg-type]
        for how in (transform, travelling)
    )
    for seed in range(2):
        keys = [SampleKey(index, 10 * seed + index) for index in range(5)]
        want, got = here.collate([here[key] for key in keys]), away.collate([away[key] for key in keys])
        program = got.pop("program")
        assert got["frames"].shape[-1] == 3 and got["frames"].dtype == torch.uint8
        if sizes == "as they are":
            assert got["frames"].shape[2:4] == ((20, 17) if name == "pretrain, cropped" else (30, 26))
        got["frames"] = augment(got["frames"], program, size=(24, 20), fit=travelling.fit)
        assert want.keys() == got.keys()
        for key, value in want.items():
            assert torch.equal(got[key], value), (seed, key)


def test_large_frames_are_brought_to_size_before(tmp_path: Path) -> None:
    clips = write(tmp_path, [(48, 40), (49, 40)])
    for transform in (TrainAugment((24, 20)), PretrainAugment((24, 20))):
        data = ClipDataset(clips, "train", 4, 1, Travelling(transform))
        assert data[0]["frames"].shape == (1, 4, 48, 40, 3)
        assert data[1]["frames"].shape == (1, 4, 24, 20, 3)
        assert data.collate([data[0], data[1]])["frames"].shape == (2, 4, 24, 20, 3)


def test_sizes_in_which_frames_travel() -> None:
    assert Travelling(TrainAugment((24, 20))).size_of((48, 40)) == (48, 40)
    assert Travelling(TrainAugment((24, 20))).size_of((48, 41)) == (24, 20)
    cropped = Travelling(PretrainAugment((24, 20), crop=(0, 32, 40, 30)))
    assert cropped.size_of((224, 224)) == (40, 30)
    assert cropped.fit is None


def test_what_cannot_be_done(tmp_path: Path) -> None:
    clips = write(tmp_path, [(30, 26), (24, 20)])
    data = ClipDataset(clips, "pretrain", 4, 1, Travelling(PretrainAugment((24, 20), crop=(0, 0, 30, 26))))
    assert data[0]["frames"].shape == (1, 4, 30, 26, 3)
    with pytest.raises(InputError, match="does not fit into frames of 24x20; change augment.crop"):
        data[1]
    data = ClipDataset(clips, "train", 4, 1, Travelling(TrainAugment((24, 20))))
    with pytest.raises(ClipError, match="cannot form a batch"):
        collate([data[0], data[1]])
