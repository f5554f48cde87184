"""The faces of many videos: in several processes, gone on with after any end, and listed."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from maedfer._files import atomic_path, is_full, read_file
from maedfer._workers import DIED, in_processes
from maedfer.data.annotations import clip_key, read_annotations, write_annotations
from maedfer.data.inputs import Input
from maedfer.data.video import open_video
from maedfer.data.video.base import look_at, shown, words
from maedfer.errors import InputError, MissingDependencyError
from maedfer.faces.boxes import check_boxes
from maedfer.faces.crop_journal import CropJournal, Entry
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.detector import open_detector
from maedfer.faces.find import times_of
from maedfer.faces.frame import Detector
from maedfer.faces.write_crops import CroppedFace, NoFaceError, crop_video

FACES_FILE, FAILED_FILE = "faces.csv", "failed.csv"
_FACE_COLUMNS = (
    "video", "face", "file", "start", "end", "frames", "video_frames", "frame_width", "frame_height", "x", "y",
    "width", "height", "detection",
)  # fmt: skip
# The faces of a video, why there are none, and whether trying again makes no difference.
_Outcome = tuple[list[CroppedFace], str, bool]


@dataclass(frozen=True)
class CropJob:
    """A video to be cropped, as it is sent to a process.

    Args:
        number: its place among the inputs.
        path, name, out, options: as `crop_video` takes them.
        threads: that a process of many may use.
    """

    number: int
    path: str
    name: str
    out: str
    options: CropOptions
    threads: int = 0


@dataclass(frozen=True)
class CropResult:
    """What came of all videos.

    Args:
        entries: of each input, in their order.
        lists: the lists that were written.
        seconds: that it took.
        done_before: inputs that an earlier run had done.
    """

    entries: list[Entry]
    lists: list[Path]
    seconds: float
    done_before: int

    @property
    def failed(self) -> list[Entry]:
        """Those without a crop."""
        return [entry for entry in self.entries if entry.failure]


def crop_videos(
    inputs: Sequence[Input],
    out: str | Path,
    options: CropOptions | None = None,
    *,
    lists: Sequence[str | Path] = (),
    root: str | Path | None = None,
    classes: Sequence[str] = (),
    workers: int = 1,
    progress: Callable[[float], None] = lambda share: None,
) -> CropResult:
    """Write the faces of many videos, `faces.csv`, which lists them, and `failed.csv`, which says of whom there are
    none and why.

    A run that was ended by whatever is gone on with by the same call: what is done stays. Videos that could not be read
    are tried again; those that have changed are done again.

    Args:
        inputs: the videos, see `maedfer.data.inputs.find_inputs`.
        out: folder of results; made if need be.
        options: how they are cropped.
        lists: annotation files; each is written again to `out`, with the files of crops in place of the videos.
        root, classes: of these lists, see `maedfer.data.read_annotations`.
        workers: processes.
        progress: takes the share that is done.

    Raises:
        InputError: `out` holds something else or cannot be written, another process is at work in it, or the name of
            a crop is that of a folder of others.
    """
    options, out, began = options or CropOptions(), Path(out), time.monotonic()
    _check_names([item.name for item in inputs], options)
    detector = None if options.boxes else open_detector(options.detector, threshold=options.threshold)
    threads = max(1, len(os.sched_getaffinity(0)) // workers) if hasattr(os, "sched_getaffinity") else 1
    with CropJournal(out, _about(options, detector)) as journal:
        _check_names((*(item.name for item in inputs), *(entry.name for entry in journal.entries())), options)
        jobs = [
            CropJob(number, str(item.path), item.name, str(out), options, threads)
            for number, item in enumerate(inputs)
            if journal.find(item) is None
        ]
        weights = [_weight(item.path) for item in inputs]
        whole = sum(weights) or 1.0
        done = whole - sum(weights[job.number] for job in jobs)

        def here(job: CropJob) -> _Outcome:
            return crop_job(job, detector, lambda share: progress((done + share * weights[job.number]) / whole))

        in_several = workers > 1 and len(jobs) > 1
        if in_several:
            results = in_processes(jobs, _crop_beside, min(workers, len(jobs)), ([], DIED, False))
        else:
            results = _in_turn(jobs, here)
        try:
            progress(done / whole)
            for job, (faces, failure, final) in results:
                journal.add(inputs[job.number], faces, failure, final)
                done += weights[job.number]
                progress(done / whole)
        except KeyboardInterrupt:
            _write_tables(out, journal.entries())
            raise
        entries = [journal.entry(item) for item in inputs]
        _write_tables(out, journal.entries())
        written = _write_lists(lists, out, root, classes, dict(zip(map(_key, inputs), entries, strict=True)))
    return CropResult(entries, written, time.monotonic() - began, len(inputs) - len(jobs))


def check_files(options: CropOptions) -> None:
    """Refuse boxes or a detector of one's own that cannot be used.

    Raises:
        InputError: what is wrong with them.
    """
    if options.boxes is not None:
        check_boxes(options.boxes)
    elif options.detector is not None:
        open_detector(options.detector, threshold=options.threshold)


def measure(item: Input, fps: float | None) -> tuple[int, float]:
    """How many frames a video has, and how long it is, in seconds.

    Raises:
        InputError: it cannot be read.
    """
    with open_video(item.path) as reader:
        times = times_of(reader, fps)
        return len(times), float(times[-1] - times[0]) * len(times) / max(1, len(times) - 1)


def _check_names(names: Collection[str], options: CropOptions) -> None:
    """Refuse names of which one has crops where another one has its folder."""
    own = re.compile(
        "(.*)" + ("" if options.faces == "largest" else r"_face\d+") + (r"\.mp4" if options.format == "mp4" else ""),
        re.DOTALL,
    )
    for name in names:
        for folder in map(str, PurePosixPath(name).parents):
            found = own.fullmatch(folder)
            if found is not None and found[1] in names:
                raise InputError(
                    f"crops of {shown(found[1])!r} may be called {shown(folder)!r}, which is the folder that those of "
                    f"{shown(name)!r} go to: rename one of the videos, or crop them to folders of their own"
                )


def _in_turn(jobs: Sequence[CropJob], work: Callable[[CropJob], _Outcome]) -> Iterator[tuple[CropJob, _Outcome]]:
    for job in jobs:
        yield job, work(job)


def crop_job(
    job: CropJob, detector: Detector | None = None, progress: Callable[[float], None] = lambda share: None
) -> _Outcome:
    """Crop a video, whatever is wrong with it: its faces, why there are none, and whether that will not change.

    Raises:
        InputError: nothing can be written any more.
        MissingDependencyError: of what everything needs.
    """
    try:
        return crop_video(job.path, job.name, job.out, job.options, detector=detector, progress=progress), "", True
    except NoFaceError as error:
        return [], str(error), True
    except MissingDependencyError:
        raise
    except Exception as error:
        if is_full(error):
            raise InputError(str(error) if isinstance(error, InputError) else words(error)) from error
        if isinstance(error, InputError):
            return [], str(error), False
        if os.environ.get("MAEDFER_TRACEBACK", "0") not in ("", "0"):
            raise
        return [], f"{shown(job.path)}: {words(error)}; MAEDFER_TRACEBACK=1 shows where", False


def _crop_beside(job: CropJob) -> _Outcome:
    """Crop a video in a process of its own."""
    torch.set_num_threads(job.threads)
    detector = None
    if not job.options.boxes:
        detector = _detector(job.options.detector, job.options.threshold, job.threads)
    return crop_job(job, detector)


_open_detectors: dict[tuple[str | None, float], Detector] = {}


def _detector(file: str | None, threshold: float, threads: int) -> Detector:
    """The detector of a process, opened once."""
    key = file, threshold
    if key not in _open_detectors:
        _open_detectors[key] = open_detector(file, threshold=threshold, threads=threads)
    return _open_detectors[key]


def _about(options: CropOptions, detector: Detector | None) -> dict[str, Any]:
    """What crops depend on; files by their content, wherever they are."""
    about = dataclasses.asdict(options)
    for name in ("detector", "boxes"):
        if about[name] is not None:
            look_at(Path(about[name]))
            about[name] = hashlib.sha256(read_file(about[name])).hexdigest()[:16]
        elif name == "detector" and detector is not None:
            about[name] = detector.name
    return about


def _weight(path: Path) -> float:
    """What of the whole a video is likely to be: its bytes, those of a folder's frames together."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return float(sum(entry.stat().st_size for entry in entries))
        return 1.0 + path.stat().st_size
    except OSError:
        return 1.0


def _key(item: Input) -> str:
    return clip_key(item.path)


def _write_tables(out: Path, entries: Sequence[Entry]) -> None:
    rows = [
        (
            entry.video, face.face, face.file, f"{face.start:.6f}", f"{face.end:.6f}", face.frames,
            face.video_frames, face.width, face.height, *(f"{value:.2f}" for value in face.box),
            f"{face.detection:.4f}",
        )
        for entry in entries
        for face in entry.faces
    ]  # fmt: skip
    _write_table(out / FACES_FILE, _FACE_COLUMNS, rows)
    failed = [
        (entry.video, entry.failure.removeprefix(f"{shown(entry.video)}: ")) for entry in entries if entry.failure
    ]
    if failed:
        _write_table(out / FAILED_FILE, ("video", "reason"), failed)
    else:
        (out / FAILED_FILE).unlink(missing_ok=True)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([columns, *rows])
    with atomic_path(path) as temporary:
        temporary.write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))


def _write_lists(
    lists: Sequence[str | Path], out: Path, root: str | Path | None, classes: Sequence[str], entries: dict[str, Entry]
) -> list[Path]:
    """Write lists again, with the files of crops in place of the videos."""
    written = []
    # One that is given twice is written once.
    for name, file in dict(zip(list_names(lists), lists, strict=True)).items():
        found = [
            (face.file, clip)
            for clip in read_annotations(file, root, classes=classes, labelled=False)
            if (entry := entries.get(clip_key(clip.path))) is not None
            for face in entry.faces
        ]
        if found:
            rows = [(crop, clip.label) for crop, clip in found]
            write_annotations(out / name, rows, {crop: clip.subject for crop, clip in found})
            written.append(out / name)
    return written


def list_names(lists: Sequence[str | Path]) -> list[str]:
    """Names of the lists of crops: those of the lists, with the folders before them where that tells them apart, and
    else with numbers behind; one list has one name."""
    paths = [Path(os.path.abspath(file)) for file in lists]
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(set(paths)):
        common = os.path.commonpath([path.parent for path in paths])
        stems = ["_".join(path.relative_to(common).with_suffix("").parts) for path in paths]
    reserved = {Path(name).stem for name in (FACES_FILE, FAILED_FILE)}
    names: dict[Path, str] = {}
    for path, stem in zip(paths, stems, strict=True):
        if path not in names:
            name = base = f"{stem}_list" if stem in reserved else stem
            number = 1
            while name in names.values():
                number += 1
                name = f"{base}_{number}"
            names[path] = name
    return [f"{names[path]}.csv" for path in paths]
