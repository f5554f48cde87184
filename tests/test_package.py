"""What a user of the layers alone gets: light imports, and a README whose first example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import maedfer
from tests.helpers import REPOSITORY

OPTIONAL = ("av", "decord", "torchvision", "yaml", "matplotlib", "sklearn", "tqdm", "PIL", "tensorboard", "simplejpeg")


def test_models_need_no_optional_package() -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    code = f"import sys\n{blocked}import maedfer\nmaedfer.create_model('lgi_former_tiny', depth=1)\n"
    code += "import maedfer.models, maedfer.layers, maedfer.kernels\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, maedfer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_what_tab_shows_is_there() -> None:
    """In a process of its own, because any earlier import of a sub-package leaves it behind as an attribute."""
    code = """if True:
        import maedfer
        shown = [name for name in dir(maedfer) if not name.startswith("_")]
        assert {*maedfer.__all__, "models", "layers", "data", "train"} <= set(shown), shown
        assert maedfer.layers.LGIBlock and maedfer.models.create_model is maedfer.create_model
        for name in shown:
            getattr(maedfer, name)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


def test_tab_shows_every_sub_package() -> None:
    folders = {path.parent.name for path in REPOSITORY.glob("maedfer/*/__init__.py")}
    # The command line is started, not called.
    assert folders - {"cli"} <= set(dir(maedfer))


ROOMS = ["data", "evaluation", "kernels", "models", "report", "studies", "synthetic", "train"]


@pytest.mark.parametrize("module", [maedfer, *(getattr(maedfer, room) for room in ROOMS)], ids=["maedfer", *ROOMS])
def test_public_names_exist(module: ModuleType) -> None:
    public = {name for name in dir(module) if not name.startswith("_")}
    assert {*module.__all__} <= public
    assert all(hasattr(module, name) for name in public)
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.fixture
def readme_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], dict[str, Any]]:
    """Runs an example of README where nothing else is, and gives its variables."""
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 3

    def run(number: int) -> dict[str, Any]:
        scope: dict[str, Any] = {}
        exec(compile(examples[number], "README.md", "exec"), scope)
        return scope

    return run


def test_examples_of_the_readme_run(readme_scope: Callable[[int], dict[str, Any]]) -> None:
    assert readme_scope(0)["logits"].shape == (1, 7)
    assert readme_scope(1)["z"].shape == (2, 8, 101, 256)


@pytest.mark.slow
def test_the_readme_takes_published_weights_in_and_out(readme_scope: Callable[[int], dict[str, Any]]) -> None:
    state = maedfer.to_published(maedfer.create_model("mae_dfer_base"))
    torch.save({"model": state}, "checkpoint-49.pth")
    scope = readme_scope(2)
    assert isinstance(maedfer.load("my_model"), maedfer.LGIFormer)
    assert state.keys() == scope["state"].keys()
    assert all(torch.equal(value, state[name]) for name, value in scope["state"].items())


def test_every_file_of_the_package_is_installed() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    data = re.search(r"package-data\]\nmaedfer = \[(.*)\]", text)
    assert data
    package = REPOSITORY / "maedfer"
    installed = {path for pattern in re.findall(r'"(.*?)"', data[1]) for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    assert not {path for path in files - installed if path.suffix not in (".py", ".so")}
    assert all((path.parent / "__init__.py").is_file() for path in files if path.suffix == ".py")


def test_what_pages_link_to_travels_in_the_source_archive() -> None:
    lines = [line.split() for line in (REPOSITORY / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    folders = {line[1] for line in lines if line[:1] == ["graft"]}
    # The last four travel by themselves.
    files = {name for line in lines if line[:1] == ["include"] for name in line[1:]}
    files |= {"README.md", "LICENSE", "pyproject.toml", "setup.py"}
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                target = (page.parent / link).resolve().relative_to(REPOSITORY)
                assert target.parts[0] in folders or str(target) in files, f"{page.name}: {link}"
    assert all((REPOSITORY / name).exists() for name in folders | files)


def test_tests_that_the_makefile_names_exist() -> None:
    named = re.findall(r"tests/[\w/.]+", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    assert len(named) > 5 and all((REPOSITORY / name).exists() for name in named), named


def test_versions_that_stand_twice_agree() -> None:
    files = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "pyproject.toml")}
    assert f"\nversion: {maedfer.__version__}\n" in files["CITATION.cff"]
    oldest = re.search(r"^torch==(.*)\.\*$", (REPOSITORY / "tests" / "oldest.txt").read_text(encoding="utf-8"), re.M)
    assert oldest and f'"torch>={oldest[1]}"' in files["pyproject.toml"]


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_link_to_files_and_headings_that_exist(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
            assert anchor in slugs, link
