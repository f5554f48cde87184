from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from maedfer.data.video import streams
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from tests.data.media import one_line, pictures, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures(6), options={"preset": "ultrafast"})


@pytest.mark.parametrize(
    "name",
    """12:30:05.mp4 file:x.mp4 concat:y.mp4 http:z.mp4 pipe:0 async:a.mp4 data:x subfile,,start,1,end,2,,:x -x.mp4
    ~x.mp4 %03d.mp4 a%03d.mkv a?b*[c].mp4 clip.mp4?a=1 é.mp4 列.mp4 q"'.mp4 back\\slash.mp4 video.m3u8 a.txt a.jpg a
    """.split()
    + [" a.mp4", "a.mp4 ", "new\nline.mp4", "http://localhost:1/x.mp4", os.fsdecode(b"caf\xe9/\xff.mp4")],
    ids=ascii,
)
def test_a_name_is_a_name(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FFmpeg finds neither protocols nor patterns in a path, wherever it starts from."""
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip, name)
    for path in (name, tmp_path / name):
        with open_video(path) as reader:
            assert len(reader) == 6 and reader.read([5]).shape == (1, 64, 96, 3)


def test_pictures_named_like_a_pattern(tmp_path: Path) -> None:
    for level, name in ((200, "%03d.jpg"), (0, "001.jpg"), (0, "002.jpg")):
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / name)
    with open_video(tmp_path / "%03d.jpg") as reader:
        assert len(reader) == 1 and reader.read([0]).mean() > 190


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A server on this machine: its port, and what it was asked."""
    requests: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            requests.append(connection.recv(1000))
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1], requests
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    "<Representation><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "pls": "[playlist]\nFile1={target}\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_other_files_are_refused_unread(
    clip: Path, tmp_path: Path, kind: str, listener: tuple[int, list[bytes]]
) -> None:
    port, requests = listener
    for target in (str(clip), f"http://127.0.0.1:{port}/clip.mp4"):
        for suffix in ("m3u8", "mp4", "ts"):
            path = tmp_path / f"list.{suffix}"
            path.write_text(LISTS[kind].format(target=target))
            with pytest.raises(InputError, match="is a list of other files") as caught:
                open_video(path)
            assert one_line(caught.value, path)
    assert requests == []


def test_pictures_in_another_file_are_not_fetched(tmp_path: Path) -> None:
    """A QuickTime file may say that its data are elsewhere."""
    other = write_video(tmp_path / "other.mp4", pictures(6), codec="mpeg4")
    # An alias: 150 bytes, then records of a kind, a length and a path, the last of kind -1.
    name = str(other).encode() + b"\0" * (len(str(other)) % 2)
    records = b"".join(struct.pack(">HH", kind, len(name)) + name for kind in (2, 18)) + b"\xff\xff\0\0"
    alias = struct.pack(">IH", 0, 150 + len(records)) + bytes(144) + records
    box = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    data = bytearray(other.read_bytes())
    at = data.find(b"url \0\0\0\1") - 4
    data[at : at + 12] = box
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = data.find(kind) - 4
        data[place : place + 4] = struct.pack(">I", int.from_bytes(data[place : place + 4], "big") + len(box) - 12)
    path = tmp_path / "elsewhere.mov"
    path.write_bytes(data)
    with av.open(str(path), container_options={"enable_drefs": "1", "use_absolute_path": "1"}) as file:
        assert sum(1 for _ in file.decode(video=0)) == 6
    with pytest.raises(InputError, match="not a readable video"):
        open_video(path)


def test_text_is_no_video(tmp_path: Path) -> None:
    """FFmpeg would draw it."""
    for name in ("notes.txt", "notes.ans", "a.bin", "a.idf", "a.mp4"):
        (tmp_path / name).write_text("a line of text\n" * 50)
        with pytest.raises(InputError, match="not a readable video"):
            open_video(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_titles_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, pictures(4), codec="mpeg4", title="cafe XX")
    data = path.read_bytes()
    assert b"cafe XX" in data
    path.write_bytes(data.replace(b"cafe XX", b"caf\xe9 \xe4\xff"))
    with open_video(path) as reader:
        assert reader.read(range(4)).shape == (4, 64, 96, 3)


def test_streams_that_appear_on_the_way() -> None:
    """PyAV raises IndexError for them after the last packet."""

    class Container:
        def demux(self, *_: object) -> Iterator[str]:
            yield "packet"
            raise IndexError

    assert list(streams.demux(Container(), None)) == ["packet"]


def test_absurd_sizes_take_no_memory(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", pictures(2), codec="rawvideo")
    data = bytearray(path.read_bytes())
    at = data.find(b"strf") + 12
    data[at : at + 8] = struct.pack("<II", 32767, 32767)
    path.write_bytes(data)
    # In a process of its own, whose memory is limited.
    program = (
        "import resource, sys; from maedfer.data.video.readers import open_video; import av, PIL.Image, numpy;"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096;"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2);"
        "open_video(sys.argv[1]).read([0])"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert "InputError" in run.stderr.splitlines()[-1] and "a.avi: not a readable video" in run.stderr, run.stderr
