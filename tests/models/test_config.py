"""Configurations: names that keys had before."""

from __future__ import annotations

import json
from pathlib import Path

from maedfer.models import MAEDFER, LGIFormer, MAEDFERConfig, from_pretrained, model_config, read_config
from tests.helpers import small, small_mae


def test_the_architecture_was_called_encoder(tmp_path: Path) -> None:
    vit = small(architecture="vit")
    for name, model in {"classifier": LGIFormer(vit), "autoencoder": MAEDFER(small_mae(encoder=vit))}.items():
        path = model.save_pretrained(tmp_path / name) / "config.json"
        settings = json.loads(path.read_text())
        section = settings if name == "classifier" else settings["encoder"]
        section["encoder"] = section.pop("architecture")
        path.write_text(json.dumps(settings))
        assert read_config(tmp_path / name) == model.config == from_pretrained(tmp_path / name).config
    assert model_config("lgi_former_base", encoder="vit") == model_config("lgi_former_base", architecture="vit")
    for given in ({"encoder": {"encoder": "vit"}}, {"architecture": "vit"}):
        config = model_config("mae_dfer_base", **given)
        assert isinstance(config, MAEDFERConfig) and config.encoder.architecture == "vit"
