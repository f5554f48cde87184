"""Single clips: what one shows, its pictures, its file, and a sheet of pictures of all classes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from maedfer._files import atomic_path
from maedfer.errors import InputError, require
from maedfer.synthetic.acting import EXPRESSIONS, TWINS, Performance, draw_track
from maedfer.synthetic.canvas import add_noise
from maedfer.synthetic.casting import FaceStyle, Seed, entropy_of
from maedfer.synthetic.faces import render_track


def render_parameters(
    seed: Seed, label: int | str, subject: Seed, frames: int = 48, style: FaceStyle | None = None
) -> Performance:
    """Draw what a clip shows, frame by frame, without painting it.

    Args:
        seed: of the clip; clips of one seed differ by label and subject alone.
        label: index into EXPRESSIONS, or a name.
        subject: of the person.
        frames: length T.
        style: difficulty; default `FaceStyle()`.

    Raises:
        InputError: unknown label, negative seed, no frames.
    """
    return draw_track(seed, label, subject, frames, style or FaceStyle())


def render_clip(
    seed: Seed,
    label: int | str,
    subject: Seed,
    frames: int = 48,
    size: int = 96,
    style: FaceStyle | None = None,
) -> NDArray[np.uint8]:
    """Paint one clip; the same arguments give the same bytes.

    Args:
        seed, label, subject, frames, style: see `render_parameters`.
        size: picture height and width S in pixels.

    Returns:
        uint8 [T, S, S, 3], RGB.

    Raises:
        InputError: unknown label, negative seed, no frames, size under 16.
    """
    if size < 16:
        raise InputError(f"faces are painted at 16 pixels or more, got size={size}")
    track = render_parameters(seed, label, subject, frames, style)
    return add_noise(render_track(track, size), track.scene.noise, *entropy_of(seed), *entropy_of(subject))


def encode_clip(frames: NDArray[np.uint8], fps: float = 25, crf: int = 18) -> bytes:
    """Encode RGB frames as an h264 mp4 file (yuv420p, closed groups of 12 frames).

    Args:
        frames: uint8 [T, H, W, 3], H and W even.
        fps: frames per second.
        crf: x264's constant rate factor; 18 is close to lossless to the eye.

    Returns:
        The file's bytes.
    """
    buffer = io.BytesIO()
    write_h264(buffer, frames, fps, crf)
    return buffer.getvalue()


def write_h264(
    file: BinaryIO | str, pictures: Iterable[NDArray[np.uint8]], fps: float = 25, crf: int = 18, key_every: int = 12
) -> None:
    """Encode RGB pictures as they come into an h264 mp4; the same pictures give the same bytes.

    Args:
        file: open for writing, or its name.
        pictures: uint8 [H, W, 3] each, H and W even.
        fps, crf: see `encode_clip`.
        key_every: pictures from one that stands alone to the next one.
    """
    av = require("av", "video")
    stream: Any = None
    with av.open(file, "w", format="mp4") as container:
        for picture in pictures:
            if stream is None:
                # One thread, and no macroblock tree: x264's output depends on both, and with the tree even on the run.
                own = "scenecut=0:open-gop=0:threads=1:lookahead-threads=1:mbtree=0"
                options = {
                    "crf": str(crf),
                    "preset": "veryfast",
                    "x264-params": f"keyint={key_every}:min-keyint={key_every}:{own}",
                }
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def contact_sheet(
    path: str | os.PathLike[str],
    seed: int = 0,
    columns: int = 8,
    size: int = 112,
    style: FaceStyle | None = None,
) -> Path:
    """Save a picture of all classes: a row of frames over time for each, pairs of equal faces side by side.

    Args:
        path: picture to write (png).
        seed: chooses the people and the clips.
        columns: frames per row.
        size: height and width of a frame in pixels.
        style: default: strong expressions that begin at rest.
    """
    require("PIL", "video")
    from PIL import Image, ImageDraw, ImageFont

    path = Path(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{str(path)!r} must end as a picture does, in .png for example")
    style = style or replace(FaceStyle(), amplitude=(1.0, 1.2), any_start=False)
    paired = [name for pair in TWINS for name in pair]
    names = [name for name in EXPRESSIONS if name not in paired] + paired
    gap, margin = max(2, size // 40), int(0.85 * size)
    sheet = Image.new("RGB", (margin + columns * (size + gap) + gap, len(names) * (size + gap) + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=max(9, size // 7))
    for row, name in enumerate(names):
        # The two of a pair get the same person and the same draws.
        act = next((k for k, pair in enumerate(TWINS) if name in pair), len(TWINS) + row)
        clip = render_clip((seed, act), name, (seed, act), 48, size, style)
        top = gap + row * (size + gap)
        pen.text((margin - 2 * gap, top + size // 2), name, fill=(40, 40, 40), font=font, anchor="rm")
        for column, frame in enumerate(np.linspace(0, 47, columns).round().astype(int)):
            sheet.paste(Image.fromarray(clip[frame]), (margin + gap + column * (size + gap), top))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format=kind)
    return path
