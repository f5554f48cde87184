"""Folders of weights: models in parts, DeepSpeed's checkpoints, and what is neither."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import maedfer
from maedfer.errors import InputError
from maedfer.models import LGIFormer, load_published, to_published
from tests.helpers import randomize, small
from tests.models.published.transformers_names import classifier_names

ARGS = {"img_size": 32, "all_frames": 8, "num_heads": 2}
CONFIG = {"model_type": "videomae", "num_attention_heads": 2, "image_size": 32, "num_frames": 8}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    model = LGIFormer(small(architecture="vit"))
    randomize(model)
    return to_published(model)


def same(model: Any, state: dict[str, torch.Tensor]) -> bool:
    again = to_published(model)
    return again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_in_parts(form: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    names = {key: value.contiguous() for key, value in classifier_names(state).items()}
    stem, suffix = form.split(".")
    places = {key: f"{stem}-0000{1 + number % 2}-of-00002.{suffix}" for number, key in enumerate(names)}
    for file in set(places.values()):
        held = {key: value for key, value in names.items() if places[key] == file}
        (save_file if suffix == "safetensors" else torch.save)(held, tmp_path / file)  # type: ignore[operator]
    index = tmp_path / f"{form}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for load in (maedfer.load, load_published):
        assert same(load(tmp_path), state)
    part = tmp_path / f"{stem}-00001-of-00002.{suffix}"
    for one in (index, part):
        with pytest.raises(InputError, match="is one of several parts of a model: give their folder"):
            maedfer.load(one)
    for wrong, message in {
        json.dumps({"weight_map": {**places, "classifier.bias": f"../{part.name}"}}): "not a file of its own folder",
        json.dumps({"weight_map": {**places, "more": part.name}}): "places more in .* which does not hold it",
        json.dumps({"weight_map": [1]}): "has no weight_map",
        json.dumps({}): "has no weight_map",
        "{": "cannot be read as JSON",
    }.items():
        index.write_text(wrong)
        with pytest.raises(InputError, match=message):
            maedfer.load(tmp_path)
    index.write_text(json.dumps({"weight_map": places}))
    part.unlink()
    with pytest.raises(InputError, match="which is missing: download all parts"):
        maedfer.load(tmp_path)


def test_a_checkpoint_of_deepspeed(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = tmp_path / "out" / "global_step30"
    folder.mkdir(parents=True)
    (tmp_path / "out" / "latest").write_text("global_step30\n")
    path = folder / "mp_rank_00_model_states.pt"
    torch.save({"module": state, "ds_version": "0.9", "global_steps": 30}, path)
    for source in (tmp_path / "out", folder, path):
        assert same(maedfer.load(source, args=ARGS), state) and same(load_published(source, args=ARGS), state)
    (folder / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(InputError, match="whose layers lie in several files"):
        maedfer.load(folder)
    (folder / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    path.unlink()
    for source in (tmp_path / "out", folder):
        with pytest.raises(InputError, match=r"ZeRO-3 has cut up: .*zero_to_fp32\.py"):
            maedfer.load(source)
    with pytest.raises(InputError, match=r"is a part of a checkpoint of DeepSpeed: .*zero_to_fp32\.py"):
        maedfer.load(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it has neither model.safetensors nor pytorch_model.bin"),
        ({"tf_model.h5": b""}, "tf_model.h5 is of another framework"),
        ({".metadata": b"", "__0_0.distcp": b""}, "torch.distributed.checkpoint: .*dcp_to_torch"),
        ({"checkpoint-9.pth": b""}, "give one of its files, such as '.*checkpoint-9.pth'"),
        ({"latest": b"gone"}, "it has neither"),
        ({"latest": b"../x"}, "it has neither"),
    ],
)
def test_folders_without_weights_say_what_to_give(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        maedfer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(InputError, match=f"holds no weights that can be read: .*{message}"):
        maedfer.load(tmp_path)


def test_a_saved_model_needs_no_conversion(tmp_path: Path) -> None:
    LGIFormer(small()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is a saved model of this package already \(lgi_former\)"):
        load_published(tmp_path)


def test_home_and_names_that_are_not_utf8(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "w.pth")
    assert same(maedfer.load("~/w.pth", args=ARGS), state) and same(load_published("~/w.pth", args=ARGS), state)
    model = LGIFormer(small())
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    model.save_pretrained(folder)
    assert same(maedfer.load(folder), to_published(model))
    model.save_pretrained("~/saved")
    for load in (maedfer.load, maedfer.from_pretrained, LGIFormer.from_pretrained):
        assert same(load("~/saved"), to_published(model))
