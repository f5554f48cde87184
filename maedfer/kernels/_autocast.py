"""What products are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """What a product of x is computed in: autocast's dtype where it is on, else that of x."""
    kind = x.device.type
    enabled = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if enabled else x.dtype


def product_operand(x: Tensor) -> Tensor:
    """x in the dtype that its products are computed in: autocast's where it is on."""
    return x.to(product_dtype(x))
