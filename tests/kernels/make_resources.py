"""What the machine code of every shipped kernel takes, written to the table that the tests compare with.

    python -m tests.kernels.make_resources

resources.json has a row for each kernel of a case on an architecture and a column for each version of Triton:
registers, bytes spilled and bytes of shared memory. Only the column of the version that is installed is replaced.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton

from maedfer.kernels._ahead_of_time import ARCHITECTURES, Resources, compile_launch
from maedfer.kernels._shipped import Case, cases

TABLE = Path(__file__).with_name("resources.json")

_FIELDS = ("arch", "case", "kernel")
_Place = tuple[int, str, str]


def main() -> None:
    """Compile everything and write the table."""
    before = read()
    rows: list[dict[str, Any]] = []
    for arch in ARCHITECTURES:
        for case in cases():
            for kernel, resources in compiled(case, arch).items():
                place = arch, str(case), kernel
                columns = {**before.get(place, {}), triton.__version__: numbers(resources)}
                rows.append(dict(zip(_FIELDS, place, strict=True)) | dict(sorted(columns.items())))
    TABLE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


def read() -> dict[_Place, dict[str, list[int]]]:
    """Columns by architecture, case and kernel; empty without a table."""
    rows = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else []
    return {
        (row["arch"], row["case"], row["kernel"]): {name: row[name] for name in row if name not in _FIELDS}
        for row in rows
    }


def compiled(case: Case, arch: int) -> dict[str, Resources]:
    """Resources by kernel; one that is launched in two parts has two entries."""
    found: dict[str, Resources] = {}
    for launch in case.launches(arch):
        part = launch.constants.get("PART", 0)
        found[launch.kernel.__name__ + (f"-part{part}" if part else "")] = compile_launch(launch, arch)
    return found


def numbers(resources: Resources) -> list[int]:
    """One entry of the table."""
    return [resources.registers, resources.spills, resources.shared]


if __name__ == "__main__":
    main()
