"""What became of the keys of a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of the keys of a checkpoint.

    Attributes:
        used: keys whose values are in the model now.
        ignored: keys that the model has no use for, with the reason.
        fresh: parameters of the model that the checkpoint did not set.
        adapted: parameters that were interpolated to another grid.
        settings: the constructor arguments that were used, published names.
        assumed: names of those that nothing tells, which are as in the released recipes.
    """

    used: tuple[str, ...]
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    @property
    def assumptions(self) -> str:
        """What was assumed, as a sentence; empty when everything was told."""
        if not self.assumed:
            return ""
        values = ", ".join(f"{name}={self.settings[name]}" for name in self.assumed)
        return f"assumed, as nothing with the weights tells: {values}"

    def __str__(self) -> str:
        lines = [f"{len(self.used)} keys used: {', '.join(self.used)}"]
        lines += [f"ignored {key}: {reason}" for key, reason in self.ignored.items()]
        if self.adapted:
            lines.append(f"interpolated to the new grid: {', '.join(self.adapted)}")
        if self.fresh:
            lines.append(f"left as initialised: {', '.join(self.fresh)}")
        if self.settings:
            lines.append("settings: " + ", ".join(f"{key}={value!r}" for key, value in self.settings.items()))
        if self.assumed:
            lines.append(self.assumptions)
        return "\n".join(lines)
