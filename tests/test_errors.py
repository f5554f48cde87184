"""What errors tell a user to do."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from maedfer.errors import MissingDependencyError, require, shortened, some, unknown

REQUIRES = [
    "torch>=2.11",
    'av>=17; extra == "video"',
    'decord>=0.6; (sys_platform == "linux" and platform_machine == "x86_64") and extra == "video"',
    'pillow>=10.1; extra == "video"',
    'maedfer[video]; extra == "train"',
    'pyyaml>=6; extra == "train"',
    'scikit-learn>=1.4; extra == "train"',
    'pytest>=8; extra == "dev"',
]


@pytest.mark.parametrize(
    ("module", "extra", "absent", "command"),
    [
        ("yaml", "train", ["pyyaml"], "pip install pyyaml"),
        ("PIL.Image", "video", ["pillow"], "pip install pillow"),
        ("av", "video", ["av", "pillow", "decord"], "pip install av pillow"),
        ("sklearn.manifold", "train", ["scikit-learn", "pillow", "pyyaml", "pytest"], "scikit-learn pillow pyyaml"),
        # Installed, and yet it cannot be imported.
        ("av", "video", [], "pip install av"),
        ("xformers.ops", "xformers", [], "pip install xformers"),
    ],
)
def test_a_missing_package_is_named_so_that_pip_finds_it(
    module: str, extra: str, absent: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRES)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as error:
        require(module, extra)
    assert str(error.value).endswith(command)
    # No index has this package.
    assert "maedfer" not in str(error.value)


def test_a_missing_package_is_named_where_the_program_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="'yaml' is needed here .*: pip install pyyaml$"):
        require("yaml", "train")


def test_extras_that_are_asked_for_exist() -> None:
    from maedfer.errors import _requirements

    assert {"av", "pillow"} <= set(_requirements("video")) < set(_requirements("train"))


def test_unknown_names_are_answered_with_the_nearest_or_with_some() -> None:
    assert str(unknown("model", "vit_bas", ["vit_base", "vit_tiny"])) == (
        "unknown model 'vit_bas': did you mean 'vit_base'?"
    )
    assert str(unknown("key", "x", ["b", "a"], "in 'optim'")) == "unknown key 'x' in 'optim': known: a, b"
    assert len(str(unknown("key", "x" * 5000, [f"name_{number}" for number in range(1000)]))) < 700


def test_long_texts_lose_their_middle() -> None:
    assert shortened("a" * 200) == "a" * 200
    assert shortened("a" * 100 + "b" * 100 + "c" * 100) == "a" * 100 + "..." + "c" * 50


def test_of_many_names_the_first_are_told() -> None:
    assert some(["a", "b"]) == "a, b" and some([]) == ""
    assert some(["a", "b", "c"], 2, "; ") == "a; b and 1 more"
