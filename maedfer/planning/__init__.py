"""What a run costs on so many GPUs: time, memory, reading, links, checkpoints, failures and price, by a model.

Nothing is run and nothing is measured here. Figures of one device are measured ones where there are any (`measured`),
everything else is assumed and told (`machine`); `job` is what a recipe asks for and `plan` sets it against a number of
GPUs.
"""

from __future__ import annotations

from maedfer.planning.job import TrainingJob, training_job, with_core_rate
from maedfer.planning.machine import SHEETS, Assumption, Machine
from maedfer.planning.plan import RunPlan, plan_run

__all__ = ["SHEETS", "Assumption", "Machine", "RunPlan", "TrainingJob", "plan_run", "training_job", "with_core_rate"]
