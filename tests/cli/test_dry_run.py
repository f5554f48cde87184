from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.helpers import FINETUNE, PRETRAIN, Call
from tests.cli.test_runs import lists


def everything(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_finetune(call: Call, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything(frames)
    done = call("finetune", *FINETUNE, *lists(frames, "train", "val", "test"), "optim.lr=6.4e-3", "--dry-run")
    assert done.status == 0, done.err
    assert "8 clips (calm 4, moved 4)" in done.out and "8 of 8 sampled clips read, 6 to 6 frames" in done.out
    assert done.out.count("4 of 4 sampled clips read") == 2
    # 8 clips in batches of 4 are 2 steps an epoch, one of the two epochs is warm-up; 6.4e-3 * 4 / 256.
    assert "4 steps of 4 clips" in done.out and "learning rate to 0.0001 in 2 steps" in done.out
    # Fresh weights tell two classes apart no better than chance: log 2.
    assert "batch 2 x 3 x 4 x 16 x 16: loss 0.69" in done.out
    assert done.out.endswith("dry run complete: nothing was written\n")
    assert everything(frames) == before and not everything(tmp_path)


def test_pretrain(call: Call, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("pretrain", *PRETRAIN, *lists(frames, "clips"), "model.decoder_keep=0.5", "--dry-run")
    assert done.status == 0, done.err
    assert "8 clips\n" in done.out and "batch 2 x 3 x 4 x 16 x 16: loss " in done.out
    assert not everything(tmp_path)


def test_evaluate_and_weights_to_start_from(call: Call, frames: Path, trained: Path, tmp_path: Path) -> None:
    before = everything(trained)
    done = call("evaluate", "--run", trained, "--dry-run")
    assert done.status == 0, done.err
    assert "4 clips (calm 2, moved 2)" in done.out and "2 classes" in done.out
    other = shutil.copytree(trained, tmp_path / "other")
    done = call("evaluate", "--run", trained, "--run", other, "--dry-run")
    assert done.status == 0 and done.out.count("4 clips") == 2
    done = call("finetune", *FINETUNE, *lists(frames, "train"), f"train.init={trained}", "output=new", "--dry-run")
    assert done.status == 0 and "keys used" in done.out
    assert everything(trained) == before


def test_what_would_stop_the_run_does(call: Call, frames: Path, trained: Path, tmp_path: Path) -> None:
    def refused(*more: object, base: list[str] = FINETUNE) -> str:
        status, _, err = call(
            *("finetune", *base, *lists(frames, "train"), f"output={tmp_path}/run"), *more, "--dry-run"
        )
        assert (status, err.count("\n")) == (2, 1), err
        assert not (tmp_path / "run").exists()
        return err

    missing = tmp_path / "missing.csv"
    missing.write_text("".join(f"clip_{clip} 0\n" for clip in range(5)) + "gone 1\n")
    assert "1 of 6 clips do not exist" in refused(f"data.test={missing}", f"data.root={frames}")
    broken = tmp_path / "broken.csv"
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    broken.write_text(f"{tmp_path}/clip.mp4 0\n")
    assert "1 of 1 sampled clips cannot be read" in refused(f"data.test={broken}")
    assert "label 1 is out of range" in refused("data.classes=[calm]")
    assert "8 clips are fewer than one batch of 9" in refused("train.batch_size=9")
    assert "8 training clips do not fill one batch of 12" in refused("train.accumulate=3")
    assert "train.global_batch (6) is no multiple of train.batch_size (4) x 1 process" in refused(
        "train.batch_size=4", "train.global_batch=6"
    )
    assert "8 training clips do not fill one batch of 12" in refused("train.batch_size=4", "train.global_batch=12")
    assert "is longer than the run" in refused("train.max_steps=1")
    assert "does not exist" in refused(f"train.init={tmp_path}/none")
    (tmp_path / "file").write_text("")
    assert "is a file: give a folder" in refused(f"output={tmp_path}/file")
    assert f"cannot be made: '{tmp_path}/file' is a file" in refused(f"output={tmp_path}/file/run")
    shutil.copy(trained / "config.yaml", tmp_path)
    status, _, err = call("evaluate", "--run", tmp_path, "--run", trained, "--dry-run")
    assert status == 2 and "has no pred.csv" in err


def test_broken_clips_to_be_skipped_are_told(call: Call, frames: Path, tmp_path: Path) -> None:
    shutil.copytree(frames, tmp_path / "clips")
    for picture in (tmp_path / "clips" / "clip_2").iterdir():
        picture.write_bytes(b"")
    given = [*lists(tmp_path / "clips", "clips"), f"output={tmp_path}/run"]
    assert call("pretrain", *PRETRAIN, *given, "--dry-run").status == 2
    done = call("pretrain", *PRETRAIN, *given, "data.on_error=skip", "--dry-run")
    assert done.status == 0, done.err
    assert "7 of 8 sampled clips read" in done.out and "would be skipped: " in done.out


def test_every_clip_is_read_where_that_is_asked(call: Call, frames: Path, tmp_path: Path) -> None:
    shutil.copytree(frames, tmp_path / "clips")
    before = everything(tmp_path)
    given = [*FINETUNE, *lists(tmp_path / "clips", "train", "test"), f"output={tmp_path}/run"]
    done = call("finetune", "--dry-run=all", *given, "data.workers=2")
    assert done.status == 0, done.err
    assert "8 of 8 clips read from the first frame to the last, 6 to 6 frames" in done.out
    assert "dry run complete" in done.out and everything(tmp_path) == before
    # Damage in the middle of one clip, which neither its first nor its last frame shows, and a clip that is gone.
    (tmp_path / "clips" / "clip_1" / "003.png").write_bytes(b"x")
    shutil.rmtree(tmp_path / "clips" / "clip_6")
    assert call("finetune", *given, "--dry-run", "data.train=" + str(tmp_path / "clips" / "test.csv")).status == 0
    status, out, err = call("finetune", *given, "--dry-run=all")
    assert (status, err.count("\n")) == (2, 1)
    assert out.count("broken: ") == 3 and "train.csv:2" in out and "train.csv:7" in out and "test.csv:2" in out
    assert "2 of 8 clips of data.train (mend or remove them, or set data.on_error=skip)" in err
    assert "1 of 4 clips of data.test (mend or remove them, or set eval.on_error=skip)" in err
    done = call("finetune", *given, "--dry-run=all", "data.on_error=skip", "eval.on_error=skip")
    assert done.status == 0, done.err
    assert done.out.count("would be skipped: ") == 3 and "6 of 8 clips read" in done.out
    (tmp_path / "clips" / "test.csv").write_text("clip_6 0\n")
    status, _, err = call("finetune", *given, "--dry-run=all", "data.on_error=skip", "eval.on_error=skip")
    assert status == 2 and "1 of 1 clips of data.test (mend or remove them)" in err
