"""The package is built as CONTRIBUTING.md says: who imports whom, how long files are, and one name for one thing."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.helpers import REPOSITORY

PACKAGE = REPOSITORY / "maedfer"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): tree for path, tree in TREES.items()}


def imports(name: str) -> Iterator[str]:
    """Modules of the package that a module imports, those inside of functions as well."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by a relative name"
            if node.module in MODULES:
                full = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (module if module in MODULES else node.module for module in full)


# What `import maedfer` shows it imports only when it is asked for, and type checkers alone see.
GRAPH = {name: {*imports(name)} - {name} for name in MODULES if name != "maedfer"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_imports_are_those_of_the_table_in_contributing() -> None:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `maedfer/(\w+)(?:\.py)?` \| .* \| (.*) \|$", page, re.MULTILINE)
    ground = set(re.findall(r"`(\w+)\.py`", next(line for line in page.splitlines() if line.startswith("| ground:"))))
    allowed = {name: set(re.findall(r"`(\w+)`", text)) | ground | {name, "maedfer"} for name, text in rows}
    allowed |= dict.fromkeys(ground, ground) | {"__main__": {"cli"}}
    assert allowed.keys() == {room(module) for module in GRAPH}
    forbidden = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if room(other) not in allowed[room(module)]
    ]
    assert not forbidden


def test_imports_go_round_in_no_circle() -> None:
    # `from maedfer import __version__` needs nothing of the package.
    TopologicalSorter({name: others - {"maedfer"} for name, others in GRAPH.items()}).prepare()


def test_files_can_be_read_in_one_sitting() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > 450}


def test_functions_take_few_parameters_by_position() -> None:
    wide = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        # Kernels take a pointer, a stride or a size in every place.
        if PACKAGE / "kernels" not in path.parents
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and len(node.args.posonlyargs + node.args.args) > 8
    ]
    assert not wide


def test_every_class_name_is_defined_once() -> None:
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1]
