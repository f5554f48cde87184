"""Runs that go on under newer rules than they began with."""

from pathlib import Path

import pytest
import torch

from maedfer.errors import InputError
from maedfer.models import MAEDFER
from maedfer.train import load_config, run_finetune
from maedfer.train.checkpoint import load_checkpoint, save_checkpoint
from maedfer.train.config import read_config
from maedfer.train.optim import groups_of, make_optimizer, run_schedule
from maedfer.train.rules import RULES, changed_rules, in_present_groups
from tests.train.runs import tiny, write_clips


@pytest.fixture
def cfg(tmp_path):
    return tiny("pretrain", tmp_path, tmp_path, "optim.warmup_epochs=2")


def test_what_has_changed_is_said(cfg, tmp_path):
    schedule = run_schedule(cfg, clips=20, batches=5, world=1)
    assert schedule.warmup == 10
    assert changed_rules({"rules": RULES}, cfg, schedule, 3) == []
    warmup, frames = changed_rules({}, cfg, schedule, 3)
    # From 3/10 to 3/9 of the peak, which is what the fourth step has.
    assert "rates of steps 4 to 10 are 11.1% higher" in warmup
    assert frames.startswith("from step 4 on, samples of clips hold the frame before")
    apart = tiny("pretrain", tmp_path, tmp_path, "data.stride=3")
    assert "samples of clips of up to 10 frames hold" in changed_rules({}, apart, schedule, 10)[0]

    classifier = tiny("finetune", tmp_path, tmp_path)
    assert len(changed_rules({}, classifier, schedule, 9)) == 1
    assert changed_rules({}, classifier, schedule, 10) == []


def test_moments_of_an_optimizer_go_with_their_parameters(cfg):
    model = MAEDFER(cfg.model)
    exempt = {*model.no_weight_decay(), "encoder.representative_tokens"}
    cpu = torch.device("cpu")
    before = make_optimizer(groups_of(model, cfg, exempt), cfg.optim, cpu)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float(number))
    before.step()

    after = make_optimizer(groups_of(model, cfg), cfg.optim, cpu)
    assert [len(g["params"]) for g in after.param_groups] != [len(g["params"]) for g in before.param_groups]
    after.load_state_dict(in_present_groups({"optimizer": before.state_dict()}, cfg, model, after))
    for parameter in model.parameters():
        torch.testing.assert_close(after.state[parameter]["exp_avg"], before.state[parameter]["exp_avg"])
    decays = {id(p): group["weight_decay"] for group in after.param_groups for p in group["params"]}
    assert decays[id(model.encoder.representative_tokens)] == cfg.optim.weight_decay
    assert decays[id(model.mask_token)] == 0.0

    # What was saved under the rules of now is loaded as it is.
    same = after.state_dict()
    assert in_present_groups({"optimizer": same, "rules": RULES}, cfg, model, after) is same


def test_a_run_from_before_bicubic_sampling_goes_on_with_bilinear(tmp_path):
    changes = ["augment.randaugment=rand-m7-n4", "augment.device=cpu"]
    data = write_clips(tmp_path / "clips", 8)
    run = tiny("finetune", data, tmp_path / "run", *changes, "train.save_steps=1", "augment.interpolation=bilinear")
    run_finetune(run)
    for name in ("config.yaml", "checkpoints/last.pt"):
        path = Path(run.output) / name
        if path.suffix == ".yaml":
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if "interpolation" not in line))
        else:
            state = load_checkpoint(path)
            del state["config"]["augment"]["interpolation"]
            save_checkpoint(path, state)
    # Settings of now that name nothing are bicubic.
    with pytest.raises(InputError, match=r"augment.interpolation \(.?bilinear.? there, .?bicubic.? here\)"):
        run_finetune(tiny("finetune", data, tmp_path / "run", *changes))
    other = tiny("finetune", data, tmp_path / "other", *changes, f"train.resume={run.output}/checkpoints/last.pt")
    with pytest.raises(InputError, match=r"last.pt.* augment.interpolation"):
        run_finetune(other)
    # The run's own file says what was.
    again = load_config("finetune", Path(run.output) / "config.yaml")
    assert again.augment.interpolation == "bilinear"
    assert run_finetune(again).steps == run_finetune(run).steps
    assert read_config(Path(run.output) / "config.yaml").augment.interpolation == "bilinear"
