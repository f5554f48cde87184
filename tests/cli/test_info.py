from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maedfer._native import MODULES
from maedfer.cli.info import describe
from maedfer.models import create_model, list_models
from tests.cli.helpers import Call

# Paper, Tables 2, 3, 4 and 9: parameters in M and multiply-adds in G of one 16 x 160 x 160 clip.
PAPER = [
    ("lgi_former_base", [], 84.88, 49.65),
    ("lgi_former_base", ["inter_region=false", "interaction=none"], 51.23, 42.63),
    ("lgi_former_base", ["interaction=none"], 68.04, 42.77),
    ("lgi_former_base", ["inter_region=false"], 68.06, 49.52),
    ("lgi_former_base", ["region_size=[1,5,10]"], None, 49.71),
    ("lgi_former_base", ["region_size=[2,2,10]"], None, 49.93),
    ("lgi_former_base", ["region_size=[2,10,10]"], None, 50.61),
    ("lgi_former_base", ["region_size=[4,5,10]"], None, 50.61),
    ("lgi_former_small", [], 47.93, 28.32),
    ("lgi_former_tiny", [], 21.47, 12.93),
    ("vit_base", [], 86.23, 80.69),
    ("mae_dfer_base", [], 92.76, None),
]


@pytest.mark.parametrize(("model", "overrides", "parameters", "macs"), PAPER)
def test_figures_of_the_paper(
    model: str, overrides: list[str], parameters: float | None, macs: float | None, call: Call
) -> None:
    facts = json.loads(call("info", model, *overrides, "--json").out)
    if parameters is not None:
        assert facts["parameters"] / 1e6 == pytest.approx(parameters, abs=0.01)
    if macs is not None:
        assert facts["macs_published"]["total"] / 1e9 == pytest.approx(macs, abs=0.02)
    for plan in ("macs_published", "macs_executed"):
        assert facts[plan]["total"] == sum(value for part, value in facts[plan].items() if part != "total")
    assert facts["macs_executed"]["total"] <= facts["macs_published"]["total"]


def test_table_for_people(call: Call) -> None:
    out = call("info", "lgi_former_base").out
    assert "84.88 M" in out and "800 (8 x 10 x 10)" in out and "8 of 100 tokens (2 x 5 x 10)" in out
    total = out.splitlines()[-1].split()
    assert total[:2] == ["total", "49.65"] and float(total[2]) < 49.65


def test_overrides_with_and_without_prefix_and_of_the_encoder(call: Call) -> None:
    plain = call("info", "lgi_former_tiny", "depth=3", "--json")
    assert call("info", "lgi_former_tiny", "--json", "model.depth=3") == plain
    config = json.loads(call("info", "mae_dfer_tiny", "encoder.depth=3", "mask_ratio=0.5", "--json").out)["config"]
    assert (config["encoder"]["depth"], config["mask_ratio"]) == (3, 0.5)


def test_a_saved_model_and_changes_to_it(call: Call, tmp_path: Path) -> None:
    create_model("mae_dfer_tiny", clip_size=(4, 32, 32), region_size=(2, 2, 2), depth=2).save_pretrained(tmp_path / "m")
    facts = json.loads(call("info", tmp_path / "m", "--json").out)
    assert (facts["tokens"], facts["regions"], facts["class"]) == (8, 1, "MAEDFER")
    assert json.loads(call("info", tmp_path / "m", "encoder.region_size=[1,2,2]", "--json").out)["regions"] == 2


def test_a_run_folder(call: Call, trained: Path, tmp_path: Path) -> None:
    facts = json.loads(call("info", trained, "--json").out)
    assert (facts["tokens"], facts["regions"]) == (32, 4)
    # One that has not ended has settings and no model yet.
    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert json.loads(call("info", tmp_path, "--json").out)["config"] == facts["config"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lgi_former_bas"], "unknown model 'lgi_former_bas': did you mean 'lgi_former_base'?"),
        (["lgi_former_base", "depht=3"], "unknown key 'depht' in 'model': did you mean 'depth'?"),
        (["lgi_former_base", "depth=many"], "model.depth must be a whole number, got 'many'"),
        (
            ["lgi_former_base", "region_size=[3,5,10]"],
            "region_size (3, 5, 10) does not divide the token grid (8, 10, 10)",
        ),
        (["mae_dfer_base", "encoder=vit"], "model.encoder must be a section with keys, got 'vit'"),
        (["depth=3"], "info depth=3 changes a model: name one before it"),
        (["lgi_former_base", "--build"], "info --build takes no model"),
    ],
)
def test_errors(argv: list[str], message: str, call: Call) -> None:
    status, _, err = call("info", *argv)
    assert status == 2 and err.startswith(f"maedfer: error: {message}") and err.count("\n") == 1


def test_folders_and_files_that_are_no_models(call: Call, tmp_path: Path) -> None:
    assert "holds neither a saved model (config.json) nor a run (config.yaml)" in call("info", tmp_path).err
    (tmp_path / "a.pth").write_bytes(b"x")
    assert "make a folder of it with maedfer convert" in call("info", tmp_path / "a.pth").err


def test_lists(call: Call) -> None:
    assert call("info").out.split() == list_models()
    assert json.loads(call("info", "--json").out) == {"models": list_models()}
    build = json.loads(call("info", "--build", "--json").out)
    assert {"python", "torch", "av", "CUDA available", "csrc, CPU part", "csrc, CUDA part"} <= build.keys()
    compiled = MODULES["cpu"]
    assert build["csrc, instruction sets here"] == ([] if compiled is None else compiled.variants())
    assert torch.cuda.is_available() or build["precision"].startswith("fp32 on cpu, which has neither AMX-BF16")
    assert "not installed" in call("info", "--build").out or all(build.values())


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"built": False, "why": "nvcc was not found"}, "not there: nvcc was not found"),
        ({"built": True, "compiler": "g++ 12", "nvcc": "13.0", "architectures": "sm_80"}, "sm_80; 13.0; g++ 12"),
        ({"built": True, "compiler": "g++ 12"}, "g++ 12"),
        (
            {"built": True, "compiler": "g++ 9", "variants": ["baseline", "avx2"], "unknown": {"amx": "-mamx-tile"}},
            "g++ 9; for baseline, avx2; not for amx (the compiler does not know -mamx-tile)",
        ),
    ],
)
def test_what_was_compiled(record: dict, text: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maedfer._native._RECORD", {"cpu": record, "cuda": record})
    build = json.loads(call("info", "--build", "--json").out)
    assert build["csrc, CPU part"] == build["csrc, CUDA part"] == text


@pytest.mark.parametrize("model", ["lgi_former_tiny", "mae_dfer_tiny"])
def test_of_a_field_and_its_former_name_the_last_counts(model: str) -> None:
    path = "encoder." if model.startswith("mae") else ""
    for first, second in (("encoder", "architecture"), ("architecture", "encoder")):
        config = describe(model, [f"{path}{first}=vit", f"model.{path}{second}=lgi"])["config"]
        assert config.get("encoder", config)["architecture"] == "lgi"


def test_changes_are_read_as_overrides_of_a_run_are(call: Call) -> None:
    def config(*changes: str) -> dict[str, Any]:
        done = call("info", "mae_dfer_base", *changes, "--json")
        assert done.status == 0, done.err
        found: dict[str, Any] = json.loads(done.out)["config"]
        return found

    assert config("depth=010", "encoder.depth=3")["encoder"]["depth"] == 3
    assert config("encoder.depth=3", "model.depth=010")["encoder"]["depth"] == 10
    found = config("encoder={depth: 2, drop_path: 1e-1}", "target=pixels", "encoder.inter_region=False")
    assert (found["encoder"]["depth"], found["encoder"]["drop_path"], found["target"]) == (2, 0.1, "pixels")
    assert found["encoder"]["inter_region"] is False
    for change, message in {
        "encoder.inter_region=no": "inter_region must be true or false, got 'no'",
        "region_size=[2,2": "'[2,2' has no ] at its end",
        "depth=1e1": "depth must be a whole number, got '1e1'",
    }.items():
        assert message in call("info", "mae_dfer_base", change).err
