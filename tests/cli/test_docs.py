"""The pages in docs/ and the recipes speak of keys, names and commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from maedfer.cli import build_parser
from maedfer.cli._parser import parse, split_items
from maedfer.data.protocols import PROTOCOLS
from maedfer.models import list_models
from maedfer.train.config import load_config
from maedfer.train.describe import describe
from maedfer.train.recipes import RECIPES, list_recipes
from tests.cli import settings_page
from tests.helpers import code_blocks

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "README.md"]
KEYS = {item.key for section in describe() for item in section.settings}


def read(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def test_recipes_page_agrees_with_the_settings() -> None:
    page = settings_page.PAGE.read_text(encoding="utf-8")
    assert page == settings_page.renewed(page), f"docs/recipes.md is stale: {settings_page.COMMAND} renews it"


def test_recipes_page_lists_every_recipe() -> None:
    prose = read("recipes.md").partition(settings_page.BEGIN)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", prose, re.MULTILINE)) == set(list_recipes())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_keys_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sections = "|".join(sorted({key.split(".")[0] for key in KEYS if "." in key}))
    named = re.findall(rf"`(?:{sections})\.[a-z_.]+[`=\[]", text)
    for match in named:
        key = match.strip("`=[").removesuffix(".")
        key = re.sub(r"^model\.encoder\.", "model.", key)
        assert key in KEYS or key == "model.encoder", match


# Flags of the two published scripts; https://github.com/sunlicai/MAE-DFER, commit 80b651d.
PRETRAINING = """
    batch_size epochs save_ckpt_freq model decoder_depth mask_type part_win_size part_apply_symmetry mask_ratio
    input_size drop_path normlize_target encoder_depth attn_type lg_region_size lg_first_attn_type
    lg_third_attn_type lg_attn_param_sharing_first_third lg_attn_param_sharing_all lg_no_second lg_no_third opt
    opt_eps opt_betas clip_grad momentum weight_decay weight_decay_end lr warmup_lr min_lr warmup_epochs
    warmup_steps color_jitter train_interpolation data_path imagenet_default_mean_and_std num_frames sampling_rate
    output_dir log_dir device seed resume auto_resume no_auto_resume num_samples start_epoch num_workers pin_mem
    no_pin_mem world_size local_rank dist_on_itp dist_url no_augmentation use_frame_diff_as_target
    frame_diff_group_size target_diff_weight
""".split()
FINETUNING = """
    batch_size epochs update_freq save_ckpt_freq model tubelet_size input_size drop attn_drop_rate drop_path
    disable_eval_during_finetuning model_ema model_ema_decay model_ema_force_cpu attn_type lg_region_size
    lg_first_attn_type lg_third_attn_type lg_attn_param_sharing_first_third lg_attn_param_sharing_all
    lg_classify_token_type lg_no_second lg_no_third opt opt_eps opt_betas clip_grad momentum weight_decay
    weight_decay_end lr layer_decay warmup_lr min_lr warmup_epochs warmup_steps color_jitter num_sample aa smoothing
    train_interpolation crop_pct short_side_size test_num_segment test_num_crop reprob remode recount resplit mixup
    cutmix cutmix_minmax mixup_prob mixup_switch_prob mixup_mode finetune model_key model_prefix init_scale
    use_mean_pooling use_cls data_path eval_data_path nb_classes imagenet_default_mean_and_std num_segments
    num_frames sampling_rate data_set output_dir log_dir device seed resume auto_resume no_auto_resume save_ckpt
    no_save_ckpt start_epoch eval dist_eval num_workers pin_mem no_pin_mem world_size local_rank dist_on_itp
    dist_url enable_deepspeed val_metric depth save_feature
""".split()


def test_every_published_flag_is_translated() -> None:
    # Flags stand in the first column of a table.
    rows = [line.split("|")[1] for line in read("published_flags.md").splitlines() if line.startswith("| `--")]
    translated = [flag for row in rows for flag in re.findall(r"`--(\w+)`", row)]
    assert set(translated) == {*PRETRAINING, *FINETUNING}
    assert sorted({flag for flag in translated if translated.count(flag) > 1}) == ["data_path"]


def commands() -> list[tuple[str, str]]:
    """Every maedfer command in a code block of a page, or in the head of a recipe."""
    found = []
    for page in PAGES:
        for block in code_blocks(page, "", "sh"):
            found += [(page.name, line.strip()) for line in block.replace("\\\n", " ").splitlines()]
    for recipe in sorted(RECIPES.glob("*.yaml")):
        head = "\n".join(re.findall(r"^# ?(.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE))
        found += [(recipe.name, line.strip()) for line in head.replace("\\\n", " ").splitlines()]
    return [(name, line) for name, line in found if re.match(r"(torchrun .* -m )?maedfer [a-z]", line)]


@pytest.mark.parametrize(("where", "command"), commands(), ids=lambda text: text[:60])
def test_commands_that_pages_show_are_understood(where: str, command: str) -> None:
    command = command.split(" > ")[0].partition("maedfer ")[2].replace("$k", "1").replace(" ...", "")
    args = parse(build_parser(), shlex.split(command, comments=True))
    if args.command in ("pretrain", "finetune"):
        recipe, overrides = split_items(args.items, "recipe")
        if recipe and recipe.endswith(".yaml"):
            recipe = None
        load_config(args.command, recipe, overrides, check=False)


def test_data_page_agrees_with_the_protocols() -> None:
    rows = [line.strip("| ").split(" | ") for line in read("data.md").splitlines() if line.startswith("| `")]
    assert rows == [
        [
            f"`{name}`",
            protocol.layout,
            f"{protocol.folds}, {protocol.split}",
            f"{protocol.clips:,}",
            f"{protocol.test_clips:,}",
        ]
        for name, protocol in PROTOCOLS.items()
    ]


def test_model_names_in_the_pages_exist() -> None:
    for page in PAGES:
        names = re.findall(r"`((?:lgi_former|mae_dfer|vit|video_mae)_[a-z]+)`", page.read_text(encoding="utf-8"))
        assert set(names) <= set(list_models()), page.name
