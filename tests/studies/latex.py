"""A strict reader of the LaTeX that tables are written in: whatever it does not know, it refuses.

It knows what pdfLaTeX with booktabs knows of these commands and no more, so that a document that it reads compiles:
braces and environments close, mathematics ends where it begins, rows have as many cells as there are columns, and no
character stands where TeX would take it for something else.
"""

from __future__ import annotations

import re

# Commands without arguments that stand for a character, in text.
_CHARACTERS = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textasciigrave": "`",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "ldots": "…",
    "char34": '"',
}
_MATHS = {"pm": "±", "times": "×", "cdot": "·"}
_TOKEN = re.compile(r"\\char34|\\[A-Za-z]+|\\.|[{}$&%#_^~\n]|---|--|``|''|,,|.", re.DOTALL)


class NotLaTeXError(ValueError):
    """What would not compile, or not show what it is to show."""


def read_text(source: str) -> str:
    """What a piece of text shows."""
    shown, depth, maths = "", 0, False
    for token in _TOKEN.findall(source):
        name = token[1:] if token[0] == "\\" else ""
        if maths and token != "$":
            if name in _MATHS or token == "-":
                shown += _MATHS.get(name, "−")
                continue
            raise NotLaTeXError(f"{token!r} in mathematics of {source!r}")
        if token == "$":
            maths = not maths
        elif token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth < 0:
                raise NotLaTeXError(f"a brace closes that was not open: {source!r}")
        elif name in _CHARACTERS:
            shown += _CHARACTERS[name]
        elif name and name in r"{}$&#%_":
            shown += name
        elif name or token in "&%#_^\n":
            raise NotLaTeXError(f"{token!r} in text {source!r}")
        elif token in ("---", "--", "~"):
            shown += {"---": "—", "--": "–", "~": "\xa0"}[token]
        elif token in ("``", "''", ",,") or token in '<>|"':
            raise NotLaTeXError(f"{token!r} would come out as another character: {source!r}")
        elif not " " <= token <= "\u017f" or "\x7f" <= token <= "\x9f":
            raise NotLaTeXError(f"pdfLaTeX does not know {token!r}")
        else:
            shown += token
    if depth or maths:
        raise NotLaTeXError(f"not closed: {source!r}")
    # A command eats the space after it, which is why they end in braces.
    if re.search(r"\\[A-Za-z]+ ", re.sub(r"\\char34", "", source)):
        raise NotLaTeXError(f"a space behind a command is lost: {source!r}")
    return shown


def read_table(source: str) -> tuple[str, list[list[str]], list[str]]:
    """Caption, rows (the head first) and notes of a table."""
    lines = source.splitlines()
    if not lines.pop(0).startswith("% Needs the package booktabs"):
        raise NotLaTeXError("it does not say what it needs")
    _expect(lines, r"\begin{table}[t]")
    _expect(lines, r"\centering")
    caption = _within(lines.pop(0), r"\caption{", "}")
    if lines[0].startswith(r"\label"):
        label = _within(lines.pop(0), r"\label{", "}", plain=True)
        if not re.fullmatch(r"[\w:.-]+", label, re.ASCII):
            raise NotLaTeXError(f"label {label!r}")
    spec = _within(lines.pop(0), r"\begin{tabular}{", "}", plain=True)
    if set(spec) - set("lr"):
        raise NotLaTeXError(f"columns {spec!r}")
    _expect(lines, r"\toprule")
    rows: list[list[str]] = []
    while (line := lines.pop(0)) != r"\bottomrule":
        if line == r"\midrule":
            continue
        if line.startswith(r"\cmidrule(lr){"):
            first, last = _within(line, r"\cmidrule(lr){", "}", plain=True).split("-")
            if not 1 <= int(first) <= int(last) <= len(spec):
                raise NotLaTeXError(f"a rule below columns that there are not: {line!r}")
            continue
        # A row that began with a bracket or a star would be an option of the end of the row before.
        if line[:1] in "[*":
            raise NotLaTeXError(f"the row begins as an option: {line!r}")
        cells = re.split(r"(?<!\\)&", _within(line, "", r" \\", plain=True))
        row: list[str] = []
        for cell in cells:
            wide = re.fullmatch(r"\s*\\multicolumn\{([1-9]\d*)\}\{c\}\{(.*)\}\s*", cell)
            row += [read_text(cell.strip() if wide is None else wide[2])] + [""] * (int(wide[1]) - 1 if wide else 0)
        if len(row) != len(spec):
            raise NotLaTeXError(f"{len(row)} cells in {len(spec)} columns: {line!r}")
        rows.append(row)
    _expect(lines, r"\end{tabular}")
    notes = []
    while lines[0] != r"\end{table}":
        notes.append(_within(lines.pop(0), r"\par\smallskip{\footnotesize ", r"\par}"))
    _expect(lines, r"\end{table}")
    if lines:
        raise NotLaTeXError(f"behind the table: {lines}")
    return caption, rows, notes


def _expect(lines: list[str], line: str) -> None:
    if not lines or lines.pop(0) != line:
        raise NotLaTeXError(f"{line} is missing")


def _within(line: str, start: str, end: str, plain: bool = False) -> str:
    if not (line.startswith(start) and line.endswith(end)):
        raise NotLaTeXError(f"not {start}...{end}: {line!r}")
    inner = line[len(start) : len(line) - len(end)]
    return inner if plain else read_text(inner)
