from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.annotations import read_annotations
from maedfer.data.protocols import CLASSES, ferv39k_split, mafw_fold, protocol_folds, subject_folds, write_protocol
from maedfer.errors import InputError


def check_partition(folds: list, total: int) -> None:
    tests = [path for _, test in folds for path, _ in test]
    assert len(tests) == len(set(tests)) == total
    for train, test in folds:
        assert len(train) + len(test) == total
        assert not {path for path, _ in train} & {path for path, _ in test}


def test_crema_d() -> None:
    codes = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
    names = [f"VideoFlash/{actor}_DFA_{code}_XX.flv" for actor in range(1001, 1092) for code in codes]
    folds = subject_folds("crema_d", [*names, "readme.flv", "1001_DFA_ZZZ_XX.flv"])
    check_partition(folds, 91 * 6)
    assert [len(test) // 6 for _, test in folds] == [18, 18, 18, 18, 19]
    first = dict(folds[0][1])
    assert first["VideoFlash/1018_DFA_HAP_XX.flv"] == CLASSES["crema_d"].index("happy")
    assert "VideoFlash/1019_DFA_HAP_XX.flv" in dict(folds[1][1])
    assert "VideoFlash/1091_DFA_SAD_XX.flv" in dict(folds[4][1])


@pytest.mark.parametrize("modality", ["01", "02"])
def test_ravdess_takes_speech_with_picture_once(modality: str) -> None:
    names = [
        f"Actor_{actor:02d}/{modality}-01-{emotion:02d}-01-01-01-{actor:02d}.mp4"
        for actor in range(1, 25)
        for emotion in range(1, 9)
    ]
    twin = {"01": "02", "02": "01"}[modality]
    others = [f"Actor_03/{twin}-01-05-01-01-01-03.mp4", "03-01-05-01-01-01-03.wav", "01-02-05-01-01-01-03.mp4"]
    folds = subject_folds("ravdess", names + others)
    check_partition(folds, 24 * 8)
    assert len(folds) == 6
    assert dict(folds[2][1])[f"Actor_12/{modality}-01-08-01-01-01-12.mp4"] == CLASSES["ravdess"].index("surprised")
    assert {path[6:8] for path, _ in folds[5][1]} == {"21", "22", "23", "24"}
    # Of the two files of one recording, the one with sound counts.
    assert "Actor_03/01-01-05-01-01-01-03.mp4" in dict(folds[0][1])


def test_enterface05() -> None:
    subjects = [subject for subject in range(1, 45) if subject != 6]
    names = [f"subject {s}/anger/sentence 1/s{s}_an_1.avi" for s in subjects]
    folds = subject_folds("enterface05", [*names, "subject 6/s6_an_1.avi", "subject 6.avi", "s_3_su_2.avi"])
    check_partition(folds, 44)
    assert [len(test) for _, test in folds] == [10, 9, 9, 9, 7]
    assert dict(folds[0][1])["s_3_su_2.avi"] == CLASSES["enterface05"].index("surprise")
    # The folder knows better than a mistyped file name.
    assert subject_folds("enterface05", ["subject 40/s4_fe_1.avi"])[4][1] == [("subject 40/s4_fe_1.avi", 2)]


def test_subject_outside_every_fold() -> None:
    with pytest.raises(InputError, match=r"1099_DFA_ANG_XX.flv: subject 1099 is in no fold"):
        subject_folds("crema_d", ["1099_DFA_ANG_XX.flv"])
    with pytest.raises(InputError, match="no file name is of the form"):
        subject_folds("crema_d", ["a.mp4"])
    with pytest.raises(InputError, match="did you mean 'ravdess'"):
        subject_folds("ravdes", ["a.mp4"])


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_dfew(tmp_path: Path) -> None:
    for fold in range(1, 6):
        put(tmp_path, f"EmoLabel_DataSplit/train(single-labeled)/set_{fold}.csv", "video_name,label\n2,1\n16372,7\n")
        put(tmp_path, f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv", f"video_name,label\n{fold},4\n")
    (tmp_path / "jpg_224").mkdir()
    folders = write_protocol("dfew", tmp_path, tmp_path / "lists")
    assert [folder.name for folder in folders] == [f"fold_{fold}" for fold in range(1, 6)]
    train = read_annotations(folders[0] / "train.csv", root=tmp_path, num_classes=7)
    assert [(clip.path, clip.label) for clip in train] == [
        (tmp_path / "jpg_224/00002", 0),
        (tmp_path / "jpg_224/16372", 6),
    ]
    assert read_annotations(folders[2] / "test.csv")[0].name == "jpg_224/00003"
    assert (tmp_path / "lists/classes.txt").read_text().split() == list(CLASSES["dfew"])
    put(tmp_path, "EmoLabel_DataSplit/test(single-labeled)/set_2.csv", "video_name,label\n9,12\n")
    with pytest.raises(InputError, match=r"set_2.csv:2: not 'number,label'"):
        protocol_folds("dfew", tmp_path)


def test_ferv39k_and_mafw(tmp_path: Path) -> None:
    put(tmp_path, "4_setups/All_scenes/train_All.csv", "Action/Happy/0267 Happy\nWar/Angry/0001 Angry\n")
    put(tmp_path, "4_setups/All_scenes/test_All.csv", "Crime/Fear/0002 Fear\n")
    train, test = ferv39k_split(tmp_path)
    assert train == [("2_ClipsforFaceCrop/Action/Happy/0267", 0), ("2_ClipsforFaceCrop/War/Angry/0001", 3)]
    assert test == [("2_ClipsforFaceCrop/Crime/Fear/0002", 6)]

    put(tmp_path, "split/single/no_caption/set_4/train.txt", "00001.mp4 anger\n09172.mp4 disappointment\n")
    put(tmp_path, "split/single/no_caption/set_4/test.txt", "00003.mp4  sadness\n")
    train, test = mafw_fold(tmp_path, 4)
    assert train == [("data/frames/00001", 0), ("data/frames/09172", 10)]
    assert test == [("data/frames/00003", 5)]
    with pytest.raises(InputError, match=r"set_1.train.txt: no such split file"):
        mafw_fold(tmp_path, 1)
    put(tmp_path, "split/single/no_caption/set_4/test.txt", "00003.mp4 cheerful\n")
    with pytest.raises(InputError, match=r"test.txt:1: not 'clip class'"):
        mafw_fold(tmp_path, 4)


def test_folder_scan_finds_files_and_frame_folders(tmp_path: Path) -> None:
    put(tmp_path, "videos/1001_DFA_ANG_XX.flv", "")
    (tmp_path / "frames" / "1030_IEO_SAD_HI").mkdir(parents=True)
    folds = protocol_folds("crema_d", tmp_path)
    assert folds[0][1] == [("videos/1001_DFA_ANG_XX.flv", 0)]
    assert folds[1][1] == [("frames/1030_IEO_SAD_HI", 5)]
    with pytest.raises(InputError, match="no such folder"):
        protocol_folds("crema_d", tmp_path / "none")
