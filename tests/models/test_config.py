"""Configurations: names that keys had before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maedfer.errors import InputError
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


def test_both_names_of_the_architecture_in_one_call_are_refused() -> None:
    assert model_config("lgi_former_tiny", encoder="vit") == model_config("lgi_former_tiny", architecture="vit")
    with pytest.raises(
        InputError, match=r"^model\.encoder is the former name of model\.architecture: give one of them"
    ):
        model_config("lgi_former_tiny", encoder="vit", architecture="lgi")
    with pytest.raises(InputError, match=r"^model\.encoder\.encoder is the former name of model\.encoder\.arch"):
        model_config("mae_dfer_tiny", encoder={"encoder": "vit", "architecture": "lgi"})
