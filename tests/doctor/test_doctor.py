"""`maedfer doctor`: all of it once, and what it says of what is wrong."""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import maedfer
from maedfer.cli import main
from maedfer.doctor import Finding, examination
from maedfer.doctor.apart import Area, findings
from maedfer.doctor.areas import detector, disk, kernels, machine, packages, readers, torch_build, variables
from maedfer.doctor.finding import Options
from maedfer.doctor.private import discreet
from maedfer.errors import InputError
from maedfer.kernels import functional
from tests.train.runs import write_clips

Usage = namedtuple("Usage", "total used free")


def test_all_of_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = write_clips(tmp_path / "clips", 5), tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("MAEDFER_PRODUCTS", "csrc")
    monkeypatch.setenv("SOME_TOKEN", "not to be told")
    status = main(["doctor", "--folder", str(folder), "--data", f"{data}/train.csv", "--json", f"{tmp_path}/all.json"])
    out = capsys.readouterr().out
    facts = json.loads((tmp_path / "all.json").read_text())
    found = [Finding(**one) for one in facts["findings"]]
    assert out.splitlines()[:-1] == [str(one) for one in found] and " notes, " in out.splitlines()[-1]
    assert status == (1 if facts["wrong"] else 0) and facts["maedfer"] == maedfer.__version__
    by_name = {one.name: one for one in found}
    for name in "python torch environment maedfer cores memory data".split():
        assert by_name[name].verdict in ("ok", "note"), by_name[name]
    for name in ("cpu product", "csrc CPU operator", "PyAV", "Pillow", "data, clips", "process group", "disk, files"):
        if name != "csrc CPU operator" or maedfer._native.MODULES["cpu"] is not None:
            assert by_name[name].verdict == "ok", by_name[name]
    assert any("MAEDFER_PRODUCTS" in one.name and "'csrc'" in one.found for one in found)
    assert "SOME_TOKEN" not in out and "not to be told" not in out
    assert os.listdir(folder) == []


def looked(what: str, folder: Path, limit: float = 60.0) -> list[Finding]:
    areas = [Area("odd", "tests.doctor.areas", False), Area("code", "maedfer.doctor.areas.variables", False)]
    found = list(findings(areas, Options(str(folder), what), limit))
    assert [name for name, one in found if one is None] == ["odd", "code"]
    several = [one for name, one in found if name == "odd" and one is not None]
    # What comes after is looked at all the same.
    assert any(one is not None and one.name == "environment" for _, one in found)
    assert several[0] == Finding(what, "ok", "at first")
    return several[1:]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("crashes", "the check ends by signal SIGSEGV: the last words"),
        ("leaves", "the check ends with status 3"),
        ("raises", "KeyError: 'a key' (areas.py line "),
        ("refuses", "it is not to be had: take another"),
        ("prints", ""),
    ],
)
def test_what_goes_wrong_in_an_area_is_a_finding(what: str, said: str, tmp_path: Path) -> None:
    found = looked(what, tmp_path)
    assert len(found) == bool(said)
    for one in found:
        assert one.verdict == "wrong" and one.found.startswith(said)


def test_an_area_that_hangs_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    [one] = looked("hangs", tmp_path, limit=5.0)
    assert one.found == "the check takes more than 5 s"
    child = int((tmp_path / "process").read_text())
    end = time.monotonic() + 60
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{child}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libcudart.so')", "import torch fails: ImportError: libcudart.so"),
        ("os.abort()", "import torch ends by signal SIGABRT"),
    ],
)
def test_torch_that_cannot_be_imported(code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(f"import os\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ["tests.doctor.areas", "maedfer.doctor.areas.torch_build", "maedfer.doctor.areas.variables"]
    areas = [Area(name, name, needs_torch=name.endswith("build")) for name in names]
    found = [one for _, one in findings(areas, Options(str(tmp_path), "prints")) if one is not None]
    assert [one.name for one in found][:3] == ["prints", "torch", "environment"]
    assert found[1].verdict == "wrong" and found[1].found.startswith(said)


def test_names_of_people_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/anna")
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    given = (
        "cannot open /users/anna/a b.csv\nin '/users/anna', /scratch/anna/x and /scratch/annabel; https://a:b@host/x"
    )
    assert discreet(given) == "cannot open ~/a b.csv in '~', /scratch/USER/x and /scratch/annabel; https://host/x"


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.python((3, 9)).verdict == "wrong" and packages.python((3, 15)).verdict == "note"
    assert packages.python((3, 12)).verdict == "ok"
    lines = [
        "torch>=2.11",
        "numpy>=1.26",
        "einops>=0.8",
        'av>=17; extra == "video"',
        'maedfer[video]; extra == "faces"',
        'onnx>=1.19; extra == "faces"',
        'decord>=0.6; (sys_platform == "os2" and platform_machine == "x86_64") and extra == "video"',
        'ruff<0.18,>=0.17; extra == "dev"',
    ]
    versions = {"torch": "2.16.0+cpu", "numpy": "1.9", "av": "16.1", "ruff": "0.17"}
    monkeypatch.setattr(packages, "installed", versions.get)
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda name: lines)
    found = {one.name: one for one in packages.look(Options("."))}
    assert {name: one.verdict for name, one in found.items() if name != "python"} == {
        "torch": "note",
        "numpy": "wrong",
        "einops": "wrong",
        "extra video": "note",
        "extra faces": "note",
    }
    assert "1.26 or newer is needed" in found["numpy"].found and "einops>=0.8" in found["einops"].advice
    assert "av must be 17 or newer" in found["extra video"].found and found["extra faces"].advice == "pip install onnx"
    assert packages.requirements(lines)[-1] == packages.Requirement("ruff", "0.17", "dev")


def test_limits_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.usable_cores(tmp_path)[1] is None and machine.memory_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert machine.usable_cores(tmp_path)[1] == 1.5 and machine.memory_limit(tmp_path) == 1 << 30
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.usable_cores(tmp_path)[1] is None and machine.memory_limit(tmp_path) is None
    monkeypatch.setattr(machine, "usable_cores", lambda: (8, 1.5))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    [_, threads] = machine._cores()
    assert threads.verdict == "note" and "OMP_NUM_THREADS=2" in threads.advice
    for free, verdict in ((8, "wrong"), (60, "note"), (8000, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(64 << 20, 0, free << 20))
        assert machine.shared_memory(tmp_path).verdict == verdict


def test_wrong_results_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    norm = functional.layer_norm

    def off(x: Any, *rest: Any, impl: Any, **options: Any) -> Any:
        return norm(x, *rest, impl=impl, **options) * (1.001 if impl == "torch" else 1.0)

    assert kernels._agrees("a", "torch", "cpu").verdict == "ok"
    monkeypatch.setattr(functional, "layer_norm", off)
    assert kernels._agrees("a", "torch", "cpu").verdict == "wrong"
    cpu = torch.device("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", lambda x, y: torch.mm(x, y) + 0.1)
        # The same error in both is none.
        assert torch_build.product(cpu, torch.float32).verdict == "ok"
        patch.setattr(
            torch.Tensor, "__matmul__", lambda x, y: torch.mm(x, y) * (1 + 0.001 * (x.dtype == torch.float32))
        )
        assert torch_build.product(cpu, torch.float32).verdict == "wrong"
    frames = readers.film()
    readers._write(tmp_path / "film.mp4", frames)
    assert readers._video("PyAV", "pyav", tmp_path / "film.mp4", frames, "av").verdict == "ok"
    assert readers._video("PyAV", "pyav", tmp_path / "film.mp4", frames[::-1], "av").verdict == "wrong"
    assert readers._video("PyAV", "pyav", tmp_path / "film.mp4", frames[1:], "av").verdict == "wrong"


def test_a_detector_is_held_to_what_is_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    face = np.array([[184.0, 121, 178, 216]], np.float32)
    nothing = np.zeros((0, 4), np.float32)

    @dataclasses.dataclass
    class Fake:
        found: list[np.ndarray]
        name: str = "Fake"

        def detect(self, frames: Any) -> Any:
            boxes = self.found.pop(0)
            return [SimpleNamespace(boxes=boxes, scores=np.full(len(boxes), 0.9))]

    monkeypatch.setattr(detector, "_picture", lambda: (np.zeros((9, 9, 3), np.uint8), detector._FACE, "a picture"))
    for found, verdict in (
        ([face, nothing], "ok"),
        ([nothing, nothing], "wrong"),
        ([face + 150, nothing], "wrong"),
        ([face, face], "wrong"),
    ):
        monkeypatch.setattr("maedfer.faces.detector.open_detector", lambda found=found, **_: Fake(list(found)))
        assert [one.verdict for one in detector.look(Options("."))] == [verdict]


def test_compiled_modules_that_are_not_of_the_source(tmp_path: Path) -> None:
    package, source = tmp_path / "maedfer", tmp_path / "csrc" / "cpu"
    package.mkdir()
    source.mkdir(parents=True)
    (tmp_path / "csrc" / "cuda").mkdir()
    suffix = kernels.sysconfig.get_config_var("EXT_SUFFIX")
    module = package / f"_cpu{suffix}"
    for path, when in ((module, 100), (source / "a.cpp", 50), (tmp_path / "csrc" / "cuda" / "b.cu", 200)):
        path.touch()
        os.utime(path, (when, when))
    assert kernels.stale(package, "cpu") is None
    os.utime(source / "a.cpp", (150, 150))
    assert "csrc/cpu/a.cpp was changed after" in str(kernels.stale(package, "cpu"))
    os.utime(module, (300, 300))
    (package / "_cpu.cpython-39-x.so").touch()
    assert "_cpu.cpython-39-x.so of another Python" in str(kernels.stale(package, "cpu"))


def test_a_disk_says_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(disk, "_may_lock", lambda path: True)
    found = {one.name: one for one in disk._abilities(tmp_path)}
    assert found["disk, hard links"].verdict == "note" and "not permitted" in found["disk, hard links"].found
    assert "two processes have one lock" in found["disk, locks"].found
    assert found["disk, files"].found == "renaming work"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 20))
    [full] = disk.look(Options(str(tmp_path)))
    assert full.verdict == "wrong" and "make room" in full.advice
    assert disk.file_system(Path("/proc")) == "proc"


def test_only_known_variables_are_told() -> None:
    found = list(
        variables.told({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "3", "AWS_SECRET": "x", "MAEDFER_IMPL": ""})
    )
    assert [one.verdict for one in found] == ["ok", "note"] and found[0].found == "OMP_NUM_THREADS=3"
    assert "AWS" not in str(found) and found[1].name == "TRITON_INTERPRET"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    here = Path(__file__)
    for folder, data, said in (
        (tmp_path / "no", "", "does not exist"),
        (here, "", "is a file"),
        (tmp_path, "no.csv", "no.csv"),
    ):
        with pytest.raises(InputError, match=said):
            examination.examine(str(folder), data)
    # Nothing can be made there, whoever asks.
    kept: list[Finding] = []
    with examination._scratch("/proc", kept.append) as (place, usable):
        assert not usable and os.path.isdir(place) and kept[0].verdict == "wrong"
    assert not os.path.exists(place)
