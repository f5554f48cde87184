"""Files of settings are found, and read without guessing what their text means."""

from __future__ import annotations

from pathlib import Path

import pytest

from maedfer._values import Plain
from maedfer.errors import InputError
from maedfer.train import load_config
from maedfer.train.recipes import RECIPES, find_recipe, list_recipes, read_section, read_tree


def read(tmp_path: Path, text: str) -> dict:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return read_tree(tmp_path / "mine.yaml")


def test_text_without_quotes_is_left_to_the_setting(tmp_path: Path) -> None:
    tree = read(
        tmp_path, "a: no\nb: {c: 010, d: [1:30, 2024-01-01, '3', \"x\"]}\ne: 3e-4\nf:\ng: ~\n1: |\n  two\n  lines\n"
    )
    assert tree == {
        "a": "no",
        "b": {"c": "010", "d": ["1:30", "2024-01-01", "3", "x"]},
        "e": "3e-4",
        "f": "",
        "g": "~",
        "1": "two\nlines\n",
    }
    assert [type(item) is Plain for item in tree["b"]["d"]] == [True, True, False, False]
    assert read(tmp_path, "# nothing\n") == {} and read(tmp_path, "") == {}
    assert read(tmp_path, "\ufeffa: 1\n") == {"a": "1"}


def test_a_recipe_means_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = """
data: {train: 2024, test: no, root: ~/clips, classes: [no, yes, 1, 3.0, null, 1:30]}
model: {drop_path: 1e-1}
optim:
  # lr: 1
augment:
seed: 010
output: ft #2
"""
    (tmp_path / "mine.yaml").write_text(text)
    cfg = load_config("finetune", tmp_path / "mine.yaml")
    assert (cfg.data.train, cfg.data.test, cfg.data.root) == ("2024", "no", "/home/me/clips")
    assert cfg.classes == ("no", "yes", "1", "3.0", "null", "1:30")
    assert (cfg.clip_model.drop_path, cfg.optim.lr, cfg.seed) == (0.1, 1e-3, 10)
    # YAML itself begins a comment there; quotes keep it.
    assert cfg.output == "ft"
    (tmp_path / "mine.yaml").write_text(text.replace("ft #2", "'ft #2'"))
    assert load_config("finetune", tmp_path / "mine.yaml").output == "ft #2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\n", "is not YAML: while parsing"),
        ("- 1\n", r"must hold sections \(data:, model:, optim:, ...\), not a list"),
        ("word\n", "not a text"),
        ("optim:\n  lr: 1\n  epochs: 2\n  lr: 3\n", r"is not YAML: the key 'lr' is there twice .*line 4"),
        ("a: !!python/object:os.system x\n", "is not YAML: could not determine a constructor"),
        ("a: !!int x\n", "is not YAML"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        ("? [a]\n: 1\n", "is not YAML"),
        ("a: &a {b: *a}\n", "is nested too deeply"),
        ("a: " + "[" * 3000 + "\n", "is nested too deeply"),
        ("a: {b: {c: {d: {e: {f: {g: 1}}}}}}\n", "is nested too deeply"),
    ],
)
def test_what_is_no_recipe_is_refused_in_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^'.*mine.yaml' .*{message}") as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"a: caf\xe9\n")
    with pytest.raises(InputError, match=r"is not YAML: 'utf-8' codec .* save it as UTF-8$"):
        read_tree(tmp_path / "mine.yaml")


def test_sections_may_share_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")["b"] == {"x": "1", "y": "3"}


def test_a_section_in_braces() -> None:
    assert read_section("{lr: 010, crop: [1, 2]}", "here") == {"lr": "010", "crop": ["1", "2"]}
    for text in ("{lr: 1", "{lr: 1} x", "[1]"):
        with pytest.raises(InputError, match="^here "):
            read_section(text, "here")


def test_recipes_are_found_by_name_file_and_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    (tmp_path / "folder").mkdir()
    assert find_recipe("~/mine") == tmp_path / "mine" and find_recipe("mine") == Path("mine")
    assert find_recipe("dfew") == RECIPES / "dfew.yaml"
    # A folder of that name does not hide a recipe.
    (tmp_path / "dfew").mkdir()
    assert find_recipe("dfew") == RECIPES / "dfew.yaml"
    for name, message in {
        "dfwe": "unknown recipe 'dfwe': did you mean 'dfew'",
        "folder": "recipe 'folder' is a folder: give a YAML file",
        "folder/x": "recipe file 'folder/x' does not exist",
        "x.yaml": f"recipe file 'x.yaml' does not exist .shipped recipes: {list_recipes()[0]}",
        "a" * 300: "cannot look at recipe|unknown recipe",
        "~nobody-here/x": "there is no user 'nobody-here'",
    }.items():
        with pytest.raises(InputError, match=message):
            find_recipe(name)
