"""What a user of the layers alone gets: light imports, and a README whose first example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import maedfer
from tests.helpers import REPOSITORY

OPTIONAL = ("av", "decord", "torchvision", "yaml", "matplotlib", "sklearn", "tqdm", "PIL", "tensorboard")


@pytest.mark.parametrize("module", ["maedfer", "maedfer.models", "maedfer.layers", "maedfer.kernels"])
def test_models_need_no_optional_package(module: str) -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    code = f"import sys\n{blocked}import {module}\nimport maedfer\nmaedfer.create_model('lgi_former_tiny', depth=1)\n"
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


@pytest.mark.parametrize("room", ["maedfer", "kernels", "models", "report", "train"])
def test_public_names_exist(room: str) -> None:
    module = maedfer if room == "maedfer" else getattr(maedfer, room)
    assert {*module.__all__} <= {*dir(module)}
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_the_first_example_of_the_readme_runs() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["z"].shape == (2, 8, 101, 256)


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
