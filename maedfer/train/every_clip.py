"""Whether every clip of a list can be read, from its first frame to its last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset

from maedfer._progress import ProgressLine
from maedfer.data.annotations import Clip
from maedfer.data.source import ClipSource, as_source
from maedfer.data.video.base import VideoReader
from maedfer.data.video.readers import Backend
from maedfer.errors import InputError
from maedfer.train.live_loader import LiveLoader

# Frames that are decoded before they are let go.
_AT_ONCE = 32
# Clips between two reports of a process, and reports that it prepares ahead.
_BATCH = 4
_PREFETCH = 2


class Look(NamedTuple):
    """What was found of a clip.

    Args:
        frames: how many there are.
        problem: what is wrong with it, "" where nothing is.
        kills: it ends the process that reads it, so that nothing can pass over it.
    """

    frames: int
    problem: str
    kills: bool = False


def read_every_clip(
    clips: Sequence[Clip], backend: Backend, workers: int, what: str, known: dict[Path, Look]
) -> list[Look]:
    """Decode every frame of every clip, in several processes, and show how far that is.

    Damage may be anywhere, and a run draws other frames in each epoch: no sample of frames would do.

    Args:
        clips: of a list or of shards.
        backend: as in `open_video`.
        workers: processes; 0 = this one.
        what: is read, for the line of progress.
        known: what was found of clips of other lists, by path; is added to.

    Returns:
        What was found of each clip.
    """
    source = as_source(clips)
    paths = [clip.path for clip in source]
    left = list({path: index for index, path in enumerate(paths) if path not in known}.values())
    whole, done = len(left), 0
    line = ProgressLine(f"reading {what}")
    alone = False
    while left:
        # Clips that were under way when a process was killed are read again one by one, to find which one does it.
        part = left[: _PREFETCH * _BATCH * workers] if alone else left
        try:
            for looks in _looks(source, part, backend, 1 if alone else workers, 1 if alone else _BATCH):
                known.update({paths[index]: look for index, look in looks})
                done += len(looks)
                line(min(1.0, done / whole))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            if alone:
                culprit = next(paths[index] for index in part if paths[index] not in known)
                known[culprit] = Look(0, f"{culprit}: it kills the process that decodes it", True)
            alone = not alone
        else:
            alone = False
        left = [index for index in left if paths[index] not in known]
    line.clear()
    return [known[path] for path in paths]


def _looks(
    source: ClipSource, indices: list[int], backend: Backend, workers: int, batch: int
) -> Iterator[list[tuple[int, Look]]]:
    # A single process with one clip a batch is given a clip when the one before has been looked at, and not earlier.
    return iter(
        LiveLoader(
            _Clips(source, backend),
            batch_size=batch,
            sampler=indices,
            num_workers=min(workers, -(-len(indices) // batch)),
            collate_fn=list,
            multiprocessing_context="fork" if workers else None,
            prefetch_factor=(1 if batch == 1 else _PREFETCH) if workers else None,
        )
    )


def read_whole(reader: VideoReader) -> int:
    """Decode all frames of a clip, a few at a time, and count them.

    Raises:
        InputError: it cannot be read.
    """
    for start in range(0, len(reader), _AT_ONCE):
        reader.read(range(start, min(start + _AT_ONCE, len(reader))))
    return len(reader)


class _Clips(Dataset[tuple[int, Look]]):
    def __init__(self, source: ClipSource, backend: Backend) -> None:
        self.source, self.backend = source, backend

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Look]:
        try:
            with self.source.open(index, self.backend) as reader:
                return index, Look(read_whole(reader), "")
        except InputError as error:
            return index, Look(0, str(error))
