"""Runs that are asked to stop: where they stand is saved, and they end with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maedfer.cli import main
from maedfer.data.dataset import ClipDataset
from maedfer.errors import Stopped
from maedfer.models.lgi_former import LGIFormer
from maedfer.train import run_finetune
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.checkpoints import FileForm
from maedfer.train.signals import Signals
from maedfer.train.tasks import FinetuneTask
from tests.train.runs import in_process, overrides, records, spoil_losses, tiny, write_clips

# Everything that draws numbers or remembers something.
CHANGES = """train.ema=0.9 train.accumulate=2 train.batch_size=2 optim.clip_grad=1.0 model.drop_path=0.2 data.repeats=2
optim.epochs=2 eval.select=test""".split()
SAVED = "; the same command goes on"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 12)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that was left alone."""
    return run_finetune(tiny("finetune", data, tmp_path_factory.mktemp("whole") / "run", *CHANGES))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(run: Path, other: Path) -> bool:
    left, right = weights(run), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def signals_at(
    patch: pytest.MonkeyPatch, owner: Any, name: str, *numbers: int, when: Callable[..., bool] = lambda *args: True
) -> None:
    """Let this process get signals at the first call of a method that is one of those; they come before it does."""
    original = getattr(owner, name)
    waiting = list(numbers)

    def call(*args: Any, **options: Any) -> Any:
        if waiting and when(*args):
            while waiting:
                os.kill(os.getpid(), waiting.pop(0))
        return original(*args, **options)

    patch.setattr(owner, name, call)


class Nth:
    """True at one call of so many."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, *args: Any) -> bool:
        self.left -= 1
        return self.left == 0


def test_a_run_that_is_stopped_at_every_kind_of_moment_repeats_one_that_was_not(data, whole, tmp_path, capfd):
    """One run, which is told to stop once at each of these; of 12 clips there are 3 steps an epoch."""
    cfg = tiny("finetune", data, tmp_path / "run", *CHANGES)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    last = tmp_path / "run/checkpoints/last.pt"
    INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

    def stopped(expected: str, step: int | None, *told: str) -> Stopped:
        with pytest.raises(Stopped) as stop:
            run_finetune(cfg)
        assert {number: signal.getsignal(number) for number in before} == before
        shown = capfd.readouterr().err
        assert expected in str(stop.value), str(stop.value)
        assert all(text in shown for text in told), shown
        assert (load_checkpoint(last)["position"]["step"] if last.exists() else None) == step
        facts = tmp_path / "run/environment.json"
        if step is not None:
            assert json.loads(facts.read_text())["outcome"] == "stopped"
            assert json.loads(facts.read_text())["signal"] == signal.Signals(stop.value.signal).name
            assert not list(last.parent.glob(".*"))
        return stop.value

    with pytest.MonkeyPatch.context() as patch:
        signals_at(patch, FinetuneTask, "build", TERM)
        stop = stopped("stopped by SIGTERM before training began", None)
        assert stop.status == 143
    with pytest.MonkeyPatch.context() as patch:
        signals_at(patch, LGIFormer, "draw_keep", INT)
        stopped(
            "stopped by SIGINT before the first step; the same command starts anew", None, "SIGINT: the run ends where"
        )
    with pytest.MonkeyPatch.context() as patch:
        # In the second pass of the first step: it is done to its end.
        signals_at(patch, LGIFormer, "draw_keep", INT, when=Nth(2))
        stop = stopped(f"stopped by SIGINT, saved at step 1 of 6{SAVED}", 1, "SIGINT: the run ends where it stands")
        assert stop.status == 130 and isinstance(stop, KeyboardInterrupt)
    for number, (clip, step) in enumerate(((1, 1), (3, 1), (7, 2))):
        with pytest.MonkeyPatch.context() as patch:
            # While the clips of a first or a second pass are read: the step is not done, and drawn again.
            signals_at(patch, ClipDataset, "__getitem__", TERM, when=Nth(clip))
            stopped(f"stopped by SIGTERM, saved at step {step} of 6", step)
            assert len(records(tmp_path / "run", "stop")) == number + 2
    with pytest.MonkeyPatch.context() as patch:
        # In a save, which is finished.
        signals_at(patch, FileForm, "write", INT, TERM, when=lambda self, path, state: state["position"]["ending"])
        told = ("SIGINT: the run ends where it stands", "SIGTERM: still the run ends where it stands,")
        stopped("stopped by SIGINT, saved at step 3 of 6", 3, *told)
        state = load_checkpoint(last)["position"]
        assert (state["epoch"], state["ending"]) == (1, True)
    with pytest.MonkeyPatch.context() as patch:
        # In the scores after an epoch, which is not trained again.
        signals_at(patch, LGIFormer, "forward", HUP, when=lambda model, frames, *more: len(frames) > 1)
        stopped("stopped by SIGHUP, saved at step 3 of 6", 3)
        assert load_checkpoint(last)["position"]["ending"] and not records(tmp_path / "run", "eval")
    with pytest.MonkeyPatch.context() as patch:
        # Ctrl-C three times: nothing is waited for, and what was there still is.
        signals_at(patch, LGIFormer, "draw_keep", INT, when=Nth(2))
        signals_at(patch, FileForm, "write", INT, INT, when=lambda self, path, state: state["position"]["step"] == 4)
        with pytest.raises(KeyboardInterrupt) as interrupt:
            run_finetune(cfg)
        assert not isinstance(interrupt.value, Stopped)
        assert "SIGINT: still the run is saving, please wait, and Ctrl-C 3 times in all" in capfd.readouterr().err
        assert signal.getsignal(INT) == before[INT]
        assert {path.name for path in last.parent.iterdir()} == {"last.pt", "previous.pt", "best.pt"}
        assert load_checkpoint(last)["position"]["step"] == 3
    with pytest.MonkeyPatch.context() as patch:
        signals_at(patch, LGIFormer, "save_pretrained", TERM)
        stopped("stopped by SIGTERM when training was complete and its result was not", 6)
    assert run_finetune(cfg).metrics == whole.metrics
    assert same(tmp_path / "run", whole.output)


def test_a_stop_that_cannot_be_saved_says_what_is_there(data, tmp_path, monkeypatch):
    cfg = tiny("finetune", data, tmp_path / "run", *CHANGES, "train.save_steps=1")
    signals_at(monkeypatch, LGIFormer, "draw_keep", signal.SIGTERM, when=Nth(4))
    original = FileForm.write

    def write(self: FileForm, path: Path, state: Any) -> None:
        if state["position"]["step"] == 2:
            raise OSError(28, "No space left on device")
        original(self, path, state)

    monkeypatch.setattr(FileForm, "write", write)
    why = r"step 2 is not saved \(No space left on device\): checkpoints/last\.pt of step 1 is as it was"
    with pytest.raises(Stopped, match=why):
        run_finetune(cfg)
    assert records(tmp_path / "run", "stop") == [{"kind": "stop", "step": 2, "signal": "SIGTERM", "saved": False}]


def test_a_stop_between_skipped_steps_is_saved_and_they_are_counted_on(data, tmp_path, monkeypatch):
    spoil_losses({2: float("nan"), 3: float("nan")}, patch=monkeypatch.setattr)
    alone = run_finetune(tiny("finetune", data, tmp_path / "alone", *CHANGES))
    cfg = tiny("finetune", data, tmp_path / "run", *CHANGES)
    with pytest.MonkeyPatch.context() as patch:
        signals_at(patch, LGIFormer, "draw_keep", signal.SIGTERM, when=Nth(4))
        with pytest.raises(Stopped, match="stopped by SIGTERM, saved at step 2 of 6"):
            run_finetune(cfg)
    position = load_checkpoint(tmp_path / "run/checkpoints/last.pt")["position"]
    assert (position["step"], position["skipped"], position["in_a_row"]) == (2, 1, 1)
    assert run_finetune(cfg).metrics == alone.metrics and same(tmp_path / "run", tmp_path / "alone")
    skipped = [records(tmp_path / name, "skipped_step") for name in ("run", "alone")]
    assert skipped[0] == skipped[1] and [row["step"] for row in skipped[0]] == [2, 3]


def test_the_command_ends_with_one_line_and_the_status_of_the_signal(data, tmp_path, monkeypatch, capsys):
    settings = [*overrides("finetune", data, tmp_path / "run"), *CHANGES]
    signals_at(monkeypatch, LGIFormer, "draw_keep", signal.SIGTERM, when=Nth(2))
    assert main(["finetune", *settings]) == 143
    assert capsys.readouterr().err == f"maedfer: stopped by SIGTERM, saved at step 1 of 6{SAVED}\n"


@pytest.mark.parametrize("answer", ["", "Invalid job id specified", None])
def test_a_job_of_slurm_is_queued_again(answer, data, tmp_path, monkeypatch, capsys):
    """By SIGUSR1, with the program of Slurm that is found; here one that notes what it was asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if answer is not None:
        program = programs / "scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "{answer}" >&2\nexit {int(bool(answer))}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    signals_at(monkeypatch, LGIFormer, "draw_keep", signal.SIGUSR1, when=Nth(2))
    status = main(["finetune", *overrides("finetune", data, tmp_path / "run"), *CHANGES])
    if answer is None:
        end = "there is no scontrol, so that no job is queued again"
    else:
        assert (tmp_path / "asked").read_text() == "requeue 4711\n"
        end = f"Slurm did not take job 4711 back ({answer})" if answer else "job 4711 is queued again"
    assert status == (0 if answer == "" else 128 + signal.SIGUSR1)
    assert capsys.readouterr().err.endswith(f"stopped by SIGUSR1, saved at step 1 of 6{SAVED}; {end}\n")


def test_signals_are_left_alone_where_they_are_not_the_runs(monkeypatch):
    found = []

    def elsewhere() -> None:
        with Signals().listening() as signals:
            found.append((signals.active, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]
    # nohup: the terminal's end is no reason to stop.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals().listening() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.active and not signals.asked
    finally:
        signal.signal(signal.SIGHUP, before)


# What processes do that get a signal at a place, and end with the status of the command.
_STATUS = """
import os, signal, sys
from maedfer import train
from maedfer.errors import Stopped
from maedfer.train.trainer import Trainer
original_run = train.run_finetune
def run(cfg):
    try:
        original_run(cfg)
    except Stopped as stop:
        print(f"{os.environ.get('RANK')}: {stop}", flush=True)
        sys.exit(stop.status)
train.run_finetune = run
"""


def test_a_signal_to_all_processes_of_a_job_leaves_the_loaders_to_the_run(data, whole, tmp_path):
    """As Ctrl-C in a terminal, torchrun and Slurm send it."""
    before = (
        _STATUS
        + """
os.setsid()
original = Trainer._step
def step(self, batches):
    if self.position.step == 1:
        # Of a step that is done in passes, those that were done are done again.
        os.killpg(0, signal.SIGINT)
        os.killpg(0, signal.SIGTERM)
    original(self, batches)
Trainer._step = step
"""
    )
    settings = [*overrides("finetune", data, tmp_path / "run"), *CHANGES]
    done = in_process("finetune", [*settings, "data.workers=2"], before)
    assert done.codes == [130], done.text
    assert "stopped by SIGINT, saved at step 1 of 6" in done.text
    assert "Traceback" not in done.text and "DataLoader" not in done.text
    result = run_finetune(tiny("finetune", data, tmp_path / "run", *CHANGES))
    assert result.metrics == whole.metrics and same(tmp_path / "run", whole.output)


def test_a_signal_to_one_process_stops_all_of_them(data, tmp_path):
    """At a step, and while scores are made, of which one process has more batches than the other."""
    settings = [*overrides("finetune", data, tmp_path / "run"), *CHANGES, "train.accumulate=1"]
    place = """
from maedfer.train.tasks import FinetuneTask
original_step, original_score = Trainer._step, FinetuneTask.score
def step(self, batches):
    if {step} and self.runtime.rank == 1 and self.position.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    original_step(self, batches)
def score(self, *args):
    if self.runtime.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return original_score(self, *args)
Trainer._step, FinetuneTask.score = step, score
"""
    for at_step, where in ((True, "saved at step 2 of 6"), (False, "saved at step 3 of 6")):
        done = in_process("finetune", settings, _STATUS + place.format(step=at_step), processes=2)
        assert done.codes == [143, 143], done.text
        for rank in range(2):
            assert f"{rank}: stopped by SIGTERM, {where}" in done.text
        assert not records(tmp_path / "run", "eval")
    for output in ("run", "whole"):
        done = in_process("finetune", [*settings, f"output={tmp_path / output}"], processes=2)
        assert done.ok, done.text
    assert same(tmp_path / "run", tmp_path / "whole")
