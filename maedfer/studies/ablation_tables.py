"""Tables of ablations: which rows they have, and what each row changes. A table is a YAML file of `ablations/`.

    table: "3"
    title: Stages of LGI-Former
    source: MAE-DFER, Table 3
    rows:
      - name: intra- and inter-region
        model: {interaction: none}          # of the encoder, in pre-training and fine-tuning
        pretrain: {model.target: motion}    # any settings, of pre-training alone
        finetune: {model.token_type: all}   # of fine-tuning alone
        scale: {width: 0.5, region: [1, 2, 1]}
        paper: {parameters: 68.04, macs: 42.77}

What is scaled is a multiple of what the recipe has, so that the rows mean the same for a model of any size: `width` of
channels and heads, `depth` of blocks, `region` of the region along each dimension, to the nearest divisor of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maedfer.data.video.base import shown
from maedfer.dataclass_tree import from_dict
from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormerConfig
from maedfer.setting import setting
from maedfer.train.recipes import read_tree

TABLES = Path(__file__).resolve().parent / "ablations"
# In the order of the paper.
NAMES = ("2", "3", "4", "9", "10", "11", "fig3")


@dataclass(frozen=True)
class Multiples:
    """Multiples of what the recipe has.

    Args:
        width: of the encoder's channels and heads.
        depth: of its blocks.
        region: of the region's tokens along each dimension.
    """

    width: float = setting(1.0, above=0, high=16, doc="multiple of the encoder's channels and heads")
    depth: float = setting(1.0, above=0, high=16, doc="multiple of the encoder's blocks")
    region: tuple[float, ...] = setting((), above=0, high=1000, doc="multiples of the region's tokens")


@dataclass(frozen=True)
class PaperFigures:
    """What the paper prints for a row, None where that is not known.

    Args:
        parameters: of the fine-tuned model, in M.
        macs: multiply-adds of a clip's forward pass, in G.
        uar, war: in per cent, on the paper's data set.
    """

    parameters: float | None = setting(None, above=0, doc="M")
    macs: float | None = setting(None, above=0, doc="G")
    uar: float | None = setting(None, low=0, high=100, doc="per cent")
    war: float | None = setting(None, low=0, high=100, doc="per cent")


@dataclass(frozen=True)
class AblationRow:
    """A row: what it is called, and the settings that make it.

    Args:
        name: what it is called.
        pretrain, finetune: overrides of pre-training and of fine-tuning.
        scale: multiples of what the recipe has.
        paper: what the paper prints.
    """

    name: str
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    scale: Multiples = Multiples()
    paper: PaperFigures = PaperFigures()


@dataclass(frozen=True)
class AblationTable:
    """A table of ablations.

    Args:
        table: how it is asked for, and what its files are called.
        title: what is varied.
        source: where the rows are from.
        rows: in their order.
        axis: what a curve has on its axis, whose places are the rows' names; empty for a table.
    """

    table: str
    title: str
    source: str
    rows: tuple[AblationRow, ...]
    axis: str = ""


def find_tables(names: Sequence[str]) -> list[AblationTable]:
    """Tables by their names, or from files of one's own.

    Args:
        names: of `NAMES`, "all" for all of them, or paths of YAML files.

    Raises:
        InputError: there is no such table, or a file is none.
    """
    found: dict[str, AblationTable] = {}
    for name in names:
        for one in NAMES if name == "all" else (name,):
            table = _read(one)
            if table.table in found and one not in NAMES:
                raise InputError(f"{shown(one)}: another table is called {table.table!r}: give it another name")
            found.setdefault(table.table, table)
    return list(found.values())


def scaled(scale: Multiples, model: LGIFormerConfig, where: str) -> list[str]:
    """The overrides of the encoder that multiples come to.

    Args:
        scale: the multiples.
        model: of the recipe.
        where: of the row, for messages.

    Raises:
        InputError: they give no whole numbers, or are of another number of dimensions.
    """
    found = []
    for factor, key in ((scale.width, "embed_dim"), (scale.width, "num_heads"), (scale.depth, "depth")):
        number = factor * getattr(model, key)
        if number != int(number) or number < 1:
            raise InputError(f"{where}: {factor:g} times {key}={getattr(model, key)} is no whole number")
        if factor != 1:
            found.append(f"model.{key}={int(number)}")
    if scale.region:
        if len(scale.region) != len(model.grid):
            raise InputError(f"{where}: scale.region has {len(scale.region)} numbers, the grid has {len(model.grid)}")
        sizes = [
            min((size for size in range(1, grid + 1) if grid % size == 0), key=lambda size: (abs(size - near), size))
            for grid, near in zip(
                model.grid, (a * b for a, b in zip(scale.region, model.region_size, strict=True)), strict=True
            )
        ]
        found.append(f"model.region_size=[{', '.join(map(str, sizes))}]")
    return found


def _read(name: str) -> AblationTable:
    if name in NAMES:
        file = TABLES / (f"{name[:3]}_{name[3:]}.yaml" if name.startswith("fig") else f"table_{name}.yaml")
    elif Path(name).suffix in (".yaml", ".yml"):
        file = Path(name)
    else:
        raise unknown("table", name, [*NAMES, "all"], where="(or the path of a YAML file)")
    where = file.name if name in NAMES else shown(name)
    tree = dict(read_tree(file))
    rows = tree.pop("rows", None)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{where}: rows must be a list of sections with a name each")
    head = {key: str(value) for key, value in tree.items()}
    for key in head:
        if key not in ("table", "title", "source", "axis"):
            raise unknown("key", key, ["table", "title", "source", "axis", "rows"], where=f"in {where}")
    for key in ("table", "title"):
        if not head.get(key):
            raise InputError(f"{where}: {key} is not set")
    if not head["table"].replace("_", "").replace("-", "").isalnum():
        raise InputError(f"{where}: table {head['table']!r} is to name files: letters, digits, - and _ alone")
    parsed = tuple(_row(row, f"{where}: rows[{index}]") for index, row in enumerate(rows))
    twice = next((row.name for index, row in enumerate(parsed) if row.name in {one.name for one in parsed[:index]}), "")
    if twice:
        raise InputError(f"{where}: two rows are called {twice!r}: results are told apart by their names")
    return AblationTable(head["table"], head["title"], head.get("source", where), parsed, head.get("axis", ""))


def _row(row: Any, where: str) -> AblationRow:
    if not isinstance(row, Mapping):
        raise InputError(f"{where} must be a section with a name, got {row!r}")
    values = dict(row)
    both, first, then = (_settings(values.pop(key, {}), f"{where}.{key}") for key in ("model", "pretrain", "finetune"))
    shared = tuple(f"model.{item}" for item in both)
    made = from_dict(AblationRow, values, path=where)
    if not made.name.strip():
        raise InputError(f"{where}.name is empty")
    return AblationRow(made.name, (*shared, *first), (*shared, *then), made.scale, made.paper)


def _settings(section: Any, where: str) -> tuple[str, ...]:
    if not isinstance(section, Mapping):
        raise InputError(f"{where} must be a section of settings, as {{model.target: motion}}, got {section!r}")
    return tuple(f"{key}={_text(value)}" for key, value in section.items())


def _text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
