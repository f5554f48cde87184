import pytest
import torch

from maedfer.data.annotations import read_annotations
from maedfer.errors import InputError
from maedfer.train import run_finetune, same_clips
from maedfer.train.dry_run import dry_run
from maedfer.train.same_clips import changed_lists, changed_sizes, identity, sizes, spread
from tests.train.runs import scores, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_identity_is_of_names_and_labels_in_their_order(data):
    clips = read_annotations(data / "test.csv")
    assert identity(clips).startswith("7 clips, ")
    assert identity(clips) == identity(list(clips)) != identity(clips[::-1])


def test_sizes_are_bytes_of_files_and_numbers_of_frames(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x" * 70)
    (tmp_path / "b").mkdir()
    for number in range(3):
        (tmp_path / "b" / f"{number}.png").touch()
    (tmp_path / "list.csv").write_text("a.mp4\nb\nabsent.mp4\n")
    clips = read_annotations(tmp_path / "list.csv", labelled=False)
    before = sizes(clips)
    assert before.tolist() == [70, 3, -1]
    (tmp_path / "b" / "3.png").touch()
    (note,) = changed_sizes("train", clips, before, sizes(clips), 4)
    assert note.startswith("1 of 3 clips of data.train changed their size after epoch 4 (the first is b, ")
    assert "list.csv:2" in note
    assert changed_sizes("train", clips, before, before, 4) == []
    # Of a long list, a sample.
    monkeypatch.setattr(same_clips, "_SAMPLE", 2)
    assert sizes(clips).tolist() == [70, 4]
    (note,) = changed_sizes("train", clips, torch.tensor([71, 4]), sizes(clips), 4)
    assert note.startswith("1 of 2 clips of data.train that were looked at changed")


def test_a_sample_is_spread_evenly():
    assert spread(3, 16) == [0, 1, 2]
    assert spread(100, 4) == [0, 25, 50, 75]


def test_what_is_said_of_lists_that_changed():
    there, here = {"train": "a", "test": "b"}, {"train": "a", "test": "c", "val": "d"}
    test, val = changed_lists(there, here, 3, ("test", 2))
    assert test == "data.test changed after epoch 3 (b then, c now); the best epoch so far, 2, was chosen on the " + (
        "former clips"
    )
    assert val == "data.val changed after epoch 3 (none then, d now)"
    assert changed_lists(there, there, 3, ("test", 2)) == []


def test_a_clip_replaced_under_its_old_name_is_told(tmp_path, capsys):
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1")
    run_finetune(cfg)
    frames = sorted((data / "clip_1").iterdir())
    frames[0].rename(frames[0].with_name("9.png"))
    run_finetune(cfg)
    assert "changed their size" not in capsys.readouterr().out
    (data / "clip_1" / "9.png").unlink()
    notes = scores(run_finetune(cfg))["notes"]
    changed = [note.split(" changed")[0] for note in notes if " changed" in note]
    assert changed == ["1 of 8 clips of data.train", "1 of 7 clips of data.test"]
    assert "1 of 8 clips of data.train changed their size after epoch 1 (the first is clip_1" in capsys.readouterr().out


def test_a_dry_run_compares_the_lists_with_those_of_the_checkpoint(tmp_path):
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1")
    run_finetune(cfg)
    test, train = data / "test.csv", data / "train.csv"
    test.write_text(test.read_text().replace("clip_0 0", "clip_0 2"))
    said: list[str] = []
    dry_run(cfg, said.append)
    assert any("data.test changed after epoch 1 (7 clips, " in line for line in said)
    train.write_text(train.read_text().replace("clip_0 0", "clip_0 2"))
    with pytest.raises(InputError, match=r"data\.train has changed"):
        dry_run(cfg, said.append)
