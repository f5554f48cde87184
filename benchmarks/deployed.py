"""What a user would take instead of PyTorch to run a trained model: ONNX Runtime and OpenVINO.

They run files of `export_model` as users get them, for any number of clips. OpenVINO computes in bfloat16 by a hint,
where the processor has it; ONNX Runtime has no such thing on processors.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.measure import Timed
from benchmarks.workload import Builders, Candidate, Settings, Skip, Verdict, compare_models, nbytes
from maedfer.errors import MissingDependencyError
from maedfer.models import LGIFormer, export_model
from maedfer.models.export_formats import FORMATS

if TYPE_CHECKING:
    from benchmarks.model_steps import Family

# Provider -> format of `export_model`.
RUNTIMES = {"onnxruntime": "onnx", "openvino": "openvino"}
_LOW = ("avx512_bf16", "amx_bf16", "bf16")


def providers(family: Callable[[], Family], settings: Settings) -> Builders:
    """The runtimes as providers of a classifier's inference."""
    return {name: functools.partial(_candidate, name, family, settings) for name in RUNTIMES}


def _candidate(name: str, family: Callable[[], Family], settings: Settings) -> Candidate:
    if settings.device != "cpu":
        raise Skip(f"{name} is measured on processors")
    made = family()
    network = made.fresh()
    assert isinstance(network, LGIFormer)
    (clips,) = made.inputs
    run = Deployed(network, "uint8").open(name, settings.dtype)

    def judge() -> Verdict:
        return compare_models([run(clips)], *made.truth, outputs=1, dtype=settings.dtype)

    return Candidate(
        judge, {"forward": Timed(lambda _: run(clips))}, {"forward": made.cost}, nbytes(network.parameters())
    )


class Deployed:
    """A model as files for `RUNTIMES`, each written when it is first asked for and gone with this object.

    Args:
        network: the model.
        pixels: what clips are given as, the `input` of `export_model`.
    """

    def __init__(self, network: LGIFormer, pixels: str) -> None:
        self.network, self.pixels = network, pixels
        self.folder = tempfile.TemporaryDirectory()

    def open(self, name: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The model in a runtime, with as many threads as PyTorch has now.

        Args:
            name: of the runtime.
            dtype: of products, float32 or bfloat16.

        Raises:
            Skip: the runtime is not installed, or does not compute in this dtype here.
        """
        low = dtype != torch.float32
        if low and (name == "onnxruntime" or dtype != torch.bfloat16):
            raise Skip(f"{name} does not compute in {str(dtype).removeprefix('torch.')} on processors")
        if low and not set(_LOW) & set(machine()["instructions"]):
            raise Skip("the processor has no products of bfloat16")
        kind = FORMATS[RUNTIMES[name]]
        out = Path(self.folder.name) / f"model{kind.suffixes[0]}"
        try:
            if not out.exists():
                export_model(self.network, out, RUNTIMES[name], input=self.pixels)
            return kind.open(out, torch.get_num_threads(), low)
        except MissingDependencyError as error:
            raise Skip(str(error)) from error
