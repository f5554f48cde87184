"""The part of docs/recipes.md that is made from the fields of the settings.

python -m tests.cli.settings_page writes it anew.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from maedfer.setting import OWNERS
from maedfer.train.describe import Description, Section, describe
from tests.helpers import REPOSITORY

PAGE = REPOSITORY / "docs" / "recipes.md"
COMMAND = "python -m tests.cli.settings_page"
BEGIN = f"<!-- from here on made by `{COMMAND}` -->\n"


def renewed(page: str) -> str:
    """The page with its tables made anew; what stands before them is kept."""
    before, mark, _ = page.partition(BEGIN)
    assert mark, f"{PAGE.name} has lost the line {BEGIN!r}"
    words = [textwrap.fill(f"- **{owner}** {text}.", 120, subsequent_indent="  ") for owner, text in OWNERS.items()]
    parts = [f"{BEGIN}\nEvery setting belongs to one of three:\n", *words]
    parts += [_section(section) for section in describe()]
    return before + "\n".join(parts) + "\n"


def _section(section: Section) -> str:
    head = f"`{section.name}`: {section.meaning}" if section.name else section.meaning.capitalize()
    rows = ["| key | default | may be | belongs to | meaning |", "|---|---|---|---|---|"]
    rows += [_row(item) for item in section.settings]
    return "\n".join([f"\n### {head}\n", *rows])


def _row(item: Description) -> str:
    default = "; ".join([item.default, *(f"{task}: {value}" for task, value in item.by_task.items())])
    return f"| `{item.key}` | {default} | {item.values} | {item.belongs_to} | {item.meaning} |"


def main() -> None:
    """Write the page anew."""
    path: Path = PAGE
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
