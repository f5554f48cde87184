from __future__ import annotations

from maedfer.data.protocols.enterface05 import PROTOCOL, folds
from tests.data.protocols.helpers import check_partition


def test_folds_of_subjects() -> None:
    subjects = [subject for subject in range(1, 45) if subject != 6]
    names = [f"subject {s}/anger/sentence 1/s{s}_an_1.avi" for s in subjects]
    found = folds([*names, "subject 6/s6_an_1.avi", "subject 6.avi", "s_3_su_2.avi"])
    check_partition(found, 44)
    assert [len(fold.test) for fold in found] == [10, 9, 9, 9, 7]
    assert dict(found[0].test)["s_3_su_2.avi"] == PROTOCOL.classes.index("surprise")


def test_one_recording_in_two_forms_and_two_of_one_name() -> None:
    told: list[str] = []
    names = ["a/s1_an_1.avi", "b/S1_an_1/", "b/s_1_an_1.mp4", "subject 1/joy/sentence 2/s1_an_1.avi"]
    assert [path for path, _ in folds(names, tell=told.append)[0].test] == ["b/S1_an_1/", names[3]]
    assert told[0].startswith("1 recording is there more than once and listed once, the first as b/S1_an_1/ and not a/")


def test_the_folder_knows_better_than_a_mistyped_file_name() -> None:
    assert folds(["subject 40/s4_fe_1.avi"])[4].test == [("subject 40/s4_fe_1.avi", 2)]
