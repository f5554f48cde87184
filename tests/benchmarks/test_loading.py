from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.loading import __main__ as command
from benchmarks.loading import check as checks
from benchmarks.loading import published
from benchmarks.loading import sides as ways
from benchmarks.loading.check import check
from benchmarks.loading.corpus import Corpus, make_corpus
from benchmarks.loading.measure import used
from benchmarks.loading.sides import FORMS, OURS, PUBLISHED, Side, sides
from benchmarks.loading.table import needs, scaling
from maedfer.data.augment.rand_augment import OPERATIONS, apply_operation
from maedfer.data.sampler import SampleKey
from maedfer.errors import InputError
from tests.data.media import pictures, write_video

FRAMES = 72


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "BATCH", 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Every frame has a colour of its own, far from its neighbours'.
    return write_video(tmp_path_factory.mktemp("source") / "video.mp4", pictures(FRAMES, 192, 240))


@pytest.fixture(scope="module")
def corpus(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), [source], 9, FRAMES)


def test_the_command_writes_what_it_measures(
    source: Path,
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_SAMPLES", 1)
    options = ["--clips", "9", "--frames", str(FRAMES), "--cores", "1", "--rounds", "2", "--seconds", "0"]
    options += ["--data", str(corpus.folder), "--results", str(tmp_path), "--task", "finetune"]
    assert command.main([str(source), *options]) == 0
    found = json.loads((tmp_path / "loading_cpu.json").read_text())
    assert (found["clips"]["clips"], found["clips"]["distinct"]) == (9, 1)
    rows = found["rows"]
    expected = [(PUBLISHED, "pictures"), (OURS, "pictures"), (OURS, "shards")]
    assert [(row["loader"], row["source"]) for row in rows] == [each for each in expected for _ in range(2)]
    assert [row["changes"] for row in rows] == [True, False] * len(expected)
    assert rows[0]["times_published"] == rows[0]["times_published_by_processor"] == 1
    for row in rows:
        assert row["slowest"] <= row["clips_per_s"] <= row["fastest"]
        assert row["processor_ms"] > 0 and row["read_bytes"] is not None
    kinds = {(found["source"], "shape" in found) for found in found["checks"]}
    assert kinds == {(source, both) for source in ("pictures", "shards") for both in (True, False)}
    printed = capsys.readouterr().out
    assert "finetune, 1 core" in printed and "| ours | pictures | by the loader |" in printed


def test_what_processes_use(tmp_path: Path) -> None:
    """This one and another, which reads and works for a moment."""
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    reads = "import sys, time; open(sys.argv[1], 'rb').read(); sum(range(3_000_000)); print(flush=True); input()"
    seconds, before = used(set())
    with subprocess.Popen(
        [sys.executable, "-c", reads, str(tmp_path / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (tmp_path / "file").read_bytes()
        more, after = used({other.pid})
        other.communicate(b"\n")
    assert before is not None and after is not None
    assert after - before > 2_000_000 and more - seconds > 0.02


def test_what_a_rate_takes() -> None:
    row = {"task": "pretrain", "loader": OURS, "source": "shards", "changes": False, "read_bytes": 100_000.0}
    rows = [row | {"cores": 1, "clips_per_s": 200.0}, row | {"cores": 2, "clips_per_s": 380.0}]
    assert needs(rows, 4000)[-1] == "| pretrain | ours | shards | no | 20 | 0.40 | 3.2 |"
    assert scaling(rows)[-1] == "| pretrain | ours | shards | no | 1.90 |"
    assert scaling(rows[:1]) == []


def test_both_load_the_same_frames(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_SAMPLES", 2)
    for task in FORMS:
        for side in sides(task, corpus):
            if side.loader == OURS and not side.changes:
                found = check(side)
                assert found["difference"] < 2.5 < found["to_neighbours"]


def test_other_frames_are_not_timed(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(corpus, "finetune", OURS, "pictures", False)
    rule = published.train_indices
    monkeypatch.setattr(published, "train_indices", lambda *args: np.minimum(rule(*args) + 1, FRAMES - 1))
    with pytest.raises(InputError, match="ours, pictures, as read: frames differ .* not timed"):
        check(side)


def test_samples_of_another_shape_are_not_timed(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "published", lambda task, corpus: published.PublishedFinetuning(corpus.folders, 96))
    with pytest.raises(InputError, match=r"sample is \[1, 3, 16, 160, 160\], the published \[3, 16, 96, 96\]"):
        check(Side(corpus, "finetune", OURS, "pictures", True))


def test_published_samples(corpus: Corpus) -> None:
    for task in FORMS:
        dataset = Side(corpus, task, PUBLISHED, FORMS[task], True).dataset()
        one, again, other = (dataset[SampleKey(0, seed)]["frames"] for seed in (1, 1, 2))
        assert one.shape == (3, 16, 160, 160) and one.dtype == torch.float32
        # Erased boxes have new noise.
        assert (one - again).abs().median() == 0 and not torch.equal(one, other)


def test_published_operations_do_what_ours_do() -> None:
    """To one grey level; posterising is told apart by its least number of bits."""
    y, x = np.mgrid[:160, :160]
    picture = np.stack([40 + x, 20 + y, 60 + (x + y) // 4], -1).astype(np.uint8)
    clip = torch.from_numpy(picture).permute(2, 0, 1)[None]
    for operation, name in zip(published.OPERATIONS, OPERATIONS, strict=True):
        ours = apply_operation(clip, name, 7.0)[0].permute(1, 2, 0).int()
        alike = []
        for sign in (1.0, -1.0):
            # Matrices lead from the result to the source: what one calls right the other may call left.
            theirs = torch.from_numpy(np.array(operation(Image.fromarray(picture), 0.7, sign)).astype(np.int32))
            alike.append(float(((theirs - ours).abs() <= 1).float().mean()))
        assert max(alike) == 1.0, (name, alike)


def test_clips_are_made_once(source: Path, corpus: Corpus) -> None:
    before = corpus.videos[0].stat().st_mtime_ns
    assert make_corpus(corpus.folder, [source], 9, FRAMES) == corpus
    assert corpus.videos[0].stat().st_mtime_ns == before
    assert corpus.folders[8].resolve() == corpus.folders[0]
    assert dataclasses.replace(corpus, clips=1).describe()["picture_bytes"] > 1000


def test_a_video_longer_than_a_clip_gives_several(source: Path, tmp_path: Path) -> None:
    assert make_corpus(tmp_path, [source], 3, 30).distinct == 2


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="holds something else"):
        make_corpus(tmp_path, [source], 3)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        (["--cores", "0"], "--cores 0"),
        (["--cores", "1000"], "--cores 1000"),
        (["--rounds", "0"], "--rounds must be positive"),
    ],
)
def test_what_cannot_be_measured(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(options) == 2
    assert sentence in capsys.readouterr().err
