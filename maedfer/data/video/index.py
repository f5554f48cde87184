"""What a video file really holds: one pass over its packets with PyAV, without trusting the header's frame count.

Frames are counted by packets, which costs a few milliseconds, where packets and frames provably pair up: every packet
has a time of its own, the first one is a key frame and the earliest picture, none is cut off and none is a filler.
Packets that an edit list hides are left out, as players do. Every other file is counted by decoding it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maedfer.errors import InputError, require

# Containers whose packets can be found again by time, exactly.
_SEEKABLE = {"mov", "matroska"}
_DECORD_CONTAINERS = _SEEKABLE | {"avi", "flv"}
# Every packet of these codecs is a picture. Others have packets that say "nothing changed", for which a decoder may
# or may not deliver a frame, but those are smaller than any picture; VP8 has pictures that are never shown.
_PICTURE_PER_PACKET = {"h264", "hevc", "av1", "vp9"}
_HIDDEN_PICTURES = {"vp7", "vp8"}
_SMALLEST_PICTURE = 16
# FFmpeg's flag of a video stream that is the cover picture of a sound file.
_COVER = 0x400


@dataclass(frozen=True)
class Orientation:
    """How decoded pictures are turned for display: axes exchanged first, then mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def is_rotation(self) -> bool:
        """True where nothing is mirrored on balance."""
        return not self.transpose ^ self.mirror_x ^ self.mirror_y

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn one picture [H, W, 3]."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


@dataclass(frozen=True)
class VideoIndex:
    """Result of `index_video`.

    Args:
        path: the file.
        frames: how many frames decoding delivers.
        stored_size: height and width of the pictures as they are coded.
        size: height and width as they are shown.
        orientation: what turns the one into the other.
        fps: average rate, 0 where the file tells none.
        pts: int64 [frames], time of each frame, in display order; None where frames were counted by decoding.
        keys: int64, positions of key frames that can be sought by time (none in containers without an exact index).
        decord_obstacle: why decord would not deliver the same frames; empty where it does.
    """

    path: Path
    frames: int
    stored_size: tuple[int, int]
    size: tuple[int, int]
    orientation: Orientation
    fps: float
    pts: np.ndarray | None
    keys: np.ndarray
    decord_obstacle: str


def index_video(path: Path) -> VideoIndex:
    """Count the frames of a video file and find out how they must be read.

    Raises:
        InputError: not a video, no video stream, cut off, or nothing in it can be decoded.
    """
    container, stream = open_stream(path)
    with container:
        packets, first, fresh = _scan(container, stream, path)
        names = set(container.format.name.split(","))
        codec = stream.codec_context.name
        rate = stream.average_rate or stream.guessed_rate
        streams = sum(1 for other in container.streams.video)
        # What the index of an mp4 promises (not every version of PyAV tells).
        promised = len(getattr(stream, "index_entries", ())) if "mov" in names else 0
    shown = [packet for packet in packets if not packet.discard]
    cut_off = any(packet.corrupt for packet in packets)
    if "mov" in names and (cut_off or len(packets) < promised):
        raise InputError(f"{path}: the file is cut off or damaged in the middle; copy or download it again")
    countable = (
        not cut_off
        and codec not in _HIDDEN_PICTURES
        and (codec in _PICTURE_PER_PACKET or min(packet.size for packet in packets) >= _SMALLEST_PICTURE)
        and packets[0].key
        and all(packet.pts is not None for packet in packets)
        and packets[0].pts == min(packet.pts for packet in packets)
        and len({packet.pts for packet in packets}) == len(packets)
    )
    pts, keys = None, np.zeros(0, np.int64)
    if countable:
        frames = len(shown)
        pts = np.array(sorted(packet.pts for packet in shown), np.int64)
        if names & _SEEKABLE:
            keys = np.searchsorted(pts, sorted(packet.pts for packet in shown if packet.key))
    else:
        frames = _count_by_decoding(path)

    orientation = _orientation(first)
    stored = (first.height, first.width)
    obstacles = {
        "its container has no index to seek by": not names & _DECORD_CONTAINERS,
        "its packets and frames do not pair up": not countable,
        "an edit list hides some of its frames": len(shown) != len(packets),
        "pictures after a key frame need some before it": not fresh or (countable and not _closed_groups(packets)),
        "it has several video streams": streams > 1,
        "its pictures have more than 8 bits": any(part.bits != 8 for part in first.format.components),
        "it is shown mirrored": not orientation.is_rotation,
        "its rotation is outside the container": orientation != Orientation() and "mov" not in names,
    }
    return VideoIndex(
        path=path,
        frames=frames,
        stored_size=stored,
        size=(stored[1], stored[0]) if orientation.transpose else stored,
        orientation=orientation,
        fps=float(rate) if rate else 0.0,
        pts=pts,
        keys=keys,
        decord_obstacle=next((reason for reason, holds in obstacles.items() if holds), ""),
    )


def open_stream(path: Path) -> tuple[Any, Any]:
    """Open a file with PyAV; returns the container and its first real video stream, set to decode on one thread."""
    av = require("av", "video")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: not a readable video ({_words(error)})") from error
    for stream in container.streams.video:
        flags = getattr(stream, "disposition", 0)
        if not getattr(flags, "value", flags) & _COVER:
            stream.codec_context.thread_count = 1
            stream.thread_type = "NONE"
            return container, stream
    sound = any(stream.type == "audio" for stream in container.streams)
    container.close()
    if sound:
        raise InputError(f"{path}: the file has sound, but no video stream")
    raise InputError(f"{path}: not a readable video (no video stream; the file may be cut off)")


def decode(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Yield the frames from where the container stands, in display order.

    Raises:
        InputError: a packet cannot be decoded. Those before the first picture may fail: recordings often start
            within a group of pictures.
    """
    av = require("av", "video")
    count = 0
    failure: Exception | None = None
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if count:
                    raise InputError(f"{path}: damaged after frame {count} ({_words(error)})") from error
                failure = error
                continue
            for frame in frames:
                count += 1
                yield frame
    except av.FFmpegError as error:
        raise InputError(f"{path}: damaged after frame {count} ({_words(error)})") from error
    if not count and failure is not None:
        raise InputError(f"{path}: no frame can be decoded ({_words(failure)})") from failure


@dataclass(frozen=True)
class _Packet:
    pts: Any
    size: int
    key: bool
    discard: bool
    corrupt: bool


def _scan(container: Any, stream: Any, path: Path) -> tuple[list[_Packet], Any, bool]:
    """Collect all packets, decoding only as far as the first frame.

    Returns:
        The packets, the first frame, and whether the decoder starts afresh at every key frame.
    """
    av = require("av", "video")
    codec, header = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
    packets: list[_Packet] = []
    first, fresh = None, True
    failure = "no frame can be decoded"
    try:
        for packet in container.demux(stream):
            if packet.size:
                packets.append(
                    _Packet(packet.pts, packet.size, packet.is_keyframe, packet.is_discard, packet.is_corrupt)
                )
                if packet.is_keyframe and codec in ("h264", "hevc"):
                    fresh = fresh and _starts_afresh(bytes(packet), codec, header)
            if first is None:
                try:
                    first = next(iter(packet.decode()), None)
                except av.FFmpegError as error:
                    failure = _words(error)
    except av.FFmpegError as error:
        raise InputError(f"{path}: the file is damaged ({_words(error)})") from error
    if first is None:
        raise InputError(f"{path}: not a readable video ({failure})")
    return packets, first, fresh


def _starts_afresh(packet: bytes, codec: str, header: bytes) -> bool:
    """True where a key frame of H.264 or HEVC is one (IDR) that empties the decoder's store of earlier pictures."""
    if header[:1] == b"\1":
        # Units with their length in front, of as many bytes as the header says.
        width = (header[4 if codec == "h264" else 21] & 3) + 1
        units, at = [], 0
        while at + width < len(packet):
            units.append(packet[at + width])
            at += width + int.from_bytes(packet[at : at + width], "big")
    else:
        units = [unit[0] for unit in packet.split(b"\0\0\1")[1:] if unit]
    if codec == "h264":
        return any(unit & 31 == 5 for unit in units)
    return any(unit >> 1 & 63 in (19, 20) for unit in units)


def _count_by_decoding(path: Path) -> int:
    container, stream = open_stream(path)
    with container:
        return sum(1 for _ in decode(container, stream, path))


def _closed_groups(packets: list[_Packet]) -> bool:
    """True where every key frame is as far into the file in display order as in coding order."""
    order = {pts: position for position, pts in enumerate(sorted(packet.pts for packet in packets))}
    return all(order[packet.pts] == position for position, packet in enumerate(packets) if packet.key)


def _orientation(frame: Any) -> Orientation:
    for data in frame.side_data:
        if getattr(data.type, "name", "") == "DISPLAYMATRIX":
            # x' = a x + c y, y' = b x + d y, in 16.16 fixed point.
            a, b, _, c, d = (value / 65536 for value in np.frombuffer(bytes(data), np.int32)[:5])
            if abs(a) + abs(d) < 1e-3:
                return Orientation(True, c < 0, b < 0)
            if abs(b) + abs(c) < 1e-3:
                return Orientation(False, a < 0, d < 0)
    return Orientation()


def _words(error: Exception) -> str:
    """FFmpeg's sentence without its error number and the file's name."""
    return str(getattr(error, "strerror", None) or error)
