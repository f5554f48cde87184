"""Reports of runs: `write_report` for one, `write_comparison` for several seeds of several conditions.

Both write report.html, one file that loads nothing from outside, and report.json with every number of the page.
"""

from __future__ import annotations

from maedfer.report.comparison import write_comparison
from maedfer.report.conditions import group_runs
from maedfer.report.model_card import model_card
from maedfer.report.write import write_report

__all__ = ["group_runs", "model_card", "write_comparison", "write_report"]
