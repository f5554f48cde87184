"""Small video files made on the spot, and what tests say of frames and errors."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import numpy as np


def pictures(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Uint8 [count, H, W, 3]: smooth ramps, without symmetry, that tell every frame from the others."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for number in range(count):
        red = np.clip(x * 150 / width + number * 3, 0, 255)
        green = y * 200 / height
        blue = np.full_like(red, (37 * number) % 200 + 20)
        frames.append(np.stack([red, green, blue], -1))
    return np.array(frames).astype(np.uint8)


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 25,
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    container: dict[str, str] | None = None,
    title: str = "",
) -> Path:
    """Encode uint8 [T, H, W, 3]; `times` are presentation times in units of 1 / rate."""
    options = dict(options or {})
    if codec == "libx264":
        # With macroblock trees, x264's files differ from run to run.
        options["x264-params"] = ":".join(filter(None, [options.get("x264-params"), "mbtree=0:threads=1"]))
    with av.open(str(path), "w", options=container or {}) as file:
        if title:
            file.metadata["title"] = title
        stream: Any = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number if times is None else times[number]
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_sound(path: Path, cover: bool = False) -> Path:
    """Write an mp4 with sound and no moving picture, on request with a cover picture."""
    with av.open(str(path), "w", format="mp4") as file:
        sound = file.add_stream("aac", rate=8000, layout="mono")
        if cover:
            picture: Any = file.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic.value
            file.start_encoding()
            file.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return path


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of two uint8 arrays."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def one_line(error: Exception, path: Path) -> bool:
    """True where an error is one sentence that names the file."""
    return "\n" not in str(error) and str(path) in str(error)


def set_matrix(source: Path, target: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an mp4 with another display matrix: x' = a x + c y, y' = b x + d y, for (a, b, c, d)."""
    data = bytearray(source.read_bytes())
    at = data.find(b"tkhd") + 4
    # Version and flags, four or five times, and 16 bytes of layer, group, volume and reserved ones come before it.
    at += 4 + (32 if data[at] == 1 else 20) + 16
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target
