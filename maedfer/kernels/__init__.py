"""Operations of LGI-Former on plain tensors. `reference` is the specification in plain PyTorch."""

from maedfer.kernels import reference

__all__ = ["reference"]
