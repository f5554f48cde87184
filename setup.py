"""Compiles csrc/ where there is something to compile it with; all metadata is in pyproject.toml.

Two modules, neither of which needs PyTorch's headers: maedfer/_cpu (a C++ compiler) and maedfer/_cuda (nvcc as well).
What cannot be built is left out, with one line that says why, and told again by `maedfer info --build`.

    MAEDFER_BUILD_CPU=0|1|auto     leave it out, or fail where it cannot be built (auto)
    MAEDFER_BUILD_CUDA=0|1|auto    the same; never decided by whether a GPU is visible
    TORCH_CUDA_ARCH_LIST           compute capabilities ("8.0;9.0;10.0+PTX"); the last one is always built with PTX
    CXX, NVCC, CUDA_HOME           which compilers
    MAX_JOBS                       how many at once
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
RECORD = "_build.json"
ARCHITECTURES = "8.0;9.0;10.0"
# Where one result is promised for every processor: some would multiply and add at once, which rounds differently.
FLAGS = {"clips.cpp": "-ffp-contract=off"}
X86 = platform.machine() in ("x86_64", "AMD64")
# Kernels are compiled once for each of these, and the best that a processor runs is taken there (csrc/cpu/variants.h).
_AVX512 = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512"
VARIANTS = {
    "baseline.cpp": "",
    "avx2.cpp": "-mavx2 -mfma -mf16c",
    "avx512.cpp": _AVX512,
    "avx512_bf16.cpp": f"{_AVX512} -mavx512bf16",
    "amx.cpp": f"{_AVX512} -mavx512bf16 -mamx-tile -mamx-bf16",
}


class CannotBuild(Exception):
    """Why a module is left out."""


def compiler() -> str:
    """The C++ compiler."""
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise CannotBuild("no C++ compiler was found (install g++, or name one with CXX)")


def nvcc() -> str:
    """NVIDIA's compiler, by its real place: a link elsewhere does not find its headers."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for path in (os.environ.get("NVCC"), home and f"{home}/bin/nvcc", shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if path and Path(path).is_file():
            return str(Path(path).resolve())
    raise CannotBuild("nvcc was not found (install the CUDA toolkit, or name it with CUDA_HOME)")


def architectures() -> list[str]:
    """Flags of nvcc for the wanted compute capabilities.

    Raises:
        CannotBuild: one of them is not a number, or too old.
    """
    wanted = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES)
    flags, numbers = [], []
    for item in filter(None, wanted):
        match = re.fullmatch(r"(\d+)\.(\d)a?(\+PTX)?", item)
        if not match or int(match[1]) < 8:
            raise CannotBuild(f"TORCH_CUDA_ARCH_LIST names {item!r}: give capabilities from 8.0 on, as in 8.0;9.0")
        number = f"{match[1]}{match[2]}"
        numbers.append(number)
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    # For GPUs that come later.
    last = max(numbers, key=int)
    return list(dict.fromkeys([*flags, f"-gencode=arch=compute_{last},code=compute_{last}"]))


def version(command: str) -> str:
    """What a compiler says it is, on one line."""
    try:
        said = subprocess.run([*command.split(), "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise CannotBuild(f"{command} does not run") from None
    lines = [line for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "release" in line), lines[0]).strip()


class Build(build_ext):
    """Compiles with ninja, so that only what has changed is compiled again, and keeps a record of what was built."""

    def run(self) -> None:
        record = {}
        for part in ("cpu", "cuda"):
            choice = os.environ.get(f"MAEDFER_BUILD_{part.upper()}", "auto").lower()
            if choice not in ("0", "1", "auto"):
                sys.exit(f"maedfer: MAEDFER_BUILD_{part.upper()} must be 0, 1 or auto, got {choice!r}")
            try:
                if choice == "0":
                    raise CannotBuild(f"MAEDFER_BUILD_{part.upper()}=0")
                if part == "cuda" and not record["cpu"]["built"] and choice == "auto":
                    raise CannotBuild(record["cpu"]["why"])
                record[part] = {"built": True, **self.build(part)}
            except CannotBuild as error:
                if choice == "1":
                    sys.exit(f"maedfer: MAEDFER_BUILD_{part.upper()}=1, but {error}")
                print(f"maedfer: installing without csrc's {part.upper()} part: {error}", file=sys.stderr)
                record[part] = {"built": False, "why": str(error)}
                self.module(part).unlink(missing_ok=True)
        self.target(RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def build(self, part: str) -> dict[str, Any]:
        """Compile one module; returns what it was compiled with."""
        import pybind11

        cxx = compiler()
        made_with: dict[str, Any] = {"compiler": version(cxx)}
        include = f"-I{pybind11.get_include()} -I{sysconfig.get_paths()['include']}"
        header = Path(sysconfig.get_paths()["include"]) / "Python.h"
        if not header.is_file():
            raise CannotBuild(f"{header} is missing (Debian and Ubuntu: apt install python3-dev)")
        dependencies = "-MMD -MF $out.d -c $in -o $out"
        rules = {"cxx": f"{cxx} -std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra {include} $flags {dependencies}"}
        link = f"{cxx} -shared -pthread $in -ldl -o $out"
        sources = sorted((CSRC / part).rglob("*.cpp"))
        without: list[str] = []
        if part == "cpu":
            without = [name for name in VARIANTS if not knows(cxx, variant_flags(name))]
            sources = [source for source in sources if source.name not in without]
            made_with |= {
                "variants": [
                    Path(name).stem for name in VARIANTS if name not in without and (X86 or not VARIANTS[name])
                ],
                "unknown": {Path(name).stem: VARIANTS[name] for name in without},
            }
        if part == "cuda":
            cuda, flags = nvcc(), architectures()
            made_with |= {
                "nvcc": version(cuda),
                "architectures": " ".join(re.findall(r",code=(\w+)", " ".join(flags))),
            }
            host = f"-ccbin {cxx.split()[0]}"
            rules["cu"] = (
                f"{cuda} -std=c++17 -O3 {host} -Xcompiler -fPIC,-fvisibility=hidden {' '.join(flags)} {dependencies}"
            )
            # Linked statically, the runtime finds the driver when it is first used: importing needs none.
            link = f"{cuda} -shared {host} -cudart static $in -o $out"
            sources += sorted((CSRC / part).glob("*.cu"))
        self.ninja(part, rules, link, {source: flags_of(source, without) for source in sources})
        return made_with

    def ninja(self, part: str, rules: dict[str, str], link: str, sources: dict[Path, str]) -> None:
        """Write build.ninja and run it."""
        import ninja

        folder = Path(self.build_temp).resolve() / part
        folder.mkdir(parents=True, exist_ok=True)
        # A change of flags or compilers changes the command, which ninja notices.
        lines = [f"rule {name}\n command = {line}\n depfile = $out.d\n deps = gcc\n" for name, line in rules.items()]
        lines.append(f"rule link\n command = {link}\n")
        objects = []
        for source, flags in sources.items():
            made = folder / f"{source.name}.o"
            objects.append(_escaped(made))
            lines.append(f"build {_escaped(made)}: {'cu' if source.suffix == '.cu' else 'cxx'} {_escaped(source)}\n")
            lines.append(f" flags = {flags}\n")
        module = self.module(part)
        module.parent.mkdir(parents=True, exist_ok=True)
        lines.append(f"build {_escaped(module)}: link {' '.join(objects)}\n")
        (folder / "build.ninja").write_text("".join(lines), encoding="utf-8")
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        program = shutil.which("ninja") or str(Path(ninja.BIN_DIR) / "ninja")
        done = subprocess.run([program, "-C", str(folder), "-j", jobs], capture_output=True, text=True)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            error = next((line for line in done.stdout.splitlines() if "error" in line), "see above")
            raise CannotBuild(f"it does not compile: {error.strip()[:200]}")

    def module(self, part: str) -> Path:
        """Where a module goes."""
        return self.target(f"_{part}{sysconfig.get_config_var('EXT_SUFFIX')}")

    def target(self, name: str) -> Path:
        """A file of the package, in the source tree for an editable installation."""
        return (ROOT if self.inplace else Path(self.build_lib).resolve()) / "maedfer" / name

    def get_outputs(self) -> list[str]:
        """Everything that was made."""
        made = [self.target(RECORD), self.module("cpu"), self.module("cuda")]
        return [str(path) for path in made if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        """Editable installations find the modules in the source tree."""
        return {}


def variant_flags(name: str) -> str:
    """Flags of an instruction set; other processors than x86-64 have their own names for them: the baseline alone."""
    return VARIANTS[name] if X86 else ""


def knows(cxx: str, flags: str) -> bool:
    """Whether a compiler has all flags of an instruction set: old ones are without the newest."""
    command = [*cxx.split(), *flags.split(), "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def flags_of(source: Path, without: Sequence[str] = ()) -> str:
    """A source file's own flags, where some files of variants/ are left out."""
    if source.parent.name == "variants":
        return f"-ffp-contract=fast -fno-math-errno -fno-trapping-math {variant_flags(source.name)}"
    if source.name == "variants.cpp":
        return " ".join(f"-DMAEDFER_WITHOUT_{Path(name).stem.upper()}" for name in without)
    return FLAGS.get(source.name, "")


def _escaped(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def wanted() -> bool:
    """Whether there is anything to compile with; without it the wheel is one for every platform."""
    try:
        compiler()
    except CannotBuild as error:
        if "1" in (os.environ.get("MAEDFER_BUILD_CPU"), os.environ.get("MAEDFER_BUILD_CUDA")):
            sys.exit(f"maedfer: {error}")
        print(f"maedfer: installing without csrc: {error}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    # The modules stand for csrc as a whole; `Build` knows what is in it.
    setup(ext_modules=[Extension("maedfer._cpu", [])] if wanted() else [], cmdclass={"build_ext": Build})
