import json
import shutil

import numpy as np
import pytest
import torch

import maedfer
from maedfer.errors import InputError
from maedfer.evaluation.predictions import read_predictions
from maedfer.models import ClipSettings, LGIFormer, to_published
from maedfer.models.export import describe
from maedfer.train import load_config, run_evaluate, run_finetune
from tests.train.runs import scores, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_clips(tmp_path_factory.mktemp("clips"), 38)
    rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join(rows[:14]) + "\n")
    (folder / "val.csv").write_text("\n".join(rows[14:]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    run_finetune(tiny("finetune", data, output, "optim.epochs=2"))
    # Three in four validation clips have the label that the model gives them: it knows more than nothing, not all.
    own = evaluate(output, f"data.test={data / 'val.csv'}", f"output={output.parent / 'own'}", calibrate=False)
    found = read_predictions(own.output / "pred.csv")
    labels = [(int(label) + (number % 4 == 0)) % 3 for number, label in enumerate(found.predicted)]
    val = [f"{name} {label}" for name, label in zip(found.names, labels, strict=True)]
    (data / "val.csv").write_text("\n".join(val) + "\n")
    (data / "few.csv").write_text("\n".join(val[:9]) + "\n")
    first = (data / "train.csv").read_text().splitlines()[:2]
    (data / "mixed.csv").write_text("\n".join([*first, *val]) + "\n")
    return output


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def kept(model) -> tuple[ClipSettings, float]:
    """Clip settings that a model is saved with, and the temperature among them."""
    found = maedfer.load(model).clip_settings
    assert found is not None and found.temperature is not None
    return found, found.temperature


def evaluate(source, *overrides, calibrate=True):
    settings = [f"eval.checkpoint={source}", "train.device=cpu", "train.precision=fp32", *overrides]
    return run_evaluate(load_config("evaluate", None, settings), calibrate=calibrate)


def test_a_temperature_is_fitted_on_validation_clips_and_kept_with_the_model(data, run, capsys):
    before = (run / "model" / "model.safetensors").read_bytes()
    plain = evaluate(run, calibrate=False)
    pred = (plain.output / "pred.csv").read_text()
    result = evaluate(run, f"data.val={data / 'val.csv'}")
    metrics = scores(result)
    found = metrics["calibration"]
    _, temperature = kept(run)
    assert (
        temperature
        == found["temperature"]
        == json.loads((run / "model" / "config.json").read_text())["clip_settings"]["temperature"]
    )
    assert (run / "model" / "model.safetensors").read_bytes() == before
    assert found["fitted_on"] == str(data / "val.csv")
    assert (found["validation"]["n"], found["test"]["n"]) == (24, 7)
    assert found["validation"]["after"]["nll"] < found["validation"]["before"]["nll"]
    # What is compared with other runs stays as it was.
    assert (result.output / "pred.csv").read_text() == pred
    assert {key: metrics[key] for key in ("uar", "war", "loss", "confusion")} == {
        key: scores(plain)[key] for key in ("uar", "war", "loss", "confusion")
    }
    assert any("without a temperature" in note for note in metrics["notes"])
    assert found["test"]["before"]["nll"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert f"temperature {temperature:.4g}, fitted on 24 validation clips" in capsys.readouterr().out

    # Against the formula, with the model and its clips anew.
    cfg = load_config("evaluate", None, [f"eval.checkpoint={run}", f"data.test={data / 'val.csv'}", "train.device=cpu"])
    again = run_evaluate(cfg)
    assert any("without a temperature" in note for note in scores(again)["notes"])
    known = read_predictions(again.output / "pred.csv")
    chosen = known.probabilities[np.arange(24), known.labels]
    assert found["validation"]["before"]["nll"] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)


def test_a_saved_model_without_clip_settings_gets_those_of_the_evaluation(data, run, tmp_path):
    settings = json.loads((run / "model" / "config.json").read_text())
    del settings["clip_settings"]
    (run / "model" / "config.json").write_text(json.dumps(settings))
    model = shutil.move(run / "model", tmp_path / "model")
    given = [f"data.val={data / 'val.csv'}", f"data.test={data / 'test.csv'}", "data.classes=[up,down,still]"]
    evaluate(model, *given, "data.stride=1", "eval.views=3", "data.workers=0", f"output={tmp_path / 'out'}")
    found, temperature = kept(model)
    assert (found.classes, found.stride, found.views) == (("up", "down", "still"), 1, 3)
    assert temperature > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.val is not set: give data.val=LIST"),
        (["data.val=test.csv"], "among those that are scored: a temperature"),
        (["data.val=train.csv"], "among those that the model was trained on"),
        (["data.val=few.csv"], "9 scored, and a temperature takes 10"),
        (["data.val=val.csv", "data.stride=2"], "data.stride is 2 here and the model was trained with 1"),
        (["data.val=none.csv"], "none.csv"),
    ],
)
def test_what_cannot_calibrate(data, run, overrides, message):
    there = (run / "model" / "config.json").read_text()
    changed = [f"data.val={data / text[9:]}" if text.startswith("data.val=") else text for text in overrides]
    with pytest.raises(InputError, match=message):
        evaluate(run, *changed)
    assert (run / "model" / "config.json").read_text() == there


def test_checkpoints_have_no_place_for_a_temperature(data, run, tmp_path):
    torch.save({"model": to_published(LGIFormer.from_pretrained(run / "model"))}, tmp_path / "published.pth")
    for source in (run / "checkpoints" / "last.pt", tmp_path / "published.pth"):
        settings = [f"data.test={data / 'test.csv'}", f"data.val={data / 'val.csv'}", f"output={tmp_path / 'out'}"]
        with pytest.raises(InputError, match=r"has no place for a temperature: give .* `maedfer convert` makes"):
            evaluate(source, *settings)
    cfg = load_config("evaluate", None, [f"eval.runs=[{run}]", f"output={tmp_path / 'out'}"])
    with pytest.raises(InputError, match="temperature of one model"):
        run_evaluate(cfg, calibrate=True)
    assert not (tmp_path / "out").exists()


def test_clips_that_are_also_trained_on_are_told(data, run):
    notes = scores(evaluate(run, f"data.val={data / 'mixed.csv'}"))["notes"]
    assert any("2 of 26 clips of data.val are in the list that the model was trained on" in note for note in notes)


def test_the_temperature_goes_along_and_ends_with_the_head(run, tmp_path):
    model = LGIFormer.from_pretrained(run / "model")
    about = describe(model)
    assert about["temperature"] is None and "uncalibrated" in about["probabilities"]
    model.clip_settings = ClipSettings(classes=("up", "down", "still"), temperature=1.5)
    assert maedfer.load(model.save_pretrained(tmp_path / "saved")).clip_settings == model.clip_settings
    about = describe(model)
    assert (about["temperature"], about["probabilities"]) == (1.5, "softmax(logits / temperature)")
    assert "temperature" not in about["sampling"]
    model.reset_head(2)
    assert model.clip_settings.temperature is None
    # Earlier versions read the configuration of a model that has none.
    text = (model.save_pretrained(tmp_path / "other") / "config.json").read_text()
    assert "temperature" not in text
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    for wrong in (0, -1, "warm", float("nan"), float("inf")):
        settings["clip_settings"]["temperature"] = wrong
        (tmp_path / "saved" / "config.json").write_text(json.dumps(settings))
        with pytest.raises(InputError, match=r"clip_settings\.temperature must be"):
            maedfer.load(tmp_path / "saved")
