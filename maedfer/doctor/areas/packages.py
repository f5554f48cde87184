"""Python and packages against what is supported, and what of the optional ones is there."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from maedfer.doctor.finding import Finding, Options, note, ok, wrong

# What the tests are run on; pyproject.toml says what is required.
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
NEWEST_TORCH = (2, 15)
# Beside those that are for developers, and the one that needs a build for each torch.
_NOT_TOLD = ("dev", "xformers")


@dataclass(frozen=True)
class Requirement:
    """A line of what is required: a package, its least version, the extra that wants it."""

    package: str
    least: str = ""
    extra: str = ""


def look(options: Options) -> Iterator[Finding]:
    """Python, required packages, optional ones."""
    yield python(sys.version_info[:2])
    try:
        lines = importlib.metadata.requires("maedfer") or []
    except importlib.metadata.PackageNotFoundError:
        yield note("packages", "maedfer is not installed, it runs from its source", "pip install -e . in its folder")
        return
    required = requirements(lines)
    yield from _required([one for one in required if not one.extra])
    yield from _optional(required)


def python(version: tuple[int, ...]) -> Finding:
    """Whether a version of Python is supported."""
    supported = ".".join(map(str, OLDEST_PYTHON)) + " to " + ".".join(map(str, NEWEST_PYTHON))
    found = f"{platform.python_version()} ({platform.python_implementation()}), supported: {supported}"
    if version < OLDEST_PYTHON:
        return wrong("python", found, "install a newer one")
    if version > NEWEST_PYTHON:
        return note("python", found, "it is newer than what was tried")
    return ok("python", found)


def requirements(lines: list[str]) -> list[Requirement]:
    """What the metadata of a package requires, on this machine.

    Args:
        lines: as "name>=1.2; sys_platform == 'linux' and extra == 'video'".
    """
    found = []
    for line in lines:
        name, _, condition = line.partition(";")
        if _of_another_machine(condition):
            continue
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^\]]*\])?[^>]*(?:>=\s*([\w.]+))?", name)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
        if match and match[1] != "maedfer":
            found.append(Requirement(match[1], match[2] or "", extra[1] if extra else ""))
    return found


def _of_another_machine(condition: str) -> bool:
    here = {"sys_platform": sys.platform, "platform_machine": platform.machine()}
    wanted = re.findall(r"(sys_platform|platform_machine) == ['\"](\w+)['\"]", condition)
    return any(here[key] != value for key, value in wanted)


def _required(required: list[Requirement]) -> Iterator[Finding]:
    for one in required:
        version = installed(one.package)
        if version is None:
            yield wrong(one.package, "not installed", f"pip install '{one.package}>={one.least}'")
        elif numbers(version) < numbers(one.least):
            yield wrong(one.package, f"{version}, {one.least} or newer is needed", f"pip install -U {one.package}")
        elif one.package == "torch" and numbers(version)[:2] > NEWEST_TORCH:
            yield note("torch", f"{version}, newer than what was tried", "report what does not work with it")
        else:
            yield ok(one.package, f"{version}, {one.least} or newer is needed")


def _optional(required: list[Requirement]) -> Iterator[Finding]:
    extras = [extra for extra in dict.fromkeys(one.extra for one in required) if extra and extra not in _NOT_TOLD]
    for extra in extras:
        wanted = [one for one in required if one.extra == extra]
        versions = {one.package: installed(one.package) for one in wanted}
        missing = [name for name, version in versions.items() if version is None]
        old = [one for one in wanted if (found := versions[one.package]) and numbers(found) < numbers(one.least)]
        told = ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "nothing"
        name = f"extra {extra}"
        if missing:
            yield note(name, f"{told}; not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
        elif old:
            which = ", ".join(f"{one.package} must be {one.least} or newer" for one in old)
            yield note(name, f"{told}; {which}", f"pip install -U {' '.join(one.package for one in old)}")
        else:
            yield ok(name, told)


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (2, 14, 1) of "2.14.1+cpu"."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
