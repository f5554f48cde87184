"""Files of every kind that the program reads, damaged: each is read, or refused with a sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maedfer.errors import InputError
from maedfer.faces.frame import Frame
from maedfer.prediction.many import predict_jobs
from maedfer.prediction.prediction import Prediction
from tests.data.media import pictures, write_video
from tests.faces.networks import yunet
from tests.hostile import shards
from tests.hostile.mutation import mutated

_VIDEOS = {
    "h264.mp4": ("libx264", "yuv420p"),
    "h264.mkv": ("libx264", "yuv420p"),
    "mpeg4.avi": ("mpeg4", "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", "yuv420p"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "mjpeg.mov": ("mjpeg", "yuvj420p"),
    "moving.gif": ("gif", "rgb8"),
}
# Of the published constructor, for what the weights of the small model do not tell.
_ARGUMENTS = {"num_heads": 2, "img_size": 16, "num_frames": 4, "lg_region_size": [1, 2, 4]}
_FRAMES = [Frame(number, number / 25, np.full((48, 64, 3), 9 * number, np.uint8)) for number in range(20)]
_PICTURES = ("jpg", "png", "bmp", "webp", "tif")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        folder: below the one that `build` fills, with the file and what is read together with it.
        file: below that folder.
        read: reads what is in a copy of the folder.
        text: it is a file for people.
    """

    folder: str
    file: str
    read: Callable[[Path], Any]
    text: bool = False


def kinds() -> dict[str, Kind]:
    """All kinds by name."""
    found = {name: Kind(f"videos/{name}", name, _video(name)) for name in _VIDEOS}
    found |= {f"frame.{kind}": Kind(f"frames/{kind}", f"1.{kind}", _clip) for kind in _PICTURES}
    for stored in ("jpeg", "raw"):
        found |= {f"{stored} tar": Kind(f"shards/{stored}", "shard-000001.tar", shards.read)}
    run, pre, model = "world/run", "world/pre", "world/model"
    return found | {
        "rows of frames": Kind("shards/jpeg", "shard-000001.frames.npy", shards.read),
        "index.json": Kind("shards/raw", "index.json", shards.read, text=True),
        "index.npz": Kind("shards/raw", "index.npz", shards.read),
        "signed index.npz": Kind("shards/jpeg", "index.npz", shards.read_signed),
        "rows of the index": Kind("shards/jpeg", "rows", shards.read_rows),
        "clip that waits": Kind("shards/begun", "out/.unfinished/000000002.clip", shards.go_on),
        "record of a shard": Kind("shards/begun", "out/.unfinished/shard-000000.json", shards.go_on, text=True),
        "plan of shards": Kind("shards/begun", "out/.unfinished/plan.json", shards.go_on, text=True),
        "checked tar": Kind("shards/begun", "whole/shard-000000.tar", shards.check),
        "checked frames": Kind("shards/begun", "whole/shard-000001.frames.npy", shards.check),
        "list": Kind("lists", "clips.csv", _list, text=True),
        "split file": Kind("splits", "EmoLabel_DataSplit/train(single-labeled)/set_1.csv", _splits, text=True),
        "boxes": Kind("faces", "boxes.csv", _boxes, text=True),
        "detections": Kind("faces", "detections.csv", _detections, text=True),
        "journal of crops": Kind("crops", "journal.jsonl", _journal, text=True),
        "journal of looks": Kind("looks", "looks.jsonl", _looks, text=True),
        "list of people": Kind("looks", "people.csv", _people, text=True),
        "turns": Kind("turns", "turns.csv", _turns, text=True),
        "detector": Kind("faces", "yunet.onnx", _detector),
        "prediction": Kind("prediction", "a.csv", _table, text=True),
        "summary": Kind("prediction", "a.json", _summary, text=True),
        "begun": Kind("begun", "a.part.json", _begun, text=True),
        "class map": Kind("world/maps", "good.yaml", _class_map, text=True),
        "recipe": Kind("recipes", "recipe.yaml", _recipe, text=True),
        "config.yaml": Kind(run, "config.yaml", _settings, text=True),
        "metrics.json": Kind(run, "metrics.json", _report, text=True),
        "environment.json": Kind(run, "environment.json", _report, text=True),
        "log.jsonl": Kind(run, "log.jsonl", _report, text=True),
        "pred.csv": Kind(run, "pred.csv", _predictions, text=True),
        "features.npz": Kind(run, "features.npz", _report),
        "reconstructions.npz": Kind(pre, "reconstructions.npz", _report),
        "config.json": Kind(model, "config.json", _model, text=True),
        "model.safetensors": Kind(model, "model.safetensors", _model),
        "last.pt": Kind("world/run_unfinished", "checkpoints/last.pt", _checkpoint),
        "previous.pt": Kind("world/run_unfinished", "checkpoints/previous.pt", _one_before),
        "published.pth": Kind("published", "published.pth", _published("published.pth")),
        "published.safetensors": Kind("published", "published.safetensors", _published("published.safetensors")),
    }


def clips() -> list[str]:
    """The kinds that have frames of clips in them, or lead to them."""
    return [name for name, kind in kinds().items() if kind.folder.startswith(("videos/", "frames/", "shards/"))]


def build(folder: Path) -> Path:
    """Write a good file of every kind below the folder; returns it."""
    import maedfer
    from tests.hostile import world

    world.build(folder / "world")
    for name, (codec, pixels) in _VIDEOS.items():
        (folder / "videos" / name).mkdir(parents=True)
        write_video(folder / "videos" / name / name, pictures(12, 48, 64), codec, pixels)
    for kind in _PICTURES:
        (folder / "frames" / kind).mkdir(parents=True)
        for number, picture in enumerate(pictures(3, 24, 32)):
            Image.fromarray(picture).save(folder / "frames" / kind / f"{number}.{kind}")
    shards.build(folder / "shards")
    (folder / "lists").mkdir()
    (folder / "lists" / "clips.csv").write_text("path,label\n" + "".join(f"a/clip {n}.mp4,{n % 3}\n" for n in range(9)))
    labels = folder / "splits" / "EmoLabel_DataSplit"
    for part in ("train", "test"):
        (labels / f"{part}(single-labeled)").mkdir(parents=True)
        for number in range(1, 6):
            rows = "".join(f"{clip},{clip % 7 + 1}\n" for clip in range(1, 10))
            (labels / f"{part}(single-labeled)" / f"set_{number}.csv").write_text(f"video_name,label\n{rows}")
    (folder / "faces").mkdir()
    head = "frame,time,face,x,y,width,height,score"
    lines = [f"{n},{n / 25},{n % 2},{n * 3},4.5,30,{40 - n},0.{n + 1}" for n in range(9)]
    (folder / "faces" / "boxes.csv").write_text("\n".join([head, *lines, ""]))
    (folder / "faces" / "detections.csv").write_text(f"{head},cut\n" + "".join(f"{line},\n" for line in lines))
    (folder / "crops").mkdir()
    face = {
        "face": 1,
        "file": "a.mp4",
        "start": 0.0,
        "end": 2.4,
        "frames": 60,
        "video_frames": 72,
        "width": 640,
        "height": 360,
    }
    entry = {
        "name": "a",
        "video": "in/a.mov",
        "key": "/in/a.mov",
        "state": [204871, 1764153344000000000],
        "final": True,
    }
    entry |= {"faces": [face | {"box": [217.5, 74.25, 152.5, 222.25], "detection": 0.93}], "failure": ""}
    (folder / "crops" / "journal.jsonl").write_text(f'{{"settings": {{"size": 224}}}}\n{json.dumps(entry)}\n')
    (folder / "looks").mkdir()
    look = {"path": "a/1.mp4", "state": [1234, 1], "bytes": 1234, "digest": "a" * 64, "problem": "it is cut off"}
    look |= {"frames": 60, "height": 240, "width": 320, "gaps": 0}
    (folder / "looks" / "looks.jsonl").write_text(f'{{"prepared": {{"check": "ends"}}}}\n{json.dumps(look)}\n')
    rows = "".join(f"a/{number}.mp4,{'happy' if number % 2 else 'sad'},p{number % 5}\n" for number in range(12))
    (folder / "looks" / "people.csv").write_text(f"path,emotion,person\n{rows}")
    (folder / "turns").mkdir()
    turns = ["start,end,label,video,face", "0,1.5,hello,a.mp4,", '1:02.5,0:01:10,"a, b",,2', "3,4,,,1"]
    (folder / "turns" / "turns.csv").write_text("\n".join([*turns, ""]))
    yunet(folder / "faces" / "yunet.onnx", ["n", 3, "height", "width"])
    _predict(folder)
    (folder / "recipes").mkdir()
    shutil.copy(folder / "world" / "run" / "config.yaml", folder / "recipes" / "recipe.yaml")
    (folder / "published").mkdir()
    state = maedfer.to_published(maedfer.load(folder / "world" / "model"))
    torch.save({"model": state, "epoch": 3}, folder / "published" / "published.pth")
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in state.items()}, folder / "published/published.safetensors")
    for name in ("report.html", "report.json"):
        (folder / "world" / "run" / name).unlink(missing_ok=True)
    return folder


def attempt(case: tuple[str, int | None, Path]) -> str:
    """Read a damaged file; says what is wrong with what happens.

    Args:
        case: the kind, the number of the damage (None: it stays whole and must be read), and what `build` filled.
    """
    name, seed, base = case
    kind = kinds()[name]
    draw = random.Random(f"{name} {seed}")
    # Where the lists of clips that settings name are.
    os.chdir(base / "world")
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch) / "it"
        shutil.copytree(base / kind.folder, here)
        file = here / kind.file
        if seed is not None:
            file.write_bytes(mutated(file.read_bytes(), draw, kind.text))
        try:
            kind.read(here)
        except InputError as error:
            if seed is None:
                return f"refuses a good file: {error}"
            if "\n" in str(error):
                return f"a sentence of several lines: {error}"
            if len(str(error)) > 1000:
                return f"a sentence of {len(str(error))} characters: {str(error)[:200]}"
        # What an error holds is free now, but for what goes round in a circle.
        if _open_below(here) and gc.collect() >= 0 and _open_below(here):
            return f"leaves files open: {_open_below(here)}"
    return ""


def _open_below(folder: Path) -> list[str]:
    """Open files below a folder."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    # The one by which they were listed is gone.
    return [
        name for name in (os.readlink(link) for link in links if os.path.islink(link)) if name.startswith(f"{folder}/")
    ]


def _clip(folder: Path) -> None:
    _read_clip(folder)


def _video(name: str) -> Callable[[Path], None]:
    return lambda folder: _read_clip(folder / name)


def _read_clip(path: Path) -> None:
    from maedfer.data.video import open_video

    with open_video(path) as clip:
        count = len(clip)
        assert count > 0 and min(clip.size) > 0
        frames = clip.read(np.linspace(0, count - 1, 8).round().astype(int))
        assert frames.shape == (8, *clip.size, 3) and frames.dtype == np.uint8


def _list(folder: Path) -> None:
    from maedfer.data.annotations import read_annotations

    for labelled in (True, False):
        clips = read_annotations(folder / "clips.csv", num_classes=3 if labelled else None, labelled=labelled)
        assert all(clip.label in (0, 1, 2) for clip in clips) or not labelled


def _splits(folder: Path) -> None:
    from maedfer.data.protocols import find_protocol

    find_protocol("dfew").folds_in(folder)


def _predict(folder: Path) -> None:
    from tests.prediction.fakes import FakeModel, Silent, find, job

    for name in ("prediction", "begun"):
        (folder / name).mkdir()
    video = folder / "a.mp4"
    video.write_text("6 1")
    one = job(0, video, folder / "prediction")
    predict_jobs([one], FakeModel(), find=find, folder=folder / "prediction", common={}, told=Silent())
    (folder / "prediction" / "summary.csv").unlink()
    video.write_text("6 1 3")
    predict_jobs([job(0, video, folder / "begun")], FakeModel(), find=find, folder=folder, common={}, told=Silent())
    for path in (video, folder / "summary.csv", folder / "failed.csv"):
        path.unlink()


def _table(folder: Path) -> None:
    from maedfer.prediction.table import TableFormat, TableWriter, read_table
    from tests.prediction.fakes import CLASSES

    rows: list[Any] = []
    try:
        rows += read_table(folder / "a.csv")[1]
    finally:
        # What cannot be gone on with is refused as well, or cut off.
        with contextlib.suppress(InputError):
            TableWriter(folder / "a.csv", TableFormat(CLASSES)).close()
            assert len(list(read_table(folder / "a.csv")[1])) >= len(rows) - 1


def _summary(folder: Path) -> None:
    Prediction.load(folder / "a.csv")
    _begun(folder)


def _begun(folder: Path) -> None:
    from tests.prediction.fakes import job

    files = job(0, folder / "a.mp4", folder).files
    if files.state() == "begun":
        files.open()
        files.close()


def _boxes(folder: Path) -> None:
    from maedfer.faces.boxes import read_boxes

    for times in (None, np.arange(20) / 25):
        for found in read_boxes(folder / "boxes.csv", times=times).detect(_FRAMES):
            assert (found.boxes[:, 2:] > 0).all() and ((found.scores >= 0) & (found.scores <= 1)).all()


def _detections(folder: Path) -> None:
    from maedfer.faces.record import DetectionRecord

    with DetectionRecord(folder / "detections.csv") as record:
        for frame in _FRAMES:
            record.get(frame.index)


def _looks(folder: Path) -> None:
    from maedfer.preparation.journal import LookJournal

    (folder / "people.csv").unlink()
    with LookJournal(folder, {"check": "ends"}) as journal:
        assert all(path == look.path for path, look in journal.looks.items())


def _people(folder: Path) -> None:
    from maedfer.preparation.options import PrepareOptions
    from maedfer.preparation.own import find_list

    material = find_list(folder, PrepareOptions(list_file=str(folder / "people.csv"), subject="person", folds=2))
    assert not {path for path, _ in material.folds[0].test} & {path for path, _ in material.folds[1].test}


def _journal(folder: Path) -> None:
    from maedfer.faces.crop_journal import CropJournal

    with CropJournal(folder, {"size": 224}) as journal:
        for entry in journal.entries():
            assert not any(face.file in ("", entry.key) for face in entry.faces)


def _turns(folder: Path) -> None:
    from maedfer.prediction.segments import read_segments

    for segment in read_segments(folder / "turns.csv"):
        assert 0 <= segment.start < segment.end < np.inf and segment.face != 0


def _detector(folder: Path) -> None:
    from maedfer.faces.detector import open_detector

    for found in open_detector(folder / "yunet.onnx", size=64, threads=1).detect(_FRAMES[:2]):
        assert np.isfinite(found.boxes).all() and (found.scores >= 0.5).all()


def _recipe(folder: Path) -> None:
    from maedfer.train.config import dump_config, load_config

    dump_config(load_config("finetune", folder / "recipe.yaml", []))


def _class_map(folder: Path) -> None:
    from maedfer.evaluation.class_map import ClassMap
    from maedfer.train.evaluate import read_targets

    ClassMap(("calm", "moved"), ("still", "lively"), read_targets(folder / "good.yaml", "the map"), "the map")


def _settings(folder: Path) -> None:
    from maedfer.train.config import load_config

    try:
        load_config("evaluate", None, [f"eval.checkpoint={folder}"])
    finally:
        _report(folder)


def _report(folder: Path) -> None:
    from matplotlib.figure import Figure

    from maedfer.report import write_report

    # What a figure shows is drawn; making a picture of it takes longest and reads nothing.
    Figure.savefig = lambda self, file, **_: file.write("<svg ></svg>")  # type: ignore[method-assign,assignment]
    try:
        write_report(folder)
    except InputError:
        assert not (folder / "report.html").exists(), "a page is left of what could not be read"
        raise


def _predictions(folder: Path) -> None:
    from maedfer.evaluation.predictions import pool, read_predictions

    try:
        pool([read_predictions(folder / "pred.csv")])
    finally:
        _report(folder)


def _model(folder: Path) -> None:
    import maedfer

    _classify(maedfer.load(folder))


def _published(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        import maedfer

        _classify(maedfer.load(folder / name, args=_ARGUMENTS))

    return read


def _classify(model: Any) -> None:
    clip = getattr(model.config, "encoder", model.config)
    if clip.in_channels * np.prod(clip.clip_size) < 10**6:
        with torch.no_grad():
            model.forward_features(torch.zeros(1, clip.in_channels, *clip.clip_size))


def _one_before(folder: Path) -> None:
    from maedfer.train.checkpoints import latest

    (folder / "checkpoints" / "last.pt").unlink()
    found = latest(folder)
    assert found is not None and found.path.name == "previous.pt" and found.said


def _checkpoint(folder: Path) -> None:
    import maedfer
    from maedfer.train import run_finetune
    from maedfer.train.config import read_config

    try:
        maedfer.load(folder / "checkpoints" / "last.pt")
    finally:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            run_finetune(dataclasses.replace(read_config(folder / "config.yaml"), output=str(folder)))
