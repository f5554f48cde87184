"""`save_pretrained` and `from_pretrained`: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maedfer._files import atomic_path
from maedfer.dataclass_tree import from_dict, to_dict
from maedfer.errors import InputError
from maedfer.models.config import LGIFormerConfig, MAEDFERConfig, ModelConfig
from maedfer.models.load_report import LoadReport

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

Self = TypeVar("Self", bound="PretrainedModel")

_CONFIG_TYPES: dict[str, type] = {"lgi_former": LGIFormerConfig, "mae_dfer": MAEDFERConfig}


class PretrainedModel(nn.Module):
    """A model with a typed configuration that can be saved to and loaded from a folder.

    Attributes:
        config: the configuration.
        load_report: what became of a published checkpoint's keys, when the weights came from one.
    """

    config: ModelConfig
    load_report: LoadReport | None = None
    _classes: ClassVar[dict[type, type[PretrainedModel]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        PretrainedModel._classes[{"LGIFormer": LGIFormerConfig, "MAEDFER": MAEDFERConfig}[cls.__name__]] = cls

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors into `folder` (made if absent), each atomically.

        Who computes (`impl`, `full_attention`) belongs to a machine and not to the weights, and is not kept.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}") from error
        kind = next(name for name, config_type in _CONFIG_TYPES.items() if isinstance(self.config, config_type))
        settings = {"model_type": kind, "architectures": [type(self).__name__], **_portable(to_dict(self.config))}
        # Attention modules that are shared between stages appear once here.
        weights = {name: parameter.detach().contiguous() for name, parameter in self.named_parameters()}
        with atomic_path(folder / WEIGHTS_FILE) as path:
            save_file(weights, path, metadata={"format": "pt"})
        with atomic_path(folder / CONFIG_FILE) as path:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | Path) -> Self:
        """Load a model of this class from a folder written by `save_pretrained`.

        Raises:
            InputError: not such a folder, a damaged file, another class of model, or weights that do not fit.
        """
        model = from_pretrained(folder)
        if not isinstance(model, cls):
            raise InputError(f"{folder} holds a {type(model).__name__}, not a {cls.__name__}")
        return model


def from_pretrained(folder: str | Path) -> PretrainedModel:
    """Load the model that `save_pretrained` wrote into `folder`, in evaluation mode.

    Raises:
        InputError: not such a folder, a damaged file, or weights that do not fit the configuration.
    """
    config = read_config(folder)
    model = PretrainedModel._classes[type(config)](config)
    path = Path(folder) / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: {folder} is not a complete saved model")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    load_parameters(model, weights, str(path))
    return model.eval()


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a saved model.

    Raises:
        InputError: config.json is missing, damaged, or not one of ours.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {folder} is not a saved model") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    kind = settings.pop("model_type", None) if isinstance(settings, dict) else None
    if kind not in _CONFIG_TYPES:
        raise InputError(f"{path}: model_type is {kind!r}, expected one of {', '.join(_CONFIG_TYPES)}")
    settings.pop("architectures", None)
    return from_dict(_CONFIG_TYPES[kind], settings, path=str(path))


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in ("impl", "full_attention")}
    return {key: _portable(value) if isinstance(value, dict) else value for key, value in kept.items()}


def load_parameters(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy `weights` into the parameters of the same names, strictly.

    Raises:
        InputError: names or shapes differ; nothing was copied then.
    """
    parameters = dict(model.named_parameters())
    problems = key_problems(
        {name: tuple(value.shape) for name, value in weights.items()},
        {name: tuple(value.shape) for name, value in parameters.items()},
    )
    if problems:
        raise InputError(f"{source} does not fit the model: {problems}")
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])


def key_problems(given: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], most: int = 5) -> str:
    """Say in one line how two sets of named shapes differ; empty when they do not."""

    def some(names: list[str]) -> str:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    parts = []
    missing = sorted(wanted.keys() - given.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    misshaped = [
        f"{name} is {list(given[name])}, expected {list(wanted[name])}"
        for name in sorted(given.keys() & wanted.keys())
        if given[name] != wanted[name]
    ]
    if missing:
        parts.append(f"missing {some(missing)}")
    if unexpected:
        parts.append(f"unexpected {some(unexpected)}")
    if misshaped:
        parts.append(f"wrong shape: {some(misshaped)}")
    return "; ".join(parts)
