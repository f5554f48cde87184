"""A data set of clips for PyTorch's DataLoader.

    dataset = ClipDataset(read_annotations("train.csv"), "train", 16, 4, TrainAugment(160))
    sampler = EpochSampler(len(dataset), batch_size=8)
    loader = DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate, num_workers=8)

What a sample looks like depends on its `SampleKey` alone: not on workers, processes, or what was loaded before.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from maedfer.data.annotations import Clip
from maedfer.data.augment.travel import Travelling
from maedfer.data.sampler import SampleKey
from maedfer.data.sampling import pretrain_indices, train_indices, view_indices
from maedfer.data.source import as_source
from maedfer.data.video.base import Room, VideoReader
from maedfer.data.video.readers import Backend
from maedfer.errors import InputError, unknown

Mode = Literal["pretrain", "train", "views"]
# Of tensors [R, ...], one after the other, makes what a batch holds.
Join = Callable[[list[Tensor]], Any]
_log = logging.getLogger(__name__)


class ClipError(InputError):
    """A clip cannot be loaded; one line, also when it comes out of a loader's worker process."""

    def __init__(self, message: str) -> None:
        # DataLoader makes the exception anew in the main process, with the worker's whole traceback as its message.
        super().__init__(message.rstrip().rsplit("ClipError: ", 1)[-1])


class ClipDataset(Dataset[dict[str, Any]]):
    """Clips as samples of frames.

    Args:
        clips: from `read_annotations`, or another source of clips.
        mode: rule of frame sampling: "pretrain", "train", or "views" (for testing, nothing random).
        frames: frames of a sample.
        stride: distance between them in the recording, of which a source may hold every so many frames alone.
        transform: uint8 [T, 3, H, W] to the same of the model's size; may draw from torch's global generator. Or
            `Travelling`, for frames that a device is to change.
        repeats: samples taken from a clip each time it is decoded ("pretrain" and "train").
        views: temporal views ("views").
        backend: as in `open_video`.
        cache: keep every decoded clip in memory. The memory is that of the process: each loader worker keeps its own,
            for as long as it lives, unless `fill_cache` was called before. For small sets.
        mask_fn: draws the mask(s) of one sample from a torch.Generator.
        block: neighbouring clips that come soon after each other, as those of `EpochSampler`; 0 = none.
        on_error: "raise", or "skip" = take the next clip that can be read instead of a broken one, and warn once.

    Raises:
        InputError: no clips, or settings out of range.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        mode: Mode,
        frames: int = 16,
        stride: int = 4,
        transform: Callable[[Tensor], Tensor] | Travelling | None = None,
        *,
        repeats: int = 1,
        views: int = 2,
        backend: Backend = "auto",
        cache: bool = False,
        mask_fn: Callable[[torch.Generator], Tensor] | None = None,
        block: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if mode not in get_args(Mode):
            raise unknown("mode", mode, get_args(Mode))
        if on_error not in ("raise", "skip"):
            raise unknown("value of on_error:", on_error, ("raise", "skip"))
        if not clips:
            raise InputError("a data set needs at least one clip")
        if min(frames, stride, repeats, views) < 1:
            raise InputError(f"frames {frames}, stride {stride}, repeats {repeats}, views {views} must be at least 1")
        self.clips = as_source(clips)
        self.mode: Mode = mode
        self.frames, self.stride = frames, _among_stored(stride, self.clips.stride)
        self.transform = transform
        self.repeats, self.views = repeats, views
        self.backend: Backend = backend
        self.mask_fn = mask_fn
        self.block = block
        self.on_error = on_error
        self._cache: dict[int, np.ndarray] | None = {} if cache else None
        # Clips that this process found broken, with what was wrong.
        self.broken: dict[int, str] = {}
        # Memory for frames that travel as they were read: where a batch will have them.
        self.room: Room | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: SampleKey | int) -> dict[str, Any]:
        """Load the samples of one clip.

        Args:
            key: clip and seed; a bare number means seed 0.

        Returns:
            frames: uint8 [R, 3, T, H, W], R = repeats or views; [R, T, H, W, 3] as they travel; [bytes] where they
                travel as JPEG files, one after the other.
            lengths: of such files, int64 [n].
            pictures: which of them each frame is, int64 [R, T].
            program: float64 [R, P] of frames that travel.
            label: class number, -1 where there is none.
            index: the clip that was loaded (another one than asked for only where that is broken).
            skipped: how many broken clips were passed over for it.
            broken: what is wrong with them, by number, where there are any: with the one that was asked for, and with
                those that this process has not met before.
            mask: [R, ...] what `mask_fn` gave, where there is one.

        Raises:
            ClipError: the clip cannot be read; names the annotation's file and line, and the clip.
        """
        index, seed = (key.index, key.seed) if isinstance(key, SampleKey) else (key, 0)
        asked, skipped = index, 0
        told: dict[int, str] = {}
        while True:
            try:
                return {**self._load(index, seed), "skipped": skipped, **({"broken": told} if told else {})}
            except InputError as error:
                message = f"{self.clips[index].where}: {error}"
                if self.on_error == "raise":
                    raise ClipError(message) from error
                if index not in self.broken:
                    self.broken[index] = told[index] = message
                    _log.warning("clip skipped: %s", message)
                elif index == asked:
                    # Once more, as the sample that told it first may have been thrown away.
                    told[index] = self.broken[index]
                skipped += 1
                if skipped == len(self):
                    raise ClipError(f"none of the {len(self)} clips can be read; the last one: {message}") from error
                index = (index + 1) % len(self)

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> list[dict[str, Any]]:
        """Load the samples of several clips; those that are stored side by side are read one after the other.

        Args:
            keys: as for one of them.

        Returns:
            The samples, in the order of the keys.

        Raises:
            ClipError: as for one of them.
        """
        if not self.block or self._cache is not None:
            return [self[key] for key in keys]
        indices = [key.index if isinstance(key, SampleKey) else key for key in keys]
        places = sorted(range(len(keys)), key=indices.__getitem__)
        samples: dict[int, dict[str, Any]] = {}
        for _, group in itertools.groupby(places, lambda place: indices[place] // self.block):
            together = list(group)
            self.clips.expect([indices[place] for place in together], self.block)
            samples.update((place, self[keys[place]]) for place in together)
        return [samples[place] for place in range(len(keys))]

    def fill_cache(self, progress: Callable[[float], None] | None = None) -> None:
        """Decode all clips into the cache now, so that loader workers forked later share the memory.

        Args:
            progress: takes the share that is done, after each clip.
        """
        if self._cache is None:
            raise InputError("fill_cache needs a data set with cache=True")
        for index in range(len(self)):
            # What cannot be read is reported, or skipped, when the clip's turn comes.
            with contextlib.suppress(InputError):
                self._decoded(index)
            if progress is not None:
                progress((index + 1) / len(self))

    def _load(self, index: int, seed: int) -> dict[str, Any]:
        if index in self.broken:
            raise InputError(self.broken[index])
        generator = torch.Generator().manual_seed(seed)
        sample: dict[str, Any] = {"label": int(self.clips.labels[index]), "index": index}
        if isinstance(self.transform, Travelling) and self.transform.coded:
            sample.update(self._load_coded(index, seed, self.transform, generator))
            if self.mask_fn is not None:
                sample["mask"] = torch.stack([self.mask_fn(generator) for _ in sample["pictures"]])
            return sample
        groups, pictures = self._read(index, generator)
        with seeded(seed):
            if isinstance(self.transform, Travelling):
                pairs = [self.transform(_channels_first(pictures, group)) for group in groups]
                sample["program"] = torch.stack([program for _, program in pairs])
                samples = [frames for frames, _ in pairs]
            else:
                samples = [self._finish(_channels_first(pictures, group)) for group in groups]
        # Megabytes are copied no more often than need be.
        sample["frames"] = samples[0][None] if len(samples) == 1 else torch.stack(samples)
        if self.mask_fn is not None:
            sample["mask"] = torch.stack([self.mask_fn(generator) for _ in groups])
        return sample

    def _load_coded(
        self, index: int, seed: int, transform: Travelling, generator: torch.Generator
    ) -> dict[str, Tensor]:
        with self.clips.open(index, self.backend) as reader:
            groups = self._draw(len(reader), generator)
            positions, rows = np.unique(np.concatenate(groups), return_inverse=True)
            files, size = reader.read_jpeg(positions), reader.size
        with seeded(seed):
            programs = [transform.program(size) for _ in groups]
        return {
            "frames": torch.from_numpy(np.concatenate(files)),
            "lengths": torch.tensor([len(file) for file in files]),
            "pictures": torch.from_numpy(rows.reshape(len(groups), -1).astype(np.int64)),
            "program": torch.stack(programs),
        }

    def _read(self, index: int, generator: torch.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        """Decode what all samples of a clip need, once; returns the samples' rows, and the frames [n, H, W, 3]."""
        if self._cache is not None:
            pictures = self._decoded(index)
            return self._draw(len(pictures), generator), pictures
        with self.clips.open(index, self.backend) as reader:
            groups = self._draw(len(reader), generator)
            positions, rows = np.unique(np.concatenate(groups), return_inverse=True)
            if self._travel_as_read(reader, len(positions)):
                reader.room = self.room
            return list(rows.reshape(len(groups), -1)), reader.read(positions)

    def _travel_as_read(self, reader: VideoReader, count: int) -> bool:
        """Whether the frames that are read of a clip are those of its sample, with nothing done to them."""
        transform = self.transform
        whole = isinstance(transform, Travelling) and transform.size_of(reader.size) == reader.size
        return whole and self.repeats == 1 and count == self.frames

    def _decoded(self, index: int) -> np.ndarray:
        assert self._cache is not None
        index = self.clips.first(index)
        if index not in self._cache:
            with self.clips.open(index, self.backend) as reader:
                self._cache[index] = reader.read(range(len(reader)))
        return self._cache[index]

    def _draw(self, n: int, generator: torch.Generator) -> list[np.ndarray]:
        if self.mode == "views":
            return view_indices(n, self.frames, self.stride, self.views)
        rule = train_indices if self.mode == "train" else pretrain_indices
        return [rule(n, self.frames, self.stride, generator) for _ in range(self.repeats)]

    def _finish(self, frames: Tensor) -> Tensor:
        """Transform [T, 3, H, W] and put channels before time."""
        if self.transform is not None:
            assert not isinstance(self.transform, Travelling)
            frames = self.transform(frames)
        return frames.transpose(0, 1).contiguous()

    def collate(self, samples: Sequence[dict[str, Any]], join: Join = torch.cat) -> dict[str, Any]:
        """`collate`, also of frames that travel and are of different sizes."""
        if isinstance(self.transform, Travelling) and not self.transform.coded:
            samples = self.transform.of_one_size(samples)
        return collate(samples, join)


def _channels_first(pictures: np.ndarray, rows: np.ndarray) -> Tensor:
    """Some of the pictures [n, H, W, 3], or all of them where they lie, as [T, 3, H, W]."""
    chosen = pictures if np.array_equal(rows, np.arange(len(pictures))) else pictures[rows]
    # In memory channels stay last, which is what PyTorch resizes fastest.
    return torch.from_numpy(chosen).permute(0, 3, 1, 2)


def _among_stored(stride: int, stored: int) -> int:
    """The distance of sampled frames among those that are stored."""
    if stride % stored:
        raise InputError(
            f"every {stored} frames one is stored, which gives no frames at a distance of data.stride={stride}: make "
            f"shards of all frames, or set data.stride to a multiple of {stored}"
        )
    return stride // stored


def collate(samples: Sequence[dict[str, Any]], join: Join = torch.cat) -> dict[str, Any]:
    """Stack samples to a batch, the R samples of a clip one after the other.

    Args:
        samples: of a data set.
        join: puts frames together.

    Returns:
        frames uint8 [B * R, 3, T, H, W], or as they travel; label and index int64 [B * R]; mask, program and pictures
        [B * R, ...] and lengths where samples have them, pictures counted through the batch; skipped, int64
        scalar: how many samples are of another clip than was asked for, as that is broken; broken, of all samples,
        where there are any.

    Raises:
        ClipError: frames of different sizes.
    """
    coded = "pictures" in samples[0]
    sizes = {tuple(sample["frames"].shape[-2:]) for sample in samples}
    if len(sizes) > 1 and not coded:
        raise ClipError(f"frames of sizes {sorted(sizes)} cannot form a batch; use a transform that resizes them")
    repeats = len(samples[0]["pictures" if coded else "frames"])
    batch = {
        "frames": join([sample["frames"] for sample in samples]),
        "skipped": torch.tensor(sum(sample["skipped"] > 0 for sample in samples)),
    }
    if broken := {index: why for sample in samples for index, why in sample.get("broken", {}).items()}:
        batch["broken"] = broken
    for name in ("label", "index"):
        batch[name] = torch.tensor([sample[name] for sample in samples]).repeat_interleave(repeats)
    for name in ("mask", "program"):
        if name in samples[0]:
            batch[name] = torch.cat([sample[name] for sample in samples])
    if coded:
        counts = [len(sample["lengths"]) for sample in samples]
        before = itertools.accumulate(counts[:-1], initial=0)
        batch["lengths"] = torch.cat([sample["lengths"] for sample in samples])
        batch["pictures"] = torch.cat([s["pictures"] + first for s, first in zip(samples, before, strict=True)])
    return batch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's global CPU generator start from `seed`, and put it back on leaving."""
    state = torch.get_rng_state()
    # Not torch.manual_seed, which would also reset every GPU's generator.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
