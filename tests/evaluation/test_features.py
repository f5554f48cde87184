import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.evaluation.features import Features, extract_features, feature_extractor, write_features
from maedfer.evaluation.predictions import Skipped
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, normalize_frames
from tests.helpers import randomize, small, small_mae

SHAPE = (3, 8, 32, 32)


@pytest.fixture
def frames():
    return torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def batches(frames):
    """Two clips of two views, the second one first, and one that cannot be read."""
    yield {"frames": frames[2:], "index": torch.tensor([2, 2]), "broken": {1: "list:2: torn"}}
    yield {"frames": frames[:2], "index": torch.tensor([0, 0]), "broken": {}}


def test_features_of_a_classifier_are_those_its_head_sees(frames):
    model = LGIFormer(small())
    randomize(model)
    found = extract_features(model, batches(frames), names=["a", "b", "c"], labels=[5, 6, -1], views=2)
    with torch.no_grad():
        expected = model.eval().forward_features(normalize_frames(frames)).unflatten(0, (2, 2)).numpy()
    np.testing.assert_allclose(found.vectors, expected.mean(1), rtol=1e-4, atol=1e-5)
    assert (found.names, found.labels.tolist()) == (["a", "c"], [5, -1])
    assert found.skipped == (Skipped("b", 6, "list:2: torn"),)
    each = extract_features(model, batches(frames), names=["a", "b", "c"], views=2, per_view=True)
    np.testing.assert_allclose(each.vectors, expected, rtol=1e-4, atol=1e-5)
    assert each.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("architecture", ["lgi", "vit"])
def test_features_of_an_autoencoder_are_its_representative_tokens(frames, architecture):
    model = MAEDFER(small_mae(encoder=small(architecture=architecture))).eval()
    randomize(model)
    model.clip_settings = ClipSettings(stride=7)
    found = extract_features(model, [{"frames": frames, "index": torch.arange(4)}], names=list("abcd"))
    with torch.no_grad():
        stream = model.encoder(normalize_frames(frames))
        mean = (stream[:, :, 0] if architecture == "lgi" else stream.flatten(1, 2)).mean(1)
        expected = torch.nn.functional.layer_norm(mean, mean.shape[1:], eps=1e-6)
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-4)
    assert feature_extractor(model).clip_settings == model.clip_settings


def test_what_is_not_finite_is_no_feature(frames):
    model = LGIFormer(small())
    with torch.no_grad():
        model.head_norm.bias[3] = torch.inf
    with pytest.raises(InputError, match=r"not finite numbers, in head_norm\.bias"):
        extract_features(model, batches(frames), names=["a", "b", "c"], views=2)
    with pytest.raises(InputError, match="none of the 1 clips can be read; the first one: gone"):
        extract_features(LGIFormer(small()), [{"broken": {0: "gone"}}], names=["a"])


def test_any_name_survives_and_nothing_half_written_stays(tmp_path, monkeypatch):
    names = ["a, b", "caf\udce9", 'say "x"\n']
    found = Features(
        names, np.array([0, -1, 1]), np.arange(6, dtype=np.float32).reshape(3, 2) / 3, about={"n": "\udce9"}
    )
    assert write_features(tmp_path / "f.npz", found) == [tmp_path / "f.npz"]
    assert write_features(tmp_path / "f.csv", found) == [tmp_path / "f.csv", tmp_path / "f.json"]
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["names"].tolist() == names
        np.testing.assert_array_equal(saved["features"], found.vectors)
    with pytest.raises(InputError, match=r"must end in \.npz or \.csv"):
        write_features(tmp_path / "f.xlsx", found)

    def full(*args, **arrays):
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match="No space left"):
        write_features(tmp_path / "f.npz", found)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
