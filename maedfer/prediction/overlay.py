"""What is drawn into a frame of an annotated video: boxes, numbers of faces, names of classes, bars."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from maedfer.data.video.base import shown
from maedfer.errors import require
from maedfer.prediction.class_colours import class_colours, face_colour, is_dark

# Bars that a face has at most, and the share of the frame's height that they may take.
_MOST_BARS, _SHARE = 12, 0.6
_SMALLEST = 12
_LONGEST_NAME = 16

Box = tuple[float, float, float, float]
Area = tuple[int, int, int, int]


class FaceNow(NamedTuple):
    """A face in one frame.

    Args:
        face: its number.
        box: x, y, width, height in pixels; None where the frame is a crop of the face.
        chances: float64 [classes]; None where no window tells of this moment.
    """

    face: int
    box: Box | None
    chances: np.ndarray | None


class Overlay:
    """Draws faces into the frames of a video.

    Args:
        classes: names of the classes.
        size: height and width of the frames.
        usual: float64 [classes], mean probabilities; where there is no room for all classes, those of the largest
            have bars.
    """

    def __init__(self, classes: Sequence[str], size: tuple[int, int], usual: np.ndarray) -> None:
        self._pen, font = require("PIL.ImageDraw", "video"), require("PIL.ImageFont", "video")
        self._image = require("PIL.Image", "video")
        self.height, self.width = size
        letters = max(_SMALLEST, round(min(size) / 34))
        self.font: Any = font.load_default(size=letters)
        self.line = round(1.35 * letters)
        self.pad = max(2, letters // 4)
        self.stroke = max(2, round(min(size) / 240))
        self.names = [_short(name) for name in classes]
        self.colours = class_colours(classes)
        room = max(1, int(_SHARE * self.height) // self.line)
        count = min(_MOST_BARS, room, len(classes))
        # In their own order, so that no bar changes its place.
        self.bars = sorted(np.argsort(-usual, kind="stable")[:count].tolist())
        self.name_width = max((self._width(self.names[which]) for which in self.bars), default=0)
        self.bar_width = 4 * letters
        self.panel = (
            self.name_width + self.bar_width + 3 * self.pad,
            count * self.line + 2 * self.pad,
        )
        self._sides: dict[int, int] = {}

    def draw(self, picture: np.ndarray, faces: Sequence[FaceNow]) -> np.ndarray:
        """Draw into a copy of a frame.

        Args:
            picture: uint8 [H, W, 3].
            faces: that are there.

        Returns:
            uint8 [H, W, 3].
        """
        if not faces:
            return picture
        picture = picture.copy()
        taken = [self._area(face.box) for face in faces if face.box is not None]
        places = []
        for face in faces:
            place = None if face.chances is None else self._place(face, taken)
            if place is not None:
                taken.append(place)
                # Dark behind the bars, and what is behind still to be seen.
                behind = picture[place[1] : place[3], place[0] : place[2]]
                behind[:] = (behind * 0.35 + 14).astype(np.uint8)
            places.append(place)
        image = self._image.fromarray(picture)
        pen = self._pen.Draw(image)
        for face, place in zip(faces, places, strict=True):
            if face.box is not None:
                pen.rectangle(self._area(face.box), outline=face_colour(face.face), width=self.stroke)
            if place is not None and face.chances is not None:
                self._draw_bars(pen, place, face.chances)
            self._draw_tag(pen, face)
        return np.asarray(image)

    def _area(self, box: Box) -> Area:
        x, y, width, height = box
        return round(x), round(y), round(x + width), round(y + height)

    def _place(self, face: FaceNow, taken: Sequence[Area]) -> Area | None:
        """Where the bars of a face are: beside its box, where they cover as little of faces and other bars as can be.

        They stay on their side as long as that is as good as another one.
        """
        width, height = self.panel
        if width > self.width or height > self.height:
            return None
        if face.box is None:
            return 0, self.height - height, width, self.height
        left, top, right, bottom = self._area(face.box)
        gap = self.stroke + self.pad
        spots = [(right + gap, top), (left - gap - width, top), (left, bottom + gap), (left, top - height - gap)]
        areas = []
        for x, y in spots:
            x, y = min(max(x, 0), self.width - width), min(max(y, 0), self.height - height)
            areas.append((x, y, x + width, y + height))
        covered = [sum(_common(area, other) for other in taken) for area in areas]
        side = self._sides.get(face.face, 0)
        if covered[side] > min(covered):
            side = int(np.argmin(covered))
        self._sides[face.face] = side
        return areas[side]

    def _draw_bars(self, pen: Any, place: Area, chances: np.ndarray) -> None:
        x, y = place[0] + self.pad, place[1] + self.pad
        for which in self.bars:
            pen.text((x, y + self.line // 2), self.names[which], fill="white", font=self.font, anchor="lm")
            start = x + self.name_width + self.pad
            length = round(float(chances[which]) * self.bar_width)
            low, high = y + self.line // 5, y + self.line - self.line // 5
            pen.rectangle((start, low, start + self.bar_width, high), fill="#4a4f57")
            if length:
                pen.rectangle((start, low, start + length, high), fill=self.colours[which])
            y += self.line

    def _draw_tag(self, pen: Any, face: FaceNow) -> None:
        """The number of the face and what it shows, on its box."""
        words = str(face.face)
        if face.chances is not None:
            best = int(face.chances.argmax())
            words += f"  {self.names[best]} {100 * face.chances[best]:.0f}%"
        width, height = self._width(words) + 2 * self.pad, self.line
        left, top = (0, 0) if face.box is None else self._area(face.box)[:2]
        left = min(max(left, 0), max(0, self.width - width))
        top = min(max(top - height, 0), max(0, self.height - height))
        colour = face_colour(face.face)
        pen.rectangle((left, top, left + width, top + height), fill=colour)
        ink = "white" if is_dark(colour) else "black"
        pen.text((left + self.pad, top + height // 2), words, fill=ink, font=self.font, anchor="lm")

    def _width(self, words: str) -> int:
        return _measured(self.font, words)


@lru_cache(maxsize=4096)
def _measured(font: Any, words: str) -> int:
    return round(font.getlength(words))


def _short(name: str) -> str:
    name = shown(name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "."


def _common(one: Area, other: Area) -> int:
    """Pixels that two areas share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)
