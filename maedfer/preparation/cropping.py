"""Which clips faces are cut out of, and cutting them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from maedfer._progress import counted
from maedfer.data.annotations import VIDEO_SUFFIXES
from maedfer.data.inputs import name_inputs
from maedfer.data.video.base import shown
from maedfer.errors import InputError, MissingDependencyError
from maedfer.faces.crop_many import check_files, crop_videos
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.detector import open_detector
from maedfer.faces.frame import Detector
from maedfer.preparation.face_sample import LEAST_SHARE, LEAST_SHARE_WIDE, about_faces, sample_faces
from maedfer.preparation.look import ClipLook
from maedfer.preparation.material import Material
from maedfer.preparation.options import PrepareOptions

CROPS = "crops"
# Of recordings that were cropped already, so many at least are square.
_SQUARE = 0.9


class Cropping:
    """Chooses the clips that faces are cut out of.

    Args:
        material: the data set.
        options: of its preparation.

    Raises:
        InputError: boxes or a detector of one's own cannot be used.
        MissingDependencyError: faces have to be found, and what that needs is not installed.
    """

    def __init__(self, material: Material, options: PrepareOptions) -> None:
        self._material, self._options = material, options
        if options.crop == "no" or (options.crop == "auto" and material.kind == "faces"):
            for name in ("boxes", "fps", "size"):
                if getattr(options, name) != getattr(PrepareOptions(), name):
                    raise InputError(
                        f"{name} is for clips that faces are cut out of, and these are not: say --crop yes"
                    )
        check_files(_crop_options(options))
        self._detector: Detector | None = None
        self._missing = ""
        recordings = material.kind == "recordings" and any(map(_is_file, material.paths))
        needed = options.crop == "yes" or (options.crop == "auto" and (recordings or material.kind == "own"))
        if options.boxes is None or material.kind == "faces":
            try:
                self._detector = open_detector(options.detector)
            except MissingDependencyError as error:
                if needed and options.boxes is None:
                    raise MissingDependencyError(f"{error}; or --crop no, where the clips show faces alone") from None
                self._missing = str(error)

    def choose(self, root: Path, looks: Sequence[ClipLook]) -> tuple[list[str], list[str], list[str]]:
        """Choose among clips that can be read.

        Returns:
            Paths of those that are to be cropped, what was found, and what to mind.

        Raises:
            InputError: a folder of frames is to be cropped, and nobody has told its frames a second.
        """
        chosen, found, mind = self._choose(root, looks)
        folders = [path for path in chosen if (root / path).is_dir()]
        if folders and self._options.fps is None:
            raise InputError(
                f"faces are to be cut out of {counted(len(folders), 'folder')} of frames, the first is "
                f"{shown(root / folders[0])}, which tell no times: give the frames a second by --fps, or say --crop no"
            )
        return chosen, found, mind

    def _choose(self, root: Path, looks: Sequence[ClipLook]) -> tuple[list[str], list[str], list[str]]:
        every = [look.path for look in looks]
        kind, options = self._material.kind, self._options
        if options.crop == "yes" or (options.boxes is not None and options.crop == "auto" and kind == "own"):
            return every, [], []
        if options.crop == "auto" and kind == "recordings":
            files = [look for look in looks if _is_file(look.path)]
            square = sum(look.width == look.height for look in files)
            if not files or square < _SQUARE * len(files):
                return [look.path for look in files], [], []
            found, mind = self._seen(root, looks)
            return (
                [],
                ["The videos are square: they are taken for crops of faces (--crop yes: they are none).", *found],
                mind,
            )
        if options.crop == "auto" and kind == "own":
            assert self._detector is not None
            sample = sample_faces(root, looks, self._detector)
            if sample.are_crops():
                return [], *about_faces(sample, kind)
            return (
                every,
                [
                    f"In the middle frames of {sample.clips} clips the face covers {100 * sample.share:.0f} % of the "
                    f"picture (median); nobody is seen in {sample.none}: these are no crops of faces, which are cut "
                    "out therefore (--crop no: they are not)."
                ],
                [],
            )
        return [], *self._seen(root, looks)

    def _seen(self, root: Path, looks: Sequence[ClipLook]) -> tuple[list[str], list[str]]:
        """What a detector sees in clips that are not cropped."""
        if self._detector is None:
            wide = sum(look.width > 1.2 * look.height for look in looks)
            hint = f" {wide:,} of {len(looks):,} clips are wider than high, as whole pictures are." if wide else ""
            why = f": {self._missing}" if self._missing else ""
            return [], [f"Nobody has looked whether the frames show faces alone{why}.{hint}"]
        least = LEAST_SHARE_WIDE if self._material.name == "voxceleb2" else LEAST_SHARE
        return about_faces(sample_faces(root, looks, self._detector), self._material.kind, least)


def crop_clips(
    root: Path, paths: Sequence[str], out: Path, options: PrepareOptions, progress: Callable[[float], None]
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Cut the largest face out of every clip, into a folder `crops` of `out`.

    Args:
        root: the data set's folder.
        paths: of clips, relative to it or absolute.
        out: folder of results.
        options: of the preparation.
        progress: takes the share that is done.

    Returns:
        Files of crops relative to that folder, by the clips' paths; why there is none, by those of the others; what to
        mind.

    Raises:
        InputError: as `maedfer.faces.crop_many.crop_videos`.
    """
    places = [PurePosixPath(path.lstrip("/")) for path in paths]
    inputs = name_inputs([(root / path, place) for path, place in zip(paths, places, strict=True)])
    result = crop_videos(inputs, out / CROPS, _crop_options(options), workers=options.workers, progress=progress)
    crops, failed, half = {}, {}, []
    for path, entry in zip(paths, result.entries, strict=True):
        if entry.failure:
            failed[path] = entry.failure.removeprefix(f"{shown(entry.video)}: ")
            continue
        (face,) = entry.faces
        crops[path] = face.file
        if 2 * face.frames < face.video_frames:
            half.append(path)
    mind = []
    if half:
        mind.append(
            f"The face is seen in less than half of the frames of {counted(len(half), 'clip')}, the first is "
            f"{shown(half[0])}: {CROPS}/faces.csv tells frames and video_frames of each."
        )
    return crops, failed, mind


def _crop_options(options: PrepareOptions) -> CropOptions:
    return CropOptions(size=options.size, detector=options.detector, boxes=options.boxes, fps=options.fps)


def _is_file(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES
