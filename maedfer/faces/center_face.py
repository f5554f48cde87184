"""CenterFace (Xu et al., 2020, https://arxiv.org/abs/1911.03599): what its network takes and gives.

At each cell of a map, four pixels wide, the network says how likely it is that a face's centre lies there, the
logarithm of that face's height and width in cells, and how far down and to the right of the cell's middle the centre
lies, in cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Names of the outputs in the published file: likelihood [B, 1, h, w], size and offset [B, 2, h, w].
OUTPUTS = ("537", "538", "539")
_STRIDE = 4


def free(model: Any) -> None:
    """Make an ONNX model take any number of pictures of any size; the published one is for ten of 32 x 32.

    It also lists its weights as inputs, which keeps the runtime from folding them into each other.
    """
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for place, name in ((0, "batch"), (2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    # Shapes of what lies between, for the size that it was made for.
    del model.graph.value_info[:]


class CenterFace:
    """Finds faces in pictures that have the network's size already.

    Args:
        session: of ONNX Runtime, of a model that was made `free`.
    """

    # Sides of pictures are multiples of it.
    multiple = 32
    # Sides that pictures must have.
    fixed = None
    # Four at once take no longer than one after the other, and each gets the very numbers that it gets alone.
    at_once = 4

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    def find(self, pictures: np.ndarray, threshold: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find what may be faces, some of them several times.

        Args:
            pictures: uint8 [B, H, W, 3], RGB.
            threshold: least score.

        Returns:
            For each picture, float32 boxes [n, 4] in its pixels, and scores [n].
        """
        values = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)
        heat, size, offset = self._session.run(OUTPUTS, {self._input: values})
        batch, _, rows, columns = values.shape
        places = (rows // _STRIDE, columns // _STRIDE)
        if heat.shape != (batch, 1, *places) or not size.shape == offset.shape == (batch, 2, *places):
            raise ValueError(f"for pictures {values.shape}, outputs are {heat.shape}, {size.shape}, {offset.shape}")
        found = []
        for number in range(batch):
            row, column = np.nonzero(heat[number, 0] >= threshold)
            at = np.stack([column, row], -1) + np.float32(0.5)
            # Both are height or row first.
            sides = np.exp(size[number, ::-1, row, column]) * np.float32(_STRIDE)
            centres = (at + offset[number, ::-1, row, column]) * np.float32(_STRIDE)
            boxes = np.concatenate([centres - sides / 2, sides], -1)
            found.append((boxes.astype(np.float32), heat[number, 0, row, column]))
        return found
