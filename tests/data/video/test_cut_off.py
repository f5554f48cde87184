from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from maedfer.data.video.cut_off import missing_end
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from tests.data.media import one_line, pictures, write_video

# Each with the codec that its users bring, small groups of pictures, and how it says how long it is.
KINDS: dict[str, dict[str, Any]] = {
    "flv": {"codec": "flv"},
    "avi": {"codec": "mpeg4"},
    "mkv": {},
    "live.mkv": {"container": {"live": "1"}},
    "webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mp4": {"container": {"movflags": "faststart"}},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "10"}},
    "mov": {"codec": "mjpeg", "pixels": "yuvj420p", "container": {"movflags": "faststart"}},
    "3gp": {"codec": "mpeg4", "container": {"movflags": "faststart"}},
    "m4v": {"codec": "mpeg4", "container": {"movflags": "faststart"}},
    "mpg": {"codec": "mpeg1video"},
    "vob": {"codec": "mpeg2video"},
    "ts": {"codec": "mpeg2video"},
    "ogv": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "wmv": {"codec": "wmv2"},
    "gif": {"codec": "gif", "pixels": "rgb8"},
    "apng": {"codec": "apng", "pixels": "rgb24"},
    "mxf": {"codec": "mpeg2video"},
    "ivf": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "y4m": {"codec": "wrapped_avframe"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_is_refused_and_whole_is_read(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path / f"whole.{kind}", pictures(50), **KINDS[kind])
    with open_video(path) as reader:
        assert len(reader) == 50
    data = path.read_bytes()
    for part in (0.5, 0.667, 0.8):
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(data[: int(len(data) * part) | 101])
        with pytest.raises(InputError, match="cut off|not a readable video") as caught:
            open_video(cut)
        assert one_line(caught.value, cut)


@pytest.mark.parametrize("kind", ["flv", "avi", "mkv", "wmv", "ts", "ivf"])
def test_room_that_was_reserved_but_never_filled(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path / f"a.{kind}", pictures(50), **KINDS[kind])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(InputError, match="cut off"):
        open_video(path)


@pytest.mark.parametrize("kind", ["mpg", "m1v", "mjpeg"])
def test_pictures_without_their_end(tmp_path: Path, kind: str) -> None:
    """Packs of a program stream are of 2048 bytes, and so are the pieces in which files are downloaded."""
    codec, pixels = ("mjpeg", "yuvj420p") if kind == "mjpeg" else ("mpeg1video", "yuv420p")
    noise = np.random.default_rng(0).integers(0, 60, (30, 96, 128, 3), dtype=np.uint8)
    path = write_video(tmp_path / f"whole.{kind}", pictures(30, 96, 128) // 2 + noise, codec, pixels)
    with open_video(path) as reader:
        assert len(reader) == 30
    data = path.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    for packs in range(8, len(data) // 2048 - 1, 5):
        cut.write_bytes(data[: packs * 2048])
        with pytest.raises(InputError, match="cut off"):
            open_video(cut)


def write_with_sound(path: Path, frames: int, seconds: float, times: list[int] | None = None) -> Path:
    """Write a video of 25 frames a second with silence of another length."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("flv" if path.suffix == ".flv" else "mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
        sound: Any = file.add_stream("aac", rate=44100, layout="mono")
        for number, picture in enumerate(pictures(frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else times[number]
            file.mux(video.encode(frame))
        file.mux(video.encode())
        for start in range(0, int(44100 * seconds), 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 44100, start
            file.mux(sound.encode(silence))
        file.mux(sound.encode())
    return path


@pytest.mark.parametrize("kind", ["flv", "mkv", "mp4", "avi"])
@pytest.mark.parametrize("seconds", [0.3, 5.0])
def test_sound_of_another_length_and_variable_rate(tmp_path: Path, kind: str, seconds: float) -> None:
    """The head's time is that of the longest stream, and a last frame may be shown for long."""
    times = [0, 1, 2, 9, 10, 11, 30, 31, 90, 91]
    path = write_with_sound(tmp_path / f"a.{kind}", 10, seconds, times)
    with open_video(path) as reader:
        assert len(reader) == 10
    if kind == "flv":
        # Without its size, the head's time is all there is.
        path.write_bytes(path.read_bytes().replace(b"filesize", b"filesiye"))
        with open_video(path) as reader:
            assert len(reader) == 10


def test_time_of_a_head_that_tells_no_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.flv", pictures(50), codec="flv")
    data = path.read_bytes().replace(b"filesize", b"filesiye")
    path.write_bytes(data)
    assert missing_end(path, {"flv"}) is None
    with open_video(path) as reader:
        assert len(reader) == 50
    # Between two tags: each has its length in front and behind.
    place, tags = 13, []
    while place + 11 < len(data):
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
        tags.append(place)
    path.write_bytes(data[: tags[int(len(tags) * 0.66)]])
    with pytest.raises(InputError, match=r"cut off \(its head says 2.00 s, of which 1.2\d are there\)"):
        open_video(path)
    # A few frames are within what heads are wrong by.
    path.write_bytes(data[: tags[-4]])
    with open_video(path) as reader:
        assert 45 < len(reader) < 50


def test_a_size_that_is_not_true_beside_a_time_that_is(tmp_path: Path) -> None:
    """Tools that edit a clip leave the old size in its head."""
    path = write_video(tmp_path / "a.flv", pictures(50), codec="flv")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes().replace(struct.pack(">d", size), struct.pack(">d", 1.5 * size)))
    assert missing_end(path, {"flv"}) == f"it has {size} of {int(1.5 * size)} bytes"
    with open_video(path) as reader:
        assert len(reader) == 50


def test_what_is_missing_has_numbers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", pictures(5))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"the file is cut off \(it has {size - 100} of {size} bytes\); copy or"):
        open_video(path)


def test_writers_that_never_finished_or_put_something_behind(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", pictures(20), codec="mpeg4")
    data = path.read_bytes()
    # A size that counts the eight bytes of its own head, and one that was never filled in.
    for size in (len(data), 0):
        path.write_bytes(data[:4] + struct.pack("<I", size) + data[8:])
        with open_video(path) as reader:
            assert len(reader) == 20
    for name in ("b.mp4", "b.mkv", "b.flv", "b.mpg"):
        path = write_video(tmp_path / name, pictures(5), codec="flv" if name == "b.flv" else "mpeg1video")
        path.write_bytes(path.read_bytes() + b"\0\0\0\0")
        with open_video(path) as reader:
            assert len(reader) == 5
    path = write_video(tmp_path / "c.mp4", pictures(5))
    path.write_bytes(path.read_bytes() + b"a camera's own notes, which are no box")
    with open_video(path) as reader:
        assert len(reader) == 5


def test_real_clips_are_whole(clips: Path) -> None:
    for path in sorted(clips.glob("*/*.*")):
        if path.suffix in (".mp4", ".mov", ".avi", ".flv", ".mpg"):
            assert not missing_end(path, {{"mpg": "mpeg"}.get(path.suffix[1:], path.suffix[1:])}), path.name
