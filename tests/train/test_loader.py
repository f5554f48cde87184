import pytest
import torch

from maedfer.errors import InputError
from maedfer.train import run_pretrain
from maedfer.train.loader import TrainBatches, ViewBatches, identity, read_clips
from maedfer.train.processes import Runtime
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

        def on_main(self, function):
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


def test_identity_is_of_names_and_labels(data, tmp_path):
    cfg = tiny("finetune", data, tmp_path)
    clips = read_clips(cfg, cfg.data.test)
    assert identity(clips).startswith("7 clips, ")
    assert identity(clips) == identity(list(clips)) != identity(clips[::-1])


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
