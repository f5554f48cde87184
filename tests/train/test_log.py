import json
import sys

import pytest

from maedfer.train.log import RunLog, truncate_log


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_flushed_lines_of_json(tmp_path):
    log = RunLog(tmp_path, main=True)
    log.record("step", step=1, loss=float("nan"), lr=1e-3, mfu=None)
    assert lines(tmp_path / "log.jsonl") == [{"kind": "step", "step": 1, "loss": None, "lr": 1e-3, "mfu": None}]
    log.close()


def test_records_after_the_resumed_step_go_and_torn_lines_too(tmp_path):
    path = tmp_path / "log.jsonl"
    records = [{"kind": "init", "source": "x"}, *({"kind": "step", "step": step} for step in (1, 2, 3))]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "st')
    log = RunLog(tmp_path, main=True, step=2)
    log.record("step", step=3)
    log.close()
    assert [record.get("step") for record in lines(path)] == [None, 1, 2, 3]
    truncate_log(path, 1)
    assert [record.get("step") for record in lines(path)] == [None, 1]
    RunLog(tmp_path, main=True).close()
    assert lines(path) == []


def test_other_processes_say_nothing(tmp_path, capsys):
    log = RunLog(tmp_path, main=False, total=3)
    log.record("step", step=1)
    log.say("hello")
    log.progress(1, "line", "short")
    log.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_plain_lines_without_a_terminal_and_a_bar_with_one(tmp_path, capsys, monkeypatch):
    log = RunLog(tmp_path, main=True, total=4)
    log.progress(1, "step 1 of 4", "short")
    log.close()
    assert capsys.readouterr().out == "step 1 of 4\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log = RunLog(tmp_path, main=True, total=4)
    log.progress(1, "step 1 of 4", "loss 0.5")
    log.progress(4, "step 4 of 4", "loss 0.4")
    log.close()
    shown = capsys.readouterr()
    assert "step 1 of 4" not in shown.out and "4/4" in shown.err and "loss 0.4" in shown.err


def test_tensorboard_has_the_numbers(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, main=True, tensorboard=True)
    log.record("step", step=3, loss=0.5, mfu=None)
    log.record("eval", step=3, split="test", uar=0.25)
    log.close()
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(found.Tags()["scalars"]) == ["step/loss", "test/uar"]
    assert (found.Scalars("step/loss")[0].step, found.Scalars("step/loss")[0].value) == (3, 0.5)
