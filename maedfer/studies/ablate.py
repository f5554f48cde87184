"""Ablations: every row of a table is pre-trained and fine-tuned, and what rows share is run once.

A row's pre-training is one run; its fine-tuning has several seeds. The spread over seeds is therefore that of
fine-tuning alone: how far another pre-training would be is not in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maedfer.dataclass_tree import differences, keys_of, to_dict
from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig
from maedfer.studies.ablation_tables import AblationRow, AblationTable, scaled
from maedfer.studies.grid import Job, run_jobs
from maedfer.train.config import RunConfig, config_tree, load_config

# What every run has of its own, or the study as a whole.
_OWN = {
    "output": "give the folder of the study by --out",
    "seed": "give --seeds, and --first-seed for others than those from 0 on",
    "task": "the study has both tasks",
    "train.init": "every row starts from its own pre-training",
}
# Of the epochs of a recipe, what the short form takes.
_QUICK = {"pretrain": 8, "finetune": 3}
_LONGEST = 80


@dataclass(frozen=True)
class AblationCell:
    """What a row of a table is run as.

    Args:
        pretrain: its pre-training.
        runs: its fine-tuning, one a seed.
        same: whether its settings are those of the recipes.
    """

    pretrain: Job
    runs: tuple[Job, ...]
    same: bool


@dataclass(frozen=True)
class AblationStudy:
    """Tables, and the runs of their rows.

    Args:
        recipe: of fine-tuning.
        out: folder of the study.
        tables: in their order.
        cells: by table and row.
        seeds: of the fine-tuning of every row.
        notes: sentences that a reader of the results must know.
    """

    recipe: str
    out: Path
    tables: tuple[AblationTable, ...]
    cells: Mapping[tuple[str, str], AblationCell]
    seeds: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def pretraining(self) -> list[Job]:
        """All runs of pre-training, each once."""
        return list({cell.pretrain.output: cell.pretrain for cell in self.cells.values()}.values())

    @property
    def finetuning(self) -> list[Job]:
        """All runs of fine-tuning, each once, those of the first seed first."""
        return list({run.output: run for runs in zip(*(cell.runs for cell in self.cells.values()), strict=True)
                     for run in runs}.values())  # fmt: skip


def plan_ablate(
    out: str | Path,
    tables: Sequence[AblationTable],
    *,
    recipe: str = "synth_finetune",
    overrides: Sequence[str] = (),
    pretrain_recipe: str = "synth_pretrain",
    pretrain_overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
) -> AblationStudy:
    """Make the runs of tables, and look whether they can be run.

    Args:
        out: folder of the study.
        tables: what is varied.
        recipe, overrides: of fine-tuning.
        pretrain_recipe, pretrain_overrides: of pre-training.
        seeds: of the fine-tuning of every row.
        quick: a short form: an eighth of the epochs of pre-training, a third of those of fine-tuning.

    Raises:
        InputError: naming what cannot be used, the table and the row.
    """
    for item in (*overrides, *pretrain_overrides):
        key = item.partition("=")[0]
        if key in _OWN:
            raise InputError(f"{key} is not for ablate: {_OWN[key]}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must differ, and there must be one at least, got {list(seeds)}")
    recipes = {"pretrain": (pretrain_recipe, tuple(pretrain_overrides)), "finetune": (recipe, tuple(overrides))}
    base: dict[str, RunConfig] = {}
    for task, (name, settings) in recipes.items():
        # What is drawn with a set of one's own is no ablation's business: lists are looked for by the runs.
        base[task] = load_config(task, name, [*settings, f"output={out}"])
        if quick:
            settings = (*_shortened(base[task]), *settings)
            recipes[task] = name, settings
            base[task] = load_config(task, name, [*settings, f"output={out}"])
    if not base["finetune"].data.test and not base["finetune"].data.val:
        raise InputError("nothing would be scored: set data.test to the list of the clips that the tables are about")
    cells = {
        (table.table, row.name): _cell(Path(out), row, f"table {table.table}, row {row.name!r}", recipes, base, seeds)
        for table in tables
        for row in table.rows
    }
    notes = ["Each row has one pre-training; the spread over seeds is that of fine-tuning alone."]
    if quick:
        notes.insert(0, "Short form: it shows that the rows can be run, and nothing of how they compare.")
    return AblationStudy(recipe, Path(out), tuple(tables), cells, tuple(seeds), tuple(notes))


def ablate(
    plan: AblationStudy,
    processes: int = 0,
    devices: Sequence[str] = (),
    say: Callable[[str], None] = print,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Run what is left: all pre-training, then all fine-tuning.

    Args:
        plan: what to run.
        processes, devices: see `maedfer.studies.grid.shares`.
        say, progress: see `run_jobs`; progress counts a run of pre-training as one of fine-tuning.

    Raises:
        InputError: runs have failed; the others are done, and the same call goes on with what is left.
    """
    first, then = plan.pretraining, plan.finetuning
    whole = len(first) + len(then)

    def part(begin: int, count: int) -> Callable[[float], None] | None:
        return None if progress is None else lambda share: progress((begin + share * count) / whole)

    run_jobs(first, processes, say, part(0, len(first)), devices=devices)
    run_jobs(then, processes, say, part(len(first), len(then)), devices=devices)


def _shortened(cfg: RunConfig) -> tuple[str, ...]:
    epochs = max(1, cfg.optim.epochs // _QUICK[cfg.task])
    found = [f"optim.epochs={epochs}", f"optim.warmup_epochs={min(cfg.optim.warmup_epochs, epochs / 4):g}"]
    return (*found, "eval.every=0") if cfg.task == "finetune" and cfg.eval.select == "last" else tuple(found)


def _cell(
    out: Path,
    row: AblationRow,
    where: str,
    recipes: Mapping[str, tuple[str, tuple[str, ...]]],
    base: Mapping[str, RunConfig],
    seeds: Sequence[int],
) -> AblationCell:
    model = base["finetune"].clip_model
    factors = scaled(row.scale, model, where)
    own = {"pretrain": (*factors, *row.pretrain), "finetune": (*factors, *row.finetune)}
    configs, names = {}, {}
    for task, (recipe, settings) in recipes.items():
        try:
            configs[task] = load_config(task, recipe, [*settings, *own[task], f"output={out}"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        names[task] = "recipe" if config_tree(configs[task]) == config_tree(base[task]) else _slug(own[task])
    _check_encoders(configs, where)
    pretrain, finetune = names["pretrain"], names["finetune"]
    name = pretrain if pretrain == finetune else f"{pretrain}+{finetune}"
    first = Job("pretrain", recipes["pretrain"][0], out / "pretrain" / pretrain,
                (*recipes["pretrain"][1], *own["pretrain"]), f"pre-training, {where}")  # fmt: skip
    runs = tuple(
        Job(
            "finetune",
            recipes["finetune"][0],
            out / "finetune" / name / f"seed_{seed}",
            (*recipes["finetune"][1], *own["finetune"], f"train.init={first.output}", f"seed={seed}"),
            f"fine-tuning, {where}, seed {seed}",
        )
        for seed in seeds
    )
    return AblationCell(first, runs, name == "recipe")


def _check_encoders(configs: Mapping[str, RunConfig], where: str) -> None:
    """Refuse weights that would not fit, before hours of pre-training."""
    keys = keys_of(LGIFormerConfig, "weights")
    there, here = (
        {key: value for key, value in to_dict(configs[task].clip_model).items() if key in keys}
        for task in ("pretrain", "finetune")
    )
    differ = differences(there, here)
    if differ:
        raise InputError(
            f"{where}: pre-training and fine-tuning have different encoders: "
            f"{'; '.join(differ)}: change them by model in the table, or take recipes that belong together"
        )


def _slug(overrides: Sequence[str]) -> str:
    """The name of a folder for settings that are not the recipe's."""
    text = "_".join(re.sub(r"[^\w.-]+", "_", item.removeprefix("model.").replace("=", "_")) for item in overrides)
    if len(text) > _LONGEST:
        digest = hashlib.sha256(json.dumps(list(overrides)).encode()).hexdigest()[:8]
        text = f"{text[: _LONGEST - 9]}_{digest}"
    return re.sub("_+", "_", text).strip("_")
