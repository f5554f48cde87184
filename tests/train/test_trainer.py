import json
import random
import re
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo import lookup_backend

from maedfer.errors import InputError
from maedfer.train import processes, run_finetune, run_pretrain
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.config import for_processes
from maedfer.train.precision import Precision
from maedfer.train.tasks import FinetuneTask
from maedfer.train.trainer import Trainer
from tests.train.runs import Killed, in_process, kill_before, overrides, records, scores, tiny, write_clips

# Everything that draws numbers or remembers something, and steps that end neither with the log nor with the epoch.
EVERYTHING = """train.ema=0.9 train.accumulate=2 train.batch_size=2 train.save_steps=1 train.log_every=2
model.drop_path=0.2 optim.clip_grad=1.0 eval.select=test data.repeats=2""".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def weights(output, file="model/model.safetensors"):
    return load_file(output / file)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_killed_run_ends_with_the_same_weights(data, tmp_path):
    """SIGKILL at a random moment: before a step, in the midst of writing a checkpoint, or while clips are scored."""
    moment = random.Random().randrange(4, 24)
    settings = [*overrides("finetune", data, tmp_path / "killed"), *EVERYTHING]
    before = f"""
import os, signal
from maedfer.train import checkpoint
from maedfer.train.tasks import FinetuneTask
from maedfer.train.trainer import Trainer
passed = []
def at(place, name):
    original = getattr(place, name)
    def killed(*args):
        passed.append(name)
        if len(passed) == {moment}:
            if name == "save":
                args[1].write(b"half of it")
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)
    setattr(place, name, killed)
at(Trainer, "_step")
at(checkpoint.torch, "save")
at(FinetuneTask, "predictions")
"""
    assert in_process("finetune", settings, before).codes == [-signal.SIGKILL]
    assert not (tmp_path / "killed" / "model").exists()
    resumed = in_process("finetune", settings)
    assert resumed.ok, resumed.text
    assert "last.pt, step " in resumed.text
    whole = in_process("finetune", [*settings, f"output={tmp_path / 'whole'}"])
    assert whole.ok, whole.text
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole")), f"killed at moment {moment}"
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_a_run_killed_between_any_two_things_that_end_an_epoch_repeats_the_whole_one(data, tmp_path, monkeypatch):
    changes = ["eval.select=test", "optim.epochs=2", "train.save_every=1", "train.ema=0.9", "model.drop_path=0.2"]
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    moment, passed = 0, []

    def at(place, name):
        original = getattr(place, name)

        def killed(*args, **options):
            for action in (lambda: None, lambda: original(*args, **options)):
                result = action()
                passed.append(name)
                if len(passed) == moment:
                    raise Killed
            return result

        monkeypatch.setattr(place, name, killed)

    at(Trainer, "save")
    at(FinetuneTask, "score")
    # Saved; scored; the best one, the epoch's own one and the last one saved: each before and after.
    for moment in (*range(1, 9), 4):  # noqa: B007
        passed.clear()
        with pytest.raises(Killed):
            run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    moment = 0
    assert run_finetune(tiny("finetune", data, tmp_path / "cut", *changes)).metrics == whole.metrics
    files = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert files == ["best.pt", "epoch_001.pt", "epoch_002.pt", "last.pt", "previous.pt"]
    for file in files:
        ends = [load_checkpoint(tmp_path / name / "checkpoints" / file) for name in ("whole", "cut")]
        assert same(ends[0]["model"], ends[1]["model"]) and ends[0]["position"] == ends[1]["position"], file
    for kind in ("epoch", "eval"):
        rows = [[(r["step"], r.get("loss")) for r in records(tmp_path / name, kind)] for name in ("whole", "cut")]
        assert rows[0] == rows[1], kind


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_interrupted_run_repeats_the_uninterrupted_one(task, data, tmp_path, monkeypatch):
    run = {"pretrain": run_pretrain, "finetune": run_finetune}[task]
    changes = list(EVERYTHING)
    if task == "pretrain":
        changes = [line.replace("model.drop", "model.encoder.drop") for line in changes if "eval." not in line]
        changes.append("model.decoder_keep=0.5")
    whole = run(tiny(task, data, tmp_path / "whole", *changes))
    assert whole.steps == 9
    # A checkpoint every second step: some kills lose a step. Steps 3 and 6 end an epoch.
    changes.append("train.save_steps=2")
    for step in (1, 3, 4, 5, 6, 8):
        kill_before(monkeypatch, step)
        with pytest.raises(Killed):
            run(tiny(task, data, tmp_path / "cut", *changes))
    resumed = run(tiny(task, data, tmp_path / "cut", *changes))
    assert resumed.loss == whole.loss
    assert resumed.metrics == whole.metrics
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    ends = [load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "cut")]
    assert same(ends[0]["ema"], ends[1]["ema"])
    assert ends[0]["position"] == ends[1]["position"]
    for left, right in zip(*(end["optimizer"]["state"].values() for end in ends), strict=True):
        assert same(left, right)
    for kind, keys in {
        "step": ("step", "loss", "lr"),
        "epoch": ("step", "loss"),
        "eval": ("step", "uar", "loss"),
    }.items():
        rows = [[[r[key] for key in keys] for r in records(tmp_path / name, kind)] for name in ("whole", "cut")]
        assert rows[0] == rows[1], kind


def test_loader_workers_change_nothing(data, tmp_path):
    for name, workers in (("none", 0), ("some", 2)):
        run_finetune(tiny("finetune", data, tmp_path / name, "optim.epochs=2", f"data.workers={workers}"))
    assert same(weights(tmp_path / "none"), weights(tmp_path / "some"))


def test_seed_decides(data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_finetune(tiny("finetune", data, tmp_path / name, f"seed={seed}", "optim.epochs=1"))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_accumulated_passes_give_the_step_of_one_large_batch(data, tmp_path):
    plain = ["augment.mixup=0", "augment.cutmix=0", "model.drop_path=0"]
    run_finetune(tiny("finetune", data, tmp_path / "one", *plain, "train.batch_size=4"))
    run_finetune(tiny("finetune", data, tmp_path / "two", *plain, "train.batch_size=2", "train.accumulate=2"))
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
    losses = [[r["loss"] for r in records(tmp_path / name, "step")] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_compiled_runs_have_equal_losses(task, data, tmp_path, monkeypatch):
    run, given, compile_ = {"pretrain": run_pretrain, "finetune": run_finetune}[task], [], torch.nn.Module.compile

    def whole(self, **options):
        given.append(options)
        # One graph or an error. Inductor needs a compiler of C++; which code it writes is not the trainer's doing.
        compile_(self, backend=without_draws, fullgraph=True)

    def without_draws(graph, inputs):
        # Inductor draws other numbers than PyTorch does.
        assert not [node for node in graph.graph.nodes if re.search("rand|bernoulli|dropout", str(node.target))]
        return lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch.nn.Module, "compile", whole)
    losses = []
    for compiled in ("false", "true"):
        cfg = tiny(task, data, tmp_path / compiled, f"train.compile={compiled}", "eval.every=0", "model.drop_path=0.5")
        run(cfg)
        losses.append([record["loss"] for record in records(tmp_path / compiled, "step")])
    assert given == [{"mode": None}] and len(losses[0]) > 5
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("task", "tune"),
    [("pretrain", []), ("finetune", []), ("finetune", ["train.lora_rank=2"])],
    ids=["pretrain", "finetune", "lora"],
)
def test_compiled_runs_and_cuda_graphs_have_equal_losses_on_a_gpu(task, tune, data, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    run, losses, shares = {"pretrain": run_pretrain, "finetune": run_finetune}[task], [], []
    eager, compiled = ["train.compile=false"], ["train.cuda_graphs=false"]
    for number, changes in enumerate((eager, compiled, [])):
        output = tmp_path / str(number)
        common = ["train.device=cuda", "train.precision=fp32", "model.drop_path=0.5", "eval.batch_size=2", *tune]
        result = run(tiny(task, data, output, *common, *changes))
        losses.append([record["loss"] for record in records(output, "step")])
        shares.append([] if result.metrics is None else [result.metrics["loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and losses[2] == pytest.approx(losses[0], rel=1e-3)
    assert shares[1] == pytest.approx(shares[0], rel=1e-2) and shares[2] == pytest.approx(shares[0], rel=1e-2)


def test_cuda_graphs_are_refused_where_they_cannot_be(data, tmp_path):
    with pytest.raises(InputError, match="leave train.compile=false out"):
        tiny("finetune", data, tmp_path, "train.cuda_graphs=true", "train.compile=false")
    with pytest.raises(InputError, match="train.cuda_graphs and train.accumulate exclude each other"):
        tiny("finetune", data, tmp_path, "train.cuda_graphs=true", "train.accumulate=2")
    with pytest.raises(InputError, match="train.accumulate .2. follows from train.global_batch .8. and the number"):
        tiny("finetune", data, tmp_path, "train.global_batch=8", "train.accumulate=2")
    graphs = tiny("finetune", data, tmp_path, "train.cuda_graphs=true", "train.global_batch=8")
    with pytest.raises(InputError, match="cuda_graphs needs one pass a step, and train.global_batch .8. takes 2 of"):
        for_processes(graphs, 1)
    assert for_processes(graphs, 2).train.accumulate == 1
    with pytest.raises(InputError, match="train.cuda_graphs needs a CUDA device"):
        run_finetune(tiny("finetune", data, tmp_path, "train.cuda_graphs=true"))


def test_training_learns(data, tmp_path):
    changes = "optim.epochs=40 optim.lr=1e-2 optim.layer_decay=1 eval.every=0 model.drop_path=0".split()
    gentle = "augment.mixup=0 augment.cutmix=0 augment.smoothing=0 augment.randaugment= augment.scale=[1,1]".split()
    gentle += "augment.ratio=[1,1] augment.erase=0 train.log_every=40".split()
    result = run_finetune(tiny("finetune", data, tmp_path / "run", *changes, *gentle))
    # Chance is 1.1; a single frame does not tell the classes apart.
    assert result.loss is not None and result.loss < 0.6
    assert scores(result)["war"] > 0.6


def test_pretraining_lowers_both_parts_of_the_loss_and_keeps_pictures(data, tmp_path):
    import numpy as np

    output = tmp_path / "run"
    run_pretrain(tiny("pretrain", data, output, "optim.epochs=30"))
    steps = records(output, "step")
    for part in ("loss", "appearance", "motion"):
        assert steps[-1][part] < steps[0][part]
    assert steps[0]["loss"] == pytest.approx((steps[0]["appearance"] + steps[0]["motion"]) / 2, abs=1e-5)
    for name in ("reconstructions_start.npz", "reconstructions.npz"):
        with np.load(output / name) as pictures:
            assert set(pictures.files) == {"masked", "appearance", "motion", "full", "original"}
            for array in pictures.values():
                assert array.shape == (4, 4, 16, 16, 3) and array.dtype == np.float16
                assert array.min() >= 0 and array.max() <= 1


def test_run_folder_holds_what_the_run_was(data, tmp_path):
    output = tmp_path / "run"
    run_finetune(tiny("finetune", data, output, "train.save_every=2", "eval.save_features=true"))
    kept = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert kept == ["epoch_002.pt", "last.pt", "previous.pt"]
    facts = json.loads((output / "environment.json").read_text())
    assert facts["outcome"] == "complete" and facts["ended"] >= facts["started"]
    assert facts["versions"]["torch"] == torch.__version__
    step = records(output, "step")[-1]
    assert step["step"] == 9 and step["epoch"] == 3
    assert {"loss", "lr", "clips_per_s", "data_wait", "mfu", "memory_mb", "seconds_left"} <= step.keys()
    assert step["mfu"] is None and step["memory_mb"] > 1 and 0 <= step["data_wait"] <= 1
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["n"] == 7 and metrics["classes"] == ["up", "down", "still"] and metrics["select"] == "last"
    assert len((output / "pred.csv").read_text().splitlines()) == 8
    assert [r["epoch"] for r in records(output, "eval")] == [1, 2, 3]


def test_finished_run_is_not_trained_again(data, tmp_path):
    cfg = tiny("finetune", data, tmp_path / "run")
    first = run_finetune(cfg)
    before = (tmp_path / "run" / "log.jsonl").read_text()
    second = run_finetune(cfg)
    assert (second.metrics, second.steps, second.loss) == (first.metrics, first.steps, first.loss)
    assert (tmp_path / "run" / "log.jsonl").read_text() == before
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["earlier"]) == 1


def test_run_with_other_settings_is_refused(data, tmp_path):
    output = tmp_path / "run"
    run_finetune(tiny("finetune", data, output, "optim.epochs=1"))
    with pytest.raises(InputError, match=r"optim\.epochs \(1 there, 2 here\)") as error:
        run_finetune(tiny("finetune", data, output, "optim.epochs=2"))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="is not empty"):
        run_finetune(tiny("finetune", data, output, "train.resume=none"))
    with pytest.raises(InputError, match=r"model\.depth \(2 there, 3 here\)"):
        last = output / "checkpoints" / "last.pt"
        run_finetune(
            tiny("finetune", data, tmp_path / "new", f"train.resume={last}", "optim.epochs=1", "model.depth=3")
        )
    with pytest.raises(InputError, match=r"does not exist"):
        run_finetune(tiny("finetune", data, tmp_path / "other", "train.resume=absent.pt"))
    with pytest.raises(InputError, match="4 clips a step, here they are 2"):
        run_finetune(tiny("finetune", data, output, "optim.epochs=1", "train.batch_size=2"))


def test_other_training_clips_are_noticed(tmp_path):
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1")
    metrics = run_finetune(cfg).metrics
    # The same clips at another place are no others.
    moved = data.rename(tmp_path / "moved")
    assert run_finetune(tiny("finetune", moved, tmp_path / "run", "optim.epochs=1")).metrics == metrics
    file = moved / "train.csv"
    file.write_text(file.read_text().replace("clip_0 0", "clip_0 2"))
    with pytest.raises(InputError, match=r"data\.train has changed"):
        run_finetune(tiny("finetune", moved, tmp_path / "run", "optim.epochs=1"))


def test_epoch_that_could_not_be_scored_is_not_trained_again(tmp_path, capsys):
    """A broken clip in the test list: its repair goes on, and gives what a run with the repaired list gives."""
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=2", "eval.select=test", "train.save_every=1")
    broken = {frame: frame.read_bytes() for frame in (data / "clip_6").iterdir()}
    lines = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("".join(f"{line}\n" for line in lines if not line.startswith("clip_6 ")))
    for frame in broken:
        frame.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"test\.csv:7"):
        run_finetune(cfg)
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert (last["position"]["epoch"], last["position"]["ending"], last["position"]["best"]) == (1, True, None)
    assert records(tmp_path / "run", "eval") == []
    capsys.readouterr()

    # The clip is mended under its own name, or its line is taken out of the list.
    for frame, content in broken.items():
        frame.write_bytes(content)
    resumed = run_finetune(cfg)
    assert "epoch 1/2" not in capsys.readouterr().out
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", "optim.epochs=2", "eval.select=test"))
    assert resumed.metrics == whole.metrics
    assert [record["epoch"] for record in records(tmp_path / "run", "eval")] == [1, 2]
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_list_of_clips_to_score_may_change_and_it_is_told(tmp_path, capsys):
    data = write_clips(tmp_path / "clips", 8)
    changes = ("eval.select=test", "optim.epochs=2")
    cfg = tiny("finetune", data, tmp_path / "run", *changes)
    with pytest.MonkeyPatch.context() as patch:
        kill_before(patch, 3)
        with pytest.raises(Killed):
            run_finetune(cfg)
    file = data / "test.csv"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:-1]))
    result = run_finetune(cfg)
    note = "data.test changed after epoch 1 (7 clips, "
    assert note in capsys.readouterr().out
    assert scores(result)["n"] == 6
    (told,) = [text for text in scores(result)["notes"] if text.startswith(note)]
    assert told.endswith("; the best epoch so far, 1, was chosen on the former clips")


def test_selection_on_the_test_set_is_told(data, tmp_path, capsys):
    result = run_finetune(tiny("finetune", data, tmp_path / "run", "eval.select=test", "eval.metric=uar"))
    assert "the best epoch is chosen on the test set (val = test" in capsys.readouterr().out
    assert any("val = test" in note for note in scores(result)["notes"])
    assert "val = test" in records(tmp_path / "run", "note")[0]["text"]
    scored = records(tmp_path / "run", "eval")
    best = max(scored, key=lambda record: (record["uar"], -record["epoch"]))
    assert scores(result)["select"] == "test"
    assert (scores(result)["epoch"], scores(result)["uar"]) == (best["epoch"], best["uar"])
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")["model"]
    assert all(torch.equal(value, saved[name]) for name, value in weights(tmp_path / "run").items())


def test_last_epoch_is_the_result_by_default(data, tmp_path):
    result = run_finetune(tiny("finetune", data, tmp_path / "run", "optim.epochs=2"))
    (note,) = scores(result)["notes"]
    assert scores(result)["epoch"] == 2 and note.startswith("all 7 clips of data.test are in data.train too")
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    assert all(torch.equal(value, last[name]) for name, value in weights(tmp_path / "run").items())


def test_pretrained_weights_are_handed_over_and_told(data, tmp_path, capsys):
    run_pretrain(tiny("pretrain", data, tmp_path / "pre", "optim.epochs=1"))
    pretrained = weights(tmp_path / "pre")
    frozen = ["train.freeze_blocks=2", "optim.epochs=1"]
    for number, source in enumerate(
        (tmp_path / "pre", tmp_path / "pre" / "model", tmp_path / "pre/checkpoints/last.pt")
    ):
        output = tmp_path / f"fine_{number}"
        run_finetune(tiny("finetune", data, output, *frozen, f"train.init={source}"))
        tuned = weights(output)
        encoder = [name for name in tuned if name.startswith("encoder.")]
        # All blocks and the embedding are frozen.
        assert encoder and all(torch.equal(tuned[name], pretrained[name]) for name in encoder)
        report = records(output, "init")[0]
        assert set(report["used"]) == set(encoder)
        assert set(report["fresh"]) == set(tuned) - set(encoder)
    assert "left as initialised: head" in capsys.readouterr().out
    with pytest.raises(InputError, match="another architecture"):
        run_finetune(tiny("finetune", data, tmp_path / "x", f"train.init={tmp_path / 'pre'}", "model.depth=3"))
    with pytest.raises(InputError, match="neither a saved model"):
        run_finetune(tiny("finetune", data, tmp_path / "y", f"train.init={data}"))
    with pytest.raises(InputError, match="does not exist"):
        run_finetune(tiny("finetune", data, tmp_path / "z", "train.init=absent.pth"))


@pytest.mark.parametrize("broken_from", [1000, 5])
def test_overflow_in_float16_skips_steps_but_not_for_ever(data, tmp_path, monkeypatch, broken_from):
    """The loss scaler on the CPU: a step that overflows is left out; a run that only overflows is stopped."""
    monkeypatch.setattr(processes, "precision_of", lambda cfg, device: Precision("fp16"))
    original = FinetuneTask.losses
    calls = []

    def overflow(model, batch):
        calls.append(1)
        losses = original(model, batch)
        return {"loss": losses["loss"] * (float("inf") if len(calls) in (3, 4) or len(calls) >= broken_from else 1)}

    monkeypatch.setattr(FinetuneTask, "losses", staticmethod(overflow))
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=30", "eval.every=0", "optim.clip_grad=1")
    if broken_from < 1000:
        # In float16 the gradient of step 2 overflows by itself.
        message = "the loss is inf at step 51 .* stops: 50 steps in a row overflowed; .*precision=fp32$"
        with pytest.raises(InputError, match=message):
            run_finetune(cfg)
        return
    result = run_finetune(cfg)
    steps = records(tmp_path / "run", "step")
    assert ["loss" in step for step in steps[:6]] == [True, True, False, False, True, True]
    assert steps[-1]["loss_scale"] < 65536
    assert result.loss is not None and result.loss < 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_weights_only_checkpoint_cannot_be_resumed(data, tmp_path):
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1", "eval.select=test")
    run_finetune(cfg)
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    with pytest.raises(InputError, match="holds weights only"):
        run_finetune(
            tiny("finetune", data, tmp_path / "new", "optim.epochs=1", "eval.select=test", f"train.resume={best}")
        )


def test_max_steps_ends_the_run_inside_an_epoch(data, tmp_path):
    result = run_finetune(tiny("finetune", data, tmp_path / "run", "train.max_steps=5"))
    assert result.steps == 5
    assert [r["step"] for r in records(tmp_path / "run", "eval")] == [3, 5]
    assert records(tmp_path / "run", "step")[-1]["lr"] < 1e-2


def test_broken_clips_are_replaced_and_counted(tmp_path, capsys):
    data = write_clips(tmp_path / "clips", 8)
    for frame in (data / "clip_7").iterdir():
        frame.write_bytes(b"not a picture")
    skip = ["data.on_error=skip", "data.max_broken=0.125"]
    run_finetune(tiny("finetune", data, tmp_path / "run", *skip, "optim.epochs=1"))
    assert records(tmp_path / "run", "epoch")[0]["skipped"] == 1
    assert "epoch 1: 1 clip could not be read and was replaced by others" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"train\.csv:8: .*clip_7") as error:
        run_finetune(tiny("finetune", data, tmp_path / "strict", "optim.epochs=1"))
    assert "\n" not in str(error.value)


def test_too_few_clips_for_a_batch(data, tmp_path):
    with pytest.raises(InputError, match="fewer than one batch"):
        run_finetune(tiny("finetune", data, tmp_path / "run", "train.batch_size=15"))
    with pytest.raises(InputError, match="do not fill one batch of 16"):
        run_finetune(tiny("finetune", data, tmp_path / "run", "train.batch_size=4", "train.accumulate=4"))


def test_deterministic_mode_is_on_during_the_run_only(data, tmp_path, monkeypatch):
    seen = []
    original = Trainer._step

    def look(self, batches):
        seen.append(torch.are_deterministic_algorithms_enabled())
        original(self, batches)

    monkeypatch.setattr(Trainer, "_step", look)
    run_pretrain(tiny("pretrain", data, tmp_path / "run", "optim.epochs=1", "train.deterministic=true"))
    assert seen and all(seen)
    assert not torch.are_deterministic_algorithms_enabled()
