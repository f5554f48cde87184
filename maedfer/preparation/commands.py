"""The command lines to type when a data set is prepared."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from maedfer.preparation.material import Material

# Frames of a clip that models take, and the distance between them that recipes have for clips of a few seconds.
CLIP_FRAMES, _STRIDE = 16, 4
# Clips of a batch, in recipes.
_BATCH, _PRETRAIN_BATCH = 96, 128
# Names that stand for themselves in a list of settings.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_ ()-]*(?<! )")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
# Top, left, height and width of what the recipe takes of VoxCeleb2's pictures.
VOXCELEB2_CUT = (0, 32, 160, 160)
PRETRAIN_LIST, VALIDATION_LIST = "pretrain.csv", "val.csv"


def next_commands(material: Material, root: Path, out: Path, median_frames: float, shard: bool) -> list[str]:
    """The commands that train on what was prepared, the last one being the training.

    Args:
        material: the data set.
        root: the folder that paths in its lists start from.
        out: folder of results.
        median_frames: of a clip.
        shard: write shards first, and train from them.
    """
    commands: list[str] = []
    lists = {"data.train": out / PRETRAIN_LIST}
    if material.folds:
        lists = {"data.train": out / "fold_1/train.csv", "data.test": out / "fold_1/test.csv"}
        if material.validation:
            lists["data.val"] = out / VALIDATION_LIST
    settings: dict[str, object] = {} if shard else {"data.root": root}
    for key, file in lists.items():
        if shard:
            folder = out / "shards" / file.relative_to(out).with_suffix("")
            where = [str(file), "--root", str(root), "--out", str(folder)]
            commands.append(shlex.join(["maedfer", "shard", *where, *_of_shards(material)]))
        settings[key] = folder if shard else file
    if material.kind == "own":
        if material.folds:
            settings["data.classes"] = f"[{','.join(map(_quoted, material.classes))}]"
        stride = max(1, min(_STRIDE, int(median_frames) // CLIP_FRAMES))
        if stride != _STRIDE:
            settings["data.stride"] = stride
    if not material.folds and (shard or material.kind == "own"):
        # The part of the picture that the recipe takes is that of VoxCeleb2's clips, and of shards is taken before.
        settings["augment.crop"] = "null"
    trained = min((len(fold.train) for fold in material.folds), default=len(material.unlabelled))
    if trained < (_BATCH if material.folds else _PRETRAIN_BATCH):
        # A run has a whole batch of clips at least, and a few of them an epoch.
        settings["train.batch_size"] = 2 ** max(0, (trained // 4).bit_length() - 1)
    name = material.name if material.kind != "own" else out.resolve().name
    settings["output"] = Path("runs") / name / "fold_1" if len(material.folds) > 1 else Path("runs") / name
    command = "finetune" if material.folds else "pretrain"
    words = [f"{key}={value}" for key, value in settings.items()]
    return [*commands, shlex.join(["maedfer", command, material.recipe, *words])]


def _of_shards(material: Material) -> list[str]:
    """What else the command that writes shards is told."""
    if not material.folds:
        cut = ["--cut", ",".join(map(str, VOXCELEB2_CUT))] if material.name == "voxceleb2" else []
        # Shards that are read one after the other have clips of all speakers.
        return ["--unlabelled", *cut, "--seed", "0"]
    if material.kind != "own":
        return ["--classes", material.name]
    return [] if any("," in name for name in material.classes) else ["--classes", ",".join(material.classes)]


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.casefold() not in _WORDS else json.dumps(name, ensure_ascii=False)
