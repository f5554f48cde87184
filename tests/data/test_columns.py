from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.columns import read_columns
from maedfer.data.labels import LabelReader
from maedfer.errors import InputError

NAMES = ("happy", "sad", "very happy")


def read(
    tmp_path: Path, text: str, there: str = "", labelled: bool = True, classes: tuple[str, ...] = NAMES
) -> list[tuple[str | None, ...]]:
    """Names and label texts of a list, in a folder where `there` exists."""
    for name in there.split("|"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    _, names, labels, _ = read_columns(tmp_path / "list.csv", tmp_path, LabelReader(classes, 9, labelled))
    return list(zip(names, [None] * len(names) if labels is None else labels, strict=True))


@pytest.mark.parametrize(
    ("text", "name", "label"),
    [
        ("label,path\n3,a.mp4\n", "a.mp4", "3"),
        ("label path\n3 a b.mp4\n", "a b.mp4", "3"),
        ("id path label\n7 a b.mp4 3\n", "a b.mp4", "3"),
        (",path,label\n0,a.mp4,3\n", "a.mp4", "3"),
        ("\tpath\tlabel\n0\ta b.mp4\t3\n", "a b.mp4", "3"),
        ("Unnamed: 0,File Name,Emotion\n0,a.mp4,very happy\n", "a.mp4", "very happy"),
        ("id,name,video_path,frames,label\n1,x,a.mp4,90,3\n", "a.mp4", "3"),
        ("path;label;\na,b.mp4;3;\n", "a,b.mp4", "3"),
        ("sep=;\npath;label\na.mp4;3\n", "a.mp4", "3"),
        ("filename,emotion,split\na.mp4,sad,train\n", "a.mp4", "sad"),
        ("videoName,ClassLabel\na.mp4,3\n", "a.mp4", "3"),
        ("path,label,valence\na.mp4,3,0.5\n", "a.mp4", "3"),
        ("video,expression_number\na.mp4,3\n", "a.mp4", "3"),
        ("path label\na 45 3\n", "a 45", "3"),
        ("path frames label\na 45 3\n", "a", "3"),
        ("path,label\nmy, clip.mp4,3\n", "my, clip.mp4", "3"),
        ('path label\n"a b.mp4" "3"\n', "a b.mp4", "3"),
        ("path,label\na b.mp4 3\n", "a b.mp4", "3"),
        ("'path','label'\n'a, b','3'\n", "a, b", "3"),
    ],
)
def test_a_header_settles_it(tmp_path: Path, text: str, name: str, label: str) -> None:
    assert read(tmp_path, text) == [(name, label)]


@pytest.mark.parametrize(
    ("text", "name", "label"),
    [
        ("00017 3\n", "00017", "3"),
        ("00017 45 3\n", "00017", "3"),
        ("00017,45,3\n", "00017", "3"),
        ("00017 45,3\n", "00017 45", "3"),
        ("a b.mp4;3\n", "a b.mp4", "3"),
        ("a.mp4;3;;\n", "a.mp4", "3"),
        ('"a.mp4","3"\n', "a.mp4", "3"),
        ("0,a.mp4,3\n", "a.mp4", "3"),
        ("0,a.mp4,90,3\n", "a.mp4", "3"),
        ("a.mp4\u30003\n", "a.mp4", "3"),
        ("a.mp4 3\u00a0\n", "a.mp4", "3"),
        ("a.mp4,very happy\n", "a.mp4", "very happy"),
        ("clip happy\n", "clip", "happy"),
        ("video 3\n", "video", "3"),
        ("a #1.mp4 3\n", "a #1.mp4", "3"),
    ],
)
def test_without_a_header(tmp_path: Path, text: str, name: str, label: str) -> None:
    assert read(tmp_path, text) == [(name, label)]


def test_the_whole_list_decides(tmp_path: Path) -> None:
    assert read(tmp_path, "subject 1 3\nsubject 2 3\n") == [("subject 1", "3"), ("subject 2", "3")]
    assert read(tmp_path, "take 12 3\nother 4\n") == [("take 12", "3"), ("other", "4")]
    assert read(tmp_path, "1 2\n2 2\n", labelled=False) == [("1", "2"), ("2", "2")]
    assert read(tmp_path, "1 2\nb\n", labelled=False) == [("1 2", None), ("b", None)]
    assert read(tmp_path, "a.mp4,\nb.mp4,nan\nc.mp4,-1\n", labelled=False)[:2] == [("a.mp4", ""), ("b.mp4", "nan")]
    table = read(tmp_path, "a.mp4,x\nb.mp4,y\nc.mp4,y\n", labelled=False)
    assert table == [("a.mp4", "x"), ("b.mp4", "y"), ("c.mp4", "y")]
    assert read(tmp_path, "t 20231224123000\nt 20231224123100\n", labelled=False)[0] == ("t 20231224123000", None)


@pytest.mark.parametrize(
    ("text", "there", "labelled", "name", "label"),
    [
        ("00017 45 3\n", "00017 45", True, "00017 45", "3"),
        ("00017 45 3\n", "00017", True, "00017", "3"),
        ("s 1 3\ns 2 3\n", "s", True, "s", "3"),
        ("0,45,3\n1,50,3\n", "45", True, "45", "3"),
        ("0,45,3\n1,50,3\n", "0", True, "0", "3"),
        ("a,45,3\n", "a,45", True, "a,45", "3"),
        ("a,joy,3\n", "a", True, "a", "3"),
        ("clip 3\nclip 4\n", "clip 3", False, "clip 3", None),
        ("clip 3\nclip 4\n", "clip", False, "clip", "3"),
        ("clip 3\nclip 4\n", "x", False, "clip 3", None),
        ("a 3\nb 3\n", "x", False, "a", "3"),
        ("a,3\nb,4\n", "a,3", False, "a,3", None),
        ("a.x,y\nb.x,y\n", "a.x,y", False, "a.x,y", None),
        ("#1 3\n", "#1", True, "#1", "3"),
        ("'a'\n", "'a'", False, "'a'", None),
        ("a \nb\n", "a ", False, "a ", None),
        ("video\nvideo/a\n", "video/a", False, "video/a", None),
    ],
)
def test_a_path_that_exists_wins(
    tmp_path: Path, text: str, there: str, labelled: bool, name: str, label: str | None
) -> None:
    assert read(tmp_path, text, there, labelled)[0] == (name, label)


def test_a_clip_with_a_mistyped_label_is_no_header(tmp_path: Path) -> None:
    assert read(tmp_path, "video,hapy\nb,sad\n", "video") == [("video", "hapy"), ("b", "sad")]
    assert read(tmp_path, "clip,feeling\nb,sad\n", "video") == [("b", "sad")]


def test_nothing_is_looked_for_where_nothing_is_to_be_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def existing(base: Path, name: str) -> bool:
        asked.append(name)
        return False

    monkeypatch.setattr("maedfer.data.columns.existing", existing)
    lines = [f"id{number}/x/{number:05d}.mp4" for number in range(500)]
    read(tmp_path, "\n".join(lines), labelled=False)
    read(tmp_path, "\n".join(f"{line} 3" for line in lines))
    assert not asked
    read(tmp_path, "\n".join(f"clip {number} 3" for number in range(500)))
    assert 0 < len(asked) <= 3 * 64


@pytest.mark.parametrize(
    ("text", "there", "labelled", "message"),
    [
        ("a 45 3\n", "a|a 45", True, "list.csv:1: the lines may mean 'path frames label' or 'path label', and both"),
        ("clip 3\n", "clip|clip 3", False, "list.csv:1: .* 'path label' or 'path', and both exist: write a header"),
        (
            "0,45,3\n1,50,3\n",
            "",
            True,
            "'index,path,label' or 'path,frames,label' .*write a header, such as 'path,label'",
        ),
        ("video\nb\n", "video", False, "list.csv:1: 'video' may be a header or the folder of that name"),
        ("a.mp4 0\nb.mp4\n", "", False, "list.csv:2: the line has no label, but line 1 has one"),
        ("a.mp4\nb.mp4 0\n", "", False, "list.csv:1: the line has no label, but line 2 has one"),
        ("path,label\na,1\npath,label\nb,1\n", "", True, "list.csv:3: the header stands here again"),
        ("path,label\na,1\nb\n", "", True, "list.csv:3: the line has no label: it has 1 field, and the header"),
        ('path,label\na,"1,2",3\n', "", True, "list.csv:2: the line has too many fields: it has 3 fields"),
        ("path,frames\na,1\n", "", True, "no column is named 'label' in its header 'path,frames'"),
        ("x,y,label\na,b,1\n", "", True, "no column is named 'path' in its header 'x,y,label'"),
        ("path,label,split\na,1,train\nb,1,test\n", "", True, "column 'split' divides the list into train, test"),
        ("path,split\na,train\nb,test\n", "", False, "column 'split' divides the list into train, test"),
        ("path,label,start\na,1,0\n", "", True, "column 'start' of its header speaks of pieces of clips"),
        ('a,1\n"b,1\n', "", True, "list.csv:2: quotes must enclose a whole field"),
        ("path,label\n", "", True, "lists no clips"),
        ("# nothing\n\n", "", True, "lists no clips"),
    ],
)
def test_lists_that_are_not_understood(tmp_path: Path, text: str, there: str, labelled: bool, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text, there, labelled)
    assert "\n" not in str(caught.value)


def test_lines_are_counted_as_editors_do(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("# first\npath,label\n\na,1\n# more\nb,1\n")
    assert list(read_columns(tmp_path / "list.csv", tmp_path, LabelReader()).lines) == [4, 6]


@pytest.mark.parametrize(
    ("text", "people"),
    [
        ("path,label,subject\na.mp4,3,Ann\nb.mp4,4,7\nc.mp4,4,\nd.mp4,0,NaN\n", ["Ann", "7", "", ""]),
        ("Actor ID;path;label\n01;a.mp4;3\n  2 ;b.mp4;4\n", ["01", "2"]),
        ("path label speaker\na b.mp4 3 x\nb.mp4 4 y\n", ["x", "y"]),
        ("person\tpath\tlabel\nA B\ta.mp4\t3\nC\tb.mp4\t4\n", ["A B", "C"]),
        # The better name of two.
        ("path,label,speaker,subject\na.mp4,3,x,1\nb.mp4,4,y,2\n", ["1", "2"]),
        ("path,label,fps\na.mp4,3,25\n", None),
        ("a.mp4 3\nb.mp4 4\n", None),
    ],
)
def test_who_is_in_a_clip(tmp_path: Path, text: str, people: list[str] | None) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert read_columns(tmp_path / "list.csv", tmp_path, LabelReader()).subjects == people
