from __future__ import annotations

import pytest

from maedfer.data.protocols.ravdess import PROTOCOL, folds
from tests.data.protocols.helpers import check_partition


@pytest.mark.parametrize("modality", ["01", "02"])
def test_speech_with_picture_is_taken_once(modality: str) -> None:
    names = [
        f"Actor_{actor:02d}/{modality}-01-{emotion:02d}-01-01-01-{actor:02d}.mp4"
        for actor in range(1, 25)
        for emotion in range(1, 9)
    ]
    twin = {"01": "02", "02": "01"}[modality]
    others = [f"Actor_03/{twin}-01-05-01-01-01-03.mp4", "03-01-05-01-01-01-03.wav", "01-02-05-01-01-01-03.mp4"]
    found = folds(names + others)
    check_partition(found, 24 * 8)
    assert len(found) == 6
    assert dict(found[2].test)[f"Actor_12/{modality}-01-08-01-01-01-12.mp4"] == PROTOCOL.classes.index("surprised")
    assert {path[6:8] for path, _ in found[5].test} == {"21", "22", "23", "24"}
    frames = folds([*names, f"frames/{modality}-01-01-01-01-01-01", f"{modality}-01-02-01-01-01-01_aligned"])
    check_partition(frames, 24 * 8)
    assert f"frames/{modality}-01-01-01-01-01-01" in dict(frames[0].test)
    assert f"{modality}-01-02-01-01-01-01_aligned" in dict(frames[0].test)
    # Of the two files of one recording, the one with sound counts.
    assert "Actor_03/01-01-05-01-01-01-03.mp4" in dict(found[0].test)
