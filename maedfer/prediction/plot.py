"""Timelines: what each face of a video showed, moment by moment, as a figure for a paper."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer._figure_style import INK, LINE, MUTED, styled
from maedfer._files import atomic_path
from maedfer.data.video.base import shown
from maedfer.errors import require, shortened
from maedfer.prediction.class_colours import class_colours, face_colour, is_dark
from maedfer.prediction.courses import Course, Stretch, VideoCourse, means_over, video_course
from maedfer.prediction.rows import Row
from maedfer.prediction.thumbnails import choose_peaks, read_thumbnails

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Faces that have a panel: those that are there for longest.
MOST_FACES = 12
# Inches.
_WIDTH, _LEFT, _RIGHT = 10.0, 0.78, 0.26
_STACK, _RIBBON, _THUMB, _GAP = 0.86, 0.2, 0.66, 0.3
_ABSENT = "#f1f2f4"
_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
# Fonts with letters that the first one lacks, where they are installed.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
)


@styled
def plot_timeline(
    rows: Sequence[Row],
    classes: Sequence[str],
    *,
    title: str = "",
    note: str = "",
    video: str | Path | None = None,
    fps: float | None = None,
    margin: float | None = 1.3,
    duration: float | None = None,
) -> Figure:
    """Draw a timeline for each face: probabilities as stacked areas, the most probable class below, faces at the peaks.

    Args:
        rows: of one video, in the order of the table.
        classes: names of the classes.
        title: on top; the video's name, if there is none.
        note: below, for example what confidences are worth.
        video: file or folder of frames that faces are cut out of; None = no pictures.
        fps: frames a second of a folder of frames.
        margin: side of these squares, in longer sides of a face's box; None = frames are crops of a face already.
        duration: seconds from the video's start to its end; None = up to the end of the last window.

    Returns:
        A figure with the Agg canvas; nothing of pyplot's state is touched.
    """
    _use_letters()
    scene = video_course(rows, duration or 0.0)
    told = _by_importance(scene.courses)[:MOST_FACES]
    courses = [course for course in scene.courses if course in told]
    pictures: dict[int, list[tuple[Row, Any]]] = {}
    notes = [note[0].upper() + note[1:].rstrip(".") + "."] if note else []
    if video is not None:
        peaks = {course.face: choose_peaks(course.rows, scene.start, scene.end) for course in courses}
        pictures, problem = read_thumbnails(video, peaks, fps, margin)
        notes += [problem] if problem else []
    if len(told) < len(scene.courses):
        notes.insert(0, f"{len(scene.courses) - len(told)} more faces, which are there for less time, are not shown.")
    if scene.hop < scene.moment:
        notes.append(f"What is drawn are means over {scene.moment:.3g} s.")

    name = title or (shown(Path(rows[0].video).name) if rows else "")
    sheet = _Sheet(class_colours(classes), classes, scene, courses, bool(pictures))
    sheet.head(name, _subtitle(rows, scene))
    for course in courses:
        sheet.panel(course, pictures.get(course.face, []))
    if not courses:
        sheet.nobody()
    sheet.foot(notes)
    return sheet.figure


def save_timeline(figure: Figure, path: str | Path) -> None:
    """Write a figure as png, pdf or svg, by the name's ending; the same figure gives the same bytes.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".") or "png"
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with atomic_path(path) as part, warnings.catch_warnings():
        # A letter that no font has is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(part, format=kind, metadata=metadata)


class _Sheet:
    """The figure while it is drawn, from top to bottom; positions are inches from the left and from the top."""

    def __init__(
        self, colours: list[str], classes: Sequence[str], scene: VideoCourse, courses: list[Course], pictures: bool
    ) -> None:
        self.colours, self.classes, self.scene, self.pictures = colours, classes, scene, pictures
        self.panels = max(1, len(courses))
        self.thumb = (_THUMB + 0.2) if pictures else 0.0
        # Long enough for whatever comes; cut in the end.
        self.height = 3.0 + self.panels * (_STACK + _RIBBON + _GAP + self.thumb) + 0.25 * len(classes)
        self.figure: Figure = require("matplotlib.figure", "predict").Figure(figsize=(_WIDTH, self.height), dpi=200)
        require("matplotlib.backends.backend_agg", "predict").FigureCanvasAgg(self.figure)
        self.axes: list[Axes] = []
        self.texts: list[tuple[Any, float, float]] = []
        self.boxes: list[tuple[Any, tuple[float, float, float, float]]] = []
        self.y = 0.12

    def text(self, x: float, y: float, words: str, **style: Any) -> Any:
        """Put words, as they are, at a place; returns the artist."""
        words = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", words)
        text = self.figure.text(0, 0, words, parse_math=False, **{"va": "top", **style})
        self.texts.append((text, x, y))
        return text

    def add_axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose left upper corner is at a place."""
        axis: Axes = self.figure.add_axes((0.1, 0.1, 0.1, 0.1))
        self.boxes.append((axis, (x, y, width, height)))
        return axis

    def width_of(self, text: Any) -> float:
        """Inches."""
        extent = text.get_window_extent(self.figure.canvas.get_renderer())  # type: ignore[attr-defined]
        return float(extent.width) / self.figure.dpi

    def head(self, title: str, subtitle: str) -> None:
        """Title, what it is about, and the legend."""
        self.text(_LEFT, self.y, shortened(title, 96), fontsize=11, fontweight="bold", color=INK)
        self.y += 0.25
        self.text(_LEFT, self.y, subtitle, fontsize=8, color=MUTED)
        self.y += 0.24
        x = _LEFT
        for name, colour in zip(self.classes, self.colours, strict=True):
            label = self.text(x + 0.17, self.y, shortened(shown(name), 48), fontsize=8, color=INK)
            width = self.width_of(label)
            if x > _LEFT and x + 0.17 + width > _WIDTH - _RIGHT:
                x, self.y = _LEFT, self.y + 0.19
                self.texts[-1] = (label, x + 0.17, self.y)
            self._square(x, self.y + 0.015, colour)
            x += 0.17 + width + 0.22
        self.y += 0.3

    def _square(self, x: float, y: float, colour: str) -> None:
        axis = self.add_axes(x, y, 0.11, 0.11)
        axis.set_facecolor(colour)
        _bare(axis)

    def panel(self, course: Course, pictures: list[tuple[Row, Any]]) -> None:
        """One face: pictures, probabilities, the most probable class."""
        top = self.y + self.thumb
        stack = self.add_axes(_LEFT, top, self._span, _STACK)
        ribbon = self.add_axes(_LEFT, top + _STACK + 0.03, self._span, _RIBBON)
        self.axes += [stack, ribbon]
        for axis in (stack, ribbon):
            axis.set_xlim(self.scene.start, self.scene.end)
            axis.set_ylim(0, 1)
            axis.spines[:].set_visible(False)
            axis.tick_params(bottom=False, labelbottom=False)
        stack.set_yticks([0, 0.5, 1], ["0", "50", "100%"], fontsize=7)
        ribbon.set_yticks([])
        self._gaps(stack, ribbon, course)
        for stretch in course.stretches:
            times, chances = _drawn(stretch, self.scene.moment)
            narrow = len(times) > 18 * (self._inches(stretch.end) - self._inches(stretch.start))
            edge = {"linewidth": 0} if narrow else {"linewidth": 0.4, "edgecolor": "white"}
            stack.stackplot(times, chances.T, colors=self.colours, **edge)
            self._winners(ribbon, stretch)
        middle = top + _STACK / 2
        self.text(0.12, middle - 0.14, f"Face {course.face}", fontsize=9, fontweight="bold", color=INK, va="center")
        self.text(0.12, middle + 0.03, clock(course.seconds, True), fontsize=7.5, color=MUTED, va="center")
        marker = self.add_axes(0.12, middle - 0.36, 0.42, 0.035)
        marker.set_facecolor(face_colour(course.face))
        _bare(marker)
        self._faces(stack, top, pictures)
        self.y = top + _STACK + 0.03 + _RIBBON + _GAP

    def nobody(self) -> None:
        """The panel of a video without a face."""
        axis = self.add_axes(_LEFT, self.y, self._span, _STACK)
        self.axes.append(axis)
        axis.set_xlim(self.scene.start, self.scene.end)
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.tick_params(bottom=False, labelbottom=False)
        _hatch(axis, self.scene.start, self.scene.end)
        axis.text(0.5, 0.5, "no face was found", transform=axis.transAxes, ha="center", va="center", color=MUTED)
        self.y += _STACK + _GAP

    def foot(self, notes: list[str]) -> None:
        """The time axis and the notes; then everything gets its place."""
        last = self.axes[-1]
        step = next((step for step in _STEPS if (self.scene.end - self.scene.start) / step <= 12), _STEPS[-1])
        ticks = np.arange(np.ceil(self.scene.start / step - 1e-9), np.floor(self.scene.end / step + 1e-9) + 1) * step
        for axis in self.axes:
            axis.set_xticks(ticks)
            axis.grid(True, axis="x", color="white", linewidth=0.5, alpha=0.6)
        last.tick_params(bottom=True, labelbottom=True)
        last.set_xticklabels([clock(tick + 0.0, step < 1) for tick in ticks])
        self.y += 0.02
        self.text(_WIDTH - _RIGHT, self.y + 0.02, "time (min:s)", fontsize=7.5, color=MUTED, ha="right")
        y = self.y + 0.02
        for line in _wrapped(notes, 118):
            self.text(_LEFT, y, line, fontsize=7.5, color=MUTED)
            y += 0.15
        height = max(y, self.y + 0.2) + 0.08
        self.figure.set_size_inches(_WIDTH, height)
        for text, x, top in self.texts:
            text.set_position((x / _WIDTH, 1 - top / height))
        for axis, (x, top, width, tall) in self.boxes:
            axis.set_position((x / _WIDTH, 1 - (top + tall) / height, width / _WIDTH, tall / height))

    @property
    def _span(self) -> float:
        return _WIDTH - _LEFT - _RIGHT

    def _inches(self, time: float) -> float:
        return _LEFT + (time - self.scene.start) / (self.scene.end - self.scene.start) * self._span

    def _gaps(self, stack: Axes, ribbon: Axes, course: Course) -> None:
        edges = [self.scene.start, *(edge for piece in course.stretches for edge in piece[:2]), self.scene.end]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if end - start < 1e-6:
                continue
            for axis in (stack, ribbon):
                _hatch(axis, start, end)
            at = start
            for low, high in [*self.scene.empty, (end, end)]:
                low, high = min(max(low, start), end), min(max(high, start), end)
                self._say(stack, at, low, "away")
                if high > low:
                    stack.axvspan(low, high, facecolor=LINE, edgecolor="none", zorder=0.6)
                    self._say(stack, low, high, "no face")
                at = max(at, high)

    def _say(self, axis: Axes, start: float, end: float, words: str) -> None:
        """Words in the middle of a gap that has room for them."""
        if self._inches(end) - self._inches(start) > 0.6:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8}
            axis.text((start + end) / 2, 0.5, words, ha="center", va="center", fontsize=7.5, color=MUTED, bbox=box)

    def _winners(self, ribbon: Axes, stretch: Stretch) -> None:
        """The most probable class over time, with its name where there is room."""
        times, chances = means_over(stretch, self.scene.moment)
        best = chances.argmax(1)
        between = [stretch.start, *((times[1:] + times[:-1]) / 2), stretch.end]
        changes = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
        room = self._inches(stretch.end) - self._inches(stretch.start)
        line = 0.6 if len(changes) < 18 * room else 0.0
        for first, last in pairwise(changes):
            start, end, which = between[first], between[last], int(best[first])
            colour = self.colours[which]
            ribbon.axvspan(start, end, facecolor=colour, edgecolor="white", linewidth=line)
            name = shown(self.classes[which])
            letters = int((self._inches(end) - self._inches(start) - 0.08) / 0.068)
            if len(name) > letters and letters >= 4:
                name = name[: letters - 1] + "."
            if len(name) <= letters:
                ink = "white" if is_dark(colour) else INK
                ribbon.text(
                    (start + end) / 2, 0.46, name, ha="center", va="center", fontsize=7, color=ink, parse_math=False
                )

    def _faces(self, stack: Axes, top: float, pictures: list[tuple[Row, Any]]) -> None:
        """Pictures above the moments that they show, moved aside where they would cover each other."""
        spots = _spread([self._inches(row.window.time) for row, _ in pictures], _THUMB + 0.14, _LEFT, self._span)
        for spot, (row, picture) in zip(spots, pictures, strict=True):
            assert row.probabilities is not None
            best = int(row.probabilities.argmax())
            axis = self.add_axes(spot - _THUMB / 2, top - _THUMB - 0.09, _THUMB, _THUMB)
            axis.imshow(picture, interpolation="lanczos", aspect="auto")
            _bare(axis)
            axis.spines[:].set(visible=True, color=self.colours[best], linewidth=1.8)
            words = f"{100 * row.probabilities[best]:.0f}%"
            name = shown(self.classes[best])
            name = name if len(name) <= 9 else name[:8] + "."
            axis.set_title(
                f"{name} {words}", fontsize=6.5, fontweight="normal", loc="center", pad=2.5, parse_math=False
            )
            # From the picture's foot to its moment.
            foot = self.scene.start + (spot - _LEFT) / self._span * (self.scene.end - self.scene.start)
            stack.plot(
                [foot, row.window.time], [1 + 0.09 / _STACK, 1.0], color=self.colours[best], linewidth=1, clip_on=False
            )
            stack.plot([row.window.time], [1.0], marker="v", markersize=3, color=self.colours[best], clip_on=False)


def clock(seconds: float, parts: bool = False) -> str:
    """A time as m:ss or h:mm:ss, with tenths of seconds if wanted and below a minute."""
    if parts and seconds < 60 and round(seconds, 1) < 60:
        return f"0:{seconds:04.1f}"
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return (f"{whole // 3600}:" if whole >= 3600 else "") + f"{minutes}:{whole % 60:02d}"


def _by_importance(courses: list[Course]) -> list[Course]:
    return sorted(courses, key=lambda course: (-course.seconds, course.face))


def _drawn(stretch: Stretch, moment: float) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn of a stretch: its windows, and what the first and the last one stand for."""
    times, chances = means_over(stretch, moment)
    return np.concatenate([[stretch.start], times, [stretch.end]]), np.concatenate([chances[:1], chances, chances[-1:]])


def _spread(wanted: list[float], width: float, left: float, span: float) -> list[float]:
    """Places of pictures of a width, as near to the wanted, rising ones as they can be without covering each other."""
    low, high = left + width / 2 - 0.07, left + span - width / 2 + 0.07
    spots: list[float] = []
    for place in wanted:
        spots.append(max(min(place, high), low, spots[-1] + width if spots else low))
    for index in reversed(range(len(spots))):
        limit = high if index == len(spots) - 1 else spots[index + 1] - width
        spots[index] = min(spots[index], limit)
    return spots


def _subtitle(rows: Sequence[Row], scene: VideoCourse) -> str:
    if not rows:
        return "no windows"
    count = len(scene.courses)
    window = float(np.mean([row.window.end - row.window.start for row in rows]))
    faces = "no face" if not count else "1 face" if count == 1 else f"{count} faces"
    windows = len({row.window.number for row in rows})
    # Times are those of frames, so that no window is as long as was asked for to the digit.
    looked = f"windows of {round(window, 1):g} s every {scene.hop:.3g} s"
    if windows == 1:
        looked = f"1 window of {window:.2f} s"
    elif count and all(len(course.rows) == 1 for course in scene.courses):
        looked = "1 window each"
    return f"{clock(scene.end - scene.start, True)} · {faces} · {looked}"


def _wrapped(notes: list[str], width: int) -> list[str]:
    import textwrap

    return [line for note in notes for line in textwrap.wrap(shown(note), width)]


def _hatch(axis: Axes, start: float, end: float) -> None:
    axis.axvspan(start, end, facecolor=_ABSENT, edgecolor=LINE, hatch="////", linewidth=0, zorder=0.5)


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _use_letters() -> None:
    """Within the style, let letters that the first font lacks come from others that are installed."""
    manager = require("matplotlib.font_manager", "predict").fontManager
    there = {font.name for font in manager.ttflist}
    require("matplotlib", "predict").rcParams["font.family"] = [name for name in _FONTS if name in there]
