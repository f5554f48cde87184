"""The account of clips that cannot be read while training."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from maedfer.errors import InputError
from maedfer.train import run_finetune
from maedfer.train.quarantine import QuarantinedClip, read_quarantine, write_quarantine
from tests.train.runs import Killed, kill_before, records, scores, tiny, write_clips

ROWS = [
    QuarantinedClip("b", "/x/b", 'list.csv:2: "b", torn', 1),
    QuarantinedClip("a\udce9 ü", "/x/a\udce9 ü", "list.csv:1: empty", 2),
    QuarantinedClip("c", "/x/c", "list.csv:3: empty", 2),
]


def spoil(*folders):
    for folder in folders:
        for frame in folder.iterdir():
            frame.write_bytes(b"not a picture")


def test_rows_come_back_in_the_order_of_epochs_and_names(tmp_path):
    path = tmp_path / "quarantine.csv"
    write_quarantine(path, ROWS[::-1])
    # By the bytes of the names: the second one's is no UTF-8.
    assert read_quarantine(path) == sorted(ROWS, key=lambda row: (row.epoch, row.clip))
    assert path.read_text(errors="surrogateescape").splitlines()[0] == "clip,file,reason,epoch"
    for text, message in (
        ("path,reason\n", "is not a quarantine.csv of a run: its first line must be clip,file"),
        ("clip,file,reason,epoch\na,b,c\n", "line 2: not a clip, a file, a reason and an epoch"),
        ("clip,file,reason,epoch\na,b,c,1\na,b,c,-1\n", "line 3"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_quarantine(path)
    with pytest.raises(InputError, match="cannot read"):
        read_quarantine(tmp_path / "absent.csv")


def test_broken_clips_are_put_down_once_also_by_a_run_that_is_resumed(tmp_path, monkeypatch, capsys):
    data = write_clips(tmp_path / "clips")
    kept = shutil.copytree(data / "clip_11", tmp_path / "kept")
    spoil(data / "clip_8", data / "clip_11")
    changes = ["data.on_error=skip", "data.max_broken=0.15", "eval.every=0", "train.save_steps=1", "data.workers=1"]
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    rows = read_quarantine(tmp_path / "whole" / "quarantine.csv")
    assert sorted(row.clip for row in rows) == ["clip_11", "clip_8"]
    assert all(row.file == str(data / row.clip) and "not a readable picture" in row.reason for row in rows)
    told = records(tmp_path / "whole", "quarantined")
    assert {(row["clip"], row["file"], row["reason"], row["epoch"]) for row in told} == set(rows) and len(told) == 2
    (note,) = [note for note in scores(whole)["notes"] if "quarantine" in note]
    assert note.startswith("2 of 14 clips to learn from could not be read and were replaced by others")
    assert note in capsys.readouterr().out
    for step in (2, 5):
        kill_before(monkeypatch, step)
        with pytest.raises(Killed):
            run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    assert run_finetune(tiny("finetune", data, tmp_path / "cut", *changes)).metrics == whole.metrics
    assert read_quarantine(tmp_path / "cut" / "quarantine.csv") == rows
    files = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(files[1][name], value) for name, value in files[0].items())
    # A clip that was mended comes out again once it is read.
    shutil.rmtree(tmp_path / "cut")
    kill_before(monkeypatch, 6)
    with pytest.raises(Killed):
        run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    shutil.rmtree(data / "clip_11")
    kept.rename(data / "clip_11")
    result = run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    assert [row.clip for row in read_quarantine(tmp_path / "cut" / "quarantine.csv")] == ["clip_8"]
    assert "can be read again, and learned from: clip_11; no longer in quarantine.csv" in capsys.readouterr().out
    assert any(note.startswith("1 of 14 clips to learn from") for note in scores(result)["notes"])


def test_more_broken_clips_than_allowed_stop_the_run_before_and_after_they_are_mended(tmp_path, capsys):
    data = write_clips(tmp_path / "clips")
    kept = shutil.copytree(data / "clip_12", tmp_path / "kept")
    spoil(data / "clip_9", data / "clip_12")
    cfg = tiny("finetune", data, tmp_path / "run", "data.on_error=skip", "data.max_broken=0.1", "train.save_steps=1")
    message = (
        r"^2 of 14 clips of '.*train.csv' cannot be read, which is more than data.max_broken=0.1 allows: clip_12, "
        r"clip_9 \(.*not a readable picture.*\); .*quarantine.csv names, and start the same command again; or raise"
    )
    for _ in range(2):
        with pytest.raises(InputError, match=message) as error:
            run_finetune(cfg)
        assert "\n" not in str(error.value)
        assert len(read_quarantine(tmp_path / "run" / "quarantine.csv")) == 2
    shutil.rmtree(data / "clip_12")
    kept.rename(data / "clip_12")
    run_finetune(cfg)
    assert [row.clip for row in read_quarantine(tmp_path / "run" / "quarantine.csv")] == ["clip_9"]
    # A new run does not know of an older one's.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "model")
    run_finetune(tiny("finetune", write_clips(tmp_path / "sound"), tmp_path / "run", "eval.every=0"))
    assert not (tmp_path / "run" / "quarantine.csv").exists()
