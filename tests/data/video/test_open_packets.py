"""Frames that are decoded from what indexing has read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maedfer.data.video.index import open_indexed
from maedfer.data.video.readers import PyAVReader
from tests.data.media import pictures, write_video


@pytest.mark.parametrize("options", [{"g": "250", "bf": "3"}, {"g": "10", "bf": "0", "sc_threshold": "0"}])
def test_what_indexing_has_read_gives_the_frames_of_the_file(tmp_path: Path, options: dict[str, str]) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(60), options=options)
    index, read = open_indexed(path)
    assert read is not None and len([packet for packet in read.packets if packet.size]) == 60
    orders = [[40, 59], range(60), [59], [0], [31, 35, 39], [5, 55]]
    plain, reader = PyAVReader(index), PyAVReader(index, read)
    for order in orders:
        np.testing.assert_array_equal(reader.read(order), plain.read(order))
    assert reader._read_before is read and reader._keys is index.keys, "seeking was given up"
    reader.close()
    np.testing.assert_array_equal(reader.read([7]), plain.read([7]))


def test_long_videos_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", pictures(30))
    monkeypatch.setattr("maedfer.data.video.index._KEPT_BYTES", path.stat().st_size // 2)
    _, read = open_indexed(path)
    assert read is None
