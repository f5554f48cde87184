"""Pre-training, fine-tuning and evaluation: `load_config` describes a run, `run_*` carries it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.train.config import RunConfig, check_config, dump_config, list_recipes, load_config
    from maedfer.train.evaluate import run_evaluate
    from maedfer.train.features import features_config, run_features
    from maedfer.train.finetune import run_finetune
    from maedfer.train.pretrain import run_pretrain
    from maedfer.train.run_folder import RunResult

__all__ = [
    "RunConfig",
    "RunResult",
    "check_config",
    "dump_config",
    "features_config",
    "list_recipes",
    "load_config",
    "run_evaluate",
    "run_features",
    "run_finetune",
    "run_pretrain",
]

# What runs needs torchvision and the video readers; settings can be looked at without them.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "config": ["RunConfig", "check_config", "dump_config", "list_recipes", "load_config"],
        "evaluate": ["run_evaluate"],
        "features": ["features_config", "run_features"],
        "finetune": ["run_finetune"],
        "pretrain": ["run_pretrain"],
        "run_folder": ["RunResult"],
    },
)
