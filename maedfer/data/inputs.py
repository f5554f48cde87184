"""What a command is to work on: files, folders that are searched, and lists, as clips with a name of their own each."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from maedfer._progress import counted
from maedfer.data.annotations import VIDEO_SUFFIXES, clip_key, read_annotations
from maedfer.data.video.base import PICTURE_SUFFIXES, look_at, shown
from maedfer.errors import InputError

LIST_SUFFIXES = frozenset((".csv", ".txt", ".tsv"))
# What a search of folders takes for a video: what data sets come in, and what cameras and earlier times made.
_VIDEOS = frozenset(
    (*VIDEO_SUFFIXES, *".m4v .mpeg .wmv .asf .3gp .3g2 .ts .mts .m2ts .vob .ogv .mxf .divx .f4v".split())
)


@dataclass(frozen=True)
class Input:
    """A clip that a command works on.

    Args:
        path: video file or folder of frames, beginning as it was given.
        name: where what becomes of it goes, relative to a folder of results and without a suffix: its place below the
            folder that was searched, its place in a list, or its file's name. No two inputs of one command have one
            name, or one that is a folder of the other's, so that a suffix can be put behind each.
    """

    path: Path
    name: str


def find_inputs(
    items: Sequence[str | Path],
    *,
    root: str | Path | None = None,
    classes: Sequence[str] = (),
    reserved: Collection[str] = (),
    leave_out: str | Path | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> list[Input]:
    """Find the clips that are meant by the items of a command line.

    A file that ends in .csv, .txt or .tsv is a list of clips as `maedfer.data.read_annotations` reads it, labels or
    not; any other file is a video. A folder is a clip if it holds pictures, no videos, and no clips in folders below
    it; else it is searched for files that are named as videos are and for such folders of pictures. Links to folders
    are followed; hidden files, and what macOS puts beside, are left out. A clip that is found twice counts once.

    Args:
        items: files, folders, lists.
        root: folder that the relative paths of lists start from; None = the list's own folder.
        classes: names of the classes in label order, for lists that name them.
        reserved: names that no input may have, as files of results are called so.
        leave_out: folder that is passed over where it lies below one that is searched, as results go there.
        tell: takes a sentence on what was left out.

    Returns:
        The clips: items in their order, lists in their order, what is in folders by name.

    Raises:
        InputError: an item is not there or neither file nor folder, a folder or all items hold no clip, a list cannot
            be read, or none of its clips exists.
    """
    found: dict[str, tuple[Path, PurePosixPath]] = {}
    passed = None if leave_out is None else os.path.realpath(leave_out)
    for item in items:
        if item == "":
            # Of which a path would make the folder that one is in.
            raise InputError("an item is an empty name: give video files, folders or lists of them")
        path = Path(item)
        look_at(path)
        if path.is_dir():
            clips = _of_folder(path, passed, tell)
        elif path.suffix.lower() in LIST_SUFFIXES:
            clips = _of_list(path, root, classes)
        else:
            clips = iter([(path, PurePosixPath(path.name))])
        for clip, place in clips:
            found.setdefault(clip_key(clip), (clip, place))
    if not found:
        raise InputError("there is nothing to do: give video files, folders or lists of them")
    return name_inputs(list(found.values()), reserved)


def name_inputs(clips: Sequence[tuple[Path, PurePosixPath]], reserved: Collection[str] = ()) -> list[Input]:
    """Give clips the names that `find_inputs` gives.

    Args:
        clips: path of each, and its place below what it was found in.
        reserved: names that none may have.
    """
    names = _names([place for _, place in clips], reserved)
    if names is None:
        # Several items have clips of one name: the folders that tell them apart come into the names.
        paths = [Path(clip_key(path)) for path, _ in clips]
        common = os.path.commonpath([path.parent for path in paths])
        places = [PurePosixPath(path.relative_to(common).as_posix()) for path in paths]
        names = _names(places, reserved) or _beside_folders(places)
    return [Input(path, name) for (path, _), name in zip(clips, names, strict=True)]


def _of_folder(root: Path, passed: str | None, tell: Callable[[str], None]) -> Iterator[tuple[Path, PurePosixPath]]:
    found = sorted(_search(root, passed, tell, set()))
    if not found:
        raise InputError(f"{shown(root)}: neither a video nor pictures are in the folder or in those below it")
    for path in found:
        # A folder that is a clip itself is called by its name, which "." does not tell.
        place = path.relative_to(root).as_posix() if path != root else os.path.basename(os.path.abspath(root))
        yield path, PurePosixPath(place or "frames")


def _search(folder: Path, passed: str | None, tell: Callable[[str], None], seen: set[str]) -> list[Path]:
    """Clips in a folder and below it; the folder itself where it is one."""
    real = os.path.realpath(folder)
    first = not seen
    if real in seen or (real == passed and not first):
        return []
    seen.add(real)
    try:
        with os.scandir(folder) as entries:
            inside = sorted((entry.name, _is_folder(entry)) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        sentence = f"{shown(folder)} cannot be looked into: {error.strerror}"
        if first:
            raise InputError(sentence) from None
        tell(f"{sentence}; what may be in it is left out.")
        return []
    suffixes = {name: os.path.splitext(name)[1].lower() for name, is_folder in inside if not is_folder}
    clips = [folder / name for name, suffix in suffixes.items() if suffix in _VIDEOS]
    for name, is_folder in inside:
        if is_folder and name != "__MACOSX":
            clips += _search(folder / name, passed, tell, seen)
    pictures = sum(suffix in PICTURE_SUFFIXES for suffix in suffixes.values())
    if pictures and not clips:
        return [folder]
    if pictures:
        tell(f"{shown(folder)} has {counted(pictures, 'picture')} beside its clips, which are left out.")
    return clips


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads back to itself is no reason to pass over what is beside it.
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _of_list(file: Path, root: str | Path | None, classes: Sequence[str]) -> Iterator[tuple[Path, PurePosixPath]]:
    clips = read_annotations(file, root, classes=classes, labelled=False)
    if not any(os.path.exists(clip.path) for clip in clips):
        raise InputError(
            f"{shown(file)}: none of its {counted(len(clips), 'clip')} exists, the first as {shown(clips[0].path)}; "
            "give the folder that its paths start from, and the names of its classes where labels are names"
        )
    for clip in clips:
        place = PurePosixPath(os.path.normpath(clip.name.replace(os.sep, "/")))
        if place.is_absolute() or place.parts[:1] == ("..",):
            place = PurePosixPath(os.path.abspath(clip.path)).relative_to("/")
        if not place.parts:
            # The folder that paths start from.
            place = PurePosixPath(os.path.basename(os.path.abspath(clip.path)) or "frames")
        yield clip.path, place


def _names(places: Sequence[PurePosixPath], reserved: Collection[str]) -> list[str] | None:
    """A name for each place: without its suffix where that is not needed; None where two places are one."""
    bare = [place.with_suffix("") if place.suffix.lower() in _VIDEOS else place for place in places]
    counts = Counter(bare)
    above = {parent for place in places for parent in place.parents}
    names = [
        full if counts[short] > 1 or short in above or str(short) in reserved else short
        for short, full in zip(bare, places, strict=True)
    ]
    # Full names do where short ones do not, unless two items have clips of one name.
    chosen = next((some for some in (names, places) if _are_apart(some)), None)
    return None if chosen is None else [str(name) for name in chosen]


def _beside_folders(places: Sequence[PurePosixPath]) -> list[str]:
    """Names of clips of which one, a folder of frames, has another one in it."""
    folders = {parent for place in places for parent in place.parents}
    taken = {*folders, *places}
    names = []
    for place in places:
        name, number = place, 1
        while place in folders and name in taken:
            number += 1
            name = place.with_name(f"{place.name}_{number}")
        taken.add(name)
        names.append(str(name))
    return names


def _are_apart(names: Sequence[PurePosixPath]) -> bool:
    folders = {parent for name in names for parent in name.parents}
    return len(set(names)) == len(names) and folders.isdisjoint(names)
