"""The clips of public data sets, in whichever of the layouts that they have had."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from maedfer._progress import counted
from maedfer.data.annotations import VIDEO_SUFFIXES
from maedfer.data.protocols import Fold, compare_counts, find_protocol, paths_below, paths_of, recording_name
from maedfer.data.video.base import shown
from maedfer.errors import InputError, some
from maedfer.preparation.material import Kind, Material

_ARCHIVES = frozenset(".zip .tar .gz .tgz .bz2 .xz .rar .7z .001".split())


def find_published(name: str, root: Path) -> Material:
    """Find the clips of a data set with a public protocol.

    Args:
        name: a key of `maedfer.data.protocols.PROTOCOLS`.
        root: the folder that it was unpacked to.

    Raises:
        InputError: it is not there, or not one of its clips is.
    """
    protocol = find_protocol(name)
    mind: list[str] = []
    folds = protocol.folds_in(root, mind.append)
    mind_counts = compare_counts(protocol, folds)
    found = [mind_counts.pop(0)] if len(mind_counts) == 1 else []
    kind: Kind = "faces" if protocol.faces else "recordings"
    layout = _layout(root, folds)
    if protocol.faces:
        present = sum((root / path).is_dir() for path in paths_of(folds))
        if not present:
            folds = _recordings(root, folds, protocol.clip_parts, protocol.title)
            kind, layout = "recordings", _layout(root, folds)
            mind.append(
                f"The folders of faces that come with {protocol.title} are not here, and the faces are cut out of its "
                "recordings instead: scores on them cannot be compared with published ones. Unpack the faces for that."
            )
        sixteen = [place for place in ("", "Clip") for _ in root.joinpath(place).glob("*_16f")]
        if sixteen and present:
            found.append("The version of 16 frames a clip (*_16f) is here too and not used, as in the published code.")
    else:
        rest = _others(root, {*paths_of(folds)})
        if rest:
            found.append(rest)
    return Material(
        name=name,
        title=protocol.title,
        recipe=name,
        kind=kind,
        layout=layout,
        classes=protocol.classes,
        folds=folds,
        subjects=protocol.subjects_of(paths_of(folds)),
        found=found,
        mind=[*mind, *mind_counts],
        published=protocol.clips,
        frame_size=protocol.frame_size if kind == "faces" else None,
    )


def _layout(root: Path, folds: Sequence[Fold]) -> str:
    """Where the clips lie, and what they are."""
    paths = paths_of(folds)
    above = os.path.commonpath([os.path.dirname(path) for path in paths])
    files = sum(Path(path).suffix.lower() in VIDEO_SUFFIXES for path in paths)
    what = "folders of frames" if not files else "video files" if files == len(paths) else "files and folders of frames"
    return f"{counted(len(paths), 'clip')}, {what} in {shown(root / above)}"


def _recordings(root: Path, folds: Sequence[Fold], parts: int, title: str) -> list[Fold]:
    """The folds with recordings in place of folders of frames, which are not there."""
    places: dict[tuple[str, ...], str] = {}
    for path in paths_below(root):
        if Path(path).suffix.lower() in VIDEO_SUFFIXES:
            places.setdefault(_key(path, parts), path)
    wanted = {path: places.get(_key(path, parts)) for path in paths_of(folds)}
    if not any(wanted.values()):
        raise InputError(
            f"none of the {len(wanted):,} clips of {title} is there, the first as {shown(root / next(iter(wanted)))}: "
            + (_unpack(root) or "give the folder that it was unpacked to")
        )
    # Clips without a recording keep their path, and are missing.
    return [Fold(*([(wanted[path] or path, label) for path, label in rows] for rows in fold)) for fold in folds]


def _key(path: str, parts: int) -> tuple[str, ...]:
    """What a recording and its folder of frames have in common: 00012 and 12.mp4 are one clip."""
    pieces = list(PurePosixPath(path).parts[-parts:])
    pieces[-1] = recording_name(path).lstrip("0")
    return tuple(piece.casefold() for piece in pieces)


def _unpack(root: Path) -> str:
    """What to unpack, where there are archives."""
    places = [root, *(place for place in sorted(root.iterdir()) if place.is_dir())]
    archives = [
        file.relative_to(root).as_posix()
        for place in places
        for file in sorted(place.iterdir())
        if file.suffix.lower() in _ARCHIVES and file.is_file()
    ]
    return f"unpack {shown(some(archives))}" if archives else ""


def archives_hint(root: Path) -> str:
    """A sentence on archives below a data set's folder, for clips that are missing; nothing where there are none."""
    try:
        hint = _unpack(root)
    except OSError:
        return ""
    return f" They may be in archives: {hint}." if hint else ""


def _others(root: Path, used: set[str]) -> str:
    """A sentence on video files that the protocol has no use for."""
    rest = [path for path in paths_below(root) if Path(path).suffix.lower() in VIDEO_SUFFIXES and path not in used]
    if not rest:
        return ""
    return (
        f"{counted(len(rest), 'other video')} below the folder {'is' if len(rest) == 1 else 'are'} not of the protocol "
        f"and left out, the first as {shown(rest[0])}."
    )


# VoxCeleb2


# Where the speakers' folders may lie below the folder that is given, by the names that archives have.
_SPEAKERS = ("dev/mp4", "vox2_mp4/dev/mp4", "mp4", "dev", "")
_SPEAKER = re.compile(r"id[0-9]{5}")
VOXCELEB2_CLIPS, VOXCELEB2_SPEAKERS, VOXCELEB2_BROKEN = 1_092_009, 5_994, 283


def find_voxceleb2(root: Path) -> Material:
    """Find the clips of VoxCeleb2's development part, `dev/mp4/<speaker>/<video>/<clip>.mp4`, without labels.

    Raises:
        InputError: there is no speaker's folder, or no clip in them.
    """
    if not root.is_dir():
        raise InputError(f"{shown(root)}: no such folder; give the one that VoxCeleb2 was unpacked to")
    place = next((name for name in _SPEAKERS if _speakers(root / name)), None)
    if place is None:
        raise InputError(
            f"{shown(root)}: no speakers' folders (id00012, ...) are in it, nor in dev/mp4 below it: "
            + (_unpack(root) or "give the folder that VoxCeleb2 was unpacked to")
        )
    speakers = _speakers(root / place)
    prefix = f"{place}/" if place else ""
    paths = [
        f"{prefix}{speaker}/{video}/{clip}"
        for speaker in speakers
        for video in _names(root / place / speaker, folders=True)
        for clip in _names(root / place / speaker / video, folders=False)
        if clip.lower().endswith(".mp4")
    ]
    if not paths:
        raise InputError(f"{shown(root / place)}: no clip (<speaker>/<video>/*.mp4) is in the speakers' folders")
    found, mind = [], []
    if (len(paths), len(speakers)) == (VOXCELEB2_CLIPS, VOXCELEB2_SPEAKERS):
        found.append(f"These are the published numbers: {VOXCELEB2_CLIPS:,} clips of {VOXCELEB2_SPEAKERS:,} speakers.")
    else:
        mind.append(
            f"Published are {VOXCELEB2_CLIPS:,} clips of {VOXCELEB2_SPEAKERS:,} speakers; found were {len(paths):,} of "
            f"{len(speakers):,}. Fewer may mean that not all parts are unpacked."
        )
    if (root / "test").is_dir():
        found.append("The test part is here too and not used, as in the published code.")
    return Material(
        name="voxceleb2",
        title="VoxCeleb2",
        recipe="voxceleb2_pretrain",
        kind="faces",
        layout=f"{counted(len(paths), 'clip')}, video files in {shown(root / place)}",
        unlabelled=paths,
        found=found,
        mind=mind,
        published=VOXCELEB2_CLIPS,
        frame_size=(224, 224),
    )


def _speakers(folder: Path) -> list[str]:
    return [name for name in _names(folder, folders=True) if _SPEAKER.fullmatch(name)]


def _names(folder: Path, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir() == folders)
    except NotADirectoryError:
        return []
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be looked into: {error.strerror}") from None
