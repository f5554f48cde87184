"""Which package runs: its version, its place, the state of its checkout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import maedfer
from maedfer.doctor.finding import Finding, Options, note, ok


def look(options: Options) -> Iterator[Finding]:
    """Version, place, revision and changes."""
    from maedfer.train.environment import git_state

    place = Path(maedfer.__file__).resolve().parent
    yield ok("maedfer", f"{maedfer.__version__} in {place}")
    state = git_state()
    revision, changes = state["git_revision"], state["git_changes"]
    if revision is None:
        yield ok("git", "no checkout: an installed package")
    elif changes is None:
        yield ok("git", revision)
    else:
        yield note("git", f"{revision}, SHA-256 of the changes {changes}", "say what was changed, or git stash")
