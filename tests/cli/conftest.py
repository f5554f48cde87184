"""The command line inside the test process, and clips small enough to train on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maedfer.cli import main
from tests.cli.helpers import FINETUNE, Call, Outcome


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command; its errors appear as they do in a shell."""
    monkeypatch.delenv("MAEDFER_TRACEBACK", raising=False)

    def run(*argv: object) -> Outcome:
        capsys.readouterr()
        status = main([str(item) for item in argv])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of six frames with train.csv, test.csv and clips.txt; class 1 moves."""
    root = tmp_path_factory.mktemp("frames")
    draw = np.random.default_rng(0)
    lines = []
    for clip in range(8):
        folder = root / f"clip_{clip}"
        folder.mkdir()
        picture = draw.integers(0, 255, (20, 20, 3), np.uint8)
        for frame in range(6):
            Image.fromarray(np.roll(picture, 3 * frame * (clip % 2), axis=1)).save(folder / f"{frame:03d}.png")
        lines.append(f"clip_{clip} {clip % 2}\n")
    (root / "train.csv").write_text("".join(lines))
    (root / "test.csv").write_text("".join(lines[:4]))
    (root / "clips.txt").write_text("".join(line.split()[0] + "\n" for line in lines))
    return root


@pytest.fixture(scope="session")
def trained(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fine-tuning run."""
    output = tmp_path_factory.mktemp("runs") / "trained"
    lists = [f"data.train={frames}/train.csv", f"data.test={frames}/test.csv"]
    assert main(["finetune", *FINETUNE, *lists, f"output={output}"]) == 0
    return output
