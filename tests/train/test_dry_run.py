import os
import re
from pathlib import Path

import pytest
import torch

from maedfer.data.annotations import read_annotations
from maedfer.errors import InputError
from maedfer.models.encoder import CubeEmbedding
from maedfer.train import every_clip, load_config, run_evaluate, run_finetune
from maedfer.train.dry_run import dry_run
from maedfer.train.tasks import FinetuneTask, PretrainTask
from tests.train.runs import tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    run_finetune(tiny("finetune", data, output, "optim.epochs=1"))
    return output


def lines(cfg):
    said: list[str] = []
    dry_run(cfg, said.append)
    assert said[-1] == "dry run complete: nothing was written"
    return said


def loss_of(said):
    (loss,) = re.findall(r"batch 2 x 3 x 4 x 16 x 16: loss ([\d.]+) ", said[-2])
    return float(loss)


@pytest.mark.parametrize(("task", "kind"), [("pretrain", PretrainTask), ("finetune", FinetuneTask)])
def test_the_training_step_itself_is_run(task, kind, data, tmp_path, monkeypatch):
    losses = kind.losses
    cfg = tiny(task, data, tmp_path / "run", "train.batch_size=2", "optim.epochs=1", "optim.warmup_epochs=0")
    as_it_is = loss_of(lines(cfg))
    monkeypatch.setattr(kind, "losses", staticmethod(lambda model, batch: {"loss": losses(model, batch)["loss"] + 100}))
    said = lines(cfg)
    assert "7 steps of 2 clips" in " ".join(said)
    assert loss_of(said) == pytest.approx(100 + as_it_is, abs=2e-4)
    assert not (tmp_path / "run").exists()


def test_models_are_given_bytes_when_they_are_scored(run, tmp_path, monkeypatch):
    seen, forward = [], CubeEmbedding.forward

    def look(self, video, index, mix):
        seen.append(video.dtype)
        return forward(self, video, index, mix)

    monkeypatch.setattr(CubeEmbedding, "forward", look)
    cfg = load_config("evaluate", None, [f"eval.checkpoint={run}", "train.device=cpu", f"output={tmp_path / 'out'}"])
    lines(cfg)
    run_evaluate(cfg)
    assert len(seen) == 3 and set(seen) == {torch.uint8}


def test_what_cannot_be_scored_is_refused_before_the_run(data, run, tmp_path):
    given = [f"eval.checkpoint={run / 'model'}", f"data.test={data / 'test.csv'}", f"output={tmp_path}"]
    with pytest.raises(InputError, match="names 4 classes but .* has 3"):
        lines(load_config("evaluate", None, [*given, "data.classes=[a, b, c, d]"]))


def test_a_folder_that_the_run_would_refuse_is_refused(data, run, tmp_path):
    def refused(*changes):
        with pytest.raises(InputError) as caught:
            lines(tiny("finetune", data, run, "optim.epochs=1", *changes))
        return str(caught.value)

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "would go on from" in lines(tiny("finetune", data, run, "optim.epochs=1"))[0]
    assert "holds a run with other settings: optim.lr" in refused("optim.lr=0.5")
    assert "is not empty" in refused("train.resume=none")
    assert "'/nope' does not exist" in refused("train.resume=/nope")
    assert "clips a step" in refused("train.batch_size=3")
    last, other = run / "checkpoints" / "last.pt", f"output={tmp_path / 'other'}"
    assert "was made with other settings: optim.lr" in refused(f"train.resume={last}", "optim.lr=0.5", other)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert not (tmp_path / "other").exists()


def test_an_evaluation_leaves_the_folder_of_a_training_run_alone(data, run):
    given = [f"eval.checkpoint={run}", "train.device=cpu", f"output={run}"]
    with pytest.raises(InputError, match="is the folder of a training run"):
        lines(load_config("evaluate", None, given))


def test_a_clip_that_kills_the_process_that_reads_it_is_named(data, monkeypatch):
    clips = read_annotations(data / "train.csv")
    real = every_clip.read_whole

    def deadly(reader):
        if reader.path.name in ("clip_5", "clip_6"):
            os._exit(9)
        return real(reader)

    monkeypatch.setattr(every_clip, "read_whole", deadly)
    known: dict[Path, every_clip.Look] = {}
    looks = every_clip.read_every_clip(clips, "auto", 2, "clips", known)
    assert [clip.name for clip, look in zip(clips, looks, strict=True) if look.problem] == ["clip_5", "clip_6"]
    assert looks[5].problem.endswith("it kills the process that decodes it") and looks[5].kills and looks[6].kills
    assert all(look == (6, "", False) for number, look in enumerate(looks) if number not in (5, 6))
