from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from tests.data.media import difference, one_line, pictures, write_video


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


def numbered(folder: Path, names: list[str]) -> Path:
    """Write a grey picture per name; the one of names[i] has level 10 i."""
    folder.mkdir(exist_ok=True)
    for level, name in enumerate(names):
        suffix = {".jp2": "JPEG2000", ".dib": "DIB"}.get(Path(name).suffix)
        save(folder / name, np.full((16, 16, 3), 10 * level, np.uint8), format=suffix)
    return folder


def levels(folder: Path) -> list[int]:
    with open_video(folder) as reader:
        return [int(level + 5) // 10 for level in reader.read(range(len(reader))).mean((1, 2, 3))]


@pytest.mark.parametrize(
    "names",
    [
        [f"frame_det_00_{number:06d}.bmp" for number in range(1, 5)],
        ["0.webp", "1.webp"],
        ["0.tif", "1.TIFF"],
        ["0.ppm", "1.jp2", "2.tga", "3.dib", "4.jfif"],
        ["1.jpg", "2.bmp", "3.png", "10.webp"],
        ["0.04.jpg", "0.1.jpg", "0.12.jpg", "0.4.jpg"],
        ["0,04.jpg", "0,1.jpg", "0,12.jpg"],
        ["t=0.96s.png", "t=1.0s.png", "t=1.04s.png", "t=10.0s.png"],
        ["0.png", "0.5.png", "1.png"],
        ["1e-05.png", "0.04.png", "0.1.png"],
        ["1.1.png", "1.2.png", "1.10.png"],
        ["12.30.05.png", "12.30.6.png", "12.31.01.png"],
        ["12_30_05.png", "12_30_6.png", "12_31_01.png"],
        ["s1e2.png", "s1e10.png"],
        ["face001.png", "face002.png", "face010.png"],
        ["-2.png", "-1.png", "0.png", "1.png"],
        ["frame-1.png", "frame-2.png", "frame-10.png"],
        ["img_1_crop.png", "img_2_crop.png", "img_10_crop.png"],
        ["IMG_1.png", "img_2.png", "Img_10.png"],
        ["001_neutral.png", "002_happy.png", "003_neutral.png"],
        ["9.png", "0010.png", "11.png"],
        ["apex.png", "onset.png"],
        ["only.png"],
    ],
    ids=lambda names: names[0],
)
def test_order_of_frames(tmp_path: Path, names: list[str]) -> None:
    """Each list is written in the order in which it must be read."""
    assert levels(numbered(tmp_path / "clip", names)) == list(range(len(names)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.jpg", "1.png", "2.jpg"], "1.jpg and 1.png have the same numbers"),
        (["1.jpg", "01.jpg"], "have the same numbers"),
        (["img_1.jpg", "img_1_crop.jpg"], "differ in words"),
        (["1.jpg", "2.jpg", "cover.jpg"], "2.jpg and cover.jpg differ in words"),
        (["left_1.jpg", "left_2.jpg", "right_1.jpg"], "left_2.jpg and right_1.jpg differ in words"),
        (["img.jpg", "img (1).jpg"], "differ in words"),
        (["0.4.jpg", "0.12.jpg"], "one number with a fraction or two numbers"),
        (["0.04.jpg", "0.1.jpg", "0.20.jpg"], "order is not known"),
        (["-1.jpg", "-2.jpg"], "a minus or a dash"),
        (["3e8a.jpg", "a41f.jpg"], "hexadecimal"),
        (["0009.jpg", "000a.jpg", "0010.jpg"], "hexadecimal"),
        (["frame_det_00_000001.bmp", "frame_det_00_000002.bmp", "frame_det_01_000001.bmp"], "faces of several persons"),
        (["1.jpg", "2.heic"], r"a kind that is not read \(2.heic\)"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_frames_whose_order_is_not_known_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"not opened")
    with pytest.raises(InputError, match=words) as caught:
        open_video(folder)
    assert one_line(caught.value, folder)


def test_folder_in_a_folder_links_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "clip" / "aligned").mkdir(parents=True)
    with pytest.raises(InputError, match="is one of the folders in it meant, as aligned"):
        open_video(tmp_path / "clip")
    numbered(tmp_path / "clip" / "aligned", ["1.png", "2.png"])
    os.symlink(tmp_path / "clip" / "aligned" / "2.png", tmp_path / "clip" / "aligned" / "3.png")
    (tmp_path / "clip" / "aligned" / ".4.png").write_bytes(b"")
    assert levels(tmp_path / "clip" / "aligned") == [0, 1, 1]
    os.symlink("gone.png", tmp_path / "clip" / "aligned" / "4.png")
    with open_video(tmp_path / "clip" / "aligned") as reader, pytest.raises(InputError, match="4.png: a link to"):
        reader.read([3])


@pytest.mark.parametrize("kind", ["pipe", "bomb", "warning", "float", "animation", "folder"])
def test_pictures_that_cannot_be_a_frame(tmp_path: Path, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    save(tmp_path / "1.png", pictures(1)[0])
    second, words = tmp_path / "2.png", "pixels, more than"
    if kind == "pipe":
        os.mkfifo(second)
        words = "a pipe or a socket"
    elif kind in ("bomb", "warning"):
        second = tmp_path / "2.ppm"
        second.write_bytes(b"P6 65000 65000 255\n" if kind == "bomb" else b"P6 9000 9000 255\n")
        words = "not a readable picture" if kind == "bomb" else words
    elif kind == "float":
        second = tmp_path / "2.tif"
        save(second, np.zeros((8, 8), np.float32))
        words = "floating-point"
    elif kind == "animation":
        first, *rest = (Image.fromarray(picture) for picture in pictures(3))
        first.save(second, save_all=True, append_images=rest)
        words = "holds 3 pictures"
    else:
        second.mkdir()
        words = "not a readable picture"
    with open_video(tmp_path) as reader, pytest.raises(InputError, match=words) as caught:
        reader.read([1])
    assert re.match(re.escape(str(second)), str(caught.value)) and "\n" not in str(caught.value)


def test_animated_webp(tmp_path: Path) -> None:
    source = pictures(6)
    first, *rest = (Image.fromarray(picture) for picture in source)
    first.save(tmp_path / "a.webp", save_all=True, append_images=rest, lossless=True)
    with open_video(tmp_path / "a.webp") as reader:
        assert len(reader) == 6 and reader.size == (64, 96)
        assert (reader.read([5, 0, 3, 3]) == source[[5, 0, 3, 3]]).all()
    data = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "cut.webp").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut.webp: "):
        open_video(tmp_path / "cut.webp").read([5])


def test_too_many_open_files_are_no_fault_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        open_video(tmp_path)
