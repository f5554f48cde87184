"""The compiled modules of csrc/ and what is known of how they were built.

`maedfer._cpu` (C++) and `maedfer._cuda` (CUDA C++) take pointers, sizes and a stream, and know nothing of PyTorch.
Either may be missing: `absent` says why. Nothing of PyTorch is imported here.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any


def _imported(part: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"maedfer._{part}")
    except ImportError:
        return None


# Imported at once, as torch.compile can look at modules but not import them. None where one was not built or does not
# fit this machine.
MODULES = {part: _imported(part) for part in ("cpu", "cuda")}


def _read_record() -> dict[str, Any]:
    path = Path(__file__).resolve().parent / "_build.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part, module in MODULES.items():
        entry = record.setdefault(part, {"built": False, "why": "nothing was compiled when it was installed"})
        if entry["built"] and module is None:
            record[part] = {"built": False, "why": f"maedfer._{part} was built but cannot be imported here"}
    return record


_RECORD = _read_record()


def build_record() -> dict[str, Any]:
    """What was compiled when the package was installed, by part ("cpu", "cuda"): what with, or why not."""
    return _RECORD


def absent(part: str) -> str:
    """Why a part is not there."""
    return f"csrc's {part.upper()} part is not there ({_RECORD[part].get('why', 'not built')})"
