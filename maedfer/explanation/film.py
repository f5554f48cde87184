"""Films of explanations: a face with what a model looks at laid over it, and clips beside their reconstructions."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maedfer._files import atomic_path
from maedfer.data.video import open_video
from maedfer.data.video.base import in_a_sentence, shown
from maedfer.errors import require
from maedfer.explanation.looking import FaceCourse
from maedfer.explanation.overlay import Scale, colour_table, enlarge, enlarge_smoothly, paint, to_pixels
from maedfer.faces.find import read_frames
from maedfer.prediction.annotate import VideoWriter
from maedfer.prediction.class_colours import class_colours, is_dark
from maedfer.prediction.clips import Cutter
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.windows import ModelInput

# Pixels of the shorter side of a panel at least; of text, bars and what is between things.
_SIDE, _LETTERS, _BAR, _GAP = 320, 15, 12, 12
_PAPER, _INK, _MUTED, _EMPTY = (254, 254, 254), (32, 36, 42), (104, 113, 125), "#dfe3e8"


class FilmPanel(NamedTuple):
    """A picture of a film with what is written above it.

    Args:
        title: in words.
        scale: of the colours, for a bar below it.
    """

    title: str
    scale: Scale | None = None


class Sheet:
    """Puts pictures side by side, with titles, colour bars, the time and the probabilities of classes.

    Args:
        panels: from left to right.
        size: height and width of a picture.
        classes: names of the classes; none where there are none.
    """

    def __init__(self, panels: Sequence[FilmPanel], size: tuple[int, int], classes: Sequence[str] = ()) -> None:
        self._image, self._pen = require("PIL.Image", "video"), require("PIL.ImageDraw", "video")
        self.font: Any = require("PIL.ImageFont", "video").load_default(size=_LETTERS)
        self.panels, self.picture, self.classes = panels, size, [shown(name) for name in classes]
        self.colours = class_colours(classes)
        self.head = 2 * _GAP + _LETTERS
        self._bars = self.head + size[0] + _GAP
        scaled = any(panel.scale is not None for panel in panels)
        self._foot = self._bars + (_BAR + _LETTERS + 2 * _GAP if scaled else 0)
        height = self._foot + _LETTERS + 2 * _GAP + (2 if classes else 0)
        self.width = len(panels) * (size[1] + _GAP) + _GAP
        self._blank = self._image.new("RGB", (self.width, height), _PAPER)
        pen = self._pen.Draw(self._blank)
        for left, panel in zip(self._lefts, panels, strict=True):
            self._write(pen, (left, _GAP), self._fitted(panel.title, size[1]), _INK)
            if panel.scale is not None:
                self._colour_bar(pen, left, panel.scale)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a whole picture."""
        return self._blank.height, self._blank.width

    def draw(self, pictures: Sequence[np.ndarray], time: float, probabilities: np.ndarray | None = None) -> np.ndarray:
        """One picture of the film: uint8 [H, W, 3].

        Args:
            pictures: uint8 [h, w, 3] of each panel.
            time: in seconds, to be written.
            probabilities: float64 [classes]; None where nothing is known of this moment.
        """
        image = self._blank.copy()
        for left, picture in zip(self._lefts, pictures, strict=True):
            image.paste(self._image.fromarray(np.ascontiguousarray(picture)), (left, self.head))
        pen = self._pen.Draw(image)
        words = f"{int(time // 60)}:{time % 60:05.2f}"
        self._write(pen, (_GAP, self._foot + 2), words, _MUTED)
        if probabilities is not None:
            self._classes(pen, probabilities)
        return np.asarray(image)

    @property
    def _lefts(self) -> list[int]:
        return [_GAP + number * (self.picture[1] + _GAP) for number in range(len(self.panels))]

    def _colour_bar(self, pen: Any, left: int, scale: Scale) -> None:
        table, width = colour_table(scale.colours), self.picture[1]
        strip = table[np.round(np.linspace(0, len(table) - 1, width)).astype(int)]
        self._blank.paste(self._image.fromarray(np.repeat(strip[None], _BAR, 0)), (left, self._bars))
        y = self._bars + _BAR + 4
        label = " ".join(scale.label.split())
        low, high = f"{scale.low:.2g}", f"{scale.high:.2g}"
        self._write(pen, (left, y), low, _MUTED)
        self._write(pen, (left + width - round(self.font.getlength(high)), y), high, _MUTED)
        self._write(pen, (left + (width - round(self.font.getlength(label))) // 2, y), label, _MUTED)

    def _classes(self, pen: Any, probabilities: np.ndarray) -> None:
        """One bar of all classes side by side, each as long as it is probable, with its name where there is room."""
        left = _GAP + round(self.font.getlength("00:00.00")) + _GAP
        width, top = self.width - _GAP - left, self._foot - 2
        bottom = top + _LETTERS + 8
        edges = left + np.round(np.concatenate([[0], np.cumsum(probabilities)]) * width).astype(int)
        for name, colour, start, end in zip(self.classes, self.colours, edges[:-1], edges[1:], strict=True):
            if end <= start:
                continue
            pen.rectangle((int(start), top, int(end) - 1, bottom), fill=colour)
            if self.font.getlength(name) + 10 <= end - start:
                ink = "white" if is_dark(colour) else "black"
                pen.text((int(start + end) // 2, (top + bottom) // 2), name, fill=ink, font=self.font, anchor="mm")

    def _write(self, pen: Any, place: tuple[int, int], words: str, colour: tuple[int, int, int]) -> None:
        pen.text(place, words, fill=colour, font=self.font)

    def _fitted(self, words: str, width: int) -> str:
        most = max(4, int(width / (0.56 * _LETTERS)))
        return textwrap.shorten(words, most, placeholder=" ...")


def film_attention(
    course: FaceCourse,
    video: str | Path,
    path: str | Path,
    *,
    times: np.ndarray,
    model: ModelInput,
    options: PredictionOptions,
    panels: Sequence[tuple[str, FilmPanel]],
    classes: Sequence[str] = (),
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write a film of a face with maps over it: every frame of the video in which the face is, at its own time.

    Args:
        course: the face.
        video: the file, or the folder of frames.
        path: to write, .mp4; it has no sound.
        times: float64, when the frames of the video are shown.
        model: what clips the model takes: frames are cut as its clips are, and enlarged.
        options: with which the video was looked at.
        panels: the kind of each map, and how it is drawn; the face itself comes first.
        classes: names of the classes.
        progress: is told the share that is done.

    Raises:
        InputError: the video cannot be read, or the file not written.
    """
    path = Path(path)
    times_larger = max(1, -(-_SIDE // min(model.size)))
    size = (model.size[0] * times_larger, model.size[1] * times_larger)
    cutter = Cutter(ModelInput(model.frames, size, model.stride, model.fit), options)
    sheet = Sheet([FilmPanel("face"), *(panel for _, panel in panels)], size, classes)
    indices = np.array(sorted(course.boxes))
    shown_at = times[indices]
    first, last = int(indices[0]), int(indices[-1])
    with open_video(Path(video)) as reader:
        frames = read_frames(reader, times[first : last + 1], course.boxes.__contains__, first)
        with atomic_path(path) as part, in_a_sentence(path, "cannot be written"):
            with VideoWriter(part, sheet.size, shown_at - shown_at[0]) as writer:
                number = 0
                for frame in frames:
                    if frame.picture is None:
                        continue
                    box = course.boxes[frame.index]
                    face = cutter(frame.picture, None if box is None else np.array(box))
                    pictures = [face, *(_laid_over(course, kind, panel, face, frame.time) for kind, panel in panels)]
                    writer.write(sheet.draw(pictures, frame.time, course.probabilities_at(frame.time)), number)
                    number += 1
                    if progress is not None:
                        progress(number / len(indices))


def _laid_over(course: FaceCourse, kind: str, panel: FilmPanel, face: np.ndarray, time: float) -> np.ndarray:
    grid = course.at(kind, time)
    if grid is None or panel.scale is None:
        return face
    return paint(face, to_pixels(grid[None], (1, *face.shape[:2]))[0], panel.scale)


def film_pictures(
    path: str | Path,
    titles: Sequence[str],
    clips: Iterable[Sequence[np.ndarray]],
    *,
    times: np.ndarray,
    size: tuple[int, int],
) -> None:
    """Write a film of pictures side by side; the first one is a frame, the others are made of cubes.

    Args:
        path: to write, .mp4; it has no sound.
        titles: of the panels.
        clips: for each time, uint8 [h, w, 3] of each panel.
        times: float64, seconds, which rise.
        size: h and w.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    larger = max(1, -(-_SIDE // min(size)))
    sheet = Sheet([FilmPanel(title) for title in titles], (size[0] * larger, size[1] * larger))
    with atomic_path(path) as part, in_a_sentence(path, "cannot be written"):
        with VideoWriter(part, sheet.size, times - times[0]) as writer:
            for number, (time, pictures) in enumerate(zip(times.tolist(), clips, strict=True)):
                # Cubes keep their pixels.
                large = [enlarge_smoothly(pictures[0][None], _SIDE)[0], *(enlarge(one, _SIDE) for one in pictures[1:])]
                writer.write(sheet.draw(large, time), number)
