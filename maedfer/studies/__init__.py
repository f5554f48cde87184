"""Several runs, or many evaluations, made into one result: the cells of a study, its tables, and the studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.studies.grid import Job, cells, run_jobs
    from maedfer.studies.probe import ProbeOptions, run_probe
    from maedfer.studies.probe_results import ProbeResult
    from maedfer.studies.tables import Column, Measured, Table, write_tables

__all__ = [
    "Column",
    "Job",
    "Measured",
    "ProbeOptions",
    "ProbeResult",
    "Table",
    "cells",
    "run_jobs",
    "run_probe",
    "write_tables",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "grid": ["Job", "cells", "run_jobs"],
        "probe": ["ProbeOptions", "run_probe"],
        "probe_results": ["ProbeResult"],
        "tables": ["Column", "Measured", "Table", "write_tables"],
    },
)
