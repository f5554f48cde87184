"""The page of explanations: report.html, one file that loads nothing from outside, and report.json."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from maedfer import __version__
from maedfer._progress import counted
from maedfer.data.video.base import shown
from maedfer.explanation.embedding import FeatureMap
from maedfer.explanation.run import ExplainedFace
from maedfer.report import page as html

# Bytes of a film up to which it is put into the page itself; longer ones are linked to.
_MOST_BYTES = 6 << 20
# What is shown of a face, in this order.
_CAPTIONS = {
    "attention.png": "What tokens read over the frames, by block, and the rollout through all blocks.",
    "attention.mp4": "The same over time, in every frame.",
    "evidence.png": "What raises the class, and what lowers it: where in the picture, and when.",
    "reconstruction.png": "What the model makes of what is hidden from it.",
    "reconstruction.mp4": "Clip, mask and reconstruction over time, with the first mask.",
    "blocks.png": "Every block, as means over time, over the frame in the middle.",
    "regions.png": "How regions read one another, in per cent; rows sum to 100.",
    "interaction.png": "Where local tokens are that read from the representative token of each region.",
}


@dataclass(frozen=True)
class PageHead:
    """What a page says of itself.

    Args:
        checkpoint: what was looked into.
        about: of the model, in words.
        settings: that decide what is on the page, by name.
        failed: a sentence for each video that could not be explained.
    """

    checkpoint: str
    about: str
    settings: Mapping[str, Any]
    failed: Sequence[str] = ()


def write_page(
    out: str | Path, faces: Sequence[ExplainedFace], head: PageHead, features: FeatureMap | None = None
) -> Path:
    """Write the page of what was explained.

    Args:
        out: folder that the files of `faces` lie in.
        faces: of all videos.
        head: what it is about.
        features: laid out in the plane, where they were.

    Returns:
        Path of report.html.

    Raises:
        InputError: it cannot be written.
    """
    parts = [html.callout(shown(sentence), warn=True) for sentence in head.failed]
    parts += [_face(face) for face in faces]
    if features is not None:
        parts.append(_features(features))
    if any(face.maps is not None for face in faces):
        parts.append(html.section("What was computed", _attention_words(), _rollout_words()))
    if any(face.evidence is not None for face in faces):
        parts.append(html.section("What raises a class", _evidence_words(faces)))
    if any(face.reconstruction is not None for face in faces):
        parts.append(html.section("Reconstructions", _reconstruction_words(faces)))
    parts.append(html.settings("Settings", dict(head.settings)))
    numbers = {
        "kind": "explanation",
        "maedfer": __version__,
        "checkpoint": head.checkpoint,
        "model": head.about,
        "failed": list(head.failed),
        "faces": [_numbers(face, Path(out)) for face in faces],
        "features": None if features is None else {"method": features.method, "clips": len(features.names)},
        "settings": dict(head.settings),
    }
    words = "Made by maedfer; arrays are in the .npz beside each picture, every number of the page in report.json."
    subtitle = f"{head.about}, {shown(head.checkpoint)}"
    return html.write(Path(out), html.page("What the model looks at", subtitle, parts, escape(words)), numbers)


def _face(face: ExplainedFace) -> str:
    title = shown(Path(face.video).name) + ("" if face.name == Path(face.video).stem else f" ({shown(face.name)})")
    tiles = [
        ("pictures are of", f"{face.start:.2f}\N{EN DASH}{face.end:.2f} s", f"face {face.face}"),
        ("windows looked at", str(face.windows), ""),
    ]
    if face.evidence is not None and face.probabilities is not None:
        tiles.append(("class", shown(face.evidence.name), f"p = {face.probabilities[face.evidence.target]:.2f}"))
    if face.reconstruction is not None:
        losses = face.reconstruction.loss
        spread = f"{counted(len(losses), 'mask')}, {losses.min():.3f} to {losses.max():.3f}"
        tiles.append(("loss of reconstruction", f"{losses.mean():.3f}", spread))
    body = [html.tiles(tiles, small=True)]
    for key, caption in _CAPTIONS.items():
        if key not in face.files:
            continue
        path = face.files[key]
        body.append(_film(path, caption) if path.suffix == ".mp4" else html.picture(path, caption))
        if key == "reconstruction.png":
            body.append(_losses(face))
    return html.section(title, *body)


def _losses(face: ExplainedFace) -> str:
    found = face.reconstruction
    assert found is not None
    joint = found.target == "joint"
    head = ["mask", "loss", *(["appearance", "motion"] if joint else [])]
    rows = []
    for place, seed in enumerate(found.seeds):
        parts = [found.appearance_loss[place], found.motion_loss[place]] if joint else []
        rows.append([f"seed {seed}", f"{found.loss[place]:.4f}", *(f"{part:.4f}" for part in parts)])
    return html.table(head, rows)


def _film(path: Path, caption: str) -> str:
    if path.stat().st_size > _MOST_BYTES:
        return html.paragraph(f"{caption} {shown(path.name)}")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    film = f'<video controls muted playsinline style="max-width:100%" src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{film}<figcaption>{escape(caption)} {escape(shown(path.name))}</figcaption></figure>"


def _features(found: FeatureMap) -> str:
    caption = (
        f"Features of {counted(len(found.names), 'clip')} in the plane ({found.method}). Neighbours are near in the "
        "features too; distances between groups, and their sizes, mean nothing."
    )
    people = len({*found.subjects} - {""})
    if found.shapes:
        caption += " Shapes are subjects."
    elif people > 1:
        caption += f" There are {people} subjects, more than there are shapes; the table names them."
    return html.section("Features", html.figure(found.plot(), "features", "Features in the plane", caption))


def _attention_words() -> str:
    return html.listing(
        [
            "A share is a probability softmax(q k^T / sqrt(D)), computed from queries and keys in float32, as a mean "
            "over heads unless one was chosen. Pictures show it as a multiple of an even share, 1 where everything is "
            "read alike.",
            "Intra-region attention is what the representative token of each region reads from the local tokens of "
            "its region, all regions side by side; of a ViT it is what each token is given, as a mean over all that "
            "read. Inter-region attention is what representative tokens read from one another, the interaction what "
            "local tokens read from representative tokens.",
            "Maps are interpolated between the middles of tokens, unless they were not to be. A map is as fine as the "
            "tokens are.",
            "Attention says what is read, not what becomes of it.",
        ]
    )


def _rollout_words() -> str:
    return html.paragraph(
        "The rollout (Abnar and Zuidema, ACL 2020) follows reading back through all stages of all blocks: a stage "
        "hands on half of what a row was and half of what it reads, (I + A) / 2, and stages are multiplied. It starts "
        "from what the head of a classifier averages, and ends in the tokens of the clip; what ends in the "
        "representative tokens that the model begins with is left out."
    )


def _evidence_words(faces: Sequence[ExplainedFace]) -> str:
    found = next(face.evidence for face in faces if face.evidence is not None)
    _, height, width = found.window
    return html.listing(
        [
            f"Where: windows of {height} x {width} tokens were blurred through all of the clip, one at a time. When: "
            "the frames of one token were replaced by each pixel's mean over time. "
            "Shown is how much the log-odds of the class, log(p / (1 - p)), fall by that, in nats: the weight of "
            "evidence.",
            "A clip with a window replaced is none that the model was trained on; parts that can stand in for each "
            "other have no evidence of their own; windows of another size may tell otherwise.",
        ]
    )


def _reconstruction_words(faces: Sequence[ExplainedFace]) -> str:
    found = next(face.reconstruction for face in faces if face.reconstruction is not None)
    words = [
        f"{100 * found.mask_ratio:.0f} % of the tokens were hidden, in tubes as in pre-training. The loss is what "
        "pre-training minimises, over all hidden tokens."
    ]
    if found.config.normalize_target:
        words.append("Brightness and contrast of each hidden cube are taken from the original.")
    if found.target == "joint":
        words.append("Motion is the change from the first frame of a cube, on grey.")
    return html.listing(words)


def _numbers(face: ExplainedFace, out: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "name": face.name,
        "video": face.video,
        "face": face.face,
        "start": face.start,
        "end": face.end,
        "time": face.time,
        "windows": face.windows,
        "probabilities": face.probabilities,
        "files": {key: os.path.relpath(path, out) for key, path in face.files.items()},
    }
    if face.maps is not None:
        numbers["rollout_in_representative_tokens"] = float(1 - face.maps.rollout().sum(dtype=np.float64))
    if face.evidence is not None:
        found = face.evidence
        numbers["evidence"] = {
            "class": found.name, "probability": found.probability, "window": list(found.window), "fill": found.fill,
            "places": found.values[0], "moments": None if face.moments is None else face.moments.values[:, 0, 0],
        }  # fmt: skip
    if face.reconstruction is not None:
        made = face.reconstruction
        numbers["reconstruction"] = {
            "seeds": list(made.seeds), "mask_ratio": made.mask_ratio, "loss": made.loss,
            "appearance": made.appearance_loss, "motion": made.motion_loss,
        }  # fmt: skip
    return numbers
