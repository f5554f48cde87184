"""What a run has found so far, in a file beside its results, so that a run that goes on looks at no frame twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from maedfer.data.video.base import look_at, shown
from maedfer.errors import InputError
from maedfer.faces.frame import Detections, Frame

_HEAD = ("frame", "time", "face", "x", "y", "width", "height", "score", "cut")


class DetectionRecord:
    """Detections by frame, written as they come, read again in rising order.

    The file is a CSV that `read_boxes` reads as well: a line for each box, one with empty cells for a frame in which
    nobody is; `cut` is 1 on the lines of a frame directly before which the scene changes. Numbers of boxes and scores
    are those that were found, bit for bit.

    A process may be stopped at any moment. Whether all lines of the file's last frame were written cannot be seen, so
    that an existing file is opened without these: its last frame is to be looked at again.

    Args:
        path: the file; made when there is none. None = nothing is kept.
        ended: whether the run has ended: then all frames are whole, and the file is read and not written.

    Attributes:
        first_index, last_index: the first and the last frame on record when the file was opened; -1 where there was
            none.

    Raises:
        InputError: the file cannot be read or written, or is no such record; names the line.
    """

    def __init__(self, path: str | Path | None, *, ended: bool = False) -> None:
        self._path, self._ended = None if path is None else Path(path), ended
        self.first_index = self.last_index = -1
        self._newest = -1
        self._out: BinaryIO | None = None
        self._earlier: Iterator[_Lines] = iter(())
        self._ahead: _Lines | None = None
        if self._path is not None:
            self._open(self._path)

    def add(self, frame: Frame, found: Detections, cut: bool) -> None:
        """Keep what was found in a frame.

        Args:
            frame: one after all that are on record.
            found: its faces.
            cut: whether the scene changes between the frame before it, in the video, and this one.

        Raises:
            InputError: the disk is full.
        """
        if frame.index <= self._newest:
            raise ValueError(f"frame {frame.index} comes after frame {self._newest}: frames are kept in rising order")
        self._newest = frame.index
        if self._out is None:
            return
        start, end = f"{frame.index},{float(frame.time)!r}", ",1\n" if cut else ",\n"
        faces = [""] * len(found) if found.faces is None else found.faces.tolist()
        lines = [
            ",".join([start, str(face), *(format(value, ".9g") for value in (*box, score))]) + end
            for face, box, score in zip(faces, found.boxes.tolist(), found.scores.tolist(), strict=True)
        ]
        try:
            self._out.write("".join(lines or [start + "," * 6 + end]).encode())
        except OSError as error:
            raise self._not_written(error) from error

    def get(self, index: int) -> tuple[Detections, bool] | None:
        """What was on record of a frame when the file was opened, and whether a scene begins with it.

        Args:
            index: not below that of an earlier call; what is before it is let go.
        """
        while self._ahead is not None and self._ahead.frame < index:
            self._ahead = next(self._earlier, None)
        if self._ahead is None or self._ahead.frame != index:
            return None
        return self._ahead.detections()

    def flush(self) -> None:
        """Hand to the system what was added.

        Raises:
            InputError: the disk is full.
        """
        if self._out is not None:
            try:
                self._out.flush()
            except OSError as error:
                raise self._not_written(error) from error

    def close(self) -> None:
        """Write what was added, and close the file."""
        self._earlier, self._ahead = iter(()), None
        if self._out is not None:
            self.flush()
            self._out.close()
            self._out = None

    def __enter__(self) -> DetectionRecord:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path) -> None:
        size = 0
        if self._ended or os.path.lexists(path):
            look_at(path)
            try:
                for lines in _by_frame(path):
                    # The frame before is whole, as another one follows it.
                    self.last_index, self._newest = self._newest, lines.frame
                    self.first_index = lines.frame if self.last_index < 0 else self.first_index
                    size = lines.start
            except OSError as error:
                raise InputError(f"{shown(path)}: cannot be read ({error.strerror or error})") from error
            if self._ended:
                self.last_index, self._earlier = self._newest, _by_frame(path)
                self._ahead = next(self._earlier, None)
                return
            self._newest = self.last_index
            self.first_index = min(self.first_index, self.last_index)
        try:
            self._out = path.open("r+b" if size else "wb")
            if size:
                self._out.truncate(size)
                self._out.seek(size)
            else:
                self._out.write(",".join(_HEAD).encode() + b"\n")
        except OSError as error:
            raise self._not_written(error) from error
        if self.last_index >= 0:
            self._earlier = _by_frame(path, size)
            self._ahead = next(self._earlier, None)

    def _not_written(self, error: OSError) -> InputError:
        return InputError(f"cannot write {shown(self._path or '')}: {error.strerror or error}")


class _Lines(NamedTuple):
    """The lines of one frame: where the first one starts in the file, in bytes, and their cells."""

    frame: int
    start: int
    cells: list[list[str]]

    def detections(self) -> tuple[Detections, bool]:
        boxes = [cells for cells in self.cells if cells[3]]
        faces = np.array([int(cells[2]) for cells in boxes], np.int64) if boxes and boxes[0][2] else None
        values = np.array([cells[3:8] for cells in boxes], np.float64).reshape(-1, 5).astype(np.float32)
        return Detections(values[:, :4], values[:, 4], faces), self.cells[0][8] == "1"


def _by_frame(path: Path, end: int | None = None) -> Iterator[_Lines]:
    """The lines of each frame in the first `end` bytes of a file; one at the end without a line feed is left out."""
    found: _Lines | None = None
    with path.open("rb") as file:
        at = 0
        for number, line in enumerate(file, 1):
            whole = line.endswith(b"\n")
            if (not whole and number > 1) or (end is not None and at >= end):
                break
            try:
                cells = line.rstrip(b"\n").decode("ascii").split(",")
                if number == 1:
                    if not (cells == [*_HEAD] if whole else ",".join(_HEAD).encode().startswith(line)):
                        raise ValueError
                else:
                    if len(cells) != len(_HEAD):
                        raise ValueError
                    frame = int(cells[0])
                    if found is None or frame > found.frame:
                        if found is not None:
                            yield found
                        found = _Lines(frame, at, [])
                    elif frame < found.frame:
                        raise ValueError
                    found.cells.append(cells)
                    found.detections()
            except (ValueError, OverflowError):
                raise InputError(
                    f"{shown(path)}:{number}: is no record of detections that a run wrote: delete it to look at the "
                    "video anew"
                ) from None
            at += len(line)
    if found is not None:
        yield found
