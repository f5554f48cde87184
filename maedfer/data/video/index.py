"""What a video file really holds: one pass over its packets with PyAV, without trusting the header's frame count.

Frames are counted by packets, which costs a few milliseconds, where packets and frames provably pair up: every packet
has a time of its own, the first one is a key frame and the earliest picture, none is cut off and none is a filler.
Packets that an edit list hides are left out, as players do. Every other file is counted by decoding it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from maedfer.data.video.base import in_a_sentence, shown, words
from maedfer.data.video.cut_off import ends_in_zeros, missing_end
from maedfer.data.video.streams import decode, demux, open_stream
from maedfer.data.video.times import Clock, FrameTimes
from maedfer.errors import InputError, require

# Containers whose packets can be found again by time, exactly, and those whose packets can be passed over up to one.
_SEEKABLE = {"mov", "matroska"}
_PASSABLE = {"avi", "flv", "mpeg", "mpegts", "asf", "mxf"}
_DECORD_CONTAINERS = _SEEKABLE | {"avi", "flv"}
# Every packet of these codecs is a picture. Others have packets that say "nothing changed", for which a decoder may
# or may not deliver a frame, but those are smaller than any picture; VP8 has pictures that are never shown.
_PICTURE_PER_PACKET = {"h264", "hevc", "av1", "vp9"}
_HIDDEN_PICTURES = {"vp7", "vp8"}
_SMALLEST_PICTURE = 16
# Every picture of these can be decoded alone, without delay.
_ALONE = {"mjpeg", "ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "prores", "dnxhd", "rawvideo", "png", "dvvideo"}
# Containers whose head tells how long the clip is. What is missing must exceed this share of it, and twice the longest
# time between two frames: heads are rounded, of another tool, or count a last frame that is shown for long.
_TIMED = {"avi", "flv", "asf", "matroska"}
_SHARE = 0.1
# Containers in which nothing comes after the last picture, with the bytes of its head that are not of the packet.
_BARE = {"yuv4mpegpipe": 0, "dv": 0, "ivf": 12}
_LEAST = 0.2
# Formats that do not tell where they end, in which a picture without its end can be told when it is decoded, and the
# longest group of pictures that is decoded for it.
_TORN = {"mpeg", "mpegvideo", "m4v"}
_LAST_GROUP = 64
# Packets that are kept for decoding: a clip of a data set has a few hundred kilobytes.
_KEPT_BYTES = 8 << 20


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
        times: when each frame is shown.
        pts: int64 [frames], time of each frame, in display order; None where frames were counted by decoding.
        keys: int64, positions of key frames, from which decoding may start.
        seekable: whether they can be sought by time; the packets before them are passed over otherwise.
        timed: whether frames have the times of `pts`; avi has those of packets, in the order of decoding.
        alone: whether every frame can be decoded without the others.
        sparing: whether frames to which no other one refers can be left out.
        decord_obstacle: why decord would not deliver the same frames; empty where it does.
    """

    path: Path
    frames: int
    stored_size: tuple[int, int]
    size: tuple[int, int]
    orientation: Orientation
    fps: float
    times: FrameTimes
    pts: np.ndarray | None
    keys: np.ndarray
    seekable: bool
    timed: bool
    alone: bool
    sparing: bool
    decord_obstacle: str


@dataclass(frozen=True)
class OpenPackets:
    """A file that is open, and all packets of its video in their order, the empty one at the end among them."""

    container: Any
    stream: Any
    packets: list[Any]


def index_video(path: Path) -> VideoIndex:
    """Count the frames of a video file and find out how they must be read.

    Raises:
        InputError: not a video, no video stream, cut off, or nothing in it can be decoded.
    """
    index, packets = open_indexed(path)
    if packets is not None:
        packets.container.close()
    return index


def open_indexed(path: Path) -> tuple[VideoIndex, OpenPackets | None]:
    """`index_video`, and what was read for it, where frames can be decoded from that and it is not much.

    Raises:
        InputError: as for `index_video`.
    """
    with in_a_sentence(path):
        container, stream = open_stream(path)
        kept: list[Any] = []
        try:
            index = _index(path, container, stream, kept)
        except BaseException:
            container.close()
            raise
        if index.sparing and kept:
            return index, OpenPackets(container, stream, kept)
        container.close()
        return index, None


def _index(path: Path, container: Any, stream: Any, kept: list[Any]) -> VideoIndex:
    packets, first, fresh = _scan(container, stream, path, kept)
    names = set(container.format.name.split(","))
    codec = stream.codec_context.name
    rate = stream.average_rate or stream.guessed_rate
    clock = Clock.of(container, stream)
    streams = sum(1 for other in container.streams.video)
    # What the index of an mp4 promises.
    promised = len(stream.index_entries) if "mov" in names else 0
    _check_end(path, container, stream, packets, promised)
    displayed = [packet for packet in packets if not packet.discard]
    corrupt = any(packet.corrupt for packet in packets)
    countable = (
        not corrupt
        and codec not in _HIDDEN_PICTURES
        and (codec in _PICTURE_PER_PACKET or min(packet.size for packet in packets) >= _SMALLEST_PICTURE)
        and packets[0].key
        and all(packet.pts is not None for packet in packets)
        and packets[0].pts == min(packet.pts for packet in packets)
        and len({packet.pts for packet in packets}) == len(packets)
    )
    pts, keys = None, np.zeros(0, np.int64)
    if countable:
        frames = len(displayed)
        displayed.sort(key=lambda packet: packet.pts)
        pts = np.array([packet.pts for packet in displayed], np.int64)
        times = clock.times(pts.tolist(), [packet.duration for packet in displayed])
        if names & (_SEEKABLE | _PASSABLE):
            keys = np.searchsorted(pts, [packet.pts for packet in displayed if packet.key])
    else:
        shown_at = _decoded_times(path)
        frames = len(shown_at)
        times = clock.times(*zip(*shown_at, strict=True))

    orientation = _orientation(first)
    stored = (first.height, first.width)
    obstacles = {
        "its container has no index to seek by": not names & _DECORD_CONTAINERS,
        "its packets and frames do not pair up": not countable,
        "an edit list hides some of its frames": len(displayed) != len(packets),
        "pictures after a key frame need some before it": not fresh or (countable and not _closed_groups(packets)),
        "it has several video streams": streams > 1,
        "its pictures have more than 8 bits": any(part.bits != 8 for part in first.format.components),
        "its colours are stored for fewer pixels than its odd size has": _is_odd(first),
        "it is interlaced": first.interlaced_frame,
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
        times=times,
        pts=pts,
        keys=keys,
        seekable=bool(names & _SEEKABLE),
        timed=countable and bool(names & (_SEEKABLE | {"flv"})),
        alone=codec in _ALONE,
        # Fields of one frame may differ in being referred to.
        sparing=countable and codec == "h264" and bool(names & _SEEKABLE) and not first.interlaced_frame,
        decord_obstacle=next((reason for reason, holds in obstacles.items() if holds), ""),
    )


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: Any
    duration: Any
    place: Any
    size: int
    key: bool
    discard: bool
    corrupt: bool


def _packet(packet: Any) -> _Packet:
    return _Packet(
        packet.pts,
        packet.duration,
        packet.pos,
        packet.size,
        packet.is_keyframe,
        packet.is_discard,
        packet.is_corrupt,
    )


def _check_end(path: Path, container: Any, stream: Any, packets: list[_Packet], promised: int) -> None:
    """Refuse a file whose end is missing.

    Args:
        path: the file.
        container: the file as it was opened.
        stream: its video.
        packets: all packets of it.
        promised: how many there are by the index of an mp4.
    """
    names = set(container.format.name.split(","))
    if len(packets) < promised:
        missing: str | None = f"{len(packets)} of {promised} pictures are there"
    elif "mov" in names and any(packet.corrupt for packet in packets):
        missing = "or damaged in the middle"
    else:
        missing = missing_end(path, names)
        rest = path.stat().st_size - (packets[-1].place or 0) - packets[-1].size
        if not missing and (packets[-1].corrupt or any(rest > head for name, head in _BARE.items() if name in names)):
            missing = "its last picture is not whole"
        elif names & _TIMED and (missing is None or (missing == "" and ends_in_zeros(path))):
            missing = _missing_time(path, container, stream, packets, _SHARE, _LEAST)
        elif missing and "flv" in names and container.duration and not packets[-1].corrupt:
            # Tools that edit a clip may leave the old size in its head. Where all of the time is there, so is the clip.
            missing = _missing_time(path, container, stream, packets, 0, 0) and missing
        elif missing is None and names & _TORN:
            missing = _torn_picture(path, packets)
    if missing:
        raise InputError(f"{shown(path)}: the file is cut off ({missing}); copy or download it again")


def _torn_picture(path: Path, packets: list[_Packet]) -> str:
    """Look whether one of the last pictures lacks a part, by decoding the last group, where it is a short one."""
    av = require("av", "video")
    key = max((place for place, packet in enumerate(packets) if packet.key), default=0)
    if len(packets) - key > _LAST_GROUP:
        return ""
    torn = [False]
    container, stream = open_stream(path)
    with container:
        for packet in islice(demux(container, stream), key, None):
            try:
                torn += [frame.is_corrupt for frame in packet.decode()]
            except av.FFmpegError:
                torn.append(True)
    # Of a group's last pictures, the last one to be shown comes before others.
    return "its last picture is not whole" if any(torn[-4:]) else ""


def _missing_time(path: Path, container: Any, stream: Any, packets: list[_Packet], share: float, least: float) -> str:
    """Compare the time that a container's head promises with that of its last packet, of whatever stream.

    Args:
        path: the file.
        container: the file as it was opened.
        stream: its video.
        packets: all packets of it.
        share: how much of the time may be missing, besides two pictures.
        least: how many seconds may be missing in any case.

    Returns:
        What is missing, in words; "" where nothing is, or nothing is promised.
    """
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    if not container.duration or len(times) < 2:
        return ""
    should = container.duration / 1e6
    gap = max(after - before for before, after in pairwise(times)) * stream.time_base
    margin = max(share * should, least, 2 * float(gap))
    there = float((times[-1] - times[0]) * stream.time_base)
    if there + margin >= should:
        return ""
    # Sound may be longer than the pictures.
    again, _ = open_stream(path)
    with again:
        ends = [
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in demux(again)
            if packet.pts is not None
        ]
    there = max(ends) - (container.start_time or 0) / 1e6
    return f"its head says {should:.2f} s, of which {there:.2f} are there" if there + margin < should else ""


def _scan(container: Any, stream: Any, path: Path, kept: list[Any]) -> tuple[list[_Packet], Any, bool]:
    """Collect all packets, decoding only as far as the first frame.

    Args:
        container, stream, path: the file.
        kept: takes the packets themselves, unless they are too much.

    Returns:
        The packets, the first frame, and whether the decoder starts afresh at every key frame.
    """
    av = require("av", "video")
    codec, header = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
    packets: list[_Packet] = []
    first, fresh, room = None, True, _KEPT_BYTES
    failure = "no frame can be decoded"
    try:
        for packet in demux(container, stream):
            room -= packet.size
            if room >= 0:
                kept.append(packet)
            if packet.size:
                packets.append(_packet(packet))
                if packet.is_keyframe and codec in ("h264", "hevc"):
                    fresh = fresh and _starts_afresh(bytes(packet), codec, header)
            if first is None:
                try:
                    first = next(iter(packet.decode()), None)
                except av.FFmpegError as error:
                    failure = words(error)
    except av.FFmpegError as error:
        raise InputError(f"{shown(path)}: the file is damaged ({words(error)})") from error
    if first is None:
        raise InputError(f"{shown(path)}: not a readable video ({failure})")
    if room < 0:
        kept.clear()
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


def _decoded_times(path: Path) -> list[tuple[Any, Any]]:
    """Decode a file; returns the time and the duration of every frame, as far as they are known."""
    container, stream = open_stream(path)
    with container:
        return [(frame.pts, frame.duration) for frame in decode(demux(container, stream), path)]


def _closed_groups(packets: list[_Packet]) -> bool:
    """True where every key frame is as far into the file in display order as in coding order."""
    order = {pts: position for position, pts in enumerate(sorted(packet.pts for packet in packets))}
    return all(order[packet.pts] == position for position, packet in enumerate(packets) if packet.key)


def _is_odd(frame: Any) -> bool:
    """True where the size is not a multiple of the block that shares a colour."""
    pixels = frame.format
    return bool(
        frame.width % (64 // max(1, pixels.chroma_width(64))) or frame.height % (64 // max(1, pixels.chroma_height(64)))
    )


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
