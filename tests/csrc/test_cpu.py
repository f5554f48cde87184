"""csrc/cpu: what instruction sets share, and nothing beyond the end of rows."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from maedfer._native import MODULES
from tests.csrc import sanitize
from tests.helpers import load_setup

needs_tools = pytest.mark.skipif(
    not shutil.which("g++")
    or not shutil.which("nm")
    or platform.machine() != "x86_64"
    or any(importlib.util.find_spec(name) is None for name in ("pybind11", "setuptools")),
    reason="compiling for several instruction sets needs x86-64, g++, nm and the packages pybind11 and setuptools",
)


@needs_tools
def test_instruction_sets_share_no_function(tmp_path: Path) -> None:
    """The linker keeps one of several copies of a function, and must not keep one that older processors cannot run."""
    setup = load_setup()
    for name in setup.VARIANTS:
        source, made = setup.CSRC / "cpu" / "variants" / name, tmp_path / f"{name}.o"
        if not setup.knows("g++", setup.variant_flags(name)):
            continue
        # Without optimisation nothing disappears by being inlined.
        command = ["g++", "-std=c++17", "-O0", "-fPIC", *setup.flags_of(source).split(), "-c", source, "-o", made]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        symbols = subprocess.run(["nm", "-C", made], capture_output=True, text=True, check=True).stdout
        found = re.findall(r"^(?:[0-9a-f]+)? +([A-Zuvw]) (.+)$", symbols, re.MULTILINE)
        # Tables of exceptions, which nothing here throws, refer to what handles them.
        own = f"maedfer::{Path(name).stem}::", f"maedfer::variant_{Path(name).stem}", "DW.ref."
        assert not [text for kind, text in found if kind != "U" and not text.startswith(own)]
        assert not [text for kind, text in found if kind == "U" and "::" in text]


@pytest.mark.slow
@needs_tools
def test_sanitizers(tmp_path: Path) -> None:
    """What all kernels read rows by; `make sanitize` has all instruction sets, and AMX, which is emulated."""
    compiled = MODULES["cpu"]
    if compiled is None:
        pytest.skip("csrc's CPU part is not compiled")
    best = next(name for name in compiled.variants() if name != "amx")
    sanitize.build(tmp_path, [best], "-O0")
    code = """
import torch
from maedfer.kernels import _native_calls as calls
compiled, x = calls.module("cpu"), torch.zeros(1, 40)
matrices = [compiled.Matrix(x.data_ptr(), 0, 1, columns, columns, 1, 0) for columns in (40, 41)]
for matrix in matrices:
    print("columns")
    compiled.gelu_forward(matrix, 0, matrix, 1)
"""
    done = sanitize.run(tmp_path, "-c", code, capture=True)
    assert done.returncode and "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr
    assert done.stdout.split() == ["columns", "columns"]
    done = sanitize.run_tests(tmp_path, "tests/kernels/sub_layer/test_native.py", "-k", best, capture=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
