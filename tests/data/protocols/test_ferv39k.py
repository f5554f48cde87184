from __future__ import annotations

from pathlib import Path

from maedfer.data.protocols.ferv39k import PROTOCOL
from tests.data.protocols.helpers import put


def test_given_lists(tmp_path: Path) -> None:
    put(tmp_path, "4_setups/All_scenes/train_All.csv", "Action/Happy/0267 Happy\nWar/Angry/0001 Angry\n")
    put(tmp_path, "4_setups/All_scenes/test_All.csv", "Crime/Fear/0002 Fear\n")
    (fold,) = PROTOCOL.folds_in(tmp_path)
    assert fold.train == [("2_ClipsforFaceCrop/Action/Happy/0267", 0), ("2_ClipsforFaceCrop/War/Angry/0001", 3)]
    assert fold.test == [("2_ClipsforFaceCrop/Crime/Fear/0002", 6)]
