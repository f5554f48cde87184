"""Cuts: found between recordings and nowhere inside of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.faces.cuts import Signature, differ, find_cuts, signature


def scene(seed: int, count: int = 12, size: tuple[int, int] = (72, 96)) -> np.ndarray:
    """Uint8 [count, H, W, 3]: smooth colours that move by two pixels a frame, with a little noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 7, 3)).astype(np.float32)
    rows, columns = np.linspace(0, 4, size[0]), np.linspace(0, 6, size[1] + 2 * count)
    down = np.stack([np.stack([np.interp(rows, range(5), coarse[:, x, c]) for x in range(7)], 1) for c in range(3)], -1)
    wide = np.stack([[np.interp(columns, range(7), row[:, c]) for row in down] for c in range(3)], -1)
    frames = np.stack([wide[:, 2 * number : 2 * number + size[1]] for number in range(count)])
    return np.clip(frames + random.normal(0, 2, frames.shape), 0, 255).astype(np.uint8)


def marks(frames: np.ndarray) -> list[Signature]:
    return [signature(frame) for frame in frames]


def test_cuts_are_found_where_they_are() -> None:
    frames = np.concatenate([scene(0, 4), scene(1, 9), scene(2, 5), np.zeros((3, 72, 96, 3), np.uint8)])
    assert find_cuts(marks(frames)) == [4, 13, 18]
    assert find_cuts(marks(frames[3:5])) == [1]


def test_light_and_movement_are_no_cuts() -> None:
    frames = scene(0)
    flicker = (frames * np.where(np.arange(12) % 3, 1.0, 0.6)[:, None, None, None]).astype(np.uint8)
    fade = (frames * np.linspace(1, 0, 12)[:, None, None, None]).astype(np.uint8)
    bright = np.clip(frames * 0.8 + np.where(np.arange(12) % 2, 50, 0)[:, None, None, None], 0, 255).astype(np.uint8)
    fast = np.stack([np.roll(frames[0], 9 * number, 1) for number in range(12)])
    for moving in (frames, flicker, fade, bright, fast, np.zeros_like(frames), fade[::-1]):
        assert find_cuts(marks(moving)) == []


def test_pictures_may_be_of_any_size() -> None:
    for shape in [(1, 1), (2, 10_000), (3, 5), (300, 7)]:
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        assert not differ(signature(picture), signature(picture))


def test_real_recordings(clips: Path) -> None:
    """Two of them have been put together of two, with a black frame between or at the end, and no other has a cut."""
    cuts, firsts = {}, {}
    for path in sorted([*clips.glob("pyfeat/*.m*"), *clips.glob("pliers/*.mp4"), *clips.glob("lipnet_grid/*.mpg")]):
        with open_video(path) as reader:
            found = marks(reader.read(range(len(reader) if "noface" in path.stem else 60)))
        cuts[path.stem], firsts[path.stem] = find_cuts(found), found
    assert {name: found for name, found in cuts.items() if found} == {"face_noface": [72, 73], "noface_face": [96, 168]}
    # Of these two and of single_face and no_face, recordings are the same.
    names = sorted(firsts.keys() - {"face_noface", "noface_face"})
    missed = [
        (one, other)
        for one in names
        for other in names
        if one != other and find_cuts([*firsts[one][20:23], *firsts[other][40:43]]) != [3]
    ]
    assert not missed


@pytest.mark.parametrize("cut", range(1, 6))
def test_the_place_in_a_block_makes_no_difference(cut: int) -> None:
    frames = np.concatenate([scene(3, cut), scene(4, 6 - cut)])
    found = marks(frames)
    assert differ(found[0], found[-1]) and find_cuts(found) == [cut]
