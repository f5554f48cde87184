"""The canvas that faces are painted on: head coordinates, windows, antialiased edges, background and sensor noise.

Per pixel only additions, products, quotients, square roots, minima and maxima are used, which IEEE 754 rounds alike
on every machine; sines and cosines are taken once per frame and rounded.

Shape suffixes: t frames of a group, S picture size. Coordinates: the canvas is [-1, 1], y down; (u, v) are head
coordinates in half head heights, the chin at v = 1; (fu, fv) are head coordinates shifted by the turn of the head, as
eyes, nose and mouth lie in front of the axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maedfer.synthetic.acting import POSE, Performance
from maedfer.synthetic.casting import UNITS, entropy_of, quantise, shade

Plane = NDArray[np.float32]
Window = tuple[slice, slice, slice]

_FRONT = 0.3


def add_noise(video: NDArray[np.uint8], deviation: float, *entropy: int) -> NDArray[np.uint8]:
    """Add bell-shaped sensor noise, the same for the same entropy.

    Args:
        video: uint8, any shape.
        deviation: standard deviation in grey levels.
        entropy: seed.
    """
    if deviation <= 0:
        return video
    bits = np.random.PCG64(np.random.SeedSequence((5, *entropy_of(entropy))))
    # The sum of four bytes of the stream; one byte has variance (256^2 - 1) / 12.
    raw = bits.random_raw((video.size + 1) // 2).astype("<u8", copy=False).view(np.uint8)
    quads = raw.reshape(4, -1)[:, : video.size]
    bell = quads[0].astype(np.int16)
    for quad in quads[1:]:
        bell += quad
    noisy = bell.reshape(video.shape).astype(np.float32)
    noisy -= np.float32(510.0)
    noisy *= np.float32(deviation / (4 * 65535 / 12) ** 0.5)
    noisy += video
    noisy += np.float32(0.5)
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


def paint_wall(track: Performance, size: int) -> Plane:
    """Paint the background: [3, S, S]."""
    scene = track.scene
    axis = _axis(size)
    down = (axis[:, None] + 1) * np.float32(0.5) + np.zeros((size, size), np.float32)
    wall = np.stack([a + (b - a) * down for a, b in zip(scene.wall_top, scene.wall_bottom, strict=True)])
    for x, y, width, height, colour in scene.blobs:
        # Out of focus: edges a tenth of the canvas wide.
        gap = np.maximum(np.abs(axis[None] - x) - width, np.abs(axis[:, None] - y) - height)
        alpha = np.clip(0.5 - gap * np.float32(8), 0, 0.8)
        for plane, value in zip(wall, colour, strict=True):
            plane += alpha * (np.float32(value) - plane)
    return wall.astype(np.float32)


def _axis(size: int) -> Plane:
    return ((2 * np.arange(size) + 1 - size) / np.float64(size)).astype(np.float32)


class Canvas:
    """Planar float32 pictures `img` [3, t, S, S] of a group of frames, with coordinates [t, S, S] and tools to paint.

    Args:
        track: what to show.
        part: the frames of the group.
        wall: background [3, S, S].
    """

    def __init__(self, track: Performance, part: slice, wall: Plane) -> None:
        self.person, self.scene = track.person, track.scene
        size = wall.shape[-1]
        units, pose = track.shapes()[part], track.pose[part]
        self.unit = {name: self._column(units[:, k]) for k, name in enumerate(UNITS)}
        self.pose = {name: self._column(pose[:, k]) for k, name in enumerate(POSE)}
        angles = pose[:, [POSE.index(name) for name in ("roll", "yaw", "pitch")]]
        sines, cosines = quantise(np.sin(angles)), quantise(np.cos(angles))
        self.sin_roll, self.sin_yaw, self.sin_pitch = (self._column(c) for c in sines.T)
        self.cos_roll = self._column(cosines[:, 0])
        self.img = np.empty((3, len(units), size, size), np.float32)
        self.img[:] = wall[:, None]

        self.axis = _axis(size)
        scale = self.pose["scale"]
        # One pixel in head coordinates; edges are one pixel wide.
        self.pixel = np.float32(2.0 / size) / scale
        dx = (self.axis[None, None, :] - self.pose["x"]) / scale
        dy = (self.axis[None, :, None] - self.pose["y"]) / scale
        self.dx, self.dy = dx, dy
        self.u = dx * self.cos_roll + dy * self.sin_roll
        self.v = dy * self.cos_roll - dx * self.sin_roll
        self.fu = self.u - np.float32(_FRONT) * self.sin_yaw
        # The far half of a turned face looks narrower.
        self.fu *= 1 + np.float32(0.45) * self.sin_yaw * self.fu
        self.fv = self.v - np.float32(_FRONT) * self.sin_pitch
        self.jaw = np.maximum(self.unit["jaw"] + self.pose["talk"], 0)

    @staticmethod
    def _column(values: NDArray[np.float64]) -> Plane:
        return values.astype(np.float32)[:, None, None]

    def window(self, left: float, top: float, right: float, bottom: float) -> Window:
        """Return the smallest slices of [t, S, S] that hold a box of (fu, fv) coordinates in every frame."""
        xs, ys = [], []
        for fu in (left, right):
            for fv in (top, bottom):
                u = fu + (_FRONT + np.sign(fu) * 0.08) * self.sin_yaw
                v = fv + _FRONT * self.sin_pitch
                xs.append(self.pose["x"] + self.pose["scale"] * (u * self.cos_roll - v * self.sin_roll))
                ys.append(self.pose["y"] + self.pose["scale"] * (u * self.sin_roll + v * self.cos_roll))
        size = len(self.axis)

        def bounds(values: list[Plane]) -> slice:
            low = int((float(np.min(values)) + 1) * size / 2 - 1.5)
            high = int((float(np.max(values)) + 1) * size / 2 + 2.5)
            return slice(max(0, min(low, size - 1)), min(size, max(high, 1)))

        return slice(None), bounds(ys), bounds(xs)

    def blend(self, where: Window, alpha: Plane, colour: Sequence[float | Plane]) -> None:
        for plane, value in zip(self.img, colour, strict=True):
            view = plane[where]
            view += alpha * (np.float32(value) - view)

    def edge(self, distance: Plane) -> Plane:
        """Coverage of pixels by a shape from their signed distance (negative inside), in head coordinates."""
        return np.clip(np.float32(0.5) - distance / self.pixel, 0, 1)

    def stroke(self, where: Window, a: tuple[Plane, Plane], b: tuple[Plane, Plane], width: float, alpha: Plane) -> None:
        """Draw a soft line from a to b, each (fu, fv) of shape [t, 1, 1]."""
        du, dv = b[0] - a[0], b[1] - a[1]
        pu, pv = self.fu[where] - a[0], self.fv[where] - a[1]
        along = np.clip((pu * du + pv * dv) / (du * du + dv * dv), 0, 1)
        pu, pv = pu - along * du, pv - along * dv
        distance = np.sqrt(pu * pu + pv * pv) - np.float32(width)
        self.blend(where, self.edge(distance) * alpha, shade(self.person.skin, 0.66, 0.01))
