"""Features of the clips of a list on disk: computed once, gone on with after a kill, read again by whoever asks.

A set of features is a folder: `set.json` says what they are of, each array is a file that grows by a row a clip, and
a line of `log.jsonl` makes the rows before it count. So a process that is killed loses what it had of one batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import nn

from maedfer._files import atomic_path, parse_json, remove_temporaries
from maedfer.dataclass_tree import keys_of, to_dict, without
from maedfer.errors import InputError
from maedfer.models import LGIFormer, LGIFormerConfig

SET_FILE, LOG_FILE = "set.json", "log.jsonl"
Shapes = Mapping[str, tuple[int, ...]]


class FeatureSet:
    """Arrays of features, a row a clip, in the order of the list.

    Args:
        folder: made if it is absent; one that is there must be of the same arrays.
        about: what the features are of, plain values.
        shapes: of a row, by the name of its array.
        clips: rows in the end.

    Attributes:
        done: rows that are there.
        broken: what is wrong with clips that could not be read, by number; their rows are NaN.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], shapes: Shapes, clips: int) -> None:
        self.folder, self.about, self.shapes, self.clips = folder, dict(about), dict(shapes), clips
        self.done = 0
        self.broken: dict[int, str] = {}
        self._lost = [0.0, 0.0]
        self._files: dict[str, IO[bytes]] = {}
        if not (folder / SET_FILE).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"about": self.about, "shapes": self.shapes, "clips": clips}, indent=1)
            with atomic_path(folder / SET_FILE) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        self._read_log()

    @classmethod
    def read(cls, folder: Path) -> FeatureSet | None:
        """A set that is there; None where the folder is none, or not whole."""
        try:
            known = parse_json((folder / SET_FILE).read_text(encoding="utf-8"))
            shapes = {name: tuple(shape) for name, shape in known["shapes"].items()}
            return cls(folder, known["about"], shapes, known["clips"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def whole(self) -> bool:
        """Whether all rows are there."""
        return self.done == self.clips

    @property
    def rounding(self) -> float | None:
        """What tokens have lost as float16, a share of their size (root mean square); None where there are none."""
        return math.sqrt(self._lost[0] / self._lost[1]) if self._lost[1] else None

    @property
    def bytes(self) -> int:
        """Size in the end."""
        return self.clips * sum(map(self._width, self.shapes))

    def append(
        self, arrays: Mapping[str, np.ndarray], broken: Mapping[int, str], lost: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Write rows of the next clips.

        Args:
            arrays: [n, *shape] of each name, NaN for clips that could not be read.
            broken: what is wrong with those, by number of the clip.
            lost: of `float16_error`.
        """
        rows = len(next(iter(arrays.values())))
        if not self._files:
            for name in [*self.shapes, LOG_FILE]:
                self._files[name] = open(self._path(name), "ab")  # noqa: SIM115
                if name != LOG_FILE:
                    # What a killed process wrote after the last line of its log.
                    self._files[name].truncate(self.done * self._width(name))
        for name in self.shapes:
            values = np.ascontiguousarray(arrays[name], _dtype(name))
            assert values.shape == (rows, *self.shapes[name]), f"{name}: {values.shape}"
            self._files[name].write(values.data)
            self._files[name].flush()
        self.done += rows
        self.broken.update(broken)
        self._lost = [self._lost[0] + lost[0], self._lost[1] + lost[1]]
        record = {"done": self.done, "broken": {str(key): text for key, text in broken.items()}, "lost": lost}
        self._files[LOG_FILE].write((json.dumps(record) + "\n").encode())
        self._files[LOG_FILE].flush()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def array(self, name: str) -> np.ndarray:
        """An array [clips, *shape] as it lies on disk, float32, tokens float16; it cannot be written to."""
        shape = (self.clips, *self.shapes[name])
        return np.memmap(self._path(name), _dtype(name), "r", shape=shape)

    def _read_log(self) -> None:
        """Count the rows that are whole in every file, by the lines of the log that are."""
        log = self.folder / LOG_FILE
        there = min((self._rows(name) for name in self.shapes), default=0)
        kept = b""
        for line in log.read_bytes().splitlines(keepends=True) if log.is_file() else []:
            try:
                record = parse_json(line)
                done, lost = int(record["done"]), record["lost"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n") or done > min(there, self.clips):
                break
            self.done, kept = done, kept + line
            self.broken.update((int(number), text) for number, text in record["broken"].items())
            self._lost = [self._lost[0] + lost[0], self._lost[1] + lost[1]]
        if log.is_file() and log.stat().st_size != len(kept):
            with open(log, "r+b") as file:
                file.truncate(len(kept))

    def _rows(self, name: str) -> int:
        path = self._path(name)
        return path.stat().st_size // self._width(name) if path.is_file() else 0

    def _width(self, name: str) -> int:
        return math.prod(self.shapes[name]) * _dtype(name).itemsize

    def _path(self, name: str) -> Path:
        return self.folder / (name if name == LOG_FILE else f"{name}.{_dtype(name).name}")


@dataclass
class FeatureStore:
    """The sets of one list by one model.

    Args:
        folder: of all sets.
        part: what the list is called, "train", "val" or "test", and by whom its features are: begins the folders'
            names.
        about: what the features are of. A set of other things under the same name is removed, which `changed` tells.
    """

    folder: Path
    part: str
    about: Mapping[str, Any]
    changed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob(f"{self.part}-*")):
            remove_temporaries(path)
            known = FeatureSet.read(path)
            if known is not None and known.about == self.about:
                continue
            there = self.about if known is None else known.about
            keys = [key for key in {**there, **self.about} if there.get(key) != self.about.get(key)]
            self.changed += [key for key in keys if key not in self.changed]
            shutil.rmtree(path)

    def sets(self) -> list[FeatureSet]:
        """All that are there, whole or not."""
        found = (FeatureSet.read(path) for path in sorted(self.folder.glob(f"{self.part}-*")))
        return [one for one in found if one is not None]

    def whole(self, shapes: Shapes) -> dict[str, FeatureSet]:
        """The whole sets that have some of these arrays, by the arrays' names."""
        found: dict[str, FeatureSet] = {}
        for one in self.sets():
            if one.whole:
                found |= {name: one for name, shape in one.shapes.items() if shapes.get(name) == shape}
        return found

    def open(self, shapes: Shapes, clips: int) -> FeatureSet:
        """A set of these arrays, to be filled; one that was begun is gone on with.

        Raises:
            InputError: the disk has not enough room.
        """
        digest = hashlib.sha256(json.dumps([dict(self.about), dict(shapes)], sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{self.part}-{digest[:12]}"
        found = FeatureSet(path, self.about, shapes, clips)
        free, needed = shutil.disk_usage(path).free, round(found.bytes * (1 - found.done / clips))
        if needed > free:
            if not found.done:
                shutil.rmtree(path)
            raise InputError(
                f"features of data.{self.part.split('-')[-1]} take {needed / 1e9:.3g} GB and {str(self.folder)!r} has "
                f"{free / 1e9:.3g} GB left: ask for fewer layers, or fewer tokens by --max-tokens"
            )
        return found


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("<f2" if name.startswith("tokens") else "<f4")


def weights_digest(model: LGIFormer) -> str:
    """What tells a model's features from those of another: its weights and what they mean."""
    digest = hashlib.sha256()
    config = without(LGIFormerConfig, to_dict(model.config), "machine")
    free = {*keys_of(LGIFormerConfig, "results"), "num_classes"}
    digest.update(json.dumps({key: value for key, value in config.items() if key not in free}, sort_keys=True).encode())
    parts: list[nn.Module] = [model.encoder, model.head_norm]
    for name, value in ((name, value) for part in parts for name, value in part.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
