"""What products are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """What a product of x is computed in: autocast's dtype where it is on, else that of x."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def autocast_dtype(kind: str) -> torch.dtype | None:
    """What autocast computes in on a kind of device; None where it is off, or where there is none (meta)."""
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def product_operand(x: Tensor) -> Tensor:
    """x in the dtype that its products are computed in: autocast's where it is on."""
    dtype = product_dtype(x)
    return x if x.dtype == dtype else x.to(dtype)
