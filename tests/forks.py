"""Processes that tests start, forked from one server that has imported what they need, so that each costs little.

There is one server in a process of pytest, whoever starts it first: what one test has it import is what others get.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

from maedfer.studies.grid import _IMPORTED

_HOSTILE = "tests.hostile.commands tests.hostile.files tests.hostile.malice".split()
_TRAIN = "tests.train.crowd tests.train.runs tests.soak.inside tests.data.shards.killed".split()
_OTHERS = "maedfer.train.dry_run maedfer.data maedfer.evaluation yaml av.video.reformatter simplejpeg PIL.Image".split()


def forking() -> ForkServerContext:
    """What starts them: its `Process`, `Barrier` and the like."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, *_OTHERS, *_HOSTILE, *_TRAIN])
    return context
