"""Steps whose loss or gradient is not finite: left out, told, counted, and too many of them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from maedfer.errors import InputError
from maedfer.train import run_finetune, run_pretrain, trainer
from maedfer.train.agreement import Agreement
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.guards import GuardedStep, gradient_norms, is_told, ordinal
from maedfer.train.optim import Ema
from maedfer.train.processes import Runtime
from maedfer.train.watch import DeadGradients
from tests.train.runs import (
    Killed,
    in_process,
    kill_before,
    overrides,
    records,
    scores,
    spoil_losses,
    tiny,
    write_clips,
)

NAN, INF = float("nan"), float("inf")
CPU = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def last(output, name="last"):
    return load_checkpoint(output / "checkpoints" / f"{name}.pt")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Guarded:
    """A small model, made to learn by `GuardedStep`."""

    def __init__(self, fused, lag, clip=None):
        torch.manual_seed(0)
        self.first = nn.Linear(5, 7)
        self.model = nn.Sequential(self.first, nn.Tanh(), nn.Linear(7, 2))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05, fused=fused)
        self.ema = Ema(self.model, 0.9)
        self.agreement = Agreement(CPU, ("stop", "skip"), lag)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        dead = DeadGradients(self.model)
        self.guarded = GuardedStep(self.model, self.optimizer, scaler, self.ema, self.agreement, dead, clip)

    def step(self, number, loss_factor=1.0, gradient=None):
        generator = torch.Generator().manual_seed(number)
        loss = self.model(torch.randn(3, 5, generator=generator)).square().mean()
        loss.backward()
        if gradient is not None:
            assert self.first.weight.grad is not None
            self.first.weight.grad[1, 2] = gradient
        return self.guarded(number, loss.detach() * loss_factor)

    def state(self):
        state = self.optimizer.state_dict()["state"]
        optimiser = {f"{key}.{name}": value.clone() for key, row in state.items() for name, value in row.items()}
        parts = {**self.model.state_dict(), **{f"ema.{k}": v for k, v in self.ema.model.state_dict().items()}}
        return {**{name: value.clone() for name, value in parts.items()}, **optimiser}


@pytest.mark.parametrize(("fused", "lag"), [(False, 0), (True, 0), (True, 3)], ids=["host", "device", "device, late"])
def test_a_step_that_is_left_out_leaves_everything_as_it_was(fused, lag):
    one, other = Guarded(fused, lag, clip=1.0), Guarded(fused, lag, clip=1.0)
    bad = {3: (NAN, None), 4: (1.0, NAN), 6: (INF, None), 7: (1.0, -INF)}
    for number in range(1, 10):
        before = one.state()
        norm = one.step(number, *bad.get(number, ()))
        assert same(before, one.state()) == (number in bad), number
        assert norm.isfinite() == (number not in (4, 7)) and one.first.weight.grad is None
        if number not in bad:
            other.step(number)
            # The moving average depends on the number of the step, and that goes on.
            assert same(one.state(), other.state()), number
    told = [(step, flags["skip"]) for step, flags in one.agreement.read(everything=True)]
    assert [step for step, skip in told if skip] == list(bad)


def test_nothing_is_left_out_of_a_step_that_is_sound():
    """Against PyTorch's own calls, bit for bit; a moving average that a device blends, to rounding."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    optimizer, ema = torch.optim.AdamW(plain.parameters(), lr=0.05), Ema(plain, 0.9)
    host, device = Guarded(False, 0, clip=0.1), Guarded(True, 2, clip=0.1)
    for number in range(1, 7):
        loss = plain(torch.randn(3, 5, generator=torch.Generator().manual_seed(number))).square().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(plain, number - 1)
        assert torch.equal(host.step(number), norm)
        torch.testing.assert_close(device.step(number), norm)
    assert same(plain.state_dict(), host.model.state_dict()) and same(
        ema.model.state_dict(), host.ema.model.state_dict()
    )
    for mine, theirs in ((device.model, plain), (device.ema.model, ema.model)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_norms_are_those_of_torch():
    model = nn.Linear(4, 3)
    assert gradient_norms(model.parameters())[0] == 0
    model(torch.ones(2, 4)).square().sum().backward()
    model.bias.grad, gradient = None, model.weight.grad
    assert gradient is not None
    norm, each = gradient_norms(model.parameters())
    assert torch.equal(norm, nn.utils.get_total_norm([gradient])) and each.tolist() == [norm]


def test_what_is_told_of_many():
    assert [number for number in range(1, 40) if is_told(number)] == [1, 2, 3, 4, 8, 16, 32]
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 13, 21, 112, 1_203)] == (
        "1st 2nd 3rd 4th 11th 13th 21st 112th 1,203rd".split()
    )


def test_a_bad_step_is_skipped_told_and_counted_also_by_a_run_that_is_resumed(data, tmp_path, monkeypatch, capsys):
    changes = ["train.ema=0.9", "train.save_steps=1", "train.log_every=2", "eval.every=0"]
    spoil_losses({4: NAN, 8: INF}, patch=monkeypatch.setattr)
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    said = capsys.readouterr().out
    assert "step 4 (epoch 2) was skipped, the weights are as they were: the loss is nan; its clips: clip_" in said
    assert "the 2nd such step (1 in a row, 20 stop the run)" in said
    note = (
        "2 of 9 steps were skipped because the loss or the gradient was no finite number: log.jsonl names their clips"
    )
    assert note in scores(whole)["notes"] and f"{note}\n" in said
    skipped = records(tmp_path / "whole", "skipped_step")
    assert [(row["step"], row["epoch"], row["loss"], row["why"]) for row in skipped] == [
        (4, 2, None, "the loss is nan"), (8, 3, None, "the loss is inf"),
    ]  # fmt: skip
    assert all(len(set(row["clips"])) == 4 and row["clips"][0].startswith("clip_") for row in skipped)
    # Their losses are in no mean.
    assert all(row["loss"] is not None for row in records(tmp_path / "whole", "epoch"))
    # After step 4, the last checkpoint is still that of step 3.
    kill_before(monkeypatch, 4)
    with pytest.raises(Killed):
        run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    assert last(tmp_path / "cut")["position"]["step"] == 3
    assert run_finetune(tiny("finetune", data, tmp_path / "cut", *changes)).metrics == whole.metrics
    ends = [last(tmp_path / name) for name in ("whole", "cut")]
    assert ends[0]["position"] == ends[1]["position"] and ends[0]["position"]["skipped"] == 2
    assert same(ends[0]["model"], ends[1]["model"]) and same(ends[0]["ema"], ends[1]["ema"])
    assert records(tmp_path / "cut", "skipped_step") == skipped
    # A finished run says it again.
    assert run_finetune(tiny("finetune", data, tmp_path / "cut", *changes)).metrics == whole.metrics


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_too_many_skipped_steps_in_a_row_end_the_run(late, data, tmp_path, monkeypatch):
    """Late: as on a GPU, where the optimiser leaves a step out by itself, and the host learns of it three steps on."""
    if late:

        def fused(groups, config, device):
            return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)

        monkeypatch.setattr(trainer, "make_optimizer", fused)
        monkeypatch.setattr(trainer, "Agreement", lambda runtime, names: Agreement(runtime, names, lag=3))
    bad = {2: NAN, 3: NAN, **dict.fromkeys(range(5, 30), NAN)}
    spoil_losses(bad, patch=monkeypatch.setattr)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=10", "train.max_skipped=3", "eval.every=0")
    message = (
        r"^the loss is nan at step 7 \(epoch 3\), training stops: 3 steps in a row were skipped; .*last.pt \(step 3\) "
        r"holds the last good weights; try a lower optim.lr, optim.clip_grad; .*\(train.max_skipped=3\)$"
    )
    # At the end of the first epoch two steps were skipped in a row, so that nothing was saved then.
    message = message.replace(r".*last.pt \(step 3\) holds the last good weights", "no checkpoint was written yet")
    with pytest.raises(InputError, match=message):
        run_finetune(cfg)
    assert [row["step"] for row in records(tmp_path / "run", "skipped_step")] == [2, 3, 5, 6, 7]
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["outcome"] == "stopped"
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_first_bad_step_ends_a_run_that_wants_it_so(data, tmp_path, monkeypatch):
    spoil_losses(dict.fromkeys(range(5, 30), NAN), patch=monkeypatch.setattr)
    settings = ["train.log_every=50", "train.save_steps=1", "train.max_skipped=1"]
    with pytest.raises(
        InputError, match=r"nan at step 5 \(epoch 2\), training stops: it was skipped; .*\(step 4\) hold"
    ):
        run_pretrain(tiny("pretrain", data, tmp_path / "run", *settings))
    assert last(tmp_path / "run")["position"]["step"] == 4
    assert all(value.isfinite().all() for value in last(tmp_path / "run")["model"].values())


def test_a_bad_batch_of_one_process_is_a_bad_step_of_all_and_broken_clips_come_together(data, tmp_path):
    """A clip that makes the loss infinite, and two that cannot be read, in two processes that share the weights."""
    broken = write_clips(tmp_path / "clips")
    for name in ("clip_9", "clip_12"):
        for frame in (broken / name).iterdir():
            frame.write_bytes(b"not a picture")
    before = "from tests.train.runs import spoil_losses\nspoil_losses({}, {'clip_7': float('inf')})"
    common = ["eval.every=0", "augment.mixup=0", "augment.cutmix=0", "model.drop_path=0", "data.workers=1"]
    common += ["data.on_error=skip", "data.max_broken=0.2", "train.ema=0.9", "optim.clip_grad=1"]
    found = {}
    for processes in (1, 2):
        output = tmp_path / str(processes)
        settings = [*overrides("finetune", broken, output), *common, f"train.batch_size={4 // processes}"]
        settings += ["train.sharding=full"] if processes == 2 else []
        done = in_process("finetune", settings, before, processes=processes)
        assert done.ok, done.text
        skipped = records(output, "skipped_step")
        found[processes] = [(row["step"], sorted(row["clips"])) for row in skipped]
        assert skipped and all("clip_7" in row["clips"] for row in skipped)
        assert done.text.count("2 of 14 clips to learn from could not be read and were replaced by others") == 2
        assert sorted(row["clip"] for row in records(output, "quarantined")) == ["clip_12", "clip_9"]
        if processes == 2:
            # Those of the process that had it come first.
            assert all("clip_7" in row["clips"][:2] and "in process" in row["why"] for row in skipped)
    assert found[1] == found[2]
    files = [(tmp_path / name / "quarantine.csv").read_text() for name in "12"]
    assert files[0] == files[1] and files[0].startswith("clip,file,reason,epoch\n")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in "12"]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)
