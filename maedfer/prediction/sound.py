"""The sound of a video, taken over into another file beside its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maedfer.data.video.base import in_a_sentence
from maedfer.data.video.streams import demux, open_stream
from maedfer.errors import require

# What players expect to find in an mp4; other codecs are encoded anew.
_AS_IT_IS = frozenset("aac mp3 ac3 eac3 alac flac opus".split())


class SoundCopy:
    """Copies the first sound of a video into a container, at its time; a folder of frames has none.

    Packets are taken over as they are where an mp4 can hold them, and encoded as AAC elsewhere.

    Args:
        path: of the video.
        target: PyAV's container that is written to; the stream is added to it.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, path: Path, target: Any) -> None:
        self._path, self._target = path, target
        self._source: Any = None
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        if path.is_dir():
            return
        with in_a_sentence(path):
            self._source, _ = open_stream(path)
            streams = [stream for stream in self._source.streams.audio if stream.codec_context is not None]
            if not streams:
                return
            sound = streams[0]
            self._start = (self._source.start_time or 0) / 1e6
            if sound.codec_context.name in _AS_IT_IS:
                self._stream = target.add_stream_from_template(sound)
                self._packets = self._copied(sound)
            else:
                self._stream = target.add_stream("aac", rate=sound.rate or 48000)
                self._packets = self._encoded(sound)

    def copy(self, until: float) -> None:
        """Write what sounds up to a time, in seconds since the video's start."""
        with in_a_sentence(self._path, "its sound cannot be copied"):
            while True:
                if self._next is None:
                    self._next = next(self._packets, None)
                packet = self._next
                if packet is None or (packet.dts or 0) * packet.time_base > until:
                    return
                self._target.mux(packet)
                self._next = None

    def close(self) -> None:
        """Let go of the video."""
        self._packets = iter(())
        if self._source is not None:
            self._source.close()

    def _copied(self, sound: Any) -> Iterator[Any]:
        shift = round(self._start / sound.time_base)
        for packet in demux(self._source, sound):
            # Packets that an edit list hides are not heard; the last one is empty.
            if packet.size and packet.dts is not None:
                packet.pts = None if packet.pts is None else packet.pts - shift
                packet.dts -= shift
                packet.stream = self._stream
                yield packet

    def _encoded(self, sound: Any) -> Iterator[Any]:
        av = require("av", "video")
        for packet in demux(self._source, sound):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                # A hole in the sound; what follows has its own time.
                continue
            for frame in frames:
                if frame.pts is not None:
                    frame.pts -= round(self._start / frame.time_base)
                yield from self._stream.encode(frame)
        yield from self._stream.encode()
