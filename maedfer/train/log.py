"""What a run says while it goes: log.jsonl, a progress bar or plain lines, and hooks."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path, is_full, parse_json
from maedfer._progress import counted, is_terminal
from maedfer.errors import InputError
from maedfer.train.hooks import IDS_FILE, Hooks


class RunLog:
    """The log of a run; every method does nothing in processes other than the main one.

    Args:
        run_dir: the run folder.
        main: whether this process writes.
        total: optimiser steps of the run, for the progress bar.
        step: the step to go on from; records beyond it are taken out of log.jsonl, because they will come again. With
            0 the log starts anew.
        hooks: are given every record; the log ends them.
        unscored: the scores of that step will come again as well.

    Attributes:
        result: the scores of the run, for the hooks to be told in the end.
    """

    def __init__(
        self,
        run_dir: str | Path,
        main: bool,
        total: int = 0,
        step: int = 0,
        *,
        hooks: Hooks | None = None,
        unscored: bool = False,
    ) -> None:
        self.main = main
        self.result: dict[str, Any] = {}
        self._hooks = hooks if hooks is not None else Hooks({})
        self._step = step
        self._bar: Any = None
        if not main:
            return
        path = Path(run_dir) / "log.jsonl"
        if step:
            truncate_log(path, step, unscored)
        else:
            path.unlink(missing_ok=True)
            # Others know an earlier run in this folder, which this one has nothing to do with.
            (Path(run_dir) / IDS_FILE).unlink(missing_ok=True)
        self._path = path
        self._lost = 0
        try:
            # Without a buffer, so that a line is there, or known not to be.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        if total and is_terminal(sys.stderr) and importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True)

    def record(self, kind: str, **values: Any) -> None:
        """Append a line to log.jsonl; numbers that JSON cannot hold (NaN, infinity) become null.

        One that cannot be written is counted and told once, as a run is worth more than its log; hooks have it.
        """
        if not self.main:
            return
        values = {key: _finite(value) for key, value in values.items()}
        self._step = values.get("step", self._step)
        self._append(json.dumps({"kind": kind, **values}, allow_nan=False) + "\n")
        self.tell(kind, **values)

    def _append(self, line: str) -> None:
        end = None
        try:
            end = self._file.seek(0, os.SEEK_END)
            rest = memoryview(line.encode())
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._lost += 1
            if end is not None:
                # A part of a line would spoil the next one.
                with contextlib.suppress(OSError):
                    self._file.truncate(end)
            if self._lost == 1:
                self.say(f"{self._path.name} cannot be written ({error.strerror or error}): the run goes on without")
            return
        if self._lost:
            lost, self._lost = counted(self._lost, "record"), 0
            text = f"{self._path.name} can be written again, and lacks {lost} before step {self._step}"
            self.say(text)
            self.record("note", step=self._step, text=text)

    def tell(self, kind: str, **values: Any) -> None:
        """Give a record to the hooks alone."""
        if not self.main:
            return
        for sentence in self._hooks.tell({"kind": kind, **values}):
            self.say(sentence)
            self.record("note", step=self._step, text=sentence)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        if not self.main:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            _print(text)

    @contextlib.contextmanager
    def may_fail(self, name: str) -> Iterator[None]:
        """A block that writes what a run is complete without: that it could not be written is told and recorded."""
        try:
            yield
        except InputError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            self.say(f"{error}; the run does without it")
            self.record("not_saved", step=self._step, name=name, why=str(error))

    def progress(self, step: int, line: str, short: str) -> None:
        """Show how far the run is: the bar with `short` behind it on a terminal, `line` where there is none."""
        if not self.main:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(short, refresh=False)
            self._bar.update(step - self._bar.n)
        if self._bar is None or not is_terminal(sys.stdout):
            _print(line)

    def close(self, outcome: str = "complete") -> None:
        """Tell the hooks how the run ended, "complete" or "stopped", and close the file and the bar."""
        if not self.main:
            return
        for sentence in self._hooks.tell(
            {"kind": "end", "step": self._step, "outcome": outcome, "scores": self.result}
        ):
            self.say(sentence)
        if self._lost:
            self.say(f"{self._path.name} lacks the last {counted(self._lost, 'record')} of this run")
        for name, count in self._hooks.missed.items():
            self.say(f"{name} was not told {counted(count, 'record')} of this run: log.jsonl has them")
        # What could not be written was told when it was.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._bar is not None:
            self._bar.close()


def truncate_log(path: Path, step: int, unscored: bool = False) -> None:
    """Take out of a log.jsonl the records after `step`, and a last line that was cut off by a kill.

    Args:
        path: of the log.
        step: the last one to keep.
        unscored: also take out the scores of that step.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or record.get("step", 0) > step:
            continue
        if not (unscored and record.get("kind") == "eval" and record.get("step") == step):
            kept.append(line + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; numbers that JSON cannot hold (NaN, infinity) become null."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        # Bytes of a name that are no UTF-8 are escaped as JSON has it, and read back the same.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        # Lines that go into a file on a full disk are no reason to end; Python prints them when there is room.
        if not is_full(error):
            raise


def _finite(value: Any) -> Any:
    """The value with null in place of every number that is not finite, in lists and sections too."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
