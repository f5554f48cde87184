"""Fine-tuning on few labels: which clips a run learns from, what it says of them, and how it goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from maedfer.data.annotations import read_annotations
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.errors import InputError
from maedfer.train import load_config, run_evaluate, run_finetune
from maedfer.train.dry_run import dry_run
from maedfer.train.loader import TrainBatches
from maedfer.train.processes import Runtime
from maedfer.train.sources import learned_clips
from tests.train.runs import records, scores, tiny, write_clips

BRIEF = ("optim.epochs=1", "optim.warmup_epochs=0", "train.batch_size=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 18)


def chosen(data: Path, output: Path, *changes: str) -> list[str]:
    return [clip.name for clip in learned_clips(tiny("finetune", data, output, *changes))]


def test_a_run_learns_from_the_chosen_clips_and_says_so(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    cfg = tiny("finetune", data, output, *BRIEF, "data.labels=2", "data.test=", f"data.val={data / 'test.csv'}")
    result = run_finetune(cfg)
    # Six clips in batches of three.
    assert result.steps == 2
    listed = read_annotations(output / "labels.csv", data, classes=cfg.classes)
    assert [clip.name for clip in listed] == chosen(data, output, "data.labels=2")
    known = {clip.name: clip.label for clip in read_annotations(data / "train.csv")}
    assert all(known[clip.name] == clip.label for clip in listed)
    metrics = scores(result)
    assert metrics["labels"] == {"used": "2", "seed": 5, "clips": 6, "of": 18, "per_class": [2, 2, 2]}
    sentence = "6 of 18 clips of data.train are learned from (data.labels=2, drawn by seed 5: up 2, down 2, still 2)"
    assert sentence in metrics["notes"] and records(output, "note")[0]["text"] == sentence
    # What is scored is held against what was learned from, not against the whole list.
    both = {clip.name for clip in listed} & {clip.name for clip in read_annotations(data / "test.csv")}
    assert any(f"{len(both)} of 7 clips of data.val are in data.train too" in note for note in metrics["notes"])
    evaluation = [f"eval.checkpoint={output}", f"data.test={data / 'test.csv'}", f"output={tmp_path / 'evaluation'}"]
    again = scores(run_evaluate(load_config("evaluate", None, evaluation)))
    assert any(f"{len(both)} of 7 clips of data.test" in note for note in again["notes"])


def test_the_choice_follows_the_seed_of_the_run_unless_it_has_its_own(data: Path, tmp_path: Path) -> None:
    first = chosen(data, tmp_path, "data.labels=2", "seed=1")
    assert chosen(data, tmp_path, "data.labels=2", "seed=2") != first
    assert chosen(data, tmp_path, "data.labels=2", "seed=2", "data.labels_seed=1") == first
    assert set(chosen(data, tmp_path, "data.labels=10%", "seed=1")) < set(first)
    assert len(chosen(data, tmp_path, "data.labels=all", "data.labels_seed=1")) == 18


def test_shards_give_the_same_run_as_their_list(data: Path, tmp_path: Path) -> None:
    write_shards(read_annotations(data / "train.csv"), tmp_path / "shards", ShardOptions(format="raw"), workers=1)
    names = chosen(data, tmp_path, "data.labels=2", f"data.train={tmp_path / 'shards'}")
    assert sorted(names) == sorted(chosen(data, tmp_path, "data.labels=2"))
    cfg = tiny("finetune", data, tmp_path / "run", *BRIEF, "data.labels=2", f"data.train={tmp_path / 'shards'}")
    said: list[str] = []
    dry_run(cfg, said.append)
    text = "\n".join(said)
    assert "6 clips (up 2, down 2, still 2)" in text and "raw pixels" in text
    assert "6 of 18 clips of data.train are learned from (data.labels=2, drawn by seed 5" in text
    assert "2 steps of 3 clips" in text and not (tmp_path / "run").exists()
    assert run_finetune(cfg).steps == 2
    assert (tmp_path / "run" / "labels.csv").read_text().count("\n") == 7


def test_an_epoch_may_be_as_long_as_with_all_labels(data: Path, tmp_path: Path) -> None:
    cfg = tiny("finetune", data, tmp_path / "run", *BRIEF, "data.labels=1", "data.labels_epoch=whole")
    batches = TrainBatches(cfg, Runtime(torch.device("cpu")))
    seen = Counter(int(index) for batch in batches.epoch(0) for index in batch["index"])
    clips = Counter(batches.dataset.clips[index].name for index in seen.elements())
    assert len(batches) == 6 and clips.keys() == set(chosen(data, tmp_path, "data.labels=1"))
    assert set(clips.values()) == {6}
    said: list[str] = []
    dry_run(cfg, said.append)
    assert any("train.csv: 3 clips (up 1, down 1, still 1)" in line for line in said)
    assert any("6 steps of 3 clips" in line for line in said)
    result = run_finetune(cfg)
    assert result.steps == 6 and scores(result)["labels"]["clips"] == 3
    notes = "\n".join(scores(result)["notes"])
    assert "3 of 18 clips of data.train are learned from again and again (data.labels=1" in notes
    assert "more than once" not in notes
    assert (tmp_path / "run" / "labels.csv").read_text().count("\n") == 4


def test_a_run_goes_on_with_its_labels_alone(data: Path, tmp_path: Path) -> None:
    changes = ("optim.warmup_epochs=0", "optim.epochs=2", "train.batch_size=3", "train.save_every=1", "data.labels=2")
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    last = tmp_path / "cut" / "checkpoints" / "last.pt"
    last.parent.mkdir(parents=True)
    last.write_bytes((tmp_path / "whole" / "checkpoints" / "epoch_001.pt").read_bytes())
    resumed = run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    assert resumed.loss == whole.loss and scores(resumed)["confusion"] == scores(whole)["confusion"]
    for change, message in {
        "data.labels=3": r"data.labels \('2' there, '3' here\)",
        "data.labels_seed=7": r"data.labels_seed \(None there, 7 here\)",
    }.items():
        with pytest.raises(InputError, match=message):
            run_finetune(tiny("finetune", data, tmp_path / "cut", *changes, change))


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("pretrain", "data.labels=2", "data.labels is '2' but pre-training uses no labels"),
        ("finetune", "data.labels=half", "data.labels must be all, a share of every class"),
        ("finetune", "data.labels_seed=-1", "data.labels_seed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    task: str, change: str, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        tiny(task, data, tmp_path, change)


@pytest.mark.parametrize("change", ["data.labels=7", "data.labels=1%"])
def test_too_few_labels_stop_before_anything_is_written(change: str, data: Path, tmp_path: Path) -> None:
    cfg = tiny("finetune", data, tmp_path / "run", *BRIEF, change)
    with pytest.raises(InputError, match="class '(up|still)'"):
        run_finetune(cfg)
    assert not (tmp_path / "run" / "config.yaml").exists()
