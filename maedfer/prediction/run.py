"""The files of one video: begun, gone on with after whatever ended the process, and completed.

NAME.part.json is written first and says what the rows are made with; the table, the boxes and the features grow beside
it. NAME.json is written last: where it is, the video is done. So a process may end at any moment, and the next one
finds out what is there, cuts off what was not finished, and goes on with the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maedfer._files import atomic_path, parse_json, remove_temporaries
from maedfer.data.video.base import shown
from maedfer.errors import InputError, shortened
from maedfer.prediction.feature_file import FeatureLog
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.table import OutputError, Place, TableFormat, TableWriter, read_table, writing

State = Literal["new", "begun", "done"]

# What follows NAME. Two of them are there only until the video is done.
SUFFIXES = {
    "table": ".csv",
    "summary": ".json",
    "plot": ".png",
    "video": ".mp4",
    "features": ".npz",
    "segments": ".segments.csv",
    "boxes": ".boxes.csv",
    "settings": ".part.json",
    "vectors": ".part.features",
}


class PredictionFiles:
    """What is written of one video.

    Args:
        folder: of the results.
        name: of the video in it, may hold folders.
        video: as it was given, for the first column.
        settings: all that decides what is in the rows, as plain values that JSON can hold.
        format: columns of the table.
        channels: of the features that are kept; None = they are not.

    Attributes:
        paths: of all files there can be, by the keys of `SUFFIXES`.
        last: after `open`, where the last row stands that was there; None where there was none.
        rows: in the table now, those that are held back included.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        video: str,
        settings: Mapping[str, Any],
        format: TableFormat,
        channels: int | None = None,
    ) -> None:
        self.name, self.video, self.format, self.channels = name, video, format, channels
        # As it comes back from a file.
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.paths = {key: folder / f"{name}{suffix}" for key, suffix in SUFFIXES.items()}
        self.last: Place | None = None
        self.rows = 0
        self._table: TableWriter | None = None
        self._log: FeatureLog | None = None
        self._old: Iterator[Row] = iter(())
        # Rows of the window that comes last, with their features: written when the next window begins.
        self._held: list[tuple[Row, np.ndarray | None]] = []

    def state(self) -> State:
        """Look at what is there.

        Raises:
            InputError: it was made otherwise, or by nobody that could go on with it.
        """
        for key, state in (("summary", "done"), ("settings", "begun")):
            path = self.paths[key]
            if path.exists():
                self._check_same(path)
                if state == "done":
                    self._check_whole()
                return state  # type: ignore[return-value]
        for path in self.paths.values():
            if path.exists():
                raise InputError(
                    f"{shown(path)}: exists, and nothing beside it says what it was made with: choose another --out, "
                    "or --overwrite"
                )
        return "new"

    def read_summary(self) -> dict[str, Any]:
        """What NAME.json holds."""
        return _read(self.paths["summary"])

    def remove(self) -> None:
        """Take away all files there are of it."""
        for path in self.paths.values():
            with writing(path):
                path.unlink(missing_ok=True)

    def open(self) -> None:
        """Begin, or go on.

        Raises:
            OutputError: something cannot be written.
            InputError: what is there is damaged.
        """
        folder = self.paths["settings"].parent
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(folder)
        if not self.paths["settings"].exists():
            _write(self.paths["settings"], {"settings": self.settings})
        scored = None
        if self.channels is not None:
            self._log = FeatureLog(self.paths["vectors"], self.channels)
            scored = self._log.count
        self._table = TableWriter(self.paths["table"], self.format, scored)
        if self._log is not None:
            self._log.cut(self._table.scored)
        self.last, self.rows = self._table.last, self._table.rows
        self._old = itertools.islice(read_table(self.paths["table"])[1], self.rows)

    def take(self, window: Window, probabilities: np.ndarray | None, features: np.ndarray | None) -> Row | None:
        """Take the next window; one whose row is there already must be what is in it.

        Args:
            window: in the order of the table, from the video's first one on.
            probabilities: float64 [classes], None where no face is or where its row is there already.
            features: float32 [C], likewise.

        Returns:
            Its row, None where that was there already.

        Raises:
            InputError: the row that is there is another one.
            OutputError: rows cannot be written.
        """
        old = next(self._old, None)
        if old is not None:
            again = self.format.fields(Row(self.video, window, old.probabilities))
            if again != self.format.fields(old):
                raise InputError(
                    f"{shown(self.paths['table'])}: its row at {old.window.start:.3f} s is not what comes now "
                    f"({shortened(','.join(again[: len(again) - len(self.format.classes)]))}): choose another --out, "
                    "or --overwrite"
                )
            return None
        row = Row(self.video, window, probabilities)
        if self._held and self._held[0][0].window.number != window.number:
            self.flush()
        self._held.append((row, features))
        self.rows += 1
        return row

    def flush(self) -> None:
        """Write the rows that are held back.

        Raises:
            OutputError: they cannot be written.
        """
        assert self._table is not None
        if not self._held:
            return
        if self._log is not None:
            vectors = [features for _, features in self._held if features is not None]
            if vectors:
                self._log.append(np.stack(vectors))
        self._table.append([row for row, _ in self._held])
        self._held = []

    def complete_table(self) -> None:
        """The video has ended: write what is held back, and put the features together.

        Raises:
            InputError: rows are there that the video does not give.
        """
        self.flush()
        old = next(self._old, None)
        if old is not None:
            raise InputError(
                f"{shown(self.paths['table'])}: has a row at {old.window.start:.3f} s, where the video has none now: "
                "choose another --out, or --overwrite"
            )
        if self._log is not None:
            self._log.join(self.paths["features"], read_table(self.paths["table"])[1])
        self.close()

    def complete(self, summary: Mapping[str, Any]) -> None:
        """All is written: say so by NAME.json, and take away what was there for going on."""
        _write(self.paths["summary"], {**summary, "settings": self.settings})
        self.remove_parts()

    def remove_parts(self) -> None:
        """Take away what was there for going on."""
        for key in ("settings", "vectors"):
            self.paths[key].unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files; what is held back is not written."""
        for file in (self._table, self._log):
            if file is not None:
                file.close()

    def give_up(self) -> None:
        """The video cannot be read on: whole windows stay, for a later attempt; without a row nothing does."""
        with contextlib.suppress(OutputError):
            if self._table is not None and not self._table.rows and not self._held:
                self.close()
                self.remove()
        self.close()

    def _check_whole(self) -> None:
        for key in ("table", *(() if self.channels is None else ("features",))):
            if not self.paths[key].exists():
                raise InputError(
                    f"{shown(self.paths[key])}: is gone, though {shown(self.paths['summary'])} says that it was "
                    "completed: choose another --out, or --overwrite"
                )

    def _check_same(self, path: Path) -> None:
        there = _read(path).get("settings")
        if not isinstance(there, dict):
            raise InputError(f"{shown(path)}: does not say what it was made with: choose another --out, or --overwrite")
        for key in {**there, **self.settings}:
            one, other = there.get(key), self.settings.get(key)
            if one != other:
                raise InputError(
                    f"{shown(path)}: was made with another {key} ({_told(one)} there, {_told(other)} now): choose "
                    "another --out, or --overwrite"
                )


def _told(value: Any) -> str:
    return "none" if value is None else shown(shortened(str(value), 80))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{shown(path)}: is damaged ({error}): choose another --out, or --overwrite") from error
    return found if isinstance(found, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except InputError as error:
        raise OutputError(str(error)) from error
