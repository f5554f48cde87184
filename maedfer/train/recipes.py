"""Recipes: the files that settings are written in, found by name or path and read without guessing types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer._values import Plain, expand_home
from maedfer.errors import InputError, require, unknown

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
# A list in a section of a section of the tree has its items there; and values of a tree, of which settings have some
# hundreds.
_DEEPEST, _MOST = 5, 100_000


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(recipe: str | Path) -> Path:
    """Path of a recipe given as a file or by name.

    Raises:
        InputError: there is no such file and no such name.
    """
    path = Path(expand_home(str(recipe)))
    known = ", ".join(list_recipes())
    try:
        if path.is_file():
            return path
        if path.is_dir() and str(recipe) not in list_recipes():
            raise InputError(f"recipe {str(recipe)!r} is a folder: give a YAML file in it (shipped recipes: {known})")
    except OSError as error:
        raise InputError(f"cannot look at recipe {str(recipe)!r}: {error.strerror}") from error
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"recipe file {str(recipe)!r} does not exist (shipped recipes: {known})")
    if str(recipe) not in list_recipes():
        raise unknown("recipe", recipe, list_recipes())
    return RECIPES / f"{recipe}.yaml"


def read_tree(path: str | Path, what: str = "sections (data:, model:, optim:, ...)") -> dict[str, Any]:
    """Read a YAML file whose top level is a section; a scalar without quotes is `Plain` text.

    Args:
        path: the file.
        what: it must hold, for messages.

    Raises:
        InputError: the file is absent, is not YAML, has a key twice, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not YAML: {error}: save it as UTF-8") from error
    tree = _load(text, repr(str(path)))
    if (isinstance(tree, Plain) and not tree) or tree is None:
        return {}
    if not isinstance(tree, dict):
        kind = "text" if isinstance(tree, str) else type(tree).__name__
        raise InputError(f"{str(path)!r} must hold {what}, not a {kind}")
    return tree


def read_section(text: str, where: str) -> Mapping[str, Any]:
    """Read a section in braces, `{key: value, ...}`, as `read_tree` reads a file.

    Raises:
        InputError: it is not YAML, or no section.
    """
    section = _load(text, where)
    if not isinstance(section, dict):
        raise InputError(f"{where} must be a section in braces, such as {{key: value}}")
    return section


def _load(text: str, where: str) -> Any:
    yaml = require("yaml", "train")

    class Reader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """YAML that leaves the meaning of a plain scalar to the setting that takes it, and knows no key twice."""

        # Only the merge of sections (<<) is still told from text.
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in known if tag.endswith(":merge")]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """Refuse a key that is there twice."""
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    problem = f"the key {key.value!r} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(str(key.value))
            return dict(super().construct_mapping(node, deep))

    def scalar(loader: Any, node: Any) -> str:
        return Plain(node.value) if node.style is None else str(node.value)

    Reader.add_constructor("tag:yaml.org,2002:str", scalar)
    try:
        tree = yaml.load(text, Reader)
        check_size(tree, where)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise InputError(f"{where} is nested too deeply for settings") from None
    return tree


def check_size(tree: Any, where: str) -> None:
    """Refuse a tree that is nested deeper than settings, or has more in it: in YAML, a section may stand for others, or
    for itself.

    Raises:
        InputError: it is so.
    """
    left = _MOST
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _DEEPEST:
            raise InputError(f"{where} is nested too deeply for settings")
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple, set)) else ()
        left -= len(inner)
        if left < 0:
            raise InputError(f"{where} has more than {_MOST} values, more than any settings")
        waiting += [(value, depth + 1) for value in inner]
