"""That pre-training teaches something a probe can read, on drawn clips, by the commands that users have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from maedfer.evaluation.probes import fit
from maedfer.models import MAEDFER, load
from maedfer.studies import ProbeOptions, run_probe
from maedfer.studies.tables import Measured
from maedfer.synthetic import FaceStyle, render_clip
from maedfer.train import load_config, run_pretrain

# Faces alike in all but their expression, under so much noise that what is seen in one place says little: that is
# what pre-training learns to see through. Random weights read clean drawings as well as a short pre-training does.
STYLE = FaceStyle(
    amplitude=(1.0, 1.2),
    identity=0.2,
    variation=0.05,
    pose=0.15,
    talk=0.0,
    light=0.15,
    noise=80.0,
    blur=0.2,
    pulse_twin=False,
)
SHOWN = ("happy", "sad", "surprise", "disgust")
PARTS = {"unlabelled": 900, "train": 240, "test": 400}
MODEL = {
    "clip_size": "[4,32,32]",
    "patch_size": "[2,8,8]",
    "region_size": "[1,2,4]",
    "embed_dim": "48",
    "depth": "2",
    "num_heads": "4",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the four frames of each clip, and a list of each part."""
    folder = tmp_path_factory.mktemp("drawn")
    number = 0
    for part, clips in PARTS.items():
        lines = []
        for _ in range(clips):
            label = number % len(SHOWN)
            clip = folder / f"{part}_{number}"
            clip.mkdir()
            for time, frame in enumerate(render_clip((0, number), SHOWN[label], 0, 4, 32, STYLE)):
                Image.fromarray(frame).save(clip / f"{time}.png", compress_level=1)
            lines.append(f"{clip.name} {label}\n")
            number += 1
        (folder / f"{part}.csv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def pretrained(drawn: Path) -> Path:
    """A run of 336 steps."""
    settings = [f"model.encoder.{name}={value}" for name, value in MODEL.items()]
    settings += ["model.decoder_dim=48", "model.decoder_depth=1", "model.normalize_target=false"]
    settings += [f"data.train={drawn}/unlabelled.csv", "data.stride=1", "optim.epochs=12", "optim.warmup_epochs=1"]
    settings += ["train.device=cpu", "train.threads=1", "train.tensorboard=false", "report=false"]
    run_pretrain(load_config("pretrain", "synth_pretrain", [*settings, f"output={drawn}/pretrained"]))
    return drawn / "pretrained"


def above_random(model: Path, drawn: Path, out: Path, seed: int) -> Measured:
    """What a linear probe reads in a model's features more than in those of weights drawn by a seed: UAR."""
    settings = [f"data.train={drawn}/train.csv", f"data.test={drawn}/test.csv", "eval.views=1", "data.workers=0"]
    options = ProbeOptions(kinds=("linear",), seeds=2, baseline="random")
    given = [*settings, f"seed={seed}", f"data.classes=[{','.join(SHOWN)}]"]
    return run_probe(model, given, out, options, say=lambda _: None).differences["linear", 2]


def test_a_probe_ranks_pretrained_above_random_and_shuffled_weights(
    drawn: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One strength for all: choosing it by few clips is a luck of its own.
    monkeypatch.setitem(fit._GRIDS, "linear", ({"c": 0.01},))
    # In one folder, which keeps the features that are asked for again.
    for seed in (1, 0):
        found = above_random(pretrained, drawn, tmp_path / "probes", seed)
        assert found.value > 0.03 and found.low is not None and found.low > 0, found
    model = load(pretrained)
    assert isinstance(model, MAEDFER)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.flatten()[torch.randperm(weights.numel(), generator=draw)].view_as(weights))
    model.save_pretrained(tmp_path / "shuffled")
    found = above_random(tmp_path / "shuffled", drawn, tmp_path / "probes", 0)
    assert found.value < 0.02, found
