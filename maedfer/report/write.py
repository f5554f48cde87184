"""The page about one run."""

from __future__ import annotations

from pathlib import Path

from maedfer.report import page as html
from maedfer.report import sections as parts
from maedfer.report.evidence import Evidence
from maedfer.report.explained import explained
from maedfer.report.incidents import incidents
from maedfer.report.run_data import read_run


def write_report(run_dir: str | Path) -> Path:
    """Show what a run folder holds; what is absent is left out, so that a run that was interrupted has its page too.

    Args:
        run_dir: folder with any of config.yaml, environment.json, log.jsonl, metrics.json, pred.csv, features.npz,
            reconstructions.npz, reconstructions_start.npz, and a folder explanation of `maedfer explain`.

    Returns:
        Path of report.html in that folder.

    Raises:
        InputError: the folder is no run folder, or one of its files is broken.
    """
    run = read_run(run_dir)
    pictures, picture_numbers = parts.reconstructions(run)
    evidence = Evidence(run)
    sections = {
        "ending": parts.ending(run),
        "headline": parts.headline(run, evidence.by_subject),
        "selection": parts.selection(run),
        "folds": parts.folds(run),
        "curves": parts.curves(run),
        "incidents": incidents(run),
        "scores": parts.per_class(run, evidence.of_classes()),
        "class_map": evidence.of_class_map(),
        "intervals": evidence.of_scores(),
        "confidence": evidence.of_confidence(),
        "reconstructions": (html.section("Reconstructions", pictures), picture_numbers),
        "explained": explained(run),
        "tsne": parts.embedding(run),
        "mistakes": parts.mistakes(run),
    }
    shown, numbers = parts.merge(sections)
    title, subtitle = parts.title(run)
    head = {"kind": "run", "title": title, "run": run.path.resolve().name, "cut_off_log_line": run.torn}
    tail = {"config": run.config, "environment": run.environment}
    page = html.page(title, subtitle, [*shown, parts.details(run)], parts.footer(run))
    return html.write(run.path, page, {**head, **numbers, **tail})
