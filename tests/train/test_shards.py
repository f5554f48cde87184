"""Runs whose clips are in shards: the same samples and weights as from files, whatever ends them and whoever reads."""

import dataclasses
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from maedfer.data.annotations import read_annotations
from maedfer.data.shards.check import check_shards
from maedfer.data.shards.clips import read_shards
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.errors import InputError
from maedfer.models import LGIFormer
from maedfer.train import load_config, run_evaluate, run_finetune
from maedfer.train.dry_run import dry_run
from maedfer.train.evaluate import predict_list
from maedfer.train.features import features_config, run_features
from maedfer.train.loader import TrainBatches, ViewBatches
from maedfer.train.processes import Runtime
from maedfer.train.same_clips import identity
from maedfer.train.trainer import Trainer
from tests.data.media import pictures
from tests.data.shards.server import serving
from tests.train.runs import in_process, overrides, records, scores, tiny, write_clips

ALONE = Runtime(torch.device("cpu"))
CLASSES = ("up", "down", "still")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Frame folders and their lists; the folders raw and jpeg have shards of train.csv and test.csv, five a shard."""
    folder = write_clips(tmp_path_factory.mktemp("clips"))
    for stored in ("raw", "jpeg"):
        for name in ("train", "test"):
            make(folder / f"{name}.csv", folder / stored / name, format=stored, clips_per_shard=5)
    return folder


def make(file, out, **options):
    write_shards(read_annotations(file, labelled=False), out, ShardOptions(**options), classes=CLASSES)
    return out


def shards(data, stored="raw", train="train", test="test"):
    return [f"data.train={data / stored / train}", f"data.test={data / stored / test}"]


class Part(Runtime):
    """One of several processes, as far as batches know."""

    def __init__(self, rank, world):
        super().__init__(torch.device("cpu"), rank, world)

    def on_main(self, function, *_, **__):
        return function()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def copies(batches):
    # What is wrong with clips on the way is told once by each process.
    return [{name: value.clone() for name, value in batch.items() if name != "broken"} for batch in batches]


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_raw_shards_give_the_samples_of_the_files_bit_for_bit(task, data, tmp_path):
    changes = ["data.repeats=2"]
    files = TrainBatches(tiny(task, data, tmp_path, *changes), ALONE)
    cfg = tiny(task, data, tmp_path, *changes, *shards(data)[: 2 if task == "finetune" else 1])
    stored = TrainBatches(cfg, ALONE)
    for left, right in zip(files.epoch(1), stored.epoch(1), strict=True):
        assert same(left, right)
    if task == "finetune":
        views = [
            ViewBatches(tiny(task, data, tmp_path), ALONE, str(file))
            for file in (data / "test.csv", data / "raw" / "test")
        ]
        for left, right in zip(*views, strict=True):
            assert torch.equal(left["frames"], right["frames"]) and torch.equal(left["label"], right["label"])
        assert [clip.name for clip in views[0].entries] == [clip.name for clip in views[1].entries]


def test_jpeg_shards_give_the_samples_of_the_files_within_the_error_of_jpeg(tmp_path):
    """Samples differ from those of the files as stored pictures do: clips, places, crops and labels are the same."""
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        for time, picture in enumerate(np.roll(pictures(6, 40, 40), 7 * number, axis=2)):
            Image.fromarray(picture).save(tmp_path / str(number) / f"{time}.png")
    (tmp_path / "train.csv").write_text("".join(f"{number} {number % 3}\n" for number in range(4)))
    make(tmp_path / "train.csv", tmp_path / "shards")
    plain = ["augment.randaugment=", "augment.erase=0", f"data.test={tmp_path / 'train.csv'}"]
    files, stored = (
        TrainBatches(tiny("finetune", tmp_path, tmp_path / "run", *plain, f"data.train={tmp_path / name}"), ALONE)
        for name in ("train.csv", "shards")
    )
    error = []
    for number in range(4):
        with files.dataset.clips.open(number) as one, stored.dataset.clips.open(number) as other:
            assert len(one) == len(other) == 6 and one.size == other.size
            error.append(np.abs(one.read(range(6)).astype(int) - other.read(range(6))).mean())
    # The stated error of quality 90 on smooth pictures, but for one seam.
    assert 0 < max(error) < 3
    left, right = next(files.epoch(0)), next(stored.epoch(0))
    assert left["index"].tolist() == right["index"].tolist() and left["label"].tolist() == right["label"].tolist()
    assert (left["frames"].int() - right["frames"].int()).abs().float().mean() < 1.5 * max(error)


@pytest.mark.parametrize(("block", "workers"), [(0, 0), (4, 2)])
def test_the_same_samples_with_any_number_of_processes_and_workers_from_any_step(block, workers, data, tmp_path):
    def epoch(start, rank=0, world=1, workers=0):
        changes = [f"data.block={block}", f"train.batch_size={4 // world}", f"data.workers={workers}"]
        changes += ["data.window=2"] if block else []
        cfg = tiny("pretrain", data, tmp_path, *shards(data)[:1], *changes)
        return copies(TrainBatches(cfg, Part(rank, world)).epoch(1, start))

    whole = epoch(0)
    assert len(whole) == 3
    parts = [epoch(1, rank, 2, workers) for rank in range(2)]
    for number, batch in enumerate(whole[1:]):
        for name in ("frames", "mask", "index"):
            assert torch.equal(batch[name], torch.cat([part[number][name] for part in parts])), name
    (last,) = epoch(2, workers=workers)
    assert same(last, whole[2])


def test_a_run_killed_and_resumed_with_other_workers_ends_with_the_same_weights(data, tmp_path):
    settings = [*overrides("finetune", data, tmp_path / "killed"), *shards(data, "jpeg"), "data.block=4"]
    settings += ["train.save_steps=1", "model.drop_path=0.2", "optim.epochs=2", "data.window=2"]
    before = """
import os, signal
from maedfer.train.trainer import Trainer
original = Trainer._step
def killed(self, batches):
    if self.position.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, batches)
Trainer._step = killed
"""
    assert in_process("finetune", [*settings, "data.workers=1"], before).codes == [-signal.SIGKILL]
    # The shards lie elsewhere now.
    moved = shutil.copytree(data / "jpeg" / "train", tmp_path / "moved")
    resumed = in_process("finetune", [*settings, f"data.train={moved}", "data.workers=2"])
    assert resumed.ok, resumed.text
    assert "last.pt, step 4" in resumed.text
    run_finetune(load_config("finetune", None, [*settings, f"output={tmp_path / 'whole'}"]))
    left, right = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(left[name], right[name]) for name in right)
    steps = [{row["step"]: row["loss"] for row in records(tmp_path / name, "step")} for name in ("killed", "whole")]
    assert steps[0] == steps[1] and len(steps[1]) == 6


class Ended(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_two(data, tmp_path, monkeypatch):
    changes = [*shards(data), "augment.mixup=0", "augment.cutmix=0", "model.drop_path=0", "optim.epochs=1"]
    changes += ["eval.every=0", "optim.warmup_epochs=0"]
    original = Trainer._step

    def ended(self, batches):
        if self.position.step == 2:
            raise Ended
        original(self, batches)

    monkeypatch.setattr(Trainer, "_step", ended)
    with pytest.raises(Ended):
        run_finetune(tiny("finetune", data, tmp_path / "run", *changes, "train.save_steps=1"))
    monkeypatch.undo()
    settings = [*overrides("finetune", data, tmp_path / "run"), *changes, "train.batch_size=2", "data.workers=1"]
    done = in_process("finetune", settings, processes=2)
    assert done.ok, done.text
    run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    rows = [{row["step"]: row["loss"] for row in records(tmp_path / name, "step")} for name in ("run", "whole")]
    assert rows[0].keys() == rows[1].keys() == {1, 2, 3}
    for step, loss in rows[1].items():
        assert rows[0][step] == pytest.approx(loss, abs=1e-5), step


def damaged(data, folder, name="train", clip=3):
    """A copy of the shards in which the first picture of a clip is none."""
    folder = shutil.copytree(data / "jpeg" / name, folder)
    index = read_shards(folder).shards
    tar = folder / index.tar(clip).name
    content, start = bytearray(tar.read_bytes()), int(index.clips.pictures[clip])
    content[start : start + 20] = bytes(20)
    tar.write_bytes(content)
    return folder


def test_broken_clips_of_shards_stop_the_run_or_are_counted(data, tmp_path):
    folder = damaged(data, tmp_path / "train", clip=3)
    changes = ["optim.epochs=1", "eval.every=0", f"data.train={folder}", f"data.test={data / 'jpeg' / 'test'}"]
    changes += ["model.clip_size=[6,16,16]", "train.batch_size=14"]
    with pytest.raises(InputError, match=r"train.csv:4: .*shard-000000.tar: clip 000000003 \(clip_3\): frame 0: "):
        run_finetune(tiny("finetune", data, tmp_path / "run", *changes))
    with pytest.raises(InputError, match="1 of 14 clips of data.train"):
        dry_run(tiny("finetune", data, tmp_path / "new", *changes), print, every_clip=True)
    run_finetune(
        tiny(
            "finetune", data, tmp_path / "run", *changes, "data.on_error=skip", "data.max_broken=0.1", "data.workers=1"
        )
    )
    assert [record["skipped"] for record in records(tmp_path / "run", "epoch")] == [1]
    # Where a shard is missing, the run does not begin.
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(InputError, match=r"1 of 3 shards cannot be read: .*shard-000001.tar"):
        run_finetune(tiny("finetune", data, tmp_path / "other", *changes))
    assert not (tmp_path / "other").exists()


def test_clips_are_scored_described_and_checked_from_shards(data, tmp_path):
    run_finetune(tiny("finetune", data, tmp_path / "run", *shards(data), f"data.val={data / 'raw' / 'test'}"))
    source, device = f"eval.checkpoint={tmp_path / 'run'}", "train.device=cpu"
    found = [
        scores(run_evaluate(load_config("evaluate", None, [source, device, f"output={tmp_path / name}", *more])))
        for name, more in (("own", []), ("files", [f"data.test={data / 'test.csv'}"]))
    ]
    assert found[0]["confusion"] == found[1]["confusion"] and found[0]["n"] == 7
    (note,) = found[1]["notes"]
    assert "is not known" in note and "; 7 of 7 names of data.test are in the list that the model was" in note
    # The clips that are scored are among those that were trained on, and that is said of shards too.
    assert any("all 7 clips of data.test are in the list that" in note for note in found[0]["notes"])
    broken = damaged(data, tmp_path / "broken", "test", clip=2)
    settings = [source, device, f"data.test={broken}", "eval.on_error=skip", f"output={tmp_path / 'skipped'}"]
    assert scores(run_evaluate(load_config("evaluate", None, settings)))["n"] == 6
    assert "shard-000000.tar: clip 000000002" in (tmp_path / "skipped" / "skipped.csv").read_text()
    features = [
        run_features(features_config(tmp_path / "run", [device, f"data.test={place}"]))
        for place in (data / "test.csv", data / "raw" / "test")
    ]
    assert np.array_equal(features[0].vectors, features[1].vectors) and features[0].names == features[1].names
    with pytest.raises(InputError, match="all clips of data.val=.* are among those that are scored"):
        run_evaluate(load_config("evaluate", None, [source, device]), calibrate=True)
    said: list[str] = []
    dry_run(tiny("finetune", data, tmp_path / "new", *shards(data, "jpeg")), said.append)
    assert any("14 of 14 sampled clips read, 6 to 6 frames" in line for line in said)
    assert any("jpeg of quality 90, 20 x 20 pixels, in 3 shards of " in line for line in said)
    assert any("data.test are in data.train too" in line for line in said)


def test_a_run_does_not_go_on_with_other_shards(data, tmp_path):
    changes = ["optim.epochs=1", "eval.every=0"]
    run_finetune(tiny("finetune", data, tmp_path / "run", *changes, *shards(data)))
    files: list[str] = []
    for other in (shards(data, "jpeg"), files):
        with pytest.raises(InputError, match=r"was made with other clips, data.train has changed \(14 clips, "):
            run_finetune(tiny("finetune", data, tmp_path / "run", *changes, *other))
    # Other shards of the same clips, in the same order, hold the same.
    again = make(data / "train.csv", tmp_path / "other", format="raw", clips_per_shard=2)
    assert identity(read_shards(again)) == identity(read_shards(data / "raw" / "train"))
    shuffled = make(data / "train.csv", tmp_path / "shuffled", format="raw", seed=1)
    assert identity(read_shards(shuffled)) != identity(read_shards(again))


def test_a_box_that_was_cut_out_is_not_cut_out_again(data, tmp_path):
    box, crop = (2, 1, 17, 18), "augment.crop=[2,1,17,18]"
    cut = make(data / "train.csv", tmp_path / "cut", format="raw", cut=box)
    whole, done = (
        next(TrainBatches(tiny("pretrain", data, tmp_path, crop, *more), ALONE).epoch(0))
        for more in ([], [f"data.train={cut}"])
    )
    assert same(whole, done)
    assert same(done, next(TrainBatches(tiny("pretrain", data, tmp_path, f"data.train={cut}"), ALONE).epoch(0)))
    with pytest.raises(InputError, match=r"augment.crop is \[0, 0, 9, 9\], and \[2, 1, 17, 18\] was cut out"):
        TrainBatches(tiny("pretrain", data, tmp_path, "augment.crop=[0,0,9,9]", f"data.train={cut}"), ALONE)
    small = make(data / "train.csv", tmp_path / "small", format="raw", size=18)
    with pytest.raises(InputError, match=r"augment.crop=\[2, 1, 17, 18\] is a box in the frames of the recordings"):
        TrainBatches(tiny("pretrain", data, tmp_path, crop, f"data.train={small}"), ALONE)


def test_shards_on_a_server(data, tmp_path):
    """Blocks of neighbours are asked for at once; what the server does not have is skipped and counted."""
    folder = shutil.copytree(data / "raw" / "train", tmp_path / "train")
    changes = ["data.block=4", "data.window=1", "data.on_error=skip"]

    def batches(place, workers=0):
        cfg = tiny("pretrain", data, tmp_path, f"data.train={place}", f"data.workers={workers}", *changes)
        return TrainBatches(cfg, ALONE)

    expected = copies(batches(folder).epoch(0))
    with serving(folder) as server:
        assert all(map(same, batches(server.url).epoch(0), expected))
        # Of the twelve clips of these batches, those come in one request that are neighbours in a shard and a batch.
        assert server.count(".tar") == 8
        assert all(map(same, batches(server.url, workers=2).epoch(0), expected))
        (folder / "shard-000001.tar").unlink()
        found = copies(batches(server.url, workers=1).epoch(0))
    broken = sum(int(batch["skipped"]) for batch in found)
    clips = [index for batch in expected for index in batch["index"].tolist()]
    assert broken == sum(5 <= index < 10 for index in clips) > 0
    assert not any(5 <= index < 10 for batch in found for index in batch["index"].tolist())


def test_who_is_in_clips_goes_with_shards(data, tmp_path):
    names = [line.split()[0] for line in (data / "test.csv").read_text().splitlines()]
    lines = [
        f"{data / name},{number % 3},{'' if number == 1 else f'é{number % 2}'}" for number, name in enumerate(names)
    ]
    (tmp_path / "list.csv").write_text("path,label,actor\n" + "\n".join(lines) + "\n", encoding="utf-8")
    folder = make(tmp_path / "list.csv", tmp_path / "shards", format="raw", clips_per_shard=3, seed=1)
    wanted = {clip.name: clip.subject for clip in read_annotations(tmp_path / "list.csv")}
    assert {*wanted.values()} == {"", "é0", "é1"}
    assert {clip.name: clip.subject for clip in read_shards(folder)} == wanted
    assert not check_shards(folder).wrong
    # A pattern says it otherwise; shards of a list that tells of nobody have nobody, and are as they were.
    assert {clip.subject for clip in read_shards(folder, subject="clip_([0-9])")} == set("0123456")
    with pytest.raises(
        InputError, match=r"shard-000000.tar: clip 00000000\d \(.*\): data.subject 'clip_8' is not found"
    ):
        read_shards(folder, subject="clip_8")
    plain = read_shards(data / "raw" / "test")
    assert {clip.subject for clip in plain} == {""} and plain.shards.clips.subject is None
    # The same list with somebody else in it makes other shards.
    text = (tmp_path / "list.csv").read_text(encoding="utf-8")
    (tmp_path / "list.csv").write_text(text.replace("é1", "é2"), encoding="utf-8")
    with pytest.raises(InputError, match="shards"):
        make(tmp_path / "list.csv", folder, format="raw", clips_per_shard=3, seed=1)


def test_an_evaluation_from_shards_knows_who_is_in_clips(data):
    cfg = tiny("finetune", data, data / "unused", "data.subject=.$")
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, test=str(data / "raw" / "test")))
    batches = ViewBatches(cfg, ALONE, cfg.data.test)
    found = predict_list(LGIFormer(cfg.clip_model), batches, ALONE, cfg)
    assert found.subjects == tuple(name[-1] for name in found.names) and len({*found.subjects}) == 7
