from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from maedfer.data.video.index import index_video
from maedfer.data.video.readers import open_video
from maedfer.data.video.times import Clock
from maedfer.errors import InputError
from tests.data.media import one_line, pictures, write_video
from tests.data.video.test_readers import CLIPS

# Presentation times, in twenty-fifths of a second.
VARIABLE = [0, 2, 3, 7, 8, 9, 15, 16, 17, 18, 22, 23, 24, 30, 31, *range(40, 55)]


def plainly(path: Path) -> np.ndarray:
    """What PyAV says of frames that are decoded one after the other, since the start of the file."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / 1e6
        times: list[Any] = [frame.time for frame in container.decode(video=0)]
    return np.array(times) - start


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_have_the_times_of_decoded_frames(clips: Path, name: str) -> None:
    with open_video(clips / name) as reader:
        times, end = reader.times, reader.end_time
    assert times.dtype == np.float64 and times.shape == (CLIPS[name][0],)
    np.testing.assert_allclose(times, plainly(clips / name), rtol=0, atol=1e-6)
    assert (np.diff(times) > 0).all() and times[-1] < end < times[-1] + 0.2


def test_pictures_that_come_after_the_sound_start_later(clips: Path) -> None:
    """The sound starts at 0, the pictures with tick 507 of 15360: no time is made up for the gap."""
    with open_video(clips / "video_retalking/1.mp4") as reader:
        assert reader.times[0] == pytest.approx(507 / 15360, abs=1e-9)
        # By index and average rate its times would be wrong by more than half a frame.
        assert abs(reader.times - np.arange(len(reader)) / reader.fps).max() > 0.02


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "3"}),
        ("a.mov", "mpeg4", {"bf": "2"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.avi", "mpeg4", {"bf": "0"}),
        ("a.flv", "libx264", {"bf": "3"}),
        ("a.ts", "libx264", {"bf": "3"}),
        ("a.webm", "libvpx", {}),
        ("a.gif", "gif", {}),
    ],
)
def test_variable_rates(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """Times are those that were written, from the first frame on, and those of PyAV."""
    pixels = "rgb8" if codec == "gif" else "yuv420p"
    path = write_video(tmp_path / name, pictures(30), codec, pixels, options=options, times=VARIABLE)
    with open_video(path) as reader:
        times = reader.times
    np.testing.assert_allclose(times, plainly(path), rtol=0, atol=1e-6)
    np.testing.assert_allclose(times - times[0], np.array(VARIABLE) / 25, rtol=0, atol=1e-6)


def test_program_stream(tmp_path: Path) -> None:
    """Its pictures come at one rate; the first one half a second after the file's clock starts to count."""
    path = write_video(tmp_path / "a.mpg", pictures(30), "mpeg2video", options={"bf": "2"})
    with open_video(path) as reader:
        np.testing.assert_allclose(reader.times, plainly(path), rtol=0, atol=1e-6)
        np.testing.assert_allclose(reader.times, np.arange(30) / 25, rtol=0, atol=1e-6)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_frames_between_has_them_in_the_order_of_display(tmp_path: Path, codec: str) -> None:
    """Its packets' times are in the order of decoding; PyAV gives H.264's frames those of their packets, unsorted."""
    path = write_video(tmp_path / "a.avi", pictures(30), codec, options={"bf": "2"}, times=VARIABLE)
    with open_video(path) as reader:
        times = reader.times
    np.testing.assert_allclose(times, np.sort(plainly(path)), rtol=0, atol=1e-6)


def test_the_last_frame_ends_when_its_duration_is_over(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(30), times=[time + 50 for time in VARIABLE])
    with open_video(path) as reader:
        # A start above 0 is that of the file.
        assert reader.times[0] == 0
        assert reader.end_time == pytest.approx(55 / 25, abs=1e-9)
    # flv tells no durations: the average rate counts.
    with open_video(write_video(tmp_path / "a.flv", pictures(10), options={"bf": "0"})) as reader:
        assert reader.end_time == pytest.approx(10 / 25, abs=1e-6)


def test_frames_that_are_counted_by_decoding_get_their_times_in_that_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.webm", pictures(30), "libvpx", times=VARIABLE)
    index = index_video(path)
    assert index.pts is None
    monkeypatch.setattr("maedfer.data.video.index.open_stream", None)
    np.testing.assert_allclose(index.times.known("a"), np.array(VARIABLE) / 25, rtol=0, atol=1e-9)


def test_missing_times_are_filled_in_where_those_that_are_told_agree(tmp_path: Path) -> None:
    """FFmpeg writes H.264 into a program stream with a time for every second packet or fewer."""
    path = write_video(tmp_path / "a.mpg", pictures(30), options={"bf": "2"})
    with av.open(str(path)) as container:
        assert sum(frame.pts is None for frame in container.decode(video=0)) > 20
    with open_video(path) as reader:
        np.testing.assert_allclose(reader.times, np.arange(30) / 25, rtol=0, atol=1e-6)
    clock = Clock(unit=0.01, start=0, period=0.04, counted=False, in_order=True)
    assert clock.times([None, 104, None, None, 116], [4] * 5).known("a").tolist() == [1.0, 1.04, 1.08, 1.12, 1.16]
    assert "before frame 4 have no times" in clock.times([None, 104, None, None, 119], [4] * 5).unknown
    # A rate that varies is told apart where the file says how long frames last.
    assert clock.times([100, None, 110], [2, 8, 0]).known("a").tolist() == [1.0, 1.02, 1.1]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.h264", "libx264", "yuv420p"), ("a.mjpeg", "mjpeg", "yuvj420p"), ("a.m1v", "mpeg1video", "yuv420p")],
)
def test_bare_pictures_have_no_times(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    """FFmpeg would count them at 25 a second, whatever the rate was."""
    path = write_video(tmp_path / name, pictures(12), codec, pixels, rate=12 if codec != "mpeg1video" else 30)
    with open_video(path) as reader:
        assert len(reader) == 12
        for ask in (lambda: reader.times, lambda: reader.end_time):
            with pytest.raises(InputError, match="tell no times; give the frames per second") as error:
                ask()
            assert one_line(error.value, path)


def test_a_head_that_tells_the_rate_is_enough(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.y4m", pictures(12), "rawvideo", rate=12)
    with open_video(path) as reader:
        np.testing.assert_allclose(reader.times, np.arange(12) / 12, rtol=0, atol=1e-9)
        assert reader.end_time == pytest.approx(1)


def test_joined_recordings_are_refused(tmp_path: Path) -> None:
    one = write_video(tmp_path / "one.ts", pictures(10), "mpeg2video", times=list(range(100, 110)))
    path = tmp_path / "a.ts"
    path.write_bytes(one.read_bytes() + write_video(tmp_path / "two.ts", pictures(10), "mpeg2video").read_bytes())
    with open_video(path) as reader:
        assert len(reader) == 20
        with pytest.raises(InputError, match=r"go back after frame 9, .* copy it into a new file"):
            reader.times  # noqa: B018


def test_folders_and_animated_pictures(tmp_path: Path) -> None:
    images = [Image.fromarray(picture) for picture in pictures(4)]
    images[0].save(
        tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=[100, 40, 300, 60], lossless=True
    )
    with open_video(tmp_path / "a.webp") as reader:
        np.testing.assert_allclose(reader.times, [0, 0.1, 0.14, 0.44], rtol=0, atol=1e-9)
        assert reader.end_time == pytest.approx(0.5)
        # Asking for times leaves what is read as it is.
        assert (reader.read([2, 1])[0] == np.asarray(images[2])).all()
    images[0].save(tmp_path / "one.webp")
    with open_video(tmp_path / "one.webp") as reader:
        assert reader.times.tolist() == [0]
    folder = tmp_path / "frames"
    folder.mkdir()
    images[0].save(folder / "1.png")
    with open_video(folder) as reader, pytest.raises(InputError, match="give the frames per second") as error:
        reader.times  # noqa: B018
    assert one_line(error.value, folder)
