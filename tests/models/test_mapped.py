"""Weights that stay in their file give what weights in memory give, and are let go of."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.torch
import torch

from maedfer._native import MODULES
from maedfer.errors import InputError
from maedfer.models import ClipSettings, LGIFormer, LGIFormerConfig, create_model, fixed_weights, load
from maedfer.models.mapped import WeightsInFile, let_go_once_packed, load_in_file
from maedfer.prediction import Predictor, open_predictor
from maedfer.prediction.predictor import weights_digest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory of files is let go of on Linux"),
    pytest.mark.skipif(MODULES["cpu"] is None, reason="csrc is not compiled for the CPU"),
]
CONFIG = LGIFormerConfig(
    clip_size=(4, 16, 16), patch_size=(2, 4, 4), region_size=(1, 2, 4), embed_dim=144, depth=2, num_heads=2,
    num_classes=3, init_scale=1.0,
)  # fmt: skip
CLASSES = ("calm", "glad", "cross")
CLIPS = np.random.default_rng(1).integers(0, 256, (3, 2, 4, 16, 16, 3), np.uint8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = LGIFormer(CONFIG)
    model.clip_settings = ClipSettings(classes=CLASSES, stride=2)
    return model.save_pretrained(tmp_path / "a model")


def resident(folder: Path) -> int:
    """Bytes of its weights that this process has in memory as those of the file."""
    found, mine = 0, False
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mine = line.endswith(str(folder / "model.safetensors"))
        elif mine and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


def linear_weights(model: LGIFormer) -> Iterator[torch.Tensor]:
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.nbytes >= 1 << 16:
            yield module.weight


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_results_are_those_of_weights_in_memory(saved: Path, precision: Literal["fp32", "bf16"]) -> None:
    plain = load(saved)
    assert isinstance(plain, LGIFormer)
    expected = Predictor(plain, CLASSES, device="cpu", precision=precision).score(CLIPS)
    predictor = open_predictor(saved, device="cpu", precision=precision)
    large = sum(weight.nbytes for weight in linear_weights(predictor.model))
    # Of some weights passes read a part that is not packed.
    assert large > 2_000_000 and resident(saved) < large / 2
    assert predictor.about["weights_sha256"] == weights_digest(plain)
    assert predictor.classes == CLASSES and not predictor.model.training
    path = saved / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        # Whatever becomes of the file, what was made of it stays.
        content = file.read()
        file.seek(0)
        file.write(bytes(size))
    for one, other in zip(predictor.score(CLIPS), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resident(saved) < large / 2
    with path.open("r+b") as file:
        file.write(content)
    # Who looks at a weight finds it.
    for name, value in plain.state_dict().items():
        assert torch.equal(predictor.model.state_dict()[name], value), name


def test_tables_and_settings_are_those_of_load(saved: Path) -> None:
    found = load_in_file(saved)
    assert found is not None
    model, held = found
    plain = load(saved)
    assert model.config == plain.config and model.clip_settings == plain.clip_settings
    for (name, one), (other_name, other) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert name == other_name and torch.equal(one, other)
    for (name, one), (other_name, other) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other_name and torch.equal(one, other) and one.requires_grad == other.requires_grad
    assert [held.has(weight) for weight in model.parameters()] == [
        any(weight is one for one in linear_weights(model)) for weight in model.parameters()
    ]
    with torch.inference_mode():
        clip = torch.rand(1, 3, *CONFIG.clip_size)
        assert torch.equal(model(clip), plain(clip))


def test_weights_that_no_pass_packs_are_taken_into_memory(saved: Path) -> None:
    found = load_in_file(saved)
    assert found is not None
    model, held = found
    before = [weight.clone() for weight in model.parameters()]
    with fixed_weights(model):
        let_go_once_packed(model, held, lambda: None)
    path = saved / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_a_part_is_let_go_of_by_itself(saved: Path) -> None:
    held = WeightsInFile(saved / "model.safetensors")
    total = sum(float(value.sum()) for value in held.tensors.values())
    before = resident(saved)
    largest = max(held.tensors.values(), key=lambda value: value.nbytes)
    held.let_go(torch.zeros(100_000))
    assert resident(saved) == before > largest.nbytes
    held.let_go(largest[:100])
    assert before - 100 * largest[0].nbytes <= resident(saved) <= before - 100 * largest[0].nbytes + 8192
    held.let_go()
    assert resident(saved) == 0
    assert sum(float(value.sum()) for value in held.tensors.values()) == total


def test_what_is_no_such_model_is_left_to_load(saved: Path, tmp_path: Path) -> None:
    create_model("mae_dfer_tiny", depth=1, decoder_depth=1).save_pretrained(tmp_path / "mae")
    assert load_in_file(tmp_path / "mae") is None and load_in_file(tmp_path) is None
    path = saved / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    content = path.read_bytes()
    for damaged in (content[:-7], content[:100], b"", b"\x00" * 200, content[:8] + b"x" + content[9:]):
        path.write_bytes(damaged)
        assert load_in_file(saved) is None
        with pytest.raises(InputError):
            open_predictor(saved, device="cpu")
    safetensors.torch.save_file({name: value.half() for name, value in weights.items()}, path)
    assert load_in_file(saved) is None
    assert open_predictor(saved, device="cpu").classes == CLASSES
    del weights["head.bias"]
    safetensors.torch.save_file(weights, path)
    assert load_in_file(saved) is None
    with pytest.raises(InputError, match="does not fit the model: missing head.bias"):
        open_predictor(saved, device="cpu")


def test_a_copy_holds_each_weight_once(saved: Path) -> None:
    loaded = load_in_file(saved)
    assert loaded is not None
    content = pickle.dumps(loaded[0])
    assert len(content) < 1.5 * (saved / "model.safetensors").stat().st_size
    for one, other in zip(pickle.loads(content).parameters(), loaded[0].parameters(), strict=True):
        assert torch.equal(one, other)
