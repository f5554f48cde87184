"""The notebook runs from its first cell to its last, and is stored without what it gave on somebody's machine."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "predict.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_it_is_stored_without_results() -> None:
    for cell in CELLS:
        assert cell["outputs"] == [] and cell["execution_count"] is None


def test_all_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "matplotlib", "pandas", "PIL", "torchvision"):
        pytest.importorskip(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    space: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Any] = []
    for cell in CELLS:
        code = "".join(cell["source"])
        if "SECONDS = 20" in code:
            # As much as the cells below need.
            code = code.replace("SECONDS = 20", "SECONDS = 3")
        body = ast.parse(code).body
        # The last line of a cell is what it shows.
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), space)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), space))
    assert space["SECONDS"] == 3
    prediction, table = space["prediction"], space["table"]
    assert len(table) == len(prediction) and set(table["face"].dropna()) == {1, 2}
    folder = space["folder"]
    assert folder.is_relative_to(tmp_path)
    for name in ("two people.mp4", "timeline.png", "annotated.mp4", "turns.csv", "results/two people.csv"):
        assert (folder / name).stat().st_size > 100
    assert any(item is prediction for item in shown)
    assert any(isinstance(item, dict) and "uncalibrated" in item["calibration"] for item in shown)
    assert {face for _, face, _ in shown[-2]} == {1, 2}
    assert {"two people.csv", "two people.json", "two people.png"} <= set(shown[-1])
