"""Fast LGI-Former and MAE-DFER for dynamic facial expression recognition."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maedfer.models import (
        MAEDFER,
        LGIFormer,
        LGIFormerConfig,
        MAEDFERConfig,
        accelerate,
        create_model,
        from_pretrained,
        list_models,
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
    "load_published",
    "model_config",
    "to_published",
]


def __getattr__(name: str) -> Any:
    # Torch is imported on first use, so that `maedfer --help` answers at once.
    if name in __all__:
        return getattr(importlib.import_module("maedfer.models"), name)
    raise AttributeError(f"module 'maedfer' has no attribute {name!r}")
