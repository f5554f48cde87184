"""A video of two drawn people side by side, who show one expression after the other; one leaves and comes back."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maedfer._files import atomic_path
from maedfer.errors import InputError
from maedfer.synthetic.acting import POSE, Performance, draw_pose, draw_units, label_index
from maedfer.synthetic.canvas import add_noise
from maedfer.synthetic.casting import (
    UNITS,
    Colour,
    Draw,
    FaceStyle,
    Seed,
    draw_person,
    draw_scene,
    entropy_of,
    quantise,
)
from maedfer.synthetic.clips import write_h264
from maedfer.synthetic.faces import render_track

FPS = 25
HEIGHT, WIDTH = 160, 320
# Head and shoulders, which a detector knows better than a face alone; all light comes from the front, so that a
# portrait has no border where the wall goes on.
_STYLE = replace(FaceStyle(), zoom=0.8, light=0.0, blur=0.2, pose=0.3)
_SIZE = 120
_RAISED = 0.1
# People whom CenterFace finds with all that they do; they were chosen by trial.
_PEOPLE = (78, 23)
_WALL: tuple[Colour, Colour] = ((0.66, 0.72, 0.75), (0.5, 0.55, 0.58))
# A course of an expression takes so many frames and is repeated; a fade leads from one act to the next.
_COURSE = 40
_FADE = 8
_CHUNK = 50
# The box of a face as detectors draw it: from the forehead, so many half heads above the middle of the head, to the
# chin, and the share of the head's width that hair leaves.
_FOREHEAD = 0.7
_CHEEKS = 0.85


class _Act(NamedTuple):
    """What somebody does from a frame of the scene on: an expression, and where the way leads (0 in place, 1 away)."""

    frame: int
    expression: str
    away_before: float = 0.0
    away_after: float = 0.0


# A round takes 500 frames, 20 s; a longer scene goes on with other draws of the same.
_ROUND = 500
_LEFT = (_Act(0, "happy"), _Act(100, "surprise"), _Act(200, "angry"), _Act(300, "fear"), _Act(400, "sad"))
_RIGHT = (
    _Act(0, "surprise"),
    _Act(100, "happy"),
    _Act(200, "neutral", 0.0, 1.0),
    _Act(230, "neutral", 1.0, 1.0),
    _Act(320, "neutral", 1.0, 0.0),
    _Act(350, "sad"),
    _Act(430, "surprise"),
)


class _Role(NamedTuple):
    """Somebody of the scene: number, subject, left border of the portrait in pixels, pixels to be gone, acts."""

    number: int
    subject: Seed
    left: int
    far: int
    acts: tuple[_Act, ...]

    def act_at(self, frame: int) -> tuple[int, _Act, int]:
        """Which act a frame belongs to, counted over all rounds, that act, and the frame's position in it."""
        rounds, within = divmod(frame, _ROUND)
        index = max(k for k, act in enumerate(self.acts) if act.frame <= within)
        return rounds * len(self.acts) + index, self.acts[index], within - self.acts[index].frame

    def length(self, act: _Act) -> int:
        """Frames of an act."""
        later = [other.frame for other in self.acts if other.frame > act.frame]
        return (later[0] if later else _ROUND) - act.frame

    def away(self, frame: int) -> float:
        """How far somebody has gone, in pixels."""
        _, act, position = self.act_at(frame)
        share = position / self.length(act)
        return self.far * (act.away_before + (act.away_after - act.away_before) * share)


_ROLES = (_Role(1, _PEOPLE[0], 20, 0, _LEFT), _Role(2, _PEOPLE[1], 164, 156, _RIGHT))


def write_scene(path: str | os.PathLike[str], seconds: float = 20.0, seed: Seed = 0) -> Path:
    """Write a video of two people, 320 x 160 at 25 frames/s, and beside it what is true of it.

    One of them is gone from the ninth second to the thirteenth. The same arguments give the same bytes.

    Args:
        path: the video, .mp4.
        seconds: its length; after 20 s the same acts follow with other draws.
        seed: of what is drawn besides the acts: strengths, timing, looks, noise.

    Returns:
        Path of the truth, `path` with the ending .truth.csv: a row for each frame and face that is seen by half or
        more, `frame, time, face, x, y, width, height, expression`: time in seconds, the box from forehead to chin in
        pixels, face 1 on the left and 2 on the right, before and after the absence. It can be given as boxes.

    Raises:
        InputError: not .mp4, shorter than a frame, or it cannot be written.
    """
    path = Path(path)
    frames = round(seconds * FPS) if np.isfinite(seconds) else 0
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{str(path)!r} must end in .mp4, as a scene is written as one")
    if frames < 1:
        raise InputError(f"a scene has at least one frame, got seconds={seconds:g} at {FPS} frames a second")
    truth = path.with_suffix(".truth.csv")
    with atomic_path(path) as video, atomic_path(truth) as table, table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow("frame time face x y width height expression".split())
        write_h264(str(video), _pictures(frames, entropy_of(seed), rows.writerow), FPS, key_every=FPS)
    return truth


def _pictures(
    frames: int, seed: tuple[int, ...], write_row: Callable[[list[Any]], object]
) -> Iterator[NDArray[np.uint8]]:
    """Paint the pictures, uint8 [H, W, 3] each, and write their rows of the truth."""
    for start in range(0, frames, _CHUNK):
        part = range(start, min(start + _CHUNK, frames))
        chunk = np.repeat(_wall()[None], len(part), axis=0)
        seen = [_paint(chunk, part, role, seed) for role in _ROLES]
        for position, frame in enumerate(part):
            for role, boxes in zip(_ROLES, seen, strict=True):
                x, width = boxes[position, 0], boxes[position, 2]
                if min(x + width, WIDTH) - max(x, 0.0) >= width / 2:
                    box = (f"{value:.2f}" for value in boxes[position])
                    write_row([frame, f"{frame / FPS:.3f}", role.number, *box, role.act_at(frame)[1].expression])
        yield from add_noise(chunk, 1.2, *seed, start)


def _wall() -> NDArray[np.uint8]:
    """The wall behind everybody, uint8 [H, W, 3], which meets that of the portraits."""
    down = (np.arange(HEIGHT) + 0.5 - (HEIGHT - _SIZE)) / _SIZE
    top, bottom = np.array(_WALL)
    column = np.clip(top + (bottom - top) * down[:, None], 0, 1) * 255 + 0.5
    return np.repeat(column.astype(np.uint8)[:, None], WIDTH, axis=1)


def _paint(chunk: NDArray[np.uint8], part: range, role: _Role, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """Paint somebody into the frames of a part; returns the boxes of the face, [T, 4]."""
    away = np.array([role.away(frame) for frame in part])
    left = role.left + away
    whole = np.floor(left).astype(int)
    show = _performance(part, role, seed)
    # The share of a pixel, a turn of the head along the way, and steps.
    pose = show.pose.copy()
    walking = (away > 0) & (away < role.far)
    direction = np.sign(np.diff(away, append=away[-1:]))
    pose[:, POSE.index("y")] -= _RAISED
    pose[:, POSE.index("x")] += 2 * (left - whole) / _SIZE
    pose[:, POSE.index("yaw")] += 0.12 * direction * walking
    pose[:, POSE.index("y")] += quantise(0.02 * np.abs(np.sin(away / 9)) * walking)
    show = replace(show, pose=quantise(pose))
    visible = [position for position in range(len(part)) if whole[position] < WIDTH]
    if visible:
        shown = replace(show, units=show.units[visible], pose=show.pose[visible])
        for position, portrait in zip(visible, render_track(shown, _SIZE), strict=True):
            at = whole[position]
            width = min(_SIZE, WIDTH - at)
            chunk[position, HEIGHT - _SIZE :, at : at + width] = portrait[:, :width]
    return _boxes(show, whole)


def _boxes(show: Performance, left: NDArray[np.int64]) -> NDArray[np.float64]:
    x, y, scale = (show.pose[:, POSE.index(name)] for name in ("x", "y", "scale"))
    jaw = show.shapes()[:, UNITS.index("jaw")] + show.pose[:, POSE.index("talk")]
    chin = 1 + 0.09 * np.clip(jaw, 0, 1.3)
    unit = _SIZE / 2
    half = scale * show.person.width * _CHEEKS * unit
    top = HEIGHT - _SIZE + (1 + y - _FOREHEAD * scale) * unit
    return np.stack([left + (1 + x) * unit - half, top, 2 * half, (chin + _FOREHEAD) * scale * unit], axis=1)


def _performance(part: range, role: _Role, seed: tuple[int, ...]) -> Performance:
    """What somebody does in the frames of a part."""
    person = draw_person(role.subject, _STYLE)
    units, pose = np.empty((len(part), len(UNITS))), np.empty((len(part), len(POSE)))
    acts: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def act(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if number not in acts:
            what = role.acts[number % len(role.acts)]
            length = role.length(what) + _FADE
            entropy = (*seed, role.number, number)
            label = label_index(what.expression)
            course = draw_units(Draw(2, *entropy), label, _COURSE, _STYLE)
            acts[number] = course, draw_pose(Draw(3, *entropy), length, _STYLE, _COURSE)
        return acts[number]

    for row, frame in enumerate(part):
        number, _, position = role.act_at(frame)
        course, poses = act(number)
        units[row], pose[row] = course[position % _COURSE], poses[position]
        if position < _FADE and number > 0:
            # The act before goes on for a moment, and fades.
            weight = (position + 1) / (_FADE + 1)
            at = role.length(role.acts[(number - 1) % len(role.acts)]) + position
            course, poses = act(number - 1)
            units[row] = weight * units[row] + (1 - weight) * course[at % _COURSE]
            pose[row] = weight * pose[row] + (1 - weight) * poses[at]
    top, bottom = _WALL
    scene = replace(draw_scene(Draw(4, *seed), _STYLE), wall_top=top, wall_bottom=bottom, blobs=())
    return Performance(quantise(person.expressivity * units), quantise(pose), person, scene)
