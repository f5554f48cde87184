"""What a run says while it goes: log.jsonl, a progress bar or plain lines, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path


class RunLog:
    """The log of a run; every method does nothing in processes other than the main one.

    Args:
        run_dir: the run folder.
        main: whether this process writes.
        total: optimiser steps of the run, for the progress bar.
        step: the step to go on from; records beyond it are taken out of log.jsonl, because they will come again. With
            0 the log starts anew.
        tensorboard: write event files where tensorboard is installed.
    """

    def __init__(
        self, run_dir: str | Path, main: bool, total: int = 0, step: int = 0, tensorboard: bool = False
    ) -> None:
        self.main = main
        self._bar: Any = None
        self._writer: Any = None
        if not main:
            return
        path = Path(run_dir) / "log.jsonl"
        if step:
            truncate_log(path, step)
        else:
            path.unlink(missing_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if total and sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True)
        if tensorboard and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(Path(run_dir) / "tensorboard"), purge_step=step + 1 if step else 0)

    def record(self, kind: str, **values: Any) -> None:
        """Append a line to log.jsonl; numbers that JSON cannot hold (NaN, infinity) become null."""
        if not self.main:
            return
        values = {key: _finite(value) for key, value in values.items()}
        self._file.write(json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()
        if self._writer is not None and "step" in values:
            prefix = values.get("split", kind)
            for key, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "step":
                    self._writer.add_scalar(f"{prefix}/{key}", value, values["step"])

    def say(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        if not self.main:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def progress(self, step: int, line: str, short: str) -> None:
        """Show how far the run is: the bar with `short` behind it on a terminal, `line` elsewhere."""
        if not self.main:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(short, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Close files and the bar."""
        if not self.main:
            return
        self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()


def truncate_log(path: Path, step: int) -> None:
    """Take out of a log.jsonl the records after `step`, and a last line that was cut off by a kill."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and record.get("step", 0) <= step:
            kept.append(line + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
