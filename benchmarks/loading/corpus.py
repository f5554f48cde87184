"""What is loaded: the same clips as videos, as folders of pictures, and as shards of either, made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maedfer.data.annotations import read_annotations, write_annotations
from maedfer.data.shards.layout import INDEX_FILE, parse_set
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from maedfer.synthetic import write_scene
from maedfer.synthetic.clips import write_h264

# VoxCeleb2 has videos of 224 x 224 of 8 s at 25 frames/s, DFEW folders of pictures of 256 x 256.
VIDEO_SIDE, PICTURE_SIDE, FRAMES = 224, 256, 200
# The box of VoxCeleb2's frames that its recipe cuts out: top, left, height, width.
CROP = (0, 32, 160, 160)
# Shards by the form of their clips, and what is chosen of them.
SHARDS = {
    "videos": ShardOptions(cut=CROP),
    "pictures": ShardOptions(size=(160, 160)),
}
# Sides of what shards hold, and of clips as models take them.
SIDE = 160
_QUALITY = 95
_MARK = "corpus.json"


@dataclass(frozen=True)
class Corpus:
    """Where the clips are.

    Args:
        folder: holds all of them, and lists.
        clips: names, in each form of them.
        distinct: how many of them differ; the others are links to those.
        frames: of a clip.
    """

    folder: Path
    clips: int
    distinct: int
    frames: int = FRAMES

    @property
    def videos(self) -> list[Path]:
        """The video files."""
        return [self.folder / "videos" / f"{number:05d}.mp4" for number in range(self.clips)]

    @property
    def folders(self) -> list[Path]:
        """The folders of pictures."""
        return [self.folder / "pictures" / f"{number:05d}" for number in range(self.clips)]

    def list_of(self, form: str) -> Path:
        """A list of the clips: of "videos" or "pictures"."""
        return self.folder / f"{form}.csv"

    def shards_of(self, form: str) -> Path:
        """Shards of that list."""
        return self.folder / f"{form}_shards"

    def describe(self) -> dict[str, Any]:
        """Sizes, for a results file."""
        sizes = [path.stat().st_size for path in self.videos[: self.distinct]]
        pictures = [file.stat().st_size for folder in self.folders[: self.distinct] for file in folder.iterdir()]
        shards = {}
        for form in SHARDS:
            about = parse_set((self.shards_of(form) / INDEX_FILE).read_bytes(), form)
            shards[form] = {
                "frame_bytes": sum(shard.bytes for shard in about.shards) / about.frames,
                "settings": about.settings,
            }
        return {
            "shards": shards,
            "clips": self.clips,
            "distinct": self.distinct,
            "frames": self.frames,
            "video": f"h264, {VIDEO_SIDE} x {VIDEO_SIDE}, 25 frames/s, one key frame",
            "video_bytes": float(np.mean(sizes)),
            "pictures": f"jpg, {PICTURE_SIDE} x {PICTURE_SIDE}, quality {_QUALITY}",
            "picture_bytes": float(np.mean(pictures)),
        }


def make_corpus(folder: Path, sources: Sequence[Path], clips: int, frames: int = FRAMES, workers: int = 1) -> Corpus:
    """Make the clips, or find those that an earlier call has made of the same sources.

    Args:
        folder: takes them; made anew where it holds a corpus of other sources or sizes.
        sources: videos of faces, of which the middle square is taken; a scene that is drawn where there are none.
        clips: how many names there are to be.
        frames: of a clip.
        workers: processes that write shards.

    Raises:
        InputError: a source cannot be read, or the folder holds something else.
    """
    about = {"sources": [_digest(path) for path in sources], "clips": clips, "frames": frames, "quality": _QUALITY}
    mark = folder / _MARK
    if mark.exists():
        known = json.loads(mark.read_text())
        if known["about"] == about:
            return Corpus(folder, **known["corpus"])
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{str(folder)!r} holds something else than clips of this benchmark: give another folder")
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    if not sources:
        write_scene(folder / "scene.mp4")
        sources = [folder / "scene.mp4"]
    distinct = 0
    for clip in islice(chain.from_iterable(_segments(path, frames) for path in sources), clips):
        _write(folder, distinct, clip)
        distinct += 1
    for number in range(distinct, clips):
        first, name = f"{number % distinct:05d}", f"{number:05d}"
        os.link(folder / "videos" / f"{first}.mp4", folder / "videos" / f"{name}.mp4")
        os.symlink(first, folder / "pictures" / name, target_is_directory=True)
    corpus = Corpus(folder, clips, distinct, frames)
    for form, paths in (("videos", corpus.videos), ("pictures", corpus.folders)):
        names = (str(path.relative_to(folder)) for path in paths)
        write_annotations(corpus.list_of(form), ((name, number % 7) for number, name in enumerate(names)))
        write_shards(read_annotations(corpus.list_of(form)), corpus.shards_of(form), SHARDS[form], workers=workers)
    place = {key: value for key, value in asdict(corpus).items() if key != "folder"}
    mark.write_text(json.dumps({"about": about, "corpus": place}))
    return corpus


def _segments(source: Path, frames: int) -> Iterator[np.ndarray]:
    """Cut a video into clips, uint8 [frames, H, W, 3]; a short one is continued to and fro."""
    with open_video(source) as reader:
        for start in range(0, max(len(reader) - frames, 0) + 1, frames):
            there = list(range(start, min(start + frames, len(reader))))
            order = list(islice(cycle(there + there[-2:0:-1]), frames))
            pictures = reader.read(order)
            side = min(pictures.shape[1:3])
            top, left = (pictures.shape[1] - side) // 2, (pictures.shape[2] - side) // 2
            yield pictures[:, top : top + side, left : left + side]


def _write(folder: Path, number: int, clip: np.ndarray) -> None:
    pictures = [Image.fromarray(frame) for frame in clip]
    small = (np.asarray(picture.resize((VIDEO_SIDE, VIDEO_SIDE), Image.Resampling.BICUBIC)) for picture in pictures)
    write_h264(str(folder / "videos" / f"{number:05d}.mp4"), small, crf=23, key_every=250)
    place = folder / "pictures" / f"{number:05d}"
    place.mkdir(exist_ok=True)
    for count, picture in enumerate(pictures, 1):
        file = place / f"{count:05d}.jpg"
        picture.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC).save(file, quality=_QUALITY)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror})") from error
