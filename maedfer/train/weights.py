"""Models from wherever weights come: a saved model, a run folder, one of its checkpoints, a published file."""

from __future__ import annotations

from pathlib import Path

from maedfer.errors import InputError
from maedfer.models import (
    MAEDFER,
    LGIFormer,
    LoadReport,
    build_model,
    from_pretrained,
    load_pretrained,
    load_published,
)
from maedfer.models.published.checkpoints import read_checkpoint
from maedfer.models.serialization import CONFIG_FILE, load_parameters
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.config import resolve


def load_weights(source: str | Path) -> LGIFormer | MAEDFER:
    """Load a model.

    Args:
        source: a folder of save_pretrained, a run folder (its model/), a checkpoint of a run (.pt; the moving average
            where there is one), or a published checkpoint (any other file).

    Raises:
        InputError: there is no such thing, or it cannot be loaded.
    """
    path = Path(source)
    if path.is_dir():
        model = from_pretrained(_model_folder(path))
        assert isinstance(model, (LGIFormer, MAEDFER))
        return model
    if not path.is_file():
        raise InputError(f"{str(source)!r} does not exist: give a saved model, a run folder, or a checkpoint file")
    if path.suffix == ".pt":
        state = load_checkpoint(path)
        model = build_model(resolve(state["config"]).model)
        model.load_state_dict(state.get("ema") or state["model"])
        return model.eval()
    content = read_checkpoint(path)
    state = next((content[key] for key in ("model", "module") if key in content), content)
    pretrained = any("decoder" in str(key) or "mask_token" in str(key) for key in state)
    return load_published(path, "pretrain" if pretrained else "finetune")


def initialise(model: LGIFormer | MAEDFER, source: str | Path) -> LoadReport:
    """Start `model` from the weights of `source`.

    A classifier takes the encoder of an autoencoder or of another classifier; an autoencoder takes all weights of
    one of the same shapes.

    Raises:
        InputError: the weights do not fit.
    """
    loaded = load_weights(source)
    if isinstance(model, LGIFormer):
        return load_pretrained(model, loaded)
    if not isinstance(loaded, MAEDFER):
        raise InputError(f"{str(source)!r} holds a classifier: to pre-train, start from a masked autoencoder")
    if loaded.config.decoder_order != model.config.decoder_order:
        raise InputError(
            f"{str(source)!r} was pre-trained with decoder_order={loaded.config.decoder_order!r}: "
            f"set model.decoder_order={loaded.config.decoder_order} to go on with it"
        )
    weights = dict(loaded.named_parameters())
    load_parameters(model, {name: value.detach() for name, value in weights.items()}, str(source))
    return LoadReport(used=tuple(weights))


def _model_folder(path: Path) -> Path:
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if (path / "checkpoints" / "last.pt").is_file():
        raise InputError(f"run {str(path)!r} has not ended: finish it, or give its checkpoints/last.pt")
    raise InputError(f"{str(path)!r} is neither a saved model (it has no {CONFIG_FILE}) nor a run folder")


def brief(report: LoadReport) -> str:
    """A report of keys as a line for people; the log has all of it."""
    parts = [f"{len(report.used)} tensors taken over"]
    if report.adapted:
        parts.append(f"interpolated: {', '.join(report.adapted)}")
    if report.ignored:
        parts.append(f"{len(report.ignored)} not needed")
    if report.fresh:
        parts.append(f"left as initialised: {', '.join(report.fresh)}")
    return "; ".join(parts)
