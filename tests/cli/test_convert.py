from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maedfer.models import LGIFormer, create_model, from_pretrained, to_published
from tests.cli.helpers import Call
from tests.helpers import golden_files, load_golden, randomize
from tests.models.published.transformers_names import classifier_names

SMALL: dict[str, Any] = {
    "clip_size": (4, 32, 32),
    "region_size": (1, 2, 2),
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 4,
}
ARGS = {
    "img_size": 32,
    "all_frames": 4,
    "lg_region_size": [1, 2, 2],
    "num_heads": 4,
    "lg_classify_token_type": "region",
}


def published(path: Path, **beside: Any) -> dict[str, torch.Tensor]:
    model = create_model("lgi_former_tiny", **SMALL)
    randomize(model)
    state = to_published(model)
    torch.save({"model": state, **beside}, path)
    return state


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("case", golden_files(), ids=lambda path: path.stem)
def test_there_and_back_is_exact(case: Path, call: Call, tmp_path: Path) -> None:
    golden = load_golden(case)
    torch.save({"model": golden.state}, tmp_path / "in.pth")
    (tmp_path / "args.json").write_text(json.dumps(golden.meta["args"]))
    there = call("convert", tmp_path / "in.pth", tmp_path / "folder", "--args", tmp_path / "args.json")
    assert there.status == 0, there.err
    assert f"as {golden.meta['task']}: {len(golden.state)} keys, all used" in there.out
    assert call("convert", tmp_path / "folder", tmp_path / "out.pth", "--to", "published").status == 0
    assert_same(torch.load(tmp_path / "out.pth", weights_only=True)["model"], golden.state)


def test_arguments_beside_the_weights_are_used(call: Call, tmp_path: Path) -> None:
    state = published(tmp_path / "in.pth", args=argparse.Namespace(**ARGS, lr=1e-3), optimizer={"state": {}})
    assert call("convert", tmp_path / "in.pth", tmp_path / "folder").status == 0
    assert_same(to_published(from_pretrained(tmp_path / "folder")), state)


def test_arguments_as_json_and_safetensors_as_source(call: Call, tmp_path: Path) -> None:
    state = published(tmp_path / "in.pth")
    save_file(state, tmp_path / "in.safetensors")
    outcome = call("convert", tmp_path / "in.safetensors", tmp_path / "folder", "--args", json.dumps(ARGS), "--keys")
    assert outcome.status == 0, outcome.err
    assert "  patch_embed.proj.weight  [32, 3, 2, 16, 16]\n" in outcome.out
    assert "lg_region_size=[1, 2, 2]" in outcome.out
    assert_same(to_published(from_pretrained(tmp_path / "folder")), state)


def test_a_run_folder_gives_its_model(call: Call, trained: Path, tmp_path: Path) -> None:
    assert call("convert", trained, tmp_path / "out.pth", "--to", "published").status == 0
    model = from_pretrained(trained / "model")
    assert isinstance(model, LGIFormer)
    assert_same(torch.load(tmp_path / "out.pth", weights_only=True)["model"], to_published(model))


def test_nothing_is_overwritten_unasked(call: Call, tmp_path: Path) -> None:
    published(tmp_path / "in.pth")
    (tmp_path / "folder").mkdir()
    argv = ["convert", tmp_path / "in.pth", tmp_path / "folder", "--args", json.dumps(ARGS)]
    assert call(*argv).status == 0
    refused = call(*argv)
    assert refused.status == 2 and "exists: choose another name, or give --force" in refused.err
    assert call(*argv, "--force").status == 0


class Code:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_refusals(call: Call, tmp_path: Path) -> None:
    def refused(*argv: object) -> str:
        status, out, err = call("convert", *argv)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert not (tmp_path / "out").exists()
        return err

    state = published(tmp_path / "in.pth")
    out = tmp_path / "out"
    assert "does not exist" in refused(tmp_path / "none.pth", out)
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"model": Code()}, 2))
    assert "is refused" in refused(tmp_path / "code.pth", out)
    assert "give args" in refused(tmp_path / "in.pth", out)
    assert "fine-tuning weights" in refused(tmp_path / "in.pth", out, "--task", "pretrain")
    assert "is not JSON" in refused(tmp_path / "in.pth", out, "--args", "{lg_region_size")
    assert "neither JSON nor a readable file" in refused(tmp_path / "in.pth", out, "--args", "args.json")
    assert "do not go with --to published" in refused(tmp_path, out, "--to", "published", "--task", "finetune")
    assert "neither a saved model" in refused(tmp_path, out, "--to", "published")
    state.pop("blocks.1.mlp.fc2.bias")
    torch.save(state, tmp_path / "lacks.pth")
    assert "missing blocks.1.mlp.fc2.bias" in refused(tmp_path / "lacks.pth", out, "--args", json.dumps(ARGS))


def test_a_published_file_says_what_it_is(call: Call, tmp_path: Path) -> None:
    """Heads, positions and sizes that neither names nor shapes tell come back as they were."""
    model = create_model("lgi_former_tiny", **{**SMALL, "num_heads": 8}, token_type="all", patch_size=(2, 8, 8))
    model.save_pretrained(tmp_path / "saved")
    there = call("convert", tmp_path / "saved", tmp_path / "w.pth", "--to", "published")
    assert there.status == 0 and "num_heads=8, " in there.out and "lg_classify_token_type=all" in there.out
    back = call("convert", tmp_path / "w.pth", tmp_path / "again")
    assert back.status == 0 and "assumed" not in back.out, back.err
    assert from_pretrained(tmp_path / "again").config == model.config
    decoder = create_model("mae_dfer_tiny", **SMALL, decoder_depth=1, decoder_keep=0.5)
    decoder.save_pretrained(tmp_path / "mae")
    there = call("convert", tmp_path / "mae", tmp_path / "mae.pth", "--to", "published")
    assert "the published code knows no decoder_order=aligned, decoder_keep=0.5" in there.out
    region = create_model("lgi_former_tiny", **SMALL, feedback="region").save_pretrained(tmp_path / "region")
    refused = call("convert", region, tmp_path / "region.pth", "--to", "published")
    assert refused.status == 2 and "no counterpart of feedback='region'" in refused.err
    assert not (tmp_path / "region.pth").exists()


def test_a_folder_of_transformers(call: Call, tmp_path: Path) -> None:
    vit = create_model("vit_tiny", clip_size=(4, 32, 32), depth=1, embed_dim=80, num_heads=5, num_classes=2)
    folder = tmp_path / "theirs"
    folder.mkdir()
    names = classifier_names(to_published(vit))
    save_file({key: value.contiguous() for key, value in names.items()}, folder / "model.safetensors")
    config = {"model_type": "videomae", "num_attention_heads": 5, "image_size": 32, "num_frames": 4}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "calm", "1": "tense"}, "dropout": 1}))
    outcome = call("convert", folder, tmp_path / "ours")
    assert outcome.status == 0, outcome.err
    assert "num_heads=5" in outcome.out and "classes=['calm', 'tense']" in outcome.out
    assert "ignored config.json: dropout: not a key of VideoMAE that is known" in outcome.out
    again = from_pretrained(tmp_path / "ours")
    assert isinstance(again, LGIFormer) and again.config.num_heads == 5
    assert_same(to_published(again), to_published(vit))
    (folder / "config.json").unlink()
    refused = call("convert", folder / "model.safetensors", tmp_path / "more")
    assert refused.status == 2 and "number of heads of its 80 channels" in refused.err


def test_weights_that_are_not_finite_are_not_converted(call: Call, tmp_path: Path) -> None:
    model = create_model("lgi_former_tiny", **SMALL)
    torch.nn.init.constant_(model.get_parameter("head_norm.bias"), float("inf"))
    model.save_pretrained(tmp_path / "saved")
    refused = call("convert", tmp_path / "saved", tmp_path / "w.pth", "--to", "published")
    assert refused.status == 2 and "not finite numbers, in head_norm.bias" in refused.err
