"""What `train.precision` comes to on a CPU, where it is said, and that it is not changed unsaid."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.evaluation.predictions import read_predictions
from maedfer.train import RunConfig, load_config, run_evaluate, run_finetune, run_pretrain
from maedfer.train.dry_run import dry_run
from maedfer.train.features import features_config, run_features
from maedfer.train.precision import Precision, auto_in_words, precision_of
from tests.train.runs import records, scores, tiny, write_clips

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    run_finetune(tiny("finetune", data, output, "optim.epochs=2", "train.save_every=1"))
    return output


def evaluation(run: Path, *overrides: str) -> RunConfig:
    return load_config("evaluate", None, [f"eval.checkpoint={run}", "train.device=cpu", *overrides])


def settings(task: str, asked: str) -> RunConfig:
    cfg = load_config(task, None, [f"train.precision={asked}"], check=False)
    return dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, checkpoint="x"))


@pytest.mark.parametrize("task", ["pretrain", "finetune", "evaluate"])
def test_auto_scores_in_bfloat16_where_it_is_fast_and_trains_in_float32(task: str, bfloat16_processor: str) -> None:
    found = precision_of(settings(task, "auto"), CPU)
    if task == "evaluate":
        assert found.name == "bf16" and bfloat16_processor in found.why and "train.precision=fp32" in found.why
    else:
        assert found == Precision("fp32")
    assert precision_of(settings(task, "bf16"), CPU) == Precision("bf16")
    assert precision_of(settings(task, "fp32"), CPU) == Precision("fp32")
    assert auto_in_words(CPU).startswith("bf16 on cpu to score") and auto_in_words(CPU).endswith("fp32 to train")


@pytest.mark.parametrize("task", ["pretrain", "finetune", "evaluate"])
def test_auto_is_float32_where_bfloat16_is_slow_which_is_said_of_it(task: str) -> None:
    assert precision_of(settings(task, "auto"), CPU) == Precision("fp32")
    found = precision_of(settings(task, "bf16"), CPU)
    assert found.name == "bf16" and found.why.startswith("bf16 is slow here: the processor has neither AMX-BF16")
    with pytest.raises(InputError, match="fp16 needs a GPU: use fp32 or bf16 on a CPU"):
        precision_of(settings(task, "fp16"), CPU)
    assert auto_in_words(CPU).startswith("fp32 on cpu, which has neither")


def test_runs_that_are_put_together_compute_nothing(bfloat16_processor: str) -> None:
    cfg = settings("evaluate", "auto")
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, checkpoint="", runs=("a", "b")))
    assert precision_of(cfg, CPU) == Precision("fp32")


def test_an_evaluation_says_and_records_what_it_computed_in(
    run: Path, tmp_path: Path, bfloat16_processor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exact, fast = (f"output={tmp_path / name}" for name in ("exact", "fast"))
    assert scores(run_evaluate(evaluation(run, exact, "train.precision=fp32")))["precision"] == "fp32"
    assert "bf16" not in capsys.readouterr().out
    assert scores(run_evaluate(evaluation(run, fast)))["precision"] == "bf16"
    assert capsys.readouterr().out.count("computed in bf16") == 1
    assert json.loads((tmp_path / "fast" / "environment.json").read_text())["precision"] == "bf16"
    # The run itself was scored in what it was trained in.
    assert json.loads((run / "metrics.json").read_text())["precision"] == "fp32"
    want, got = (read_predictions(tmp_path / name / "pred.csv").probabilities for name in ("exact", "fast"))
    assert 0 < np.abs(want - got).max() < 0.01
    told: list[str] = []
    dry_run(evaluation(run, f"output={tmp_path / 'new'}"), told.append)
    assert any(line.startswith("note         computed in bf16") for line in told)
    assert any(line.startswith("model ") and line.endswith("on cpu in bf16") for line in told)


def test_scores_of_another_arithmetic_stay(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluation(run)
    run_evaluate(first)
    assert evaluation(run).output == first.output
    monkeypatch.setattr("maedfer.models.arithmetic.bfloat16_instructions", lambda: "AVX512-BF16")
    assert evaluation(run).output == f"{first.output}_2"
    with pytest.raises(InputError, match=r"another evaluation: train.precision \('fp32' there, 'bf16' here\)"):
        run_evaluate(evaluation(run, f"output={first.output}"))


def test_folds_in_several_precisions_are_told_of(run: Path, tmp_path: Path, bfloat16_processor: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_evaluate(evaluation(run, f"output={one}", "train.precision=fp32"))
    run_evaluate(evaluation(run, f"output={two}"))
    pred = (two / "pred.csv").read_text().splitlines()
    (two / "pred.csv").write_text("\n".join([pred[0], *("other_" + line for line in pred[1:])]) + "\n")
    pooled = load_config("evaluate", None, [f"eval.runs=[{one}, {two}]", f"output={tmp_path / 'all'}"])
    found = scores(run_evaluate(pooled))
    assert [fold["precision"] for fold in found["folds"]] == ["fp32", "bf16"]
    assert "the folds were scored in bf16 and fp32" in found["notes"] and "precision" not in found


def test_features_say_what_they_were_computed_in(run: Path, bfloat16_processor: str) -> None:
    fast = run_features(features_config(run, ["train.device=cpu"]))
    exact = run_features(features_config(run, ["train.device=cpu", "train.precision=fp32"]))
    assert (fast.about["precision"], exact.about["precision"], exact.about["notes"]) == ("bf16", "fp32", [])
    assert bfloat16_processor in fast.about["notes"][0]
    error = np.abs(fast.vectors - exact.vectors)
    assert 0 < error.max() < 0.1
    # Not rounded to bfloat16 in the end.
    assert (torch.from_numpy(fast.vectors).bfloat16().float().numpy() != fast.vectors).mean() > 0.9


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_training_in_bfloat16_goes_as_in_float32(
    task: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"pretrain": run_pretrain, "finetune": run_finetune}[task]
    losses: dict[str, list[float]] = {}
    for asked in ("fp32", "bf16"):
        result = train(tiny(task, data, tmp_path / asked, f"train.precision={asked}"))
        losses[asked] = [record["loss"] for record in records(tmp_path / asked, "step")]
        said = capsys.readouterr().out
        assert f"on cpu in {asked} by" in said and ("bf16 is slow here" in said) == (asked == "bf16")
        assert result.metrics is None or result.metrics["precision"] == asked
    assert losses["fp32"] != losses["bf16"]
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.02)


def test_a_resumed_run_tells_that_its_arithmetic_has_changed(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(name: str) -> list[str]:
        given = ["optim.epochs=2", f"train.resume={run / 'checkpoints' / 'epoch_001.pt'}"]
        notes: list[str] = scores(run_finetune(tiny("finetune", data, tmp_path / name, *given)))["notes"]
        return [note for note in notes if "computed in" in note]

    assert resumed("same") == []
    monkeypatch.setattr("maedfer.train.processes.precision_of", lambda cfg, device: Precision("bf16"))
    told = "computed in fp32 up to step 3 and in bf16 from there on: train.precision=auto is decided by the device"
    assert resumed("other") == [told]
