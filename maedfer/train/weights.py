"""A run's model starts from the weights of another one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from maedfer.dataclass_tree import differences, keys_of, to_dict
from maedfer.errors import InputError
from maedfer.evaluation.score import check_finite
from maedfer.models import MAEDFER, LGIFormer, LoadReport, MAEDFERConfig, load_pretrained
from maedfer.models.load import load_path
from maedfer.models.serialization import load_parameters
from maedfer.models.transfer import rounded_alike


def initialise(model: LGIFormer | MAEDFER, source: str | Path) -> LoadReport:
    """Start `model` from the weights of `source`.

    A classifier takes the encoder of an autoencoder or of another classifier; an autoencoder takes all weights of
    one of the same architecture.

    Raises:
        InputError: the weights do not fit, or are not finite.
    """
    loaded = load_path(source)
    check_finite(loaded, repr(str(source)))
    if isinstance(model, LGIFormer):
        report = load_pretrained(model, loaded)
    else:
        report = _go_on(model, loaded, source)
    # What was assumed of the source is assumed of what was taken from it.
    told = loaded.load_report or LoadReport(())
    return dataclasses.replace(report, settings=told.settings, assumed=told.assumed)


def _go_on(model: MAEDFER, loaded: LGIFormer | MAEDFER, source: str | Path) -> LoadReport:
    """Take all weights of an autoencoder of the same architecture."""
    if not isinstance(loaded, MAEDFER):
        raise InputError(f"{str(source)!r} holds a classifier: to pre-train, start from a masked autoencoder")
    alike = rounded_alike(loaded.config.encoder, model.config.encoder)
    free = keys_of(MAEDFERConfig, "results", "machine") | {f"encoder.{key}" for key in alike}
    differ = differences(to_dict(loaded.config), to_dict(model.config), free)
    if differ:
        raise InputError(
            f"{str(source)!r} was pre-trained with another architecture: {', '.join(differ)}: "
            "set these keys of model as they are there to go on with it"
        )
    weights = dict(loaded.named_parameters())
    load_parameters(model, {name: value.detach() for name, value in weights.items()}, str(source))
    return LoadReport(used=tuple(weights))


def brief(report: LoadReport) -> str:
    """A report of keys as a line for people; the log has all of it."""
    parts = [f"{len(report.used)} tensors taken over"]
    if report.adapted:
        parts.append(f"interpolated: {', '.join(report.adapted)}")
    if report.ignored:
        parts.append(f"{len(report.ignored)} not needed")
    if report.fresh:
        parts.append(f"left as initialised: {', '.join(report.fresh)}")
    if report.assumed:
        parts.append(report.assumptions)
    return "; ".join(parts)
