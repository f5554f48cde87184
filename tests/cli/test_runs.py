from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from maedfer.cli._runs import finish
from maedfer.models import from_pretrained
from maedfer.train import RunResult, load_config
from tests.cli.helpers import FINETUNE, PRETRAIN, Call


def lists(frames: Path, *names: str) -> list[str]:
    files = {"train": "train.csv", "val": "test.csv", "test": "test.csv", "clips": "clips.txt"}
    return [f"data.{'train' if name == 'clips' else name}={frames}/{files[name]}" for name in names]


def test_pretrain_finetune_evaluate(call: Call, frames: Path, tmp_path: Path) -> None:
    pre, fine = tmp_path / "pre", tmp_path / "fine"
    done = call("pretrain", *PRETRAIN, *lists(frames, "clips"), f"output={pre}")
    assert done.status == 0, done.err
    assert type(from_pretrained(pre / "model")).__name__ == "MAEDFER"
    done = call("finetune", *FINETUNE, *lists(frames, "train", "test"), f"train.init={pre}", f"output={fine}")
    assert done.status == 0, done.err
    metrics = json.loads((fine / "metrics.json").read_text())
    assert metrics["n"] == 4 and metrics["classes"] == ["calm", "moved"]

    # The run's own settings and weights give its own scores again, into a folder of their own.
    done = call("evaluate", "--run", fine)
    assert done.status == 0, done.err
    again = json.loads((fine / "evaluation" / "metrics.json").read_text())
    assert (again["confusion"], again["war"]) == (metrics["confusion"], metrics["war"])
    assert (fine / "evaluation" / "pred.csv").read_text() == (fine / "pred.csv").read_text()
    # Another list and another checkpoint of the same run.
    done = call("evaluate", "--run", fine, "--weights", "last", f"data.test={frames}/train.csv", f"output={tmp_path}/e")
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] == 8


@pytest.mark.parametrize("name", ["trained #2", "2024", "[a, b", "@x: 4", "caf\udce9", "~"])
def test_a_run_of_any_name_is_scored_from_anywhere(
    name: str, call: Call, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name without what YAML cuts off is another run's, or none.
    shutil.copytree(trained, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    done = call("evaluate", "--run", f"runs/{name}", "--dry-run")
    assert done.status == 0, done.err
    done = call("evaluate", "--run", f"runs/{name}", "--run", f"{tmp_path}/runs/{name}", "--print-config")
    assert yaml.safe_load(done.out)["eval"]["runs"] == [f"runs/{name}", f"{tmp_path}/runs/{name}"]
    monkeypatch.setenv("HOME", str(tmp_path))
    done = call("evaluate", "--run", f"~/runs/{name}", "--print-config")
    assert yaml.safe_load(done.out)["eval"]["checkpoint"] == f"{tmp_path}/runs/{name}"


def test_output_begins_at_home(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    done = call("finetune", "dfew", "output=~/runs/exp #3", "data.root=~", "train.init=a/~", "--print-config")
    tree = yaml.safe_load(done.out)
    assert (tree["output"], tree["data"]["root"], tree["train"]["init"]) == ("/home/me/runs/exp #3", "/home/me", "a/~")


def test_several_runs_are_pooled(call: Call, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    with open(other / "pred.csv", newline="") as file:
        head, *rows = csv.reader(file)
    with open(other / "pred.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *([f"other_{row[0]}", *row[1:]] for row in rows)])
    done = call("evaluate", "--run", trained, "--run", other, f"output={tmp_path}/pooled")
    assert done.status == 0, done.err
    one, both = (json.loads((path / "metrics.json").read_text()) for path in (trained, tmp_path / "pooled"))
    assert both["n"] == 2 * one["n"]
    assert both["confusion"] == [[2 * count for count in row] for row in one["confusion"]]


def test_weights_that_a_run_did_not_keep_are_said_to_be_absent(call: Call, trained: Path, tmp_path: Path) -> None:
    status, _, err = call("evaluate", "--run", trained, "--weights", "best")
    assert (
        status == 2 and "best.pt' does not exist: a run keeps its best weights where eval.select is val or test" in err
    )
    status, _, err = call("evaluate", "--run", tmp_path, "--weights", "last")
    assert status == 2 and "last.pt' does not exist: leave --weights out" in err


def test_print_config_is_a_recipe(call: Call, tmp_path: Path) -> None:
    first = call("finetune", "dfew", "optim.lr=3e-4", "model.region_size=[2,2,10]", "--print-config")
    tree = yaml.safe_load(first.out)
    assert (tree["optim"]["lr"], tree["model"]["region_size"], tree["train"]["batch_size"]) == (3e-4, [2, 2, 10], 96)
    (tmp_path / "mine.yaml").write_text(first.out)
    assert call("finetune", tmp_path / "mine.yaml", "--print-config") == first


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["finetune", "dfew"], "data.train is not set"),
        (["finetune", "dfww"], "unknown recipe 'dfww': did you mean 'dfew'?"),
        (["finetune", "none.yaml"], "recipe file 'none.yaml' does not exist"),
        (["finetune", "voxceleb2_pretrain"], "is for 'pretrain' and cannot be used to finetune"),
        (["finetune", "dfew", "optim.lrr=1"], "unknown key 'lrr' in 'optim': did you mean 'lr'?"),
        (["finetune", "dfew", "optm.lr=1"], "unknown key 'optm': did you mean 'optim'?"),
        (["finetune", "dfew", "optim.lr=fast"], "optim.lr must be a number, got 'fast'"),
        (["finetune", "dfew", "model.region_size=[3,5,10]"], "region_size (3, 5, 10) does not divide the token grid"),
        (["finetune", "dfew", "data.classes=[a,b]", "model.num_classes=3"], "model.num_classes is 3 but data.classes"),
        (
            ["pretrain", "model.name=lgi_former_base", "data.train=a"],
            "model.name 'lgi_former_base' does not fit the task",
        ),
        (["evaluate", "--run", "nowhere"], "--run 'nowhere' is not a folder"),
        (["evaluate", "--weights", "best"], "--weights chooses a checkpoint of one run"),
        (["evaluate"], "nothing to evaluate"),
    ],
)
def test_settings_that_cannot_be(argv: list[str], message: str, call: Call) -> None:
    status, out, err = call(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("maedfer: error: ") and message in err


def test_mistakes_in_the_data_are_one_line(call: Call, frames: Path, tmp_path: Path) -> None:
    def refused(text: str, *more: str) -> str:
        (tmp_path / "list.csv").write_text(text)
        given = [f"data.train={tmp_path}/list.csv", f"data.root={frames}", f"output={tmp_path}/run"]
        status, _, err = call("finetune", *FINETUNE, *given, *more)
        assert (status, err.count("\n")) == (2, 1), err
        return err

    good = "".join(f"clip_{clip} {clip % 2}\n" for clip in range(4))
    assert "list.csv:3: the line has no label" in refused("clip_0 0\nclip_1 1\nclip_2\nclip_3 1\n")
    assert "list.csv:2: label 2 is out of range, allowed: 0 to 1" in refused("clip_0 0\nclip_1 2\n")
    assert "1 of 4 clips do not exist" in refused(good.replace("clip_1", "none"))
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "the file is empty (0 bytes)" in refused(good.replace("clip_1", f"{tmp_path}/empty.mp4"))
    # The same from a loader process, where torch wraps it in that process's trace.
    assert "the file is empty (0 bytes)" in refused(good.replace("clip_1", f"{tmp_path}/empty.mp4"), "data.workers=1")
    (tmp_path / "corrupt.mp4").write_bytes(bytes(range(256)) * 8)
    assert "corrupt.mp4" in refused(good.replace("clip_1", f"{tmp_path}/corrupt.mp4"))
    (tmp_path / "bare").mkdir()
    assert "bare" in refused(good.replace("clip_1", f"{tmp_path}/bare"))
    assert "list.csv" in refused("")


def test_weights_of_another_architecture(call: Call, frames: Path, trained: Path, tmp_path: Path) -> None:
    other = [item for item in FINETUNE if "embed_dim" not in item]
    given = [*lists(frames, "train"), f"train.init={trained}", "model.embed_dim=32", f"output={tmp_path}/run"]
    status, _, err = call("finetune", *other, *given)
    assert (status, err.count("\n")) == (2, 1) and "embed_dim" in err


def test_report_is_written_after_the_run_and_its_failure_does_not_lose_it(
    call: Call, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maedfer import report

    given = [*FINETUNE[:-1], *lists(frames, "train", "test"), "optim.epochs=1", "optim.warmup_epochs=0"]
    done = call("finetune", *given, f"output={tmp_path}/a")
    assert done.status == 0 and done.out.endswith(f"report: {tmp_path}/a/report.html\n")
    assert (tmp_path / "a" / "report.html").is_file()
    # Of several processes, the main one writes it.
    (tmp_path / "a" / "report.html").unlink()
    with monkeypatch.context() as patch:
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
            patch.setenv(name, value)
        assert finish(load_config("finetune", tmp_path / "a" / "config.yaml"), RunResult(tmp_path / "a")) == 0
    assert not (tmp_path / "a" / "report.html").exists()

    def fail(run_dir: Path) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "write_report", fail)
    done = call("finetune", *given, f"output={tmp_path}/b")
    assert done.status == 0 and "the report could not be written (RuntimeError: no fonts)" in done.out
    assert (tmp_path / "b" / "metrics.json").is_file()
