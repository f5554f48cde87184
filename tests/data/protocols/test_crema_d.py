from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from maedfer.data.annotations import read_annotations
from maedfer.data.protocols import write_protocol
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


def test_a_recording_is_listed_once_in_its_best_form(tmp_path: Path) -> None:
    name = "1001_DFA_ANG_XX"
    forms = [
        f"faces/{name}_aligned",
        f"frames/{name}",
        f"{name}.mp4",
        f"AVI/{name.lower()}.AVI",
        f"VideoFlash/{name}.flv",
    ]
    for form in forms[:2]:
        put(tmp_path, f"{form}/frame_det_00_000001.bmp")
    for form in forms[2:]:
        put(tmp_path, form)
    (tmp_path / name).mkdir()
    put(tmp_path, "VideoFlash/1001_IEO_HAP_LO.flv")
    for hidden in (f"VideoFlash/._{name}.flv", f"__MACOSX/{name}.flv", f".trash/{name}.mp4", "VideoFlash/Thumbs.db"):
        put(tmp_path, hidden)
    for form in forms:
        told: list[str] = []
        assert PROTOCOL.folds_in(tmp_path, told.append)[0].test == sorted(
            [(form, 0), ("VideoFlash/1001_IEO_HAP_LO.flv", 3)]
        )
        assert told[0].startswith(f"1 recording is there more than once and listed once, the first as {form} and not ")
        assert ("cropped alike" in " ".join(told)) == (form in forms[:2])
        (tmp_path / form).rename(tmp_path / "x")
        (tmp_path / "x").rename(tmp_path / form.replace("1001_DFA", "other").replace("1001_dfa", "other"))
    told = []
    assert (name, 0) in PROTOCOL.folds_in(tmp_path, told.append)[0].test
    assert told == ["1 of the clips are video files and 1 folders: see to it that the faces in them are cropped alike."]


def test_folders_behind_links_are_searched_once(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/1001_DFA_ANG_XX.flv")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "clips").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "root")
    assert PROTOCOL.folds_in(tmp_path / "root")[0].test == [("clips/1001_DFA_ANG_XX.flv", 0)]


def test_folders_that_cannot_be_looked_into_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "clips/1001_DFA_ANG_XX.flv")
    (tmp_path / "lost+found").mkdir()
    look, closed = os.scandir, ["lost+found"]

    def scandir(path: str) -> Any:
        if Path(path).name in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told: list[str] = []
    assert len(PROTOCOL.folds_in(tmp_path, told.append)[0].test) == 1
    assert told == [f"{tmp_path}/lost+found cannot be looked into: Permission denied; what may be in it is left out."]
    closed.append(tmp_path.name)
    with pytest.raises(InputError, match="cannot be looked into: Permission denied"):
        PROTOCOL.folds_in(tmp_path)


def test_other_files() -> None:
    with pytest.raises(InputError, match=r"1099_DFA_ANG_XX.flv: subject 1099 is in no fold of CREMA-D"):
        folds(["1099_DFA_ANG_XX.flv"])
    with pytest.raises(InputError, match="no file name is of the form that CREMA-D has; give the folder"):
        folds(["a.mp4"])


def test_lists_say_who_is_in_a_clip(tmp_path: Path) -> None:
    for actor in (1001, 1020, 1040, 1060, 1080):
        put(tmp_path, f"{actor}_DFA_ANG_XX.flv")
    folders = write_protocol("crema_d", tmp_path, tmp_path / "lists")
    assert [clip.subject for clip in read_annotations(folders[0] / "test.csv", tmp_path)] == ["1001"]
    train = read_annotations(folders[0] / "train.csv", tmp_path)
    assert [clip.subject for clip in train] == ["1020", "1040", "1060", "1080"]
