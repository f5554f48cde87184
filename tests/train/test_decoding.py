"""Runs whose JPEG pictures are decoded by the device: torchcodec on a CPU, which gives simplejpeg's bits, stands in."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maedfer.data.annotations import read_annotations
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.errors import InputError, MissingDependencyError
from maedfer.train import augmenting
from maedfer.train.config import read_config
from maedfer.train.decoding import decode_batch
from maedfer.train.dry_run import dry_run
from tests.train.runs import tiny, write_clips
from tests.train.test_augmenting import AUGMENT, run, same

pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed, or made for another PyTorch")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of frames as png, and as jpg below "folders"; shards of them in "jpeg"."""
    folder = write_clips(tmp_path_factory.mktemp("clips"))
    for file in folder.glob("clip_*/*.png"):
        target = folder / "folders" / file.relative_to(folder).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(target, quality=92)
    for name in ("train", "test"):
        (folder / "folders" / f"{name}.csv").write_text((folder / f"{name}.csv").read_text())
        clips = read_annotations(folder / f"{name}.csv", labelled=False)
        write_shards(clips, folder / "jpeg" / name, ShardOptions(format="jpeg"), classes=("up", "down", "still"))
    return folder


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmenting, "_where", lambda cfg, device: "cuda")


def lists(data: Path, stored: str, task: str) -> list[str]:
    end = ".csv" if stored == "folders" else ""
    return [f"data.{name}={data / stored / name}{end}" for name in ("train", "test")[: 2 if task == "finetune" else 1]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stored", ["jpeg", "folders"])
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_a_run_is_the_same(
    task: str, stored: str, workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [*(AUGMENT if task == "finetune" else ["augment.crop=[1, 2, 18, 17]"]), "data.repeats=2"]
    changes += lists(data, stored, task)
    want = run(tiny(task, data, tmp_path / "here", *changes))
    monkeypatch.setattr(augmenting, "_where", lambda cfg, device: "cuda")
    same(run(tiny(task, data, tmp_path / "away", *changes, "data.decode=cuda", f"data.workers={workers}")), want)
    assert read_config(tmp_path / "away" / "config.yaml").data.decode == "cuda"


def test_a_dry_run_says_who_decodes(data: Path, tmp_path: Path, on_device: None) -> None:
    said: list[str] = []
    dry_run(tiny("finetune", data, tmp_path, "data.decode=cuda", *lists(data, "jpeg", "finetune")), said.append)
    assert "augment      clips are decoded and changed on the device, in batches" in said


# What cannot be decoded so


def test_settings_that_do_not_go_together(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny("finetune", data, tmp_path, "data.decode=cuda", *lists(data, "jpeg", "finetune"))
    with pytest.raises(InputError, match="data.decode is 'cuda', and clips are changed by the loader on the CPU: set"):
        run(cfg)
    monkeypatch.setattr(augmenting, "_where", lambda cfg, device: "cuda")
    with pytest.raises(InputError, match="data.cache keeps clips decoded on the CPU"):
        run(tiny("finetune", data, tmp_path, "data.decode=cuda", "data.cache=true"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(MissingDependencyError, match="'torchcodec' is needed here .*: pip install torchcodec$"):
        run(cfg)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", types.ModuleType("torchcodec.decoders"))
    with pytest.raises(MissingDependencyError, match="needs torchcodec 0.16 or newer"):
        run(cfg)


@pytest.mark.parametrize(
    "name, match",
    [("png", r"train.csv:\d+: .*png: is no plain JPEG of 20 x 20"), ("raw", "holds no JPEG pictures, which data.dec")],
)
def test_clips_that_are_no_jpeg(name: str, match: str, data: Path, tmp_path: Path, on_device: None) -> None:
    file = data / "train.csv"
    if name == "raw":
        write_shards(read_annotations(file), tmp_path / "raw", ShardOptions(format="raw"))
        file = tmp_path / "raw"
    cfg = tiny("finetune", data, tmp_path / "run", "data.decode=cuda", f"data.train={file}")
    with pytest.raises(InputError, match=match):
        run(cfg)


def coded(*files: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8), torch.tensor(list(map(len, files)))


def picture(height: int = 16, width: int = 24, grey: bool = False) -> bytes:
    values = np.random.default_rng(height).integers(0, 256, (height, width) if grey else (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_pictures_of_a_batch_are_those_of_pillow() -> None:
    files = [picture(), picture(grey=True)]
    frames = decode_batch(*coded(*files), torch.tensor([[1, 0, 0], [0, 1, 1]]), torch.arange(2), CPU)
    true = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    assert frames.shape == (2, 3, 16, 24, 3) and frames.dtype == torch.uint8
    assert np.array_equal(frames.numpy(), np.stack([[true[1], true[0], true[0]], [true[0], true[1], true[1]]]))


@pytest.mark.parametrize(
    "spoilt, match",
    [
        (picture()[:-40], "clip 8 of data.train, counted from 0: damaged, or no JPEG of 24 x 16 .* data.on_error=skip"),
        (b"nothing of the kind", "clip 8 of data.train, counted from 0: a picture is damaged, or no JPEG"),
        (picture(16, 25), "of several sizes are in one batch .24 x 16, 25 x 16.*: make shards of one size, or set"),
    ],
)
def test_a_picture_that_is_not_like_the_others_is_named(spoilt: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        decode_batch(*coded(picture(), spoilt), torch.tensor([[0, 0], [0, 1]]), torch.tensor([7, 8]), CPU)


def test_what_the_device_alone_cannot_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("nvjpegDecode failed: 8")

    monkeypatch.setattr("torchcodec.decoders.decode_jpeg", refuse)
    with pytest.raises(InputError, match="cpu cannot decode pictures that the CPU does .*failed: 8.*data.decode=cpu"):
        decode_batch(*coded(picture()), torch.tensor([[0]]), torch.tensor([0]), CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("grey", [False, True])
def test_a_gpu_decodes_nearly_the_same(grey: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    wanted, batch = torch.tensor([[0, 0]]), torch.tensor([0])
    # A smooth picture: how colours of half the resolution are brought back is where decoders differ.
    values = np.linspace(0, 255, 64 * 64 * (1 if grey else 3)).reshape((64, 64) if grey else (64, 64, 3))
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "JPEG", quality=95)
    here = decode_batch(*coded(file.getvalue()), wanted, batch, CPU)
    there = decode_batch(*coded(file.getvalue()), wanted, batch, torch.device("cuda"))
    assert there.device.type == "cuda" and there.shape == here.shape
    assert (there.cpu().int() - here.int()).abs().float().mean() < 1
