"""The memory that `maedfer predict` takes does not depend on how long a video is."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.data.media import write_video
from tests.faces.networks import center_face
from tests.helpers import REPOSITORY
from tests.prediction.models import CONFIG, classifier

RATE, SECONDS, MINUTES = 4, 20, 15
MEGABYTE = 1 << 20

# Goes through a video and notes what the process holds on the way, in bytes and in blocks of Python's own; then the
# most bytes that it ever held.
WATCHED = """
import gc, json, resource, sys
from maedfer.cli import main
from maedfer.faces.follow import Follower

push, seen = Follower.push, []

def watched(self, frame):
    push(self, frame)
    if frame.index == 0:
        # What is there in any case need not be searched for what can go.
        gc.freeze()
    if frame.index % 40 == 0:
        gc.collect()
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[1]) * resource.getpagesize()
        seen.append((frame.time, size, sys.getallocatedblocks()))

Follower.push = watched
status = main(sys.argv[1:])
# The system's count of a process's most bytes begins with those of whoever started it; this one does not.
with open("/proc/self/status") as file:
    (peak,) = (int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
print(json.dumps([status, seen, peak]))
"""


def write_long_video(path: Path, scratch: Path) -> None:
    """Two red spots on their ways, one of which is away for three of every twenty seconds.

    Twenty seconds are encoded, as a group of pictures that needs no other; its packets are repeated.
    """
    pictures = np.full((RATE * SECONDS, 120, 160, 3), 90, np.uint8)
    for number, picture in enumerate(pictures):
        turn = 2 * math.pi * number / len(pictures)
        for x, y, away in ((40, 40, range(0)), (110, 70, range(5 * RATE, 8 * RATE))):
            if number not in away:
                left, top = round(x + 12 * math.sin(turn)), round(y + 12 * math.cos(turn))
                picture[top : top + 8, left : left + 8] = 220, 30, 30
    piece = write_video(scratch, pictures, rate=RATE, options={"bf": "0", "g": str(len(pictures))})
    with av.open(str(piece)) as source, av.open(str(path), "w") as target:
        packets: list[Any] = [packet for packet in source.demux(video=0) if packet.size]
        stream: Any = target.add_stream_from_template(source.streams.video[0])
        length = sum(packet.duration for packet in packets)
        for turn in range(60 * MINUTES // SECONDS):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts = packet.pts + turn * length, packet.dts + turn * length
                copy.duration = packet.duration
                target.mux(copy)


def test_a_quarter_of_an_hour_takes_the_memory_of_three_minutes(tmp_path: Path) -> None:
    write_long_video(tmp_path / "long.mp4", tmp_path / "piece.mp4")
    # Crops are large, so that any that are kept show.
    config = dataclasses.replace(CONFIG, clip_size=(4, 64, 64), patch_size=(2, 16, 16))
    classifier(config).save_pretrained(tmp_path / "model")
    # What is found is as large as twelve cells of four pixels, of a picture twice as large as the frames.
    detector = center_face(tmp_path / "detector.onnx", size=(math.log(12), math.log(12)))
    command = ["predict", "long.mp4", "--checkpoint", "model", "--detector", detector.name, "--out", "out"]
    command += ["--hop", "6", "--precision", "fp32", "--workers", "0", "--no-plot", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    status, seen, peak = json.loads(done.stdout.splitlines()[-1])
    assert status == 0 and seen[-1][0] >= 60 * MINUTES - 10
    early = [max(values) for values in zip(*(item for item in seen if item[0] <= 180), strict=True)]
    most = [max(values) for values in zip(*seen, strict=True)]
    print("memory of three minutes and of all, in bytes and blocks:", early[1:], most[1:], peak)
    assert most[1] <= early[1] + 10 * MEGABYTE
    assert most[2] <= early[2] + 5000
    assert peak < 1000 * MEGABYTE
    with (tmp_path / "out" / "long.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # A window every six seconds. In those that start at 6, 66, 126, ... one of the two is away; it comes back anew.
    starts = [start for start in range(0, 60 * MINUTES, 6) for _ in range(1 if start % 60 == 6 else 2)]
    assert [row["start"] for row in rows] == [f"{start:.3f}" for start in starts]
    assert max(int(row["face"]) for row in rows) == 2 + 60 * MINUTES // SECONDS
