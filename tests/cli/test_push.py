from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.models import LGIFormer
from tests.cli.helpers import Call
from tests.helpers import small


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return LGIFormer(small(num_classes=3)).save_pretrained(tmp_path / "model")


def test_a_dry_run_shows_the_files_and_the_card_and_asks_nobody(
    model: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **values: object) -> None:
        raise AssertionError("nobody is to be asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("maedfer.models.hub.push", refuse)
    out = call("push", model, "user/faces", "--license", "mit", "--dry-run").out
    assert out.startswith("hf://user/faces\n") and out.endswith("nothing was sent\n")
    for line in (
        "  config.json ",
        "  model.safetensors ",
        "  README.md ",
        "license: mit\n",
        "# faces\n",
    ):
        assert line in out


def test_what_is_given_is_what_is_pushed(
    model: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    pushed = []

    def push(files: dict[str, object], repository: str, **values: object) -> str:
        pushed.append((files, repository, values))
        return "https://hub/commit"

    monkeypatch.setattr("maedfer.models.hub.push", push)
    (tmp_path / "mine.md").write_text("# Mine\n")
    assert call("push", model, "hf://user/faces").out == "pushed: https://hub/commit\n"
    call(
        "push", model, "user/faces", "--public", "--card", tmp_path / "mine.md", "--revision", "trial", "--message", "m"
    )
    call("push", model, "user/faces", "--private", "--card", "keep")
    plain, own, kept = pushed
    nothing = {"revision": None, "message": None}
    assert plain[1:] == ("user/faces", {"private": None, "replace_card": False, **nothing})
    assert own[0]["README.md"] == b"# Mine\n"  # type: ignore[index]
    assert own[2] == {"private": False, "replace_card": True, "revision": "trial", "message": "m"}
    assert kept[0].keys() == {"config.json", "model.safetensors"} and kept[2]["private"] is True  # type: ignore[attr-defined,index]
