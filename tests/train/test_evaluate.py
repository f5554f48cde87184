import argparse
import json
import shutil

import numpy as np
import pytest
import torch

from maedfer.data.augment.transforms import EvalTransform
from maedfer.data.dataset import ClipDataset
from maedfer.errors import InputError
from maedfer.evaluation.predictions import read_predictions
from maedfer.models import LGIFormer, normalize_frames, to_published
from maedfer.train import load_config, run_evaluate, run_finetune, run_pretrain
from maedfer.train.dry_run import dry_run
from maedfer.train.evaluate import model_to_score, predict_list
from maedfer.train.loader import ViewBatches
from maedfer.train.processes import Runtime
from maedfer.train.sources import read_clips
from tests.train.runs import in_process, records, scores, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    run_finetune(tiny("finetune", data, output, "optim.epochs=2"))
    return output


def evaluate(run, *overrides):
    return load_config("evaluate", None, [f"eval.checkpoint={run}", "train.device=cpu", *overrides])


def test_probability_is_the_mean_softmax_of_the_views(data, run, tmp_path):
    cfg = evaluate(run, "eval.views=3", f"output={tmp_path / 'out'}", "eval.save_features=true", "eval.batch_size=3")
    run_evaluate(cfg)
    found = read_predictions(tmp_path / "out" / "pred.csv")
    model = LGIFormer.from_pretrained(run / "model")
    clips = read_clips(cfg, cfg.data.test)
    views = ClipDataset(clips, "views", frames=4, stride=1, transform=EvalTransform(16), views=3)
    with torch.no_grad(), np.load(tmp_path / "out" / "features.npz") as saved:
        for index, clip in enumerate(clips):
            video = normalize_frames(views[index]["frames"])
            assert len({view.numpy().tobytes() for view in video}) > 1 or clip.label == 2
            probability = model(video).softmax(1).mean(0).numpy()
            np.testing.assert_allclose(found.probabilities[index], probability, rtol=1e-4, atol=1e-6)
            feature = model.forward_features(video).mean(0).numpy()
            np.testing.assert_allclose(saved["features"][index], feature, rtol=1e-4, atol=1e-5)
        assert saved["features"].dtype == np.float32
        assert saved["labels"].tolist() == [clip.label for clip in clips]
        assert saved["predictions"].tolist() == found.predicted.tolist()
        assert saved["names"].tolist() == [clip.name for clip in clips] == found.names


def test_evaluation_gives_the_scores_of_the_run(data, run):
    trained = json.loads((run / "metrics.json").read_text())
    result = run_evaluate(evaluate(run))
    assert result.output == run / "evaluation"
    assert scores(result)["confusion"] == trained["confusion"]
    assert scores(result)["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    assert (run / "metrics.json").read_text() == json.dumps(trained, indent=2) + "\n"


def test_who_computes_is_asked_of_the_evaluation_and_not_of_the_run(data, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("  impl: auto", "  impl: triton"))
    assert text.count("  impl: auto") == 1
    assert model_to_score(evaluate(copy))[0].config.impl == "auto"
    for source in (copy, copy / "checkpoints" / "last.pt"):
        model, cfg = model_to_score(evaluate(source, "model.impl=reference"))
        assert model.config.impl == cfg.clip_model.impl == "reference"


def test_every_kind_of_weights_can_be_scored(data, run, tmp_path):
    script = argparse.Namespace(input_size=16, num_frames=4, lg_region_size=[1, 2, 4], tubelet_size=2, num_heads=2)
    torch.save(
        {"model": to_published(LGIFormer.from_pretrained(run / "model")), "args": script}, tmp_path / "published.pth"
    )
    arguments = [f"data.test={data / 'test.csv'}", "data.classes=[up, down, still]", "data.stride=1", "data.workers=0"]
    expected = json.loads((run / "metrics.json").read_text())["confusion"]
    for number, source in enumerate((run / "model", run / "checkpoints" / "last.pt", tmp_path / "published.pth")):
        cfg = load_config(
            "evaluate",
            None,
            [f"eval.checkpoint={source}", f"output={tmp_path / str(number)}", *arguments, "report=false"],
        )
        assert scores(run_evaluate(cfg))["confusion"] == expected


def test_folds_are_pooled_and_scored_once(data, run, tmp_path, capsys):
    parts = [tmp_path / "a", tmp_path / "b"]
    rows = (run / "pred.csv").read_text().splitlines()
    for part, lines in zip(parts, (rows[1:4], rows[4:]), strict=True):
        part.mkdir()
        (part / "pred.csv").write_text("\n".join([rows[0], *lines]) + "\n")
    cfg = load_config("evaluate", None, [f"eval.runs=[{parts[0]}, {parts[1]}]", f"output={tmp_path / 'all'}"])
    result = run_evaluate(cfg)
    whole = json.loads((run / "metrics.json").read_text())
    assert scores(result)["confusion"] == whole["confusion"]
    assert scores(result)["uar"] == whole["uar"]
    assert scores(result)["classes"] == ["up", "down", "still"]
    folds = scores(result)["folds"]
    assert [fold["n"] for fold in folds] == [3, 4]
    # The mean of the folds is another number, and has a name of its own.
    mean = scores(result)["mean_of_folds"]["war"]["mean"]
    assert mean == pytest.approx((folds[0]["war"] + folds[1]["war"]) / 2)
    assert abs(mean - scores(result)["war"]) > 0.01
    assert f", WAR {mean:.2%}; what follows is of all clips together" in capsys.readouterr().out
    # Predictions that do not say who is in clips are told by a pattern.
    given = [f"eval.runs=[{parts[0]}, {parts[1]}]", f"output={tmp_path / 'who'}", "data.subject=.$"]
    run_evaluate(load_config("evaluate", None, given))
    assert read_predictions(tmp_path / "who" / "pred.csv").subjects == tuple("0123456")
    assert len(read_predictions(tmp_path / "all" / "pred.csv").names) == 7
    with pytest.raises(InputError, match=r"has no pred\.csv"):
        run_evaluate(load_config("evaluate", None, [f"eval.runs=[{data}]", f"output={tmp_path / 'x'}"]))


def test_each_clip_is_scored_once_whatever_the_number_of_processes(data, run, tmp_path):
    # Seven clips: neither batches of two nor two processes divide them.
    settings = [f"eval.checkpoint={run}", "eval.batch_size=2", "report=false"]
    settings += ["train.device=cpu", "train.precision=fp32"]
    one = run_evaluate(load_config("evaluate", None, [*settings, f"output={tmp_path / 'one'}"]))
    done = in_process("evaluate", [*settings, f"output={tmp_path / 'two'}"], processes=2)
    assert done.ok, done.text
    left, right = (read_predictions(tmp_path / name / "pred.csv") for name in ("one", "two"))
    assert left.names == right.names and len(set(left.names)) == 7
    np.testing.assert_allclose(left.probabilities, right.probabilities, rtol=1e-5)
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["confusion"] == scores(one)["confusion"]
    assert done.text.count("macro F1") == 1


def test_model_keeps_its_mode_and_random_numbers_are_not_touched(data, run):
    cfg, here = evaluate(run), Runtime(torch.device("cpu"))
    model = LGIFormer.from_pretrained(run / "model").train()
    state = torch.get_rng_state()
    assert predict_list(model, ViewBatches(cfg, here, cfg.data.test), here, cfg).predicted.shape == (7,)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_class_without_test_clips_is_told(data, run, tmp_path):
    (data / "two.csv").write_text("clip_0 0\nclip_1 1\n")
    result = run_evaluate(evaluate(run, f"data.test={data / 'two.csv'}", f"output={tmp_path}"))
    notes = scores(result)["notes"]
    assert len(notes) == 2 and notes[0] == "no clips of still: left out of UAR"
    assert notes[1].startswith("all 2 clips of data.test are in the list that the model was trained on too")
    assert scores(result)["recall"][2] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clip_0", r"bad\.csv:1: .*label"),
        ("clip_0 3", r"bad\.csv:1: label 3 is out of range"),
        ("no 0", "do not exist"),
    ],
)
def test_bad_lists_are_named(data, run, tmp_path, line, message):
    (data / "bad.csv").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        run_evaluate(evaluate(run, f"data.test={data / 'bad.csv'}", f"output={tmp_path}"))


def test_what_cannot_be_scored_is_refused(data, run, tmp_path):
    run_pretrain(tiny("pretrain", data, tmp_path / "pre", "optim.epochs=1"))
    test = f"data.test={data / 'test.csv'}"
    cfg = load_config(
        "evaluate", None, [f"eval.checkpoint={tmp_path / 'pre' / 'model'}", test, f"output={tmp_path / 'x'}"]
    )
    with pytest.raises(InputError, match="masked autoencoder"):
        run_evaluate(cfg)
    with pytest.raises(InputError, match="names 2 classes but .* has 3"):
        run_evaluate(
            load_config(
                "evaluate",
                None,
                [f"eval.checkpoint={run / 'model'}", test, "data.classes=[a, b]", f"output={tmp_path}"],
            )
        )
    with pytest.raises(InputError, match="is the folder of a training run"):
        run_evaluate(evaluate(run, f"output={run}"))


def test_label_offset(data, run, tmp_path):
    (data / "from_one.csv").write_text("clip_0 1\nclip_1 2\nclip_2 3\n")
    run_evaluate(evaluate(run, f"data.test={data / 'from_one.csv'}", "data.label_offset=1", f"output={tmp_path}"))
    assert read_predictions(tmp_path / "pred.csv").labels.tolist() == [0, 1, 2]


def test_a_model_folder_alone_says_how_it_is_evaluated(data, tmp_path):
    output = tmp_path / "run"
    run_finetune(tiny("finetune", data, output, "optim.epochs=1", "data.stride=2", "data.fit=crop", "eval.views=1"))
    trained = read_predictions(output / "pred.csv")
    shutil.move(output / "model", tmp_path / "model")
    (tmp_path / "checkpoint").mkdir()
    shutil.move(output / "checkpoints" / "last.pt", tmp_path / "checkpoint" / "last.pt")
    for number, source in enumerate((tmp_path / "model", tmp_path / "checkpoint" / "last.pt")):
        given = [f"data.test={data / 'test.csv'}", f"output={tmp_path / str(number)}", "data.workers=0"]
        cfg = evaluate(source, *given)
        assert (cfg.data.classes, cfg.data.stride) == (("up", "down", "still"), 2)
        assert (cfg.data.fit, cfg.eval.views) == ("crop", 1)
        run_evaluate(cfg)
        found = read_predictions(tmp_path / str(number) / "pred.csv")
        assert found.classes == ("up", "down", "still")
        np.testing.assert_allclose(found.probabilities, trained.probabilities, rtol=1e-5)
        # What is given on the command line wins, and is told.
        other = evaluate(source, *given, "data.stride=1", "eval.views=3", f"output={tmp_path / f'other {number}'}")
        assert other.eval.views == 3
        notes = scores(run_evaluate(other))["notes"]
        assert notes[0] == "data.stride is 1 here, the model was trained with 2"


@pytest.mark.parametrize("source", ["", "model", "checkpoints/last.pt"])
def test_classes_in_another_order_are_refused(data, run, tmp_path, source):
    given = [f"data.test={data / 'test.csv'}", f"output={tmp_path / 'out'}"]
    with pytest.raises(
        InputError, match="data.classes has the classes of .* in another order: .'down', 'up', 'still'."
    ):
        run_evaluate(evaluate(run / source, *given, "data.classes=[down, up, still]"))
    with pytest.raises(InputError, match="data.classes has the classes of .* under other names"):
        run_evaluate(evaluate(run / source, *given, "data.classes=[up, down, calm]"))
    assert not (tmp_path / "out").exists()


def test_a_run_from_before_names_were_kept_is_judged_by_its_settings(data, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "model" / "config.json"
    settings = json.loads(path.read_text())
    del settings["clip_settings"]
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="in another order"):
        model_to_score(evaluate(tmp_path / "run", "data.classes=[down, up, still]"))
    assert model_to_score(evaluate(tmp_path / "run"))[1].classes == ("up", "down", "still")


def test_scores_of_another_evaluation_stay(data, run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation*"))
    source = tmp_path / "run"
    first = run_evaluate(evaluate(source, "eval.save_features=true"))
    kept = (first.output / "metrics.json").read_bytes()
    (data / "five.csv").write_text("".join((data / "test.csv").read_text().splitlines(True)[:5]))
    other = run_evaluate(evaluate(source, f"data.test={data / 'five.csv'}"))
    views = run_evaluate(evaluate(source, "eval.views=1"))
    assert [result.output.name for result in (first, other, views)] == ["evaluation", "evaluation_2", "evaluation_3"]
    assert (first.output / "metrics.json").read_bytes() == kept and scores(other)["n"] == 5
    # The same again takes the place of its own scores, and of what it no longer makes.
    assert run_evaluate(evaluate(source)).output == first.output
    assert run_evaluate(evaluate(source, f"data.test={data / 'five.csv'}")).output == other.output
    assert not (first.output / "features.npz").exists()
    # So does the same in a run that was moved.
    shutil.copytree(source, tmp_path / "moved")
    assert evaluate(tmp_path / "moved").output == str(tmp_path / "moved" / "evaluation")
    assert evaluate(tmp_path / "moved" / "checkpoints" / "last.pt").output.endswith("evaluation_4")
    with pytest.raises(InputError, match="holds the scores of another evaluation: data.test .* give another folder"):
        run_evaluate(evaluate(source, f"data.test={data / 'five.csv'}", f"output={first.output}"))
    assert (first.output / "metrics.json").read_bytes() == kept


@pytest.fixture
def torn(data, tmp_path):
    """A list with a clip that cannot be read and one that is not there."""
    clip = tmp_path / "torn"
    clip.mkdir()
    (clip / "0.png").write_text("no picture")
    rows = [f"{data}/{row}" for row in (data / "test.csv").read_text().splitlines()]
    (tmp_path / "list.csv").write_text("\n".join([rows[0], "torn 1", *rows[1:], "absent 2"]) + "\n")
    return tmp_path / "list.csv"


def test_broken_clips_are_left_out_where_that_is_asked(run, torn, tmp_path, capsys):
    given = [f"data.test={torn}", "eval.batch_size=1", f"output={tmp_path / 'out'}"]
    with pytest.raises(InputError, match="absent"):
        run_evaluate(evaluate(run, *given))
    assert not (tmp_path / "out" / "metrics.json").exists()
    result = run_evaluate(evaluate(run, *given, "eval.on_error=skip"))
    trained = json.loads((run / "metrics.json").read_text())
    assert scores(result)["confusion"] == trained["confusion"]
    assert (scores(result)["n"], scores(result)["skipped"]) == (7, 2)
    assert "2 of 9 clips could not be read and are not scored" in capsys.readouterr().out
    found = read_predictions(tmp_path / "out" / "pred.csv")
    assert [(clip.name, clip.label) for clip in found.skipped] == [("torn", 1), ("absent", 2)]
    assert "list.csv:2" in found.skipped[0].reason and "no such file" in found.skipped[1].reason
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text())["skipped"] == 2
    torn.write_text("torn 1\nabsent 2\n")
    with pytest.raises(InputError, match="none of the 2 clips can be read"):
        run_evaluate(evaluate(run, *given, "eval.on_error=skip"))


def test_broken_clips_are_left_out_of_the_scores_of_a_training_run(data, torn, tmp_path):
    given = ["optim.epochs=1", "optim.warmup_epochs=0", f"data.test={torn}", "eval.on_error=skip"]
    result = run_finetune(tiny("finetune", data, tmp_path / "run", *given))
    assert (scores(result)["n"], scores(result)["skipped"]) == (7, 2)
    assert [record["skipped"] for record in records(tmp_path / "run", "eval")] == [2]
    assert len((tmp_path / "run" / "skipped.csv").read_text().splitlines()) == 3


def test_broken_clips_are_counted_over_all_processes(run, torn, tmp_path):
    settings = [f"eval.checkpoint={run}", f"data.test={torn}", "eval.on_error=skip", f"output={tmp_path / 'two'}"]
    done = in_process("evaluate", [*settings, "train.device=cpu", "eval.batch_size=2", "report=false"], processes=2)
    assert done.ok, done.text
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert (metrics["n"], metrics["skipped"]) == (7, 2)
    assert len(read_predictions(tmp_path / "two" / "pred.csv").skipped) == 2


def test_weights_that_are_not_finite_are_not_scored(data, run, tmp_path):
    model = LGIFormer.from_pretrained(run / "model")
    with torch.no_grad():
        model.get_parameter("encoder.blocks.1.ffn.fc1.weight")[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    cfg = evaluate(tmp_path / "model", f"data.test={data / 'test.csv'}", f"output={tmp_path / 'out'}")
    with pytest.raises(InputError, match=r"model' holds weights that are not finite numbers, in encoder\.blocks\.1\."):
        run_evaluate(cfg)
    assert not (tmp_path / "out").exists()


def test_pooling_refuses_other_classes_and_what_was_never_scored(data, run, tmp_path):
    def pooled(*changes):
        runs = [f"eval.runs=[{run}, {tmp_path}]", f"output={tmp_path / 'all'}"]
        run_evaluate(load_config("evaluate", None, [*runs, *changes]))

    text = (run / "pred.csv").read_text()
    (tmp_path / "pred.csv").write_text(text)
    with pytest.raises(InputError, match="data.classes is .'down', 'up', 'still'. but the runs have"):
        pooled("data.classes=[down, up, still]")
    (tmp_path / "pred.csv").write_text(text.splitlines(True)[0])
    with pytest.raises(InputError, match="holds no clips"):
        pooled()
    head, row, *_ = text.splitlines()
    name, label, said, *_ = row.split(",")
    (tmp_path / "pred.csv").write_text(f"{head}\n{name},{label},{said},nan,nan,nan\n")
    with pytest.raises(InputError, match=r"pred\.csv' line 2: nan is no probability"):
        pooled()
    with pytest.raises(InputError, match="is given twice"):
        run_evaluate(load_config("evaluate", None, [f"eval.runs=[{run}, {run}/.]", f"output={tmp_path / 'all'}"]))
    assert not (tmp_path / "all").exists()


def test_an_evaluation_that_is_refused_leaves_no_folder(data, run, tmp_path):
    (tmp_path / "bad.csv").write_text(f"{data}/clip_0 0\n{data}/clip_99 1\n")
    for name in ("bad.csv", "absent.csv"):
        cfg = evaluate(run, f"data.test={tmp_path / name}", f"output={tmp_path / 'out'}")
        with pytest.raises(InputError, match=name):
            run_evaluate(cfg)
        assert not (tmp_path / "out").exists()


def test_a_model_is_scored_on_clips_of_other_classes(data, run, tmp_path, capsys):
    (tmp_path / "map.yaml").write_text("up: motion\ndown: motion\nstill: 'no'\n")
    names = [line.split()[0] for line in (data / "test.csv").read_text().splitlines()]
    labels = ["no", "motion", "none of these", "motion", "motion", "no", "motion"]
    rows = [f"{data / name},{label}" for name, label in zip(names, labels, strict=True)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    given = [f"data.class_map={tmp_path / 'map.yaml'}", "data.classes=[motion,none of these,no]"]
    given += [f"data.test={tmp_path / 'list.csv'}", f"output={tmp_path / 'out'}", "eval.batch_size=2"]
    result = run_evaluate(evaluate(run, *given))
    found, own = read_predictions(tmp_path / "out" / "pred.csv"), read_predictions(run / "pred.csv")
    kept = [0, 1, 3, 4, 5, 6]
    assert found.classes == ("motion", "no") and found.labels.tolist() == [1, 0, 0, 0, 1, 0]
    assert found.names == [str(data / names[index]) for index in kept]
    moving = own.probabilities[kept, :2].sum(1)
    np.testing.assert_allclose(found.probabilities, np.stack([moving, 1 - moving], 1), rtol=1e-4, atol=1e-6)
    metrics = scores(result)
    assert metrics["class_map"]["dataset_classes_left_out"] == {"none of these": 1}
    assert metrics["class_map"]["file"] == str(tmp_path / "map.yaml") and metrics["n"] == 6
    assert any("no class of the model stands for none of these (1 clip)" in note for note in metrics["notes"])
    assert "probabilities are added up: up + down as motion" in capsys.readouterr().out
    # Another map makes another evaluation; what was made by one is put together with others like any run.
    (tmp_path / "other.yaml").write_text("up: motion\nstill: 'no'\n")
    with pytest.raises(InputError, match="holds the scores of another evaluation: data.class_map"):
        run_evaluate(evaluate(run, f"data.class_map={tmp_path / 'other.yaml'}", *given[1:]))
    pooled = load_config("evaluate", None, [f"eval.runs=[{tmp_path / 'out'}]", f"output={tmp_path / 'pooled'}"])
    assert scores(run_evaluate(pooled))["confusion"] == metrics["confusion"]
    dry_run(evaluate(run, *given), print)
    assert "class_map    " in capsys.readouterr().out
