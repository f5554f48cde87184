import contextlib
import errno
import json
import os
import sys
from typing import Any

import pytest

from maedfer._progress import is_terminal
from maedfer.train.hooks import Hooks
from maedfer.train.log import RunLog, truncate_log, write_json


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_flushed_lines_of_json(tmp_path):
    log = RunLog(tmp_path, main=True)
    log.record("step", step=1, loss=float("nan"), lr=1e-3, mfu=None)
    assert lines(tmp_path / "log.jsonl") == [{"kind": "step", "step": 1, "loss": None, "lr": 1e-3, "mfu": None}]
    log.close()


def test_no_json_holds_what_is_no_number(tmp_path):
    log = RunLog(tmp_path, main=True)
    log.record("eval", step=1, recall=[0.5, float("nan")], folds=[{"loss": float("inf")}])
    log.close()
    assert lines(tmp_path / "log.jsonl")[0] == {
        "kind": "eval",
        "step": 1,
        "recall": [0.5, None],
        "folds": [{"loss": None}],
    }
    value = {"loss": float("nan"), "recall": (1.0, -float("inf")), "name": "cl\udce9.mp4"}
    write_json(tmp_path / "metrics.json", value)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"loss": None, "recall": [1.0, None], "name": "cl\udce9.mp4"}


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
    # A terminal for both, then `maedfer ... > file`, whose file has whole lines.
    for terminal, lines in ((True, ""), (False, "step 1 of 4\nhello\nstep 4 of 4\n")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        log = RunLog(tmp_path, main=True, total=4)
        log.progress(1, "step 1 of 4", "loss 0.5")
        if not terminal:
            log.say("hello")
        log.progress(4, "step 4 of 4", "loss 0.4")
        log.close()
        shown = capsys.readouterr()
        assert shown.out == lines and "4/4" in shown.err and "loss 0.4" in shown.err


def test_a_log_that_cannot_be_written_is_told_once(tmp_path, capsys):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    told: list[Any] = []
    log = RunLog(tmp_path, main=True, step=1, hooks=Hooks({"mine": told.append}))
    log.record("step", step=1)
    log.record("step", step=2)
    log.close()
    assert capsys.readouterr().out.splitlines() == [
        "log.jsonl cannot be written (No space left on device): the run goes on without",
        "log.jsonl lacks the last 2 records of this run",
    ]
    assert [record["step"] for record in told if record["kind"] == "step"] == [1, 2]


def test_a_log_that_can_be_written_again_has_no_torn_line(tmp_path, monkeypatch, capsys):
    """The system takes a part of a line, as it does before a disk is full, then nothing, then all."""
    log = RunLog(tmp_path, main=True)
    log.record("step", step=1)
    real, takes = log._file, [5, 0, 0]

    class Full:
        seek, truncate, close = real.seek, real.truncate, real.close

        @staticmethod
        def write(rest):
            if not takes:
                return real.write(rest)
            if count := takes.pop(0):
                return real.write(rest[:count])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "_file", Full())
    for step in (2, 3, 4):
        log.record("step", step=step)
    log.close()
    note = "log.jsonl can be written again, and lacks 2 records before step 4"
    assert lines(tmp_path / "log.jsonl") == [
        {"kind": "step", "step": 1},
        {"kind": "step", "step": 4},
        {"kind": "note", "step": 4, "text": note},
    ]
    assert capsys.readouterr().out.count("cannot be written") == 1


def test_lines_that_a_full_disk_does_not_take_end_no_run(tmp_path, monkeypatch):
    log = RunLog(tmp_path, main=True)
    for number, ends in ((errno.ENOSPC, False), (errno.EFBIG, False), (errno.EPIPE, True)):

        def write(text, number=number):
            raise OSError(number, os.strerror(number))

        with open(os.devnull, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(stream, "write", write)
            patch.setattr(sys, "stdout", stream)
            with pytest.raises(BrokenPipeError) if ends else contextlib.nullcontext():
                log.say("hello")
    log.close()


def test_scores_that_come_again_are_taken_out(tmp_path):
    path = tmp_path / "log.jsonl"
    records = [{"kind": kind, "step": step} for step in (1, 2) for kind in ("step", "epoch", "eval")]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    truncate_log(path, 2, unscored=True)
    assert lines(path) == records[:-1]


def test_streams_that_are_absent_or_closed_are_no_terminals(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    log = RunLog(tmp_path, main=True, total=4)
    log.progress(1, "step 1 of 4", "loss 0.5")
    log.close()
    with open(os.devnull) as stream:
        pass
    assert not is_terminal(stream) and not is_terminal(None)
