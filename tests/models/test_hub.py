"""Models to and from a hub on this machine, by the true huggingface_hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import maedfer
from maedfer._values import hub_address, hub_name
from maedfer.errors import InputError, MissingDependencyError
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, load
from maedfer.models.hub import MARK, named, pinned
from maedfer.models.load import load_path, saved_clip_settings
from tests.helpers import randomize, small, small_mae
from tests.models.fake_hub import FakeHub, serving
from tests.models.published.test_videomae_config import CONFIG as VIDEOMAE
from tests.models.published.transformers_names import classifier_names

CLASSES = ("up", "down", "still")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub")
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """An empty hub with a cache of its own, and no token."""
    from huggingface_hub import constants

    server.repositories.clear()
    server.asked.clear()
    server.torn.clear()
    server.fails = None
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Where nothing has the names of models.
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return server


def classifier() -> LGIFormer:
    model = LGIFormer(small(num_classes=3))
    randomize(model)
    model.clip_settings = ClipSettings(classes=CLASSES, stride=2)
    return model.eval()


def put(hub: FakeHub, name: str, model: LGIFormer | MAEDFER, folder: Path) -> str:
    model.save_pretrained(folder)
    files = {"config_json": "config.json", "model_safetensors": "model.safetensors"}
    return hub.add(name, **{key: (folder / file).read_bytes() for key, file in files.items()})


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_model_of_the_hub_is_loaded_by_every_door(hub: FakeHub, tmp_path: Path) -> None:
    first = classifier()
    old = put(hub, "user/faces", first, tmp_path / "first")
    second = classifier()
    new = put(hub, "user/faces", second, tmp_path / "second")
    hub.add("user/faces", pytorch_model_bin=b"pickle", modeling_py=b"raise SystemExit", README_md=b"# Faces")
    for found in (
        maedfer.load("user/faces"),
        maedfer.load("hf://user/faces"),
        maedfer.load(f"user/faces@{new}"),
        maedfer.from_pretrained("user/faces"),
        LGIFormer.from_pretrained("user/faces"),
    ):
        assert isinstance(found, LGIFormer) and same(found, second) and not found.training
        assert found.clip_settings == second.clip_settings
    for found in (
        maedfer.load("user/faces", revision=old),
        maedfer.load(f"hf://user/faces@{old}"),
        LGIFormer.from_pretrained("user/faces", revision=old),
        maedfer.from_pretrained("hf://user/faces", revision=old),
    ):
        assert same(found, first)
    predictor = maedfer.open_predictor("user/faces", device="cpu")
    assert predictor.classes == CLASSES and predictor.about["checkpoint"] == pinned("hf://user/faces")
    # Nothing else of the repository was asked for.
    read = {line.rpartition("/")[2] for line in hub.asked if "/user/faces/" in line}
    assert read == {"config.json", "model.safetensors"}
    assert pinned("hf://user/faces") == f"hf://user/faces@{hub.repositories['user/faces'].branches['main']}"
    assert pinned("runs/faces") == "runs/faces"


def test_the_cache_is_enough_without_a_net(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    model = classifier()
    put(hub, "user/faces", model, tmp_path / "saved")
    maedfer.load("user/faces")
    gets = [line for line in hub.asked if line.startswith("GET")]
    assert same(maedfer.load("user/faces"), model)
    assert [line for line in hub.asked if line.startswith("GET")] == gets
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert same(maedfer.load("user/faces"), model) and same(load_path("hf://user/faces"), model)
    with pytest.raises(
        InputError, match="^hf://user/others has no config.json in the cache .*and HF_HUB_OFFLINE is set$"
    ):
        maedfer.load("user/others")
    assert not hub.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fails = 500
    assert same(maedfer.load("user/faces"), model)


def test_a_path_goes_before_the_hub_and_is_not_looked_for_there(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = classifier()
    local.save_pretrained("user/faces")
    put(hub, "user/faces", classifier(), tmp_path / "saved")
    put(hub, "runs/best", classifier(), tmp_path / "other")
    assert same(maedfer.load("user/faces"), local) and same(LGIFormer.from_pretrained("user/faces"), local)
    assert not hub.asked
    assert not same(maedfer.load("hf://user/faces"), local)
    hub.asked.clear()
    # A path whose first folder is there was mistyped.
    for name in ("user/facse", "user/faces/model"):
        with pytest.raises(InputError, match=f"^'{name}' does not exist"):
            maedfer.load(name)
    with pytest.raises(InputError, match="; a model of the Hugging Face hub is hf://user/facse$"):
        maedfer.load("user/facse")
    Path("user/empty").mkdir()
    with pytest.raises(
        InputError, match="'user/empty' is neither .*; a model of the Hugging Face hub is hf://user/empty$"
    ):
        maedfer.load("user/empty")
    # What settings and command lines name is a path unless it says otherwise.
    with pytest.raises(
        InputError, match="'runs/best' does not exist: .*; a model of the Hugging Face hub is hf://runs/"
    ):
        load_path("runs/best")
    assert saved_clip_settings("runs/best") is None
    with pytest.raises(InputError, match="'user/faces' is a path and has no revision 'v1'"):
        maedfer.load("user/faces", revision="v1")
    assert not hub.asked
    known = saved_clip_settings("hf://runs/best")
    assert known is not None and known.classes == CLASSES
    assert [line.rpartition("/")[2] for line in hub.asked if line.startswith("GET")] == ["config.json"]


def test_other_kinds_are_refused_before_their_weights_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    put(hub, "user/pretrained", MAEDFER(small_mae()), tmp_path / "mae")
    assert isinstance(maedfer.load("user/pretrained"), MAEDFER)
    with pytest.raises(InputError, match="holds a model of type mae_dfer, LGIFormer loads lgi_former"):
        LGIFormer.from_pretrained("user/pretrained")
    code = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.Bert"}}
    hub.add("user/bert", config_json=json.dumps(code).encode(), model_safetensors=b"x" * 100)
    hub.asked.clear()
    with pytest.raises(
        InputError, match="^hf://user/bert: model_type is 'bert' in its config.json, expected one of lgi_f"
    ):
        maedfer.load("user/bert")
    assert not [line for line in hub.asked if line.endswith("safetensors")]


def test_videomae_of_transformers_is_read_with_how_its_clips_are_cut(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    model = LGIFormer(small(architecture="vit", embed_dim=48, num_heads=4, num_classes=3))
    randomize(model)
    save_file(classifier_names(maedfer.to_published(model)), tmp_path / "model.safetensors")
    names = {str(index): name for index, name in enumerate(CLASSES)}
    config = {**VIDEOMAE, "auto_map": {"AutoModel": "modeling.Code"}, "id2label": names}
    files = {
        "config_json": json.dumps(config).encode(),
        "model_safetensors": (tmp_path / "model.safetensors").read_bytes(),
    }
    hub.add("user/plain", **files, pytorch_model_bin=b"not to be read")
    hub.add("user/cropped", **files, preprocessor_config_json=json.dumps({"do_center_crop": True}).encode())
    for _ in range(2):
        plain, cropped = maedfer.load("user/plain"), maedfer.load("user/cropped")
        assert same(plain, cropped) and isinstance(plain, LGIFormer)
        assert plain.clip_settings == ClipSettings(classes=CLASSES)
        assert cropped.clip_settings == ClipSettings(classes=CLASSES, fit="crop")
        # Then from the cache alone.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not [line for line in hub.asked if line.endswith(".bin")]


def test_what_the_hub_does_not_give_is_a_sentence(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, "user/faces", classifier(), tmp_path / "saved")
    put(hub, "user/hidden", classifier(), tmp_path / "saved")
    hub.repositories["user/hidden"].private = True
    hub.add("user/pickles", config_json=(tmp_path / "saved" / "config.json").read_bytes(), pytorch_model_bin=b"x")
    for name, sentence in {
        "user/facse": f"hf://user/facse is not at {hub.url}, or is not to be seen by you: check the name, and log in",
        "user/hidden": "hf://user/hidden is not at .* set HF_TOKEN where it is private",
        "user/faces@v9": "hf://user/faces@v9 has no revision 'v9'",
        "user/pickles": "hf://user/pickles has no model.safetensors: of a repository, config.json .* nor pickles$",
    }.items():
        with pytest.raises(InputError, match=f"^{sentence}") as raised:
            maedfer.load(name)
        assert "\n" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    maedfer.load("user/hidden")
    hub.torn.add("model.safetensors")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    put(hub, "user/torn", classifier(), tmp_path / "torn")
    with pytest.raises(InputError, match=r"^hf://user/torn could not be read whole, model\.safetensors: "):
        maedfer.load("user/torn")
    hub.torn.clear()
    assert isinstance(maedfer.load("user/torn"), LGIFormer)
    hub.fails = 500
    with pytest.raises(
        InputError, match=r"^hf://user/new has no config.json in the cache .* gave none: the server answers 500"
    ):
        maedfer.load("user/new")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    )
    with pytest.raises(InputError, match=r"^hf://user/new has no config.json in the cache .* gave none: .*refused"):
        maedfer.load("user/new")


def test_without_the_package_a_name_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="'user/faces' does not exist here, and .* pip install huggingface_hub"):
        load("user/faces")
    with pytest.raises(MissingDependencyError, match="pip install huggingface_hub"):
        load("hf://user/faces")
    # What cannot be on the hub needs no package to be absent.
    with pytest.raises(InputError, match="'faces' does not exist: give a saved model"):
        load("faces")


def test_names() -> None:
    assert hub_name("user/name") == ("user/name", None)
    assert hub_name("my-lab/model_1.0@refs/pr/1") == ("my-lab/model_1.0", "refs/pr/1")
    for wrong in (
        "name",
        "a/b/c",
        "/a/b",
        "a/b/",
        "./a",
        "../b",
        "-a/b",
        "a/b-",
        "a/b--c",
        "a/..",
        "a/b c",
        "a/b@",
        "ä/b",
    ):
        assert hub_name(wrong) is None, wrong
    assert str(hub_address("hf://user/name@v1")) == "hf://user/name@v1"
    assert hub_address("s3://user/name") is hub_address("user/name") is None
    for wrong in ("hf://", "hf://name", "hf://datasets/user/name", "hf://user/name@"):
        with pytest.raises(InputError, match="is no address of a model: give hf://user/name"):
            hub_address(wrong)
    assert named("hf://user/name", "v1") == "hf://user/name@v1"
    with pytest.raises(InputError, match="names another revision than 'v2'"):
        named("hf://user/name@v1", "v2")


def test_a_model_is_pushed_whole_and_comes_back(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    with pytest.raises(
        InputError, match="^no token to write to hf://user/new with: log in by `hf auth login`, or set HF_"
    ):
        model.push_to_hub("user/new")
    assert not hub.asked
    monkeypatch.setenv("HF_TOKEN", hub.token)
    address = model.push_to_hub("user/new", message="First")
    repository = hub.repositories["user/new"]
    assert address.endswith(repository.branches["main"]) and repository.private and repository.messages == ["First"]
    files = repository.commits[repository.branches["main"]]
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert MARK in files["README.md"].decode() and 'open_predictor("hf://user/new")' in files["README.md"].decode()
    assert same(maedfer.load("user/new"), model)
    # Again, into what is there, on a branch.
    other = classifier()
    other.push_to_hub("user/new", revision="trial")
    other.push_to_hub("user/new", revision="trial", message="Again")
    assert same(maedfer.load("user/new", revision="trial"), other) and same(maedfer.load("user/new"), model)
    MAEDFER(small_mae()).push_to_hub("hf://user/mae", private=False, token=hub.token)
    assert not hub.repositories["user/mae"].private


def test_what_stands_against_a_push_is_a_sentence_and_nothing_changes(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add("user/public", README_md=b"# Written by hand")
    before = dict(hub.repositories["user/public"].branches)
    for repository, changes, sentence in (
        ("name", {}, "'name' is no name of a repository: give user/name"),
        ("user/name@v1", {}, "'user/name@v1' is no name of a repository"),
        (
            "user/public",
            {"private": True},
            "hf://user/public is public and was to be private: .* nothing was changed there",
        ),
        ("user/public", {}, "hf://user/public has a README.md that was not written here: leave it"),
        ("somebody/else", {}, r"hf://somebody/else may not be written to with this token \(http.* answers 403\)"),
        (
            "user/public",
            {"token": "hf_wrong", "card": "x"},
            "may not be written to .* 403.*; nothing was changed there$",
        ),
        ("user/new", {"card": "---\nlicense: [\n---\n"}, "the metadata of the card cannot be read: "),
        (
            "user/new",
            {"card": "---\nlicense: mine\n---\n"},
            '"license" must be .*; the new private .* is there, and empty',
        ),
    ):
        with pytest.raises(InputError, match=sentence) as raised:
            model.push_to_hub(repository, **changes)
        assert "\n" not in str(raised.value)
    assert hub.repositories["user/public"].branches == before and hub.repositories.keys() == {"user/public", "user/new"}
    model.push_to_hub("user/public", card="# Another")
    public = hub.repositories["user/public"]
    assert public.commits[public.branches["main"]]["README.md"] == b"# Another"
    with torch.no_grad():
        next(model.head.parameters())[0, 0] = float("nan")
    with pytest.raises(InputError, match="head.weight of the model is not finite"):
        model.push_to_hub("user/nan")
    hub.fails = 500
    with pytest.raises(
        InputError, match=r"^hf://user/public was not written to, http.*: the server answers 500 \(out of"
    ):
        classifier().push_to_hub("user/public")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match="pip install huggingface_hub"):
        classifier().push_to_hub("user/public")
