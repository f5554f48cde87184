"""Runs, checkpoints and saved models of the commit that tests/assets/README.md names."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maedfer.data import dataset
from maedfer.data.augment import draws, transforms
from maedfer.models import MAEDFER, LGIFormer, from_pretrained, load
from maedfer.train import load_config, run_evaluate, run_finetune, run_pretrain
from tests.helpers import ASSETS
from tests.train.runs import scores, write_clips

FRAMES = (torch.arange(2 * 3 * 4 * 16 * 16) * 37 % 251).to(torch.uint8).reshape(2, 3, 4, 16, 16)
HIDDEN = (torch.arange(32) // 4 % 2 == 0).expand(2, -1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"), 8)


def equal_to_rounding(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture
def earlier_rules(monkeypatch):
    """All that has changed since, as that version had it.

    Noise of erased boxes was drawn from torch's generator; a pre-training sample could hold its clip's last frame, and
    representative tokens took no weight decay there.
    """
    states, draw = [], draws.draw_erased_box

    def draw_box(height, width):
        box = draw(height, width)
        states.append(torch.get_rng_state())
        return box

    def erase_box(frames, box, key):
        torch.set_rng_state(states[-1])
        top, left, rows, columns = box
        deviation, mean = (torch.tensor(x).view(3, 1, 1) for x in ([58.395, 57.12, 57.375], [123.675, 116.28, 103.53]))
        noise = torch.randn(len(frames), 3, rows, columns) * deviation + mean
        frames = frames.clone()
        frames[..., top : top + rows, left : left + columns] = noise.round_().clamp_(0, 255).to(torch.uint8)
        return frames

    def pretrain_indices(n, frames, stride, generator):
        start = int(torch.randint(max(n - frames * stride, 0) + 1, (), generator=generator))
        return np.minimum(start + stride * np.arange(frames), start + (n - 1 - start) // stride * stride)

    def no_weight_decay(model):
        return {"encoder.positions", "encoder.representative_tokens", "mask_token"}

    monkeypatch.setattr(dataset, "pretrain_indices", pretrain_indices)
    monkeypatch.setattr(MAEDFER, "no_weight_decay", no_weight_decay)
    monkeypatch.setattr(draws, "draw_erased_box", draw_box)
    monkeypatch.setattr(transforms, "erase_box", erase_box)


def go_on(task, data, folder):
    """Let the run that was interrupted go on in a folder, and return where it ended."""
    output = folder / "run"
    shutil.copytree(ASSETS / f"run_{task}", output)
    changes = [f"output={output}", f"data.train={data / 'train.csv'}"]
    if task == "finetune":
        changes.append(f"data.test={data / 'test.csv'}")
    cfg = load_config(task, output / "config.yaml", changes)
    result = {"pretrain": run_pretrain, "finetune": run_finetune}[task](cfg)
    assert result.steps == 6
    return output


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_interrupted_run_goes_on_to_the_same_weights(task, data, tmp_path, earlier_rules):
    output = go_on(task, data, tmp_path)
    steps = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines() if '"lr"' in line]
    assert steps == [4, 5, 6]
    equal_to_rounding(load_file(output / "model/model.safetensors"), load_file(output / "whole/model.safetensors"))


def test_interrupted_run_goes_on_under_the_rules_of_now_and_says_so(data, tmp_path, capsys):
    output = go_on("pretrain", data, tmp_path)
    assert "from step 4 on, samples of clips hold the frame before" in capsys.readouterr().out
    found, earlier = (load_file(output / name / "model.safetensors") for name in ("model", "whole"))
    change = max(float((found[name] - earlier[name]).abs().max()) for name in earlier)
    assert 1e-4 < change < 0.1


def test_saved_classifier_gives_the_same_logits():
    model = from_pretrained(ASSETS / "run_finetune/whole")
    assert isinstance(model, LGIFormer)
    with torch.no_grad():
        found = {"logits": model(FRAMES), "features": model.forward_features(FRAMES)}
    equal_to_rounding(found, load_file(ASSETS / "run_finetune/outputs.safetensors"))


def test_saved_autoencoder_gives_the_same_prediction_and_losses():
    model = from_pretrained(ASSETS / "run_pretrain/whole")
    assert isinstance(model, MAEDFER)
    with torch.no_grad():
        visible, decoded = model.token_numbers(HIDDEN)
        found = {"encoded": model.encode(FRAMES, visible), "prediction": model(FRAMES, visible, decoded)}
        found |= model.training_loss(FRAMES, visible, decoded)
    equal_to_rounding(found, load_file(ASSETS / "run_pretrain/outputs.safetensors"))


def test_checkpoints_are_weights_to_score_and_to_start_from(data, tmp_path):
    assert isinstance(load(ASSETS / "run_pretrain/checkpoints/last.pt"), MAEDFER)
    given = [f"eval.checkpoint={ASSETS / 'run_finetune/checkpoints/last.pt'}", f"data.test={data / 'test.csv'}"]
    result = run_evaluate(load_config("evaluate", None, [*given, f"output={tmp_path / 'scores'}"]))
    assert scores(result)["n"] == 7
