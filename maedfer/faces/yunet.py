"""YuNet (Wu et al., 2023, https://doi.org/10.1007/s11633-023-1423-y), as OpenCV's zoo has it: what its network gives.

At each cell of three maps, 8, 16 and 32 pixels wide, the network says how likely it is that there is something, and
that it is a face, how far from the cell's corner its centre lies, in cells, and the logarithm of its width and height
in cells. Maps are given flat, row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_STRIDES = (8, 16, 32)
# Output: numbers for each cell.
_WIDTHS = {f"{kind}_{stride}": width for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4)) for stride in _STRIDES}
OUTPUTS = tuple(_WIDTHS)


class YuNet:
    """Finds faces in pictures that have the network's size already.

    Args:
        session: of ONNX Runtime; its input may have fixed sides, as in OpenCV's file of 2023, or be free.
    """

    # Sides of pictures are multiples of it.
    multiple = 32
    # Maps are cut from one picture's outputs in the published files.
    at_once = 1

    def __init__(self, session: Any) -> None:
        self._session = session
        taken = session.get_inputs()[0]
        self._input = taken.name
        height, width = taken.shape[2:]
        # Sides that pictures must have; free ones are named rather than numbered.
        self.fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def find(self, pictures: np.ndarray, threshold: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find what may be faces, some of them several times.

        Args:
            pictures: uint8 [1, H, W, 3], RGB.
            threshold: least score.

        Returns:
            For each picture, float32 boxes [n, 4] in its pixels, and scores [n].
        """
        # The network takes blue first.
        values = np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2), np.float32)
        given = dict(zip(OUTPUTS, self._session.run(OUTPUTS, {self._input: values}), strict=True))
        _, _, height, width = values.shape
        boxes, scores = [], []
        for stride in _STRIDES:
            columns = width // stride
            cells = height // stride * columns
            for kind in ("cls", "obj", "bbox"):
                name = f"{kind}_{stride}"
                if given[name].size != cells * _WIDTHS[name]:
                    raise ValueError(f"for pictures {values.shape}, output {name} is {given[name].shape}")
            class_, object_ = (given[f"{kind}_{stride}"].reshape(cells).clip(0, 1) for kind in ("cls", "obj"))
            score = np.sqrt(class_ * object_)
            (chosen,) = np.nonzero(score >= threshold)
            box = given[f"bbox_{stride}"].reshape(cells, 4)[chosen]
            corners = np.stack([chosen % columns, chosen // columns], -1).astype(np.float32)
            sides = np.exp(box[:, 2:]) * np.float32(stride)
            centres = (corners + box[:, :2]) * np.float32(stride)
            boxes.append(np.concatenate([centres - sides / 2, sides], -1))
            scores.append(score[chosen])
        return [(np.concatenate(boxes).astype(np.float32), np.concatenate(scores))]
