import dataclasses

import pytest
import torch

from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, build_model
from maedfer.train.config import OptimConfig
from maedfer.train.optim import Ema, Schedule, leave_out_unused, make_optimizer, parameter_groups, set_lr
from tests.helpers import small, small_mae


def groups_of(config, **settings):
    model = build_model(config)
    depth = config.depth if hasattr(config, "depth") else config.encoder.depth
    groups = parameter_groups(model, 0.05, 0.5, model.layer_index, depth, model.no_weight_decay())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return model, {names[id(p)]: (g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]}


def test_layers_have_smaller_rates_the_deeper_they_are():
    # depth 2: scale 0.5 ** (3 - layer); the representative tokens and the head are layer 3.
    _, table = groups_of(small(depth=2))
    assert table["encoder.embedding.weight"] == (0.05, 0.125)
    assert table["encoder.blocks.0.ffn.fc1.weight"] == (0.05, 0.25)
    assert table["encoder.blocks.1.ffn.fc1.weight"] == (0.05, 0.5)
    assert table["head.weight"] == (0.05, 1.0)
    assert table["encoder.representative_tokens"] == (0.0, 1.0)


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay():
    for config in (small(position="learned"), small(architecture="vit"), small_mae()):
        model, table = groups_of(config)
        assert set(table) == {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            # The published code spares representative tokens in fine-tuning only.
            tokens = name.endswith(
                ("mask_token" if isinstance(model, MAEDFER) else "representative_tokens", "positions")
            )
            assert (table[name][0] == 0.0) == (parameter.ndim <= 1 or tokens), name


def test_frozen_parameters_are_left_out():
    model = LGIFormer(small())
    model.freeze(1)
    groups = parameter_groups(model, 0.05)
    assert all(p.requires_grad for g in groups for p in g["params"])
    model.requires_grad_(False)
    with pytest.raises(InputError, match="freeze_blocks"):
        make_optimizer(parameter_groups(model, 0.05), OptimConfig(), torch.device("cpu"))


def test_schedule_is_linear_then_cosine_per_step():
    schedule = Schedule(OptimConfig(lr=1e-3, min_lr=1e-5, lr_batch=0, warmup_epochs=2, epochs=10), 96, 5)
    assert (schedule.total, schedule.warmup) == (50, 10)
    assert schedule(0) == 0.0
    assert schedule(3) == pytest.approx(1e-3 / 3)
    # The last step of the warm-up has the peak, and so has the first one after it.
    assert schedule(9) == schedule(10) == pytest.approx(1e-3)
    assert schedule(30) == pytest.approx((1e-3 + 1e-5) / 2)
    assert schedule(50) == pytest.approx(1e-5)
    rates = [schedule(step) for step in range(10, 51)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("steps", "first"), [(0, [1.0]), (1, [0.0, 1.0]), (2, [0.0, 1.0, 1.0])])
def test_short_warm_ups(steps, first):
    schedule = Schedule(OptimConfig(lr=1.0, min_lr=0.0, lr_batch=0, warmup_epochs=steps, epochs=10), 1, 1)
    assert [schedule(step) for step in range(len(first))] == first


def test_rates_grow_with_the_global_batch():
    # The paper's: 3e-4 and 1e-5 for 256 clips, a batch of 128.
    schedule = Schedule(OptimConfig(lr=3e-4, min_lr=1e-5, warmup_epochs=5, epochs=50), 128, 100)
    assert (schedule.peak, schedule.floor) == pytest.approx((1.5e-4, 0.5e-5))


def test_max_steps_shortens_the_schedule():
    config = OptimConfig(warmup_epochs=1, epochs=10, lr_batch=0)
    assert Schedule(config, 1, 10, max_steps=25).total == 25
    assert Schedule(config, 1, 10, max_steps=25)(25) == pytest.approx(config.min_lr)
    assert Schedule(config, 1, 10, max_steps=1000).total == 100
    with pytest.raises(InputError, match=r"warm-up of 50 steps .* run of 25 steps"):
        Schedule(dataclasses.replace(config, warmup_epochs=5), 1, 10, max_steps=25)


def test_set_lr_keeps_the_scales():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    groups = [{"params": [p], "weight_decay": 0.0, "lr_scale": s} for p, s in zip(parameters, (1.0, 0.25), strict=True)]
    optimizer = make_optimizer(groups, OptimConfig(), torch.device("cpu"))
    set_lr(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.025])


@pytest.mark.parametrize("config", [small(), small(token_type="all"), small(architecture="vit"), small_mae()])
def test_parameters_without_a_gradient_are_left_out(config):
    model = build_model(config)
    encoder = getattr(config, "encoder", config)
    frames = torch.rand(2, 3, *encoder.clip_size)
    if isinstance(model, LGIFormer):
        unused = leave_out_unused(model.eval(), lambda: model(frames).sum())
        loss = model.train()(frames).square().sum()
    else:
        numbers = model.token_numbers(*model.random_masks(2))
        unused = leave_out_unused(model.eval(), lambda: model.training_loss(frames, *numbers)["loss"])
        loss = model.train().training_loss(frames, *numbers)["loss"]
    loss.backward()
    named = dict(model.named_parameters())
    assert all((parameter.grad is None) == (name in unused) for name, parameter in named.items())
    assert all(named[name].requires_grad == (name not in unused) for name in named)
    # Only representative tokens are read after the last block of the classifier: its third stage feeds nobody.
    assert any("blocks.1.interaction" in name for name in unused) == (config == small())


def test_moving_average_forgets_the_initial_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 5.0)
    ema = Ema(model, 0.9)
    expected = 5.0
    for step in range(100):
        torch.nn.init.constant_(model.weight, float(step % 3))
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 3)
    (weight,) = ema.model.parameters()
    assert weight.item() == pytest.approx(expected, abs=1e-5)
    assert not weight.requires_grad
