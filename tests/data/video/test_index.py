from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.video.index import Orientation, index_video
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from tests.data.media import difference, pictures, write_video

try:
    import decord  # noqa: F401

    BACKENDS = ["pyav", "decord"]
except ImportError:
    BACKENDS = ["pyav"]


def test_orientation_of_two_mirrors_is_a_rotation() -> None:
    assert Orientation(False, True, True).is_rotation and Orientation(True, True, False).is_rotation
    assert not Orientation(True, False, False).is_rotation and not Orientation(False, True, False).is_rotation


def test_frames_without_times_are_counted_by_decoding(tmp_path: Path) -> None:
    source = pictures(30)
    path = write_video(tmp_path / "a.h264", source, options={"bf": "3"})
    index = index_video(path)
    with open_video(path) as reader:
        assert index.pts is None and len(reader) == 30 and reader.backend == "pyav"
        standard = reader.read(range(30))
        assert (reader.read([29, 4, 15]) == standard[[29, 4, 15]]).all()


@pytest.mark.parametrize("kind", ["odd", "interlaced"])
def test_decord_is_refused_where_its_colours_are_wrong(tmp_path: Path, kind: str) -> None:
    odd = kind == "odd"
    path = tmp_path / "a.mp4"
    options = {} if odd else {"x264-params": "interlaced=1"}
    write_video(path, pictures(5, 64, 96), options=options)
    if odd:
        # An encoder of H.264 takes even sizes alone.
        write_video(path := tmp_path / "a.avi", pictures(5, 63, 97), codec="ffv1")
    assert kind in index_video(path).decord_obstacle
    with open_video(path) as reader:
        assert len(reader) == 5 and reader.size == ((63, 97) if odd else (64, 96))
        assert difference(reader.read(range(5)), pictures(5, *reader.size)) < 10
    if "decord" in BACKENDS:
        with pytest.raises(InputError, match=kind):
            open_video(path, "decord")
