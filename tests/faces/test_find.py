"""Faces of whole videos that are generated, so that the truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.errors import InputError
from maedfer.faces import find_tracks
from tests.data.media import pictures, write_video
from tests.faces.acted import Actor, KnowingDetector, still


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    units = [0, 1, 2, 5, 6, 9, 10, 11, 15, 16, 17, 18, 30, 31, 32, 33, 34, 35, 36, 40]
    path = write_video(tmp_path / "a.mp4", pictures(20), times=units)
    done: list[tuple[int, int]] = []
    (track,) = find_tracks(
        path,
        KnowingDetector([Actor(3, 18, still(20, side=20))]),
        progress=lambda frames, of: done.append((frames, of)),
    )
    assert (track.start, track.end) == pytest.approx((5 / 25, 36 / 25), abs=1e-6)
    assert done[-1] == (20, 20) and done == sorted(done)


def test_folders_of_frames_need_their_rate(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, picture in enumerate(pictures(12)):
        image.fromarray(picture).save(tmp_path / f"{number}.png")
    detector = KnowingDetector([Actor(0, 11, still(20, side=20))])
    with pytest.raises(InputError, match=r"fps"):
        find_tracks(tmp_path, detector)
    assert find_tracks(tmp_path, detector, fps=10)[0].end == 1.1
