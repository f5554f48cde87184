"""All that is examined, in order."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

from maedfer.doctor.apart import LIMIT, Area, findings
from maedfer.doctor.finding import Finding, Options, wrong
from maedfer.doctor.private import discreet
from maedfer.errors import InputError

_AREAS = "maedfer.doctor.areas."
AREAS = (
    Area("packages", f"{_AREAS}packages", needs_torch=False),
    Area("environment", f"{_AREAS}variables", needs_torch=False),
    Area("disk", f"{_AREAS}disk", needs_torch=False),
    Area("maedfer", f"{_AREAS}code"),
    Area("machine", f"{_AREAS}machine"),
    Area("torch build", f"{_AREAS}torch_build"),
    Area("GPU", f"{_AREAS}gpu"),
    Area("kernels", f"{_AREAS}kernels"),
    Area("readers", f"{_AREAS}readers"),
    Area("detector", f"{_AREAS}detector"),
    Area("network", f"{_AREAS}network"),
    Area("data", f"{_AREAS}clips"),
)


def examine(
    folder: str = ".",
    data: str = "",
    *,
    found: Callable[[Finding], None] = lambda finding: None,
    begun: Callable[[str], None] = lambda area: None,
    limit: float = LIMIT,
) -> list[Finding]:
    """Examine the installation and the machine; it takes some ten seconds, most of them to import torch.

    Args:
        folder: on the disk that is tried; what is written there is removed again.
        data: a list of clips, or a folder of shards, that is looked at as well; "" = none.
        found: takes each finding as it comes.
        begun: takes the name of each area as it begins.
        limit: seconds that an area may take.

    Returns:
        All findings, without names of people and their folders.

    Raises:
        InputError: the folder or the data are not there.
    """
    if not os.path.isdir(folder):
        raise InputError(f"folder {folder!r} {'is a file' if os.path.exists(folder) else 'does not exist'}")
    if data and "://" not in data and not os.path.exists(data):
        raise InputError(f"{data!r} does not exist: give a list of clips, or a folder of shards")
    every: list[Finding] = []

    def keep(finding: Finding) -> None:
        finding = Finding(finding.name, finding.verdict, discreet(finding.found), discreet(finding.advice))
        every.append(finding)
        found(finding)

    with _scratch(folder, keep) as (place, usable):
        passed = {"disk": usable, "data": bool(data)}
        areas = [area for area in AREAS if passed.get(area.name, True)]
        for name, finding in findings(areas, Options(place, data), limit):
            if finding is None:
                begun(name)
            else:
                keep(finding)
    return every


@contextlib.contextmanager
def _scratch(folder: str, keep: Callable[[Finding], None]) -> Iterator[tuple[str, bool]]:
    """An empty folder that is removed in the end, and whether it is where it was to be."""
    usable = True
    try:
        place = tempfile.mkdtemp(prefix=".maedfer-doctor-", dir=os.path.abspath(folder))
    except OSError as error:
        usable, place = False, tempfile.mkdtemp(prefix="maedfer-doctor-")
        keep(wrong("disk", f"nothing can be written into {folder!r}: {error.strerror}", "give another --folder"))
    try:
        yield place, usable
    finally:
        shutil.rmtree(place, ignore_errors=True)
