"""`maedfer export`."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from maedfer.evaluation.features import feature_extractor
from maedfer.models import load
from tests.cli.helpers import Call
from tests.helpers import ASSETS, relative_error


def test_a_run_becomes_a_file_with_its_class_names(call: Call, trained: Path, tmp_path: Path) -> None:
    given = ["export", trained, "--format", "pt2", "--out", tmp_path / "m.pt2"]
    (tmp_path / "m.pt2").write_text("earlier")
    status, _, err = call(*given)
    assert status == 2 and "m.pt2' exists: choose another name, or give --force to overwrite it" in err
    assert (tmp_path / "m.pt2").read_text() == "earlier"
    done = call(*given, "--force")
    assert done.status == 0, done.err
    said = done.out.splitlines()
    assert said[:3] == ["tracing the model", "converting to torch.export", "checking the file against the model"]
    assert f"wrote {tmp_path}/m.pt2 (" in said[3]
    assert "): clips uint8 [batch, 3, 4, 16, 16] to logits float32 [batch, 2]" in said[3]
    assert said[4].startswith("largest difference from the model: ") and "(0.0001 allowed)" in said[4]
    extra = {"maedfer.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    about = json.loads(extra["maedfer.json"])
    assert about["classes"] == ["calm", "moved"] and about["sampling"]["stride"] == 1
    clips = torch.randint(0, 256, (1, 3, 4, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert relative_error(program(clips), load(trained)(clips)) < 1e-5


def test_a_pretrained_model_gives_features(call: Call, tmp_path: Path) -> None:
    source = ASSETS / "run_pretrain" / "whole"
    done = call("export", source, "--format", "pt2", "--out", tmp_path / "m.pt2", "--dtype", "bfloat16")
    assert done.status == 0, done.err
    assert "the features of the encoder are exported: a pre-trained model has no classes\n" in done.out
    assert "no class names" not in done.out and " to features float32 [batch, " in done.out
    extractor = feature_extractor(load(source))
    clips = torch.randint(0, 256, (2, 3, *extractor.config.clip_size), dtype=torch.uint8)
    with torch.no_grad():
        got = torch.export.load(tmp_path / "m.pt2").module()(clips)
        assert relative_error(got, extractor.forward_features(clips)) < 0.05


def test_what_is_not_there_or_in_the_way(call: Call, tmp_path: Path) -> None:
    status, _, err = call("export", "lgi_former_base", "--format", "pt2", "--out", tmp_path / "m.pt2")
    assert status == 2 and "'lgi_former_base' does not exist: give a run, a saved model" in err
    (tmp_path / "m.bin").write_text("weights of another")
    status, _, err = call("export", ASSETS / "run_finetune/whole", "--format", "openvino", "--out", tmp_path / "m.xml")
    assert status == 2 and ("m.bin' exists" in err or "'openvino' is needed" in err)
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]
