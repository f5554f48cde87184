"""Opening a video file with PyAV so that FFmpeg reads that file and no other, and decoding it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from maedfer.data.video.base import MAX_PIXELS, PICTURE_SUFFIXES, shown, words
from maedfer.data.video.cut_off import missing_end
from maedfer.errors import InputError, require

# FFmpeg's flag of a video stream that is the cover picture of a sound file.
_COVER = 0x400
# What FFmpeg reads beside the file it is given, or takes from the network: playlists, and names with a pattern in them;
# and text, of which it draws pictures. A file is none of these, whatever its name and its first bytes say.
_NOT_ONE_VIDEO = frozenset(
    "hls applehttp concat dash webm_dash_manifest imf sdp rtp rtsp sap mlv vobsub image2 lavfi avisynth vapoursynth "
    "tty bin xbin adf idf ffmetadata".split()
)
_LISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"[playlist]", b"[Reference]")
_XML_LISTS = (b"<MPD", b"<ASX", b"<asx", b"<smil", b"<CompositionPlaylist")


def open_stream(path: Path) -> tuple[Any, Any]:
    """Open a file with PyAV; returns the container and its first real video stream, set to decode on one thread.

    Raises:
        InputError: not a video, a list of other files, no video stream, or no decoder for it.
    """
    av = require("av", "video")
    name = shown(path)
    try:
        container = av.open(
            _source(path),
            # A title in Latin-1 does not make a video unreadable.
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file", "format_whitelist": _formats()},
        )
    except (av.FFmpegError, OSError) as error:
        _refuse_lists(path)
        # The index of an mp4 is usually at its end.
        missing = missing_end(path, {"mov"}) if _is_mov(path) else ""
        hint = f"; it is cut off ({missing}): copy or download it again" if missing else ""
        raise InputError(f"{name}: not a readable video ({words(error)}){hint}") from error
    try:
        return container, _video_stream(container, name)
    except BaseException as error:
        container.close()
        if isinstance(error, InputError):
            _refuse_lists(path)
        raise


def _video_stream(container: Any, name: str) -> Any:
    for stream in container.streams.video:
        flags = getattr(stream, "disposition", 0)
        if getattr(flags, "value", flags) & _COVER:
            continue
        context = stream.codec_context
        if context is None:
            raise InputError(f"{name}: not a readable video (there is no decoder for its video stream)")
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        stream.thread_type = "NONE"
        return stream
    if any(stream.type == "audio" for stream in container.streams):
        raise InputError(f"{name}: the file has sound, but no video stream")
    raise InputError(f"{name}: not a readable video (no video stream; the file may be cut off)")


def demux(container: Any, *streams: Any) -> Iterator[Any]:
    """Yield the packets of the streams, or of all, from where the container stands; each stream's last one is empty."""
    try:
        yield from container.demux(*streams)
    except IndexError:
        # PyAV stumbles in the end, when all is read, over streams that appeared on the way.
        return


def decode(packets: Iterator[Any], path: Path) -> Iterator[Any]:
    """Yield the frames of packets, in display order.

    Args:
        packets: from `demux`.
        path: the file.

    Raises:
        InputError: a packet cannot be decoded, or only with guesses for a part of the picture. Packets before the first
            picture may fail: recordings often start within a group of pictures.
    """
    av = require("av", "video")
    count = 0
    failure: Exception | None = None
    try:
        for packet in packets:
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if count:
                    raise InputError(f"{shown(path)}: damaged after frame {count} ({words(error)})") from error
                failure = error
                continue
            for frame in frames:
                if frame.is_corrupt:
                    raise InputError(f"{shown(path)}: damaged after frame {count} (a part of the next one is lost)")
                count += 1
                yield frame
    except av.FFmpegError as error:
        raise InputError(f"{shown(path)}: damaged after frame {count} ({words(error)})") from error
    if not count and failure is not None:
        raise InputError(f"{shown(path)}: no frame can be decoded ({words(failure)})") from failure


def _source(path: Path) -> str | io.BytesIO:
    """What PyAV is given: a name in which FFmpeg finds neither a protocol (12:30:05.mp4) nor a pattern (%03d.jpg)."""
    if set("%*?{") & set(path.name) and path.suffix.lower() in PICTURE_SUFFIXES:
        # FFmpeg knows patterns by the name alone; bytes have none.
        return io.BytesIO(path.read_bytes())
    return f"file:{path}"


@lru_cache(maxsize=1)
def _formats() -> str:
    return ",".join(sorted(require("av", "video").formats_available - _NOT_ONE_VIDEO))


def _is_mov(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def _refuse_lists(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(_LISTS) or (head[:1] == b"<" and any(word in head for word in _XML_LISTS)):
        raise InputError(
            f"{shown(path)}: is a list of other files (a playlist), not a video; give the videos themselves"
        )
