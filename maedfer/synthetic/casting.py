"""Who is seen, and where: the looks of persons and scenes, and the settings and random numbers behind them.

All draws come from the raw output of PCG64, whose stream NumPy guarantees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maedfer.errors import InputError

Seed = int | Sequence[int]
Colour = tuple[float, float, float]

UNITS = (
    "brow_inner",
    "brow_outer",
    "brow_squeeze",
    "lid_upper",
    "lid_lower",
    "nose",
    "lip_upper",
    "corner",
    "stretch",
    "jaw",
    "press",
)
# Spread of the faces at rest: on the scale of APEX, so that resting faces look like weak expressions.
REST = {
    "brow_inner": 0.38,
    "brow_outer": 0.3,
    "brow_squeeze": 0.25,
    "lid_upper": 0.3,
    "lid_lower": 0.2,
    "corner": 0.36,
    "stretch": 0.3,
    "press": 0.4,
}

_SKIN = (
    (0.99, 0.87, 0.77),
    (0.95, 0.78, 0.64),
    (0.87, 0.67, 0.51),
    (0.72, 0.51, 0.36),
    (0.55, 0.37, 0.26),
    (0.42, 0.28, 0.2),
)
_HAIR = (
    (0.1, 0.08, 0.09),
    (0.22, 0.14, 0.1),
    (0.4, 0.26, 0.16),
    (0.84, 0.65, 0.4),
    (0.62, 0.29, 0.14),
    (0.7, 0.69, 0.68),
)
_IRIS = ((0.28, 0.17, 0.09), (0.38, 0.25, 0.12), (0.25, 0.42, 0.6), (0.3, 0.45, 0.3), (0.4, 0.42, 0.45))
_SHIRT = (
    (0.2, 0.3, 0.5),
    (0.7, 0.25, 0.25),
    (0.25, 0.45, 0.38),
    (0.9, 0.88, 0.84),
    (0.2, 0.2, 0.23),
    (0.85, 0.65, 0.3),
    (0.5, 0.36, 0.56),
)
_WALL = (
    (0.72, 0.8, 0.86),
    (0.86, 0.82, 0.74),
    (0.66, 0.76, 0.68),
    (0.84, 0.74, 0.76),
    (0.45, 0.5, 0.6),
    (0.58, 0.5, 0.44),
    (0.35, 0.42, 0.4),
    (0.78, 0.78, 0.8),
)


@dataclass(frozen=True)
class FaceStyle:
    """How hard the task is.

    At the defaults a small 3-D convolutional network trained from scratch on 280 clips reaches about half of the
    clips of unseen subjects, and confuses mostly the classes of a pair; on 560 clips, nearly three quarters. With
    amplitude from 0.6, identity and pose 0.6, light 0.7 and noise 3 it stays near a quarter on 280.

    Args:
        amplitude: range of an expression's strength in a clip; 1 is the full face, 0.3 barely shows.
        identity: how far resting faces spread into the expressions; at 0 all rest alike, at 1 a person at rest may
            look like another at the apex.
        variation: how much the facial actions of one class differ between clips.
        pose: extent of head turns, shifts and drifts; 1 is about a tenth of the picture.
        talk: strength of mouth movements that belong to no expression.
        light: spread of brightness, colour cast and side light.
        noise: sensor noise, at most this many grey levels (standard deviation).
        blur: defocus, at most this much; 1 is a pixel and a half at 96 pixels.
        pulse_twin: disgust shares the face of anger and differs in rhythm; False gives disgust a face and the timing
            of happy and sad, which leaves surprise and fear as the only pair told apart by motion alone.
        zoom: how tightly faces are cut out; 1 shows head and shoulders, the default the face from hairline to chin, as
            the face crops of real data sets do.
        any_start: clips begin at any moment of an expression; False begins them at rest, whereupon the position of the
            apex gives away surprise and fear, anger and disgust.
    """

    amplitude: tuple[float, float] = (0.8, 1.2)
    identity: float = 0.4
    variation: float = 0.15
    pose: float = 0.35
    talk: float = 0.1
    light: float = 0.4
    noise: float = 2.0
    blur: float = 0.4
    zoom: float = 1.6
    pulse_twin: bool = True
    any_start: bool = True


@dataclass(frozen=True)
class Person:
    """The looks of a subject; lengths in half head heights, colours as RGB in [0, 1]."""

    rest: tuple[float, ...]
    expressivity: float
    width: float
    jaw: float
    chin: float
    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    eye_tilt: float
    iris_r: float
    brow_y: float
    brow_len: float
    brow_thick: float
    brow_arch: float
    nose_y: float
    nose_w: float
    mouth_y: float
    mouth_w: float
    lip: float
    hairline: float
    parting: float
    volume: float
    hair_end: float
    fringe: float
    beard: float
    beard_y: float
    glasses: int
    lens: float
    frame_thick: float
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    frame: Colour
    shirt: Colour


@dataclass(frozen=True)
class Scene:
    """What surrounds a clip: background, light and camera."""

    wall_top: Colour
    wall_bottom: Colour
    blobs: tuple[tuple[float, float, float, float, Colour], ...]
    light_x: float
    light_y: float
    side: float
    cast: Colour
    blur: float
    noise: float


class Draw:
    """Random numbers from the raw PCG64 stream of an entropy tuple."""

    def __init__(self, *entropy: int) -> None:
        self.bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * (int(self.bits.random_raw()) >> 11) * 2.0**-53

    def normal(self) -> float:
        """A bell curve of unit deviation that ends at 3.5: the sum of four uniforms."""
        return (sum(self.uniform(0, 1) for _ in range(4)) - 2.0) * math.sqrt(3.0)

    def integer(self, n: int) -> int:
        return min(int(self.uniform(0, n)), n - 1)

    def chance(self, p: float) -> bool:
        return self.uniform(0, 1) < p

    def colour(self, palette: Sequence[Colour], spread: float) -> Colour:
        return shade(palette[self.integer(len(palette))], 1.0, *(self.uniform(-spread, spread) for _ in range(3)))


def shade(colour: Colour, gain: float, red: float = 0.0, green: float = 0.0, blue: float = 0.0) -> Colour:
    """Scale and shift a colour, kept within [0, 1]."""
    r, g, b = (min(1.0, max(0.0, c * gain + d)) for c, d in zip(colour, (red, green, blue), strict=True))
    return r, g, b


def blend(a: Colour, b: Colour, t: float) -> Colour:
    """Mix two colours: a at t = 0, b at t = 1."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def entropy_of(seed: Seed) -> tuple[int, ...]:
    """Check a seed and return it as a tuple of integers."""
    values = (seed,) if isinstance(seed, int | np.integer) else tuple(seed)
    if not values or any(int(v) != v or v < 0 for v in values):
        raise InputError(f"seeds and subjects are integers from 0 (or tuples of them), got {seed!r}")
    return tuple(int(v) for v in values)


def draw_person(subject: Seed, style: FaceStyle) -> Person:
    """Draw the looks of a subject."""
    d = Draw(1, *entropy_of(subject))
    rest = np.array([style.identity * REST.get(name, 0.0) * d.normal() for name in UNITS])
    rest[UNITS.index("jaw")] = max(0.0, 0.1 * style.identity * (d.normal() - 0.3))
    tone = d.uniform(0, len(_SKIN) - 1.001)
    skin = blend(_SKIN[int(tone)], _SKIN[int(tone) + 1], tone - int(tone))
    hair = d.colour(_HAIR[: 3 if tone > 2.5 else 6], 0.03)
    hair_kind = d.integer(10)
    short, long, bald = hair_kind < 5, 5 <= hair_kind < 9, hair_kind == 9
    bearded = (short and d.chance(0.35)) or (bald and d.chance(0.6))
    lips = blend(shade(skin, 0.82, 0.02, -0.07, -0.04), (0.72, 0.2, 0.26), d.uniform(0.1, 0.6 if long else 0.25))
    return Person(
        rest=tuple(quantise(rest).tolist()),
        expressivity=d.uniform(0.75, 1.0),
        width=d.uniform(0.7, 0.82),
        jaw=d.uniform(0.08, 0.3),
        chin=d.uniform(0.1, 0.6),
        eye_x=d.uniform(0.29, 0.36),
        eye_y=d.uniform(-0.12, -0.02),
        eye_w=d.uniform(0.145, 0.18),
        eye_h=d.uniform(0.075, 0.105),
        eye_tilt=d.uniform(-0.08, 0.14),
        iris_r=d.uniform(0.074, 0.09),
        brow_y=d.uniform(-0.35, -0.28),
        brow_len=d.uniform(0.18, 0.23),
        brow_thick=d.uniform(0.022, 0.046),
        brow_arch=d.uniform(0.0, 0.05),
        nose_y=d.uniform(0.2, 0.28),
        nose_w=d.uniform(0.09, 0.14),
        mouth_y=d.uniform(0.48, 0.56),
        mouth_w=d.uniform(0.25, 0.33),
        lip=d.uniform(0.035, 0.07),
        hairline=-1.5 if bald else d.uniform(-0.72, -0.5),
        parting=d.uniform(-0.35, 0.35),
        volume=0.0 if bald else d.uniform(0.05, 0.14) + 0.05 * long,
        hair_end=-0.6 if bald else d.uniform(0.5, 1.5) if long else d.uniform(-0.25, 0.1),
        fringe=0.0 if bald else d.uniform(-0.1, 0.5),
        beard=d.uniform(0.35, 0.9) if bearded else 0.0,
        beard_y=d.uniform(0.42, 0.55),
        glasses=(0, 1, 2)[d.integer(3)] if d.chance(0.42) else 0,
        lens=d.uniform(0.22, 0.27),
        frame_thick=d.uniform(0.016, 0.028),
        skin=skin,
        hair=hair,
        iris=d.colour(_IRIS[: 2 if tone > 3 else 5], 0.03),
        lips=lips,
        frame=d.colour(((0.1, 0.1, 0.12), (0.35, 0.2, 0.12), (0.5, 0.12, 0.14), (0.55, 0.55, 0.58)), 0.03),
        shirt=d.colour(_SHIRT, 0.05),
    )


def draw_scene(d: Draw, style: FaceStyle) -> Scene:
    """Draw background, light and camera of a clip."""
    wall = d.colour(_WALL, 0.06)
    blobs = tuple(
        (d.uniform(-1.1, 1.1), d.uniform(-1.1, 0.8), d.uniform(0.15, 0.6), d.uniform(0.15, 0.6), d.colour(_WALL, 0.1))
        for _ in range(4)
    )
    warm = 0.06 * style.light * d.normal()
    return Scene(
        wall_top=shade(wall, 1.0 + 0.1 * d.normal()),
        wall_bottom=shade(wall, 0.85 + 0.1 * d.normal()),
        blobs=blobs[: d.integer(5)],
        light_x=style.light * d.uniform(-0.22, 0.22),
        light_y=-style.light * d.uniform(0.0, 0.14),
        side=style.light * d.uniform(-0.16, 0.16),
        cast=(1.0 + warm, 1.0, 1.0 - warm),
        blur=style.blur * d.uniform(0.0, 1.0),
        noise=style.noise * d.uniform(0.3, 1.0),
    )


def quantise(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Round to multiples of 2^-16, which float32 holds exactly."""
    return np.round(np.asarray(values) * 65536.0) / 65536.0
