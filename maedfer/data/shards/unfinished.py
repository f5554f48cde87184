"""What is there of shards that are being written: whole clips, and what is known of whole shards.

In DIR/.unfinished are plan.json, which says what is written and is locked by who writes it; `KEY.clip` of each clip
that waits for its shard (`maedfer.data.shards.pieces`); and `shard-000000.json` of each shard that is whole. A shard is
put together of clips that follow each other in the order of keys, once all of them are there: its tar and its file of
frames get their names first, its record next, and then its clips are removed. So whatever ends the process, a clip is
in a shard with a record, or in a file, or still to be done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from maedfer._files import atomic_path, parse_json, remove_temporaries
from maedfer.data.journal import OwnedFolder
from maedfer.data.shards.layout import BLOCK, FRAME, FRAMES_START, INDEX_FILE, WORK_FOLDER, ShardFile, key_text
from maedfer.data.shards.pieces import Piece, is_intact, piece_of, read_piece
from maedfer.data.shards.quarantine import Quarantined
from maedfer.data.video.base import shown
from maedfer.errors import InputError

_PLAN = "plan.json"
_CLIP = ".clip"


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a whole shard.

    Args:
        file: its row of index.json.
        end: the key from which on clips are in later shards.
        clips: without times and bytes of frames, of which the file of frames has the rows.
        frames: how many each clip has.
        failed: clips that would have been in it.
    """

    file: ShardFile
    end: int
    clips: tuple[Piece, ...]
    frames: tuple[int, ...]
    failed: tuple[Quarantined, ...]


class Unfinished(OwnedFolder):
    """The folder of unfinished work below a folder of shards; use it as a context.

    Args:
        folder: of the shards; made if need be.
        plan: what is written there; a folder takes one plan.

    Raises:
        InputError: on entering: the folder holds something else or shards of another plan, another process writes to
            it, or it cannot be written to.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.work = folder / WORK_FOLDER
        super().__init__(folder, self.work, self.work / _PLAN, holds="shards", busy="is writing shards")
        self._plan = json.dumps(plan).encode("ascii")

    def _begin(self, file: BinaryIO) -> None:
        self._check_plan(file)
        for place in (self.folder, self.work):
            remove_temporaries(place)

    def _check_plan(self, file: BinaryIO) -> None:
        file.seek(0)
        found = file.read()
        if found == self._plan:
            return
        if not self._plan.startswith(found):
            refuse_other(self.folder, found, parse_json(self._plan))
        # Nothing yet, or what a process has left that was killed while it wrote.
        file.truncate(0)
        file.write(self._plan)
        file.flush()
        os.fsync(file.fileno())

    def clip_file(self, key: int) -> Path:
        """Where a clip lies until its shard is put together."""
        return self.work / f"{key_text(key)}{_CLIP}"

    def whole_clips(self) -> dict[int, Piece]:
        """The clips that are there, by key; files that are not whole are removed."""
        found = {}
        for path in sorted(self.work.glob(f"*{_CLIP}")):
            try:
                with path.open("rb") as file:
                    piece = read_piece(file)
                    if not is_intact(piece, file):
                        raise ValueError
                found[int(path.stem)] = piece
            except (OSError, ValueError, LookupError, TypeError):
                path.unlink()
        return found

    def records(self) -> list[ShardRecord]:
        """What is known of the shards that are whole, in their order.

        Raises:
            InputError: one of them has gone since, or its record is damaged.
        """
        records = []
        for path in sorted(self.work.glob("shard-*.json")):
            record = _read_record(path)
            tar = self.folder / record.file.name
            if not tar.is_file() or tar.stat().st_size != record.file.bytes:
                raise InputError(
                    f"{shown(tar)}: is not there any more, or has changed: delete {shown(self.folder)} and begin again"
                )
            records.append(record)
        return records

    def put_together(self, number: int, keys: Sequence[int], end: int, failed: Sequence[Quarantined]) -> ShardRecord:
        """Make a shard of clips that are there.

        Args:
            number: of the shard, from 0.
            keys: of its clips.
            end: the key from which on clips are in later shards.
            failed: clips before it that could not be read.

        Raises:
            InputError: nothing can be written, or a clip's file is not whole any more.
        """
        name = f"shard-{number:06d}.tar"
        digest, pieces, rows = hashlib.sha256(), [], []
        with atomic_path(self.folder / name) as temporary, temporary.open("wb") as tar:
            for key in keys:
                piece, content = self._piece(key)
                with content:
                    left = piece.length
                    while left:
                        block = content.read(min(left, 1 << 20))
                        digest.update(block)
                        tar.write(block)
                        left -= len(block)
                frames = np.empty(len(piece.bytes), FRAME)
                frames["time"] = np.nan if piece.times is None else piece.times
                frames["bytes"] = piece.bytes
                rows.append(frames)
                pieces.append(dataclasses.replace(piece, times=None, bytes=[]))
            # Two empty blocks are the end of a tar.
            digest.update(bytes(2 * BLOCK))
            tar.write(bytes(2 * BLOCK))
            size = tar.tell()
        table = frames_file(np.concatenate(rows))
        file = ShardFile(
            name, size, len(keys), sum(map(len, rows)), digest.hexdigest(), hashlib.sha256(table).hexdigest()
        )
        record = ShardRecord(file, end, tuple(pieces), tuple(map(len, rows)), tuple(failed))
        with atomic_path(self.folder / file.frames_name) as temporary:
            temporary.write_bytes(table)
        _write_record(self.work / f"shard-{number:06d}.json", record)
        for key in keys:
            self.clip_file(key).unlink()
        return record

    def _piece(self, key: int) -> tuple[Piece, BinaryIO]:
        """A clip that is there: its record, and its file at the beginning of its members."""
        path = self.clip_file(key)
        try:
            with contextlib.ExitStack() as files:
                file = files.enter_context(path.open("rb"))
                piece = read_piece(file)
                file.seek(0)
                files.pop_all()
            return piece, file
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{shown(path)}: is gone or damaged: the same command writes it anew") from error

    def remove(self) -> None:
        """Remove the folder of unfinished work, and that of the shards where nothing is in it."""
        shutil.rmtree(self.work)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def refuse_other(folder: Path, found: bytes | str, plan: Mapping[str, Any]) -> None:
    """Say in what a plan differs from that of what is in a folder.

    Args:
        folder: of the shards.
        found: the plan that is there.
        plan: the one that is wanted.

    Raises:
        InputError: always.
    """
    try:
        there = dict(parse_json(found))
        settings = dict(there["settings"])
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{shown(folder)} holds other files: choose another folder, or delete it") from None
    wanted = {**plan["settings"], **{name: value for name, value in plan.items() if name != "settings"}}
    # index.json says more than a plan does.
    settings |= {name: there.get(name) for name in plan if name != "settings"}
    names = {"source_sha256": "another list", "classes": "other classes", "source": "another list"}
    other = dict.fromkeys(
        names.get(name, name) for name in wanted if settings.get(name) != wanted[name] or name not in settings
    )
    raise InputError(
        f"{shown(folder)} holds shards of something else ({', '.join(other) or 'of another version'}): choose another "
        "folder, or delete it"
    )


def is_finished(folder: Path) -> bool:
    """Whether shards in a folder are complete."""
    return (folder / INDEX_FILE).is_file()


def frames_file(rows: np.ndarray) -> bytes:
    """The content of a file of frames: `FRAME` [n] as npy."""
    file = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(FRAME), "fortran_order": False, "shape": rows.shape}
    np.lib.format.write_array_header_1_0(file, about)
    assert file.tell() == FRAMES_START
    file.write(rows.tobytes())
    return file.getvalue()


def _write_record(path: Path, record: ShardRecord) -> None:
    content = json.dumps(dataclasses.asdict(record)).encode("ascii")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content + b"\n" + hashlib.sha256(content).hexdigest().encode("ascii"))


def _read_record(path: Path) -> ShardRecord:
    content, _, digest = path.read_bytes().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode("ascii") != digest:
        raise InputError(f"{shown(path)}: is damaged: delete {shown(path.parent.parent)} and begin again")
    found = parse_json(content)
    return ShardRecord(
        file=ShardFile(**found["file"]),
        end=found["end"],
        clips=tuple(piece_of(piece) for piece in found["clips"]),
        frames=tuple(found["frames"]),
        failed=tuple(Quarantined(**clip) for clip in found["failed"]),
    )
