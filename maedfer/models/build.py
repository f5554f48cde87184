"""Models by name, by configuration, and from saved folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

from maedfer.models.config import LGIFormerConfig, MAEDFERConfig, ModelConfig, model_config
from maedfer.models.hub import named, on_disk
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.serialization import read_config


def create_model(name: str, **overrides: Any) -> LGIFormer | MAEDFER:
    """Make a model with fresh weights.

    Args:
        name: one of `list_models()`.
        overrides: fields of the configuration to change, see `model_config`.

    Raises:
        InputError: unknown name or field, or settings that do not fit together.
    """
    return build_model(model_config(name, **overrides))


@overload
def build_model(config: LGIFormerConfig) -> LGIFormer: ...
@overload
def build_model(config: MAEDFERConfig) -> MAEDFER: ...
def build_model(config: ModelConfig) -> LGIFormer | MAEDFER:
    """Make the model that a configuration describes, with fresh weights."""
    return LGIFormer(config) if isinstance(config, LGIFormerConfig) else MAEDFER(config)


def from_pretrained(folder: str | Path, *, revision: str | None = None) -> LGIFormer | MAEDFER:
    """Load the model that `save_pretrained` wrote into `folder`, in evaluation mode.

    A class of your own that derives from one of ours loads with its own `from_pretrained`.

    Args:
        folder: the folder; or the name of a model on the Hugging Face hub, "user/name" where no such folder is here, or
            "hf://user/name".
        revision: of a model on the hub, a branch, tag or commit.

    Raises:
        InputError: not such a folder, a damaged file, weights that do not fit the configuration, or a model that the
            hub does not give.
        MissingDependencyError: the hub was named and huggingface_hub is not installed.
    """
    folder = on_disk(named(folder, revision))
    is_classifier = isinstance(read_config(folder), LGIFormerConfig)
    return LGIFormer.from_pretrained(folder) if is_classifier else MAEDFER.from_pretrained(folder)
