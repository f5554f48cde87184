"""`maedfer explain`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maedfer.data import open_video
from maedfer.models import ClipSettings
from tests.cli.helpers import Call
from tests.data.media import pictures, write_video
from tests.explanation.test_reconstruction import autoencoder
from tests.prediction.models import classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, an autoencoder, a video and a broken one, and boxes of a face in a part of the video."""
    folder = tmp_path_factory.mktemp("explain")
    classifier().save_pretrained(folder / "fine")
    pre = autoencoder()
    pre.clip_settings = ClipSettings(stride=2)
    pre.save_pretrained(folder / "pre")
    write_video(folder / "it's one.mp4", pictures(40, 64, 64))
    (folder / "broken.mp4").write_bytes(b"no video")
    lines = ["frame,x,y,width,height,score", *(f"{frame},20,16,24,24,0.9" for frame in range(10, 36))]
    (folder / "boxes.csv").write_text("\n".join(lines))
    return folder


def test_a_classifier_is_explained(call: Call, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(
        "explain", folder / "fine", folder / "it's one.mp4", folder / "broken.mp4", "--out", out,
        "--boxes", folder / "boxes.csv", "--blocks", "2", "--class", "glad",
    )  # fmt: skip
    assert done.status == 1 and "broken.mp4" in done.err
    assert "it's one: 7 windows, pictures of" in done.out and "report: " in done.out
    names = {path.name.removeprefix("it's one.") for path in out.iterdir()}
    assert names == {
        "attention.png", "blocks.png", "regions.png", "interaction.png", "evidence.png", "attention.mp4", "npz",
        "report.html", "report.json",
    }  # fmt: skip
    with open_video(out / "it's one.attention.mp4") as film, open_video(folder / "it's one.mp4") as video:
        assert len(film) == 26
        np.testing.assert_allclose(film.times, video.times[10:36] - video.times[10], atol=1e-3)
    with np.load(out / "it's one.npz") as arrays:
        assert arrays["course_intra_region"].shape == arrays["course_rollout"].shape == (7, 2, 4, 4)
        assert (
            arrays["intra_region"].shape == (2, 2, 4, 1, 2, 4)
            and arrays["evidence"].shape == (4, 4)
            and arrays["evidence_moments"].shape == (2,)
        )
        np.testing.assert_allclose(arrays["probabilities"].sum(1), 1)
        np.testing.assert_allclose(np.ptp(arrays["times"], 1), 0.24, atol=1e-6)
    with Image.open(out / "it's one.attention.png") as picture:
        assert picture.width > 400
    page = (out / "report.html").read_text()
    assert page.count("<img") == 5 and page.count("<video") == 1 and "it&#x27;s one" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    numbers = json.loads((out / "report.json").read_text())
    assert len(numbers["failed"]) == 1 and "broken.mp4" in page
    assert numbers["faces"][0]["evidence"]["class"] == "glad" and numbers["faces"][0]["windows"] == 7
    assert numbers["settings"]["looking"]["hop"] == pytest.approx(0.16)


def test_the_page_of_a_run_shows_what_was_explained(call: Call, trained: Path, frames: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    done = call(
        "explain", run, frames / "clip_1", "--fps", 25, "--no-crop", "--out", run / "explanation", "--no-film",
        "--what", "evidence",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert call("report", run).status == 0
    page = (run / "report.html").read_text()
    assert "What the model looks at" in page and "What raises the class" in page
    assert json.loads((run / "report.json").read_text())["explained"] == {"faces": ["clip_1"]}
    (run / "explanation" / "clip_1.evidence.png").unlink()
    status, _, err = call("report", run)
    assert status == 2 and "clip_1.evidence.png" in err
    (run / "explanation" / "report.json").write_text('{"kind": "explanation", "faces": [1]}')
    status, _, err = call("report", run)
    assert status == 2 and "lacks the faces" in err


def test_an_autoencoder_is_explained(call: Call, folder: Path, tmp_path: Path) -> None:
    done = call(
        "explain", folder / "pre", folder / "it's one.mp4", "--out", tmp_path, "--no-crop", "--between", "0.2", "1.5",
        "--what", "reconstruction", "--masks", "3,5", "--mask-ratio", "0.5",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {
        "it's one.reconstruction.png", "it's one.reconstruction.mp4", "it's one.npz", "report.html", "report.json",
    }  # fmt: skip
    with np.load(tmp_path / "it's one.npz") as arrays:
        assert arrays["hidden"].shape == (2, 4, 4, 4) and arrays["hidden"].mean() == 0.5
        loss = arrays["loss"]
    made = json.loads((tmp_path / "report.json").read_text())["faces"][0]["reconstruction"]
    assert made["seeds"] == [3, 5] and made["loss"] == pytest.approx(loss.tolist())
    assert f"loss {loss.mean():.4f}" in done.out and f"{loss[1]:.4f}" in (tmp_path / "report.html").read_text()
    with open_video(tmp_path / "it's one.reconstruction.mp4") as film:
        assert len(film) == 16 and np.diff(film.times).max() < 0.09


def test_features_of_a_list_are_laid_out(call: Call, trained: Path, frames: Path, tmp_path: Path) -> None:
    lines = [f"{frames}/clip_{number},{number % 2},s{number // 4}" for number in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,subject", *lines]))
    out = tmp_path / "out"
    done = call("explain", trained, "--embed", tmp_path / "list.csv", "--embed-by", "tsne", "--out", out)
    assert done.status == 0, done.err
    rows = (out / "features.csv").read_text().splitlines()
    assert len(rows) == 9 and rows[6].startswith(f"{frames}/clip_5,1,moved,s1,")
    done = call("explain", trained, "--embed", tmp_path / "list.csv", "--subject", "clip_[0-3]|clip_", "--out", out)
    assert (out / "features.csv").read_text().splitlines()[6].startswith(f"{frames}/clip_5,1,moved,clip_,")
    assert (out / "features.png").exists() and "t-SNE" in (out / "report.html").read_text()


def test_a_source_is_not_overwritten(call: Call, folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", pictures(8, 32, 32))
    for name in ("a.attention.mp4", "a.face2.attention.mp4"):
        write_video(tmp_path / name, pictures(8, 32, 32))
        before = (tmp_path / name).read_bytes()
        done = call("explain", folder / "fine", tmp_path / "a.mp4", tmp_path / name, "--out", tmp_path)
        assert done.status == 2 and f"{name}: would be overwritten" in done.err
        assert (tmp_path / name).read_bytes() == before
