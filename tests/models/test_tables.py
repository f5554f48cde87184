"""Models that are built without memory compute the same once they have weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maedfer.models import MAEDFER, build_model
from tests.helpers import randomize, small, small_mae

CONFIGS: dict[str, Any] = {
    "lgi": small(),
    "vit": small(architecture="vit"),
    "learned": small(position="learned"),
    "interpolated": small(position_grid=(2, 3, 3)),
    "autoencoder": small_mae(),
    "autoencoder, learned": small_mae(encoder=small(position="learned")),
}


def result(model: nn.Module) -> Tensor:
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    if isinstance(model, MAEDFER):
        numbers = model.token_numbers(*model.random_masks(2, torch.Generator().manual_seed(0)))
        return model.eval()(clips.to(model.mask_token.dtype), *numbers)
    return model.eval()(clips.to(next(model.parameters()).dtype))


def without_memory(config: Any) -> nn.Module:
    with torch.device("meta"):
        return build_model(config)


def to_empty(model: nn.Module, state: dict[str, Tensor]) -> None:
    model.to_empty(device="cpu")
    spoil(model)
    model.load_state_dict(state)


def assign(model: nn.Module, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state, assign=True)


def one_by_one(model: nn.Module, state: dict[str, Tensor]) -> None:
    """As FSDP does it: memory for a module's own tensors, then its own initialisation."""
    for module in model.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.to_empty(device="cpu", recurse=False)
            spoil(module)
            module.reset_parameters()  # type: ignore[operator]
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    for name, parameter in model.named_parameters():
        parameter.data.copy_(state[name])


def parameters_alone(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Nothing gives memory to buffers."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(parameter, device="cpu"))
    model.load_state_dict(state)


def inside_another(model: nn.Module, state: dict[str, Tensor]) -> None:
    holder = nn.ModuleDict({"model": model})
    holder.to_empty(device="cpu")
    spoil(model)
    holder.load_state_dict({f"model.{name}": tensor for name, tensor in state.items()})


def spoil(module: nn.Module) -> None:
    """What memory holds that nobody has written."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if not tensor.is_meta:
                tensor.fill_(99)


WAYS = [to_empty, assign, one_by_one, parameters_alone, inside_another]


@pytest.mark.parametrize("fill", WAYS, ids=lambda fill: fill.__name__)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_model_built_on_the_meta_device(config: Any, fill: Callable[..., None]) -> None:
    model = build_model(config)
    randomize(model)
    empty = without_memory(config)
    fill(empty, model.state_dict())
    assert torch.equal(result(empty), result(model))
    assert torch.equal(result(copy.deepcopy(empty)), result(model))
    assert torch.equal(result(pickle.loads(pickle.dumps(empty))), result(model))


def test_memory_alone_is_enough_for_tables() -> None:
    for config in CONFIGS.values():
        model, empty = build_model(config), without_memory(config)
        empty.to_empty(device="cpu")
        made = dict(empty.named_buffers())
        assert all(torch.equal(made[name], table) for name, table in model.named_buffers())


def test_tables_keep_their_values_in_fresh_memory() -> None:
    model = build_model(small_mae())
    model.decoder_positions.fill_(3.0)
    before = {name: table.clone() for name, table in model.named_buffers()}
    model.to_empty(device="cpu")
    assert all(torch.equal(table, before[name]) for name, table in model.named_buffers())
    # Weights that come do not take away what somebody has put there.
    model.load_state_dict(build_model(small_mae()).state_dict())
    assert all(torch.equal(table, before[name]) for name, table in model.named_buffers())


def test_tables_follow_a_change_of_dtype() -> None:
    config = small_mae()
    model, empty = build_model(config), without_memory(config)
    empty.to(torch.float64).to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    for name, table in model.named_buffers():
        twin = empty.get_buffer(name)
        assert twin.dtype == (torch.float64 if table.is_floating_point() else table.dtype)
        assert torch.equal(twin.to(table.dtype), table)
    assert result(empty).dtype == torch.float64
    half = build_model(config).half()
    assert torch.equal(half.get_buffer("decoder_positions"), model.get_buffer("decoder_positions").half())


def test_building_draws_the_same_numbers_as_ever() -> None:
    torch.manual_seed(0)
    learned = build_model(small(position="learned"))
    torch.manual_seed(0)
    dim = learned.config.embed_dim
    weight = torch.empty(dim, 3, 2, 8, 8)
    bound = weight[0].numel() ** -0.5
    assert torch.equal(nn.init.uniform_(weight, -bound, bound), learned.encoder.embedding.weight)
    nn.init.uniform_(torch.empty(dim), -bound, bound)
    positions = nn.init.trunc_normal_(torch.empty(1, learned.config.num_tokens, dim), std=0.02)
    assert torch.equal(positions, learned.encoder.positions)
    tokens = nn.init.trunc_normal_(torch.empty(learned.config.num_regions, dim), std=0.02)
    assert torch.equal(tokens, learned.encoder.representative_tokens)
