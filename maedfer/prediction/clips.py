"""What becomes of a face in some frames: the clip that a model is shown, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maedfer.data.augment.transforms import EvalTransform
from maedfer.faces.crop import crop_square
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Span, Status, Window
from maedfer.prediction.windows import ModelInput

# Whether the row of a window, by its number, and a face is there already; None in the place of a face asks for the
# window.
IsScored = Callable[[int, int | None], bool]


def nothing_scored(number: int, face: int | None) -> bool:
    """No row is there yet."""
    return False


class Cutter:
    """Brings what a model is to see to its size.

    Args:
        model: what it takes.
        options: `margin` of them.
    """

    def __init__(self, model: ModelInput, options: PredictionOptions) -> None:
        self._side, self._margin = max(model.size), options.margin
        self._square = model.size[0] == model.size[1]
        self._transform = EvalTransform(model.size, model.fit)

    def __call__(self, picture: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """Cut the square round a box out of a picture, or take all of it.

        Args:
            picture: uint8 [H, W, 3].
            box: [4], x, y, width, height; None = the whole picture, as an evaluation reads it.

        Returns:
            uint8 [*size, 3].
        """
        if box is not None:
            picture = crop_square(picture, box, self._side, self._margin)
            if self._square:
                return picture
        frames = self._transform(torch.from_numpy(picture[None]).permute(0, 3, 1, 2))
        return np.ascontiguousarray(frames[0].permute(1, 2, 0).numpy())


@dataclass
class Found:
    """A face in some frames.

    Args:
        face: its number.
        boxes: float64 [n, 4], in the frames in which it is.
        scores: float32 [n], of the detector; None where nobody looked for faces.
        frames: in how many of the model's frames it is.
        clip: uint8 [V, T, H, W, 3]; None where it is not needed.
    """

    face: int
    boxes: np.ndarray
    scores: np.ndarray | None
    frames: int
    clip: np.ndarray | None = None

    @property
    def area(self) -> float:
        """Mean area of its box."""
        return float((self.boxes[:, 2] * self.boxes[:, 3]).mean())

    def window(self, number: int, span: Span, status: Status) -> Window:
        """What is told of it in a window."""
        x, y, width, height = self.boxes.mean(0).tolist()
        return Window(
            number,
            *span,
            face=self.face,
            box=(x, y, width, height),
            detection=None if self.scores is None else float(self.scores.astype(np.float64).mean()),
            frames=self.frames,
            status=status,
            clip=self.clip,
        )


def nobody(number: int, span: Span) -> Window:
    """What is told where no face is."""
    return Window(number, *span, None, None, None, 0, "no_face")


def chosen(found: Sequence[Found], faces: str | int) -> list[Found]:
    """Those who are to be scored, in the order in which they come: "all", the "largest" one, or so many largest."""
    count = len(found) if faces == "all" else 1 if faces == "largest" else int(faces)
    kept = sorted(range(len(found)), key=lambda place: (-found[place].area, place))[:count]
    return [found[place] for place in sorted(kept)]


def whole_frame(size: tuple[int, int]) -> np.ndarray:
    """The box of all of a frame: float64 [4]."""
    return np.array([0, 0, size[1], size[0]], np.float64)
