"""Detectors' files made by hand: the inputs and outputs of published ones, and answers that a formula gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maedfer.faces.center_face import OUTPUTS

# What the networks made here answer at every cell: centre's offset and logarithms of sides, in cells.
OFFSET, SIDES = (0.25, 0.75), (0.5, 1.0)


def _cells(graph: dict[str, list], name: str, stride: int, bias: Sequence[float], channel: int | None) -> str:
    """Add a convolution of whole cells: a bias, and the mean of a channel over 255."""
    weights = np.zeros((len(bias), 3, stride, stride), np.float32)
    if channel is not None:
        weights[:, channel] = 1 / (255 * stride**2)
    graph["weights"] += [
        numpy_helper.from_array(weights, f"{name}.weight"),
        numpy_helper.from_array(np.array(bias, np.float32), f"{name}.bias"),
    ]
    inputs = ["input.1", f"{name}.weight", f"{name}.bias"]
    graph["nodes"].append(
        helper.make_node("Conv", inputs, [name], kernel_shape=[stride, stride], strides=[stride, stride])
    )
    return name


def _write(path: Path, graph: dict[str, list], outputs: Sequence[str], shape: Sequence[Any], listed: bool) -> Path:
    values = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)]
    if listed:
        values += [helper.make_tensor_value_info(w.name, TensorProto.FLOAT, list(w.dims)) for w in graph["weights"]]
    free = ["a", "b", "c", "d"] if listed else ["a", "b", "c"]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, free) for name in outputs]
    whole = helper.make_graph(graph["nodes"], "detector", values, made, graph["weights"])
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def yunet(path: Path, shape: Sequence[Any], names: Sequence[str] = ("cls", "obj", "bbox")) -> Path:
    """A network with YuNet's inputs and outputs that takes what is blue for a face."""
    graph: dict[str, list] = {"nodes": [], "weights": [numpy_helper.from_array(np.array([1, -1, 0]), "flat")]}
    outputs = []
    for kind, real in zip(("cls", "obj", "bbox", "kps"), [*names, "kps"], strict=True):
        for stride in (8, 16, 32):
            width = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}[kind]
            # The widest map sees nothing, so that only one of them answers where a block is as wide as its cell.
            bias = {"cls": [0.0], "obj": [0.81 if stride < 32 else 0], "bbox": [*OFFSET, *SIDES], "kps": [0.0] * 10}
            cells = _cells(graph, f"{kind}{stride}", stride, bias[kind], 0 if kind == "cls" else None)
            row_by_row = f"{cells}.rows"
            graph["nodes"].append(helper.make_node("Transpose", [cells], [row_by_row], perm=[0, 2, 3, 1]))
            last = f"{cells}.width"
            graph["weights"].append(numpy_helper.from_array(np.array([1, -1, width]), last))
            graph["nodes"].append(helper.make_node("Reshape", [row_by_row, last], [f"{real}_{stride}"]))
            outputs.append(f"{real}_{stride}")
    return _write(path, graph, outputs, shape, listed=False)


def center_face(path: Path, outputs: Sequence[str] = OUTPUTS, size: Sequence[float] = (SIDES[1], SIDES[0])) -> Path:
    """A network as published, for ten pictures of 32 x 32 and with weights among its inputs: red is a face."""
    graph: dict[str, list] = {"nodes": [], "weights": []}
    for name, bias, channel in zip(outputs, ([0.0], size, (OFFSET[1], OFFSET[0])), (0, None, None), strict=True):
        _cells(graph, name, 4, bias, channel)
    return _write(path, graph, outputs, [10, 3, 32, 32], listed=True)
