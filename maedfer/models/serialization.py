"""`save_pretrained` and `from_pretrained`: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maedfer._files import atomic_path
from maedfer.dataclass_tree import from_dict, to_dict, without
from maedfer.errors import InputError
from maedfer.models.config import LGIFormerConfig, MAEDFERConfig, ModelConfig
from maedfer.models.load_report import LoadReport

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

Self = TypeVar("Self", bound="PretrainedModel")

_CONFIG_TYPES: dict[str, type] = {"lgi_former": LGIFormerConfig, "mae_dfer": MAEDFERConfig}


class PretrainedModel(nn.Module):
    """A model with a typed configuration that can be saved to and loaded from a folder.

    A class that derives from `LGIFormer` or `MAEDFER` saves and loads as they do, as long as a configuration is all
    that its constructor needs.

    Attributes:
        model_type: what config.json calls this kind of model, a key of `_CONFIG_TYPES`.
        config: the configuration.
        load_report: what became of a published checkpoint's keys, when the weights came from one.
    """

    model_type: ClassVar[str]
    config: ModelConfig
    load_report: LoadReport | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors into `folder` (made if absent), each atomically.

        Settings that belong to the machine, such as `impl`, are not kept.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}") from error
        kind = {"model_type": self.model_type, "architectures": [type(self).__name__]}
        settings = {**kind, **without(type(self.config), to_dict(self.config), "machine")}
        weights = {name: tensor.detach().contiguous() for name, tensor in _weights(self).items()}
        with atomic_path(folder / WEIGHTS_FILE) as path:
            save_file(weights, path, metadata={"format": "pt"})
        with atomic_path(folder / CONFIG_FILE) as path:
            path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | Path) -> Self:
        """Load a model of this class from a folder written by `save_pretrained`, in evaluation mode.

        Raises:
            InputError: not such a folder, a damaged file, another kind of model, or weights that do not fit.
        """
        config = read_config(folder)
        if not isinstance(config, _CONFIG_TYPES[cls.model_type]):
            kind = next(name for name, config_type in _CONFIG_TYPES.items() if isinstance(config, config_type))
            raise InputError(f"{folder} holds a model of type {kind}, {cls.__name__} loads {cls.model_type}")
        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path} is missing: {folder} is not a complete saved model")
        model = cls(config)
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}") from error
        try:
            load_parameters(model, weights, str(path))
        except InputError as error:
            saved_by = _class_name(folder)
            if saved_by in (None, cls.__name__):
                raise
            raise InputError(
                f"{error}; it was saved by a class {saved_by}: load it with {saved_by}.from_pretrained"
            ) from error
        return model.eval()


def is_saved_model(folder: str | Path) -> bool:
    """Whether a folder holds the configuration of one of our models."""
    try:
        read_config(folder)
    except InputError:
        return False
    return True


def _class_name(folder: str | Path) -> str | None:
    """Name of the class whose model was saved; None where the configuration does not say."""
    names = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8")).get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


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


def load_parameters(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy `weights` into the parameters (and kept buffers) of the same names, strictly.

    Raises:
        InputError: names or shapes differ; nothing was copied then.
    """
    tensors = _weights(model)
    problems = key_problems(
        {name: tuple(value.shape) for name, value in weights.items()},
        {name: tuple(value.shape) for name, value in tensors.items()},
    )
    if problems:
        raise InputError(f"{source} does not fit the model: {problems}")
    for name, tensor in tensors.items():
        tensor.data.copy_(weights[name])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and those buffers that a state dict has, each once: a module that stages share has one name here."""
    kept = model.state_dict(keep_vars=True).keys()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if name in kept}


def key_problems(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], most: int = 5) -> str:
    """Say in one line how two sets of named shapes differ; empty when they do not."""

    def some(names: list[str]) -> str:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    parts = {"missing ": missing, "unexpected ": unexpected, "wrong shape: ": misshaped}
    return "; ".join(what + some(names) for what, names in parts.items() if names)
