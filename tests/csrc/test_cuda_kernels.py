"""The CUDA C++ kernels without a GPU: faults that the emulator of threads finds, and what nvcc makes of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.csrc.emulator import SOURCES, Emulator


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (0, "race"),
        (1, "race"),
        (2, "not aligned"),
        (3, "out of range"),
        (4, "waits for ever: barrier"),
        (5, "waits for ever: shuffle"),
        (6, "race"),
        (7, ""),
    ],
    ids=str,
)
def test_faults_are_found(emulator: Emulator, fault: int, message: str) -> None:
    assert (emulator.call("emulate_fault", fault) == 0) == (message == "")
    assert message in emulator.error


# The number of kernels of each.
COMPILED = {
    "tubelets.cu": 9,
    "reconstruction_loss.cu": 24,
}


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("source", COMPILED)
def test_compiled_kernels_do_not_spill(source: str, arch: int, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("compiling the kernels needs nvcc")
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{arch}", "-Xptxas", "-v"]
    built = subprocess.run(
        [*command, "-o", str(tmp_path / "kernels.cubin"), str(SOURCES / source)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        built.stderr,
        re.DOTALL,
    )
    assert len(found) == COMPILED[source]
    for name, *numbers in found:
        kernel = re.sub(r"^_ZN7maedfer\d+|EEEvNS_.*$", "", name)
        print(f"sm_{arch} {kernel}: stack {numbers[0]}, spilled {numbers[1]}, registers {numbers[3]}")
    assert [name for name, stack, stores, loads, _ in found if (stack, stores, loads) != ("0", "0", "0")] == []
