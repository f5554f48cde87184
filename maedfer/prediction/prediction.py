"""What is known of one video after it was looked at: its rows, and all that can be made of them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer._files import atomic_path, parse_json
from maedfer.data.video.base import shown
from maedfer.errors import InputError, require
from maedfer.prediction.options import PredictionOptions, options_from
from maedfer.prediction.rows import Row
from maedfer.prediction.segments import Segment, SegmentRow, pool_segments, read_segments, write_segments
from maedfer.prediction.summary import UNCALIBRATED, summarize
from maedfer.prediction.table import TableFormat, TableWriter, read_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class Prediction:
    """The rows of one video, in memory.

    Args:
        rows: in the order of the table: by window, then by face.
        classes: names of the classes.
        video: the file, or the folder of frames.
        summary: what NAME.json holds; made of the rows where nobody gives it.
        options: with which the rows were made.
        record: file of what was found in the video's frames (NAME.boxes.csv), if there is one.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        classes: Sequence[str],
        video: str | Path,
        summary: Mapping[str, Any] | None = None,
        *,
        options: PredictionOptions | None = None,
        record: str | Path | None = None,
    ) -> None:
        self.rows, self.classes, self.video = tuple(rows), tuple(classes), str(video)
        self.options = options or PredictionOptions()
        self.summary: dict[str, Any] = dict(self._summarize() if summary is None else summary)
        self.record = None if record is None else Path(record)

    @classmethod
    def load(cls, path: str | Path, video: str | Path | None = None) -> Prediction:
        """Read a table again, and what lies beside it: its summary and the record of its boxes.

        Args:
            path: NAME.csv, with any of the three kinds of columns.
            video: where the video is now; None = where the table says.

        Raises:
            InputError: a file cannot be read, or is none that a prediction has written.
        """
        path = Path(path)
        format, rows = read_table(path)
        known = list(rows)
        summary = _read_summary(path.with_suffix(".json"))
        record = path.with_suffix(".boxes.csv")
        name = video if video is not None else known[0].video if known else ""
        options = _options((summary or {}).get("settings"), path.with_suffix(".json"))
        return cls(known, format.classes, name, summary, options=options, record=record if record.exists() else None)

    @property
    def faces(self) -> list[int]:
        """Numbers of the faces that have scored windows."""
        return sorted(
            {row.window.face for row in self.rows if row.window.face is not None and row.probabilities is not None}
        )

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a table with the columns of NAME.csv; what is empty there is missing here."""
        pandas = require("pandas", "predict")
        windows = [row.window for row in self.rows]
        boxes = np.array([(np.nan,) * 4 if w.box is None else w.box for w in windows], np.float64).reshape(-1, 4)
        none = np.full(len(self.classes), np.nan)
        chances = np.array([none if row.probabilities is None else row.probabilities for row in self.rows], np.float64)
        chances = chances.reshape(-1, len(self.classes))
        scored = [row.probabilities is not None for row in self.rows]
        best = [None if row.probabilities is None else self.classes[row.probabilities.argmax()] for row in self.rows]
        columns: dict[str, Any] = {
            "video": [row.video for row in self.rows],
            "face": pandas.array([w.face for w in windows], dtype="Int64"),
            "start": [w.start for w in windows],
            "end": [w.end for w in windows],
            "time": [w.time for w in windows],
            **{name: boxes[:, place] for place, name in enumerate(("x", "y", "width", "height"))},
            "detection": [np.nan if w.detection is None else w.detection for w in windows],
            "frames": [w.frames for w in windows],
            "status": [w.status for w in windows],
            "prediction": best,
            "confidence": np.where(scored, chances.max(1, initial=0), np.nan) if len(windows) else [],
            **{f"p_{name}": chances[:, place] for place, name in enumerate(self.classes)},
        }
        return pandas.DataFrame(columns)

    def plot(self, path: str | Path | None = None, *, pictures: bool = True) -> Figure:
        """Draw the timeline of each face.

        Args:
            path: png, pdf or svg to write as well.
            pictures: cut faces out of the video where it is.

        Raises:
            InputError: `path` cannot be written.
        """
        from maedfer.prediction.plot import plot_timeline, save_timeline

        figure = plot_timeline(
            self.rows,
            self.classes,
            title=shown(Path(self.video).name),
            note=self._note(),
            # A device gives other pictures now.
            video=self.video if pictures and (os.path.isfile(self.video) or os.path.isdir(self.video)) else None,
            fps=self.options.fps,
            margin=self.options.margin if self.options.crop else None,
            duration=self._end(),
        )
        if path is not None:
            save_timeline(figure, path)
        return figure

    def annotate(self, path: str | Path, progress: Callable[[float], None] | None = None) -> Path:
        """Write the video with boxes, names, bars and its sound; see `annotate_video`.

        Raises:
            InputError: the video cannot be read any more, or `path` cannot be written.
        """
        from maedfer.prediction.annotate import annotate_video

        annotate_video(
            self.rows,
            self.classes,
            self.video,
            path,
            options=self.options,
            record=self.record,
            progress=progress,
        )
        return Path(path)

    def segments(self, turns: str | Path | Sequence[Segment], path: str | Path | None = None) -> list[SegmentRow]:
        """Pool the probabilities over turns; see `pool_segments`.

        Args:
            turns: segments, or a CSV file of them with columns start, end, label (and video, face).
            path: CSV to write as well.

        Raises:
            InputError: a file cannot be read or written.
        """
        segments = read_segments(turns) if isinstance(turns, str | Path) else turns
        found = pool_segments(self.rows, segments, self.video)
        if path is not None:
            write_segments(path, found, self.classes)
        return found

    def save(self, folder: str | Path, name: str | None = None) -> Path:
        """Write NAME.csv, NAME.json, NAME.png, and NAME.boxes.csv where there is a record, as `maedfer predict` does.

        Args:
            folder: made where it is absent.
            name: of the files; the video's, without its suffix, if None.

        Returns:
            Path of NAME.csv.

        Raises:
            InputError: something cannot be written.
        """
        folder = Path(folder)
        name = name or Path(self.video).stem or "video"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {shown(folder)}: {error.strerror}") from error
        table = folder / f"{name}.csv"
        with atomic_path(table) as part:
            writer = TableWriter(part, TableFormat(self.classes))
            try:
                writer.append(self.rows)
            finally:
                writer.close()
        with atomic_path(folder / f"{name}.json") as part:
            part.write_text(json.dumps(self.summary, indent=1) + "\n", encoding="utf-8")
        boxes = folder / f"{name}.boxes.csv"
        if self.record is not None and self.record.absolute() != boxes.absolute():
            with atomic_path(boxes) as part:
                shutil.copyfile(self.record, part)
        self.plot(folder / f"{name}.png")
        return table

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        best = Counter(self.classes[row.probabilities.argmax()] for row in self.rows if row.probabilities is not None)
        count = sum(best.values())
        shares = ", ".join(f"{label} {100 * number / count:.0f}%" for label, number in best.most_common(3))
        faces = f"{len(self.faces)} face{'s' * (len(self.faces) != 1)}"
        name = shown(Path(self.video).name)
        return f"<Prediction of {name}: {len(self.rows)} rows, {faces}{': ' if shares else ''}{shares}>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def _end(self) -> float | None:
        """When the video ends, in seconds, where the summary tells how long it is and when it starts."""
        minutes, stream = self.summary.get("minutes"), self.summary.get("video_stream")
        start = stream.get("start", 0.0) if isinstance(stream, Mapping) else 0.0
        return start + 60 * minutes if isinstance(minutes, int | float) and isinstance(start, int | float) else None

    def _summarize(self) -> dict[str, Any]:
        # When the video ends nobody knows, but that it does not before its last window.
        ends = max((row.window.end for row in self.rows), default=0.0)
        return summarize(self.rows, self.classes, 0.0 if self.options.whole else self.options.hop, ends)

    def _note(self) -> str:
        told = self.summary.get("calibration")
        return told if isinstance(told, str) else UNCALIBRATED


def _read_summary(path: Path) -> dict[str, Any] | None:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{shown(path)}: is no summary of a prediction")
    return found


def _options(settings: object, path: Path) -> PredictionOptions:
    """The options that a summary tells."""
    if not isinstance(settings, Mapping):
        return PredictionOptions()
    names = {field.name for field in dataclasses.fields(PredictionOptions)}
    try:
        return options_from(**{name: value for name, value in settings.items() if name in names})
    except InputError as error:
        raise InputError(f"{shown(path)}: its settings are none of a prediction: {error}") from error
