"""Whether a run that goes on has the clips that it had.

The lists are compared by names and labels, all of them, and shards by what they store too. A file that was replaced
under its old name is known by its size alone, and looked for in a sample: to ask a file server for a million clips
takes longer than many an epoch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from maedfer.data.annotations import Clip
from maedfer.data.shards.clips import ShardClips
from maedfer.errors import InputError

# Clips of a list whose sizes are remembered; of longer lists, so many evenly spread ones.
_SAMPLE = 1000


def identity(clips: Sequence[Clip]) -> str:
    """What tells these clips from others: their number, and a digest of names and labels, of shards of pictures too."""
    if isinstance(clips, ShardClips):
        return f"{len(clips)} clips, {clips.digest().hex()[:16]}"
    digest = hashlib.sha256()
    for clip in clips:
        # A name may have bytes that are no UTF-8.
        digest.update(f"{clip.name} {clip.label}\n{clip.digest}".encode(errors="surrogateescape"))
    return f"{len(clips)} clips, {digest.hexdigest()[:16]}"


def sizes(clips: Sequence[Clip]) -> Tensor:
    """Bytes of the clips, files in a folder of frames, -1 where there is nothing; of a sample of a long list, int64.

    Those of shards are known by their digests: 0.
    """
    if isinstance(clips, ShardClips):
        return torch.zeros(min(len(clips), _SAMPLE), dtype=torch.int64)
    return torch.tensor([_size(clips[index].path) for index in spread(len(clips), _SAMPLE)], dtype=torch.int64)


def check_same_clips(path: str | Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Refuse to go on with other clips to learn from; lists of clips to score may change.

    Args:
        path: of the checkpoint, for the message.
        there, here: identities of the lists of the run that made it, and of this one, by name.

    Raises:
        InputError: naming the list and both identities.
    """
    if there.get("train") != here.get("train"):
        raise InputError(
            f"{str(path)!r} was made with other clips, data.train has changed "
            f"({there.get('train', 'none')} then, {here.get('train', 'none')} now): "
            "use another output folder for a new run"
        )


def changed_lists(there: Mapping[str, str], here: Mapping[str, str], epoch: int, best: tuple[str, int]) -> list[str]:
    """Sentences about lists of clips to score that are not those of before.

    Args:
        there, here: as for `check_same_clips`.
        epoch: after which the run goes on.
        best: the list that the best epoch is chosen on, and that epoch; 0 where there is none yet.
    """
    notes = []
    for name in sorted({*there, *here} - {"train"}):
        before, now = there.get(name, "none"), here.get(name, "none")
        if before == now:
            continue
        note = f"data.{name} changed after epoch {epoch} ({before} then, {now} now)"
        if best[0] == name and best[1]:
            note += f"; the best epoch so far, {best[1]}, was chosen on the former clips"
        notes.append(note)
    return notes


def changed_sizes(name: str, clips: Sequence[Clip], there: Tensor, here: Tensor, epoch: int) -> list[str]:
    """A sentence about clips of an unchanged list that are not those of before.

    Args:
        name: of the list.
        clips: the list.
        there, here: their `sizes` then and now.
        epoch: after which the run goes on.
    """
    if there.shape != here.shape:
        return []
    places = (there != here).nonzero().flatten().tolist()
    if not places:
        return []
    first = clips[spread(len(clips), _SAMPLE)[places[0]]]
    looked = f"{len(here)} clips of data.{name}" + (" that were looked at" if len(here) < len(clips) else "")
    return [
        f"{len(places)} of {looked} changed their size after epoch {epoch} (the first is {first.name}, {first.where}): "
        "the run goes on with what is there now"
    ]


def spread(count: int, most: int) -> list[int]:
    """At most `most` different indices below `count`, evenly spread."""
    most = min(count, most)
    return [index * count // most for index in range(most)]


def _size(path: Path) -> int:
    try:
        facts = path.stat()
        return len(os.listdir(path)) if path.is_dir() else facts.st_size
    except OSError:
        return -1
