"""Annotation files: one clip a line, `path label`, as the community and its spreadsheets write them.

`maedfer.data.columns` finds out where paths and labels are, `maedfer.data.labels` reads the labels. A path is a video
file or a folder of frames, relative to `root` or else to the annotation file's own folder.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maedfer._files import atomic_path
from maedfer._values import expand_home, is_address
from maedfer.data.column_names import LABELS, PATHS
from maedfer.data.columns import read_columns
from maedfer.data.labels import LabelReader
from maedfer.data.subjects import SubjectPattern
from maedfer.errors import InputError

# What videos are called, in the order of preference where a recording is there in several.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".mpg", ".flv")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# A name that reads back from `path label` whatever stands in the other lines.
_PLAIN = re.compile(r"(?!sep=)[^\s,;\"'#~\ufeff][^\s,;\"']*")
# Control characters, and half characters that stand for no byte of a name.
_NOT_IN_LISTS = re.compile(r"[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of an annotation file.

    Args:
        path: video file or folder of frames.
        label: class number from 0, or None.
        line: line number in the file, from 1.
        name: the path as the file gives it.
        source: the annotation file.
        digest: of its pictures, for a clip of a shard: its path is then no file.
        subject: who is in it; "" where that is not known.
    """

    path: Path
    label: int | None
    line: int
    name: str
    source: str = ""
    digest: str = ""
    subject: str = ""

    @property
    def where(self) -> str:
        """`file:line`, for error messages."""
        return f"{self.source or 'clip'}:{self.line}"


def read_annotations(
    file: str | Path,
    root: str | Path | None = None,
    num_classes: int | None = None,
    labelled: bool = True,
    label_offset: int = 0,
    frame_counts: bool | None = None,
    classes: Sequence[str] = (),
    subject: str = "",
) -> list[Clip]:
    """Read an annotation file; docs/data.md tells what is understood.

    Args:
        file: the annotation file.
        root: folder that relative paths start from; None or "" = the file's folder.
        num_classes: labels must be below it (after the offset); None = as many as there are `classes`, or no limit.
        labelled: whether every line must have a label; if not, labels are optional and negative ones mean "none".
        label_offset: the first class's number in the file (1 in DFEW); clips have labels from 0.
        frame_counts: whether lines without a header have a number of frames before the label; None = find out.
        classes: names of the classes in label order; labels may be these names.
        subject: pattern that finds who is in a clip in its name, see `SubjectPattern`; "" = what a column of the list
            says, such as `subject`.

    Raises:
        InputError: file missing or without clips, lines that may mean two things, line without label, label that is no
            whole number, no name or out of range, one clip with two labels, an address in place of a path, or a name
            that the pattern is not found in.
    """
    file = Path(expand_home(str(file)))
    base = Path(expand_home(str(root))) if root else file.parent
    reader = LabelReader(classes, num_classes, labelled, label_offset)
    find_subject = SubjectPattern(subject) if subject else None
    lines, names, texts, people = read_columns(file, base, reader, frame_counts)
    known: dict[str, int | None] = {}
    if texts is not None:
        try:
            reader.prepare(texts)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    source, clips = str(file), []
    for index, (line, name) in enumerate(zip(lines, names, strict=True)):
        try:
            if not name:
                raise InputError("the line has no path")
            label = None
            if texts is not None:
                text = texts[index]
                label = known[text] if text in known else known.setdefault(text, reader.read(text))
            odd = ":" in name or name[0] == "~" or "\\" in name
            who = find_subject(name) if find_subject is not None else people[index] if people is not None else ""
            clips.append(Clip(_odd_path(base, name) if odd else base / name, label, line, name, source, subject=who))
        except InputError as error:
            header = texts is not None and (texts[index].lower() in LABELS or (index == 0 and texts[0].isalpha()))
            hint = "; is it a header? One is known by columns 'path' and 'label', in the first line" if header else ""
            raise InputError(f"{file}:{line}: {error}{hint}") from None
    if labelled:
        _refuse_two_labels(clips)
    return clips


def write_annotations(
    file: str | Path, rows: Iterable[tuple[str, int | None]], subjects: Mapping[str, str] | None = None
) -> None:
    """Write a list that reads back as it is, making its folder if need be.

    The lines are `path label`, or only the path where the label is None; where a path has spaces, ends in digits alone
    or could be taken for something else, the list is a table `path,label` with quotes and a header. So it is where
    somebody's subject is known: `path,label,subject`.

    Args:
        file: to be written.
        rows: paths and labels.
        subjects: who is in a clip, by its path; those of other paths are not known.

    Raises:
        InputError: a path that no line can hold: an empty one, or one with line breaks or control characters; or a
            subject of that kind.
    """
    file, rows = Path(file), list(rows)
    for path, _ in rows:
        if not in_lists(path):
            raise InputError(f"{file}: path {path!r} cannot be in a list: empty, or with a line break or the like")
    who = [(subjects or {}).get(path, "") for path, _ in rows]
    for name in who:
        if name and not in_lists(name):
            raise InputError(f"{file}: subject {name!r} cannot be in a list: it has a line break or the like")
    plain = not any(who) and all(
        _PLAIN.fullmatch(path) and (label is not None or path.lower() not in PATHS) for path, label in rows
    )
    if plain and len({label is None for _, label in rows}) < 2:
        text = "".join(path + "\n" if label is None else f"{path} {label}\n" for path, label in rows)
    else:
        table = io.StringIO()
        writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        table_rows = [
            (path, "" if label is None else label, name) for (path, label), name in zip(rows, who, strict=True)
        ]
        columns = 3 if any(who) else 2
        writer.writerows(row[:columns] for row in [("path", "label", "subject"), *table_rows])
        text = table.getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Names that are not UTF-8 keep their bytes.
    with atomic_path(file) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def in_lists(path: str) -> bool:
    """Whether a line of a list can hold a path: one that is not empty, without line breaks and control characters."""
    return bool(path) and not _NOT_IN_LISTS.search(path)


def check_exists(clips: Iterable[Clip], show: int = 3) -> None:
    """Look for every clip on disk (its content is not read).

    Raises:
        InputError: some are missing; names how many, and the first few by file, line and path.
    """
    total, count, hint = 0, 0, ""
    shown: list[str] = []
    for clip in clips:
        total += 1
        try:
            os.stat(clip.path)
        except OSError as error:
            count += 1
            if len(shown) < show:
                # A name that is too long, or a folder that may not be looked into.
                why = "" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f" ({error.strerror})"
                shown.append(f"{clip.where} {clip.path}{why}")
                hint = hint or _hint(clip)
    if count:
        more = f" and {count - show} more" if count > show else ""
        raise InputError(
            f"{count} of {total} clips do not exist: {', '.join(shown)}{more}; "
            f"check the paths, or the folder they start from (data.root){hint}"
        )


def _odd_path(base: Path, name: str) -> Path:
    """The path of a name that means something to other programs."""
    if os.path.lexists(base / name):
        # FFmpeg takes what is before the colon of a relative name for a protocol.
        return Path(os.path.abspath(base / name)) if ":" in name else base / name
    if is_address(name):
        raise InputError(f"{name!r} is an address: download the clips, lists name files and folders")
    if _DRIVE.match(name):
        raise InputError(f"{name!r} is a path of Windows: write paths of this machine, with /")
    if "\\" in name and os.path.lexists(base / name.replace("\\", "/")):
        raise InputError(f"{name!r} is a path of Windows: write / in place of the backslashes")
    return base / os.path.expanduser(name)


def _refuse_two_labels(clips: list[Clip]) -> None:
    first: dict[str, Clip] = {}
    for clip in clips:
        other = first.setdefault(clip_key(clip.path), clip)
        if other.label != clip.label:
            raise InputError(
                f"{clip.where}: {clip.name!r} has another label than in line {other.line}: a clip has one label"
            )


def clip_key(path: Path) -> str:
    """What is the same for all ways to write a path, `a/../b` and `b`; links are not followed."""
    text = os.fspath(path)
    return text if text[:1] == "/" and "/.." not in text else os.path.abspath(text)


def _hint(clip: Clip) -> str:
    """What may be the matter with a path that is not there."""
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, clip.name)
        if other != clip.name and os.path.exists(clip.path.parent / Path(other).name):
            return (
                f"; on disk the letters of {clip.name!r} are composed otherwise ({form}): make the list from its names"
            )
    near = [str(clip.path) + suffix for suffix in VIDEO_SUFFIXES] + [str(clip.path.with_suffix(""))]
    found = next((path for path in near if path != str(clip.path) and os.path.exists(path)), None)
    if found is not None:
        return f"; there is {found}"
    if any("\udc80" <= letter <= "\udcff" for letter in clip.name):
        return "; the list is not in UTF-8: save it so if names have letters that are not English"
    if "\\" in clip.name:
        return "; paths have / and no backslashes"
    for folder in list(Path(clip.source).parents)[1:4]:
        if os.path.exists(folder / clip.name):
            return f"; it is there below {str(folder)!r}: set data.root={folder}"
    return ""
