"""The place of what is measured: made and tried before measuring, and written whole."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path
from maedfer.errors import InputError


def make_place(path: Path) -> Path:
    """Make the folders above a file that is to take results, and try whether they can be written to.

    Called before anything is measured, so that minutes of it are not lost for want of a folder.

    Args:
        path: the file; what is there already stays.

    Returns:
        The same path.

    Raises:
        InputError: the path is a folder, or nothing can be written there.
    """
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder: give the name of a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"nothing can be written to {str(path)!r} ({error.strerror}): give another place") from error
    return path


def write(path: Path, results: dict[str, Any]) -> None:
    """Write a results file, in one go.

    Raises:
        InputError: it cannot be written; an earlier file is kept.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
