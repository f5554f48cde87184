"""Fast LGI-Former and MAE-DFER for dynamic facial expression recognition."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maedfer import data as data
    from maedfer import errors as errors
    from maedfer import evaluation as evaluation
    from maedfer import kernels as kernels
    from maedfer import layers as layers
    from maedfer import models as models
    from maedfer import report as report
    from maedfer import synthetic as synthetic
    from maedfer import train as train
    from maedfer.models import (
        MAEDFER,
        LGIFormer,
        LGIFormerConfig,
        MAEDFERConfig,
        accelerate,
        create_model,
        from_pretrained,
        list_models,
        load,
        load_published,
        model_config,
        to_published,
    )

__version__ = "0.1.0"

__all__ = [
    "MAEDFER",
    "LGIFormer",
    "LGIFormerConfig",
    "MAEDFERConfig",
    "accelerate",
    "create_model",
    "from_pretrained",
    "list_models",
    "load",
    "load_published",
    "model_config",
    "to_published",
]

_ROOMS = ("data", "errors", "evaluation", "kernels", "layers", "models", "report", "synthetic", "train")


def __getattr__(name: str) -> Any:
    # Torch is imported on first use, so that `maedfer --help` answers at once.
    if name in _ROOMS:
        return importlib.import_module(f"maedfer.{name}")
    if name in __all__:
        return getattr(importlib.import_module("maedfer.models"), name)
    raise AttributeError(f"module 'maedfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, *(name for name in globals() if name.startswith("__"))]
