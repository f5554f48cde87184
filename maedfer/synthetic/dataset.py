"""The embedded data set: drawn faces that act out seven expressions, as h264 clips with subject-disjoint folds.

What the classes look like, and which of them only motion tells apart, is documented in `maedfer.synthetic.acting`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maedfer._files import parse_json
from maedfer._workers import serve_parent
from maedfer.errors import InputError, require
from maedfer.synthetic.acting import EXPRESSIONS, TWINS
from maedfer.synthetic.casting import FaceStyle, entropy_of
from maedfer.synthetic.clips import encode_clip, render_clip

# Raised whenever the same settings give other pictures or other files than before.
GENERATOR = 1
_CLIPS_PER_SUBJECT = 10


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What determines the content of a data set folder."""

    clips: int
    seed: int
    folds: int
    size: int
    frames: int
    fps: float
    subjects: int
    style: FaceStyle
    generator: int = GENERATOR

    def __post_init__(self) -> None:
        if self.clips < 1 or self.frames < 1 or not self.fps > 0:
            raise InputError(
                f"clips, frames and fps must be positive, got clips={self.clips}, frames={self.frames}, fps={self.fps}"
            )
        if self.size < 32 or self.size % 2:
            raise InputError(f"size must be even and at least 32 pixels, got {self.size}")
        if self.folds < 2:
            raise InputError(f"folds must be at least 2, one for test and another for training, got {self.folds}")
        if self.folds > self.clips:
            raise InputError(
                f"{self.clips} clips do not suffice for {self.folds} folds: ask for more clips or fewer folds"
            )
        if not self.folds <= self.subjects <= self.clips:
            raise InputError(
                f"subjects must be between the folds ({self.folds}) and the clips ({self.clips}), got {self.subjects}"
            )
        entropy_of(self.seed)

    def clip(self, index: int) -> tuple[int, int, str]:
        """Return subject, label and file path (relative to the folder) of clip `index`."""
        subject, label = index * self.subjects // self.clips, index % len(EXPRESSIONS)
        return subject, label, f"clips/s{subject:03d}_{EXPRESSIONS[label]}_{index:04d}.mp4"

    def fold(self, subject: int) -> int:
        """Return the fold, counted from 1, whose test set holds `subject`."""
        return subject % self.folds + 1

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


def write_dataset(
    out: str | os.PathLike[str],
    *,
    clips: int = 700,
    seed: int = 0,
    folds: int = 5,
    size: int = 96,
    frames: int = 48,
    fps: float = 25,
    workers: int | None = None,
    subjects: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    style: FaceStyle | None = None,
) -> Path:
    """Write the data set; all or nothing.

    The folder gets clips/*.mp4, all.csv and fold_1 ... fold_K/{train,test}.csv ("path label" per line), pretrain.csv
    (paths only), classes.txt, dataset.json and README.txt. Paths are relative to the folder. Labels are balanced, and
    the subjects of a fold's test set appear nowhere in its training set.

    Args:
        out: folder to make. One that was written with the same settings is left as it is.
        clips: number of clips.
        seed: another seed gives other people and other clips.
        folds: number of folds K.
        size: picture height and width in pixels, even.
        frames: frames per clip.
        fps: frames per second.
        workers: processes that paint and encode; default: one for each core.
        subjects: number of persons; default: one for ten clips.
        progress: called as progress(done, clips) after each clip.
        style: difficulty; default `FaceStyle()`.

    Returns:
        The folder.

    Raises:
        InputError: settings that do not fit together, a folder that holds something else, a disk that is full.
    """
    out = Path(out)
    if subjects is None:
        subjects = max(min(folds, clips), clips // _CLIPS_PER_SUBJECT)
    settings = _Settings(
        clips=clips,
        seed=seed,
        folds=folds,
        size=size,
        frames=frames,
        fps=fps,
        subjects=subjects,
        style=style or FaceStyle(),
    )
    if _is_written(out, settings):
        return out
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    require("av", "video")
    partial = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        partial.chmod(0o755)
        (partial / "clips").mkdir()
        _write_clips(partial, settings, workers, progress)
        _write_lists(partial, settings)
        partial.rename(out)
    except OSError as error:
        raise InputError(f"cannot write the data set to {out}: {error.strerror or error}") from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
    return out


def _is_written(out: Path, settings: _Settings) -> bool:
    """Tell whether `out` holds this data set already; refuse a folder that holds anything else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{out} is a file: choose a folder for the data set")
    if not any(out.iterdir()):
        return False
    try:
        found = parse_json((out / "dataset.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{out} is not empty and holds no data set of this kind: choose another folder") from None
    own = settings.as_json()
    if found != own:
        other = [key for key in own if found.get(key) != own[key]]
        raise InputError(
            f"{out} holds a data set with other settings ({', '.join(other)}): delete it or choose another folder"
        )
    missing = [path for path in (settings.clip(i)[2] for i in range(settings.clips)) if not (out / path).is_file()]
    if missing:
        raise InputError(f"{out} lacks {len(missing)} of its clips ({missing[0]}): delete it and write it again")
    return True


def _write_clips(folder: Path, settings: _Settings, workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Write the clips in `workers` processes; the first error of one ends them all."""
    # Forked workers need no guard in the caller's script and start at once; they touch NumPy and PyAV alone.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    pool = ProcessPoolExecutor(min(workers, settings.clips), context, serve_parent)
    done = 0
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside idle threads of numerical libraries.
            warnings.simplefilter("ignore", DeprecationWarning)
            clips = [pool.submit(_work, folder, settings, index) for index in range(settings.clips)]
        for clip in as_completed(clips):
            clip.result()
            done += 1
            if progress is not None:
                progress(done, settings.clips)
    except BrokenProcessPool:
        raise InputError(
            f"a worker process was killed when {done} clips were written: with little memory, use fewer workers"
        ) from None
    finally:
        # Those that are being written are waited for, so that nothing is put into the folder after this.
        pool.shutdown(cancel_futures=True)


def _work(folder: Path, settings: _Settings, index: int) -> None:
    try:
        _write_clip(folder, settings, index)
    except OSError as error:
        # PyAV's own kinds of OSError do not travel between processes.
        raise OSError(error.errno, error.strerror) from None


def _write_clip(folder: Path, settings: _Settings, index: int) -> None:
    subject, label, path = settings.clip(index)
    clip = render_clip(
        (settings.seed, index), label, (settings.seed, subject), settings.frames, settings.size, settings.style
    )
    (folder / path).write_bytes(encode_clip(clip, settings.fps))


def _write_lists(folder: Path, settings: _Settings) -> None:
    clips = [settings.clip(index) for index in range(settings.clips)]

    def write(path: str, lines: list[str]) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("".join(line + "\n" for line in lines))

    write("all.csv", [f"{path} {label}" for _, label, path in clips])
    write("pretrain.csv", [path for _, _, path in clips])
    write("classes.txt", list(EXPRESSIONS))
    for fold in range(1, settings.folds + 1):
        for name, is_test in (("train", False), ("test", True)):
            chosen = [f"{path} {label}" for s, label, path in clips if (settings.fold(s) == fold) == is_test]
            write(f"fold_{fold}/{name}.csv", chosen)
    counts = Counter(label for _, label, _ in clips)
    description = {
        "settings": settings.as_json(),
        "classes": list(EXPRESSIONS),
        "class_counts": {name: counts[k] for k, name in enumerate(EXPRESSIONS)},
        "test_subjects": {
            f"fold_{fold}": [s for s in range(settings.subjects) if settings.fold(s) == fold]
            for fold in range(1, settings.folds + 1)
        },
    }
    write("dataset.json", [json.dumps(description, indent=1)])
    write("README.txt", _readme(settings).splitlines())


def _readme(settings: _Settings) -> str:
    pairs = TWINS if settings.style.pulse_twin else TWINS[:1]
    names = " or ".join(" and ".join(pair) for pair in pairs)
    return f"""Drawn faces that act out {len(EXPRESSIONS)} expressions.
Made by maedfer with seed {settings.seed}; no real person is shown.
{settings.clips} clips of {settings.frames} frames at {settings.fps:g} frames/s, {settings.subjects} subjects.
Frames are {settings.size} x {settings.size} pixels.

all.csv                  path and label of every clip; paths start from this folder
fold_K/train.csv         training clips of fold K = 1 to {settings.folds}
fold_K/test.csv          its test clips, of subjects that are not in its training clips
pretrain.csv             every path, without labels
classes.txt              names of the labels 0 to {len(EXPRESSIONS) - 1}
dataset.json             settings, class counts, test subjects of each fold

No single frame tells apart {names}:
within a pair only the course over time differs. File names are subject, expression, number of the clip.
"""
