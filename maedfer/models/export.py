"""`export_model`: a classifier or feature extractor as a file that other runtimes run, checked against the model."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from maedfer._files import atomic_path
from maedfer._values import expand_home
from maedfer.dataclass_tree import to_dict
from maedfer.errors import InputError, some, unknown
from maedfer.kernels import use_impl
from maedfer.models.config import channel_statistics
from maedfer.models.export_formats import BATCH, CLIPS, FORMATS, Format, Run, quiet
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.lora import merge_lora
from maedfer.models.mae_dfer import MAEDFER

INPUTS = {"uint8": torch.uint8, "float32": torch.float32}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The largest difference from the model in float32 that a file may have, over the largest value.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
# What a file says of the probabilities that are made of its logits, by whether there is a temperature.
_PROBABILITIES = {False: "softmax(logits): confidences are uncalibrated", True: "softmax(logits / temperature)"}
# Clips of the trace, and of the check: another number, and one, which is easily taken for a constant.
_TRACED, _CHECKED = 2, (3, 1)


@dataclass(frozen=True)
class Exported:
    """What `export_model` wrote.

    Attributes:
        files: all files, the one to open first.
        about: what is in the file's metadata.
        difference: the largest difference from the model on clips of noise, over the largest value.
        tolerance: the most it may be.
    """

    files: tuple[Path, ...]
    about: dict[str, Any]
    difference: float
    tolerance: float


class _Deployed(nn.Module):
    """What is traced: clips as they are given, results in float32."""

    def __init__(self, model: LGIFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        """[B, n] float32."""
        if clips.dtype != torch.uint8:
            clips = clips.to(self.model.encoder.embedding.weight.dtype)
        return self.model(clips).float()


def check_export(out: str | Path, format: str, *, input: str = "uint8", dtype: str = "float32") -> Format:
    """Refuse what `export_model` cannot write, before there is a model.

    Raises:
        InputError: unknown names, a dtype that the format has not, a file of another suffix, no folder to write to, or
            no compiler.
        MissingDependencyError: a package of the format is not installed.
    """
    for kind, name, known in (("format", format, FORMATS), ("input", input, INPUTS), ("dtype", dtype, DTYPES)):
        if name not in known:
            raise unknown(kind, name, known)
    kind_of_file, out = FORMATS[format], Path(expand_home(str(out)))
    if DTYPES[dtype] not in kind_of_file.dtypes:
        told = (
            "; OpenVINO computes in it where it is told INFERENCE_PRECISION_HINT=bf16" if format == "openvino" else ""
        )
        raise InputError(f"a file of {kind_of_file.title} is written in float32, not in {dtype}{told}")
    suffix = kind_of_file.suffixes[0]
    if out.suffix != suffix:
        raise InputError(f"{str(out)!r} must end in {suffix}, as files of {kind_of_file.title} do")
    for file in kind_of_file.files(out):
        if file.is_dir():
            raise InputError(f"cannot write {str(file)!r}: it is a folder")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {str(out)!r}: there is no folder {str(out.parent)!r}")
    kind_of_file.needs()
    return kind_of_file


def export_model(
    model: LGIFormer,
    out: str | Path,
    format: str,
    *,
    input: str = "uint8",
    dtype: str = "float32",
    tell: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write a model for a runtime, with its preprocessing, for any number of clips, and check the file.

    The graph has PyTorch's own operators alone. It takes "clips" [batch, I, *clip_size] and gives "logits" [batch,
    num_classes] or, where the model has no classes, "features" [batch, C], float32 both. The file's metadata holds,
    under "maedfer" and as JSON, what `describe` says.

    Args:
        model: a classifier or feature extractor; an autoencoder becomes one by
            `maedfer.evaluation.feature_extractor`. LoRA is merged. It is left as it is.
        out: the file to write; OpenVINO's weights go to a .bin beside it. An earlier file is replaced when the new one
            has passed its check, and stays where it does not.
        format: "onnx"; "openvino"; "pt2", a program of `torch.export`; or "aoti", compiled by AOTInductor for the
            processor of this machine.
        input: "uint8", pixels as they are read, which the graph normalises; or "float32", normalised by the caller.
        dtype: of weights and products: "float32", or "bfloat16" for pt2 and aoti.
        tell: is called with what is being done.

    Raises:
        InputError: as `check_export`; the model is none of ours or calls operators that only this package has; or the
            file differs from the model by more than `TOLERANCE`, and is not kept.
        MissingDependencyError: a package of the format is not installed.
    """
    kind, out = check_export(out, format, input=input, dtype=dtype), Path(expand_home(str(out)))
    if isinstance(model, MAEDFER):
        raise InputError(
            "an autoencoder has no output to deploy: give maedfer.evaluation.feature_extractor(model), its encoder"
        )
    if not isinstance(model, LGIFormer):
        raise InputError(f"an LGIFormer can be exported, got {type(model).__name__}")
    about = describe(model, input, dtype)
    tell("tracing the model")
    own = merge_lora(copy.deepcopy(model)).cpu().float().eval().requires_grad_(False)
    checks = [_noise(own, count, INPUTS[input]) for count in _CHECKED]
    wanted = [own(clips) for clips in checks]
    program = _trace(own.to(DTYPES[dtype]), _noise(own, _TRACED, INPUTS[input]))
    files = kind.files(out)
    tolerance = TOLERANCE[DTYPES[dtype]]
    with contextlib.ExitStack() as stack:
        # First, so that a folder that cannot be written is found out before the conversion.
        targets = [stack.enter_context(atomic_path(file)) for file in files]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")))
        tell("compiling" if format == "aoti" else f"converting to {kind.title}")
        with quiet():
            kind.write(program, folder / out.name, about["output"]["name"], json.dumps(about))
            tell("checking the file against the model")
            difference = _difference(kind.open(folder / out.name, None, False), checks, wanted)
        if not difference <= tolerance:
            raise InputError(
                f"the exported file differs from the model by {difference:.2g} of the largest value, {tolerance:g} is "
                f"allowed: {out} was not written; choose another format"
            )
        for file, target in zip(files, targets, strict=True):
            os.replace(folder / file.name, target)
    return Exported(tuple(files), about, difference, tolerance)


def describe(model: LGIFormer, input: str = "uint8", dtype: str = "float32") -> dict[str, Any]:
    """What an exported file says about itself, as plain values.

    Returns:
        "maedfer", the version; "input" with name, dtype, shape, axes, mean, std and who normalises; "output" with name
        and shape; "classes" in the order of the logits; "temperature", None where nobody has fitted it, and
        "probabilities", how they are made of logits and whether they are calibrated; "sampling", how clips are read,
        None where that is not known;
        "dtype" of the weights; and "model", the configuration as in config.json.
    """
    config, clip = model.config, model.clip_settings
    mean, std = channel_statistics(config.in_channels)
    axes = {2: ["row", "column"], 3: ["frame", "row", "column"]}.get(len(config.clip_size))
    kept = {} if clip is None else to_dict(clip)
    sampling = {key: kept[key] for key in kept if key not in ("classes", "temperature")} or None
    return {
        # Not by an import, which type checkers would follow in a circle.
        "maedfer": sys.modules["maedfer"].__version__,
        "input": {
            "name": CLIPS,
            "dtype": input,
            "shape": [BATCH, config.in_channels, *config.clip_size],
            "axes": axes and [BATCH, "channel", *axes],
            "channels": "RGB" if config.in_channels == 3 else None,
            "mean": list(mean),
            "std": list(std),
            "normalised_by": "file" if input == "uint8" else "caller: (pixel / 255 - mean) / std",
        },
        "output": {
            "name": "logits" if config.num_classes else "features",
            "shape": [BATCH, config.num_classes or config.embed_dim],
            "dtype": "float32",
        },
        "classes": list(kept.get("classes", ())),
        "temperature": kept.get("temperature") if config.num_classes else None,
        "probabilities": _PROBABILITIES[kept.get("temperature") is not None] if config.num_classes else None,
        "sampling": sampling,
        "dtype": dtype,
        "model": model.settings(),
    }


def _trace(model: LGIFormer, clips: Tensor) -> ExportedProgram:
    """The model, which is used up, as a graph of PyTorch's operators.

    Raises:
        InputError: there are others in it.
    """
    for module in model.modules():
        if hasattr(module, "impl"):
            module.impl = "torch"  # type: ignore[assignment]
    batch = torch.export.Dim(BATCH, min=1)
    with use_impl("torch"), torch.no_grad(), quiet():
        program = torch.export.export(_Deployed(model).eval(), (clips,), dynamic_shapes=({0: batch},))
    foreign = {
        str(node.target)
        for node in program.graph.nodes
        if node.op == "call_function" and getattr(node.target, "namespace", "aten") != "aten"
    }
    if foreign:
        raise InputError(
            f"the model calls {some(sorted(foreign))}, which no other runtime has: export it with layers of PyTorch "
            "(for a ViT full_attention=sdpa)"
        )
    return program


def _noise(model: LGIFormer, count: int, pixels: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = count, model.config.in_channels, *model.config.clip_size
    if pixels == torch.uint8:
        return torch.randint(0, 256, shape, dtype=pixels, generator=generator)
    return torch.randn(shape, dtype=pixels, generator=generator)


def _difference(run: Run, checks: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of a file's results over the largest value; NaN where shapes or values are none."""
    found = [run(clips) for clips in checks]
    if any(got.shape != want.shape for got, want in zip(found, wanted, strict=True)):
        return math.nan
    want = torch.cat(list(wanted))
    # Tensors' `max` keeps a NaN.
    difference, largest = float((torch.cat(found) - want).abs().max()), float(want.abs().max())
    return difference / largest if largest else difference
