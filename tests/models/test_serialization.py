"""Saved model folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

import maedfer
from maedfer.errors import InputError
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, LGIFormerConfig
from maedfer.models.load import saved_clip_settings
from maedfer.models.published.checkpoints import published_file
from tests.helpers import randomize, small, small_mae


@pytest.mark.parametrize("share", ["none", "all"])
def test_round_trip(tmp_path: Path, share: str) -> None:
    model = LGIFormer(small(share_attention=share, region_size=(1, 4, 2)))
    randomize(model)
    loaded = maedfer.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert isinstance(loaded, LGIFormer) and not loaded.training
    assert loaded.config == model.config
    video = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(loaded(video), model.eval()(video))
    mae = MAEDFER(small_mae(target="motion"))
    mae.save_pretrained(tmp_path / "mae")
    assert MAEDFER.from_pretrained(tmp_path / "mae").config == mae.config
    assert sorted(path.name for path in (tmp_path / "mae").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(InputError, match="holds a model of type mae_dfer, LGIFormer loads lgi_former"):
        LGIFormer.from_pretrained(tmp_path / "mae")


class Measured(LGIFormer):
    """A user's classifier with a layer, and something counted, of its own."""

    seen: torch.Tensor

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(config.num_classes))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(  # type: ignore[override]
        self, clips: torch.Tensor, mix: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.seen += len(clips)
        return self.scale * super().forward(clips, mix)


class Quiet(MAEDFER):
    """A user's autoencoder without anything of its own."""


def test_a_class_of_ones_own_saves_and_loads(tmp_path: Path) -> None:
    model = Measured(small())
    randomize(model)
    video = torch.randn(2, 3, 8, 32, 32)
    want = model(video)
    loaded = Measured.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert type(loaded) is Measured and int(loaded.seen) == 2 and torch.equal(loaded(video), want)
    assert maedfer.models.load_pretrained(LGIFormer(small()), model).fresh[0] == "head_norm.weight"
    with pytest.raises(
        InputError,
        match="unexpected scale, seen; it was saved by a class Measured: load it with Measured.from_pretrained",
    ):
        maedfer.from_pretrained(tmp_path / "model")
    quiet = Quiet(small_mae())
    folder = quiet.save_pretrained(tmp_path / "mae")
    assert type(Quiet.from_pretrained(folder)) is Quiet and type(maedfer.from_pretrained(folder)) is MAEDFER
    with pytest.raises(InputError, match="holds a model of type mae_dfer, Measured loads lgi_former"):
        Measured.from_pretrained(folder)
    # Those of the package are what they were.
    assert type(maedfer.create_model("lgi_former_tiny", depth=1)) is LGIFormer
    state = maedfer.to_published(LGIFormer(small()))
    arguments = {"img_size": 32, "all_frames": 8, "lg_region_size": (2, 2, 2), "num_heads": 2}
    assert type(maedfer.load_published(state, "finetune", arguments)) is LGIFormer


def test_who_computes_is_not_kept(tmp_path: Path) -> None:
    encoder = small(impl="reference", full_attention="xformers", checkpoint_blocks=True)
    LGIFormer(encoder).save_pretrained(tmp_path / "model")
    assert maedfer.from_pretrained(tmp_path / "model").config == small()
    MAEDFER(small_mae(encoder=encoder)).save_pretrained(tmp_path / "mae")
    assert maedfer.from_pretrained(tmp_path / "mae").config == small_mae()


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json does not exist: .* is not a saved model"):
        maedfer.from_pretrained(tmp_path)
    folder = LGIFormer(small()).save_pretrained(tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "depth": 3}))
    with pytest.raises(InputError, match=r"model\.safetensors does not fit the model: missing encoder\.blocks\.2"):
        maedfer.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**settings, "depht": 3}))
    with pytest.raises(InputError, match="did you mean 'depth'"):
        maedfer.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="model_type is 'bert'"):
        maedfer.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        maedfer.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not a complete saved model"):
        maedfer.from_pretrained(folder)


def test_saving_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        LGIFormer(small()).save_pretrained(tmp_path / "file")


def test_what_a_file_would_lack_is_refused(tmp_path: Path) -> None:
    model = LGIFormer(small())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match=r"encoder.blocks.0.*scale of LGIFormer is neither parameter nor buffer"):
        quantised.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(InputError, match="is no plain parameter of LGIFormer any more"):
        maedfer.to_published(quantised)


def test_layers_that_would_not_load_again_are_not_saved(tmp_path: Path) -> None:
    adapted: Any = LGIFormer(small())
    pruned: Any = LGIFormer(small())
    adapted.encoder.blocks[0].ffn.fc1 = torch.nn.Sequential(adapted.encoder.blocks[0].ffn.fc1)
    prune.l1_unstructured(pruned.encoder.blocks[0].ffn.fc1, "weight", 0.5)
    for model in (adapted, pruned):
        with pytest.raises(InputError, match=r"missing encoder.blocks.0.ffn.fc1.*merge or remove adapters"):
            model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    prune.remove(pruned.encoder.blocks[0].ffn.fc1, "weight")
    loaded: Any = maedfer.load(pruned.save_pretrained(tmp_path / "model"))
    assert (loaded.encoder.blocks[0].ffn.fc1.weight == 0).float().mean() == 0.5


def test_weights_are_loaded_on_the_meta_device_too(tmp_path: Path) -> None:
    model = LGIFormer(small()).eval()
    folder = model.save_pretrained(tmp_path / "model")
    torch.save(published_file(model), tmp_path / "published.pth")
    clips = torch.randn(1, 3, *model.config.clip_size)
    for source in (folder, tmp_path / "published.pth"):
        with torch.device("meta"):
            loaded = maedfer.load(source)
        assert torch.equal(loaded(clips), model(clips))


def test_class_names_and_clip_settings_are_kept_with_the_model(tmp_path: Path) -> None:
    model = LGIFormer(small(num_classes=2))
    kept = ClipSettings(classes=("neutre", "fâché"), stride=3, fit="crop", views=1)
    model.clip_settings = kept
    folder = model.save_pretrained(tmp_path / "model")
    loaded = maedfer.load(folder)
    assert loaded.clip_settings == saved_clip_settings(folder) == kept
    # Again, and those of an older folder, which has none.
    assert maedfer.load(loaded.save_pretrained(tmp_path / "again")).clip_settings == kept
    settings = json.loads((folder / "config.json").read_text())
    older = {key: value for key, value in settings.items() if key != "clip_settings"}
    (folder / "config.json").write_text(json.dumps(older))
    assert maedfer.load(folder).clip_settings is None and saved_clip_settings(folder) is None
    # A new head has other classes.
    assert isinstance(loaded, LGIFormer)
    loaded.reset_head(3)
    assert loaded.clip_settings == ClipSettings(stride=3, fit="crop", views=1)
    for wrong, message in (
        ({"classes": ["a", "b", "c"]}, "names 3 classes but num_classes is 2"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"strides": 2}, "did you mean 'stride'"),
        ([], "must be a section with keys"),
    ):
        (folder / "config.json").write_text(json.dumps({**older, "clip_settings": wrong}))
        with pytest.raises(InputError, match=message):
            maedfer.load(folder)
