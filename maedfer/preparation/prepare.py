"""A data set, prepared: looked at, cropped where need be, listed fold by fold, and told in words.

What can be looked at again is not taken for granted, what was done is not done again: the same call goes on where an
earlier one was ended, tries again what has changed, and writes the lists anew.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maedfer._files import atomic_path
from maedfer._progress import counted
from maedfer._values import expand_home
from maedfer.data.annotations import write_annotations
from maedfer.data.protocols import PROTOCOLS, Fold, write_folds
from maedfer.data.video.base import shown
from maedfer.errors import InputError, unknown
from maedfer.preparation.commands import PRETRAIN_LIST, VALIDATION_LIST, next_commands
from maedfer.preparation.cropping import CROPS, Cropping, crop_clips
from maedfer.preparation.describe import about_clips, about_copies, about_folds, about_quarantined
from maedfer.preparation.journal import LookJournal
from maedfer.preparation.look import MISSING, ClipLook, look_at_clip, look_at_clips, state_of
from maedfer.preparation.manifest import write_manifest
from maedfer.preparation.material import Material
from maedfer.preparation.options import SPLITTING, PrepareOptions
from maedfer.preparation.own import find_folder, find_list
from maedfer.preparation.published import find_published, find_voxceleb2

REPORT_FILE, QUARANTINE_FILE, CLASSES_FILE = "report.txt", "quarantine.csv", "classes.txt"
VOXCELEB2, FOLDER, LIST = "voxceleb2", "folder", "list"
# Clips that a dry run opens.
_SAMPLE = 64
# Takes what is being done and the share of it.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prepared:
    """What came of a data set.

    Args:
        title: its name.
        found: sentences on what is there.
        mind: sentences on what is not as it should be, and what to do.
        quarantined: clips that are left out, and why.
        clips: that are in the lists.
        commands: to type next, the last one being the training.
    """

    title: str
    found: tuple[str, ...]
    mind: tuple[str, ...]
    quarantined: Mapping[str, str]
    clips: int
    commands: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report."""
        lines = [self.title, *self.found]
        if self.mind:
            lines += ["", "Mind:", *(f"- {sentence}" for sentence in self.mind)]
        return "\n".join(lines) + "\n"


def datasets() -> list[str]:
    """Names of all that can be prepared."""
    return sorted([*PROTOCOLS, VOXCELEB2, FOLDER, LIST])


def prepare_dataset(
    dataset: str,
    root: str | Path | None,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = lambda what, share: None,
) -> Prepared:
    """Prepare a data set.

    Results: `report.txt`, `manifest.json`, `quarantine.csv` (clips that are left out, and why), `classes.txt`,
    `fold_1/train.csv`, `fold_1/test.csv`, ... or `pretrain.csv`, `crops/` where faces are cut out, and `looks.jsonl`,
    by which an ended run is gone on with.

    Args:
        dataset: one of `datasets()`.
        root: its folder; of `list`, the folder that paths start from (None = the list's own).
        out: folder of results; made if need be.
        options: see there.
        dry_run: write nothing, and look at some of the clips only.
        progress: takes what is being done and the share of it that is done, now and then.

    Raises:
        InputError: the data set is not there or not as it must be, `out` holds something else, or nothing is left.
        MissingDependencyError: faces are to be found, and what that needs is not installed.
    """
    options = options or PrepareOptions()
    if dataset not in datasets():
        raise unknown("data set", dataset, datasets())
    _check_options(dataset, options)
    out = Path(expand_home(str(out)))
    if root is None and dataset != LIST:
        raise InputError("root must be given: the folder that the data set is in")
    if root is None and options.list_file is not None:
        root = Path(options.list_file).parent
    root = Path(expand_home(str(root or ".")))
    real, place = os.path.realpath(root), os.path.realpath(out)
    if dataset != LIST and f"{place}/".startswith(f"{real}/"):
        raise InputError(f"{shown(out)} is in the folder of the data set: choose one for results that is elsewhere")
    material = _find(dataset, root, options)
    if not any(os.path.lexists(root / path) for path in material.paths):
        raise InputError(_nothing_left(root, dict.fromkeys(material.paths, MISSING)))
    cropping = Cropping(material, options)
    if dry_run:
        return _dry_run(material, root, out, options, cropping)
    with LookJournal(out, {"dataset": dataset, "check": options.check, "digests": options.digests}) as journal:
        looks = _look(material.paths, root, journal, options, progress)
        quarantined = {look.path: look.problem for look in looks if look.problem}
        sound = [look for look in looks if not look.problem]
        found, mind = [f"{material.layout}.", *material.found], list(material.mind)
        if not sound:
            raise InputError(_nothing_left(root, quarantined))
        for told, new in zip((found, mind), about_clips(sound, material), strict=True):
            told += new
        mind += about_copies(sound, material.folds)
        chosen, told_found, told_mind = cropping.choose(root, sound)
        found += told_found
        mind += told_mind
        crops: dict[str, str] = {}
        if chosen:
            crops, failed, told_mind = crop_clips(root, chosen, out, options, lambda share: progress("cropping", share))
            quarantined |= failed
            mind += told_mind
            found.append(f"Faces were cut out of {counted(len(crops), 'clip')}, into {CROPS}/.")
            if len(failed) == len(sound):
                raise InputError(_nothing_left(root, quarantined))
        mind += about_quarantined(root, material, quarantined, QUARANTINE_FILE)
        start = out / CROPS if crops else root
        left = _left(material, quarantined, lambda path: crops.get(path) or (_absolute(root, path) if crops else path))
        _check_parts(left, quarantined)
        found += about_folds(left.folds, left.classes, len(left.validation))
        median = float(sorted(look.frames for look in sound)[len(sound) // 2])
        commands = next_commands(left, start, out, median, options.shard)
        clips = len(left.paths)
        prepared = Prepared(material.title, tuple(found), tuple(mind), quarantined, clips, tuple(commands))
        files = _write(out, left, prepared)
        head = {"dataset": dataset, "title": material.title, "classes": list(material.classes), "clips_listed": clips}
        by_file = {f"{CROPS}/{file}": path for path, file in crops.items()}
        write_manifest(out, root, head, options, looks, quarantined, files, by_file)
    return prepared


def _find(dataset: str, root: Path, options: PrepareOptions) -> Material:
    if dataset == FOLDER:
        return find_folder(root, options)
    if dataset == LIST:
        return find_list(root, options)
    return find_voxceleb2(root) if dataset == VOXCELEB2 else find_published(dataset, root)


def _check_options(dataset: str, options: PrepareOptions) -> None:
    """Refuse options that would do nothing."""
    usual = PrepareOptions()
    own = {name: (FOLDER, LIST) for name in ("classes", *SPLITTING)}
    for name, taken in {"list_file": (LIST,), "unlabelled": (FOLDER,), **own}.items():
        if dataset not in taken and getattr(options, name) != getattr(usual, name):
            shown_name = "list" if name == "list_file" else name
            why = f": the parts of {dataset} are given" if name in own else f", not for {dataset}"
            raise InputError(f"{shown_name} is for {' and '.join(taken)}{why}")
    if dataset == LIST and options.list_file is None:
        raise InputError("list must be given: the annotation file of the clips")
    if options.folds > 1 and options.test != usual.test:
        raise InputError("test is the share of one split; where there are several folds, each is tested once")


def _look(
    paths: Sequence[str], root: Path, journal: LookJournal, options: PrepareOptions, progress: Progress
) -> list[ClipLook]:
    """What was found of each clip, by this run or an earlier one."""
    known = journal.looks
    # What was wrong may have been the fault of a drive.
    waiting = [
        path for path in paths if path not in known or known[path].problem or known[path].state != state_of(root / path)
    ]
    done = len(paths) - len(waiting)
    progress("looking at clips", done / len(paths))
    for looks in look_at_clips(
        root, waiting, workers=options.workers, every=options.check == "all", digests=options.digests
    ):
        journal.add(looks)
        done += len(looks)
        progress("looking at clips", done / len(paths))
    return [known[path] for path in paths]


def _nothing_left(root: Path, quarantined: Mapping[str, str]) -> str:
    path, reason = next(iter(quarantined.items()))
    return f"none of {counted(len(quarantined), 'clip')} can be used, the first is {shown(root / path)}: {reason}"


def _absolute(root: Path, path: str) -> str:
    return os.path.abspath(root / path)


def _left(material: Material, quarantined: Mapping[str, str], place: Callable[[str], str]) -> Material:
    """The data set without the clips that are left out, paths being those that lists have."""

    def rows(part: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        return [(place(path), label) for path, label in part if path not in quarantined]

    return Material(
        name=material.name,
        title=material.title,
        recipe=material.recipe,
        kind=material.kind,
        layout=material.layout,
        classes=material.classes,
        folds=[Fold(rows(fold.train), rows(fold.test)) for fold in material.folds],
        validation=rows(material.validation),
        unlabelled=[place(path) for path in material.unlabelled if path not in quarantined],
        subjects={place(path): who for path, who in material.subjects.items() if path not in quarantined},
        published=material.published,
    )


def _check_parts(left: Material, quarantined: Mapping[str, str]) -> None:
    for number, fold in enumerate(left.folds, 1):
        for part, rows in (("training", fold.train), ("test", fold.test)):
            if not rows:
                raise InputError(
                    f"no clip is left for {part} in fold {number}, as {counted(len(quarantined), 'clip')} cannot be "
                    f"used, the first {shown(next(iter(quarantined), ''))!r}: {next(iter(quarantined.values()), '')}"
                )


def _write(out: Path, left: Material, prepared: Prepared) -> list[str]:
    """Write lists and report; gives the names of all but the report, which speaks of this machine's folders."""
    files: list[str] = []
    # Those of a run with other choices; the folder is known to hold nothing else.
    for stale in (*out.glob("fold_*/t*.csv"), *(out / name for name in (CLASSES_FILE, VALIDATION_LIST, PRETRAIN_LIST))):
        stale.unlink(missing_ok=True)
    folders: list[Path] = []
    if left.folds:
        folders = write_folds(left.folds, left.classes, out, left.subjects)
        files += [f"{folder.name}/{part}.csv" for folder in folders for part in ("train", "test")]
        files.append(CLASSES_FILE)
        if left.validation:
            write_annotations(out / VALIDATION_LIST, left.validation, left.subjects)
            files.append(VALIDATION_LIST)
    else:
        write_annotations(out / PRETRAIN_LIST, [(path, None) for path in sorted(left.unlabelled)])
        files.append(PRETRAIN_LIST)
    for folder in out.glob("fold_*"):
        if folder not in folders and not any(folder.iterdir()):
            folder.rmdir()
    if prepared.quarantined:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([("path", "reason"), *sorted(prepared.quarantined.items())])
        _write_text(out / QUARANTINE_FILE, table.getvalue())
        files.append(QUARANTINE_FILE)
    else:
        (out / QUARANTINE_FILE).unlink(missing_ok=True)
    commands = "".join(f"  {command}\n" for command in prepared.commands)
    _write_text(out / REPORT_FILE, f"{prepared.text}\nNext:\n{commands}")
    return files


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def _dry_run(material: Material, root: Path, out: Path, options: PrepareOptions, cropping: Cropping) -> Prepared:
    """Say what there is to do, after a look at some of the clips."""
    paths = material.paths
    missing = {path: MISSING for path in paths if not os.path.lexists(root / path)}
    there = [path for path in paths if path not in missing]
    count = min(_SAMPLE, len(there))
    sample = [there[(2 * number + 1) * len(there) // (2 * count)] for number in range(count)]
    looks = [look_at_clip(root, path, digests=False) for path in sample]
    broken = {look.path: look.problem for look in looks if look.problem}
    sound = [look for look in looks if not look.problem]
    quarantined = {**missing, **broken}
    found, mind = [f"{material.layout}.", *material.found], list(material.mind)
    found.append(f"{counted(len(looks), 'clip')} of {len(paths):,} were opened; nothing is written.")
    if not sound:
        raise InputError(_nothing_left(root, quarantined))
    for told, new in zip((found, mind), about_clips(sound, material), strict=True):
        told += new
    chosen, told_found, told_mind = cropping.choose(root, sound)
    found += told_found
    mind += [*told_mind, *about_quarantined(root, material, quarantined, QUARANTINE_FILE)]
    if chosen:
        found.append(f"Faces would be cut out, into {shown(out / CROPS)}.")
    left = _left(material, quarantined, lambda path: path)
    found += about_folds(left.folds, left.classes, len(left.validation))
    median = float(sorted(look.frames for look in sound)[len(sound) // 2])
    commands = next_commands(left, out / CROPS if chosen else root, out, median, options.shard)
    return Prepared(material.title, tuple(found), tuple(mind), quarantined, len(left.paths), tuple(commands))
