"""Shards made by tarfile, byte by byte as the head of layout.py says, and what is in them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from maedfer.data.shards.layout import FRAME, ClipArrays, ShardFile, ShardSet, Stored
from tests.data.media import pictures

SIZE = 40, 56
_COUNTS = (5, 1, 12, 7)


@dataclass(frozen=True)
class Made:
    """Shards in a folder.

    Args:
        folder: that holds them.
        frames: of each clip, as they are read back: uint8 [T, H, W, 3].
        times: of each clip.
    """

    folder: Path
    frames: list[np.ndarray]
    times: list[np.ndarray]


def make_shards(
    folder: Path,
    stored: Stored = "jpeg",
    counts: tuple[int, ...] = (5, 1, 12, 7),
    fps: float = 25,
    people: tuple[str, ...] = (),
) -> Made:
    """Write clips of so many frames, two in each shard; the second has no label, all have keys with a gap before.

    People are in one clip after the other, nobody known being in every first one.
    """
    folder.mkdir(parents=True)
    rows: dict[str, list] = {name: [] for name in ClipArrays.__dataclass_fields__}
    shards, frames, times = [], [], []
    for place in range(0, len(counts), 2):
        name = f"shard-{place // 2:06d}"
        tar, lines, first = _Tar(folder / f"{name}.tar"), [], 0
        for number in range(place, min(place + 2, len(counts))):
            count, key = counts[number], 2 * number + 1
            clip = np.roll(pictures(count, *SIZE), 5 * number, axis=2)
            shown = np.arange(count) / fps + number if fps else np.full(count, np.nan)
            files = [simplejpeg.encode_jpeg(picture, quality=90) for picture in clip]
            start = tar.add(f"{key:09d}.json", json.dumps({"name": f"clip {number}"}).encode()) - 512
            if number != 1:
                tar.add(f"{key:09d}.cls", b"%d" % (number % 3))
            if stored == "jpeg":
                begin = min([tar.add(f"{key:09d}.{at:06d}.jpg", file) for at, file in enumerate(files)])
                clip = np.stack([simplejpeg.decode_jpeg(file) for file in files])
            else:
                files, array = [picture.tobytes() for picture in clip], io.BytesIO()
                np.save(array, clip)
                begin = tar.add(f"{key:09d}.frames.npy", array.getvalue()) + array.tell() - clip.nbytes
            lines += [(time, len(file)) for time, file in zip(shown, files, strict=True)]
            frames.append(clip)
            times.append(shown)
            for field, value in {
                "key": key, "shard": place // 2, "offset": start, "length": tar.end() - start, "pictures": begin,
                "first": first, "frames": count, "size": SIZE, "fps": fps, "label": -1 if number == 1 else number % 3,
                "line": number + 1, "box": [np.nan] * 4,
                "digest": list(hashlib.sha256(b"".join(files)).digest()),
            }.items():  # fmt: skip
                rows[field].append(value)
            rows["names"] += list(f"a b/clip {number}.mp4".encode())
            rows["name_ends"].append(len(rows["names"]))
            first += count
        content, index = tar.close(), io.BytesIO()
        np.save(index, np.array(lines, FRAME))
        (folder / f"{name}.frames.npy").write_bytes(index.getvalue())
        digests = hashlib.sha256(content).hexdigest(), hashlib.sha256(index.getvalue()).hexdigest()
        shards.append(ShardFile(f"{name}.tar", len(content), min(2, len(counts) - place), first, *digests))
    arrays = ClipArrays(**{name: np.array(rows[name], kind) for name, kind in KINDS.items()})
    if people:
        texts = [name.encode() for name in people]
        who = np.arange(len(counts), dtype="<i4") % (len(people) + 1) - 1
        ends = np.cumsum([len(text) for text in texts], dtype="<i8")
        joined = np.frombuffer(b"".join(texts), np.uint8)
        arrays = dataclasses.replace(arrays, subject=who, people=joined, people_ends=ends)
    (folder / "index.npz").write_bytes(arrays.content())
    about = ShardSet(
        stored=stored,
        quality=90 if stored == "jpeg" else None,
        size=SIZE,
        classes=("a", "b", "c"),
        source="list.csv",
        source_sha256="0" * 64,
        settings={},
        clips=len(counts),
        frames=sum(counts),
        quarantined=0,
        clips_sha256=hashlib.sha256(arrays.content()).hexdigest(),
        shards=tuple(shards),
    )
    (folder / "index.json").write_text(about.text())
    return Made(folder, frames, times)


KINDS = {
    "key": "<i8", "shard": "<i4", "offset": "<i8", "length": "<i8", "pictures": "<i8", "first": "<i8", "frames": "<i4",
    "size": "<i4", "fps": "<f8", "label": "<i4", "line": "<i4", "box": "<f4", "digest": "|u1", "names": "|u1",
    "name_ends": "<i8",
}  # fmt: skip


class _Tar:
    def __init__(self, path: Path) -> None:
        self._path, self._content = path, io.BytesIO()
        self._tar = tarfile.open(fileobj=self._content, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, name: str, content: bytes) -> int:
        """Add a member; says where its content begins."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        begin = self.end() + 512
        self._tar.addfile(info, io.BytesIO(content))
        return begin

    def end(self) -> int:
        return self._tar.offset

    def close(self) -> bytes:
        self._tar.close()
        self._path.write_bytes(self._content.getvalue())
        return self._content.getvalue()
