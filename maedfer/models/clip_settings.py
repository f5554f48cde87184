"""What a model must be shown as it was trained to be: kept in config.json beside the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from maedfer.dataclass_tree import from_dict
from maedfer.setting import documented, setting


@documented
@dataclass(frozen=True)
class ClipSettings:
    """Names of the classes, and how clips are read: the settings of a run that an evaluation of its model needs."""

    classes: tuple[str, ...] = setting((), doc="names in the order of the labels; empty where there are none")
    stride: int = setting(4, low=1, doc="distance between sampled frames")
    fit: Literal["stretch", "crop"] = setting("stretch", doc="how a frame is brought to the model's size")
    views: int = setting(2, low=1, doc="temporal views of a clip, their softmax averaged")
    temperature: float | None = setting(
        None, above=0, doc="what logits are divided by to give calibrated probabilities; None = nobody has fitted it"
    )

    @classmethod
    def of_run(cls, settings: Mapping[str, Any]) -> ClipSettings:
        """Take them out of the settings of a run, in the layout of a recipe."""
        data, scoring = settings.get("data") or {}, settings.get("eval") or {}
        values = {key: data[key] for key in ("classes", "stride", "fit") if key in data}
        if "views" in scoring:
            values["views"] = scoring["views"]
        return from_dict(cls, values, path="data")

    def as_run(self) -> dict[str, Any]:
        """The same as settings of a run, in the layout of a recipe."""
        data = {"classes": list(self.classes), "stride": self.stride, "fit": self.fit}
        return {"data": data, "eval": {"views": self.views}}
