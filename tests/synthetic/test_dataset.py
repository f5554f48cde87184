from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.synthetic import EXPRESSIONS, FaceStyle, render_clip, write_dataset
from maedfer.synthetic import dataset as synthetic

SMALL: dict[str, Any] = {"clips": 21, "size": 32, "frames": 8, "folds": 3, "subjects": 6, "workers": 1}


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("synth") / "data", **SMALL)


def test_layout(folder):
    everything = lines(folder / "all.csv")
    assert len(everything) == 21 and len(set(everything)) == 21
    assert lines(folder / "classes.txt") == list(EXPRESSIONS)
    assert lines(folder / "pretrain.csv") == [line.split(" ")[0] for line in everything]
    assert Counter(line.split(" ")[1] for line in everything) == {str(k): 3 for k in range(7)}
    for line in everything:
        path, label = line.split(" ")
        assert Path(path).stem.split("_")[1] == EXPRESSIONS[int(label)]
        assert decode(folder / path).shape == (8, 32, 32, 3)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["README.txt", "all.csv", "classes.txt", "clips", "dataset.json", "fold_1", "fold_2", "fold_3", "pretrain.csv"]
    )


def test_folds_partition_the_clips_and_share_no_subject(folder):
    everything, tested = lines(folder / "all.csv"), []
    described = json.loads((folder / "dataset.json").read_text())
    for fold in (1, 2, 3):
        train, test = (lines(folder / f"fold_{fold}" / f"{name}.csv") for name in ("train", "test"))
        assert sorted(train + test) == sorted(everything)
        people = [{line.split("/")[1].split("_")[0] for line in part} for part in (train, test)]
        assert not people[0] & people[1]
        assert people[1] == {f"s{s:03d}" for s in described["test_subjects"][f"fold_{fold}"]}
        tested += test
    assert sorted(tested) == sorted(everything)


def test_default_sizes_give_balanced_folds():
    settings = synthetic._Settings(
        clips=700, seed=0, folds=5, size=96, frames=48, fps=25, subjects=70, style=FaceStyle()
    )
    count: Counter[tuple[int, int]] = Counter()
    for index in range(700):
        subject, label, _ = settings.clip(index)
        count[settings.fold(subject), label] += 1
    assert set(count.values()) == {20}


def test_decoded_clips_are_what_was_painted(folder):
    """The file's pixels are those of render_clip with the file's subject and label."""
    path, label = lines(folder / "all.csv")[13].split(" ")
    subject, _, number = Path(path).stem.split("_")
    painted = render_clip((0, int(number)), int(label), (0, int(subject[1:])), 8, 32)
    others = (render_clip((0, int(number)), int(label), (0, s), 8, 32) for s in range(6) if s != int(subject[1:]))
    video = decode(folder / path).astype(float)
    # Halved colour resolution costs a few grey levels at this size.
    assert np.abs(video - painted).mean() < 7
    assert min(np.abs(video - other).mean() for other in others) > 14


def test_workers_change_nothing(folder, tmp_path):
    seen = []
    other = write_dataset(
        tmp_path / "new" / "data", **SMALL | {"workers": 2}, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(k, 21) for k in range(1, 22)]
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    for file in files:
        assert (folder / file).read_bytes() == (other / file).read_bytes(), file
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data"]


def test_a_written_folder_is_reused_and_another_refused(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert write_dataset(folder, **SMALL) == folder
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(InputError, match=r"other settings \(seed, style\)"):
        write_dataset(folder, **SMALL, seed=1, style=FaceStyle(noise=0.0))


def test_a_damaged_folder_is_not_reused(tmp_path):
    folder = write_dataset(tmp_path / "data", **SMALL)
    next((folder / "clips").iterdir()).unlink()
    with pytest.raises(InputError, match="lacks 1 of its clips"):
        write_dataset(folder, **SMALL)


def test_folders_with_something_else_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_dataset(tmp_path, **SMALL)
    with pytest.raises(InputError, match="is a file"):
        write_dataset(tmp_path / "notes.txt", **SMALL)
    (tmp_path / "empty").mkdir()
    assert (write_dataset(tmp_path / "empty", **SMALL) / "all.csv").is_file()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_nothing(tmp_path, monkeypatch, failure, workers):
    """A full disk in a worker, Ctrl-C in the parent."""

    def write(folder: Path, settings: object, index: int) -> None:
        if index == 11 and isinstance(failure, OSError):
            raise failure
        (folder / f"clips/{index}").write_bytes(b"half a clip")

    def interrupt(done: int, total: int) -> None:
        if done == 5 and isinstance(failure, KeyboardInterrupt):
            raise failure

    monkeypatch.setattr(synthetic, "_write_clip", write)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if expected is InputError else None):
        write_dataset(tmp_path / "data", **SMALL | {"workers": workers}, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_an_error(tmp_path, monkeypatch):
    def write(folder: Path, settings: object, index: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(synthetic, "_write_clip", write)
    with pytest.raises(InputError, match="killed when 0 clips were written"):
        write_dataset(tmp_path / "data", **SMALL | {"workers": 2})
    assert list(tmp_path.iterdir()) == []


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys, maedfer.synthetic as s\n"
        "s.write_dataset(sys.argv[1], clips=4000, size=32, frames=8, workers=2, progress=lambda *_: print(flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "data")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.kill()
        # Its workers hold the other end of the pipe, which is open for as long as one of them lives.
        parent.communicate(timeout=120)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clips": 0}, "must be positive"),
        ({"frames": 0}, "must be positive"),
        ({"fps": 0}, "must be positive"),
        ({"size": 33}, "even"),
        ({"size": 16}, "at least 32"),
        ({"folds": 1}, "folds must be at least 2, one for test and another for training, got 1"),
        ({"subjects": 2}, r"subjects must be between the folds \(3\) and the clips \(21\), got 2"),
        ({"subjects": 22}, r"subjects must be between the folds \(3\) and the clips \(21\), got 22"),
        ({"seed": -1}, "integers from 0"),
        ({"workers": 0}, "workers"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path / "data", **SMALL | settings)
    assert list(tmp_path.iterdir()) == []
