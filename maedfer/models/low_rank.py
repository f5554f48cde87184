"""A linear layer whose weight is a frozen one and a product of low rank: W + (alpha / r) B A.

That is LoRA (Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022). The two are added up before the
product, by an operation with gradients, so that whatever takes a layer's weight without calling it - the schedule of
fused operations, csrc, Triton's kernels, torch.compile - computes with one weight as it always does. What that costs is
an addition for each weight and pass, and the whole gradient of the sum, of which two thin products make those of A and
B; it is gone before the next layer's is made.

Shapes: the weight is [O, I], A [r, I], B [O, r].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.kernels._autocast import autocast_dtype

# Names that the two have in a layer, and so in a state dict.
A, B = "lora_a", "lora_b"


class LoraLinear(nn.Linear):
    """A linear layer in LoRA's way. It takes the place of one whose parameters it has, and stops training them.

    A is drawn as PyTorch draws a linear layer's weight and B is zero, so that the layer does what it did before.

    Args:
        base: the layer.
        rank: r.
        alpha: the product of B and A is multiplied by alpha / r.

    Attributes:
        scale: alpha / r.
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        # Not `Linear`'s own, which would draw a weight that nobody wants.
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight.requires_grad_(False)
        self.register_parameter("bias", base.bias)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_empty(base.out_features, rank))
        self.reset_parameters()
        self.train(base.training)

    def reset_parameters(self) -> None:
        """Draw A and zero B; the weight stays as it is."""
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)
        nn.init.zeros_(self.lora_b)

    @property
    def rank(self) -> int:
        """r."""
        return self.lora_a.shape[0]

    def merged(self) -> Tensor:
        """The weight that the layer multiplies with, [O, I], in the dtype of the frozen one whatever autocast says."""
        own = self._parameters
        return add_product(own["weight"], own[A], own[B], self.scale)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return F.linear(x, self.merged(), self.bias)

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return f"{super().extra_repr()}, rank={self.rank}, scale={self.scale:g}"


def add_product(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """weight + scale * b a, in the dtype of the weight."""
    kind = weight.device.type
    if autocast_dtype(kind) is None:
        return torch.addmm(weight, b, a, alpha=scale)
    with torch.autocast(kind, enabled=False):
        return torch.addmm(weight, b, a, alpha=scale)


def merged_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The named tensors of a model as those of the model without LoRA that computes the same."""
    out = dict(tensors)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            prefix = f"{name}." if name else ""
            out[f"{prefix}weight"] = layer.merged().detach()
            del out[prefix + A], out[prefix + B]
    return out


def merge_state(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state dict that may have A and B as that of the model without them that computes the same.

    Args:
        state: names and tensors.
        alpha: LoRA's; r is the number of A's rows.
    """
    out = {name: value for name, value in state.items() if name.rpartition(".")[2] not in (A, B)}
    for name, a in state.items():
        prefix, _, leaf = name.rpartition(".")
        if leaf == A:
            key = f"{prefix}.weight"
            out[key] = add_product(state[key], a, state[f"{prefix}.{B}"], alpha / len(a))
    return out
