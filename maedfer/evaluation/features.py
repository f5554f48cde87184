"""Features of clips: what an encoder makes of each of them, as a table with names."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maedfer._files import atomic_path
from maedfer.errors import InputError
from maedfer.evaluation.predictions import Skipped, write_skipped, write_table
from maedfer.evaluation.replay import Passes
from maedfer.evaluation.score import check_rows, run_over_clips
from maedfer.models import MAEDFER, LGIFormer, load_pretrained

# What `write_features` writes, by the end of the file's name.
FORMATS = (".npz", ".csv")


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of clips.

    Args:
        names: of the clips, n of them.
        labels: int64 [n], -1 where there is none.
        vectors: float32 [n, C], the mean over temporal views; or [n, views, C].
        skipped: clips of the list that could not be read, and are in none of the above.
        about: where they come from: plain values that JSON can hold.
    """

    names: list[str]
    labels: np.ndarray
    vectors: np.ndarray
    skipped: tuple[Skipped, ...] = ()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def feature_extractor(model: LGIFormer | MAEDFER) -> LGIFormer:
    """A model whose `forward_features` are the features of a clip.

    A classifier is that itself. The encoder of an autoencoder becomes the classifier that fine-tuning starts from: the
    mean of its representative tokens (of all tokens where it has none) through a LayerNorm that nothing has trained.
    """
    if isinstance(model, LGIFormer):
        return model
    extractor = LGIFormer(dataclasses.replace(model.config.encoder, num_classes=0, drop_path=0.0))
    load_pretrained(extractor, model)
    extractor.clip_settings = model.clip_settings
    return extractor.to(next(model.parameters()).device).eval()


@torch.inference_mode()
def extract_features(
    model: LGIFormer | MAEDFER,
    batches: Iterable[Mapping[str, Any]],
    *,
    names: Sequence[str],
    labels: Sequence[int] | None = None,
    views: int = 1,
    per_view: bool = False,
    device: torch.device | str = "cpu",
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    replay: bool = False,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: Callable[[int], None] | None = None,
) -> Features:
    """Features of every clip, each computed once over all processes.

    Args:
        model: pre-trained or fine-tuned, on the device; see `feature_extractor` for what its features are.
        batches, views, device, autocast, replay, gather, progress: as in `maedfer.evaluation.predict`.
        names, labels: of all clips; without labels, all are -1.
        per_view: keep the features of each view instead of their mean.

    Raises:
        InputError: weights or features are not finite, or no clip could be read.
        RuntimeError: the batches did not hold every clip once.
    """
    extractor = feature_extractor(model)
    labels = [-1] * len(names) if labels is None else labels

    def run(frames: Tensor) -> tuple[Tensor]:
        with autocast():
            vectors = extractor.forward_features(frames)
        vectors = vectors.float().unflatten(0, (-1, views))
        return (vectors if per_view else vectors.mean(1),)

    passes = Passes(run, device, replay)

    def encode(frames: Tensor, indices: list[int]) -> Iterator[np.ndarray]:
        (vectors,) = passes(frames)
        assert vectors is not None
        rows = vectors.cpu().numpy()
        check_rows(rows, [names[index] for index in indices], extractor, "features")
        return iter(rows)

    found, broken = run_over_clips(
        extractor, batches, encode, len(names), views=views, gather=gather, progress=progress
    )
    kept = sorted(found)
    return Features(
        names=[names[index] for index in kept],
        labels=np.asarray([labels[index] for index in kept], np.int64),
        vectors=np.stack([found[index] for index in kept]).astype(np.float32),
        skipped=tuple(Skipped(names[index], int(labels[index]), broken[index]) for index in sorted(broken)),
    )


def write_features(path: str | Path, features: Features) -> list[Path]:
    """Write features as a table, whole or not at all.

    `.npz`, for numpy: "names" [n], "labels" [n], "features" [n, C] or [n, views, C], "about" (JSON). `.csv`, for
    spreadsheets and R: name, label (empty where there is none), f0, f1, ..., with a column "view" where views are kept;
    what is in "about" goes to a `.json` beside it. Clips that were skipped go to `<name>.skipped.csv` beside it.

    Returns:
        The files that were written.

    Raises:
        InputError: the name has another end, or a file cannot be written.
    """
    path = Path(path)
    check_format(path)
    about = json.dumps(features.about, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    written = [path]
    if path.suffix == ".npz":
        # The file object keeps numpy from adding a suffix to the temporary name.
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                features=features.vectors,
                labels=features.labels,
                names=np.asarray(features.names),
                about=np.asarray(about),
            )
    else:
        write_table(path, *_table(features))
        written.append(path.with_suffix(".json"))
        with atomic_path(written[-1]) as temporary:
            temporary.write_text(about, encoding="utf-8", errors="backslashreplace")
    skipped = skipped_file(path)
    write_skipped(skipped, features.skipped)
    return [*written, skipped] if features.skipped else written


def check_format(path: Path) -> None:
    """Refuse a name of which the end says no kind of table.

    Raises:
        InputError: naming those there are.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{str(path)!r} must end in {' or '.join(FORMATS)}, which says what kind of table it is")


def skipped_file(path: Path) -> Path:
    """Where the clips are named that are not in a table of features."""
    return path.with_name(f"{path.stem}.skipped.csv")


def _table(features: Features) -> tuple[list[str], Iterator[list[object]]]:
    columns = [f"f{index}" for index in range(features.vectors.shape[-1])]
    per_view = features.vectors.ndim == 3

    def rows() -> Iterator[list[object]]:
        for name, label, vectors in zip(features.names, features.labels, features.vectors, strict=True):
            for view, vector in enumerate(vectors if per_view else vectors[None]):
                # Nine digits give the same float32 back.
                values = [f"{value:.9g}" for value in vector]
                yield [name, "" if label < 0 else int(label), *([view] if per_view else []), *values]

    return ["name", "label", *(["view"] if per_view else []), *columns], rows()
