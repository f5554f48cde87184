"""What hooks are told, of runs that end, go on, and fail; with stand-ins for packages that are not installed.

The stand-ins have the signatures of wandb 0.31 and mlflow 3.17 as far as they are called.
"""

import json
import sys
import types
from typing import Any, ClassVar

import pytest

from maedfer.errors import InputError, MissingDependencyError
from maedfer.train import run_finetune, run_pretrain
from maedfer.train.hooks import Hooks, Record, check_names, course, find_hook, open_hooks
from maedfer.train.log import RunLog
from maedfer.train.run_folder import hooks_of_run
from tests.train.runs import Killed, kill_before, records, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"), count=8)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_hook_is_told_what_the_log_holds_between_start_and_end(data, tmp_path):
    told: list[Record] = []
    result = run_finetune(tiny("finetune", data, tmp_path / "run"), hooks=[told.append])
    first, *between, last = told
    assert between == lines(tmp_path / "run" / "log.jsonl")
    assert {record["kind"] for record in between} >= {"step", "epoch", "eval"}
    assert (first["kind"], first["step"], first["task"], first["total"]) == ("start", 0, "finetune", result.steps)
    assert first["output"] == str(tmp_path / "run") and first["config"]["optim"]["epochs"] == 3
    assert result.metrics is not None
    assert {key: last[key] for key in ("kind", "step", "outcome")} == {
        "kind": "end",
        "step": result.steps,
        "outcome": "complete",
    }
    assert last["scores"]["split"] == "test" and last["scores"]["uar"] == result.metrics["uar"]


def test_a_hook_that_raises_is_told_no_more_and_changes_nothing(data, tmp_path, capsys):
    told: list[Record] = []
    spoiled = []

    def fails(record):
        record["kind"] = "spoiled"
        spoiled.append(record)
        if record.get("step") == 3:
            raise RuntimeError("no route\nto host")

    run_pretrain(tiny("pretrain", data, tmp_path / "run"), hooks=[fails, told.append])
    run_pretrain(tiny("pretrain", data, tmp_path / "alone"))
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "alone")]
    assert files[0] == files[1]
    out = capsys.readouterr().out
    sentence = next(line for line in out.splitlines() if line.startswith("the run goes on without"))
    assert sentence.endswith("fails, which failed with record 'step' at step 3: RuntimeError: no route to host")
    # It is in the log, and others are told of it.
    notes = records(tmp_path / "run", "note")
    assert [(note["text"], note["step"]) for note in notes] == [(sentence, 3)]
    assert [record for record in told if record["kind"] == "note"] == notes
    assert told[-1]["kind"] == "end" and not any(record["kind"] == "spoiled" for record in told)
    missed = len(told) - len(spoiled) + 1
    assert f"fails was not told {missed} records of this run: log.jsonl has them" in out


def test_a_run_that_stops_says_so_and_one_that_goes_on_begins_where_it_does(data, tmp_path, monkeypatch):
    told: list[Record] = []
    cfg = tiny("finetune", data, tmp_path / "run")
    kill_before(monkeypatch, 4)
    with pytest.raises(Killed):
        run_finetune(cfg, hooks=[told.append])
    assert (told[-1]["kind"], told[-1]["outcome"], told[-1]["scores"]) == ("end", "stopped", {})
    told.clear()
    run_finetune(cfg, hooks=[told.append])
    # The last checkpoint is that of the second epoch.
    assert (told[0]["kind"], told[0]["step"]) == ("start", 4) and told[1]["step"] == 5


def test_only_the_main_process_tells(data, tmp_path):
    told: list[Record] = []
    log = RunLog(tmp_path, main=False, hooks=Hooks({"told": told.append}))
    log.tell("start", step=0)
    log.record("step", step=1)
    log.close()
    cfg = tiny("pretrain", data, tmp_path / "run", "train.log_to=[absent_hooks:tell]")
    other = types.SimpleNamespace(on_main=lambda function: None)
    assert hooks_of_run(cfg, other).tell({"kind": "start"}) == told == []  # type: ignore[arg-type]


def test_functions_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_hooks.py").write_text(
        "import json\nclass Teller:\n    def tell(self, record): pass\nteller = Teller()\nnumber = 3\n"
    )
    (tmp_path / "broken_hooks.py").write_text("import absent_module_of_theirs\n")
    assert find_hook("own_hooks:teller.tell").__name__ == "tell"
    for name, sentence in {
        "own_hooks:tall": "'own_hooks' has no 'tall'",
        "own_hooks:Teller": "is a class: name a function",
        "own_hooks:number": "is a int: name a function",
        "absent_hooks:tell": "there is no module 'absent_hooks', neither in",
        "broken_hooks:tell": "ModuleNotFoundError: No module named 'absent_module_of_theirs'",
        "tensorbored": "give wandb, mlflow, or a function of your own as module:function",
        "my-hooks:tell": "give wandb, mlflow",
        ":tell": "give wandb, mlflow",
    }.items():
        with pytest.raises(InputError, match=r"train\.log_to") as raised:
            find_hook(name)
        assert sentence in str(raised.value) and repr(name) in str(raised.value)
    with pytest.raises(InputError, match="'wandb' twice"):
        check_names(["wandb", "a:b", "wandb"])
    with pytest.raises(InputError, match="hooks must be functions of one record"):
        open_hooks([], [3])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named_before_anything_is_written(data, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    cfg = tiny("pretrain", data, tmp_path / "run", f"train.log_to=[{name}]")
    with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
        run_pretrain(cfg)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


class FakeWandB(types.ModuleType):
    """What is called of wandb."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.ended, self.result = [], [], [], {}

    def init(self, *, project=None, dir=None, id=None, name=None, config=None, resume=None):
        self.begun.append({"project": project, "dir": dir, "id": id, "name": name, "resume": resume})
        self.config = config
        module = self

        class Run:
            id = f"run{len(module.begun)}" if self.begun[-1]["id"] is None else self.begun[-1]["id"]
            summary = module.result

            def log(self, data, step=None, commit=None):
                module.logged.append((step, data))

            def finish(self, exit_code=None):
                module.ended.append(exit_code)

        return Run()


def test_weights_and_biases_has_one_run_for_a_run_that_was_resumed(data, tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    cfg = tiny("finetune", data, tmp_path / "run", "train.log_to=[wandb]")
    kill_before(monkeypatch, 4)
    with pytest.raises(Killed):
        run_finetune(cfg)
    monkeypatch.setenv("WANDB_PROJECT", "faces")
    result = run_finetune(cfg)
    common = {"dir": str(tmp_path / "run"), "name": "run"}
    assert fake.begun == [
        {"project": "maedfer", "id": None, "resume": None, **common},
        {"project": "faces", "id": "run1", "resume": "allow", **common},
    ]
    assert fake.ended == [1, 0] and fake.config["train"]["batch_size"] == 4
    steps = [step for step, _ in fake.logged]
    assert steps == sorted(steps) and set(steps) == set(range(1, result.steps + 1))
    last = {name: value for step, data in fake.logged if step == result.steps for name, value in data.items()}
    (step,) = [record for record in records(tmp_path / "run", "step") if record["step"] == result.steps]
    assert last["step/loss"] == step["loss"] and last["step/lr"] == step["lr"]
    assert result.metrics is not None and last["test/uar"] == result.metrics["uar"] == fake.result["result/uar"]


class FakeClient:
    """What is called of mlflow.MlflowClient; everything that it was told is in `runs`."""

    runs: ClassVar[dict[str, Any]] = {}

    def __init__(self, tracking_uri=None, registry_uri=None):
        pass

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id="7") if self.runs else None

    def create_experiment(self, name, artifact_location=None, tags=None):
        assert name == "maedfer"
        return "7"

    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        assert experiment_id == "7"
        run_id = f"id{len(self.runs)}"
        self.runs[run_id] = {"name": run_name, "status": ["RUNNING"], "metrics": [], "params": {}}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, status=None, name=None):
        self.runs[run_id]["status"].append(status)

    def set_terminated(self, run_id, status=None, end_time=None):
        self.runs[run_id]["status"].append(status)

    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        assert len(params) <= 100
        assert all(isinstance(metric.value, (int, float)) for metric in metrics)
        self.runs[run_id]["metrics"] += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.runs[run_id]["params"] |= {param.key: param.value for param in params}


def test_mlflow_has_one_run_for_a_run_that_was_resumed(data, tmp_path, monkeypatch):
    def entity(*names):
        return lambda *values: types.SimpleNamespace(**dict(zip(names, values, strict=True)))

    fake = types.ModuleType("mlflow")
    monkeypatch.setattr(FakeClient, "runs", {})
    fake.MlflowClient = FakeClient  # type: ignore[attr-defined]
    fake.entities = types.SimpleNamespace(  # type: ignore[attr-defined]
        Metric=entity("key", "value", "timestamp", "step"), Param=entity("key", "value")
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    other = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", other)
    cfg = tiny("finetune", data, tmp_path / "run", "train.log_to=[wandb, mlflow]")
    kill_before(monkeypatch, 4)
    with pytest.raises(Killed):
        run_finetune(cfg)
    result = run_finetune(cfg)
    # Beside it, Weights & Biases goes on as well.
    assert [begun["id"] for begun in other.begun] == [None, "run1"]
    assert json.loads((tmp_path / "run" / "logged_to.json").read_text()) == {"wandb": "run1", "mlflow": "id0"}
    # A new run in the same folder is another one.
    RunLog(tmp_path / "run", main=True).close()
    assert not (tmp_path / "run" / "logged_to.json").exists()
    (run,) = FakeClient.runs.values()
    assert run["name"] == "run" and run["status"] == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]
    assert run["params"]["optim.epochs"] == "3" and run["params"]["model.clip_size"] == "[4, 16, 16]"
    assert result.metrics is not None
    assert ("result/uar", result.metrics["uar"], result.steps) in run["metrics"]
    assert {step for name, _, step in run["metrics"] if name == "step/loss"} == set(range(1, result.steps + 1))


def tensorboard(folder):
    hooks = open_hooks([], tensorboard=True)
    return hooks, RunLog(folder, main=True, hooks=hooks)


def test_tensorboard_has_the_numbers(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, log = tensorboard(tmp_path)
    log.tell("start", step=0, output=str(tmp_path))
    log.record("step", step=3, loss=0.5, mfu=None)
    log.record("eval", step=3, split="test", uar=0.25)
    log.close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(found.Tags()["scalars"]) == ["step/loss", "test/uar"]
    assert (found.Scalars("step/loss")[0].step, found.Scalars("step/loss")[0].value) == (3, 0.5)


def test_a_folder_that_tensorboard_cannot_write_to_is_told(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    _, log = tensorboard(folder)
    log.tell("start", step=0, output=str(folder))
    log.record("step", step=1, loss=0.5)
    log.close()
    assert "without tensorboard, which failed with record 'start': InputError: it cannot write to a folder whose " in (
        capsys.readouterr().out
    )
    assert '"loss": 0.5' in (folder / "log.jsonl").read_text()


def test_numbers_of_a_course():
    assert course({"kind": "step", "step": 2, "loss": 0.5, "mfu": None, "text": "x", "on": True}) == {"step/loss": 0.5}
    assert course({"kind": "eval", "step": 2, "epoch": 1, "split": "val", "uar": 0.1}) == {
        "val/epoch": 1,
        "val/uar": 0.1,
    }
    assert course({"kind": "note", "step": 2, "text": "x"}) == course({"kind": "end", "step": 9, "scores": {}}) == {}
    assert Hooks({}).tell({"kind": "step"}) == []
