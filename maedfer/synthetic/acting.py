"""What a face does in a clip: the frame-by-frame course of an expression, of the head, the gaze and the speech.

Everything here is numbers; `maedfer.synthetic.faces` turns them into pixels. Trajectories are rounded to 2^-16, so that
the last bit of a machine's sine does not reach a picture.

Seven classes, five faces. What a clip of each class shows:

- happy, sad: a face of their own, held for a while; onset and offset are equally fast on average.
- neutral: a faint, random stirring.
- surprise and fear share one face. Surprise breaks out within a few frames and fades slowly; fear creeps up slowly and
  breaks off within a few frames. A fear clip is the surprise clip of the same seed played backwards, pose and all.
- angry and disgust share one face. Anger swells once over the whole clip; disgust is two retches, each twice as fast.
  A disgust clip shows the facial actions of the angry clip of the same seed in another order: the even frames, then
  the odd ones. Head, gaze, blinks and speech run on undisturbed; they are stationary and drawn independently of the
  expression.

A clip is entered at any moment of its course: what runs over the end comes round at the beginning, where the face is
at rest in every class. So the frame at any given position has exactly the same distribution in both classes of a pair,
and all frames of a clip together show the same faces: only the order in which they come tells the two apart. A
horizontal flip changes no class, as every facial action is symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maedfer.errors import InputError, unknown
from maedfer.synthetic.casting import (
    UNITS,
    Draw,
    FaceStyle,
    Person,
    Scene,
    Seed,
    draw_person,
    draw_scene,
    entropy_of,
    quantise,
)

EXPRESSIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
TWINS = (("surprise", "fear"), ("angry", "disgust"))

POSE = ("x", "y", "scale", "roll", "yaw", "pitch", "gaze_x", "gaze_y", "blink", "talk", "light")

# Strength of each facial action at the apex; up, open and wide are positive.
APEX: dict[str, dict[str, float]] = {
    "happy": {"corner": 1.0, "stretch": 0.55, "jaw": 0.3, "lip_upper": 0.3, "lid_lower": 0.7, "brow_outer": 0.1},
    "sad": {"brow_inner": 0.95, "brow_outer": -0.45, "lid_upper": -0.45, "corner": -0.85, "stretch": -0.25},
    "neutral": {},
    "angry": {
        "brow_inner": -1.0,
        "brow_squeeze": 0.9,
        "brow_outer": 0.15,
        "lid_lower": 0.55,
        "nose": 0.7,
        "lip_upper": 0.35,
        "corner": -0.55,
        "stretch": 0.1,
        "jaw": 0.2,
    },
    "surprise": {"brow_inner": 0.85, "brow_outer": 0.85, "lid_upper": 0.9, "jaw": 0.95, "stretch": -0.25},
}


@dataclass(frozen=True)
class Performance:
    """All that a clip's pixels depend on, sensor noise aside.

    Attributes:
        units: [T, len(UNITS)] facial actions relative to the subject's resting face.
        pose: [T, len(POSE)] head position (canvas is [-1, 1]), size, angles (rad), gaze, blink and speech in [0, 1],
            brightness.
        person: looks of the subject.
        scene: background, light, camera.
    """

    units: NDArray[np.float64]
    pose: NDArray[np.float64]
    person: Person
    scene: Scene

    def shapes(self) -> NDArray[np.float64]:
        """Facial actions as seen, resting face included: [T, len(UNITS)]."""
        return self.units + np.array(self.person.rest)


def label_index(label: int | str) -> int:
    """Return the class index of a label given as index or name."""
    if isinstance(label, str):
        if label not in EXPRESSIONS:
            raise unknown("expression", label, EXPRESSIONS)
        return EXPRESSIONS.index(label)
    if not 0 <= label < len(EXPRESSIONS):
        raise InputError(f"label {label} is out of range: there are {len(EXPRESSIONS)} expressions, 0 to 6")
    return int(label)


def draw_pose(d: Draw, frames: int, style: FaceStyle, course: int | None = None) -> NDArray[np.float64]:
    """Draw head pose, gaze, blinks, speech and brightness over time: stationary, alike in all classes.

    `course` frames take the time of a clip; default: all of them.
    """
    time = np.arange(frames) * (48.0 / (course or frames))

    def drift(base: float, wander: float, shortest: float = 60.0) -> NDArray[np.float64]:
        waves = sum(np.sin(2 * np.pi * (time / d.uniform(shortest, 4 * shortest) + d.uniform(0, 1))) for _ in range(2))
        return base + 0.7 * wander * waves

    p, zoom = style.pose, style.zoom
    # A closer picture is centred lower: on the face rather than on the head.
    centre = 0.27 * (zoom - 1)
    track = {
        "x": drift(0.05 * p * zoom * d.normal(), 0.03 * p * zoom),
        "y": drift(0.02 * zoom - centre + 0.04 * p * zoom * d.normal(), 0.02 * p * zoom),
        "scale": drift(zoom * (0.84 + 0.035 * p * d.normal()), 0.012 * p * zoom),
        "roll": drift(0.08 * p * d.normal(), 0.05 * p),
        "yaw": drift(0.16 * p * d.normal(), 0.1 * p),
        "pitch": drift(0.07 * p * d.normal(), 0.05 * p),
        "gaze_x": drift(0.25 * d.normal(), 0.25, 30.0),
        "gaze_y": drift(0.15 * d.normal(), 0.12, 30.0),
        "light": drift(1.0 + 0.1 * style.light * d.normal(), 0.02 * style.light),
    }
    # One blink in about every second clip, its middle equally likely at any frame.
    distance = np.abs(time - d.uniform(-30.0, 78.0))
    track["blink"] = np.clip(1.6 - distance / 2.2, 0.0, 1.0)
    rate, phase, wave, shift = d.uniform(5.0, 9.0), d.uniform(0, 1), d.uniform(30.0, 90.0), d.uniform(0, 1)
    loud = style.talk * d.uniform(0.0, 1.0) * np.clip(np.sin(2 * np.pi * (time / wave + shift)), 0.0, None)
    track["talk"] = loud * (0.5 + 0.5 * np.sin(2 * np.pi * (time / rate + phase)))
    return quantise(np.stack([track[name] for name in POSE], axis=1))


def draw_units(d: Draw, label: int, frames: int, style: FaceStyle) -> NDArray[np.float64]:
    """Draw the facial actions of an expression over time, before the subject's expressivity.

    The draws are the same for every class, so that clips of one seed differ by their class alone.
    """
    low, high = style.amplitude
    amplitude = d.uniform(low, high)
    gains = [1.0 + style.variation * d.normal() for _ in UNITS]
    stray = [0.3 * style.variation * d.normal() for _ in UNITS]
    lags = [d.uniform(-1.5, 1.5) for _ in UNITS]
    entry, rise, hold, fall = (d.uniform(0, 1) for _ in range(4))
    stir = d.uniform(0.0, 1.0)

    name = EXPRESSIONS[label]
    face = {"fear": "surprise", "disgust": "angry"}.get(name, name)
    apex = APEX[face]
    pulse = face == "angry"
    if name == "disgust" and not style.pulse_twin:
        apex = {"nose": 1.0, "lip_upper": 1.0, "corner": -0.3, "lid_lower": 0.6, "lid_upper": -0.4, "brow_outer": -0.5}
    # Onset, hold and offset, in frames of a 48-frame clip.
    if face == "surprise":
        onset, held, offset = 3.5 + 3 * rise, 3 + 5 * hold, 19 + 10 * fall
    elif pulse and style.pulse_twin:
        onset, held, offset = 13 + 3 * rise, 6 + 6 * hold, 13 + 3 * fall
    else:
        onset, held, offset = 6 + 8 * rise, 8 + 8 * hold, 6 + 8 * fall

    time = np.arange(frames) * (48.0 / frames)
    units = np.empty((frames, len(UNITS)))
    for k, unit in enumerate(UNITS):
        begin = 1.75 + lags[k]
        course = _ramp((time - begin) / onset) * (1.0 - _ramp((time - begin - onset - held) / offset))
        strength = stir * (gains[k] - 1.0) if name == "neutral" else apex.get(unit, 0.0) * gains[k] + stray[k]
        units[:, k] = amplitude * strength * course
    if name == "disgust" and style.pulse_twin:
        units = np.concatenate([units[0::2], units[1::2]])
    # Every course begins and ends at rest, so that it can be entered anywhere and come round.
    units = np.roll(units, int(entry * frames) if style.any_start else 0, axis=0)
    if name == "fear":
        units = units[::-1]
    return units


def draw_track(seed: Seed, label: int | str, subject: Seed, frames: int, style: FaceStyle) -> Performance:
    """Draw everything that a clip shows.

    Args:
        seed: of the clip: its strength, timing, pose, scene. Clips of one seed differ by class and subject alone.
        label: index into EXPRESSIONS, or a name.
        subject: of the person.
        frames: length T.
        style: difficulty.

    Raises:
        InputError: unknown label, negative seed, no frames.
    """
    index = label_index(label)
    if frames < 1:
        raise InputError(f"a clip has at least one frame, got frames={frames}")
    clip = entropy_of(seed)
    person = draw_person(subject, style)
    units = quantise(person.expressivity * draw_units(Draw(2, *clip), index, frames, style))
    pose = draw_pose(Draw(3, *clip), frames, style)
    if EXPRESSIONS[index] == "fear":
        pose = pose[::-1]
    return Performance(units, pose, person, draw_scene(Draw(4, *clip), style))


def _ramp(s: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Smooth step from 0 at s = 0 to 1 at s = 1."""
    s = np.clip(s, 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)
