"""HTML of the reports: small pieces that are put into the template report.html; the page loads nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer._figure_style import HEAT, INK, LINE, MUTED, PALETTE, PAPER, TINT
from maedfer._files import atomic_path
from maedfer.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of the figures that follow the page's light or dark scheme.
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--paper",
    HEAT: "--heat",
    TINT: "--tint",
    **{color: f"--c{index}" for index, color in enumerate(PALETTE)},
}
DASH = "\N{EN DASH}"
_PICTURE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def page(title: str, subtitle: str, parts: Iterable[str], footer: str) -> str:
    """Fill the template; `parts` and `footer` are HTML, the titles plain text."""
    template = Template(resources.files("maedfer.report").joinpath("report.html").read_text(encoding="utf-8"))
    body = "\n".join(part for part in parts if part)
    return template.substitute(title=escape(title), subtitle=escape(subtitle), body=body, footer=footer)


def section(title: str, *parts: str) -> str:
    """A heading with what belongs to it; nothing at all where every part is empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def row(*parts: str) -> str:
    """Parts side by side where the page is wide enough."""
    body = "\n".join(part for part in parts if part)
    return f'<div class="row">\n{body}\n</div>' if body else ""


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph; `kind` is a class of the style sheet ("note")."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def listing(items: Iterable[str]) -> str:
    """Plain texts as a list; nothing where there are none."""
    body = "".join(f"<li>{escape(item)}</li>\n" for item in items)
    return f"<ul>\n{body}</ul>" if body else ""


def callout(text: str, warn: bool = False) -> str:
    """Plain text set off from the rest, as a warning if need be."""
    return f'<div class="callout{" warn" if warn else ""}"><p>{escape(text)}</p></div>'


def tiles(items: Iterable[tuple[str, str, str]], small: bool = False) -> str:
    """Headline numbers in a row: (what it is, the number, a remark below it)."""
    body = ""
    for label, value, note in items:
        remark = f"<small>{escape(note)}</small>" if note else ""
        body += f"<div><dt>{escape(label)}</dt><dd>{escape(value)}{remark}</dd></div>\n"
    return f'<dl class="tiles{" small" if small else ""}">\n{body}</dl>' if body else ""


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, str]]],
    text_columns: int | Collection[int] = 1,
) -> str:
    """A table of plain text; a cell (text, remark) has the remark below.

    All columns but `text_columns`, so many of the first ones or those of these numbers, hold numbers.
    """
    texts_at = range(text_columns) if isinstance(text_columns, int) else text_columns
    marks = ["" if index in texts_at else ' class="n"' for index in range(len(head))]
    lines = [
        "<tr>" + "".join(f"<th{mark}>{escape(name)}</th>" for mark, name in zip(marks, head, strict=True)) + "</tr>"
    ]
    for cells in rows:
        texts = [
            escape(cell) if isinstance(cell, str) else f"{escape(cell[0])}<small>{escape(cell[1])}</small>"
            for cell in cells
        ]
        lines.append(
            "<tr>" + "".join(f"<td{mark}>{text}</td>" for mark, text in zip(marks, texts, strict=True)) + "</tr>"
        )
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def settings(title: str, tree: Mapping[str, Any]) -> str:
    """A nested dictionary as small tables, one a section, folded away under `title`; printing shows them."""
    if not tree:
        return ""
    sections: dict[str, list[tuple[str, Any]]] = {}
    for path, value in leaves(tree):
        name, _, key = path.rpartition(".")
        sections.setdefault(name, []).append((key, value))
    body = ""
    for name, entries in sections.items():
        cells = "".join(
            f"<tr><td>{escape(key)}</td><td><code>{escape(setting(value))}</code></td></tr>\n" for key, value in entries
        )
        heading = f"<h3>{escape(name)}</h3>" if name else ""
        body += f"<section>{heading}<table>\n{cells}</table></section>\n"
    return fold(title, f'<div class="settings">\n{body}</div>')


def fold(title: str, body: str) -> str:
    """HTML folded away under a title; printing shows it."""
    return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>"


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys and values of a nested dictionary, the values of a section before its sections."""
    nested = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            nested.append((f"{path}{key}.", value))
        else:
            yield f"{path}{key}", value
    for prefix, value in nested:
        yield from leaves(value, prefix)


def setting(value: Any) -> str:
    """A value of the settings as text."""
    if isinstance(value, str):
        return value or DASH
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or DASH
    return DASH if value is None or value in ({}, ()) else json.dumps(value, default=str, ensure_ascii=False)


def figure(drawing: Figure, name: str, alt: str, caption: str = "") -> str:
    """A matplotlib figure as inline SVG whose text and colours follow the page.

    Args:
        drawing: the figure.
        name: unique on the page, so that identifiers inside the SVG are.
        alt: what the figure shows, for readers who do not see it.
        caption: plain text below.
    """
    matplotlib = require("matplotlib", "train")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        drawing.savefig(buffer, format="svg", transparent=True, dpi=144, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    # The page's own typeface: metrics were taken from a wide one, so nothing grows out of its place.
    text = re.sub(r"font: ([\w. ]*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--f, inherit)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return _figure(text.strip(), caption)


def picture(path: Path, caption: str = "") -> str:
    """A picture file (png, jpg, svg) as part of the page.

    Raises:
        InputError: the file is absent or of another kind.
    """
    kind = _PICTURE_TYPES.get(path.suffix.lower())
    if kind is None or not path.is_file():
        known = ", ".join(sorted(_PICTURE_TYPES))
        raise InputError(f"picture {str(path)!r} cannot be shown: it must be an existing file of type {known}")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return _figure(f'<img alt="{escape(caption)}" src="data:{kind};base64,{data}">', caption)


def _figure(content: str, caption: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{content}{below}</figure>"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as "62.59", a dash where there is none."""
    return DASH if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def points(value: float, digits: int = 2) -> str:
    """A difference of fractions in percentage points, signed: "+1.20"."""
    if not math.isfinite(value):
        return DASH
    # A little less than nothing is rounded to -0.0, which plus 0.0 is 0.0.
    return f"{round(100 * value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _plain(value: Any) -> Any:
    """The value with arrays as lists, paths as text and numbers that are not finite as None, for strict JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write(out: Path, html: str, numbers: Mapping[str, Any]) -> Path:
    """Write report.html and report.json into `out` and return the path of the page.

    Raises:
        InputError: the folder cannot be made, or a file in it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(out)!r} for the report: {error.strerror}") from error
    text = json.dumps(_plain(numbers), indent=1, ensure_ascii=False, allow_nan=False)
    # Bytes of a name that are no UTF-8: JSON can escape them, so that they read back the same; a page shows a mark.
    html = re.sub("[\ud800-\udfff]", "\ufffd", html)
    # Both are whole before one of them takes its place.
    with atomic_path(out / "report.json") as numbers_file, atomic_path(out / "report.html") as page_file:
        numbers_file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        page_file.write_text(html, encoding="utf-8", errors="backslashreplace")
    return out / "report.html"
