"""Who works on the pictures of a clip: csrc or torchvision."""

from __future__ import annotations

from typing import Any, Literal, get_args

from maedfer._native import MODULES, absent
from maedfer.data.augment import native_operations, torchvision_operations
from maedfer.errors import InputError, unknown

Impl = Literal["auto", "torchvision", "csrc"]


def operations_by(impl: Impl = "auto") -> Any:
    """The module that works on pictures: `native_operations` or `torchvision_operations`.

    Both give the same values, but for some of turns, shears and `contrast`, off by 1 where sums round otherwise.

    Args:
        impl: "csrc" or "torchvision"; "auto" is csrc where it was compiled.

    Raises:
        InputError: no such implementation, or csrc was not compiled.
    """
    if impl not in get_args(Impl):
        raise unknown("impl", impl, get_args(Impl))
    if impl == "csrc" and MODULES["cpu"] is None:
        raise InputError(f"{absent('cpu')}; use impl='torchvision'")
    return torchvision_operations if impl == "torchvision" or MODULES["cpu"] is None else native_operations
