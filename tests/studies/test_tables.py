"""One table in three forms. LaTeX is read by a strict reader of its own, and by pdflatex where that is installed."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from maedfer.errors import InputError
from maedfer.studies import Column, Measured, Table, write_tables
from maedfer.studies.tables import latex_text
from tests.studies.latex import NotLaTeXError, read_table, read_text

NASTY = [
    r"a_b & 50% of $x$ # {1} ~ ^ \alpha",
    r"\\ \input{/etc/passwd} %",
    "<b>|\"quoted\" 'single' ''two'' ``back`` ,,low",
    "[0, 1] and *starred*",
    "-- --- - a--b, data.train=x.csv",
    "± − – — × · … é ß ő\xa0x",
    "two\nlines\tand a bell\x07",
    "",
    "{[}",
]


def table() -> Table:
    return Table(
        "Scores & such, 100%",
        (Column("fold", text=True), Column("UAR", percent=True), Column("difference", True, signed=True), Column("n")),
        (
            ("fold_1", 0.6259, -0.00004, 2341),
            ("[2]", Measured(0.6196, 0.0112), 0.0112, 2),
            (),
            ("all", Measured(0.6341, low=0.621, high=0.6473), -0.5, 11697),
            ("none", None, math.nan, None),
        ),
        ("A note_with $ signs.",),
        ("ours", "ours", "", "the paper, Table 5", "ours"),
    )


def test_cells_are_shown_once_for_all_forms() -> None:
    caption, rows, notes = read_table(table().latex("tab:dfew-1"))
    assert caption == "Scores & such, 100%" and notes == ["A note_with $ signs."]
    assert rows == [
        ["fold", "UAR (%)", "difference (%)", "n", "source"],
        ["fold_1", "62.59", "0.00", "2,341", "ours"],
        ["[2]", "61.96 ± 1.12", "+1.12", "2", "ours"],
        ["all", "63.41 [62.10, 64.73]", "−50.00", "11,697", "the paper, Table 5"],
        ["none", "–", "–", "–", "ours"],
    ]
    page = table().section()
    assert "<h2>Scores &amp; such, 100%</h2>" in page and "63.41 [62.10, 64.73]" in page
    # Words begin at the left, wherever they stand.
    assert "<td>the paper, Table 5</td>" in page and '<td class="n">2,341</td>' in page
    assert table().numbers()["rows"][1]["UAR"]["spread"] == 0.0112


def test_neighbouring_columns_have_a_heading_in_common() -> None:
    columns = (
        Column("fold"),
        *(Column(name, True, group=group) for group in ("UAR", "WAR") for name in ("there", "here")),
        Column("n"),
    )
    found = Table("t", columns, (("a", 0.1, 0.2, 0.3, 0.4, 5),))
    assert read_table(found.latex())[1] == [
        ["", "UAR (%)", "", "WAR (%)", "", ""],
        ["fold", "there", "here", "there", "here", "n"],
        ["a", "10.00", "20.00", "30.00", "40.00", "5"],
    ]
    assert "\\cmidrule(lr){2-3}\n\\cmidrule(lr){4-5}\n" in found.latex()
    # Where there is one row of headings, each says all.
    assert found.csv().splitlines()[0] == "fold,UAR there,UAR here,WAR there,WAR here,n"
    assert found.text().splitlines() == [
        "  fold  UAR there (%)  UAR here (%)  WAR there (%)  WAR here (%)  n",
        "  a             10.00         20.00          30.00         40.00  5",
    ]


def test_csv_keeps_numbers_in_full_and_spreads_apart() -> None:
    rows = list(csv.DictReader(io.StringIO(table().csv())))
    assert list(rows[0]) == ["fold", "UAR", "UAR sd", "UAR low", "UAR high", "difference", "n", "source"]
    assert [float(row["UAR"] or "nan") for row in rows[:3]] == [0.6259, 0.6196, 0.6341]
    assert (rows[1]["UAR sd"], rows[1]["UAR low"], rows[2]["UAR high"]) == ("0.0112", "", "0.6473")
    assert rows[0]["difference"] == "-4e-05" and rows[3]["difference"] == "" and rows[2]["n"] == "11697"


@pytest.mark.parametrize("text", NASTY)
def test_any_text_is_shown_as_it_is(text: str) -> None:
    shown = read_text(latex_text(text))
    assert shown.split() == "".join(" " if letter in "\n\t\x07" else letter for letter in text).split()
    one = Table(text, (Column(text, text=True),), ((text,), (text,)), (text,))
    caption, rows, notes = read_table(one.latex())
    assert rows[1] == rows[2] == ([shown] if text else ["–"]) and caption == notes[0] == shown


@pytest.mark.parametrize("source", ["a & b", "50%", "a_b", r"\input{x}", "{", "$a$", "''", "a < b", "中", "\\ldots x"])
def test_the_reader_refuses_what_does_not_compile(source: str) -> None:
    with pytest.raises(NotLaTeXError):
        read_text(source)


def test_letters_that_not_every_latex_knows_are_told() -> None:
    def head(title: str) -> str:
        return Table(title, (Column("a"),), (("b",),)).latex().splitlines()[0]

    assert head("plain") == "% Needs the package booktabs."
    assert "[T1]{fontenc}" in head("é") and "XeLaTeX" in head("中")
    assert latex_text("\udcff") == "?"


def test_means_and_spreads() -> None:
    assert Measured.over([0.5]) == Measured(0.5)
    found = Measured.over([0.5, 0.7])
    assert found.spread == pytest.approx(math.sqrt(0.02)) and found.value == pytest.approx(0.6)
    with pytest.raises(ValueError, match="no values"):
        Measured.over([])


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="2 cells, there are 1 columns"):
        Table("t", (Column("a"),), (("b", "c"),))
    with pytest.raises(ValueError, match="1 sources of 2 rows"):
        Table("t", (Column("a"),), (("b",), ("c",)), sources=("x",))
    with pytest.raises(ValueError, match="label"):
        table().latex("tab:{x}")


def test_files_are_written_together(tmp_path: Path) -> None:
    files = write_tables(table(), tmp_path / "new" / "table")
    assert [file.name for file in files] == ["table.csv", "table.tex"]
    assert files[0].read_text() == table().csv() and files[1].read_text() == table().latex()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        write_tables(table(), tmp_path / "file" / "table")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(tmp_path: Path) -> None:
    rows = tuple((text, 0.5) for text in NASTY)
    whole = Table(NASTY[0], (Column("text", text=True), Column("share", True)), rows, tuple(NASTY)).latex("tab:x")
    document = ("\\documentclass{article}", "\\usepackage{booktabs}", "\\usepackage[T1]{fontenc}", "\\begin{document}")
    whole = "\n".join((*document, whole, "\\end{document}"))
    (tmp_path / "table.tex").write_text(whole, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
