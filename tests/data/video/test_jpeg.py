from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maedfer.data.video import jpeg, pictures
from maedfer.data.video.jpeg import decode_jpeg, jpeg_size
from maedfer.data.video.readers import open_video

pytest.importorskip("simplejpeg")


def picture(height: int = 67, width: int = 45) -> np.ndarray:
    """Uint8 [H, W, 3]: colours that change from pixel to pixel, and smooth ones."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], -1)
    noise = np.random.default_rng(0).integers(0, 120, smooth.shape)
    return np.clip(smooth + noise - 60, 0, 255).astype(np.uint8)


def encoded(image: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def turned(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{"quality": 35}, {"quality": 97}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("size", [(67, 45), (64, 64), (1, 1), (3, 130)])
def test_pixels_are_those_of_pillow(subsampling: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    for image in (Image.fromarray(picture(*size)), Image.fromarray(picture(*size)).convert("L")):
        content = encoded(image, **({} if image.mode == "L" else {"subsampling": subsampling}), **options)
        assert jpeg_size(content) == size
        into = np.zeros((*size, 3), np.uint8)
        assert decode_jpeg(content, into)
        np.testing.assert_array_equal(into, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


WHOLE = encoded(Image.fromarray(picture()))
LEFT = {
    "turned": encoded(Image.fromarray(picture()), exif=turned(6)),
    "four colours": encoded(Image.fromarray(picture()).convert("CMYK")),
    "png": b"\x89PNG\r\n\x1a\n",
    "nothing": b"",
    "a start alone": WHOLE[:3],
    "a profile before the note": encoded(
        Image.fromarray(picture()), exif=turned(6), icc_profile=b"\xff\xda\xff\xd8" * 99
    ),
}
BROKEN = {"half": WHOLE[: len(WHOLE) // 2], "turned bits": WHOLE[:-400] + bytes(390) + WHOLE[-10:]}


@pytest.mark.parametrize("content", LEFT.values(), ids=list(LEFT))
def test_what_is_left_to_pillow(content: bytes) -> None:
    # What was looked at before, and begins alike, is no reason to take it.
    assert jpeg_size(WHOLE) == (67, 45)
    assert jpeg_size(content) is None
    assert not decode_jpeg(content, np.zeros((67, 45, 3), np.uint8))


def test_a_profile_is_no_obstacle() -> None:
    content = encoded(Image.fromarray(picture()), icc_profile=b"\xff\xda\xff\xd8" * 20_000, comment=b"\xff\xe1")
    into = np.zeros((67, 45, 3), np.uint8)
    assert decode_jpeg(content, into)
    np.testing.assert_array_equal(into, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_what_is_not_whole_is_left_to_pillow(content: bytes) -> None:
    assert not decode_jpeg(content, np.zeros((67, 45, 3), np.uint8))


def test_pictures_with_one_header_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []
    look = jpeg._end_of_header

    def remembered(content: bytes) -> int:
        looked.append(content)
        return look(content)

    monkeypatch.setattr(jpeg, "_end_of_header", remembered)
    dark, wide = (encoded(Image.fromarray(frame)) for frame in (picture() // 2, picture(45, 67)))
    assert [jpeg_size(content) for content in (wide, WHOLE, dark, WHOLE[:700], wide)] == [
        (45, 67), (67, 45), (67, 45), (67, 45), (45, 67)
    ]  # fmt: skip
    assert looked[-2:] == [WHOLE, wide]
    for content in (WHOLE, dark):
        into = np.zeros((67, 45, 3), np.uint8)
        assert decode_jpeg(content, into)
        np.testing.assert_array_equal(into, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_another_size_is_left_to_pillow() -> None:
    assert not decode_jpeg(WHOLE, np.zeros((67, 46, 3), np.uint8))


def test_without_simplejpeg_folders_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, content in enumerate([WHOLE, LEFT["turned"], LEFT["four colours"], WHOLE]):
        (tmp_path / f"{number:03d}.jpg").write_bytes(content)
    Image.fromarray(picture(30, 30)).save(tmp_path / "004.jpg")
    with open_video(tmp_path) as reader:
        found = reader.read([0, 1, 2, 4, 4])
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    with open_video(tmp_path) as reader:
        np.testing.assert_array_equal(found, reader.read([0, 1, 2, 4, 4]))


@pytest.mark.parametrize("names", [["{:05d}.jpg"], ["img_{:04d}.png"], ["abc{:03d}.jpg"], ["e{:03d}.jpg"]])
def test_plain_names_have_the_order_of_all_names(names: list[str]) -> None:
    numbers = np.random.default_rng(0).choice(999, 50, replace=False)
    shuffled = [name.format(number) for number in numbers for name in names]
    found = pictures._plainly_numbered(shuffled)
    slowly = pictures._by_words_and_numbers(Path("clip"), [Path("clip", name) for name in shuffled])
    assert found == [file.name for file in slowly]


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "02.jpg"],
        ["a1.jpg", "b2.jpg"],
        ["1.jpg", "2.png"],
        ["1_2.jpg"],
        ["-1.jpg"],
        ["x.jpg"],
        ["1.mp4"],
        ["1.jpg", "2.jpg "],
        ["1.jpg", "a.jpg"],
        [],
    ],
)
def test_other_names_are_no_plain_ones(names: list[str]) -> None:
    assert pictures._plainly_numbered(names) == []
