"""Pre-training, fine-tuning and evaluation: `load_config` describes a run, `run_*` carries it out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from maedfer.train.config import RunConfig, check_config, dump_config, list_recipes, load_config

if TYPE_CHECKING:
    from maedfer.train.evaluate import run_evaluate
    from maedfer.train.finetune import run_finetune
    from maedfer.train.pretrain import run_pretrain
    from maedfer.train.run_folder import RunResult

__all__ = [
    "RunConfig",
    "RunResult",
    "check_config",
    "dump_config",
    "list_recipes",
    "load_config",
    "run_evaluate",
    "run_finetune",
    "run_pretrain",
]

_LAZY = {
    "RunResult": "run_folder",
    "run_evaluate": "evaluate",
    "run_finetune": "finetune",
    "run_pretrain": "pretrain",
}


def __getattr__(name: str) -> Any:
    # What runs needs torchvision and the video readers; settings can be looked at without them.
    if name in _LAZY:
        return getattr(importlib.import_module(f"maedfer.train.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'maedfer.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
