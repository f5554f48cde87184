from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maedfer.data.video import readers
from maedfer.data.video.index import Orientation, index_video
from maedfer.data.video.readers import Backend, PyAVReader, open_video
from maedfer.errors import InputError, MissingDependencyError
from tests.data.media import pictures, set_matrix, write_sound, write_video

try:
    import decord  # noqa: F401

    BACKENDS = ["pyav", "decord"]
except ImportError:
    BACKENDS = ["pyav"]

CLIPS = {
    "containers/single_face_flv1.flv": (72, "decord"),
    "containers/single_face_mjpeg.avi": (72, "decord"),
    "containers/wolfgang_mpeg4_xvidlike.avi": (472, "decord"),
    "lipnet_grid/bbaf2n.mpg": (75, "pyav"),
    "lipnet_grid/brbk7n.mpg": (75, "pyav"),
    "lipnet_grid/id2_vcd_swwp2s.mpg": (75, "pyav"),
    "lipnet_grid/sbwe5n.mpg": (75, "pyav"),
    "lipnet_grid/swiz3n.mpg": (75, "pyav"),
    "pliers/obama_speech.mp4": (105, "decord"),
    "pyfeat/WolfgangLanger_Pexels.mp4": (472, "decord"),
    "pyfeat/face_noface.mov": (169, "decord"),
    # 98 coded frames, of which an edit list shows 95.
    "pyfeat/no_face.mp4": (95, "pyav"),
    "pyfeat/noface_face.mov": (169, "decord"),
    "pyfeat/single_face.mp4": (72, "decord"),
    "sadtalker/WDA_AlexandriaOcasioCortez_000.mp4": (200, "decord"),
    "video_retalking/1.mp4": (135, "decord"),
    "video_retalking/2.mp4": (125, "decord"),
    "video_retalking/3.mp4": (125, "decord"),
    "video_retalking/4.mp4": (199, "decord"),
    "video_retalking/5.mp4": (122, "decord"),
}


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_give_the_same_frames_by_every_reader(clips: Path, name: str) -> None:
    """Frame by frame decoding is the standard; each backend's count and random reads must agree with it."""
    frames, backend = CLIPS[name]
    path = clips / name
    # Up to 130 frames one after the other, from the opened start on: no seeking.
    with open_video(path, "pyav") as reader:
        assert len(reader) == frames
        standard = reader.read(range(min(frames, 130)))
        wanted = [60, 3, 41, 3, 70, 69]
        seeking = reader.read(wanted)
        last = reader.read([frames - 1])
    assert standard.shape == (min(frames, 130), *reader.size, 3)
    assert (seeking == standard[wanted]).all()
    with open_video(path) as reader:
        assert len(reader) == frames
        assert reader.backend == (backend if backend in BACKENDS else "pyav")
        # FFmpeg 4 in decord and a newer one in PyAV differ by one or two levels in a few pixels of MPEG-4 pictures.
        assert difference(reader.read(wanted), standard[wanted]) < 1e-3
        assert difference(reader.read([frames - 1]), last) < 1e-3


def test_decord_is_refused_where_its_frames_are_wrong(clips: Path) -> None:
    for name, reason in (("lipnet_grid/bbaf2n.mpg", "no index to seek by"), ("pyfeat/no_face.mp4", "edit list")):
        assert reason in index_video(clips / name).decord_obstacle
        if "decord" in BACKENDS:
            with pytest.raises(InputError, match=reason):
                open_video(clips / name, "decord")


def test_seeking_reads_what_decoding_in_order_reads(clips: Path) -> None:
    path = clips / "pyfeat/WolfgangLanger_Pexels.mp4"
    index = index_video(path)
    assert len(index.keys) == 7
    wanted = [450, 10, 300, 200, 449, 0]
    reader = PyAVReader(index)
    sought = [reader.read([position])[0] for position in wanted]
    assert reader._keys is index.keys, "seeking was given up"
    plain = PyAVReader(index)
    plain._keys = index.keys[:0]
    assert (np.array(sought) == plain.read(wanted)).all()


def test_inexact_seek_falls_back_to_decoding_in_order(tmp_path: Path) -> None:
    frames = pictures(60)
    path = write_video(tmp_path / "a.mp4", frames, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    index = index_video(path)
    assert index.keys.tolist() == [0, 10, 20, 30, 40, 50]
    reader = PyAVReader(index)
    # Claim key frames where there are none.
    reader._keys = index.keys + 3
    with open_video(path, "pyav") as standard:
        assert (reader.read([59, 25]) == standard.read([59, 25])).all()
    assert len(reader._keys) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_b_frames_and_variable_rate_come_in_display_order(tmp_path: Path, backend: Backend) -> None:
    frames = pictures(40)
    times = np.cumsum(np.random.default_rng(0).integers(1, 5, 40)).tolist()
    path = write_video(tmp_path / "a.mp4", frames, times=times, options={"bf": "3", "g": "12", "crf": "10"})
    with open_video(path, backend) as reader:
        assert len(reader) == 40 and reader.backend == backend
        for order in (range(40), [39, 0, 17, 17, 5]):
            read = reader.read(order)
            for position, picture in zip(order, read, strict=True):
                nearest = min(range(40), key=lambda other: difference(frames[other], picture))
                assert nearest == position


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        ("libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
        ("mpeg4", {"bf": "2", "g": "12"}),
    ],
    ids=["open groups", "gradual refresh", "mpeg4"],
)
def test_files_whose_key_frames_do_not_stand_alone(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    """Decoding from such a key frame loses pictures, in decord silently."""
    path = write_video(tmp_path / "a.mp4", pictures(60), codec=codec, options=options)
    with open_video(path, "pyav") as reader:
        standard = reader.read(range(60))
    for position in range(0, 60, 7):
        with open_video(path) as reader:
            assert reader.backend == "pyav"
            assert (
                reader.read([position, min(position + 20, 59)]) == standard[[position, min(position + 20, 59)]]
            ).all()
    assert "before it" in index_video(path).decord_obstacle


@pytest.mark.parametrize("length", [21, 23, 26])
def test_short_last_group_of_pictures(tmp_path: Path, length: int) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(length), options={"g": "5", "sc_threshold": "0", "bf": "3"})
    with open_video(path, "pyav") as reader:
        standard = reader.read(range(length))
    for position in range(length):
        with open_video(path) as reader:
            assert (reader.read([position]) == standard[[position]]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1, (1, 2))),
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2, (1, 2))),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1, (1, 2))),
    ],
    ids=["0", "90", "180", "270"],
)
def test_rotation_is_honoured(tmp_path: Path, backend: Backend, matrix: tuple[int, int, int, int], turn) -> None:
    plain = write_video(tmp_path / "plain.mp4", pictures(6))
    turned = set_matrix(plain, tmp_path / "turned.mp4", matrix)
    with open_video(plain, backend) as reader, open_video(turned, backend) as other:
        expected = turn(reader.read(range(6)))
        read = other.read(range(6))
    assert other.backend == backend and other.size == read.shape[1:3] == expected.shape[1:3]
    # The ramps have no symmetry, so that a wrong turn differs by tens of levels.
    assert difference(read, expected) == 0


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((-1, 0, 0, 1), lambda x: x[:, :, ::-1]),
        ((1, 0, 0, -1), lambda x: x[:, ::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(0, 2, 1, 3)),
    ],
    ids=["mirrored", "upside-down", "transposed"],
)
def test_mirrored_display_is_honoured_and_not_left_to_decord(tmp_path: Path, matrix, turn) -> None:
    plain = write_video(tmp_path / "plain.mp4", pictures(4))
    with open_video(plain) as reader, open_video(set_matrix(plain, tmp_path / "m.mp4", matrix)) as other:
        assert other.backend == "pyav"
        assert (other.read([0, 3]) == turn(reader.read([0, 3]))).all()


def test_orientation_of_two_mirrors_is_a_rotation() -> None:
    assert Orientation(False, True, True).is_rotation and Orientation(True, True, False).is_rotation
    assert not Orientation(True, False, False).is_rotation and not Orientation(False, True, False).is_rotation


@pytest.mark.parametrize("backend", BACKENDS)
def test_grey_video_has_three_equal_channels(tmp_path: Path, backend: Backend) -> None:
    path = write_video(tmp_path / "a.mkv", pictures(5), codec="ffv1", pixels="gray")
    with open_video(path, backend) as reader:
        frames = reader.read(range(5))
    assert (frames == frames[..., :1]).all() and frames.std() > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_frame_and_odd_sizes(tmp_path: Path, backend: Backend) -> None:
    with open_video(write_video(tmp_path / "one.mp4", pictures(1)), backend) as reader:
        assert len(reader) == 1 and reader.read([0, 0]).shape == (2, 64, 96, 3)
    source = pictures(7, 63, 95)
    with open_video(write_video(tmp_path / "odd.mkv", source, codec="ffv1", pixels="bgr0"), backend) as reader:
        assert reader.size == (63, 95)
        assert (reader.read([6, 0]) == source[[6, 0]]).all()


def test_ten_bit_video_is_read(tmp_path: Path) -> None:
    source = pictures(5)
    path = write_video(tmp_path / "a.mp4", source, pixels="yuv420p10le", options={"crf": "5"})
    with open_video(path) as reader:
        assert reader.backend == "pyav"
        assert difference(reader.read(range(5)), source) < 4


def test_frames_without_times_are_counted_by_decoding(tmp_path: Path) -> None:
    source = pictures(30)
    path = write_video(tmp_path / "a.h264", source, options={"bf": "3"})
    index = index_video(path)
    with open_video(path) as reader:
        assert index.pts is None and len(reader) == 30 and reader.backend == "pyav"
        standard = reader.read(range(30))
        assert (reader.read([29, 4, 15]) == standard[[29, 4, 15]]).all()


def test_clip_that_starts_within_a_group_of_pictures(tmp_path: Path) -> None:
    """Packets that nothing can be decoded from are not frames."""
    path = write_video(tmp_path / "a.ts", pictures(40), codec="mpeg2video", options={"g": "12", "bf": "0"})
    packets = path.read_bytes()
    (tmp_path / "cut.ts").write_bytes(packets[188 * 40 :])
    with open_video(tmp_path / "cut.ts") as reader:
        count = len(reader)
        assert 0 < count < 40
        assert reader.read(range(count)).shape[0] == count


def save(path: Path, picture: np.ndarray, **options: Any) -> None:
    Image.fromarray(picture).save(path, **options)


def test_frame_folder(tmp_path: Path) -> None:
    source = pictures(12)
    for number, picture in enumerate(source):
        save(tmp_path / f"frame_{number}.png", picture)
    (tmp_path / "readme.txt").write_text("not a frame")
    (tmp_path / "._frame_0.png").write_bytes(b"litter")
    with open_video(tmp_path) as reader:
        assert reader.backend == "frames" and len(reader) == 12 and reader.size == (64, 96) and reader.fps == 0
        # 2 before 10.
        assert (reader.read(range(12)) == source).all()
        assert (reader.read([11, 2, 2]) == source[[11, 2, 2]]).all()
    with pytest.raises(InputError, match="is a folder"):
        open_video(tmp_path, "pyav")


def test_frame_folder_and_video_agree(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(5))
    folder = tmp_path / "frames"
    folder.mkdir()
    with open_video(path) as video:
        frames = video.read(range(5))
    for number, picture in enumerate(frames):
        save(folder / f"{number:05d}.png", picture)
    with open_video(folder, "frames") as reader:
        assert (reader.read(range(5)) == frames).all()


def test_unusual_pictures(tmp_path: Path) -> None:
    rgb = pictures(1)[0]
    grey = rgb[..., 1]
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    save(tmp_path / "1.png", rgb)
    save(tmp_path / "2.png", alpha)
    save(tmp_path / "3.png", grey)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "4.png")
    Image.fromarray(rgb).quantize(256).save(tmp_path / "5.PNG")
    save(tmp_path / "6.JPEG", rgb, quality=98)
    # Turned by 90 degrees, which its EXIF entry undoes.
    turned = Image.fromarray(np.rot90(rgb, 1).copy())
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "7.png", exif=exif)
    save(tmp_path / "8.png", np.repeat(np.repeat(rgb, 2, 0), 2, 1))
    with open_video(tmp_path) as reader:
        frames = reader.read(range(8))
    three = np.repeat(grey[..., None], 3, -1)
    assert (frames[1] == rgb).all()
    assert (frames[2] == three).all() and (frames[3] == three).all()
    assert difference(frames[4], rgb) < 12 and difference(frames[5], rgb) < 3
    assert (frames[6] == rgb).all()
    assert difference(frames[7], rgb) < 2


def test_decord_failing_while_reading_gives_way_to_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord", reason="decord is not installed")
    path = write_video(tmp_path / "a.mp4", pictures(20))
    with open_video(path, "pyav") as reader:
        standard = reader.read(range(20))

    class Broken:
        def get_batch(self, positions: list[int]) -> None:
            raise RuntimeError("no")

    with open_video(path) as reader:
        assert reader.backend == "decord"
        monkeypatch.setattr(reader, "_reader", Broken())
        assert (reader.read([4, 19]) == standard[[4, 19]]).all()
        assert reader.backend == "pyav"
        assert (reader.read([7]) == standard[[7]]).all()
    with open_video(path, "decord") as reader:
        monkeypatch.setattr(reader, "_reader", Broken())
        with pytest.raises(InputError, match="a.mp4: decord cannot decode it"):
            reader.read([4])


def test_without_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(3))
    monkeypatch.setitem(sys.modules, "decord", None)
    readers._decord.cache_clear()
    try:
        with open_video(path) as reader:
            assert reader.backend == "pyav"
        with pytest.raises(MissingDependencyError, match="pip install"):
            open_video(path, "decord")
    finally:
        readers._decord.cache_clear()


def one_line(error: Exception, path: Path) -> bool:
    return "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_bad_files_have_one_line_errors(tmp_path: Path, backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    good = write_video(tmp_path / "good.mp4", pictures(60), container={"movflags": "faststart"})
    data = good.read_bytes()
    (tmp_path / "head.mp4").write_bytes(data[:200])
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * 0.8)])
    plain = write_video(tmp_path / "plain.mp4", pictures(60)).read_bytes()
    # The index of an mp4 is usually at its end.
    (tmp_path / "cut_plain.mp4").write_bytes(plain[: int(len(plain) * 0.8)])
    write_sound(tmp_path / "sound.mp4")
    write_sound(tmp_path / "cover.mp4", cover=True)
    cases = {
        "absent.mp4": "no such file",
        "zero.mp4": "empty",
        "noise.mp4": "not a readable video",
        "text.mp4": "not a readable video",
        "head.mp4": "not a readable video",
        "cut.mp4": "cut off",
        "cut_plain.mp4": "not a readable video",
        "sound.mp4": "no video stream",
        "cover.mp4": "no video stream",
    }
    for name, words in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            open_video(tmp_path / name, backend)
        assert one_line(caught.value, tmp_path / name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_damage_in_the_middle(tmp_path: Path, backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(60), container={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 2
    data[start : start + 1000] = np.random.default_rng(0).bytes(1000)
    path.write_bytes(data)
    with open_video(path, backend) as reader:
        assert len(reader) == 60
        with pytest.raises(InputError, match="damaged after frame|decord cannot decode") as caught:
            reader.read(range(60))
    assert one_line(caught.value, path)
    assert capfd.readouterr().err == ""


def test_bad_folders_have_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder has no frames") as caught:
        open_video(tmp_path)
    assert one_line(caught.value, tmp_path)
    save(tmp_path / "1.png", pictures(1)[0])
    with pytest.raises(InputError, match="is a file"):
        open_video(tmp_path / "1.png", "frames")
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "3.jpg").write_bytes(b"")
    with open_video(tmp_path) as reader:
        for position, name in ((1, "2.png"), (2, "3.jpg")):
            with pytest.raises(InputError, match="not a readable picture") as caught:
                reader.read([0, position])
            assert one_line(caught.value, tmp_path / name)


def test_bad_requests(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(3))
    with pytest.raises(InputError, match="did you mean 'decord'"):
        open_video(path, "dekord")  # type: ignore[arg-type]
    with open_video(path) as reader:
        assert reader.read([]).shape == (0, 64, 96, 3)
        for outside in ([3], [-1]):
            with pytest.raises(IndexError, match="there are 3"):
                reader.read(outside)
