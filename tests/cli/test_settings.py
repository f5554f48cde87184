"""`maedfer settings`."""

from __future__ import annotations

import pytest

from maedfer.cli import main


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["settings", *arguments]) == 0
    return capsys.readouterr().out


def test_sections_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert any(line.startswith("seed ") for line in lines)
    assert any(line.startswith("optim ") and "AdamW" in line for line in lines)


def test_one_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "optim.lr")
    assert text.startswith("optim.lr = 0.001 (pretrain: 0.0003)\n    peak learning rate for a global batch")
    assert '(a number between 0 and 100; belongs to "results")' in text
    assert "optim.lr_batch =" not in text


def test_a_section_is_explained_key_by_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "train")
    assert "train.batch_size = 96 (pretrain: 128)\n" in text and "train.tensorboard = true\n" in text
    assert "\noptim." not in text and "\neval." not in text


def test_keys_of_both_kinds_of_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "model.encoder.depth").startswith("model.depth = 16\n")
    assert "(a number between 0 and 1, both excluded; " in printed(capsys, "model.mask_ratio")
    assert printed(capsys, "model.name").startswith("model.name = lgi_former_base (pretrain: mae_dfer_base)\n")
    assert "model.decoder_dim = 384" in printed(capsys, "model")


@pytest.mark.parametrize("key", ["optim.lrr", "optin.lr", "model.encoder.optim.lr"])
def test_unknown_keys_are_refused_with_the_nearest(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", key]) == 2
    assert f"unknown setting '{key}'" in capsys.readouterr().err


def test_the_encoder_of_a_masked_autoencoder_is_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "model.encoder")
    assert "model.encoder.architecture = lgi\n" in text and "model.decoder_dim" not in text
    assert main(["settings", "model.encoder.encoder"]) == 2
    assert "is now called 'model.encoder.architecture'" in capsys.readouterr().err
