"""csrc/cpu under the sanitizers of addresses and of undefined behaviour, with the tests that there are.

    python -m tests.csrc.sanitize [arguments of pytest]

compiles csrc/cpu with GCC's sanitizers for all instruction sets that run here, and AMX, emulated; puts the module into
a copy of the package, and runs the tests of what csrc computes with it. PyTorch's tensors are as long as they must be
and no longer, so that what is read or written beyond a tensor's end is seen. Not seen are loads and stores by
intrinsics with masks: vector.h has none of them here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from maedfer._native import MODULES
from tests.helpers import REPOSITORY, load_setup

# What is looked at, and what is not: binding.
_CHECKED = "-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
_UNCHECKED = "-O0"
# Tracing and compiling take long and call the same kernels.
_SHORT = "not opcheck and not graph and not compile"


def build(folder: Path, variants: Sequence[str], level: str = "-O1") -> None:
    """Copy package and tests to a folder, with csrc's CPU part sanitized, for some instruction sets.

    AMX's instructions are done in plain C++ (csrc/cpu/kernels/amx.h) where the processor has all else of that set.

    Args:
        folder: empty.
        variants: their names.
        level: of optimisation: `-O0` compiles in a third of the time, and computes slowly.

    Raises:
        RuntimeError: it does not compile.
    """
    import pybind11

    leave = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    for name in ("maedfer", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=leave)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    record = {"cpu": {"built": True, "variants": list(variants)}, "cuda": {"built": False, "why": "not sanitized"}}
    (folder / "maedfer" / "_build.json").write_text(json.dumps(record), encoding="utf-8")
    setup = load_setup()
    without = [name for name in setup.VARIANTS if Path(name).stem not in (*variants, "baseline")]
    sources = [path for path in sorted((REPOSITORY / "csrc" / "cpu").rglob("*.cpp")) if path.name not in without]
    bound = [path for path in sources if path.stem.endswith("module")]
    # All at once, as each would compile what pybind11 is anew.
    binding = folder / "binding.cpp"
    binding.write_text("".join(f'#include "{path}"\n' for path in bound), encoding="utf-8")
    sources = [binding, *(path for path in sources if path not in bound)]
    include = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-DMAEDFER_EMULATE_AMX", *include]

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        checked = source.stem in variants if source.parent.name == "variants" else source != binding
        how = f"{level} {_CHECKED}" if checked else _UNCHECKED
        flags = setup.flags_of(source, without).split()
        _run(["g++", *common, *how.split(), *flags, "-c", str(source), "-o", str(made)])
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    target = folder / "maedfer" / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    _run(["g++", "-shared", "-pthread", "-fsanitize=address,undefined", *objects, "-ldl", "-o", str(target)])


def emulated(variants: Sequence[str]) -> list[str]:
    """Instruction sets that run here, with AMX where its emulation does."""
    return list(dict.fromkeys(["amx", *variants])) if "avx512_bf16" in variants else list(variants)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def run(folder: Path, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder that `build` has made, with the sanitizers in the process."""
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    # What Python itself never frees is nobody's concern here.
    own = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(folder)}
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=capture, text=True)


def run_tests(folder: Path, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """The tests of what csrc computes, or what arguments of pytest say."""
    files = sorted(map(str, (folder / "tests" / "kernels").rglob("test_native*.py")))
    # A report goes past pytest, which would lose it with the process.
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys", *(arguments or (*files, "-k", _SHORT))]
    return run(folder, *command, capture=capture)


def main() -> int:
    """Build in a folder that is removed again, and test."""
    compiled = MODULES["cpu"]
    if compiled is None:
        print("csrc's CPU part is not compiled here, so that nothing is known of what runs", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), emulated(compiled.variants()))
        return run_tests(Path(name), *sys.argv[1:]).returncode


if __name__ == "__main__":
    sys.exit(main())
