"""Versions of what is installed, what of csrc was compiled, and what "auto" means here."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

# Packages that some commands need or gain from, in the order of printing.
PACKAGES = (
    "torch numpy einops safetensors triton torchvision av decord pillow pyyaml tqdm matplotlib scikit-learn "
    "tensorboard huggingface_hub wandb mlflow xformers onnx onnxscript onnxruntime openvino"
).split()


def build() -> dict[str, Any]:
    """Versions of what is installed, None for what is not."""
    import torch

    from maedfer import __version__
    from maedfer._native import MODULES, build_record
    from maedfer.kernels import choose
    from maedfer.train.precision import auto_in_words

    facts: dict[str, Any] = {"maedfer": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = None
    facts["torch built for CUDA"] = torch.version.cuda
    facts["CUDA available"] = torch.cuda.is_available()
    facts["GPUs"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["CPU threads"] = torch.get_num_threads()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for part, record in build_record().items():
        facts[f"csrc, {part.upper()} part"] = made_with(record)
    compiled = MODULES["cpu"]
    facts["csrc, instruction sets here"] = [] if compiled is None else compiled.variants()
    facts["implementation"] = f"{choose('auto', device)} on {device.type} (impl=auto)"
    facts["precision"] = f"{auto_in_words(device)} (train.precision=auto)"
    return facts


def made_with(record: dict[str, Any]) -> str:
    """What a part of csrc was compiled with, or why it was not, in words."""
    if not record["built"]:
        return f"not there: {record['why']}"
    said = [record[key] for key in ("architectures", "nvcc", "compiler") if key in record]
    if "variants" in record:
        said.append(f"for {', '.join(record['variants'])}")
    said += [
        f"not for {name} (the compiler does not know {flags})" for name, flags in record.get("unknown", {}).items()
    ]
    return "; ".join(said)
