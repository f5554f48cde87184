"""A table of results, once: as CSV for programs, as LaTeX for a paper, as HTML for a report, as JSON beside it.

Shares are kept as shares and shown as the column says, mostly in per cent. What is shown and what is written for
programs come from the same cell, so that they cannot say different things.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from maedfer._files import atomic_path
from maedfer.errors import InputError
from maedfer.report import page as html
from maedfer.report.page import DASH

# Characters that mean something to LaTeX, as text.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # In the old encoding of fonts these three come out as other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\char34{}",
    # After the end of a row these two would be its options.
    "[": "{[}",
    "*": "{*}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
# Of two of these LaTeX makes one other character.
_LIGATURES = "-',"
# Up to here the letters reach that pdfLaTeX knows, those after ASCII in fonts of the encoding T1.
_LAST_OF_ASCII, _LAST_OF_LATIN = 0x7F, 0x17F


@dataclass(frozen=True)
class Measured:
    """A number with how sure it is.

    Args:
        value: the number itself; a share is in [0, 1].
        spread: standard deviation, shown as "±"; None or NaN where there is none.
        low, high: limits of its interval, shown in brackets.
    """

    value: float
    spread: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def over(cls, values: Sequence[float]) -> Measured:
        """Mean and sample standard deviation of values; without a spread where there is one value only.

        Raises:
            ValueError: there are no values.
        """
        if not len(values):
            raise ValueError("no values to take the mean of")
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


Cell = str | int | float | Measured | None


@dataclass(frozen=True)
class Column:
    """What a column holds, and how it is shown.

    Args:
        name: heading; without the unit.
        percent: its numbers are shares and shown as "62.59", under a heading with (%).
        digits: behind the point.
        signed: also write the sign of positive numbers, as differences have it.
        text: it holds words, which begin at the left.
        group: what neighbouring columns have in common, above them.
    """

    name: str
    percent: bool = False
    digits: int = 2
    signed: bool = False
    text: bool = False
    group: str = ""

    @property
    def whole(self) -> str:
        """Name with that of the group."""
        return f"{self.group} {self.name}".strip()

    @property
    def heading(self) -> str:
        """Name and unit."""
        return f"{self.whole} (%)" if self.percent else self.whole

    def shown(self, cell: Cell) -> str:
        """A cell as people read it; a dash where there is nothing."""
        if cell is None or isinstance(cell, str):
            return cell or DASH
        if not isinstance(cell, Measured):
            return self._number(cell)
        text = self._number(cell.value)
        if _known(cell.spread):
            text += f" ± {self._number(cell.spread, False)}"
        if _known(cell.low) and _known(cell.high):
            text += f" [{self._number(cell.low)}, {self._number(cell.high)}]"
        return text

    def _number(self, value: float, signed: bool | None = None) -> str:
        if not math.isfinite(value):
            return DASH
        if isinstance(value, int) and not self.percent:
            text = f"{value:+,}" if self.signed else f"{value:,}"
        else:
            sign = "+" if (self.signed if signed is None else signed) else ""
            text = f"{100 * value if self.percent else value:{sign}.{self.digits}f}"
            # What rounds to nothing has no sign.
            if float(text) == 0:
                text = text.lstrip("+-")
        return text.replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        title: what it shows, in a line; the caption.
        columns: what the columns hold.
        rows: cells, as many as there are columns; an empty row is a rule between parts of the table.
        notes: sentences below it.
        sources: of each row, where its numbers are from ("this run", "the paper"); () leaves the column out.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if row and len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row has {len(wrong[0])} cells, there are {len(self.columns)} columns: {wrong[0]}")
        if self.sources and len(self.sources) != len(self.rows):
            raise ValueError(f"{len(self.sources)} sources of {len(self.rows)} rows")

    @property
    def _whole(self) -> tuple[tuple[Column, ...], list[tuple[Cell, ...]]]:
        """Columns and rows with that of sources."""
        if not self.sources:
            return self.columns, list(self.rows)
        rows = [(*row, source) if row else () for row, source in zip(self.rows, self.sources, strict=True)]
        return (*self.columns, Column("source", text=True)), rows

    def csv(self) -> str:
        """For programs: numbers in full, shares as shares; spreads and limits in columns of their own."""
        columns, rows = self._whole
        parts = [_parts([row[index] for row in rows if row]) for index in range(len(columns))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            f"{column.whole} {part}".strip() for column, there in zip(columns, parts, strict=True) for part in there
        )
        for row in filter(None, rows):
            writer.writerow(_plain(cell, part) for cell, there in zip(row, parts, strict=True) for part in there)
        return out.getvalue()

    def latex(self, label: str = "") -> str:
        """For a paper: a `table` with the rules of the package booktabs.

        Args:
            label: for references, as "tab:dfew"; letters, digits and `:-_.` only.

        Raises:
            ValueError: the label has other characters.
        """
        if re.search(r"[^\w:.-]", label, re.ASCII):
            raise ValueError(f"label {label!r} must be of letters, digits and :-_. only")
        columns, rows = self._whole
        spec = "".join("l" if _is_text(column, index) else "r" for index, column in enumerate(columns))
        body = [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{latex_text(self.title)}}}",
            *([rf"\label{{{label}}}"] if label else []),
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            *_latex_head(columns),
            r"\midrule",
            *(
                " & ".join(latex_text(column.shown(cell)) for column, cell in zip(columns, row, strict=True)) + r" \\"
                if row
                else r"\midrule"
                for row in rows
            ),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {latex_text(note)}\par}}" for note in self.notes),
            r"\end{table}",
        ]
        text = "\n".join(body) + "\n"
        last = ord(max(text))
        if last > _LAST_OF_LATIN:
            needs = "booktabs; and XeLaTeX or LuaLaTeX, for letters that pdfLaTeX does not know"
        else:
            needs = "booktabs" + ("; and \\usepackage[T1]{fontenc}, for its letters" if last > _LAST_OF_ASCII else "")
        return f"% Needs the package {needs}.\n{text}"

    def html(self) -> str:
        """For a page of `maedfer.report`: the table, and its notes below it; the title is the section's."""
        columns, rows = self._whole
        names = [index for index, column in enumerate(columns) if _is_text(column, index)]
        shown = [[column.shown(cell) for column, cell in zip(columns, row, strict=True)] for row in rows if row]
        body = html.table([column.heading for column in columns], shown, names)
        return body + "".join(html.paragraph(note, "note") for note in self.notes)

    def text(self) -> str:
        """For a terminal: columns in line, without title and notes."""
        columns, rows = self._whole
        head = [column.heading for column in columns]
        shown = [[column.shown(cell) for column, cell in zip(columns, row, strict=True)] for row in rows if row]
        widths = [max(len(row[index]) for row in [head, *shown]) for index in range(len(columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if _is_text(column, index) else cell.rjust(width)
                for index, (column, cell, width) in enumerate(zip(columns, row, widths, strict=True))
            ).rstrip()
            for row in [head, *shown]
        ]
        return "".join(f"  {line}\n" for line in lines)

    def section(self) -> str:
        """The table as a section of a page, under its title."""
        return html.section(self.title, self.html())

    def numbers(self) -> dict[str, Any]:
        """For report.json: the title, a dictionary a row, and the notes."""
        columns, rows = self._whole
        names = [column.whole for column in columns]
        cells = [
            dict(zip(names, (vars(cell) if isinstance(cell, Measured) else cell for cell in row), strict=True))
            for row in rows
            if row
        ]
        return {"title": self.title, "rows": cells, "notes": list(self.notes)}


def write_tables(table: Table, path: str | Path, label: str = "") -> list[Path]:
    """Write `<path>.csv` and `<path>.tex`, making their folder if need be.

    Args:
        table: what to write.
        path: of both files, without the ends of their names.
        label: see `Table.latex`.

    Raises:
        InputError: they cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(path.parent)!r} for tables: {error.strerror}") from error
    files = [path.with_name(f"{path.name}{end}") for end in (".csv", ".tex")]
    with atomic_path(files[0]) as first, atomic_path(files[1]) as second:
        first.write_bytes(table.csv().encode("utf-8", "surrogateescape"))
        second.write_text(table.latex(label), encoding="utf-8")
    return files


def latex_text(text: str) -> str:
    """Plain text as LaTeX shows it, whatever is in it; line breaks become spaces."""
    # Bytes of a name that are no UTF-8, and control characters, cannot be shown.
    text = re.sub("[\ud800-\udfff]", "?", text)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()
    pairs = zip(" " + text, text, strict=False)
    return "".join(
        "{}" + letter if before == letter and letter in _LIGATURES else _SPECIAL.get(letter, letter)
        for before, letter in pairs
    )


def _latex_head(columns: Sequence[Column]) -> list[str]:
    """The rows of headings: one, or two with rules between them where columns are in groups."""
    if not any(column.group for column in columns):
        return [" & ".join(latex_text(column.heading) for column in columns) + r" \\"]
    above: list[str] = []
    rules: list[str] = []
    below: list[str] = []
    for (group, percent), members in groupby(columns, lambda column: (column.group, column.percent)):
        inside = list(members)
        first = len(below) + 1
        if not group:
            above += [""] * len(inside)
            below += [latex_text(column.heading) for column in inside]
            continue
        above.append(rf"\multicolumn{{{len(inside)}}}{{c}}{{{latex_text(f'{group} (%)' if percent else group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(inside) - 1}}}")
        below += [latex_text(column.name) for column in inside]
    return [" & ".join(above) + r" \\", *rules, " & ".join(below) + r" \\"]


def _is_text(column: Column, index: int) -> bool:
    return column.text or not index


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _parts(cells: Sequence[Cell]) -> list[str]:
    """The columns that a column has in a file: the value, and what its cells have beside it."""
    measured = [cell for cell in cells if isinstance(cell, Measured)]
    parts = [""]
    if any(_known(cell.spread) for cell in measured):
        parts.append("sd")
    if any(_known(cell.low) and _known(cell.high) for cell in measured):
        parts += ["low", "high"]
    return parts


def _plain(cell: Cell, part: str) -> str:
    value: Cell
    if isinstance(cell, Measured):
        value = {"": cell.value, "sd": cell.spread, "low": cell.low, "high": cell.high}[part]
    else:
        value = None if part else cell
    if value is None or isinstance(value, str):
        return value or ""
    return str(value) if isinstance(value, int) else f"{value:.10g}" if math.isfinite(value) else ""
