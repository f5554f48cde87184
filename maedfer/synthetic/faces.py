"""Paint a `Performance`: stylised faces from implicit curves, antialiased by their distance in pixels.

Frames are painted in small groups, and each feature only inside its own window, which keeps the work in the cache.
Coordinates and tools are those of `maedfer.synthetic.canvas`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maedfer.synthetic.acting import Performance
from maedfer.synthetic.canvas import Canvas, Plane, paint_wall
from maedfer.synthetic.casting import Colour, blend, shade

GROUP = 8
_WHITE: Colour = (0.96, 0.95, 0.94)
_INK: Colour = (0.13, 0.08, 0.08)


def render_track(track: Performance, size: int) -> NDArray[np.uint8]:
    """Paint a clip as a perfect camera would see it: without sensor noise.

    Args:
        track: what to show, T frames.
        size: picture height and width S.

    Returns:
        uint8 [T, S, S, 3], RGB.
    """
    frames = len(track.units)
    wall = paint_wall(track, size)
    video = np.empty((frames, size, size, 3), np.uint8)
    for start in range(0, frames, GROUP):
        part = slice(start, min(start + GROUP, frames))
        planes = _Painter(track, part, wall).paint()
        np.clip(planes * np.float32(255) + np.float32(0.5), 0, 255, out=planes)
        video[part] = planes.transpose(1, 2, 3, 0)
    return video


class _Painter(Canvas):
    """Paints the layers of a face on its canvas."""

    def paint(self) -> Plane:
        """Paint all layers, back to front, and return the picture."""
        self._head_shape()
        self._hair_behind()
        self._body()
        self._head()
        self._beard()
        self._nose()
        self._creases()
        self._mouth()
        for side in (-1, 1):
            self._eye(side)
            self._brow(side)
        self._hair_in_front()
        if self.person.glasses:
            self._glasses()
        self._camera()
        return self.img

    def _head_shape(self) -> None:
        """Compute the signed distance to the outline of the head; the chin follows the jaw."""
        p = self.person
        u = self.u - np.float32(0.06) * self.sin_yaw
        v = np.minimum(self.v, 0) + np.maximum(self.v, 0) / (1 + np.float32(0.09) * np.minimum(self.jaw, 1.3))
        low = np.maximum(v, 0)
        v2 = v * v
        narrow = 1 - np.float32(p.jaw) * low * low * (1 + low)
        across = u / (np.float32(p.width) * np.maximum(narrow, np.float32(0.2)))
        square = np.float32(p.chin) * low * low * v2
        self.radius2 = across * across + (v2 - np.float32(p.chin) * low * low) + square
        slope_u = across / np.float32(p.width)
        slope = 2 * np.sqrt(slope_u * slope_u + v2 * (1 - np.float32(0.5 * p.chin)) + np.float32(0.01))
        self.head = (self.radius2 - 1) / slope

    def _hair_behind(self) -> None:
        p = self.person
        if p.volume <= 0:
            return
        width = np.float32(p.width + p.volume)
        across = np.abs(self.u) / width
        v = (self.v + np.float32(0.12)) / np.float32(0.98 + p.volume)
        radius2 = across * across + np.minimum(v, 0) * v
        falls = np.maximum(radius2 - 1, (self.v - np.float32(p.hair_end)) * 2) * np.float32(0.45)
        self.blend(np.s_[:, :, :], self.edge(falls), shade(p.hair, 0.86))

    def _body(self) -> None:
        p = self.person
        size = len(self.axis)
        low = int(size * 0.6)
        where = np.s_[:, low:, :]
        dx, dy = self.dx[:, :], self.dy[:, low:]
        across, down = dx / np.float32(1.2), (dy - np.float32(2.05)) / np.float32(0.82)
        shoulders = (across * across + down * down - 1) * np.float32(0.4)
        collar = dx * dx / np.float32(0.2) + (dy - np.float32(1.12)) * (dy - np.float32(1.12)) / np.float32(0.07) - 1
        neck = np.maximum(np.abs(dx) - np.float32(0.5 * p.width), dy - np.float32(1.5))
        self.blend(where, self.edge(neck), shade(p.skin, 0.8))
        self.blend(where, self.edge(np.maximum(shoulders, -collar * np.float32(0.2))), p.shirt)
        self.blend(where, self.edge(np.maximum(shoulders, collar * np.float32(0.2))), shade(p.skin, 0.84))

    def _head(self) -> None:
        p = self.person
        if p.hair_end < 0.2:
            self._ears()
        fade = self.radius2 * self.radius2
        light = 1 + self.scene.light_x * self.u * 1.3 + self.scene.light_y * self.v - np.float32(0.13) * fade
        light = np.maximum(light, np.float32(0.3)).astype(np.float32)
        self.blend(np.s_[:, :, :], self.edge(self.head), [np.float32(c) * light for c in p.skin])
        smile = np.maximum(self.unit["corner"], 0)
        for side in (-1, 1):
            where = self.window(side * 0.45 - 0.3, 0.0, side * 0.45 + 0.3, 0.55)
            du, dv = self.fu[where] - np.float32(side * 0.43), self.fv[where] - np.float32(0.27)
            glow = np.maximum(1 - (du * du + dv * dv) / np.float32(0.06), 0)
            self.blend(
                where,
                glow * glow * (np.float32(0.16) + np.float32(0.12) * smile),
                shade(p.skin, 0.92, 0.05, -0.12, -0.1),
            )

    def _ears(self) -> None:
        p = self.person
        ear_u = np.abs(self.u + np.float32(0.05) * self.sin_yaw) - np.float32(p.width + 0.02)
        ear_v = self.v + np.float32(0.02)
        ear = (ear_u * ear_u / np.float32(0.01) + ear_v * ear_v / np.float32(0.032) - 1) * np.float32(0.06)
        self.blend(np.s_[:, :, :], self.edge(ear), shade(p.skin, 0.86, 0.02))

    def _beard(self) -> None:
        p = self.person
        if p.beard <= 0:
            return
        where = self.window(-0.95, -0.1, 0.95, 1.2)
        fu, fv = self.fu[where], self.fv[where]
        edge = np.float32(p.beard_y) - np.float32(0.62) * fu * fu / np.float32(p.width**2) - fv
        alpha = self.edge(np.maximum(edge * np.float32(0.18), self.head[where])) * np.float32(p.beard)
        self.blend(where, alpha, shade(p.hair, 0.95))

    def _nose(self) -> None:
        p = self.person
        where = self.window(-0.3, -0.3, 0.3, 0.5)
        # The tip stands out further than the rest of the face.
        u = self.fu[where] - np.float32(0.1) * self.sin_yaw
        v = self.fv[where] - np.float32(0.1) * self.sin_pitch
        tip = np.float32(p.nose_y) - np.float32(0.05) * np.maximum(self.unit["nose"], 0)
        width = np.float32(p.nose_w) * (1 + np.float32(0.25) * np.maximum(self.unit["nose"], 0))
        dark = shade(p.skin, 0.74, 0.02)
        # The shaded flank, away from the light.
        flank = -1.0 if self.scene.light_x > 0 else 1.0
        along = np.clip((v + np.float32(0.2)) / (tip + np.float32(0.2)), 0, 1)
        ridge = np.abs(u - np.float32(flank) * (np.float32(0.03) + along * width * np.float32(0.6)))
        shadow = (
            np.clip(1 - ridge / np.float32(0.05), 0, 1) * np.clip((tip - v) * 8, 0, 1) * np.clip((v + 0.25) * 5, 0, 1)
        )
        self.blend(where, np.float32(0.45) * shadow, dark)
        # The base: a shallow bow with a nostril at each end.
        p_u = u / width
        bow = v - tip - np.float32(0.035) * (1 - p_u * p_u)
        line = np.maximum(np.abs(bow) - np.float32(0.014), (np.abs(u) - width) * np.float32(0.8))
        self.blend(where, self.edge(line) * np.float32(0.75), shade(p.skin, 0.62, 0.02))
        du, dv = (
            (np.abs(u) - width * np.float32(0.52)) / np.float32(0.034),
            (v - tip - np.float32(0.01)) / np.float32(0.02),
        )
        self.blend(where, self.edge((du * du + dv * dv - 1) * np.float32(0.01)) * np.float32(0.7), shade(p.skin, 0.4))

    def _creases(self) -> None:
        """Draw the lines of a moving face: beside the mouth, on the nose, between the brows, on the forehead."""
        p, unit, one = self.person, self.unit, np.ones_like(self.jaw)
        fold = np.clip(np.maximum(unit["corner"], unit["lip_upper"]) * np.float32(0.5), 0, np.float32(0.4))
        wrinkle = np.clip(unit["nose"] * np.float32(0.7), 0, np.float32(0.6))
        frown = np.clip(
            unit["brow_squeeze"] * np.float32(0.5) - unit["brow_inner"] * np.float32(0.2), 0, np.float32(0.6)
        )
        raised = np.clip((unit["brow_inner"] + unit["brow_outer"]) * np.float32(0.22), 0, np.float32(0.4))
        middle = self.window(-0.25, p.brow_y - 0.25, 0.25, 0.2)
        for side in (-1, 1):
            beside = self.window(side * 0.3 - 0.22, 0.1, side * 0.3 + 0.22, 0.7)
            foot = side * (p.mouth_w * (1 + np.float32(0.25) * unit["stretch"]) + np.float32(0.09))
            wing = side * (p.nose_w + 0.08) * one, (p.nose_y + 0.03) * one
            self.stroke(beside, wing, (foot, (p.mouth_y - 0.03) * one), 0.005, fold)
            brow = (
                (side * 0.05 * one, p.brow_y * one - np.float32(0.04)),
                (side * 0.04 * one, p.brow_y * one + np.float32(0.1)),
            )
            self.stroke(middle, *brow, 0.006, frown)
            bridge = (side * 0.02 * one, (p.eye_y + 0.02) * one), (side * 0.1 * one, (p.eye_y + 0.09) * one)
            self.stroke(middle, *bridge, 0.008, wrinkle)
        if p.hairline > -1:
            forehead = self.window(-0.35, p.brow_y - 0.32, 0.35, p.brow_y)
            for height in (0.15, 0.22):
                ends = (-0.2 * one, (p.brow_y - height) * one), (0.2 * one, (p.brow_y - height) * one)
                self.stroke(forehead, *ends, 0.005, raised)

    def _mouth(self) -> None:
        p, unit, jaw = self.person, self.unit, self.jaw
        where = self.window(-0.52, 0.28, 0.52, 1.05)
        half = np.float32(p.mouth_w) * (1 + np.float32(0.3) * unit["stretch"] - np.float32(0.12) * np.minimum(jaw, 1))
        half = np.maximum(half, np.float32(0.12))
        s = self.fu[where] / half
        s2 = s * s
        v = self.fv[where] - np.float32(p.mouth_y)
        centre = np.float32(0.23) * unit["corner"] * (np.float32(0.45) - s2)
        arch = np.maximum(1 - s2, -1)
        round_arch = arch * (1 + np.float32(0.4) * s2)
        lift = np.maximum(unit["lip_upper"], 0) + np.float32(0.5) * np.maximum(unit["nose"], 0)
        # A smile bares the upper teeth, an open jaw drops the lower lip.
        top = centre - (np.float32(0.035) * jaw + np.float32(0.06) * lift) * round_arch
        bottom = centre + np.float32(0.28) * jaw * arch * (1 + s2)
        thick = np.float32(p.lip) * np.clip(
            1 - np.float32(0.3) * unit["press"] - np.float32(0.15) * unit["stretch"], 0.4, 1.5
        )
        bow = 1 - np.float32(0.3) * np.maximum(1 - s2 * 16, 0)
        outer_top, outer_bottom = top - thick * np.float32(0.85) * arch * bow, bottom + thick * np.float32(1.15) * arch
        # Distance across the curve, not down: divide by the steepness.
        steep = 1 + np.abs(s) * (np.float32(0.5) * np.abs(unit["corner"]) + np.float32(0.6) * jaw)
        ends = (np.abs(s) - 1) * half
        lips = np.maximum(np.maximum(outer_top - v, v - outer_bottom) / steep, ends)
        self.blend(where, self.edge(lips + np.float32(0.004)), p.lips)
        upper = np.maximum(np.maximum(outer_top - v, v - top) / steep, ends)
        self.blend(where, self.edge(upper + np.float32(0.004)) * np.float32(0.5), shade(p.lips, 0.75))
        inside = self.edge(np.maximum(np.maximum(top - v, v - bottom) / steep, ends))
        self.blend(where, inside, (0.3, 0.09, 0.1))
        tongue_v = v - bottom + np.float32(0.01)
        tongue = s2 * np.float32(0.05) + tongue_v * tongue_v / np.float32(0.16) - np.float32(0.03) * np.minimum(jaw, 1)
        self.blend(where, inside * self.edge(tongue * np.float32(0.5)), (0.76, 0.33, 0.36))
        teeth = np.maximum(v - top - np.float32(0.055), (np.abs(s) - np.float32(0.82)) * half)
        self.blend(where, inside * self.edge(teeth), _WHITE)
        seam = np.maximum(np.abs(v - (top + bottom) * np.float32(0.5)) / steep - np.float32(0.011), ends)
        closed = np.clip(1 - (bottom - top) * 14, 0, 1)
        self.blend(where, self.edge(seam) * closed, shade(p.lips, 0.42))

    def _eye(self, side: int) -> None:
        p, unit = self.person, self.unit
        x = side * p.eye_x
        where = self.window(x - 0.27, p.eye_y - 0.25, x + 0.27, p.eye_y + 0.2)
        # s runs from -1 at the inner corner to 1 at the outer one.
        s = (self.fu[where] - np.float32(x)) * np.float32(side / p.eye_w)
        v = self.fv[where] - np.float32(p.eye_y) + np.float32(p.eye_tilt * p.eye_w) * s
        arch = 1 - s * s
        awake = 1 - np.minimum(self.pose["blink"], 1)
        wide = np.clip(1 + np.float32(0.42) * unit["lid_upper"], np.float32(0.35), np.float32(1.7))
        cheek = np.clip(
            1 - np.float32(0.5) * unit["lid_lower"] - np.float32(0.2) * unit["nose"], np.float32(0.2), np.float32(1.4)
        )
        upper_h = np.float32(p.eye_h) * wide * awake - np.float32(0.012) * (1 - awake)
        lower_h = np.float32(p.eye_h * 0.62) * (cheek * awake + np.float32(0.2) * (1 - awake))
        upper, lower = -upper_h * arch, lower_h * arch
        steep = 1 + np.abs(s) * np.float32(0.7)
        span = (np.abs(s) - np.float32(1.08)) * np.float32(p.eye_w)
        inside = self.edge(np.maximum(np.maximum(upper - v, v - lower) / steep, span)) * np.minimum(awake * 4, 1)
        self.blend(where, inside, _WHITE)
        gaze_u = np.float32(0.06) * self.pose["gaze_x"] + np.float32(0.08) * self.sin_yaw
        gaze_v = np.float32(0.03) * self.pose["gaze_y"] + np.float32(0.04) * self.sin_pitch
        du, dv = (s * np.float32(p.eye_w * side)) - gaze_u, v - gaze_v + np.float32(0.01)
        radius = np.sqrt(du * du + dv * dv)
        self.blend(where, inside * self.edge(radius - np.float32(p.iris_r)), shade(p.iris, 0.55))
        self.blend(where, inside * self.edge(radius - np.float32(p.iris_r - 0.015)), p.iris)
        self.blend(where, inside * self.edge(radius - np.float32(p.iris_r * 0.5)), (0.05, 0.04, 0.05))
        gu, gv = du - np.float32(0.025), dv + np.float32(0.03)
        self.blend(where, inside * self.edge(np.sqrt(gu * gu + gv * gv) - np.float32(0.017)), (1.0, 1.0, 1.0))
        # The upper lid shades the ball; then come the lash line and the crease above it.
        self.blend(where, inside * np.clip(1 - (v - upper) * 16, 0, 1) * np.float32(0.45), shade(p.skin, 0.45))
        lash = np.maximum((np.abs(v - upper) - np.float32(0.017)) / steep, span)
        self.blend(where, self.edge(lash), blend(_INK, p.hair, 0.3))
        below = np.maximum((np.abs(v - lower) - np.float32(0.006)) / steep, span)
        self.blend(where, self.edge(below) * np.float32(0.5), shade(p.skin, 0.5))
        crease = np.abs(v + (upper_h * np.float32(0.9) + np.float32(0.045)) * arch) - np.float32(0.007)
        self.blend(where, self.edge(np.maximum(crease, span)) * np.float32(0.45) * awake, shade(p.skin, 0.62, 0.02))

    def _brow(self, side: int) -> None:
        p, unit = self.person, self.unit
        x = side * (p.eye_x + 0.01)
        where = self.window(x - 0.32, p.brow_y - 0.26, x + 0.3, p.brow_y + 0.24)
        shift = np.float32(0.055) * unit["brow_squeeze"]
        s = ((self.fu[where] - np.float32(x)) * np.float32(side) + shift) / np.float32(p.brow_len)
        inner, outer = (1 - s) * np.float32(0.5), (1 + s) * np.float32(0.5)
        rise = np.float32(0.17) * (unit["brow_inner"] * inner * np.abs(inner) + unit["brow_outer"] * outer)
        arch = np.float32(p.brow_arch + 0.02) * (s + np.float32(0.3)) * (s - np.float32(0.7))
        line = np.float32(p.brow_y) - rise + arch
        thick = np.float32(p.brow_thick) * np.clip(np.float32(1.1) - np.float32(0.5) * outer, 0, np.float32(1.2))
        distance = np.maximum(np.abs(self.fv[where] - line) - thick, (np.abs(s) - 1) * np.float32(p.brow_len))
        self.blend(where, self.edge(distance) * np.float32(0.92), shade(p.hair, 0.72))

    def _hair_in_front(self) -> None:
        p = self.person
        if p.volume <= 0:
            return
        u = self.u - np.float32(0.15) * self.sin_yaw
        v = self.v - np.float32(0.1) * self.sin_pitch
        aside = u - np.float32(p.parting)
        line = np.float32(p.hairline) + np.float32(0.9) * aside * aside + np.float32(0.3 * p.fringe) * aside
        line = np.minimum(line, np.float32(p.brow_y - 0.04))
        # Outside the temples the hair falls straight, down to where it ends beside the face.
        temple = (np.float32(p.width - 0.05) - np.abs(u)) * 3
        falls = np.minimum(v - line, np.maximum(temple, v - np.float32(min(p.hair_end, 0.9))))
        cap = self.head - np.float32(0.95 * p.volume)
        cover = self.edge(np.maximum(cap, falls * np.float32(0.6)))
        sheen = np.clip(1 - np.abs(self.radius2 - np.float32(0.85) + u * np.float32(0.3)) * 3, 0, 1) * np.float32(0.12)
        light = np.float32(0.95) + sheen + np.float32(self.scene.light_x) * u
        self.blend(np.s_[:, :, :], cover, [np.float32(c) * light for c in p.hair])

    def _glasses(self) -> None:
        p = self.person
        where = self.window(-0.95, p.eye_y - 0.4, 0.95, p.eye_y + 0.4)
        u, v = np.abs(self.fu[where]), self.fv[where] - np.float32(p.eye_y + 0.03)
        du = u - np.float32(p.eye_x)
        if p.glasses == 1:
            rim = np.sqrt(du * du + v * v) - np.float32(p.lens)
        else:
            bu = np.maximum(np.abs(du) - np.float32(p.lens - 0.07), 0)
            bv = np.maximum(np.abs(v) - np.float32(0.75 * p.lens - 0.07), 0)
            rim = np.sqrt(bu * bu + bv * bv) - np.float32(0.07)
        self.blend(where, self.edge(rim) * np.float32(0.08), (0.85, 0.92, 1.0))
        glare = np.clip(1 - np.abs(du + v * np.float32(0.8) + np.float32(0.06)) * 22, 0, 1)
        self.blend(where, self.edge(rim) * glare * np.float32(0.22), (1.0, 1.0, 1.0))
        thick = np.float32(p.frame_thick)
        gap = np.maximum(np.abs(v + np.float32(0.05)) - thick, np.maximum(-rim, u - np.float32(p.eye_x)))
        arm = np.maximum(np.maximum(np.abs(v + np.float32(0.06)) - thick, np.float32(p.eye_x) - u), self.head[where])
        frame = np.minimum(np.abs(rim) - thick, np.minimum(gap, np.maximum(arm, -rim)))
        self.blend(where, self.edge(frame), p.frame)

    def _camera(self) -> None:
        """Apply side light, brightness and colour cast, then defocus."""
        scene = self.scene
        light = self.pose["light"] * (1 + np.float32(scene.side) * self.axis[None, None, :])
        for plane, cast in zip(self.img, scene.cast, strict=True):
            plane *= light * np.float32(cast)
        # Defocus belongs to the picture: a small one is sharper per pixel.
        weight = np.float32(0.3 * scene.blur * min(1.0, len(self.axis) / 96))
        if weight <= 0:
            return
        for axis in (2, 3):
            padded = np.concatenate(
                [self.img.take([0], axis=axis), self.img, self.img.take([-1], axis=axis)], axis=axis
            )
            before = padded[:, :, :-2] if axis == 2 else padded[..., :-2]
            after = padded[:, :, 2:] if axis == 2 else padded[..., 2:]
            self.img *= 1 - 2 * weight
            self.img += weight * (before + after)
