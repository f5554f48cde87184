"""A folder of things that a command line can name: good ones, and others that are not what they seem."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from maedfer.cli import main
from maedfer.data.annotations import read_annotations
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from tests.cli.helpers import FINETUNE, PRETRAIN
from tests.data.media import pictures, write_sound, write_video

_CLIPS = ["data.train=train.csv", "data.test=test.csv"]
# Settings that would train in a moment, as words of a command line; rows add to them what is wrong.
TUNE = [*FINETUNE, *_CLIPS, "output=new"]
PRE = [*PRETRAIN, "data.train=clips.txt", "output=new"]


def build(folder: Path) -> Path:
    """Fill the folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        _clips()
        _lists()
        _maps()
        _shards()
        _recipes()
        _runs()
        _weights()
        _odd()
    finally:
        os.chdir(before)
    return folder


def _write(name: str, content: str | bytes) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _clips() -> None:
    draw = np.random.default_rng(0)
    lines = []
    for clip in range(8):
        picture = draw.integers(0, 255, (20, 20, 3), np.uint8)
        for frame in range(6):
            Path(f"clips/{clip}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(picture, 3 * frame * (clip % 2), axis=1)).save(f"clips/{clip}/{frame}.png")
        lines.append(f"clips/{clip} {clip % 2}\n")
    _write("train.csv", "".join(lines[:6]))
    _write("test.csv", "".join(lines[6:]))
    _write("clips.txt", "".join(line.split()[0] + "\n" for line in lines))
    Path("videos").mkdir()
    write_video(Path("videos/good.mp4"), pictures(8, 32, 32))
    whole = Path("videos/good.mp4").read_bytes()
    write_sound(Path("videos/sound.mp4"))
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"this is no video\n" * 20,
        "zeros": bytes(4096),
        "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    }.items():
        _write(f"videos/{name}.mp4", content)
    Image.new("RGB", (20, 20)).save("picture.png")
    _write("pictures/0.png", b"no picture")
    Path("folder").mkdir()


def _lists() -> None:
    lists: dict[str, str | bytes] = {
        "empty": "",
        "blank": "\n\n   \n",
        "comments": "# nothing here\n# nor here\n",
        "header": "path,label\n",
        "absent": "clips/0 0\nclips/99 1\n",
        "unlabelled": "clips/0\nclips/1\n",
        "partly": "clips/0 0\nclips/1\n",
        "negative": "clips/0 -1\nclips/1 0\n",
        "high": "clips/0 0\nclips/1 9\n",
        "huge": "clips/0 0\nclips/1 99999999999999999999999\n",
        "fraction": "clips/0 0\nclips/1 0.5\n",
        "words": "clips/0 calm\nclips/1 tense\n",
        "wide": "clips/0,0,1,2,3,4\nclips/1,1,2,3,4,5\n",
        "label_only": "0\n1\n",
        "latin": b"clips/0 0\nclips/\xe4\xf6 1\n",
        "binary": bytes(range(256)) * 8,
        "zeros": bytes(300),
        "utf16": "clips/0 0\nclips/1 1\n".encode("utf-16"),
        "folder_twice": "clips/0 0\nclips/0 1\n",
        "one_class": "clips/0 0\nclips/2 0\n",
        "folder": "folder 0\nclips/1 1\n",
        "nul": "clips/0 0\nclips/\x001 1\n",
        "long": f"clips/0 0\n{'x' * 5000} 1\n",
        "itself": "lists/itself.csv 0\n",
        "pictures": "pictures 0\nclips/1 1\n",
    }
    for name in ("cut", "empty", "text", "zeros", "page", "pointer", "sound"):
        lists[f"video_{name}"] = f"videos/{name}.mp4 0\nclips/1 1\n"
    for name, content in lists.items():
        if isinstance(content, str):
            content = content.replace("clips/", "../clips/").replace("videos/", "../videos/")
            content = content.replace("pictures ", "../pictures ").replace("folder ", "../folder ")
        else:
            content = content.replace(b"clips/", b"../clips/")
        _write(f"lists/{name}.csv", content)


def _shards() -> None:
    clips = read_annotations("train.csv")
    write_shards(clips, "shards/good", ShardOptions(format="raw"), classes=["calm", "moved"])
    write_shards(clips, "shards/classes", ShardOptions(format="raw"), classes=["moved", "calm"])
    tar, index = Path("shards/good/shard-000000.tar").read_bytes(), Path("shards/good/index.json").read_text()
    about = json.loads(index)
    copies: dict[str, dict[str, str | bytes | None]] = {
        "cut": {"shard-000000.tar": tar[: len(tar) // 2]},
        "missing": {"shard-000000.tar": None},
        "text": {"index.json": "text\n"},
        "other": {"index.json": '{"mark": "other"}'},
        "version": {"index.json": json.dumps({**about, "version": 99})},
        "stride": {"index.json": json.dumps({**about, "settings": {**about["settings"], "stride": 3}})},
        "arrays": {"index.npz": None},
        "unfinished": {"index.json": None, ".unfinished/0": b""},
    }
    for name, changes in copies.items():
        shutil.copytree("shards/good", f"shards/{name}")
        for file, content in changes.items():
            if content is None:
                Path(f"shards/{name}/{file}").unlink()
            else:
                _write(f"shards/{name}/{file}", content)


def _maps() -> None:
    maps: dict[str, str | bytes] = {
        "good": "calm: still\nmoved: lively\n",
        "empty": "",
        "nothing": "calm:\nmoved: null\n",
        "comment": "# calm: still\n",
        "text": "calm to still",
        "list": "- calm\n- moved\n",
        "many": "calm: [still, lively]\nmoved: lively\n",
        "deep": "calm: {still: 1}\nmoved: lively\n",
        "model": "clam: still\nmoved: lively\n",
        "dataset": "calm: stil\nmoved: lively\n",
        "twice": "calm: still\ncalm: lively\n",
        "one": "calm: still\nmoved: still\n",
        "away": "calm: tense\nmoved: loud\n",
        "binary": bytes(range(256)),
        "broken": "calm: [still\n",
    }
    for name, content in maps.items():
        _write(f"maps/{name}.yaml", content)


def _recipes() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
    )
    recipes: dict[str, str | bytes] = {
        "syntax": "model: [1, 2\ntrain: }\n",
        "tab": "model:\n\tdepth: 2\n",
        "list": "- model\n- train\n",
        "scalar": "just words\n",
        "number": "12\n",
        "empty": "",
        "null": "null\n",
        "two": "seed: 1\n---\nseed: 2\n",
        "twice": "seed: 1\nseed: 2\n",
        "unknown": "optim:\n  learning_rate: 1\n",
        "section": "optimizer:\n  lr: 1\n",
        "type": "optim:\n  lr: fast\n",
        "flat": "optim: 3\n",
        "deep": "[" * 5000,
        "laughs": laughs,
        "code": "seed: !!python/object/apply:os.system ['touch written']\n",
        "tag": "seed: !mine 3\n",
        "number_key": "1: 2\n",
        "list_key": "? [a, b]\n: 2\n",
        "date": "seed: 2024-01-01\n",
        "infinite": "optim:\n  lr: .inf\n",
        "nan": "optim:\n  lr: .nan\n",
        "latin": b"# \xe4\xf6\xfc\nseed: 1\n",
        "utf16": "seed: 1\n".encode("utf-16"),
        "binary": bytes(range(256)),
        "zeros": bytes(100),
        "null_section": "optim: null\nseed: x\n",
        "task": "task: pretrain\n",
        "no_task": "task: dance\n",
    }
    for name, content in recipes.items():
        _write(f"recipes/{name}.yaml", content)
    shutil.copy("train.csv", "recipes/list_of_clips.yaml")


def _runs() -> None:
    for argv in (["finetune", *TUNE, "output=run"], ["pretrain", *PRE, "output=pre"]):
        status = main([*argv, "optim.epochs=1", "optim.warmup_epochs=0", "eval.save_features=true"])
        assert status == 0
    shutil.copytree("run/model", "model")
    shutil.copytree("run", "run_2")
    copies: dict[str, dict[str, str | bytes | None]] = {
        "run_without_settings": {"config.yaml": None},
        "run_without_model": {"model": None, "checkpoints": None},
        "run_unfinished": {"model": None, "metrics.json": None, "pred.csv": None},
        "run_bad_settings": {"config.yaml": "model: [1\n"},
        "run_binary_settings": {"config.yaml": bytes(range(256))},
        "run_other_settings": {"config.yaml": "colour: red\n"},
        "run_bad_metrics": {"metrics.json": "{"},
        "run_list_metrics": {"metrics.json": "[1, 2]"},
        "run_empty_metrics": {"metrics.json": "{}"},
        "run_odd_metrics": {"metrics.json": '{"confusion": [[1, 2], [3]], "classes": ["a", "b"]}'},
        "run_bad_log": {"log.jsonl": "words\nmore words\n"},
        "run_binary_log": {"log.jsonl": bytes(range(256))},
        "run_empty_predictions": {"pred.csv": ""},
        "run_bad_predictions": {"pred.csv": "a,b,c\n1,2,3\n"},
        "run_binary_predictions": {"pred.csv": bytes(range(256))},
        "run_cut_checkpoint": dict.fromkeys(
            ("checkpoints/last.pt", "checkpoints/previous.pt"), Path("run/checkpoints/last.pt").read_bytes()[:-500]
        ),
        "run_empty_checkpoint": {"checkpoints/last.pt": b"", "checkpoints/previous.pt": b""},
        "run_bad_environment": {"environment.json": "[[["},
        "run_cut_model": {"model/model.safetensors": Path("run/model/model.safetensors").read_bytes()[:-100]},
    }
    for name, changes in copies.items():
        shutil.copytree("run", name)
        for file, content in changes.items():
            path = Path(name) / file
            if content is not None:
                _write(str(path), content)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class _Code:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch written",)


def _weights() -> None:
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    # It would be of the state as it was.
    del state["digest"]
    good: dict[str, Any] = {name: value.clone() for name, value in state["model"].items()}
    first = next(iter(good))
    Path("weights").mkdir()
    for name, content in {
        "tensor": torch.zeros(3),
        "int": 3,
        "list": [torch.zeros(3)],
        "nothing": {},
        "int_keys": {1: torch.zeros(3)},
        "strings": {"model": {"a": "b"}},
        "none": None,
        "others": {"model": {"layer1.weight": torch.zeros(3, 3)}},
        "sparse": {"model": {"a.weight": torch.eye(3).to_sparse()}},
        "complex": {"model": {"a.weight": torch.zeros(3, dtype=torch.complex64)}},
        "nested": {"model": {"model": {"model": {}}}},
        "settings_only": {"format": state["format"], "config": state["config"]},
        "no_settings": {"format": state["format"], "model": good},
        "nan": {**state, "model": {**good, first: good[first] * float("nan")}},
        "less": {**state, "model": {name: value for name, value in good.items() if name != first}},
        "more": {**state, "model": {**good, "extra.weight": torch.zeros(2)}},
        "shapes": {**state, "model": {**good, first: torch.zeros(7)}},
    }.items():
        torch.save(content, f"weights/{name}.pth")
    with open("weights/code.pth", "wb") as file:
        pickle.dump(_Code(), file)
    torch.save({"model": _Code()}, "weights/code_inside.pth")
    whole = Path("run/checkpoints/last.pt").read_bytes()
    for name, raw in {
        "empty": b"",
        "text": b"not weights\n",
        "cut": whole[: len(whole) // 2],
        "zeros": bytes(2000),
        "page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 343219\n",
        "zip": b"PK\x03\x04" + bytes(200),
    }.items():
        _write(f"weights/{name}.pth", raw)
        _write(f"weights/{name}.safetensors", raw)
    save_file({"x.weight": torch.zeros(2)}, "weights/others.safetensors")
    config = json.loads(Path("model/config.json").read_text())
    configs: dict[str, str | bytes] = {
        "bad": "{",
        "list": "[]",
        "empty": "{}",
        "number": "3",
        "binary": bytes(range(256)),
        "depth": json.dumps(_changed(config, "depth", 3)),
        "type": json.dumps(_changed(config, "depth", "two")),
        "unknown": json.dumps(_changed(config, "colour", "red")),
        "huge": json.dumps(_changed(config, "embed_dim", 10**12)),
    }
    for name, text in configs.items():
        shutil.copytree("model", f"models/{name}")
        _write(f"models/{name}/config.json", text)
    shutil.copytree("model", "models/no_weights")
    Path("models/no_weights/model.safetensors").unlink()
    shutil.copytree("model", "models/text_weights")
    _write("models/text_weights/model.safetensors", "not weights\n")


def _changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The configuration with a key of the architecture changed, wherever it stands."""
    if isinstance(config.get("model"), dict):
        return {**config, "model": {**config["model"], key: value}}
    return {**config, key: value}


def _odd() -> None:
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    os.symlink("nowhere", "dangling")
    _write("a.txt", "text\n")
    _write("args.json", "[1, 2]\n")
    _write("ft #2/config.yaml", "task: finetune\n")
    Path("DFEW/EmoLabel_DataSplit").mkdir(parents=True)
    for set_number in range(1, 6):
        for part in ("train", "test"):
            _write(f"DFEW/EmoLabel_DataSplit/{part}(single-labeled)/set_{set_number}.csv", b"\xff\xfe\x00 odd")
    _write("CREMA/1001_DFA_XXX_XX.mp4", "no video")
