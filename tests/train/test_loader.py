import errno
import gc
import multiprocessing.process
import multiprocessing.queues
import multiprocessing.reduction
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import connection, resource_sharer
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from maedfer import _progress
from maedfer.data.dataset import ClipDataset
from maedfer.errors import InputError
from maedfer.train import loader, run_finetune, run_pretrain, slots, sources
from maedfer.train.loader import TrainBatches, ViewBatches
from maedfer.train.processes import Runtime
from maedfer.train.slots import InSlot
from tests.train.runs import records, tiny, write_clips

ALONE = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_epoch_can_be_entered_in_the_middle(data, tmp_path):
    batches = TrainBatches(tiny("finetune", data, tmp_path), ALONE)
    whole = list(batches.epoch(1))
    assert len(whole) == len(batches) == 3
    rest = list(batches.epoch(1, 2))
    assert len(rest) == 1 and same(rest[0], whole[2])
    assert not same(next(batches.epoch(2)), whole[0])


def test_entering_an_epoch_does_not_draw_from_the_global_generator(data, tmp_path):
    batches = TrainBatches(tiny("finetune", data, tmp_path), ALONE)
    state = torch.get_rng_state()
    next(batches.epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("changes", [[], ["data.repeats=2"], ["model.decoder_keep=0.5"], ["data.cache=true"]])
def test_two_processes_share_the_batch_of_one(data, tmp_path, changes):
    def batch(rank, world):
        size = 4 // world
        cfg = tiny("pretrain", data, tmp_path, f"train.batch_size={size}", *changes)
        return next(TrainBatches(cfg, Part(rank, world)).epoch(0))

    class Part(Runtime):
        def __init__(self, rank, world):
            super().__init__(torch.device("cpu"), rank, world)

        def on_main(self, function, doing="", long=False):
            return function()

    whole, parts = batch(0, 1), [batch(rank, 2) for rank in range(2)]
    for name in ("frames", "mask", "index"):
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts])), name


def test_masks_come_with_the_clips(data, tmp_path):
    batch = next(TrainBatches(tiny("pretrain", data, tmp_path, "data.repeats=2"), ALONE).epoch(0))
    assert batch["frames"].shape == (8, 3, 4, 16, 16) and batch["frames"].dtype == torch.uint8
    assert batch["mask"].shape == (8, 32) and (batch["mask"].sum(1) == 16).all()
    assert len({tuple(row.tolist()) for row in batch["mask"]}) > 1
    batch = next(TrainBatches(tiny("pretrain", data, tmp_path, "model.decoder_keep=0.5"), ALONE).epoch(0))
    hidden, decoded = batch["mask"].unbind(1)
    assert (hidden.sum(1) == 16).all() and (decoded.sum(1) == 8).all() and not (decoded & ~hidden).any()


def test_views_hold_every_clip_once(data, tmp_path):
    cfg = tiny("finetune", data, tmp_path, "eval.views=3", "eval.batch_size=4")
    views = ViewBatches(cfg, ALONE, cfg.data.test)
    indices = torch.cat([batch["index"] for batch in views])
    assert indices.tolist() == [index for index in range(7) for _ in range(3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_error_in_a_worker_is_one_line(tmp_path, workers):
    data = write_clips(tmp_path / "clips", 4)
    for frame in (data / "clip_2").iterdir():
        frame.write_bytes(b"")
    batches = TrainBatches(tiny("finetune", data, tmp_path / "run", f"data.workers={workers}"), ALONE)
    with pytest.raises(InputError, match=r"^\S*train\.csv:3: .*clip_2") as error:
        list(batches.epoch(0))
    assert "\n" not in str(error.value)


def test_missing_clips_are_noticed_before_training(tmp_path):
    data = write_clips(tmp_path / "clips", 4)
    (data / "train.csv").write_text("clip_0 0\nclip_9 1\n")
    with pytest.raises(InputError, match=r"1 of 2 clips do not exist: .*train\.csv:2"):
        TrainBatches(tiny("finetune", data, tmp_path / "run", "train.batch_size=1"), ALONE)


def test_real_clips_of_every_container_are_pretrained_on(clips, tmp_path):
    kinds = (".mp4", ".mov", ".mpg", ".avi", ".flv")
    files = sorted(path for path in clips.rglob("*") if path.suffix in kinds)
    assert {path.suffix for path in files} == set(kinds)
    (tmp_path / "list.csv").write_text("".join(f"{path}\n" for path in files))
    # Raw pixels of large cubes: what a few steps can learn.
    changes = ["train.batch_size=2", "optim.epochs=2", "optim.lr=5e-3", f"data.train={tmp_path / 'list.csv'}"]
    changes += [
        "model.normalize_target=false",
        "model.encoder.clip_size=[8,64,64]",
        "model.encoder.patch_size=[2,16,16]",
    ]
    result = run_pretrain(tiny("pretrain", tmp_path, tmp_path / "run", *changes))
    assert result.steps == 2 * (len(files) // 2)
    epochs = records(tmp_path / "run", "epoch")
    assert epochs[-1]["appearance"] < 0.7 * epochs[0]["appearance"]
    assert all(epoch["skipped"] == 0 for epoch in epochs)


def test_views_of_several_times_through_the_clips_do_not_mix(data, tmp_path):
    """Processes that are started anew have slots of their own."""
    changes = ["train.batch_size=1", "eval.views=3", "eval.batch_size=2"]
    cfgs = [tiny("finetune", data, tmp_path, *changes, f"data.workers={workers}") for workers in (0, 2)]
    alone, views = (ViewBatches(cfg, ALONE, cfg.data.test) for cfg in cfgs)
    for one, first, second in zip(alone, views, views, strict=True):
        for name in ("frames", "label", "index"):
            assert torch.equal(one[name], first[name]) and torch.equal(one[name], second[name])


def test_a_batch_of_broken_clips_alone_is_told(data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "test.csv").write_text(f"{data / 'clip_0'} 0\nempty 1\n")
    changes = [f"data.test={tmp_path / 'test.csv'}", "eval.batch_size=1", "eval.on_error=skip", "data.workers=1"]
    cfg = tiny("finetune", data, tmp_path, *changes)
    good, bad = ViewBatches(cfg, ALONE, cfg.data.test)
    assert "frames" in good and not good["broken"]
    assert "frames" not in bad and list(bad["broken"]) == [1]


def test_memory_for_batches_that_the_system_does_not_give(data, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(slots.mmap, "mmap", refuse)
    cfg = tiny("finetune", data, tmp_path / "run", "data.workers=2")
    with pytest.raises(InputError, match=r"workers=2 loader processes cannot be started \(Cannot allocate memory"):
        run_finetune(cfg)


def test_frames_of_loader_processes_come_through_slots(data, tmp_path, monkeypatch):
    """And what goes with them through shared memory."""
    taken = []
    take = InSlot.take

    def noting(self):
        taken.append(self)
        return take(self)

    monkeypatch.setattr(InSlot, "take", noting)
    cfg = tiny("finetune", data, tmp_path, "data.workers=1")
    for batches in (TrainBatches(cfg, ALONE).epoch(0), iter(ViewBatches(cfg, ALONE, cfg.data.test))):
        batch = next(batches)
        assert torch.equal(taken.pop().take(), batch.pop("frames"))
        taken.clear()
        assert all(value.is_shared() for value in batch.values() if isinstance(value, torch.Tensor))


def failing(data, tmp_path, monkeypatch, fail):
    """What a run says whose loader process calls `fail` for every clip."""

    def load(self, key):
        fail()
        return original(self, key)

    original = ClipDataset.__getitem__
    monkeypatch.setattr(ClipDataset, "__getitem__", load)
    with pytest.raises(InputError) as error:
        run_finetune(tiny("finetune", data, tmp_path / "run", "data.workers=1", "eval.every=0"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_killed_loader_process_ends_the_run_with_a_sentence(data, tmp_path, monkeypatch):
    text = failing(data, tmp_path, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert re.match(r"a loader process \(\d+\) was killed \(signal: Killed\), most often because memory ran out", text)


def test_a_loader_process_without_memory_ends_the_run_with_a_sentence(data, tmp_path, monkeypatch):
    def fail():
        raise MemoryError("Unable to allocate 9 GiB")

    assert "a loader process ran out of memory (Unable to allocate 9 GiB)" in failing(data, tmp_path, monkeypatch, fail)


def test_a_batch_that_cannot_be_sent_is_not_waited_for(data, tmp_path, monkeypatch, capfd):
    """The thread that sends a batch prints what it cannot do, and PyTorch would wait for the batch."""

    def fail(connection):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(multiprocessing.reduction, "DupFd", fail)
    text = failing(data, tmp_path, monkeypatch, lambda: None)
    assert "a loader process" in text
    assert "cannot send a batch: [Errno 24] Too many open files" in capfd.readouterr().err


def test_loader_processes_that_cannot_be_started(data, tmp_path, monkeypatch, capfd):
    def fail(self):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", fail)
    with pytest.raises(InputError, match=r"data\.workers=2 loader processes cannot be started \(Resource temp"):
        run_finetune(tiny("finetune", data, tmp_path / "run", "data.workers=2"))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_slow_storage_is_told_and_the_run_goes_on(workers, data, tmp_path, monkeypatch, capsys):
    original = ClipDataset.__getitem__

    def load(self, key):
        if key.index < 3:
            time.sleep(0.5)
        return original(self, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", load)
    monkeypatch.setattr(_progress, "_PATIENCE", 0.2)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1", f"data.workers={workers}")
    assert run_finetune(cfg).steps == 3
    said = capsys.readouterr().out
    assert said.count("no batch of clips to learn from has come for ") >= 1
    assert "no batch of clips to score has come for " in said


def test_long_looks_at_the_storage_are_told(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_progress, "_PATIENCE", 0.1)
    monkeypatch.setattr(sources, "check_clips", lambda clips: time.sleep(0.3))
    TrainBatches(tiny("finetune", data, tmp_path / "run"), ALONE)
    assert f"looking for the 14 clips of {data / 'train.csv'} for " in capsys.readouterr().out


def test_clips_are_read_into_memory_with_a_line_of_progress(data, tmp_path, monkeypatch, capsys):
    batches = TrainBatches(tiny("finetune", data, tmp_path / "run", "data.cache=true"), ALONE)
    shares = []
    monkeypatch.setattr(loader.ProgressLine, "__call__", lambda self, share: shares.append(share))
    next(batches.epoch(0))
    assert len(shares) == 14 and shares[-1] == 1


@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionResetError(errno.ECONNRESET, "reset"), FileNotFoundError(2, "socket")]
)
def test_a_process_that_ends_while_it_hands_a_batch_over_is_told(error, data, tmp_path, monkeypatch):
    def lost(iterator):
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._BaseDataLoaderIter.__next__", lost)
    batches = TrainBatches(tiny("finetune", data, tmp_path, "data.workers=1"), ALONE).epoch(0)
    with pytest.raises(InputError, match="a loader process was killed while it handed a batch over"):
        next(batches)
    # Without such processes, it is a defect of something else.
    batches = TrainBatches(tiny("finetune", data, tmp_path), ALONE).epoch(0)
    with pytest.raises(type(error)):
        next(batches)


@pytest.mark.parametrize("task", ["pretrain", "evaluate"])
def test_a_storage_that_hangs_ends_the_run_with_the_names_of_the_clips(task, tmp_path, monkeypatch):
    data = write_clips(tmp_path / "clips", 6)
    read = ClipDataset.__getitem__

    def hang(self, key):
        # As on a file of a server that is gone.
        if key.index == 4:
            time.sleep(300)
        return read(self, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", hang)
    changes = ["data.workers=1", "data.timeout=5", "train.batch_size=6"]
    batches: Iterator[dict[str, Any]]
    if task == "pretrain":
        batches = TrainBatches(tiny(task, data, tmp_path / "run", *changes), ALONE).epoch(0)
        clips = r"'clip_\d', 'clip_\d', 'clip_\d', 'clip_\d' and 2 more"
    else:
        cfg = tiny("finetune", data, tmp_path / "run", *changes, "eval.batch_size=2")
        batches = iter(ViewBatches(cfg, ALONE, str(data / "train.csv")))
        assert [len(next(batches)["index"]) for _ in range(2)] == [4, 4]
        clips = "'clip_4', 'clip_5', or"
    message = (
        rf"no batch has come from the loader's processes for 5 s \(data\.timeout\): one of them is reading {clips}"
    )
    with pytest.raises(InputError, match=message):
        next(batches)
    assert ALONE.about.stay is None


def test_processes_end_with_a_loader_that_is_collected(data, tmp_path):
    """At once, although its queues, collected before it, ask them for nothing any more."""
    cfg = tiny("pretrain", data, tmp_path / "run", "data.workers=2", "train.batch_size=2")
    batches = TrainBatches(cfg, ALONE)
    next(batches.epoch(0))
    iterator: Any = batches._loader.loader._iterator
    iterator.cycle, workers = iterator, iterator._workers
    del batches, iterator
    gc.collect()
    # Those that wait until they see for themselves that they are not wanted any more end with 0, seconds later.
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("when", ["within an epoch", "between two"])
def test_a_dead_loader_process_is_told_of_where_its_batch_is_waited_for(when, data, tmp_path):
    """And nowhere else: in a save it would be taken for an error of the disk."""
    cfg = tiny("pretrain", data, tmp_path / "run", "data.workers=1", "data.timeout=300", "train.batch_size=2")
    # A loader of somebody else's, after which PyTorch listens to the ends of processes.
    next(iter(DataLoader(range(2), num_workers=1)))  # type: ignore[arg-type]
    batches = TrainBatches(cfg, ALONE)
    epoch = batches.epoch(0)
    next(epoch)
    if when == "between two":
        assert len([*epoch]) == len(batches) - 1
        epoch = batches.epoch(1)
    iterator: Any = batches._loader.loader._iterator
    (worker,) = iterator._workers
    worker.kill()
    # Once it has ended, the signal has come.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    started = time.monotonic()
    with pytest.raises((RuntimeError, InputError)) as caught:
        list(epoch)
    assert time.monotonic() - started < 30
    told = str(caught.value).startswith(f"DataLoader worker (pid {worker.pid}) is killed by signal: Killed")
    assert told or (when == "within an epoch" and "a loader process was killed while it handed a" in str(caught.value))
    batches.close()


def test_a_batch_that_nobody_takes_any_more_is_not_told(monkeypatch, capfd):
    monkeypatch.setattr(loader, "leave_signals_to_parent", lambda: None)
    monkeypatch.setattr(multiprocessing.queues.Queue, "_on_queue_feeder_error", None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    loader._end_rather_than_lose_a_batch(0)
    with open(os.devnull) as file:
        resource_sharer.DupFd(file.fileno())
    key = multiprocessing.process.current_process().authkey
    # It goes away before it has said what it wants.
    address = resource_sharer._resource_sharer._address  # type: ignore[attr-defined]
    connection.Client(address, authkey=key).close()
    resource_sharer.stop()
    assert capfd.readouterr().err == ""
    sys.excepthook(ValueError, ValueError("another one"), None)
    assert "ValueError: another one" in capfd.readouterr().err
