from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.errors import InputError
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detections, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.prediction.annotate import _Chances, annotate_video
from maedfer.prediction.class_colours import class_colours, face_colour
from maedfer.prediction.courses import video_course
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.overlay import FaceNow, Overlay
from maedfer.prediction.rows import Row, Window
from tests.data.media import set_matrix, write_video

CLASSES = ("happy", "sad")
BLUE = np.array([int(face_colour(1)[at : at + 2], 16) for at in (1, 3, 5)])


def make_rows(seconds: float, box: tuple[float, float, float, float] | None, hop: float = 0.5) -> list[Row]:
    """Windows of a second in which a face goes from happy to sad."""
    rows = []
    for number in range(max(1, int((seconds - 1) / hop) + 1)):
        start = number * hop
        share = float(start / seconds)
        window = Window(number, start, start + 1, start + 0.5, 1, box, 0.9, 16, "ok")
        rows.append(Row("a.mp4", window, np.array([1 - share, share])))
    return rows


def grey(count: int, height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((count, height, width, 3), 100, np.uint8)


def is_blue(pixels: np.ndarray) -> np.ndarray:
    return np.abs(pixels.astype(int) - BLUE).max(-1) < 40


def with_sound(
    video: Path, path: Path, codec: str, rate: int = 16000, kind: str | None = None, late: float = 0.0
) -> Path:
    """Put a tone beside a video's pictures; packets are not encoded again."""
    with av.open(str(video)) as source, av.open(str(path), "w", format=kind) as target:
        pictures: Any = target.add_stream_from_template(source.streams.video[0])
        sound: Any = target.add_stream(codec, rate=rate, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                shift = round(late / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, pictures
                target.mux(packet)
        wave = (8000 * np.sin(np.arange(2 * rate) * 2 * np.pi * 440 / rate)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate)
        for piece in resampler.resample(frame):
            target.mux(sound.encode(piece))
        target.mux(sound.encode())
    return path


def packets_of(path: Path) -> tuple[str, list[tuple[float, bytes]]]:
    """Codec of the sound, and its packets with their times since the file's start."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        start = (file.start_time or 0) / 1e6
        found = [
            (float(packet.pts * packet.time_base) - start, bytes(packet))
            for packet in file.demux(stream)
            if packet.size and packet.pts is not None
        ]
        return stream.codec_context.name, found


def test_boxes_are_drawn_where_rows_have_them(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", grey(50))
    annotate_video(make_rows(2.0, (100.0, 120.0, 60.0, 80.0)), CLASSES, source, tmp_path / "out.mp4")
    with open_video(tmp_path / "out.mp4") as video:
        assert len(video) == 50 and video.size == (240, 320)
        for picture in video.read([0, 25, 49]):
            # Four edges, and nothing of that colour inside.
            for edge in (picture[130:190, 100:102], picture[130:190, 158:161], picture[198:201, 110:150]):
                assert is_blue(edge).mean() > 0.5
            assert not is_blue(picture[130:190, 110:150]).any()
            assert np.abs(picture[210:, :90].astype(int) - 100).max() < 12


def test_bars_have_the_length_of_the_probabilities() -> None:
    overlay = Overlay(CLASSES, (480, 640), np.array([0.5, 0.5]))
    for share in (0.0, 0.25, 1.0):
        picture = overlay.draw(
            grey(1, 480, 640)[0], [FaceNow(3, (50.0, 100.0, 100.0, 100.0), np.array([share, 1 - share]))]
        )
        for which, value in enumerate((share, 1 - share)):
            colour = [int(class_colours(CLASSES)[which][at : at + 2], 16) for at in (1, 3, 5)]
            length = (picture == colour).all(-1).sum(1).max()
            assert abs(length - value * overlay.bar_width) <= 1


def test_bars_cover_neither_faces_nor_each_other() -> None:
    overlay = Overlay(CLASSES, (480, 640), np.array([0.5, 0.5]))
    faces = [FaceNow(number, (40.0 + 170 * number, 150.0, 100.0, 120.0), np.array([0.5, 0.5])) for number in range(3)]
    faces.append(FaceNow(4, (560.0, 20.0, 79.0, 80.0), np.array([0.5, 0.5])))
    drawn: Any = overlay.draw(np.full((480, 640, 3), 250, np.uint8), faces)
    dark: Any = np.all(drawn < 120, axis=-1)
    for face in faces:
        assert face.box is not None
        x, y, width, height = (int(value) for value in face.box)
        assert not dark[y + 4 : y + height - 4, x + 4 : x + width - 4].any()
    assert dark.sum() > 0.8 * 4 * overlay.panel[0] * overlay.panel[1] * 0.5


@pytest.mark.parametrize("times", [None, [0, 1, 2, 7, 8, 20, 21, 22, 40, 41]])
def test_times_are_kept(times: list[int] | None, tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", grey(10), rate=30, times=times)
    annotate_video(make_rows(1.0, (10.0, 10.0, 50.0, 50.0)), CLASSES, source, tmp_path / "out.mp4")
    with open_video(source) as old, open_video(tmp_path / "out.mp4") as new:
        assert len(old) == len(new) and np.abs(old.times - new.times).max() < 1e-4


@pytest.mark.parametrize(
    ("codec", "kind"),
    [("aac", "mp4"), ("aac", "mpegts"), ("mp2", "mpegts"), ("pcm_s16le", "mov"), ("flac", "matroska")],
)
def test_sound_is_that_of_the_video(codec: str, kind: str, tmp_path: Path) -> None:
    """Its packets, byte by byte and at their times, where an mp4 can hold them."""
    source = with_sound(write_video(tmp_path / "a.mp4", grey(50)), tmp_path / f"b.{kind}", codec, kind=kind, late=0.2)
    annotate_video(make_rows(2.0, (10.0, 10.0, 50.0, 50.0)), CLASSES, source, tmp_path / "out.mp4")
    (old_codec, old), (new_codec, new) = packets_of(source), packets_of(tmp_path / "out.mp4")
    with open_video(source) as before, open_video(tmp_path / "out.mp4") as after:
        assert np.abs(before.times - after.times).max() < 1e-3 and before.times[0] > 0.15
    if codec in ("pcm_s16le", "mp2"):
        assert new_codec == "aac" and abs(new[-1][0] - 2.0) < 0.1 and abs(new[0][0]) < 0.1
    else:
        # An mp4 has no use for the 7 bytes that each packet begins with in a transport stream.
        head = 7 if kind == "mpegts" else 0
        assert new_codec == old_codec and [data for _, data in new] == [data[head:] for _, data in old]
        assert np.allclose([time for time, _ in new], [time for time, _ in old], atol=1e-4)


def test_boxes_on_record_are_those_of_the_tracks(tmp_path: Path) -> None:
    """A face that moves over the picture: by the record it is where it is, by rows where it is on average."""

    class Mover:
        name, note, needs_pictures = "mover", "", True

        def detect(self, frames: list[Frame]) -> list[Detections]:
            boxes = [
                np.array([[20 + 4 * frame.index, 100, 40, 40]], np.float32)[: int(10 <= frame.index < 55)]
                for frame in frames
            ]
            return [Detections(box, np.ones(len(box), np.float32)) for box in boxes]

    source = write_video(tmp_path / "a.mp4", grey(60))
    with open_video(source) as video:
        times = video.times
    with DetectionRecord(tmp_path / "a.boxes.csv") as record:
        follower = Follower(Mover(), record=record)  # type: ignore[arg-type]
        for index, time in enumerate(times):
            follower.push(Frame(index, float(time), np.zeros((8, 8, 3), np.uint8)))
        follower.finish()
    rows, boxes = make_rows(2.4, (100.0, 100.0, 40.0, 40.0)), tmp_path / "a.boxes.csv"
    annotate_video(rows, CLASSES, source, tmp_path / "out.mp4", record=boxes)
    with open_video(tmp_path / "out.mp4") as video:
        pictures = video.read([5, 9, 12, 33, 50, 57])
    for index, picture in zip((12, 33, 50), pictures[2:5], strict=True):
        # The lower edge of the box; smoothing shrinks towards the ends of a track, where it lags by a little.
        columns = np.flatnonzero(is_blue(picture[138:142]).any(0))
        assert abs(columns[0] - (20 + 4 * index)) <= 4 and abs(columns[-1] - (60 + 4 * index)) <= 4
    for index in (0, 1, 5):
        assert not is_blue(pictures[index]).any()
    with pytest.raises(InputError, match=r"a\.boxes\.csv: is not of this video"):
        annotate_video(
            rows,
            CLASSES,
            source,
            tmp_path / "o.mp4",
            record=tmp_path / "a.boxes.csv",
            options=PredictionOptions(every=7),
        )
    assert not (tmp_path / "o.mp4").exists()


def test_turned_videos_are_upright(tmp_path: Path) -> None:
    frames = grey(6, 240, 320)
    frames[:, :, :40] = (220, 30, 30)
    plain = write_video(tmp_path / "a.mp4", frames)
    turned = set_matrix(plain, tmp_path / "b.mp4", (0, 1, -1, 0))
    annotate_video(make_rows(0.24, (100.0, 150.0, 60.0, 80.0)), CLASSES, turned, tmp_path / "out.mp4")
    with open_video(turned) as old, open_video(tmp_path / "out.mp4") as new:
        assert old.size == new.size == (320, 240)
        one, other = old.read([3])[0].astype(int), new.read([3])[0].astype(int)
    # Beside what is drawn the pictures are the same.
    assert np.abs(one[250:] - other[250:]).mean() < 4 and one[:30, :, 0].mean() > 180
    assert np.abs(one[:30] - other[:30]).mean() < 6


@pytest.mark.parametrize("size", [(48, 64), (33, 91), (1080, 1920)])
def test_any_size(size: tuple[int, int], tmp_path: Path) -> None:
    height, width = size
    source = write_video(tmp_path / "a.avi", grey(3, height, width), codec="mjpeg", pixels="yuvj444p")
    rows = make_rows(0.12, (0.3 * width, 0.2 * height, 0.3 * width, 0.6 * height))
    annotate_video(rows, CLASSES, source, tmp_path / "out.mp4", options=PredictionOptions(fps=25))
    with open_video(tmp_path / "out.mp4") as video:
        assert min(video.size) >= 240 and abs(video.size[1] / video.size[0] - width / height) < 0.03
        # Letters are drawn.
        assert (video.read([1])[0] > 200).all(-1).sum() > 50


def test_frames_that_are_crops_and_folders(tmp_path: Path) -> None:
    from PIL import Image

    for number, frame in enumerate(grey(4, 256, 256)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    shares: list[float] = []
    annotate_video(
        make_rows(0.4, None),
        CLASSES,
        tmp_path,
        tmp_path / "out.mp4",
        options=PredictionOptions(crop=False, fps=10),
        progress=shares.append,
    )
    with open_video(tmp_path / "out.mp4") as video:
        assert np.allclose(video.times, [0, 0.1, 0.2, 0.3]) and is_blue(video.read([2])[0][:20, :80]).any()
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_what_cannot_be_annotated(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", grey(3))
    rows = make_rows(0.12, None)
    with pytest.raises(InputError, match=r"ends in \.mp4"):
        annotate_video(rows, CLASSES, source, tmp_path / "out.avi")
    with pytest.raises(InputError, match="no such file"):
        annotate_video(rows, CLASSES, tmp_path / "absent.mp4", tmp_path / "out.mp4")
    with pytest.raises(InputError, match="cannot write"):
        annotate_video(rows, CLASSES, source, tmp_path / "absent" / "out.mp4")
    with pytest.raises(InputError, match="is the video itself"):
        annotate_video(rows, CLASSES, source, tmp_path / ".." / tmp_path.name / "a.mp4")
    narrow = write_video(tmp_path / "n.avi", grey(2, 8, 300), codec="mjpeg", pixels="yuvj444p")
    with pytest.raises(InputError, match="300 x 8 pixels"):
        annotate_video(rows, CLASSES, narrow, tmp_path / "out.mp4", options=PredictionOptions(fps=25))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "n.avi"]


def test_boxes_made_elsewhere_are_followed(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", grey(50))
    boxes = [f"{frame},{20 + 4 * frame},100,40,40" for frame in range(50)]
    (tmp_path / "boxes.csv").write_text("\n".join(["frame,x,y,width,height", *boxes]))
    options = PredictionOptions(boxes=str(tmp_path / "boxes.csv"), between=(0.4, 1.6))
    annotate_video(make_rows(2.0, (0.0, 0.0, 9.0, 9.0)), CLASSES, source, tmp_path / "out.mp4", options=options)
    with open_video(tmp_path / "out.mp4") as video:
        early, middle, late = video.read([9, 25, 41])
    assert not is_blue(early).any() and not is_blue(late).any()
    assert abs(int(np.flatnonzero(is_blue(middle[138:142]).any(0))[0]) - 120) <= 3


@pytest.mark.parametrize("name", ["pliers/obama_speech.mp4", "video_retalking/1.mp4"])
def test_real_clips_keep_their_times_and_their_sound(clips: Path, name: str, tmp_path: Path) -> None:
    annotate_video(make_rows(4.0, (50.0, 50.0, 60.0, 60.0)), CLASSES, clips / name, tmp_path / "out.mp4")
    with open_video(clips / name) as old, open_video(tmp_path / "out.mp4") as new:
        assert old.size == new.size and np.abs(old.times - new.times).max() < 1e-4
    (codec, old_sound), (new_codec, new_sound) = packets_of(clips / name), packets_of(tmp_path / "out.mp4")
    assert codec == new_codec and [data for _, data in old_sound] == [data for _, data in new_sound]
    assert np.allclose([time for time, _ in old_sound], [time for time, _ in new_sound], atol=1e-4)


def test_between_windows_probabilities_are_in_between() -> None:
    """At every moment of a stretch, and before and after it as long as a window goes on."""
    rows = [Row("a.mp4", Window(k, k, k + 0.5, k + 0.25, 1, None, None, 16, "ok"), np.array([k / 8, 1 - k / 8]))
            for k in (1, 2, 3, 6)]  # fmt: skip
    rows.append(Row("a.mp4", Window(7, 7, 7.5, 7.25, None, None, None, 0, "no_face"), None))
    chances = _Chances(video_course(rows).courses[0])
    for time, share in {1.0: 1, 1.25: 1, 1.75: 1.5, 2.5: 2.25, 3.7: 3, 6.2: 6}.items():
        found = chances.at(time)
        assert found is not None and np.allclose(found, [share / 8, 1 - share / 8]), time
    assert chances.at(4.5) is None and chances.at(7.2) is None
