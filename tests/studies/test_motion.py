"""What is asked of features about motion: windows, halves and truths, by encoders that see what they are to see."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maedfer.cli import main
from maedfer.data.annotations import read_annotations
from maedfer.errors import InputError
from maedfer.evaluation.predictions import read_predictions
from maedfer.studies import motion_probes
from maedfer.studies.grid import Job
from maedfer.studies.motion import MotionOptions, MotionStudy, prepare_study
from maedfer.studies.motion_page import write_motion_page
from maedfer.train import run_pretrain

FRAMES = 40
# A model that is made in no time.
SMALL = ["model.encoder.embed_dim=16", "model.encoder.depth=1", "model.encoder.num_heads=2", "model.decoder_depth=1"]
SMALL += ["model.decoder_dim=16", "model.decoder_heads=2", "train.device=cpu", "train.tensorboard=false"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of folders of 40 frames of five people, of whom the last has two: grey that rises by 3 a frame.

    Red tells the person: 40 times the number.
    """
    folder = tmp_path_factory.mktemp("videos")
    lines = ["path,subject"]
    for number in range(6):
        person, clip = min(number, 4), folder / f"video_{number}"
        clip.mkdir()
        for time in range(FRAMES):
            picture = np.full((64, 64, 3), 20 + 3 * time, np.uint8)
            picture[..., 0] = 40 * person
            Image.fromarray(picture).save(clip / f"{time:02d}.png", compress_level=1)
        lines.append(f"{clip.name},person_{person}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    return folder / "videos.csv"


@pytest.fixture(scope="module")
def study(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> MotionStudy:
    options = MotionOptions(steps=1, hop=3, windows=4, targets=("appearance", "joint"))
    clips = read_annotations(videos, labelled=False)
    return prepare_study(clips, tmp_path_factory.mktemp("study"), options, SMALL)


class Sees:
    """Stands in for a reader of features: brightness from frame to frame, and the colour of the person."""

    def __init__(self, target: str | None) -> None:
        self.target = target

    def read(self, frames: torch.Tensor) -> tuple[torch.Tensor]:
        grey, red = frames[:, 1].float().mean((2, 3)), frames[:, 0].float().mean((1, 2, 3))
        rise = grey[:, -1] - grey[:, 0]
        # What was pre-trained on appearance alone sees the person and how fast, not in which direction.
        seen = rise if self.target == "joint" else rise.abs()
        noise = torch.linspace(0, 1e-3, len(red))
        return (torch.stack([noise if self.target is None else seen, red, noise], 1),)


def test_everybody_is_in_one_half_with_all_videos(study: MotionStudy) -> None:
    people = [{clip.subject for clip in half} for half in study.halves]
    assert people[0] | people[1] == {f"person_{number}" for number in range(5)} and not people[0] & people[1]
    assert sum(map(len, study.halves)) == 6


@pytest.mark.parametrize("task", ["order", "speed", "speaker"])
def test_windows_show_what_is_asked(task: str, study: MotionStudy) -> None:
    for half in (0, 1):
        asked = motion_probes._question(study, task, half)
        for window in (*asked.train, *asked.test):
            assert len(window.frames) == 8 and 0 <= min(window.frames) <= max(window.frames) < FRAMES
            (step,) = set(np.diff(window.frames).tolist())
            if task == "order":
                assert step == (2, -2)[window.label]
            elif task == "speed":
                assert step == (1, 2, 4)[window.label]
            else:
                assert step == 2
        if task == "speaker":
            # No frame is in both parts.
            assert max(max(w.frames) for w in asked.train) < 24 <= min(min(w.frames) for w in asked.test)
        elif task == "speed":
            # All speeds show the same moment.
            middles = [np.mean(window.frames) for window in asked.test]
            assert all(abs(a - b) <= 1 for a, b in zip(middles[::3], middles[2::3], strict=True))
        names = [window.name(study.halves[half][window.clip]) for window in asked.test]
        assert len(set(names)) == len(names)


def test_windows_are_as_many_as_asked_for(study: MotionStudy) -> None:
    for clip in range(len(study.halves[0])):
        starts = [start for number, start in motion_probes._starts(study, 0, 2) if number == clip]
        assert len(starts) == 4 and starts[0] == 0 and starts[-1] == 24


def test_probes_find_what_features_hold_and_nothing_else(study: MotionStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Any]] = []

    def encoder(study: MotionStudy, kind: str, half: int, target: str | None, seed: int) -> Any:
        asked.append((half, target))
        return Sees(target)

    monkeypatch.setattr(motion_probes, "_encoder", encoder)
    monkeypatch.setattr(motion_probes, "run_jobs", lambda jobs, *_, **__: None)
    said: list[str] = []
    found = motion_probes.run_motion(study, say=said.append)["linear"]
    # The encoder is that of the half that is not scored.
    assert asked[:2] == [(1, None), (0, None)]
    scores = {task: {name: one["uar"]["mean"] for name, one in found[task]["scores"].items()} for task in found}
    assert scores["order"]["appearance and motion"] == 1.0
    assert scores["order"]["appearance"] == pytest.approx(0.5, abs=0.2)
    assert scores["speed"]["appearance"] == scores["speed"]["appearance and motion"] == 1.0
    assert scores["speed"]["random weights"] < 0.7
    assert all(score == 1.0 for score in scores["speaker"].values())
    gain = found["order"]["gains"]["appearance"]["uar"]
    assert gain["mean"] == pytest.approx(1 - scores["order"]["appearance"])
    assert gain["interval"][0] <= gain["mean"] <= gain["interval"][1]
    assert found["order"]["chance"] == 0.5 and found["speed"]["chance"] == pytest.approx(1 / 3)
    assert found["speaker"]["chance"] == pytest.approx(2 / 5) and found["speaker"]["people"] == 5
    assert any("order: UAR random weights" in line and "chance 50.0%" in line for line in said)
    kept = read_predictions(study.out / "probes" / "linear" / "order" / "appearance_and_motion,_seed_0.csv")
    assert len(kept.names) == found["order"]["windows"] and set(kept.subjects) == {f"person_{n}" for n in range(5)}


def test_a_study_from_videos_to_page(study: MotionStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(jobs: list[Job], *_: Any, **__: Any) -> None:
        for job in jobs:
            run_pretrain(job.settings())

    monkeypatch.setattr(motion_probes, "run_jobs", here)
    results = motion_probes.run_motion(study, say=lambda _: None)
    page = write_motion_page(study, results)
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["results"]["linear"]["speed"]["scores"].keys() == {
        "random weights",
        "appearance",
        "appearance and motion",
    }
    with open(study.out / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[1] for row in rows if row[:1] == ["linear"]] == [*results["linear"]["order"]["scores"], "chance"]
    assert "What the encoder learns of motion" in page.read_text()


def test_what_there_is_to_do_is_told_before_faces_are_cut_out(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["motion", str(videos), "--dry-run", "--seeds", "2", "--steps", "5", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told == "6 videos of 5 people, faces to be cut out; then 8 pre-trainings of 5 steps\n" and not out.exists()


def test_too_little_to_ask(videos: Path, tmp_path: Path) -> None:
    clips = read_annotations(videos, labelled=False)
    with pytest.raises(InputError, match="3 people in 3 videos: give videos of four people at least"):
        prepare_study(clips[:3], tmp_path / "few", MotionOptions())
    with pytest.raises(InputError, match="half 1 has 0 people with a video of 93 frames or more"):
        prepare_study(clips, tmp_path / "short", MotionOptions(), ["model.encoder.clip_size=[24,64,64]"])
    with pytest.raises(InputError, match="faces of this study are 64 x 64: leave height and width at 64"):
        prepare_study(clips, tmp_path / "large", MotionOptions(), ["model.encoder.clip_size=[8,128,128]"])
    assert not (tmp_path / "large").exists()
    with pytest.raises(InputError, match="unknown kind of probe 'tree'"):
        MotionOptions(probes=("tree",))
    with pytest.raises(InputError, match="give at least one target, and each once"):
        MotionOptions(targets=("joint", "joint"))
    with pytest.raises(InputError, match="steps"):
        MotionOptions(steps=0)
