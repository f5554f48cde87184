"""The recipes hold the settings of the paper and its published scripts."""

from __future__ import annotations

import math
import re

import pytest

from maedfer.data.protocols import PROTOCOLS
from maedfer.models import LGIFormerConfig, MAEDFERConfig, model_config
from maedfer.synthetic import EXPRESSIONS
from maedfer.train.config import AugmentConfig, RunConfig, find_recipe, list_recipes, load_config, read_tree
from maedfer.train.optim import Schedule, run_schedule

FINETUNING = {
    # Name: classes, stride.
    "dfew": (7, 4),
    "ferv39k": (7, 1),
    "mafw": (11, 4),
    "crema_d": (6, 4),
    "ravdess": (8, 4),
    "enterface05": (6, 4),
}


def load(name: str, *overrides: str) -> RunConfig:
    task = "pretrain" if name.endswith("pretrain") else "finetune"
    return load_config(task, name, ["data.train=train.csv", *overrides])


def test_there_is_a_recipe_for_each_set() -> None:
    assert set(list_recipes()) == {*FINETUNING, "voxceleb2_pretrain", "synth_pretrain", "synth_finetune"}


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_and_tells_what_it_is(name: str) -> None:
    cfg = load(name)
    assert cfg.output == f"runs/{name}"
    text = find_recipe(name).read_text(encoding="utf-8")
    assert text.startswith("# ") and f"maedfer {cfg.task} {name} " in text
    assert max(map(len, text.splitlines())) <= 120
    # Paths are the user's.
    assert not any(read_tree(find_recipe(name))["data"].get(key) for key in ("train", "val", "test", "root"))


@pytest.mark.parametrize("name", FINETUNING)
def test_fine_tuning_as_published(name: str) -> None:
    cfg = load(name)
    classes, stride = FINETUNING[name]
    assert cfg.data.classes == PROTOCOLS[name].classes and len(cfg.data.classes) == classes
    assert cfg.data.stride == stride and cfg.data.fit == "stretch" and cfg.data.repeats == 1
    assert cfg.model == model_config("lgi_former_base", num_classes=classes, drop_path=0.1)
    assert isinstance(cfg.model, LGIFormerConfig)
    assert (cfg.model.clip_size, cfg.model.region_size, cfg.model.token_type) == ((16, 160, 160), (2, 5, 10), "region")
    assert cfg.model.init_scale == 0.001
    optim = cfg.optim
    assert (optim.lr, optim.lr_batch, optim.min_lr, optim.betas) == (1e-3, 256, 1e-6, (0.9, 0.999))
    assert (optim.weight_decay, optim.layer_decay, optim.clip_grad) == (0.05, 0.75, None)
    assert (optim.warmup_epochs, optim.epochs, cfg.train.batch_size) == (5, 100, 96)
    assert cfg.augment == AugmentConfig(
        randaugment="rand-m7-n4-mstd0.5-inc1",
        interpolation="bicubic",
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        erase=0.25,
        mixup=0.8,
        cutmix=1.0,
        mixup_prob=1.0,
        mixup_switch_prob=0.5,
        smoothing=0.1,
    )
    assert (cfg.eval.views, cfg.eval.select) == (2, "last")


def test_pre_training_as_published() -> None:
    cfg = load("voxceleb2_pretrain")
    assert cfg.model == model_config("mae_dfer_base")
    model = cfg.model
    assert isinstance(model, MAEDFERConfig)
    assert (model.mask_ratio, model.target, model.appearance_weight) == (0.9, "joint", 0.5)
    assert (model.decoder_dim, model.decoder_depth, model.decoder_heads) == (384, 4, 6)
    assert (model.encoder.region_size, model.encoder.drop_path) == ((2, 5, 10), 0.0)
    optim = cfg.optim
    assert (optim.lr, optim.lr_batch, optim.min_lr, optim.betas) == (3e-4, 256, 1e-5, (0.9, 0.95))
    assert (optim.weight_decay, optim.layer_decay, optim.clip_grad) == (0.05, 1.0, None)
    assert (optim.warmup_epochs, optim.epochs, cfg.train.batch_size) == (5, 50, 128)
    assert cfg.augment.multiscale == (1.0, 0.875, 0.75, 0.66)
    assert cfg.augment.crop == (0, 32, 160, 160)
    assert (cfg.data.stride, cfg.data.repeats, cfg.data.on_error) == (4, 1, "skip")


def test_learning_rates_that_result() -> None:
    finetuning, pretraining = load("dfew"), load("voxceleb2_pretrain")
    assert Schedule(finetuning.optim, 96, 10).peak == pytest.approx(3.75e-4)
    assert Schedule(pretraining.optim, 128, 10).peak == pytest.approx(1.5e-4)


def ways(name: str) -> list[tuple[int, list[str]]]:
    """The processes and overrides of every training that a recipe's head shows, and of its way in less memory."""
    head = "\n".join(re.findall(r"^# ?(.*)$", find_recipe(name).read_text(encoding="utf-8"), re.MULTILINE))
    head = head.replace("\\\n", " ")
    found = []
    for line in re.findall(r"^ *((?:torchrun .*)?maedfer (?:pretrain|finetune) .*)$", head, re.MULTILINE):
        world = [int(number) for number in re.findall(r"--(?:nnodes|nproc-per-node) (\d+)", line)]
        found.append((math.prod(world), re.findall(r"train\.(?:batch_size|accumulate)=\d+", line)))
    (little,) = re.findall(r"with little memory: ([^.]*\.[^.]*\.[^.]*)\. ", " ".join(head.split()))
    return [*found, (1, little.split())]


@pytest.mark.parametrize("name", [*FINETUNING, "voxceleb2_pretrain"])
def test_one_four_and_sixty_four_gpus_have_the_same_schedule(name: str) -> None:
    clips = 1_092_009 if name == "voxceleb2_pretrain" else PROTOCOLS[name].clips - PROTOCOLS[name].test_clips
    schedules = {}
    for world, overrides in ways(name):
        cfg = load(name, *overrides)
        schedule = run_schedule(cfg, clips, clips // (cfg.train.batch_size * world), world)
        rates = tuple(schedule(step) for step in (0, 5, schedule.warmup, schedule.total // 2, schedule.total - 1))
        schedules[world, cfg.train.accumulate] = (schedule.global_batch, schedule.total, schedule.warmup, rates)
        # Clips of a pass are mixed in pairs.
        assert cfg.train.batch_size % 2 == 0
    many = 64 if name == "voxceleb2_pretrain" else 48
    assert list(schedules) == [(1, 1), (4, 1), (many, 1), (1, 4)]
    assert len(set(schedules.values())) == 1 and schedules[4, 1][0] == (128 if many == 64 else 96)


def test_the_generated_faces_have_the_classes_of_their_recipe() -> None:
    assert load("synth_finetune").data.classes == EXPRESSIONS
    pretraining, finetuning = load("synth_pretrain").model, load("synth_finetune").model
    assert isinstance(pretraining, MAEDFERConfig) and isinstance(finetuning, LGIFormerConfig)
    for name in ("clip_size", "patch_size", "region_size", "embed_dim", "depth", "num_heads"):
        assert getattr(pretraining.encoder, name) == getattr(finetuning, name), name


def test_switches_can_be_changed_on_top() -> None:
    assert load("dfew", "model.name=vit_base").clip_model.architecture == "vit"
    assert load("voxceleb2_pretrain", "model.encoder.region_size=[2,2,10]").clip_model.num_regions == 20
