"""Data sets in miniature, in the layouts that they come in: clips of a red face on a ground of blue."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maedfer.faces.frame import Detections, Frame
from tests.data.media import write_video
from tests.data.protocols.helpers import put

# Side of the face in pictures of 40 x 40: 0.64 of the picture, as in crops.
SIDE, FACE = 40, 32
_made: dict[tuple[object, ...], bytes] = {}


def picture(number: int = 0, height: int = SIDE, width: int = SIDE, face: int = FACE) -> np.ndarray:
    """Uint8 [H, W, 3] with a red square in the middle, and what tells it from others in a corner."""
    found = np.zeros((height, width, 3), np.uint8)
    found[..., 2] = 200
    top, left = (height - face) // 2, (width - face) // 2
    found[top : top + face, left : left + face] = 250, 0, 0
    found[:4, :4] = number % 250
    return found


def frames(folder: Path, count: int = 3, *, suffix: str = ".jpg", **shape: int) -> None:
    """Write a clip as a folder of frames."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.fromarray(picture(number, **shape)).save(folder / f"{number:05d}{suffix}", quality=95)


def video(path: Path, count: int = 4, height: int = 48, width: int = 64, face: int = 12) -> None:
    """Write a clip as a video, of a whole picture unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = path.suffix, count, height, width, face
    if key not in _made:
        write_video(path, np.array([picture(number, height, width, face) for number in range(count)]))
        _made[key] = path.read_bytes()
    path.write_bytes(_made[key])


class RedDetector:
    """A detector that takes what is red for a face: boxes are known."""

    needs_pictures = True
    name, note = "red", ""

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        found = []
        for frame in frames:
            assert frame.picture is not None
            # Videos and jpg change colours a little.
            red = (frame.picture[..., 0] > 150) & (frame.picture[..., 2] < 100)
            rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
            boxes = np.zeros((0, 4), np.float32)
            if len(rows):
                corner = columns[0], rows[0]
                boxes = np.array([[*corner, np.ptp(columns) + 1, np.ptp(rows) + 1]], np.float32)
            found.append(Detections(boxes, np.full(len(boxes), 0.9, np.float32)))
        return found


def dfew(root: Path, place: str = "Clip/clip_224x224", **shape: int) -> None:
    """Fold k tests clip k and trains on the other four; a version of 16 frames lies beside."""
    for fold in range(1, 6):
        for part in ("train", "test"):
            ids = [number for number in range(1, 6) if (number == fold) == (part == "test")]
            rows = "".join(f"{number},{number}\n" for number in ids)
            put(root, f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv", "video_name,label\n" + rows)
    for number in range(1, 6):
        frames(root / place / f"{number:05d}", suffix=".jpg", **shape)
    (root / "Clip/clip_224x224_16f/00001").mkdir(parents=True)


def ferv39k(root: Path) -> None:
    """Two clips for training, one for test."""
    put(root, "4_setups/All_scenes/train_All.csv", "Action/Happy/0267 Happy\nWar/Angry/0001 Angry\n")
    put(root, "4_setups/All_scenes/test_All.csv", "Crime/Fear/0002 Fear\n")
    for clip in ("Action/Happy/0267", "War/Angry/0001", "Crime/Fear/0002"):
        frames(root / "2_ClipsforFaceCrop" / clip)


def mafw(root: Path, faces: bool = True) -> None:
    """Fold k tests clip k of five; recordings, and on request the faces."""
    names = ["anger", "disgust", "fear", "happiness", "neutral"]
    for fold in range(1, 6):
        for part in ("train", "test"):
            lines = [
                f"{number:05d}.mp4 {names[number - 1]}\n"
                for number in range(1, 6)
                if (number == fold) == (part == "test")
            ]
            put(root, f"Train & Test Set/single/no_caption/set_{fold}/{part}.txt", "".join(lines))
    for number in range(1, 6):
        video(root / f"data/clips/{number:05d}.mp4")
        if faces:
            frames(root / f"data/frames/{number:05d}", suffix=".png")


def crema_d(root: Path) -> None:
    """Two recordings of an actor of each fold, and sound."""
    for actor in (1001, 1020, 1040, 1060, 1080):
        for code in ("ANG", "SAD"):
            video(root / f"VideoFlash/{actor}_DFA_{code}_XX.flv")
            put(root, f"AudioWAV/{actor}_DFA_{code}_XX.wav", "sound")


def ravdess(root: Path) -> None:
    """A recording of an actor of each fold, with sound and without, and a song."""
    for actor in (1, 5, 9, 13, 17, 21):
        for kind in ("01-01", "02-01", "01-02"):
            what = "Song" if kind == "01-02" else "Speech"
            name = f"{kind}-03-01-01-01-{actor:02d}.mp4"
            video(root / f"Video_{what}_Actor_{actor:02d}/Actor_{actor:02d}/{name}")


def enterface05(root: Path) -> None:
    """A recording of a subject of each fold, and the one that was never cut."""
    for subject in (1, 11, 20, 29, 38):
        video(root / f"enterface database/subject {subject}/anger/sentence 1/s{subject}_an_1.avi")
    video(root / "enterface database/subject 6/subject 6.avi")


def voxceleb2(root: Path) -> None:
    """Two speakers with three clips, one of them broken as in the original; the test part, and texts."""
    for clip in ("id00012/21Uxsk56VDQ/00001", "id00012/21Uxsk56VDQ/00002", "id00015/0fijmz4vTVU/00001"):
        video(root / f"dev/mp4/{clip}.mp4", height=SIDE, width=SIDE, face=16)
        put(root, f"dev/txt/{clip}.txt", "text")
    put(root, "dev/mp4/id00015/0fijmz4vTVU/00002.mp4", "no video")
    video(root / "test/mp4/id00017/01dfn2spqyE/00001.mp4")


def folder(root: Path) -> None:
    """Two classes of three persons with two clips each."""
    for name in ("a happy", "sad"):
        for person in ("p1", "p2", "p3"):
            for take in (1, 2):
                frames(root / name / f"{person}_{take}")


def copied(root: Path, target: Path) -> Path:
    """A copy of a tree."""
    shutil.copytree(root, target)
    return target
