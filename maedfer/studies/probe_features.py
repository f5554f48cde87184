"""Features for probes: of the clips of a list, of several layers in one pass, kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maedfer._progress import ProgressLine, counted
from maedfer.data.annotations import Clip
from maedfer.data.shards.clips import ShardClips
from maedfer.errors import InputError
from maedfer.evaluation.layers import LayerReader, TokenGrid, as_stored, float16_error, pooled_name, tokens_name
from maedfer.evaluation.replay import Passes
from maedfer.evaluation.score import check_rows
from maedfer.models import LGIFormer
from maedfer.studies.feature_store import FeatureSet, FeatureStore, weights_digest
from maedfer.train.config import RunConfig
from maedfer.train.loader import ViewBatches
from maedfer.train.processes import Runtime
from maedfer.train.same_clips import sizes

Say = Callable[[str], None]
# Of features that are read at once for their digest.
_ROWS = 512
# What decides what features are, as people say it.
_WORDS = {
    "weights": "the weights",
    "clips": "the clips of the list",
    "sizes": "the files of the clips",
    "stride": "data.stride",
    "fit": "data.fit",
    "backend": "data.backend",
    "views": "eval.views",
    "precision": "the precision",
}


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """A list of clips with labels.

    Args:
        part: "train", "val" or "test".
        file: the list.
        entries: its clips.
        labels: int64 [n].
        subjects: who is in each clip; none where some clip does not say it.
    """

    part: str
    file: str
    entries: Sequence[Clip]
    labels: np.ndarray
    subjects: tuple[str, ...]

    @classmethod
    def of(cls, part: str, file: str, entries: Sequence[Clip]) -> LabelledClips:
        """Take labels and subjects from the clips."""
        labels = np.array([-1 if clip.label is None else clip.label for clip in entries], np.int64)
        subjects = tuple(clip.subject for clip in entries)
        return cls(part, file, entries, labels, subjects if all(subjects) else ())


@dataclasses.dataclass(frozen=True)
class ListFeatures:
    """Features of the clips of a list that could be read.

    Args:
        clips: all of the list.
        arrays: [n, ...] by name, as `LayerReader.read` names them; read from disk as they are needed.
        rows: int64, numbers of the clips that could be read.
        broken: what is wrong with the others, by number.
        rounding: what tokens lose as float16, a share of their size; None where there are none.
    """

    clips: LabelledClips
    arrays: Mapping[str, np.ndarray]
    rows: np.ndarray
    broken: Mapping[int, str]
    rounding: float | None

    @property
    def labels(self) -> np.ndarray:
        """Int64 [rows]."""
        return self.clips.labels[self.rows]

    @property
    def subjects(self) -> list[str] | None:
        """Who is in each clip that could be read; None where that is not known."""
        return [self.clips.subjects[row] for row in self.rows] if self.clips.subjects else None

    def features(self, name: str) -> np.ndarray:
        """Of the clips that could be read, [rows, ...]."""
        array = self.arrays[name]
        return array if len(self.rows) == len(array) else array[self.rows]

    def digest(self, name: str) -> str:
        """Of the features, labels and subjects of the clips that could be read."""
        digest, array = hashlib.sha256(), self.arrays[name]
        digest.update(f"{array.dtype} {array.shape[1:]}".encode())
        for start in range(0, len(self.rows), _ROWS):
            digest.update(np.ascontiguousarray(array[self.rows[start : start + _ROWS]]).data)
        digest.update(self.labels.tobytes())
        digest.update(json.dumps(self.subjects).encode())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Computes features by one model, or reads those that are there.

    Args:
        cfg: how clips are read.
        runtime: device and arithmetic.
        folder: of all features.
        who: whose features they are, for names of files: "model" or "random".
        pooled: layers of which pooled features are wanted.
        tokens: tokens that are wanted, by layer.
        say: takes sentences for people.
    """

    cfg: RunConfig
    runtime: Runtime
    folder: Path
    who: str
    pooled: tuple[int, ...]
    tokens: Mapping[int, TokenGrid]
    say: Say

    def of_lists(self, model: LGIFormer, lists: Sequence[LabelledClips]) -> dict[str, ListFeatures]:
        """The features of several lists by a model that is on the device, by the name of the part.

        Raises:
            InputError: a clip cannot be read (all of them, where `eval.on_error` is "skip"), weights or features are
                not finite, or the disk is full.
        """
        weights = weights_digest(model)
        with self.runtime.low_weights(model):
            return {clips.part: self._of_list(model, clips, weights) for clips in lists}

    def _of_list(self, model: LGIFormer, clips: LabelledClips, weights: str) -> ListFeatures:
        what = f"features of data.{clips.part}" + (" by random weights" if self.who == "random" else "")
        store = FeatureStore(self.folder, f"{self.who}-{clips.part}", self._about(clips, weights))
        if store.changed:
            words = ", ".join(_WORDS.get(key, key) for key in store.changed)
            self.say(f"{what}: those in {self.folder} were made otherwise ({words} changed): they are computed anew")
        shapes = LayerReader(model, self._layers, dict(self.tokens), self.pooled).shapes(self.cfg.eval.views)
        there = store.whole(shapes)
        missing = {name: shape for name, shape in shapes.items() if name not in there}
        if missing:
            reader = LayerReader(
                model,
                [layer for layer in self._layers if self._names(layer) & {*missing}],
                {layer: grid for layer, grid in self.tokens.items() if tokens_name(layer, grid) in missing},
                [layer for layer in self.pooled if pooled_name(layer) in missing],
            )
            new = store.open(missing, len(clips.entries))
            size = f"{new.bytes / 1e6:.3g} MB in {self.folder}"
            done = f", {new.done} of them are there" if new.done else ""
            self.say(f"{what}: {counted(new.clips, 'clip')}{done}, {size}")
            try:
                self._fill(reader, clips, new)
            finally:
                new.close()
            there |= dict.fromkeys(missing, new)
        else:
            self.say(f"{what}: read from {self.folder}")
        return _read(clips, {name: there[name] for name in shapes})

    @property
    def _layers(self) -> list[int]:
        return sorted({*self.pooled, *self.tokens})

    def _names(self, layer: int) -> set[str]:
        names = {pooled_name(layer)} if layer in self.pooled else set()
        return names | ({tokens_name(layer, self.tokens[layer])} if layer in self.tokens else set())

    def _about(self, clips: LabelledClips, weights: str) -> dict[str, Any]:
        cfg, entries = self.cfg, clips.entries
        if isinstance(entries, ShardClips):
            names = entries.digest().hex()
        else:
            names = _digest("\n".join(str(clip.path) for clip in entries).encode(errors="surrogateescape"))
        return {
            "weights": weights,
            "clips": f"{len(entries)} clips, {names[:16]}",
            "sizes": _digest(sizes(entries).numpy().tobytes())[:16],
            "stride": cfg.data.stride,
            "fit": cfg.data.fit,
            "backend": cfg.data.backend,
            "views": cfg.eval.views,
            "precision": self.runtime.precision,
        }

    def _fill(self, reader: LayerReader, clips: LabelledClips, new: FeatureSet) -> None:
        """Compute the rows of a set that are not there."""
        views, names = self.cfg.eval.views, reader.names

        @torch.inference_mode()
        def run(frames: Tensor) -> tuple[Tensor, ...]:
            with self.runtime.autocast():
                return reader.read(frames, views)

        passes = Passes(run, self.runtime.device, self.runtime.compiling.scoring)
        batches = ViewBatches(self.cfg, self.runtime, clips.file, entries=clips.entries)
        line = ProgressLine(f"features of data.{clips.part}")
        reached = batches.leave_out(new.done)
        line(new.done / new.clips)
        for batch in _in_order(batches, views):
            found = passes(batch.frames) if batch.frames is not None else ()
            rows: dict[str, np.ndarray] = {}
            lost = (0.0, 0.0)
            # Another size of batches than before: some of these are there.
            fresh = slice(new.done - reached, None)
            for name, values in zip(names, found, strict=batch.frames is not None):
                assert values is not None
                stored = as_stored(name, values)
                told = [batches.entries[index].name for index in batch.read]
                check_rows(stored, told, reader.model, "features")
                whole = np.full((batch.count, *stored.shape[1:]), np.nan, stored.dtype)
                whole[[index - batch.first for index in batch.read]] = stored
                rows[name] = whole[fresh]
                if name.startswith("tokens"):
                    lost = tuple(map(sum, zip(lost, float16_error(values), strict=True)))  # type: ignore[assignment]
            for name in names if batch.frames is None else ():
                shape = (batch.count - (new.done - reached), *new.shapes[name])
                rows[name] = np.full(shape, np.nan, np.float32)
            reached += batch.count
            new.append(rows, batch.broken, lost)
            line(new.done / new.clips)
        line.clear()
        if not new.whole:
            raise RuntimeError(f"{new.clips} clips were to be read once each, got {new.done}")


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Neighbouring clips of a list.

    Args:
        first, count: which ones.
        frames: of those that could be read; None where there are none.
        read: their numbers.
        broken: what is wrong with the others.
    """

    first: int
    count: int
    frames: Tensor | None
    read: list[int]
    broken: dict[int, str]


def _in_order(batches: ViewBatches, views: int) -> Iterator[_Batch]:
    for batch in batches:
        broken = batch.get("broken", {})
        read = batch["index"][::views].tolist() if "index" in batch else []
        numbers = sorted([*read, *broken])
        yield _Batch(numbers[0], len(numbers), batch.get("frames"), read, broken)


def _read(clips: LabelledClips, sets: Mapping[str, FeatureSet]) -> ListFeatures:
    broken: dict[int, str] = {}
    for one in sets.values():
        # Sets were made at different times: a clip counts that could be read every time.
        broken |= one.broken
    rows = np.array([row for row in range(len(clips.entries)) if row not in broken], np.int64)
    if not len(rows):
        raise InputError(
            f"none of the {len(clips.entries)} clips of data.{clips.part} can be read; the first one: "
            f"{broken[min(broken)]}"
        )
    rounding = [one.rounding for one in sets.values() if one.rounding is not None]
    arrays = {name: one.array(name) for name, one in sets.items()}
    return ListFeatures(clips, arrays, rows, broken, max(rounding, default=None))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
