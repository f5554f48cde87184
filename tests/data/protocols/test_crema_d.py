from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.protocols.crema_d import PROTOCOL, folds
from maedfer.errors import InputError
from tests.data.protocols.helpers import check_partition, put


def test_folds_of_actors() -> None:
    codes = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
    names = [f"VideoFlash/{actor}_DFA_{code}_XX.flv" for actor in range(1001, 1092) for code in codes]
    found = folds([*names, "readme.flv", "1001_DFA_ZZZ_XX.flv"])
    check_partition(found, 91 * 6)
    assert [len(fold.test) // 6 for fold in found] == [18, 18, 18, 18, 19]
    assert dict(found[0].test)["VideoFlash/1018_DFA_HAP_XX.flv"] == PROTOCOL.classes.index("happy")
    assert "VideoFlash/1019_DFA_HAP_XX.flv" in dict(found[1].test)
    assert "VideoFlash/1091_DFA_SAD_XX.flv" in dict(found[4].test)


def test_files_and_frame_folders_are_found(tmp_path: Path) -> None:
    put(tmp_path, "videos/1001_DFA_ANG_XX.flv")
    (tmp_path / "frames" / "1030_IEO_SAD_HI").mkdir(parents=True)
    found = PROTOCOL.folds_in(tmp_path)
    assert found[0].test == [("videos/1001_DFA_ANG_XX.flv", 0)]
    assert found[1].test == [("frames/1030_IEO_SAD_HI", 5)]


def test_other_files() -> None:
    with pytest.raises(InputError, match=r"1099_DFA_ANG_XX.flv: subject 1099 is in no fold of CREMA-D"):
        folds(["1099_DFA_ANG_XX.flv"])
    with pytest.raises(InputError, match="no file name is of the form that CREMA-D has; give the folder"):
        folds(["a.mp4"])
