"""Pictures of faces at the moments at which they show most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maedfer.data.video import open_video
from maedfer.errors import InputError
from maedfer.prediction.rows import Row

# Pictures of a face, and their side in pixels.
_MOST, _SIDE = 8, 160
# From one window to the next a face that moves does so by this share of its size.
_MOVES = 0.25


def choose_peaks(rows: Sequence[Row], start: float, end: float, most: int = _MOST) -> list[Row]:
    """The rows of a face that pictures are worth it for: the surest one of each class, then the surest of the rest.

    Those in which the face is not there throughout, or moves, are left out as long as there are others.

    Args:
        rows: scored ones of one face.
        start, end: seconds that the timeline spans; pictures need some distance in it.
        most: how many.

    Returns:
        Rows at rising times.
    """
    still = _still(rows)
    rows = [row for row, keep in zip(rows, still, strict=True) if keep] if any(still) else rows
    chances = np.array([row.probabilities for row in rows])
    times = np.array([row.window.time for row in rows])
    best, sure = chances.argmax(1), chances.max(1)
    order = np.argsort(-sure, kind="stable")
    # The surest of its class first, by rank.
    firsts = [int(order[np.flatnonzero(best[order] == which)[0]]) for which in dict.fromkeys(best[order].tolist())]
    chosen: list[int] = []
    for distance, candidates in (((end - start) / 30, firsts), ((end - start) / 10, order.tolist())):
        for row in candidates:
            if len(chosen) < most and all(abs(times[row] - times[other]) >= distance for other in chosen):
                chosen.append(row)
    return [rows[row] for row in sorted(chosen, key=lambda row: times[row])]


def _still(rows: Sequence[Row]) -> list[bool]:
    """Whether the box of a row, which is a mean, shows the face in its middle."""
    centres = np.array([(0, 0) if (box := row.window.box) is None else (box[0] + box[2] / 2, box[1] + box[3] / 2)
                        for row in rows])  # fmt: skip
    sides = np.array([1.0 if row.window.box is None else max(row.window.box[2:]) for row in rows])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) / sides[1:]
    moves = np.maximum(np.append(steps, 0), np.append(0, steps))
    return [bool(row.window.status == "ok" and move < _MOVES) for row, move in zip(rows, moves, strict=True)]


def read_thumbnails(
    video: str | Path, peaks: Mapping[int, Sequence[Row]], fps: float | None = None, margin: float | None = 1.3
) -> tuple[dict[int, list[tuple[Row, np.ndarray]]], str]:
    """Cut the faces of some rows out of their video.

    Args:
        video: file or folder of frames.
        peaks: face -> rows.
        fps: frames a second of a folder of frames, or of another video that tells no times.
        margin: side of the square, in longer sides of the box; None = frames are crops already.

    Returns:
        Face -> pairs of a row and its picture, uint8 [S, S, 3]; and why there are none, where the video cannot be read
        any more.
    """
    from maedfer.faces.crop import crop_square
    from maedfer.faces.find import times_of

    if not any(peaks.values()):
        return {}, ""
    found: dict[int, list[tuple[Row, np.ndarray]]] = {}
    try:
        with open_video(video) as reader:
            times = times_of(reader, fps)
            wanted = {(face, place): row for face, rows in peaks.items() for place, row in enumerate(rows)}
            moments = np.array([row.window.time for row in wanted.values()])
            # The frame that is shown at that moment.
            frames = np.clip(np.searchsorted(times, moments + 1e-6, side="right") - 1, 0, len(times) - 1)
            for index in np.argsort(frames, kind="stable"):
                (face, _), row = list(wanted.items())[index]
                picture = reader.read([int(frames[index])])[0]
                box = row.window.box
                if margin is None or box is None:
                    # The middle of the frame.
                    height, width = picture.shape[:2]
                    side = min(height, width)
                    middle = np.array([(width - side) / 2, (height - side) / 2, side, side])
                    cut = crop_square(picture, middle, _SIDE, 1.0)
                else:
                    cut = crop_square(picture, np.array(box), _SIDE, margin)
                found.setdefault(face, []).append((row, cut))
    except InputError as error:
        return {}, f"Without pictures: {error}."
    return {face: sorted(cuts, key=lambda cut: cut[0].window.time) for face, cuts in found.items()}, ""
