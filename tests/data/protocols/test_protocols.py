from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from maedfer.data import protocols
from maedfer.data.annotations import read_annotations
from maedfer.data.protocols import PROTOCOLS, Fold, find_protocol, odd_subjects, write_folds, write_protocol
from maedfer.errors import InputError
from maedfer.train.config import list_recipes
from tests.data.protocols.helpers import put, put_dfew

FOLDS = [Fold([("a.mp4", 0), ("b.mp4", 1)], [("c.mp4", 1)]), Fold([("c.mp4", 1)], [("a.mp4", 0), ("b.mp4", 1)])]


def test_every_module_is_found_and_has_its_recipe_and_its_test() -> None:
    modules = {path.stem for path in Path(protocols.__file__).parent.glob("[!_]*.py")}
    assert set(PROTOCOLS) == modules
    for name, protocol in PROTOCOLS.items():
        assert name in list_recipes()
        assert (Path(__file__).parent / f"test_{name}.py").is_file()
        assert len(set(protocol.classes)) == len(protocol.classes)
        assert protocol.clips > protocol.test_clips > 0


def test_unknown_data_set() -> None:
    with pytest.raises(InputError, match="unknown data set 'ravdes': did you mean 'ravdess'"):
        find_protocol("ravdes")


def test_the_usual_number_of_clips_does_not_depend_on_their_order() -> None:
    for counts in (Counter({1: 60, 2: 59}), Counter({2: 59, 1: 60})):
        assert odd_subjects(counts, (1, 2)) == ["There are 60 clips of most subjects, but not of subject 2 (59)."]


def test_lists_are_annotation_files(tmp_path: Path) -> None:
    put_dfew(tmp_path)
    folders = write_protocol("dfew", tmp_path, tmp_path / "lists")
    assert [folder.name for folder in folders] == [f"fold_{fold}" for fold in range(1, 6)]
    train = read_annotations(folders[0] / "train.csv", root=tmp_path, num_classes=7)
    assert [(clip.path, clip.label) for clip in train] == [
        (tmp_path / "jpg_224/00012", 0),
        (tmp_path / "jpg_224/16372", 6),
    ]
    assert read_annotations(folders[2] / "test.csv")[0].name == "jpg_224/00003"
    assert tuple((tmp_path / "lists/classes.txt").read_text().split()) == PROTOCOLS["dfew"].classes


def test_lists_of_odd_names_read_back(tmp_path: Path) -> None:
    rows = [("a b 1.mp4", 0), ("#2", 1), ("caf\udce9.mp4", 2), ("00017", 0), ('x,"y"', 1)]
    (folder,) = write_folds([Fold(rows, rows[:1])], ("x", "y", "z"), tmp_path / "lists")
    assert [(clip.name, clip.label) for clip in read_annotations(folder / "train.csv")] == rows
    with pytest.raises(InputError, match="cannot be in a list"):
        write_folds([Fold([("a\nb", 0)], [])], ("x", "y", "z"), tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_the_home_folder_and_odd_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put_dfew(tmp_path / "DFEW")
    write_protocol("dfew", "~/DFEW", "~/lists")
    assert (tmp_path / "lists/fold_5/test.csv").is_file()
    with pytest.raises(InputError, match="no such folder; give the one"):
        write_protocol("dfew", "n" * 300, "~/lists")
    (tmp_path / "lists/classes.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match="lists of a data set with other classes"):
        write_protocol("dfew", "~/DFEW", "~/lists")


def test_a_folder_that_is_not_the_data_sets(tmp_path: Path) -> None:
    put_dfew(tmp_path / "DFEW")
    with pytest.raises(InputError, match="none: no such folder; give the one that DFEW was unpacked to"):
        write_protocol("dfew", tmp_path / "none", tmp_path / "lists")
    for wrong in (tmp_path, tmp_path / "DFEW" / "jpg_224"):
        with pytest.raises(InputError, match=r"set_1.csv: no such split file; did you mean .*DFEW\?"):
            write_protocol("dfew", wrong, tmp_path / "lists")
    with pytest.raises(InputError, match="train.txt: no such split file; give the folder that"):
        write_protocol("mafw", tmp_path, tmp_path / "lists")
    put(tmp_path, "DFEW/EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "\n")
    with pytest.raises(InputError, match="set_1.csv: the split file is empty"):
        write_protocol("dfew", tmp_path / "DFEW", tmp_path / "lists")
    (tmp_path / "DFEW/EmoLabel_DataSplit/train(single-labeled)/set_1.csv").write_bytes(b"PK\xff\xfe\0")
    with pytest.raises(InputError, match="set_1.csv: not a text file"):
        write_protocol("dfew", tmp_path / "DFEW", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_lists_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one cannot be written, the earlier ones stay and nothing else does."""
    out = tmp_path / "lists"
    write_folds(FOLDS, ("x", "y"), out)
    put(out, "voxceleb2.txt", "other\n")
    before = {path: path.read_text() for path in out.rglob("*") if path.is_file()}
    written = []

    def fail(file: Path, rows: object, subjects: object) -> None:
        written.append(file)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("new\n")

    with monkeypatch.context() as patch:
        patch.setattr(protocols, "write_annotations", fail)
        for place in (out, tmp_path / "fresh"):
            written.clear()
            with pytest.raises(InputError, match=r"cannot write lists to .*: No space left on device"):
                write_folds(FOLDS, ("x", "y"), place)
    assert {path: path.read_text() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists"]
    write_folds(FOLDS[::-1], ("x", "y"), out)
    assert (out / "fold_1/train.csv").read_text() == "c.mp4 1\n"
    assert (out / "voxceleb2.txt").read_text() == "other\n"


def test_lists_of_other_classes_are_not_replaced(tmp_path: Path) -> None:
    write_folds(FOLDS, ("x", "y"), tmp_path / "lists")
    with pytest.raises(InputError, match="lists holds lists of a data set with other classes: choose another"):
        write_folds(FOLDS, ("y", "x"), tmp_path / "lists")
    put(tmp_path, "file")
    with pytest.raises(InputError, match=r"cannot write lists to .*file"):
        write_folds(FOLDS, ("x", "y"), tmp_path / "file")
