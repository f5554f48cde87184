"""Explanations of several videos: pictures, films, arrays and one page, in a folder."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer._files import atomic_path
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.evaluation.score import check_finite
from maedfer.explanation import figures
from maedfer.explanation.attention import ClipAttention, attention_maps
from maedfer.explanation.evidence import ClassEvidence, class_evidence, class_names, evidence_rows
from maedfer.explanation.film import FilmPanel, film_attention, film_pictures
from maedfer.explanation.looking import FaceCourse, look_at_video, main_kinds, model_input
from maedfer.explanation.options import ATTENTION, EVIDENCE, RECONSTRUCTION, Explaining, as_target, parts_of
from maedfer.explanation.overlay import scale_of
from maedfer.explanation.reconstruction import Reconstruction, reconstruct
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, load
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.predictor import chosen_classes, chosen_device
from maedfer.prediction.windows import window_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What may stand behind the name of a video.
SUFFIXES = (
    ".attention.png", ".blocks.png", ".regions.png", ".interaction.png", ".attention.mp4", ".evidence.png",
    ".reconstruction.png", ".reconstruction.mp4", ".npz",
)  # fmt: skip
_ENDS = "|".join(map(re.escape, SUFFIXES))


@dataclass
class ExplainedFace:
    """What was made of one face of a video.

    Args:
        name: of its files, without what tells them apart.
        video: as it was given.
        face: its number.
        start, end, time: seconds, of the window that pictures are of.
        probabilities: of the classes in it.
        files: written, by what they are ("attention.png").
        evidence, moments: for a class, by place and by moment, where that was looked for.
        reconstruction: where that was made.
        maps: of the window.
        windows: how many windows were looked at.
    """

    name: str
    video: str
    face: int
    start: float
    end: float
    time: float
    windows: int
    probabilities: np.ndarray | None = None
    files: dict[str, Path] = field(default_factory=dict)
    maps: ClipAttention | None = None
    evidence: ClassEvidence | None = None
    moments: ClassEvidence | None = None
    reconstruction: Reconstruction | None = None


def explain_video(
    model: LGIFormer | MAEDFER,
    video: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    chosen: Explaining | None = None,
    options: PredictionOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[ExplainedFace]:
    """Explain what a model makes of a video, in pictures, films and arrays.

    Args:
        model: a classifier, a feature extractor or an autoencoder.
        video: a file, or a folder of frames.
        out: folder of the results, which is made where it is not there.
        name: of the results; the video's when None. It may hold folders.
        chosen: what is to be made.
        options: how the video is looked at; the largest face, and windows that overlap by half, when None.
        progress: is told the share that is done.

    Returns:
        What was made, for each face.

    Raises:
        InputError: the model cannot give what was chosen, the video cannot be read, no face is in it, or a file cannot
            be written.
    """
    chosen = chosen or Explaining()
    options = options or explaining_options(model)
    parts = parts_of(model, chosen)
    films = chosen.film * (ATTENTION in parts) + chosen.film * (RECONSTRUCTION in parts)
    stages = _Stages(progress, 1 + films + (EVIDENCE in parts))
    block = None if chosen.blocks is None else chosen.blocks[-1]
    courses, times = look_at_video(
        model,
        video,
        options,
        block=block,
        head=chosen.head,
        at=chosen.at,
        maps=ATTENTION in parts,
        keep_clips=chosen.film and RECONSTRUCTION in parts,
        progress=stages.next(),
    )
    stem = Path(out, name or Path(video).stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for course in courses:
        assert course.best is not None
        moment, clip = course.best
        one = options.faces == "largest" or not options.crop
        named = stem if one else stem.with_name(f"{stem.name}.face{course.face}")
        span = moment.window
        face = ExplainedFace(
            named.name, str(video), course.face, span.start, span.end, span.time, len(course.moments),
            moment.probabilities,
        )  # fmt: skip
        _pictures(model, clip, named, face, chosen, parts, stages)
        _arrays(course, named, face)
        found.append(face)
    for course, face in zip(courses, found, strict=True):
        named = stem.with_name(face.name)
        if chosen.film and ATTENTION in parts:
            path = _beside(named, ".attention.mp4")
            film_attention(
                course, video, path, times=times, model=model_input(model), options=options,
                panels=_panels(model, course, block, chosen.head),
                classes=class_names(model) if face.probabilities is not None and isinstance(model, LGIFormer) else (),
                progress=stages.next(),
            )  # fmt: skip
            face.files["attention.mp4"] = path
        if chosen.film and isinstance(model, MAEDFER) and RECONSTRUCTION in parts:
            path = _beside(named, ".reconstruction.mp4")
            _film_reconstructions(model, course, path, chosen)
            face.files["reconstruction.mp4"] = path
    return found


def load_model(checkpoint: str | Path, device: str = "auto") -> LGIFormer | MAEDFER:
    """Load what is to be explained, in float32 and evaluation mode.

    Args:
        checkpoint: what `maedfer.load` takes.
        device: "cpu", "cuda", "cuda:1", or "auto" = a GPU where there is one.

    Raises:
        InputError: it cannot be loaded, or holds what is not finite.
    """
    where = chosen_device(device)
    model = load(checkpoint)
    check_finite(model, repr(str(checkpoint)))
    return model.float().to(where)


def name_classes(model: LGIFormer | MAEDFER, classes: Sequence[str], name: str) -> None:
    """Give names to the classes of a classifier that does not name them.

    Args:
        model: the classifier.
        classes: in label order, or the name of a data set alone.
        name: of the model, for messages.

    Raises:
        InputError: it has no classes, another number of them, or names them otherwise.
    """
    if not isinstance(model, LGIFormer) or not model.config.num_classes:
        raise InputError(f"{name} has no classes that could be named: leave classes out")
    names = chosen_classes(model, classes, name)
    model.clip_settings = dataclasses.replace(model.clip_settings or ClipSettings(), classes=names)


def explaining_options(model: LGIFormer | MAEDFER, options: PredictionOptions | None = None) -> PredictionOptions:
    """How videos are looked at where nothing else is said: the largest face, a window every half of one."""
    options = options or PredictionOptions(faces="largest")
    takes = model_input(model)
    length = options.window or window_seconds(takes.frames, takes.stride)
    return dataclasses.replace(options, hop=length / 2)


def check_names(out: Path, names: Sequence[str], read: Sequence[str | Path]) -> None:
    """Refuse results that would take the place of what is read.

    Args:
        out: folder of the results; it need not exist.
        names: of the videos in it.
        read: files that are read.

    Raises:
        InputError: one would; or the folder is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{shown(out)}: is a file: give a folder with --out")
    results = "|".join(f"{re.escape(name)}(?:[.]face[0-9]+)?(?:{_ENDS})" for name in names)
    mine = re.compile("|".join(filter(None, (results, "report[.](?:html|json)", "features[.](?:csv|png)"))))
    for file in read:
        place = os.path.relpath(os.path.realpath(file), os.path.realpath(out))
        if mine.fullmatch(place):
            raise InputError(f"{shown(file)}: would be overwritten by a result: choose another --out")


class _Stages:
    """Progress of several steps that are taken to be equally long."""

    def __init__(self, progress: Callable[[float], None] | None, count: int) -> None:
        self._progress, self._count, self._done = progress, count, -1

    def next(self) -> Callable[[float], None] | None:
        """Begin the next step; gives what is told its share."""
        self._done += 1
        done = self._done
        if self._progress is None:
            return None
        tell = self._progress
        return lambda share: tell(min(1.0, (done + share) / self._count))


def _pictures(
    model: LGIFormer | MAEDFER,
    clip: np.ndarray,
    stem: Path,
    face: ExplainedFace,
    chosen: Explaining,
    parts: Sequence[str],
    stages: _Stages,
) -> None:
    def save(figure: Figure, suffix: str) -> None:
        path = _beside(stem, suffix)
        with atomic_path(path) as part:
            figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
        face.files[suffix[1:]] = path

    if ATTENTION in parts:
        maps = face.maps = attention_maps(model, clip)
        kinds = [kind for kind in maps.kinds if kind not in ("inter_region", "interaction")]
        style: dict[str, Any] = {"blocks": chosen.blocks, "head": chosen.head, "smooth": chosen.smooth}
        save(maps.plot(kinds, **style), ".attention.png")
        save(figures.block_overview(maps), ".blocks.png")
        last = maps.blocks[-1] if chosen.blocks is None else chosen.blocks[-1]
        if maps.inter_region is not None or maps.interaction is not None:
            save(maps.plot_regions(last), ".regions.png")
        if maps.interaction is not None:
            save(maps.plot(["interaction"], **{**style, "blocks": [last]}), ".interaction.png")
    if EVIDENCE in parts:
        assert isinstance(model, LGIFormer)
        names = class_names(model)
        target = None if chosen.target is None else as_target(chosen.target, names)
        face.evidence = class_evidence(model, clip, target, progress=stages.next())
        face.moments = class_evidence(model, clip, face.evidence.target, window="moments")
        save(evidence_rows([face.evidence, face.moments], smooth=chosen.smooth), ".evidence.png")
    if RECONSTRUCTION in parts:
        assert isinstance(model, MAEDFER)
        face.reconstruction = reconstruct(model, clip, seeds=chosen.seeds, mask_ratio=chosen.mask_ratio)
        save(face.reconstruction.plot(), ".reconstruction.png")


def _arrays(course: FaceCourse, stem: Path, face: ExplainedFace) -> None:
    """Write what pictures and films are made of."""
    moments = course.moments
    arrays: dict[str, Any] = {
        "start": np.array([moment.window.start for moment in moments]),
        "end": np.array([moment.window.end for moment in moments]),
        "times": np.stack([moment.times for moment in moments]),
        "picture_time": np.array(face.time),
    }
    for kind in moments[0].grids:
        arrays[f"course_{kind}"] = np.stack([moment.grids[kind] for moment in moments])
    if face.probabilities is not None:
        arrays["probabilities"] = np.array([moment.probabilities for moment in moments])
    if face.maps is not None:
        maps = face.maps
        arrays["blocks"] = np.array(maps.blocks)
        for name in (*figures.KINDS, "intra_own"):
            values = maps.rollout() if name == "rollout" else getattr(maps, name, None)
            if values is not None:
                arrays[name] = values
    if face.evidence is not None and face.moments is not None:
        arrays |= {"evidence": face.evidence.values[0], "evidence_moments": face.moments.values[:, 0, 0]}
    if face.reconstruction is not None:
        found = face.reconstruction
        arrays |= {"hidden": found.hidden, "loss": found.loss}
        arrays |= {"appearance_loss": found.appearance_loss, "motion_loss": found.motion_loss}
    path = _beside(stem, ".npz")
    with atomic_path(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)
    face.files["npz"] = path


def _panels(
    model: LGIFormer | MAEDFER, course: FaceCourse, block: int | None, head: int | None
) -> list[tuple[str, FilmPanel]]:
    panels = []
    depth = model.encoder.config.depth
    for kind in main_kinds(model):
        values = np.stack([moment.grids[kind] for moment in course.moments])
        scale = scale_of(values, "times an even share", from_zero=kind != "rollout")
        title = figures.KINDS[kind]
        if kind != "rollout":
            title += f", block {block or depth}" + ("" if head is None else f", head {head}")
        panels.append((kind, FilmPanel(title, scale)))
    return panels


def _film_reconstructions(model: MAEDFER, course: FaceCourse, path: Path, chosen: Explaining) -> None:
    """A film of clip, mask and reconstruction, with the first seed's mask; motion where that was trained."""
    target = model.config.target
    seed = chosen.seeds[:1]
    found = [reconstruct(model, clip, seeds=seed, mask_ratio=chosen.mask_ratio) for clip, _ in course.clips]
    gain = max(figures.motion_gain(one.true_motion) for one in found)
    cube = model.config.encoder.patch_size[0]
    titles = ["face", f"masked, {100 * found[0].mask_ratio:.0f} % hidden"]
    if target != "motion":
        titles.append("appearance" if target == "appearance" else "reconstruction")
    if target in ("joint", "motion"):
        titles += ["motion", "predicted motion"]

    def pictures() -> Any:
        for one in found:
            panels = [one.original, one.masked[0]]
            if target != "motion":
                panels.append(one.appearance[0] if target == "appearance" else one.full[0])
            if target in ("joint", "motion"):
                # The last frame's, held over the cube: in its first frame nothing has moved.
                for motion in (one.true_motion, one.motion[0]):
                    panels.append(0.5 + gain * (motion[cube - 1 :: cube].repeat(cube, 0) - 0.5))
            for moment in zip(*panels, strict=True):
                yield [(np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8) for picture in moment]

    times = np.concatenate([times for _, times in course.clips])
    film_pictures(path, titles, pictures(), times=times, size=found[0].original.shape[1:3])


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
