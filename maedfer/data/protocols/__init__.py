"""Evaluation protocols of public data sets: which clip is in which fold, and its label.

One module a data set holds all that is known of it, as its `PROTOCOL`; its name is what commands and functions take,
and its recipe's. A module that is put here is found: `PROTOCOLS` is made from what the folder holds. Labels count from
0 in the order of the class names, and paths are relative to the data set's folder.
"""

from __future__ import annotations

import os
import pkgutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from maedfer._values import expand_home
from maedfer.data.annotations import write_annotations
from maedfer.data.protocols._compare import compare_counts
from maedfer.data.protocols._record import DatasetProtocol, Fold, odd_subjects, paths_below, recording_name
from maedfer.errors import InputError, unknown

__all__ = [
    "PROTOCOLS",
    "DatasetProtocol",
    "Fold",
    "compare_counts",
    "find_protocol",
    "odd_subjects",
    "paths_below",
    "paths_of",
    "recording_name",
    "write_folds",
    "write_protocol",
]

PROTOCOLS: dict[str, DatasetProtocol] = {
    module.name: import_module(f"{__name__}.{module.name}").PROTOCOL
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
}


def find_protocol(dataset: str) -> DatasetProtocol:
    """Look a data set up by name.

    Raises:
        InputError: unknown name; tells the nearest.
    """
    if dataset not in PROTOCOLS:
        raise unknown("data set", dataset, PROTOCOLS)
    return PROTOCOLS[dataset]


def write_protocol(dataset: str, root: str | Path, out: str | Path) -> list[Path]:
    """Write the annotation files of a data set.

    Args:
        dataset: a key of `PROTOCOLS`.
        root: the data set's folder; give it as `data.root` when using the files.
        out: as in `write_folds`.

    Returns:
        The folders of the folds.

    Raises:
        InputError: unknown data set; and as `DatasetProtocol.folds_in` and `write_folds`.
    """
    protocol = find_protocol(dataset)
    folds = protocol.folds_in(root)
    return write_folds(folds, protocol.classes, out, protocol.subjects_of(paths_of(folds)))


def paths_of(folds: Sequence[Fold]) -> list[str]:
    """The paths of all clips, each once."""
    return list(dict.fromkeys(path for fold in folds for rows in fold for path, _ in rows))


def write_folds(
    folds: Sequence[Fold], classes: Sequence[str], out: str | Path, subjects: Mapping[str, str] | None = None
) -> list[Path]:
    """Write the annotation files of folds: all of them, or on an error none.

    Args:
        folds: what to write.
        classes: names in label order.
        out: folder for `fold_1/train.csv`, `fold_1/test.csv`, ... and `classes.txt`. Other files in it stay, earlier
            ones of the same names are replaced.
        subjects: who is in a clip, by its path, as far as it is known; the lists say it then.

    Returns:
        The folders of the folds.

    Raises:
        InputError: `out` holds lists of other classes, or cannot be written to.
    """
    out = Path(expand_home(str(out)))
    names = "\n".join(classes) + "\n"
    earlier = out / "classes.txt"
    if os.path.isfile(earlier) and earlier.read_bytes() != names.encode():
        raise InputError(f"{out} holds lists of a data set with other classes: choose another folder")
    folders = [out / f"fold_{number}" for number in range(1, len(folds) + 1)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            # Every file is complete before the first one is moved to its place.
            staged = Path(name)
            for folder, fold in zip(folders, folds, strict=True):
                write_annotations(staged / folder.name / "train.csv", fold.train, subjects)
                write_annotations(staged / folder.name / "test.csv", fold.test, subjects)
            (staged / earlier.name).write_text(names, encoding="utf-8")
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(path for path in staged.rglob("*") if path.is_file()):
                os.replace(file, out / file.relative_to(staged))
    except OSError as error:
        raise InputError(f"cannot write lists to {out}: {error.strerror or error}") from error
    return folders
