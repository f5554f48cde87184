from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.protocols.mafw import PROTOCOL
from maedfer.errors import InputError
from tests.data.protocols.helpers import put


def test_given_folds(tmp_path: Path) -> None:
    for fold in range(1, 6):
        folder = f"split/single/no_caption/set_{fold}"
        put(tmp_path, f"{folder}/train.txt", f"0000{fold}.mp4 anger\n09172.mp4 disappointment\n")
        put(tmp_path, f"{folder}/test.txt", "00008.mp4  sadness\n")
    folds = PROTOCOL.folds_in(tmp_path)
    assert len(folds) == 5
    assert folds[3].train == [("data/frames/00004", 0), ("data/frames/09172", 10)]
    assert folds[3].test == [("data/frames/00008", 5)]
    put(tmp_path, "split/single/no_caption/set_4/test.txt", "00003.mp4 cheerful\n")
    with pytest.raises(InputError, match=r"test.txt:1: not 'clip class', with a class out of anger, disgust"):
        PROTOCOL.folds_in(tmp_path)
