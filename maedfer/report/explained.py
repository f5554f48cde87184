"""The section of a run's page on what its model looks at, where `maedfer explain` has written that into the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from maedfer.errors import InputError
from maedfer.report import page as html
from maedfer.report.run_data import RunData, read_json

# Folder within a run, and what is shown of it: so many faces, and of each these pictures.
FOLDER, _MOST = "explanation", 3
_PICTURES = {
    "attention.png": "What tokens read over the frames of a clip, by block, and the rollout through all blocks.",
    "evidence.png": "What raises the class, and what lowers it.",
    "reconstruction.png": "What the model makes of what is hidden from it.",
}


def explained(run: RunData) -> tuple[str, dict[str, Any]]:
    """Pictures that `maedfer explain RUN VIDEO --out RUN/explanation` has made.

    Raises:
        InputError: the folder's report.json is no JSON, or a picture that it names is absent.
    """
    folder = run.path / FOLDER
    found = read_json(folder / "report.json")
    if found.get("kind") != "explanation":
        return "", {}
    try:
        faces = [(str(face["name"]), dict(face["files"])) for face in found["faces"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{str(folder / 'report.json')!r} lacks the faces that were explained: write it anew"
        ) from error
    parts = []
    for name, files in faces[:_MOST]:
        shown = [html.picture(_inside(folder, files[key]), words) for key, words in _PICTURES.items() if key in files]
        parts += [html.paragraph(name), *shown] if shown else []
    if not parts:
        return "", {}
    more = f" It has {len(faces) - _MOST} more." if len(faces) > _MOST else ""
    parts.append(html.paragraph(f"{FOLDER}/report.html says how this was computed.{more}", "note"))
    return html.section("What the model looks at", *parts), {"faces": [name for name, _ in faces]}


def _inside(folder: Path, file: Any) -> Path:
    """A file in the folder, and none outside of it."""
    path = os.path.normpath(str(file))
    if os.path.isabs(path) or path.startswith(".."):
        raise InputError(f"{str(folder / 'report.json')!r} names a file outside of its folder: {path!r}")
    return folder / path
