from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maedfer.data.annotations import Clip, read_annotations
from maedfer.data.source import ClipTable, as_source, check_clips
from maedfer.errors import InputError


def test_clip_table_gives_equal_clips_back(tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text("ä/a.mp4 3\n/abs/b.mp4 0\nsub/../c 1\n", encoding="utf-8")
    clips = read_annotations(listing)
    clips.append(Clip(Path("somewhere/else.mp4"), None, 9, "other name"))
    table = ClipTable(clips)
    assert list(table) == clips
    assert table[-1] == clips[-1] and table[1:3] == clips[1:3] and len(table) == 4
    assert table.labels.tolist() == [3, 0, 1, -1]
    with pytest.raises(IndexError):
        table[4]


def test_clips_of_a_list_are_opened_and_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a" / "0.png")
    clips = [Clip(tmp_path / name, 0, line, name, "list.csv") for line, name in enumerate("ab", 1)]
    table = as_source(clips)
    assert as_source(table) is table
    with table.open(0) as reader:
        assert np.array_equal(reader.read([0])[0], picture)
    with pytest.raises(InputError, match=f"^{tmp_path / 'b'}: no such file or folder"):
        table.open(1)
    for look in (table.check, lambda some=None: check_clips(clips, some)):
        look([0])
        with pytest.raises(InputError, match=r"1 of 2 clips do not exist: list.csv:2 "):
            look()
        os.symlink(tmp_path / "a", tmp_path / "b")
        look()
        (tmp_path / "b").unlink()


def test_clips_of_shards_are_no_files() -> None:
    with pytest.raises(InputError, match="shard-000000.tar:3: clips of shards cannot be put into a list"):
        ClipTable([Clip(Path("d/shard-000000.tar/000000003"), 0, 3, "a", "d/shard-000000.tar", digest="00")])
