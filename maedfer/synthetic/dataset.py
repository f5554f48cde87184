"""The embedded data set: drawn faces that act out seven expressions, as h264 clips with subject-disjoint folds.

What the classes look like, and which of them only motion tells apart, is documented in `maedfer.synthetic.acting`.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maedfer.errors import InputError, require
from maedfer.synthetic.acting import EXPRESSIONS, TWINS, FaceTrack, draw_track
from maedfer.synthetic.canvas import add_noise
from maedfer.synthetic.casting import FaceStyle, Seed, entropy_of
from maedfer.synthetic.faces import render_track

__all__ = [
    "EXPRESSIONS",
    "TWINS",
    "FaceStyle",
    "FaceTrack",
    "contact_sheet",
    "encode_clip",
    "render_clip",
    "render_parameters",
    "write_dataset",
]

# Raised whenever the same settings give other pictures or other files than before.
GENERATOR = 1
_CLIPS_PER_SUBJECT = 10


def render_parameters(
    seed: Seed, label: int | str, subject: Seed, frames: int = 48, style: FaceStyle | None = None
) -> FaceTrack:
    """Draw what a clip shows, frame by frame, without painting it.

    Args:
        seed: of the clip; clips of one seed differ by label and subject alone.
        label: index into EXPRESSIONS, or a name.
        subject: of the person.
        frames: length T.
        style: difficulty; default `FaceStyle()`.

    Raises:
        InputError: unknown label, negative seed, no frames.
    """
    return draw_track(seed, label, subject, frames, style or FaceStyle())


def render_clip(
    seed: Seed,
    label: int | str,
    subject: Seed,
    frames: int = 48,
    size: int = 96,
    style: FaceStyle | None = None,
) -> NDArray[np.uint8]:
    """Paint one clip; the same arguments give the same bytes.

    Args:
        seed, label, subject, frames, style: see `render_parameters`.
        size: picture height and width S in pixels.

    Returns:
        uint8 [T, S, S, 3], RGB.

    Raises:
        InputError: unknown label, negative seed, no frames, size under 16.
    """
    if size < 16:
        raise InputError(f"faces are painted at 16 pixels or more, got size={size}")
    track = render_parameters(seed, label, subject, frames, style)
    return add_noise(render_track(track, size), track.scene.noise, *entropy_of(seed), *entropy_of(subject))


def encode_clip(video: NDArray[np.uint8], fps: float = 25, crf: int = 18) -> bytes:
    """Encode RGB frames as an h264 mp4 file (yuv420p, closed groups of 12 frames).

    Args:
        video: uint8 [T, H, W, 3], H and W even.
        fps: frames per second.
        crf: x264's constant rate factor; 18 is close to lossless to the eye.

    Returns:
        The file's bytes.
    """
    av = require("av", "video")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        # One thread, and no macroblock tree: x264's output depends on both, and with the tree even on the run.
        options = {
            "crf": str(crf),
            "preset": "veryfast",
            "x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=0:threads=1:lookahead-threads=1:mbtree=0",
        }
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@dataclass(frozen=True)
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
        if not self.folds <= self.subjects <= self.clips or self.folds < 2:
            raise InputError(
                f"need 2 <= folds <= subjects <= clips, got folds={self.folds}, subjects={self.subjects}, "
                f"clips={self.clips}"
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
    settings = _Settings(clips, seed, folds, size, frames, fps, subjects, style or FaceStyle())
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
        found = json.loads((out / "dataset.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{out} is not empty and holds no data set of this kind: choose another folder") from None
    wanted = settings.as_json()
    if found != wanted:
        other = [key for key in wanted if found.get(key) != wanted[key]]
        raise InputError(
            f"{out} holds a data set with other settings ({', '.join(other)}): delete it or choose another folder"
        )
    missing = [path for path in (settings.clip(i)[2] for i in range(settings.clips)) if not (out / path).is_file()]
    if missing:
        raise InputError(f"{out} lacks {len(missing)} of its clips ({missing[0]}): delete it and write it again")
    return True


def _write_clips(folder: Path, settings: _Settings, workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Write the clips in `workers` processes of equal share; one that meets an error hands it over."""
    workers = min(workers, settings.clips)
    # Forked workers need no guard in the caller's script and start at once; they touch NumPy and PyAV alone.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    readers: dict[Connection, BaseProcess] = {}
    done = 0
    try:
        for part in range(workers):
            reader, writer = context.Pipe(duplex=False)
            share = range(part, settings.clips, workers)
            process = context.Process(target=_work, args=(writer, folder, settings, share), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of forking beside idle threads of numerical libraries.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            writer.close()
            readers[reader] = process
        running: list[Connection] = list(readers)
        while running:
            for ready in wait(running):
                assert isinstance(ready, Connection)
                try:
                    failure = ready.recv()
                except EOFError:
                    running.remove(ready)
                    continue
                if failure is not None:
                    raise failure
                done += 1
                if progress is not None:
                    progress(done, settings.clips)
    finally:
        for reader, worker in readers.items():
            worker.terminate()
            worker.join()
            reader.close()
    if done < settings.clips:
        raise InputError(
            f"a worker process was killed when {done} clips were written: with little memory, use fewer workers"
        )


def _work(writer: Connection, folder: Path, settings: _Settings, share: range) -> None:
    """Write a share of the clips; send None after each, or the exception that ended the work."""
    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        for index in share:
            _write_clip(folder, settings, index)
            writer.send(None)
    except BrokenPipeError:
        # The parent is gone.
        return
    except OSError as error:
        # PyAV's own kinds of OSError do not travel between processes.
        writer.send(OSError(error.errno, error.strerror))
    except Exception as error:
        writer.send(error)


def _write_clip(folder: Path, settings: _Settings, index: int) -> None:
    subject, label, path = settings.clip(index)
    video = render_clip(
        (settings.seed, index), label, (settings.seed, subject), settings.frames, settings.size, settings.style
    )
    (folder / path).write_bytes(encode_clip(video, settings.fps))


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


def contact_sheet(
    path: str | os.PathLike[str],
    seed: int = 0,
    columns: int = 8,
    size: int = 112,
    style: FaceStyle | None = None,
) -> Path:
    """Save a picture of all classes: a row of frames over time for each, pairs of equal faces side by side.

    Args:
        path: picture to write (png).
        seed: chooses the people and the clips.
        columns: frames per row.
        size: height and width of a frame in pixels.
        style: default: strong expressions that begin at rest.
    """
    require("PIL", "video")
    from PIL import Image, ImageDraw, ImageFont

    style = style or replace(FaceStyle(), amplitude=(1.0, 1.2), any_start=False)
    paired = [name for pair in TWINS for name in pair]
    names = [name for name in EXPRESSIONS if name not in paired] + paired
    gap, margin = max(2, size // 40), int(0.85 * size)
    sheet = Image.new("RGB", (margin + columns * (size + gap) + gap, len(names) * (size + gap) + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=max(9, size // 7))
    for row, name in enumerate(names):
        # The two of a pair get the same person and the same draws.
        act = next((k for k, pair in enumerate(TWINS) if name in pair), len(TWINS) + row)
        video = render_clip((seed, act), name, (seed, act), 48, size, style)
        top = gap + row * (size + gap)
        pen.text((margin - 2 * gap, top + size // 2), name, fill=(40, 40, 40), font=font, anchor="rm")
        for column, frame in enumerate(np.linspace(0, 47, columns).round().astype(int)):
            sheet.paste(Image.fromarray(video[frame]), (margin + gap + column * (size + gap), top))
    path = Path(path)
    sheet.save(path)
    return path
