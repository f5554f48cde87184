"""Small models and measures used by several tests."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from maedfer._native import MODULES
from maedfer.kernels._dispatch import interpreting
from maedfer.models import LGIFormerConfig, MAEDFERConfig

REPOSITORY = Path(__file__).resolve().parent.parent
ASSETS = REPOSITORY / "tests" / "assets"


def load_setup() -> ModuleType:
    """setup.py as a module."""
    spec = importlib.util.spec_from_file_location("maedfer_setup", REPOSITORY / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Two regions along each dimension, so that every order of tokens differs from every other.
SMALL = LGIFormerConfig(
    clip_size=(8, 32, 32),
    patch_size=(2, 8, 8),
    embed_dim=32,
    depth=2,
    num_heads=2,
    region_size=(2, 2, 2),
    num_classes=5,
    init_scale=1.0,
)
SMALL_MAE = MAEDFERConfig(encoder=SMALL, decoder_dim=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)


# Implementations to test. Triton's needs a GPU or its interpreter; the process that runs that leaves the others out.
NATIVE = pytest.param("native", marks=pytest.mark.skipif(MODULES["cpu"] is None, reason="csrc was not compiled"))
TRITON = pytest.param("triton", marks=pytest.mark.gpu)
IMPLEMENTATIONS = ["triton"] if interpreting() else ["reference", "torch", NATIVE, TRITON]
KERNELS = ["triton"] if interpreting() else [NATIVE, TRITON]


def device_of(impl: str) -> torch.device:
    """Where an implementation is tested; skips the test where its device is absent."""
    if impl != "triton" or interpreting():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1 in the environment")
    return torch.device("cuda")


def small(**changes: Any) -> LGIFormerConfig:
    """The small classifier's configuration, changed."""
    return dataclasses.replace(SMALL, **changes)


def small_mae(**changes: Any) -> MAEDFERConfig:
    """The small autoencoder's configuration, changed; encoder fields under `encoder`."""
    return dataclasses.replace(SMALL_MAE, **changes)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest magnitude of the reference."""
    scale = float(reference.detach().abs().max())
    return float((value.detach().to(reference.device) - reference.detach()).abs().max()) / (scale or 1.0)


@dataclasses.dataclass
class Golden:
    """One golden case; see tests/assets/README.md."""

    name: str
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def state(self) -> dict[str, Tensor]:
        """Published state dict, float32."""
        return {key[6:]: value.float() for key, value in self.tensors.items() if key.startswith("state.")}

    @property
    def args(self) -> dict[str, Any]:
        """Published arguments of the constructor, with those of the objective."""
        objective = ("mask_ratio", "target_diff_weight", "normlize_target", "use_frame_diff_as_target")
        return {**self.meta["args"], **{key: self.meta[key] for key in objective if key in self.meta}}


def golden_files() -> list[Path]:
    """All golden cases at hand: those beside the repository, else the ones that it ships."""
    folder = REPOSITORY.parent / "shared" / "golden"
    return sorted((folder if folder.is_dir() else ASSETS).glob("*.safetensors"))


def load_golden(path: Path) -> Golden:
    """Read a golden case."""
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    return Golden(path.stem, meta, load_file(path))


def code_blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of code of a page that are in one of the languages; "" for those that name none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [code for language, code in fenced if language in languages]


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter random values, so that biases and norms take part in a comparison."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Drawn on the CPU, so that they are the same on every device.
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
