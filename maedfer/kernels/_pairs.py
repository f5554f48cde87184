"""Layers as operations take them: weight and bias as one."""

from __future__ import annotations

from torch import Tensor

# Of a linear layer.
Linear = tuple[Tensor, Tensor | None]
# Of a LayerNorm.
Norm = tuple[Tensor, Tensor]
