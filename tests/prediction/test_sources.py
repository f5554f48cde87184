"""Frames with their times: those of PyAV itself, and what cannot be looked at."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from maedfer.data.video import open_video
from maedfer.errors import InputError
from maedfer.prediction.options import PredictionOptions, options_from
from maedfer.prediction.sources import FileSource, LiveSource, is_live, open_source
from tests.data.media import pictures, write_sound, write_video

VARYING = [0, 40, 70, 100, 190, 200, 300, 310, 350, 400, 520, 530]
# Their rates vary; index / average rate is wrong by up to a third of a second.
REAL = [
    "pyfeat/face_noface.mov",
    "pyfeat/noface_face.mov",
    "pliers/obama_speech.mp4",
    "video_retalking/1.mp4",
    "pyfeat/single_face.mp4",
]


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames at times in milliseconds that follow no rate."""
    path = tmp_path_factory.mktemp("varying") / "a 'name'\n with \"everything\".mkv"
    return write_video(path, pictures(len(VARYING)), rate=1000, times=VARYING)


def times_by_pyav(path: Path) -> list[float]:
    with av.open(f"file:{path}") as container:
        start = (container.start_time or 0) / 1e6
        return [float(frame.time or 0) - start for frame in container.decode(video=0)]


def frames_by_pyav(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(f"file:{path}") as container:
        start = (container.start_time or 0) / 1e6
        decoded = list(container.decode(video=0))
        return [float(frame.time or 0) - start for frame in decoded], [
            frame.to_ndarray(format="rgb24") for frame in decoded
        ]


def test_frames_come_with_the_times_and_pictures_of_pyav(varying: Path) -> None:
    times, expected = frames_by_pyav(varying)
    with open_source(varying, PredictionOptions()) as source:
        assert isinstance(source, FileSource)
        found = list(source.frames())
        assert [frame.index for frame in found] == list(range(12))
        np.testing.assert_allclose([frame.time for frame in found], times, rtol=0, atol=1e-3)
        np.testing.assert_allclose(times, np.array(VARYING) / 1000, rtol=0, atol=1e-9)
        for frame, picture in zip(found, expected, strict=True):
            np.testing.assert_array_equal(frame.picture, picture)
        assert source.first_time == 0 and source.end_time > times[-1] and source.size == (64, 96)


@pytest.mark.parametrize("name", REAL)
def test_times_of_real_clips_are_those_of_pyav(clips: Path, name: str) -> None:
    times = times_by_pyav(clips / name)
    with FileSource(clips / name) as source:
        found = [frame.time for frame in source.frames(lambda index: False)]
    np.testing.assert_allclose(found, times, rtol=0, atol=1e-3)
    if name not in ("pyfeat/single_face.mp4", "pliers/obama_speech.mp4"):
        even = np.arange(len(times)) * (times[-1] - times[0]) / (len(times) - 1) + times[0]
        assert np.abs(even - times).max() > 0.005


def test_only_pictures_that_are_wanted_are_read_and_others_beside_them(varying: Path) -> None:
    _, expected = frames_by_pyav(varying)
    with FileSource(varying) as source:
        for frame in source.frames(lambda index: index in (3, 7, 8)):
            assert (frame.picture is not None) == (frame.index in (3, 7, 8))
            if frame.picture is not None:
                np.testing.assert_array_equal(frame.picture, expected[frame.index])
            np.testing.assert_array_equal(source.read([1, 11]), [expected[1], expected[11]])
        assert source._again is not None
        np.testing.assert_array_equal(source.read([2])[0], expected[2])


@pytest.mark.parametrize(
    ("between", "numbers", "end"),
    [
        ((0.07, 0.2), [2, 3, 4, 5], 0.2),
        ((0.1, 0.34), [3, 4, 5, 6, 7], 0.34),
        ((0.0, 9.0), list(range(12)), None),
        ((0.31, 0.31), [7], 0.31),
    ],
)
def test_a_part_of_a_video(varying: Path, between: tuple[float, float], numbers: list[int], end: float | None) -> None:
    with open_source(varying, PredictionOptions(between=between)) as source:
        found = list(source.frames())
        assert isinstance(source, FileSource)
        assert [frame.index for frame in found] == numbers
        assert source.first_time == pytest.approx(VARYING[numbers[0]] / 1000) == found[0].time
        assert end is None or source.end_time == pytest.approx(end)
        assert len(source.all_times) == 12


def test_a_part_without_a_frame_is_told_of(varying: Path) -> None:
    with pytest.raises(InputError, match=r"has no frame between 0.6 and 2 seconds: its frames are from 0.000 to 0"):
        open_source(varying, PredictionOptions(between=(0.6, 2)))
    with pytest.raises(InputError, match="between must be two seconds, the earlier one first, got 2 and 1"):
        options_from(between=(2, 1))


def test_a_folder_of_frames_needs_a_rate(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(5)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match=r"tells no times; give the frames per second \(fps\)"):
        open_source(tmp_path, PredictionOptions())
    with open_source(tmp_path, PredictionOptions(fps=10)) as source:
        assert isinstance(source, FileSource)
        assert [frame.time for frame in source.frames()] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
        assert source.end_time == 0.5


@pytest.mark.parametrize("count", [1, 3])
def test_videos_of_few_frames(tmp_path: Path, count: int) -> None:
    with FileSource(write_video(tmp_path / "few.mp4", pictures(count))) as source:
        assert len(list(source.frames())) == count
        assert source.end_time == pytest.approx(count / 25)


def test_pictures_of_any_form(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 2, 10_000, 3), np.uint8)
    for number, picture in enumerate(frames):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    with FileSource(tmp_path, fps=25) as source:
        np.testing.assert_array_equal([frame.picture for frame in source.frames()], frames)


def test_what_is_no_video_is_told_of(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.mp4", write_sound(tmp_path / "sound.mp4"), tmp_path / "empty.mp4"):
        if path.name == "empty.mp4":
            path.touch()
        with pytest.raises(InputError, match=path.name):
            open_source(path, PredictionOptions())


@pytest.fixture(scope="module")
def server(varying: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serves a folder with a video and what is none, by HTTP."""
    tmp_path = tmp_path_factory.mktemp("served")
    (tmp_path / "video.mkv").write_bytes(varying.read_bytes())
    (tmp_path / "cut.mkv").write_bytes(varying.read_bytes()[:-400])
    write_sound(tmp_path / "sound.mp4")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_stream_gives_its_frames_and_ends(server: str, varying: Path) -> None:
    times, expected = frames_by_pyav(varying)
    with open_source(f"{server}/video.mkv", PredictionOptions()) as source:
        assert isinstance(source, LiveSource) and source.size == (64, 96)
        found = list(source.frames())
        assert source.ended == ""
    np.testing.assert_allclose([frame.time for frame in found], times, rtol=0, atol=1e-3)
    for frame, picture in zip(found, expected, strict=True):
        np.testing.assert_array_equal(frame.picture, picture)
    with LiveSource(f"{server}/video.mkv", between=(0.1, 0.35)) as source:
        assert [round(1000 * frame.time) for frame in source.frames()] == VARYING[3:9]


def test_a_stream_that_breaks_off_ends_where_it_does(server: str) -> None:
    with open_source(f"{server}/cut.mkv", PredictionOptions()) as source:
        found = list(source.frames())
    assert 0 < len(found) <= 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.mkv", "cannot be opened as a stream"),
        ("sound.mp4", "the stream has no video"),
    ],
)
def test_what_is_no_stream_is_told_of(server: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{server}/{name}: {message}"):
        open_source(f"{server}/{name}", PredictionOptions())
    with pytest.raises(InputError, match="cannot be opened as a stream"):
        open_source("nonsense://somewhere", PredictionOptions())


def test_times_come_from_the_clock_where_a_stream_tells_none(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveSource(f"{server}/video.mkv") as source:
        decoded = list(source._decoded())
        for frame in decoded:
            frame.pts = None
        clock = iter(np.array([5.0, 6.0, 6.5, 6.5, 6.25, 7.0, *range(8, 20)]))
        monkeypatch.setattr("maedfer.prediction.sources.time.monotonic", lambda: float(next(clock)))
        monkeypatch.setattr(source, "_decoded", lambda: iter(decoded))
        found = [frame.time for frame in source.frames()]
    # Frames that are not later than the one before are passed over.
    assert found[:4] == [0.0, 0.5, 1.0, 2.0] and len(found) == 10


def test_a_clock_that_is_set_anew_goes_on(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveSource(f"{server}/video.mkv") as source:
        decoded = list(source._decoded())
        told = [100, 100.5, 101, 3.0, 3.5, 3.25, 4, 5e6, 5e6 + 1, 5e6 + 2, 5e6 + 3, 5e6 + 4]
        for frame, time in zip(decoded, told, strict=True):
            frame.pts = round(time / float(frame.time_base))
        monkeypatch.setattr(source, "_decoded", lambda: iter(decoded))
        found = [frame.time for frame in source.frames()]
    # Back by less than a second is a frame that comes too late.
    assert found == pytest.approx([0, 0.5, 1.0, 1.04, 1.54, 2.04, 2.08, 3.08, 4.08, 5.08, 6.08])


def test_devices_and_addresses_are_told_from_files(tmp_path: Path) -> None:
    assert is_live("rtsp://camera") and is_live("/dev/null")
    assert not is_live(tmp_path / "a.mp4") and not is_live("a:b.mp4") and not is_live(tmp_path)
    with pytest.raises(InputError, match="/dev/null: cannot be opened as a stream"):
        open_source("/dev/null", PredictionOptions())


def test_readers_are_closed(varying: Path) -> None:
    with FileSource(varying) as source:
        for frame in source.frames():
            if frame.index == 3:
                source.read([0])
    reader = source.reader
    assert getattr(reader, "_container", None) is None
    with open_video(varying) as again:
        assert len(again) == 12
