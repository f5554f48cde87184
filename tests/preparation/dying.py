"""A look at clips of which one ends the process that takes it."""

from __future__ import annotations

import os

from maedfer.preparation import look


def look_or_die(job: look.LookJob) -> list[look.ClipLook]:
    if "dies" in " ".join(job.paths):
        os._exit(1)
    return look.look_at_job(job)
