from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from maedfer.errors import InputError
from maedfer.synthetic import EXPRESSIONS, FaceStyle, contact_sheet, encode_clip, render_clip, render_parameters


def test_the_same_arguments_give_the_same_bytes() -> None:
    clip = render_clip(3, "fear", 5, frames=6, size=48)
    assert clip.shape == (6, 48, 48, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip, render_clip(3, EXPRESSIONS.index("fear"), 5, frames=6, size=48))
    for other in ((4, "fear", 5), (3, "happy", 5), (3, "fear", 6)):
        assert not np.array_equal(clip, render_clip(*other, frames=6, size=48))


def test_a_fear_clip_is_a_surprise_clip_backwards() -> None:
    """Pixel for pixel, but for the sensor's noise."""
    style = FaceStyle(noise=0.0)
    surprise, fear = (render_clip(9, name, 4, 12, 48, style) for name in ("surprise", "fear"))
    assert np.array_equal(fear, surprise[::-1])
    assert not np.array_equal(fear, surprise)


def test_disgust_shows_the_pictures_of_anger_in_another_order() -> None:
    """With head and gaze held still, the set of pictures is the same."""
    style = FaceStyle(noise=0.0, any_start=False)
    angry, disgust = (render_parameters(2, name, 4, 20, style) for name in ("angry", "disgust"))
    assert np.array_equal(angry.pose, disgust.pose)
    order = np.concatenate([np.arange(0, 20, 2), np.arange(1, 20, 2)])
    assert np.array_equal(disgust.units, angry.units[order])


def test_clips_are_h264_with_a_key_frame_every_twelve(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_clip(render_clip(0, 0, 0, frames=26, size=32), fps=12.5))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 12.5
        assert [k for k, frame in enumerate(container.decode(stream)) if frame.key_frame] == [0, 12, 24]


def test_contact_sheet(tmp_path: Path) -> None:
    with Image.open(contact_sheet(tmp_path / "sheet.png", columns=3, size=32)) as sheet:
        assert sheet.height > 7 * 32 and sheet.width > 3 * 32


def test_a_contact_sheet_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end as a picture does"):
        contact_sheet(tmp_path / "sheet.pgn", columns=1, size=32)


def test_golden_pictures() -> None:
    """The same pictures on every machine; a wanted change of them comes with a higher `GENERATOR`."""
    style = FaceStyle((0.6, 1.2), 0.6, 0.2, 0.6, 0.15, 0.7, 3.0, 0.5)
    digest = hashlib.sha256()
    for label in range(7):
        digest.update(render_clip(label, label, label, frames=8, size=48, style=style).tobytes())
    assert digest.hexdigest() == "d2e5a050209e5bd0ef3151f4956dd2c692bd37b8dfb67aa57f5a6f90f64cf5db"
