"""What people do to a layer of a model that they have been given, and the plain layer that does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune


class LowRank(nn.Module):
    """A low-rank adapter in a layer's place, in the manner of peft: it shows the weight of the layer inside."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.down = nn.Linear(base.in_features, 3, bias=False)
        self.up = nn.Linear(3, base.out_features, bias=False)
        self.is_merged = False

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    @property
    def product(self) -> Tensor:
        return self.up.weight @ self.down.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) if self.is_merged else self.base_layer(x) + self.up(self.down(x))


class LowRankLinear(nn.Linear):
    """The same as a kind of linear layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None)
        self.load_state_dict(base.state_dict())
        self.down = nn.Parameter(torch.randn(3, base.in_features) / 10)
        self.up = nn.Parameter(torch.randn(base.out_features, 3) / 10)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Scaled(nn.Module):
    """Learned factors on what a layer gives."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.factors = nn.Parameter(torch.rand(base.out_features) + 0.5)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) * self.factors


class Decomposed(LowRank):
    """A low-rank adapter that learns the lengths of rows by themselves."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base)
        self.lengths = nn.Parameter(torch.rand(base.out_features, 1) + 0.5)

    @property
    def whole(self) -> Tensor:
        changed = self.weight + self.product
        return self.lengths * changed / changed.norm(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.whole, self.bias)


class Doubling(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def low_rank(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    adapter = LowRank(layer)
    setattr(holder, name, adapter)
    return layer.weight + adapter.product


def low_rank_merged(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    adapter = LowRank(layer)
    setattr(holder, name, adapter)
    layer.weight.data += adapter.product
    adapter.is_merged = True
    return layer.weight


def low_rank_linear(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    adapter = LowRankLinear(layer)
    setattr(holder, name, adapter)
    return layer.weight + adapter.up @ adapter.down


def decomposed(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    adapter = Decomposed(layer)
    setattr(holder, name, adapter)
    return adapter.whole


def pruned(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    prune.l1_unstructured(layer, "weight", amount=0.4)
    return layer.weight


def parametrised(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    parametrize.register_parametrization(layer, "weight", Doubling())
    return layer.weight


def weight_normed(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    nn.utils.parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data *= 2  # type: ignore[union-attr, operator, index]
    return layer.weight


def input_hooked(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    layer.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    return 2 * layer.weight


def scaled(holder: nn.Module, name: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    adapter = Scaled(layer)
    setattr(holder, name, adapter)
    return layer.weight * adapter.factors[:, None], adapter.factors


def output_hooked(holder: nn.Module, name: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    layer.register_forward_hook(lambda *all_of_it, **_: 2 * all_of_it[-1], with_kwargs=True, always_call=True)
    return 2 * layer.weight, torch.tensor(2.0)


def forward_replaced(holder: nn.Module, name: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign, assignment]
    return 2 * layer.weight, torch.tensor(2.0)


def compiled(holder: nn.Module, name: str, layer: nn.Linear) -> Tensor:
    layer.compile(backend="eager")
    return layer.weight


CHANGES: list[Callable[[nn.Module, str, nn.Linear], Any]] = [
    low_rank,
    low_rank_merged,
    low_rank_linear,
    decomposed,
    scaled,
    pruned,
    parametrised,
    weight_normed,
    input_hooked,
    output_hooked,
    forward_replaced,
]


def change(model: nn.Module, twin: nn.Module, how: Callable[..., Any], leaves: tuple[str, ...]) -> int:
    """Change every linear layer of these names, and give the plain one of `twin` the weights that do the same.

    Returns:
        How many there were.
    """
    found = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in leaves
    ]
    for name, layer in found:
        holder, _, leaf = name.rpartition(".")
        result = how(model.get_submodule(holder), leaf, layer)
        weight, factor = result if isinstance(result, tuple) else (result, None)
        plain: Any = twin.get_submodule(name)
        with torch.no_grad():
            plain.weight.copy_(weight)
            if factor is not None and plain.bias is not None:
                plain.bias.mul_(factor)
    return len(found)


def frozen(model: nn.Module) -> nn.Module:
    """As adapters are trained: nothing of the model itself is."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
