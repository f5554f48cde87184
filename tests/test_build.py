"""setup.py: what it builds where, and what it says where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import REPOSITORY, load_setup


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, without what the environment says."""
    pytest.importorskip("setuptools")
    for name in (
        "CXX",
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "TORCH_CUDA_ARCH_LIST",
        "MAEDFER_BUILD_CPU",
        "MAEDFER_BUILD_CUDA",
    ):
        monkeypatch.delenv(name, raising=False)
    return load_setup()


@pytest.mark.parametrize(
    ("given", "built"),
    [
        (None, "sm_80 sm_90 sm_100 compute_100"),
        ("8.6", "sm_86 compute_86"),
        ("9.0 8.0+PTX", "sm_90 sm_80 compute_80 compute_90"),
        ("9.0a;12.0+PTX", "sm_90 sm_120 compute_120"),
    ],
)
def test_architectures(given: str | None, built: str, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert " ".join(flag.split(",code=")[1] for flag in build.architectures()) == built


@pytest.mark.parametrize("given", ["7.5", "Hopper", "8.0;x"])
def test_architectures_that_cannot_be_are_named(given: str, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    with pytest.raises(build.CannotBuild, match="TORCH_CUDA_ARCH_LIST names .* from 8.0 on"):
        build.architectures()


def test_without_a_compiler_there_is_one_line_and_no_module(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not build.wanted()
    assert capsys.readouterr().err == (
        "maedfer: installing without csrc: no C++ compiler was found (install g++, or name one with CXX)\n"
    )
    monkeypatch.setenv("MAEDFER_BUILD_CPU", "1")
    with pytest.raises(SystemExit, match="no C\\+\\+ compiler was found"):
        build.wanted()


def test_instruction_sets_that_a_compiler_does_not_know_are_left_out(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$*" in *amx*) exit 1;; esac\n')
    old.chmod(0o755)
    monkeypatch.setattr(build, "X86", True)
    known = {name: build.knows(str(old), build.variant_flags(name)) for name in build.VARIANTS}
    assert known == {name: name != "amx.cpp" for name in build.VARIANTS}
    variants = build.CSRC / "cpu" / "variants.cpp"
    assert build.flags_of(variants, ["amx.cpp", "avx2.cpp"]) == "-DMAEDFER_WITHOUT_AMX -DMAEDFER_WITHOUT_AVX2"
    assert build.flags_of(variants) == "" and "-mavx2" in build.flags_of(variants.parent / "variants" / "avx2.cpp")
    monkeypatch.setattr(build, "X86", False)
    assert build.knows(str(old), build.variant_flags("amx.cpp"))


def run_build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """build_ext in a copy of what it needs."""
    if not folder.exists():
        folder.mkdir()
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, folder)
        shutil.copytree(REPOSITORY / "csrc", folder / "csrc")
        (folder / "maedfer").mkdir()
        shutil.copy(REPOSITORY / "maedfer" / "__init__.py", folder / "maedfer")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAEDFER_")}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True)


needs_tools = pytest.mark.skipif(
    not shutil.which("g++")
    or any(importlib.util.find_spec(name) is None for name in ("pybind11", "ninja", "setuptools")),
    reason="compiling needs g++ and the packages pybind11, ninja and setuptools",
)


@needs_tools
def test_with_a_compiler_the_cpu_part_is_built_and_again_only_what_changed(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    how = {"MAEDFER_BUILD_CUDA": "0"}
    run_build(folder, MAEDFER_BUILD_CPU="0", **how)
    # In place of real sources, which installing compiles: what is built, and when again, is seen of short ones too.
    sources = list((folder / "csrc" / "cpu").rglob("*.cpp"))
    for source in sources:
        source.write_text(f"int of_{source.stem}() {{ return 1; }}\n")
    (folder / "csrc" / "cpu" / "module.cpp").write_text(
        "#include <pybind11/pybind11.h>\nint of_clips();\n"
        'PYBIND11_MODULE(_cpu, module) { module.def("resize", &of_clips); }\n'
    )
    done = run_build(folder, **how)
    assert done.returncode == 0, done.stderr
    assert "maedfer: installing without csrc's CUDA part: MAEDFER_BUILD_CUDA=0" in done.stderr
    record = json.loads((folder / "maedfer" / "_build.json").read_text())
    assert (
        record["cpu"]["built"]
        and record["cpu"]["compiler"]
        and "baseline" in record["cpu"]["variants"]
        and record["cuda"]
        == {
            "built": False,
            "why": "MAEDFER_BUILD_CUDA=0",
        }
    )
    modules = list((folder / "maedfer").glob("_cpu.*"))
    assert len(modules) == 1 and not list((folder / "maedfer").glob("_cuda.*"))
    code = "import _cpu; print(sorted(name for name in dir(_cpu) if name[0] != '_'))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "maedfer", capture_output=True, text=True, check=True
    ).stdout
    assert found == "['resize']\n"
    objects = {path: path.stat().st_mtime_ns for path in folder.glob("build/**/*.o")}
    assert {path.stem for path in objects} == {path.name for path in sources}
    # Its bytes are those of plain PyTorch, which multiplies and adds one after the other.
    plan = next(folder.glob("build/**/build.ninja")).read_text()
    assert "clips.cpp\n flags = -ffp-contract=off\n" in plan
    source = folder / "csrc" / "cpu" / "tubelets.cpp"
    source.write_text(source.read_text() + "\n")
    assert run_build(folder, **how).returncode == 0
    changed = [path.name for path in objects if path.stat().st_mtime_ns != objects[path]]
    assert changed == ["tubelets.cpp.o"]


@needs_tools
def test_what_does_not_compile_is_left_out_unless_it_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    run_build(folder, MAEDFER_BUILD_CPU="0", MAEDFER_BUILD_CUDA="0")
    # Alone: what is whole beside it would be compiled for minutes before it is found.
    for source in (folder / "csrc" / "cpu").rglob("*.cpp"):
        if source.name != "tubelets.cpp":
            source.unlink()
    (folder / "csrc" / "cpu" / "tubelets.cpp").write_text("this is no C++\n")
    done = run_build(folder, MAEDFER_BUILD_CUDA="auto")
    assert done.returncode == 0 and "without csrc's CPU part: it does not compile" in done.stderr
    record = json.loads((folder / "maedfer" / "_build.json").read_text())
    assert not record["cpu"]["built"] and not record["cuda"]["built"]
    done = run_build(folder, MAEDFER_BUILD_CPU="1")
    assert done.returncode != 0 and "maedfer: MAEDFER_BUILD_CPU=1, but it does not compile" in done.stderr
    done = run_build(folder, MAEDFER_BUILD_CUDA="maybe")
    assert done.returncode != 0 and "MAEDFER_BUILD_CUDA must be 0, 1 or auto, got 'maybe'" in done.stderr


def test_cuda_that_was_asked_for_and_cannot_be_built_is_an_error(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build.Path, "is_file", lambda self: False)
    with pytest.raises(build.CannotBuild, match="nvcc was not found .install the CUDA toolkit"):
        build.nvcc()
    with pytest.raises(build.CannotBuild, match="/bin/false does not run"):
        build.version("/bin/false")


@needs_tools
def test_cuda_by_a_compiler_that_does_not_run(tmp_path: Path) -> None:
    done = run_build(tmp_path / "x", MAEDFER_BUILD_CPU="0", MAEDFER_BUILD_CUDA="1", NVCC="/bin/false")
    assert (
        done.returncode != 0
        and f"maedfer: MAEDFER_BUILD_CUDA=1, but {Path('/bin/false').resolve()} does not run" in done.stderr
    )
