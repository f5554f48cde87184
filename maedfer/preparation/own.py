"""One's own clips: a folder with a class per folder in it, or an annotation file."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from maedfer._progress import counted
from maedfer.data.annotations import Clip, in_lists, read_annotations
from maedfer.data.columns import existing, read_columns
from maedfer.data.inputs import find_inputs
from maedfer.data.labels import LabelReader
from maedfer.data.list_text import column_name, read_fields
from maedfer.data.protocols import Fold
from maedfer.data.subjects import SubjectPattern
from maedfer.data.video.base import shown
from maedfer.errors import InputError, some
from maedfer.preparation.material import Material
from maedfer.preparation.options import SPLITTING, PrepareOptions
from maedfer.preparation.split import split_clips

_TRAIN, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}(?:\.0*)?")
_NUMBERED = "class_"
# More classes than labels of expressions have; a number that is larger is that of a clip, a frame or a millisecond.
_MOST_CLASSES = 1000


def find_folder(root: Path, options: PrepareOptions) -> Material:
    """Find clips that are sorted into a folder a class, or one's own unlabelled clips.

    Folders `train`, `test` and, if need be, `val` with the classes' folders in each are taken as the split that they
    are.

    Raises:
        InputError: there are no such folders, a class has no clips, or the clips cannot be divided.
    """
    if not root.is_dir():
        raise InputError(f"{shown(root)}: no such folder; give the one that holds the clips")
    mind: list[str] = []
    if options.unlabelled:
        _refuse_splitting(options, "they are for pre-training, and not divided")
        paths = _clips(root, root, mind)
        return _material("folder", f"{counted(len(paths), 'clip')} in {shown(root)}", mind=mind, unlabelled=paths)
    folders = _folders(root)
    given = {role: next((name for name in folders if name.casefold() in names), None) for role, names in _ROLES.items()}
    if given["train"] and given["test"] and set(folders) <= set(given.values()):
        return _given_split(root, given, options, mind)
    if not folders:
        raise InputError(
            f"{shown(root)}: no folders are in it, of which each is to hold the clips of a class; sort the clips so, "
            "give a list of them (maedfer prepare list), or --unlabelled"
        )
    names, rows = _by_class(root, folders, mind)
    classes = _class_names(names, options)
    who = _by_pattern(rows, options)
    folds = _divide(rows, who, options, mind, classes)
    layout = f"{counted(len(rows), 'clip')} of {len(classes)} classes, a folder each, in {shown(root)}"
    return _material("folder", layout, classes=classes, folds=folds, subjects=_subjects(rows, who), mind=mind)


_ROLES = {"train": _TRAIN, "val": _VALIDATION, "test": _TEST}


def find_list(root: Path | None, options: PrepareOptions) -> Material:
    """Find the clips of an annotation file, with labels that are numbers, names or none.

    Raises:
        InputError: the file cannot be read, or the clips cannot be divided.
    """
    if options.list_file is None:
        raise InputError("list must be given: the annotation file of the clips")
    file = Path(options.list_file)
    base = file.parent if root is None else root
    if not base.is_dir():
        raise InputError(f"{shown(base)}: no such folder; give the one that paths of the list start from")
    # Where classes are named there are labels.
    columns = read_columns(file, base, LabelReader(options.classes, labelled=bool(options.classes)))
    texts = columns.labels
    mind: list[str] = []
    nothing = LabelReader().is_nothing
    if texts is None or all(nothing(text) or text.startswith("-") for text in texts):
        _refuse_splitting(options, "its clips have no labels, are for pre-training, and not divided")
        clips = _once(read_annotations(file, base, labelled=False), mind)
        _refuse_hidden_labels(file, base, clips)
        paths = [_place(clip, base) for clip in clips]
        layout = f"{counted(len(paths), 'clip')} without labels in {shown(file)}"
        return _material("list", layout, mind=mind, unlabelled=paths)
    # Lines without a label are refused when the list is read.
    classes, offset = _numbering(file, {text for text in texts if not nothing(text)}, options.classes)
    if len(classes) < 2:
        raise InputError(
            f"{shown(file)}: all clips are of one class, {shown(classes[0])}: there is nothing to tell apart"
        )
    if not options.classes and classes[0].startswith(_NUMBERED):
        mind.append(f"The classes have numbers for names: name them by --classes, from number {offset} on.")
    read = read_annotations(file, base, label_offset=offset, classes=classes)
    clips = _once(read, mind)
    rows = [(_place(clip, base), clip.label or 0) for clip in clips]
    who = _column(file, options.subject, clips) if options.subject is not None else None
    if who is None:
        who = _by_pattern(rows, options)
    # Who is in clips is told on, also where they are not divided by it.
    subjects = _subjects(rows, [clip.subject for clip in clips] if who is None else who)
    folds = _divide(rows, who, options, mind, classes)
    layout = f"{counted(len(rows), 'clip')} of {len(classes)} classes in {shown(file)}"
    return _material("list", layout, classes=classes, folds=folds, subjects=subjects, mind=mind)


def _numbering(file: Path, texts: set[str], classes: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Names of the classes in label order, and the number of the first one in the list."""
    numbers = [int(text.split(".")[0]) for text in texts if _WHOLE.fullmatch(text)]
    if classes:
        return classes, int(bool(numbers) and min(numbers) >= 1 and max(numbers) == len(classes))
    if len(numbers) < len(texts):
        return _check_names(sorted(texts)), 0
    if max(numbers) >= _MOST_CLASSES:
        raise InputError(
            f"{shown(file)}: label {max(numbers)} would be that of class {max(numbers)}, the most are {_MOST_CLASSES}: "
            "name the column of labels 'label' in the first line, or write names in place of numbers"
        )
    # Numbers are no good names: they could be mistaken for labels.
    offset = int(min(numbers) == 1)
    return tuple(f"{_NUMBERED}{number}" for number in range(offset, max(numbers) + 1)), offset


def _refuse_hidden_labels(file: Path, base: Path, clips: Sequence[Clip]) -> None:
    """Refuse lines whose last word, taken for a part of the path, is the name of a class."""
    words = clips[0].name.rsplit(None, 1)
    if len(words) == 2 and not os.path.exists(clips[0].path) and existing(base, words[0]):
        raise InputError(
            f"{clips[0].where}: {shown(clips[0].name)!r} is not there, but {shown(words[0])!r} is: name the classes by "
            f"--classes, or write 'path label' as the first line, if {shown(words[1])!r} is one"
        )


def _refuse_splitting(options: PrepareOptions, why: str) -> None:
    for name in SPLITTING:
        if getattr(options, name) != getattr(PrepareOptions(), name):
            raise InputError(f"{name} is for clips that are to be divided: {why}")


def _check_names(classes: Sequence[str]) -> tuple[str, ...]:
    for name in classes:
        if not in_lists(name) or not name.isprintable() or name != name.strip():
            raise InputError(
                f"class {shown(name)!r} has a name with line breaks, spaces around it or letters that are not UTF-8: "
                "rename it"
            )
    return tuple(classes)


def _material(
    name: str,
    layout: str,
    *,
    mind: list[str],
    classes: tuple[str, ...] = (),
    folds: Sequence[Fold] = (),
    validation: Sequence[tuple[str, int]] = (),
    unlabelled: Sequence[str] = (),
    subjects: Mapping[str, str] | None = None,
) -> Material:
    return Material(
        name=name,
        title="Own clips",
        # The design of the recipe is that of the paper; what differs is said beside it.
        recipe="voxceleb2_pretrain" if unlabelled else "dfew",
        kind="own",
        layout=layout,
        classes=classes,
        folds=folds,
        validation=validation,
        unlabelled=unlabelled,
        subjects=subjects or {},
        mind=mind,
    )


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and entry.name[0] != "." and entry.name != "__MACOSX"
            )
    except OSError as error:
        raise InputError(f"{shown(root)} cannot be looked into: {error.strerror}") from None


def _clips(folder: Path, root: Path, mind: list[str]) -> list[str]:
    return [item.path.relative_to(root).as_posix() for item in find_inputs([folder], tell=mind.append)]


def _by_class(root: Path, folders: Sequence[str], mind: list[str]) -> tuple[list[str], list[tuple[str, int]]]:
    """Names of the classes, and clips with labels."""
    found: dict[str, list[str]] = {}
    for name in folders:
        try:
            found[name] = _clips(root / name, root, mind)
        except InputError as error:
            mind.append(f"{error}; it is no class.")
    if found and all(paths == [name] for name, paths in found.items()):
        raise InputError(
            f"{shown(root)}: its folders ({shown(some(list(found)))}) are clips, folders of frames, and not classes: "
            "sort them into a folder a class, give a list of them (maedfer prepare list), or --unlabelled"
        )
    if len(found) < 2:
        raise InputError(
            f"{shown(root)}: {'only one' if found else 'none'} of its folders holds clips, and every class is to have "
            "one; give the folder of which the folders are classes, or --unlabelled"
        )
    names = list(found)
    return names, [(path, label) for label, name in enumerate(names) for path in found[name]]


def _class_names(names: Sequence[str], options: PrepareOptions) -> tuple[str, ...]:
    if options.classes and options.classes != tuple(names):
        raise InputError(
            f"classes is for lists: those of a folder have the names of the folders in it, {shown(some(names, 8))}"
        )
    return _check_names(names)


def _given_split(root: Path, given: dict[str, str | None], options: PrepareOptions, mind: list[str]) -> Material:
    """A folder of a folder a part, with a folder a class in each."""
    _refuse_splitting(options, "its folders are parts already")
    parts: dict[str, list[tuple[str, str]]] = {}
    for role, name in given.items():
        if name is not None:
            names, rows = _by_class(root / name, _folders(root / name), mind)
            parts[role] = [(f"{name}/{path}", names[label]) for path, label in rows]
    names = sorted({label for rows in parts.values() for _, label in rows})
    classes = _class_names(names, options)
    lacking = sorted({*names} - {label for _, label in parts["train"]})
    if lacking:
        raise InputError(f"{shown(root / str(given['train']))}: there is no class {shown(lacking[0])!r}, as elsewhere")
    labelled = {role: [(path, names.index(label)) for path, label in rows] for role, rows in parts.items()}
    clips = sum(map(len, labelled.values()))
    folders = ", ".join(str(name) for name in given.values() if name)
    return _material(
        "folder",
        f"{counted(clips, 'clip')} of {len(classes)} classes in folders {folders} of {shown(root)}",
        classes=classes,
        folds=[Fold(labelled["train"], labelled["test"])],
        validation=labelled.get("val", ()),
        mind=mind,
    )


def _divide(
    rows: list[tuple[str, int]],
    who: Sequence[str] | None,
    options: PrepareOptions,
    mind: list[str],
    classes: Sequence[str],
) -> list[Fold]:
    if who is None:
        mind.append(
            "Clips are divided one by one: where a person is in several of them, scores tell who is known rather than "
            "what is felt. Say who is who by --subject."
        )
    counts = Counter(label for _, label in rows)
    rare = [name for label, name in enumerate(classes) if counts[label] < max(2, options.folds)]
    if rare:
        mind.append(f"Too few clips to be in every part: {shown(some(rare, 5))}.")
    return split_clips(rows, who, folds=options.folds, test=options.test, seed=options.seed)


def _by_pattern(rows: Sequence[tuple[str, int]], options: PrepareOptions) -> list[str] | None:
    """Who is in each clip, by a pattern; None where none is given."""
    if options.subject is None:
        return None
    find = SubjectPattern(options.subject, "subject")
    return [find(path) for path, _ in rows]


def _subjects(rows: Sequence[tuple[str, int]], who: Sequence[str] | None) -> dict[str, str]:
    """Who is in clips, by path."""
    return {} if who is None else {path: name for (path, _), name in zip(rows, who, strict=True) if name}


def _column(file: Path, name: str, clips: Sequence[Clip]) -> list[str] | None:
    """Who is in each clip, by a column of the list; None where there is no such column, and the name is a pattern."""
    _, lines = read_fields(file, "the annotation file lists no clips")
    header = [column_name(field) for field in lines[0][1]]
    if column_name(name) not in header:
        if re.fullmatch(r"\w+", name):
            raise InputError(f"{shown(file)}: no column is named {name!r} in its first line; nor is it a pattern")
        return None
    place = header.index(column_name(name))
    known = {number: fields[place].strip() for number, fields in lines[1:] if place < len(fields)}
    for clip in clips:
        if not known.get(clip.line):
            raise InputError(f"{clip.where}: there is no {name}: every clip must have one")
    return [known[clip.line] for clip in clips]


def _once(clips: Sequence[Clip], mind: list[str]) -> list[Clip]:
    first: dict[str, Clip] = {}
    for clip in clips:
        first.setdefault(os.path.normpath(clip.path), clip)
    if len(first) < len(clips):
        mind.append(f"{counted(len(clips) - len(first), 'line')} of the list name clips that others have named before.")
    return list(first.values())


def _place(clip: Clip, root: Path) -> str:
    """A clip's path relative to the folder that paths start from; absolute where it lies elsewhere."""
    path, start = os.path.abspath(clip.path), os.path.abspath(root)
    return os.path.relpath(path, start) if path.startswith(start.rstrip("/") + "/") else path
