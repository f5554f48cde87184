"""The clips that were named: the list is read, and some of it, evenly spread, is decoded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

from maedfer._progress import counted
from maedfer.doctor.finding import Finding, Options, note, ok, wrong
from maedfer.errors import InputError

_SOME, _FRAMES = 8, 16


def look(options: Options) -> Iterator[Finding]:
    """Length of the list, files that are not there, clips that cannot be decoded, pace."""
    if not options.data:
        return
    from maedfer.data.annotations import read_annotations
    from maedfer.data.shards.clips import read_shards
    from maedfer.data.shards.layout import is_shards
    from maedfer.data.source import as_source
    from maedfer.train.conditions import file_digest
    from maedfer.train.same_clips import identity, spread

    shards = is_shards(options.data)
    clips = read_shards(options.data, None, False, ()) if shards else read_annotations(options.data, labelled=False)
    said = f"{identity(clips)}; SHA-256 of the {'index' if shards else 'list'} {file_digest(options.data)}"
    yield ok("data", said)
    absent = [] if shards else [clip for clip in clips if not os.path.exists(clip.path)]
    if absent:
        said = f"{counted(len(absent), 'clip')} of {len(clips)} not there, the first is {absent[0].path}"
        yield wrong("data, files", said, "mend the list, or set data.root")
    source = as_source(clips)
    gone = {clip.name for clip in absent}
    read, spent, broken = 0, 0.0, []
    tried = [place for place in spread(len(clips), _SOME) if clips[place].name not in gone]
    for place in tried:
        start = time.perf_counter()
        try:
            with source.open(place, "auto") as reader:
                read += len(reader.read(np.linspace(0, len(reader) - 1, _FRAMES).astype(int)))
        except InputError as error:
            broken.append(str(error))
        spent += time.perf_counter() - start
    if broken:
        yield wrong(
            "data, clips",
            f"{len(broken)} of {counted(len(tried), 'clip')} cannot be read: {broken[0]}",
            "leave them out",
        )
    elif tried:
        yield ok(
            "data, clips",
            f"{counted(len(tried), 'clip')} of {len(clips)} read, {read / spent:.0f} frames a second by one process",
        )
    else:
        yield note("data, clips", "none was read")
