"""What a run is made under, for every file that holds a result of it: seed, versions, device, code, lists of clips.

Settings stand beside it wherever this is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer.data.shards.layout import INDEX_FILE
from maedfer.train.environment import machine
from maedfer.train.processes import Runtime
from maedfer.train.settings import RunConfig


def conditions(cfg: RunConfig, runtime: Runtime, clips: Mapping[str, str]) -> dict[str, Any]:
    """What a run is made under, as plain values; it is the main process's to write, and others get nothing.

    Args:
        cfg: the run.
        runtime: this process.
        clips: `same_clips.identity` of each list that is read, by name ("train").
    """
    if not runtime.main:
        return {}
    files = {name: getattr(cfg.data, name) for name in clips}
    lists = {name: {"clips": clips[name], "sha256": file_digest(files[name])} for name in clips}
    return {**machine(runtime), "seed": cfg.seed, "deterministic": cfg.train.deterministic, "lists": lists}


def file_digest(path: str) -> str | None:
    """SHA-256 of a list, or of the index of shards in a folder; None of what cannot be read twice (a pipe, an address).

    The index of shards holds the digests of all that is in them.
    """
    file = Path(path) / INDEX_FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        return None
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def changed_conditions(before: Mapping[str, Any], here: Mapping[str, Any], step: int) -> list[str]:
    """A sentence about versions, device and code that are not those of before; none where nothing is known of before.

    Args:
        before, here: `conditions` then and now.
        step: from which the run goes on.
    """
    changed = [
        f"{name} {new or 'is absent'} ({old or 'absent'} before)"
        for name, old, new in _pairs(_told(before), _told(here))
        if old != new
    ]
    if not before or not here or not changed:
        return []
    return [
        f"from step {step} on, the run is made under {', '.join(changed)}: it need not end with the bits that it would "
        "have ended with before"
    ]


def _told(facts: Mapping[str, Any]) -> dict[str, str | None]:
    code = facts.get("git_revision")
    # Who has changed the code again has it told apart by the digest of the changes.
    if code and facts.get("git_changes"):
        code = f"{code} {facts['git_changes'][:8]}"
    return {**facts.get("versions", {}), "device": facts.get("device"), "code": code}


def _pairs(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    # A package that only one of both looks for is no change.
    return [(name, before[name], here[name]) for name in here if name in before]
