"""`save_pretrained` and `from_pretrained`: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from maedfer._files import atomic_path, parse_json
from maedfer._values import expand_home
from maedfer.dataclass_tree import field_types, from_dict, to_dict, without
from maedfer.errors import InputError, some
from maedfer.models.card import CardFacts, base_card
from maedfer.models.clip_settings import ClipSettings
from maedfer.models.config import LGIFormerConfig, MAEDFERConfig, ModelConfig
from maedfer.models.hub import CARD_FILE, check_repository, named, on_disk, push
from maedfer.models.load_report import LoadReport
from maedfer.models.low_rank import merged_tensors
from maedfer.models.weight_files import CONFIG_FILE, WEIGHTS_FILE, read_weights_file, write_safetensors_file

# Key of config.json with the class names and how clips are read; older folders have none.
_CLIP_SETTINGS = "clip_settings"

Self = TypeVar("Self", bound="PretrainedModel")

MODEL_TYPES: dict[str, type] = {"lgi_former": LGIFormerConfig, "mae_dfer": MAEDFERConfig}


class PretrainedModel(nn.Module):
    """A model with a typed configuration that can be saved to and loaded from a folder.

    A class that derives from `LGIFormer` or `MAEDFER` saves and loads as they do, as long as a configuration is all
    that its constructor needs.

    Attributes:
        model_type: what config.json calls this kind of model, a key of `MODEL_TYPES`.
        config: the configuration.
        load_report: what became of a published checkpoint's keys, when the weights came from one.
        clip_settings: names of the classes and how clips are read, where the model was trained by a run of this
            package or they were set by hand; they are saved and loaded with the model.
    """

    model_type: ClassVar[str]
    config: ModelConfig
    load_report: LoadReport | None = None
    clip_settings: ClipSettings | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors into `folder` (made if absent), each atomically.

        Settings that belong to the machine, such as `impl`, are not kept. LoRA is merged into the weights that are
        written; the model stays as it is.

        Raises:
            InputError: the folder cannot be written, or the file would not load again: layers are no longer those that
                the configuration describes.
        """
        folder = Path(expand_home(str(folder)))
        tensors = own_tensors(self)
        known = {id(tensor) for tensor in tensors.values()}
        lost = [name for name, value in self.state_dict(keep_vars=True).items() if id(value) not in known]
        if lost:
            raise InputError(
                f"{lost[0]} of {type(self).__name__} is neither parameter nor buffer, so that the file would lack it "
                "(a quantised layer?): save the model as it was before, or use torch.save"
            )
        tensors = merged_tensors(self, tensors)
        if problems := self._foreign_parts(tensors):
            raise InputError(
                f"{type(self).__name__} has layers that its configuration does not describe and would not load again "
                f"({problems}): merge or remove adapters, pruning and parametrisations first, or keep its state dict "
                "with torch.save"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}") from error
        weights = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        write_safetensors_file(folder / WEIGHTS_FILE, weights)
        _write_settings(folder, self.settings())
        return folder

    def _foreign_parts(self, tensors: Mapping[str, Tensor]) -> str:
        """How the model's tensors differ from those of its configuration; empty for a class of somebody else's."""
        if not type(self).__module__.startswith("maedfer."):
            return ""
        with torch.device("meta"):
            own = own_tensors(type(self)(self.config))
        return key_problems(_shapes(tensors), _shapes(own))

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str | None = None,
        token: str | None = None,
        card: str | None = None,
    ) -> str:
        """Write the model, as `save_pretrained` does, and its card into a repository on the Hugging Face hub.

        Args:
            repository: "user/name"; made where it is not there.
            private: whether only its owners may see it. None = as it is; one that is made is private.
            revision: branch to write to, made where it is not there; None = main.
            message: of the commit.
            token: instead of that which `hf auth login` or HF_TOKEN has left.
            card: README.md to be written, such as `str(maedfer.report.model_card(run, repository))`, in the place of
                whatever is there; None = what the model tells by itself, unless somebody has written another one.

        Returns:
            The address of the commit.

        Raises:
            InputError: weights that are not finite, or see `save_pretrained` and `maedfer.models.hub.push`.
            MissingDependencyError: huggingface_hub is not installed.
        """
        repository = check_repository(repository)
        for name, tensor in own_tensors(self).items():
            if not tensor.isfinite().all():
                raise InputError(f"{name} of the model is not finite: nobody can use these weights")
        if card is None:
            count = sum(tensor.numel() for tensor in merged_tensors(self, own_tensors(self)).values())
            text = str(base_card(self.config, self.clip_settings, count, repository, CardFacts()))
        else:
            text = card
        with tempfile.TemporaryDirectory(prefix="maedfer-") as folder:
            self.save_pretrained(folder)
            files = {name: Path(folder, name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
            return push(
                {**files, CARD_FILE: text.encode()},
                repository,
                private=private,
                revision=revision,
                message=message,
                token=token,
                replace_card=card is not None,
            )

    def settings(self) -> dict[str, Any]:
        """What config.json says: the kind of model, its architecture, and its clip settings where it has some."""
        kind = {"model_type": self.model_type, "architectures": [type(self).__name__]}
        settings = {**kind, **without(type(self.config), to_dict(self.config), "machine")}
        if self.clip_settings is not None:
            settings[_CLIP_SETTINGS] = _kept(self.clip_settings)
        return settings

    @classmethod
    def from_pretrained(cls: type[Self], folder: str | Path, *, revision: str | None = None) -> Self:
        """Load a model of this class, in evaluation mode.

        Args:
            folder: written by `save_pretrained`; or the name of a model on the Hugging Face hub, "user/name" where no
                such folder is here, or "hf://user/name".
            revision: of a model on the hub, a branch, tag or commit.

        Raises:
            InputError: not such a folder, a damaged file, another kind of model, weights that do not fit, or a model
                that the hub does not give.
            MissingDependencyError: the hub was named and huggingface_hub is not installed.
        """
        folder = on_disk(named(folder, revision))
        config = read_config(folder)
        if not isinstance(config, MODEL_TYPES[cls.model_type]):
            kind = next(name for name, config_type in MODEL_TYPES.items() if isinstance(config, config_type))
            raise InputError(f"{folder} holds a model of type {kind}, {cls.__name__} loads {cls.model_type}")
        path = folder / WEIGHTS_FILE
        if not os.path.isfile(path):
            raise InputError(f"{path} is missing: {folder} is not a complete saved model")
        weights = read_weights_file(path)
        if not isinstance(weights, dict):
            raise InputError(f"{path} holds a {type(weights).__name__}, not the weights of a saved model")
        try:
            if cls.__module__.startswith("maedfer."):
                # Sizes are compared before memory is taken for them.
                with torch.device("meta"):
                    check_fit(own_tensors(cls(config)), weights, str(path))
            with holding_values():
                model = cls(config)
            load_parameters(model, weights, str(path))
        except InputError as error:
            saved_by = _class_name(folder)
            if saved_by in (None, cls.__name__):
                raise
            raise InputError(
                f"{error}; it was saved by a class {saved_by}: load it with {saved_by}.from_pretrained"
            ) from error
        model.clip_settings = read_clip_settings(folder)
        return model.eval()


def is_own(kind: object) -> bool:
    """Whether a model_type of config.json is that of a model of this package."""
    return isinstance(kind, str) and kind in MODEL_TYPES


def is_saved_model(folder: str | Path) -> bool:
    """Whether a folder holds the configuration of one of our models."""
    try:
        read_config(folder)
    except InputError:
        return False
    return True


def _class_name(folder: str | Path) -> str | None:
    """Name of the class whose model was saved; None where the configuration does not say."""
    names = read_settings(folder).get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration of a saved model.

    Raises:
        InputError: config.json is missing, damaged, or not one of ours.
    """
    return config_of(read_settings(folder), str(Path(folder) / CONFIG_FILE))


def config_of(settings: Mapping[str, Any], where: str) -> ModelConfig:
    """The configuration that `PretrainedModel.settings` describes.

    Args:
        settings: the description.
        where: what messages call its place.

    Raises:
        InputError: it is not one of ours.
    """
    settings = dict(settings)
    kind = settings.pop("model_type", None)
    if not is_own(kind):
        raise InputError(f"{where}: model_type is {kind!r}, expected one of {', '.join(MODEL_TYPES)}")
    settings.pop("architectures", None)
    settings.pop(_CLIP_SETTINGS, None)
    try:
        return from_dict(MODEL_TYPES[kind], settings, path=where)
    except InputError as error:
        newer = {key for key in settings if key not in field_types(MODEL_TYPES[kind])}
        hint = " (a newer version of maedfer may have saved it)" if newer else ""
        raise InputError(f"{error}{hint}") from error


def read_clip_settings(folder: str | Path) -> ClipSettings | None:
    """The class names of a saved model and how it reads clips; None where its config.json does not say.

    Raises:
        InputError: config.json is missing or damaged, or names another number of classes than the model has.
    """
    return clip_settings_of(read_settings(folder), str(Path(folder) / CONFIG_FILE))


def write_clip_settings(folder: str | Path, clip_settings: ClipSettings) -> None:
    """Change how a saved model reads clips, in its config.json alone; its weights are not touched.

    Raises:
        InputError: there is no such model, or its configuration cannot be written.
    """
    settings = read_settings(folder)
    config_of(settings, str(Path(folder) / CONFIG_FILE))
    _write_settings(Path(folder), {**settings, _CLIP_SETTINGS: _kept(clip_settings)})


def clip_settings_of(settings: Mapping[str, Any], where: str) -> ClipSettings | None:
    """The clip settings in what `PretrainedModel.settings` gives; None where there are none.

    Raises:
        InputError: they are damaged, or name another number of classes than the model has.
    """
    values = settings.get(_CLIP_SETTINGS)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise InputError(f"{where}: {_CLIP_SETTINGS} must be a section with keys, got {values!r}")
    found = from_dict(ClipSettings, values, path=f"{where}: {_CLIP_SETTINGS}")
    count = settings.get("num_classes")
    if found.classes and isinstance(count, int) and len(found.classes) != count:
        raise InputError(f"{where}: {_CLIP_SETTINGS} names {len(found.classes)} classes but num_classes is {count}")
    return found


def _kept(clip_settings: ClipSettings) -> dict[str, Any]:
    """What config.json says of clips: earlier versions know of no temperature, and need not where there is none."""
    values = to_dict(clip_settings)
    if clip_settings.temperature is None:
        del values["temperature"]
    return values


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    with atomic_path(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What config.json of a folder says, whoever wrote it.

    Raises:
        InputError: there is none, or it is no JSON object.
    """
    path = Path(folder) / CONFIG_FILE
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist: {folder} is not a saved model")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def holding_values() -> torch.device:
    """The default device, or the CPU where that is the meta device, which would lose weights without a word."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def load_parameters(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy `weights` into the parameters (and kept buffers) of the same names, strictly.

    Raises:
        InputError: names, shapes or kinds of numbers differ; nothing was copied then.
    """
    tensors = own_tensors(model)
    check_fit(tensors, weights, source)
    for name, tensor in tensors.items():
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise InputError(f"{source}: {name} is of {weights[name].dtype}, the model's is of {tensor.dtype}")
    for name, tensor in tensors.items():
        tensor.data.copy_(weights[name])


def check_fit(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse `weights` that have not the names and shapes of `tensors`.

    Raises:
        InputError: naming what differs.
    """
    if problems := key_problems(_shapes(weights), _shapes(tensors)):
        raise InputError(f"{source} does not fit the model: {problems}")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and those buffers that a state dict has, each once: a module that stages share has one name here."""
    kept = model.state_dict(keep_vars=True).keys()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if name in kept}


def key_problems(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], most: int = 5) -> str:
    """Say in one line how two sets of named shapes differ; empty when they do not."""
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshaped = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    parts = {"missing ": missing, "unexpected ": unexpected, "wrong shape: ": misshaped}
    return "; ".join(what + some(names, most) for what, names in parts.items() if names)
