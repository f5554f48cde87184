"""A model that somebody else's file builds, and ours with the same weights."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormer, create_model, load_published

# What the file is imported as: its own name may be that of a package.
_MODULE = "benchmarks_peer"


@dataclass(frozen=True)
class Peer:
    """Two models that are compared.

    Attributes:
        ours: the classifier of this package.
        network: the other one, in evaluation mode; None where ours is measured alone.
        apart: why they do not have the same weights; None when they do.
    """

    ours: LGIFormer
    network: nn.Module | None = None
    apart: str | None = None

    @property
    def shares_weights(self) -> bool:
        """Whether the results of both can be compared."""
        return self.network is not None and self.apart is None


def load_peer(spec: str | None, clip_size: Sequence[int], region_size: Sequence[int], classes: int = 7) -> Peer:
    """Build the peer and our model, which takes over the peer's weights where they are those of a published classifier.

    Args:
        spec: FILE.py:FUNCTION, where calling FUNCTION gives a `torch.nn.Module` that takes normalised float32 clips
            [B, 3, *clip_size] and gives logits [B, classes]. None for our model alone.
        clip_size: frames, height, width.
        region_size: in tokens, which weights do not tell.
        classes: of our model where there is no peer.

    Raises:
        InputError: the file, the function or what it builds cannot be used.
    """
    frames, height, width = clip_size
    network = None if spec is None else build_network(spec)
    if network is not None:
        torch.manual_seed(0)
        classes = _count_classes(network, clip_size)
        settings = {"all_frames": frames, "img_size": [height, width], "lg_region_size": list(region_size)}
        try:
            ours = load_published(network.state_dict(), "finetune", settings)
            assert isinstance(ours, LGIFormer)
            return Peer(ours, network)
        except InputError as error:
            apart = str(error)
    # Weights of the head at their usual size, as a model that was trained has them.
    made = create_model(
        "lgi_former_base",
        clip_size=tuple(clip_size),
        region_size=tuple(region_size),
        num_classes=classes,
        init_scale=1.0,
    )
    assert isinstance(made, LGIFormer)
    return Peer(made.eval(), network, None if network is None else apart)


def build_network(spec: str) -> nn.Module:
    """Run a file and call its function.

    Args:
        spec: FILE.py:FUNCTION.

    Returns:
        What the function built, in evaluation mode.

    Raises:
        InputError: there is no such file or function, one of them raises, or no module is returned.
    """
    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise InputError(f"--peer {spec!r}: give FILE.py:FUNCTION, a function without arguments that builds a model")
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"--peer {spec!r}: there is no file {path!r}")
    module = _import(file)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == _MODULE]
        if own:
            raise unknown("function", name, own, f"in {path!r}")
        raise InputError(f"{path!r} has no function {name!r}: give FILE.py:FUNCTION")
    torch.manual_seed(0)
    network = _try(function, f"{name}() of {path!r}")
    if not isinstance(network, nn.Module):
        raise InputError(f"{name}() of {path!r} gives {_described(network)}: it must build a torch.nn.Module")
    return network.eval()


def _import(file: Path) -> ModuleType:
    """Run a file as a module; what lies beside it can be imported, as when Python is given the file."""
    place = importlib.util.spec_from_file_location(_MODULE, file)
    if place is None or place.loader is None:
        raise InputError(f"--peer: {str(file)!r} is no file of Python: its name must end in .py")
    module = importlib.util.module_from_spec(place)
    sys.modules[_MODULE] = module
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _try(lambda: place.loader.exec_module(module), repr(str(file)))  # type: ignore[union-attr]
    return module


def _count_classes(network: nn.Module, clip_size: Sequence[int]) -> int:
    clips = torch.randn(2, 3, *clip_size)
    with torch.no_grad():
        logits = _try(lambda: network(clips), f"the peer, given clips {list(clips.shape)},")
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2 or not logits.is_floating_point():
        raise InputError(
            f"the peer, given clips {list(clips.shape)}, gives {_described(logits)}: it must give logits [2, classes]"
        )
    if not logits.isfinite().all():
        raise InputError(f"the peer, given random clips {list(clips.shape)}, gives logits that are not finite")
    return logits.shape[1]


def _try(call: Any, what: str) -> Any:
    """A call into somebody else's code, whose errors become a sentence."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        text = str(error).strip().splitlines()
        raise InputError(f"{what} raises {type(error).__name__}: {text[0] if text else 'no message'}") from error


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"
