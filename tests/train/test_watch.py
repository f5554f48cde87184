"""Warnings of spikes and of gradients that are zero, and that they change nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from maedfer.train import run_finetune, watch
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.tasks import FinetuneTask
from maedfer.train.watch import DeadGradients, SpikeWatch, in_blocks
from tests.train.runs import Killed, kill_before, records, spoil_losses, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_only_what_is_far_above_the_usual_loss_is_a_spike():
    noise = np.random.default_rng(3).normal(0, 0.1, 1000)
    # A loss that falls by half within the first 300 steps, with noise of 10 %.
    losses = [float(2 * 0.5 ** (min(step, 300) / 300) * np.exp(noise[step])) for step in range(1000)]
    for step, factor in ((50, 9.0), (400, 9.0), (401, 9.0), (500, 0.01), (600, 1.3), (700, float("nan")), (990, 4.0)):
        losses[step] *= factor
    spikes = SpikeWatch()
    found = {step: usual for step, loss in enumerate(losses) if (usual := spikes.look(loss)) is not None}
    # Not the one of the first steps, nor one that is low, within the noise, or no number.
    assert list(found) == [400, 401, 990] and spikes.told == 3
    assert all(usual == pytest.approx(1.0, rel=0.1) for usual in found.values())
    # One that goes on from a state sees the same.
    first, second = SpikeWatch(), SpikeWatch()
    for loss in losses[:399]:
        first.look(loss)
    second.load(first.state())
    assert [step for step, loss in enumerate(losses[399:], 399) if second.look(loss) is not None] == [400, 401, 990]
    assert second.state() == spikes.state()


def test_a_loss_that_stays_high_becomes_the_usual_one_and_a_constant_one_has_no_spikes():
    spikes = SpikeWatch()
    found = [step for step in range(600) if spikes.look(1.0 if step < 300 else 3.0) is not None]
    assert found and found[0] == 300 and found[-1] < 400
    assert not any(spikes.look(3.0 * (1.2 if step % 7 == 0 else 1.0)) for step in range(100))


def test_parameters_without_a_gradient_are_named_once(monkeypatch):
    monkeypatch.setattr(watch, "DEAD_AFTER", 3)
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("used", "zero", "absent", "fixed")})
    model["fixed"].requires_grad_(False)
    dead, told = DeadGradients(model), []
    for step in range(8):
        if step == 5:
            # A run that is resumed.
            state, dead = dead.state(), DeadGradients(model)
            dead.load(state)
        used = model["zero"] if step == 1 else model["used"]
        (used(torch.ones(1, 2)).sum() + 0 * model["zero"](torch.ones(1, 2)).sum()).backward()
        if step > 4:
            model["used"].bias.grad = None
        gradients = [one.grad for one in model.parameters() if one.grad is not None]
        dead.note(torch.stack(torch._foreach_norm(gradients)))
        model.zero_grad()
        told.append(dead.look())
    # "used" had none at step 1 alone, "zero" one at step 1 alone.
    assert told == [
        [], [], ["absent.weight", "absent.bias"], [], ["zero.weight", "zero.bias"], [], [], ["used.bias"],
    ]  # fmt: skip


def test_a_dead_block_is_named_as_one():
    of = ["a.blocks.1.x", "a.blocks.1.y", "a.blocks.2.x", "a.blocks.2.y", "head"]
    assert in_blocks(["a.blocks.1.x", "a.blocks.1.y", "a.blocks.2.y", "head"], of) == [
        "a.blocks.1 (2 parameters)", "a.blocks.2.y", "head",
    ]  # fmt: skip


def test_warnings_of_a_run_are_told_alike_when_it_is_resumed_and_change_nothing(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch, "_WARM_UP", 4)
    monkeypatch.setattr(watch, "DEAD_AFTER", 5)
    build = FinetuneTask.build

    def half_dead(self, initial=True):
        model, loaded = build(self, initial)
        for parameter in model.encoder.blocks[0].parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.zeros_like)
        return model, loaded

    monkeypatch.setattr(FinetuneTask, "build", half_dead)
    spoil_losses({8: 300.0}, patch=monkeypatch.setattr)
    changes = ["train.save_steps=1", "eval.every=0", "train.log_every=4"]
    run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    said = capsys.readouterr().out
    (spike,), (dead,) = (records(tmp_path / "whole", kind) for kind in ("spike", "dead"))
    assert (spike["step"], spike["epoch"], len(spike["clips"])) == (8, 3, 4) and 0.7 < spike["usual"] < 1.7
    assert spike["loss"] > 200 and f"at step 8 (epoch 3), where {spike['usual']:.4g} is usual; its clips: clip_" in said
    (block,) = dead["parameters"]
    assert block.startswith("encoder.blocks.0 (") and dead["steps"] == 5 and dead["step"] in (5, 6)
    assert f"the gradient has been zero for 5 steps or more in {block}: what is there does not learn" in said
    for step in (4, 7):
        kill_before(monkeypatch, step)
        with pytest.raises(Killed):
            run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    assert records(tmp_path / "cut", "spike") == [spike] and records(tmp_path / "cut", "dead") == [dead]
    monkeypatch.setattr(watch.SpikeWatch, "look", lambda self, loss: None)
    monkeypatch.setattr(watch.DeadGradients, "note", lambda self, each: None)
    run_finetune(tiny("finetune", data, tmp_path / "silent", *changes))
    assert not records(tmp_path / "silent", "spike") and not records(tmp_path / "silent", "dead")
    models = [load_checkpoint(tmp_path / name / "checkpoints/last.pt")["model"] for name in ("whole", "cut", "silent")]
    for model in models[1:]:
        assert all(torch.equal(model[name], value) for name, value in models[0].items())
    steps = [[row["loss"] for row in records(tmp_path / name, "step")] for name in ("whole", "silent")]
    assert steps[0] == steps[1]
