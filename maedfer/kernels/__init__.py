"""Operations of LGI-Former on plain tensors.

`functional` has them by the implementation of choice, `reference` is their specification in plain PyTorch.
"""

from maedfer.kernels import functional, reference
from maedfer.kernels._dispatch import IMPLS, Impl, choose, current_impl, use_impl

__all__ = ["IMPLS", "Impl", "choose", "current_impl", "functional", "reference", "use_impl"]
