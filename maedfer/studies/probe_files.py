"""The folder of a study of probes: a folder a probe, tables, probe.json, the page."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path, remove_temporaries
from maedfer.errors import InputError, require
from maedfer.evaluation.predictions import write_table
from maedfer.studies.probe_page import write_page
from maedfer.studies.probe_results import (
    FEATURES,
    RESULT_FILE,
    RUNS,
    ProbeResult,
    ScoredProbe,
    differences_to_random,
    group_probes,
    random_table,
    score_table,
    sentence,
    told,
)
from maedfer.studies.tables import write_tables
from maedfer.train.config import RunConfig, saved_tree
from maedfer.train.evaluate import write_results
from maedfer.train.log import write_json
from maedfer.train.processes import Runtime


def check_folder(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        InputError: it does.
    """
    if out.is_dir():
        names = {path.name for path in out.iterdir()} - {".lock"}
        if names and not names & {FEATURES, RESULT_FILE}:
            raise InputError(f"{str(out)!r} holds other files: give a new folder, or that of an earlier probe")
    elif out.exists():
        raise InputError(f"{str(out)!r} is a file: give a folder")


def write_study(
    cfg: RunConfig,
    runtime: Runtime,
    scored: Sequence[ScoredProbe],
    about: Mapping[str, Any],
    notes: Sequence[str],
    say: Any,
) -> ProbeResult:
    """Write everything into the folder of the study, whose earlier results are replaced, and tell the scores."""
    out, metric = Path(cfg.output), str(about["options"]["metric"])
    remove_temporaries(out)
    groups = group_probes(scored, metric)
    differences = differences_to_random(groups)
    sentences = [sentence(group, differences.get((group.kind, group.layer)), groups) for group in told(groups)]
    tables = {"table": score_table(groups, about)}
    if differences:
        tables["random"] = random_table(groups, differences)
    # Those of an earlier call may be of other layers and seeds.
    shutil.rmtree(out / RUNS, ignore_errors=True)
    for one in scored:
        _write_run(out / RUNS / one.task.folder, cfg, runtime, one)
    _write_rows(out / "probe.csv", scored)
    # What the table was called before, and one that may not be made this time.
    for path in (out / f"{name}.{end}" for name in ("random", "scores") for end in ("csv", "tex")):
        path.unlink(missing_ok=True)
    for name, table in tables.items():
        write_tables(table, out / name, "tab:scores" if name == "table" else f"tab:{name}")
    page = write_page(out, groups, list(tables.values()), about, sentences, notes)
    result = {
        **about,
        "scores": [group.numbers() for group in groups],
        "differences": [
            {"probe": kind, "layer": layer, "uar": dataclasses.asdict(value)}
            for (kind, layer), value in differences.items()
        ],
        "probes": [_numbers(one) for one in scored],
        "sentences": sentences,
        "notes": list(notes),
    }
    write_json(out / RESULT_FILE, result)
    for line in [*sentences, *notes]:
        say(line)
    say(f"report: {page}")
    return ProbeResult(out, tuple(groups), differences, tuple(sentences), tuple(notes), page)


def _numbers(one: ScoredProbe) -> dict[str, Any]:
    """A probe for probe.json."""
    found = one.scores
    return {
        "features": one.task.who,
        **{"probe" if key == "kind" else key: value for key, value in one.task._asdict().items() if key != "who"},
        **{key: found[key] for key in ("uar", "war", "macro_f1", "weighted_f1", "n", "recall")},
        "chosen": dict(one.fitted.chosen),
        "validation_clips": one.fitted.validation,
        "trials": [dataclasses.asdict(trial) for trial in one.fitted.trials],
        "run": f"{RUNS}/{one.task.folder}",
    }


def _write_rows(path: Path, scored: Sequence[ScoredProbe]) -> None:
    """A row a probe, for programs."""
    keys = list(dict.fromkeys(key for one in scored for key in one.fitted.chosen))
    head = ["features", "probe", "layer", "seed", "uar", "war", "macro_f1", "weighted_f1", "n", "validation_uar"]
    rows = []
    for one in scored:
        found, best = one.scores, one.fitted.best
        cells = [f"{found[key]:.10g}" for key in ("uar", "war", "macro_f1", "weighted_f1")]
        chosen = [f"{one.fitted.chosen[key]:g}" if key in one.fitted.chosen else "" for key in keys]
        rows.append([*one.task, *cells, found["n"], "" if best is None else f"{best.uar:.10g}", *chosen])
    write_table(path, [*head, *keys], rows)


def _write_run(folder: Path, cfg: RunConfig, runtime: Runtime, one: ScoredProbe) -> None:
    """A folder as an evaluation leaves it: config.yaml, pred.csv, metrics.json."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
    own = dataclasses.replace(cfg, output=str(folder), seed=one.task.seed)
    probe = {"features": one.task.who, "kind": one.task.kind, "layer": one.task.layer}
    text = require("yaml", "train").safe_dump({**saved_tree(own), "probe": probe}, sort_keys=False, allow_unicode=True)
    with atomic_path(folder / "config.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    facts = {
        "split": "test",
        "views": cfg.eval.views,
        "checkpoint": cfg.eval.checkpoint if one.task.who == "model" else "",
        "precision": runtime.precision,
        "probe": {**probe, "chosen": dict(one.fitted.chosen)},
    }
    write_results(own, runtime, one.predictions, facts)
