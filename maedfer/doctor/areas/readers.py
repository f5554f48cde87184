"""Readers of videos and pictures: a film and a picture made on the spot come back as they were."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maedfer.doctor.areas.packages import installed
from maedfer.doctor.finding import Finding, Options, note, ok, wrong

_FRAMES, _HEIGHT, _WIDTH = 10, 64, 96
# Mean distance in grey levels that pictures of the film keep to after H.264.
_ALIKE = 6.0


def look(options: Options) -> Iterator[Finding]:
    """PyAV, decord, Pillow, simplejpeg, nvJPEG."""
    frames = film()
    path = Path(options.folder) / "film.mp4"
    if installed("av") is None:
        yield note("PyAV", "not installed: videos cannot be read", "pip install 'av>=17'")
    else:
        _write(path, frames)
        yield _video("PyAV", "pyav", path, frames, "av")
    # decord must not be imported first: both bring libraries of the same names.
    if installed("decord") is not None and path.is_file():
        yield _video("decord", "decord", path, frames, "decord")
    yield from _pictures(frames[0])


def film() -> np.ndarray:
    """Uint8 [T, H, W, 3]: smooth pictures, each of another blue."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    shades = [
        np.stack([x * 150 // _WIDTH, y * 200 // _HEIGHT, np.full_like(x, 20 + 20 * t)], -1) for t in range(_FRAMES)
    ]
    return np.array(shades).astype(np.uint8)


def _write(path: Path, frames: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as file:
        # One of the two is in every build of FFmpeg.
        codec = next(name for name in ("libx264", "mpeg4") if name in av.codecs_available)
        stream: Any = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = _HEIGHT, _WIDTH, "yuv420p"
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def _video(name: str, backend: Any, path: Path, frames: np.ndarray, package: str) -> Finding:
    from maedfer.data.video import open_video

    with open_video(path, backend) as reader:
        found = reader.read(np.arange(len(reader)))
    version = installed(package)
    if found.shape != frames.shape:
        return wrong(name, f"{version} gives {found.shape} of a film of {frames.shape}", f"pip install -U {package}")
    distances = np.abs(found.astype(np.int16) - frames).mean((1, 2, 3))
    if distances.max() > _ALIKE:
        said = f"{version} gives other pictures than were written ({distances.max():.0f} grey levels away)"
        return wrong(name, said, f"pip install -U {package}")
    return ok(name, f"{version} reads a film that it is given, {len(found)} of {len(frames)} frames")


def _pictures(picture: np.ndarray) -> Iterator[Finding]:
    if installed("pillow") is None:
        yield note("Pillow", "not installed: folders of frames cannot be read", "pip install 'pillow>=10.1'")
        return
    from PIL import Image, features

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=90, subsampling=0)
    truth = np.asarray(Image.open(content).convert("RGB"))
    if np.abs(truth.astype(int) - picture).mean() > _ALIKE:
        yield wrong("Pillow", f"{installed('pillow')} gives another picture than was written", "pip install -U pillow")
        return
    webp = "with" if features.check("webp") else "without"
    yield ok("Pillow", f"{installed('pillow')} reads a JPEG that it is given; {webp} WebP")
    if (version := installed("simplejpeg")) is None:
        yield note(
            "simplejpeg", "not installed: frames are decoded by Pillow, in twice the time", "pip install simplejpeg"
        )
    else:
        from maedfer.data.video.jpeg import decode_jpeg

        found = np.empty_like(picture)
        if decode_jpeg(content.getvalue(), found) and np.array_equal(found, truth):
            yield ok("simplejpeg", f"{version} gives Pillow's pixels")
        else:
            yield wrong("simplejpeg", f"{version} gives other pixels than Pillow", "pip install -U simplejpeg")
    yield from _on_gpu(content.getvalue(), truth)


def _on_gpu(content: bytes, truth: np.ndarray) -> Iterator[Finding]:
    if not torch.cuda.is_available() or installed("torchcodec") is None:
        return
    from maedfer.train.decoding import jpeg_decoder

    try:
        decode = jpeg_decoder()
        [found] = decode([torch.frombuffer(bytearray(content), dtype=torch.uint8)], mode="RGB", device="cuda")
    except (ImportError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        yield note("nvJPEG", f"torchcodec {installed('torchcodec')} cannot decode: {why}", "set data.decode=cpu")
        return
    distance = float((found.cpu().permute(1, 2, 0).short() - torch.from_numpy(truth.astype(np.int16))).abs().max())
    if distance > 3:
        yield wrong("nvJPEG", f"pixels up to {distance:g} grey levels away from Pillow's", "set data.decode=cpu")
    else:
        yield ok("nvJPEG", f"torchcodec {installed('torchcodec')}, within {distance:g} grey levels of Pillow")
