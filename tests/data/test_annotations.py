from __future__ import annotations

import random
from pathlib import Path

import pytest

from maedfer.data.annotations import Clip, check_exists, read_annotations, write_annotations
from maedfer.errors import InputError


def write(tmp_path: Path, text: str, name: str = "list.csv") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def pairs(clips: list[Clip]) -> list[tuple[str, int | None]]:
    return [(clip.name, clip.label) for clip in clips]


@pytest.mark.parametrize("gap", [" ", "\t", ",", ", ", "   ", " , "], ids=repr)
def test_separators(tmp_path: Path, gap: str) -> None:
    file = write(tmp_path, f"a.mp4{gap}0\nfolder/b{gap}12\n")
    assert pairs(read_annotations(file)) == [("a.mp4", 0), ("folder/b", 12)]


def test_paths_with_spaces_commas_and_quotes(tmp_path: Path) -> None:
    file = write(tmp_path, 'my clips/first one.mp4 3\n"a, b.mp4",1\nsecond, third.mp4\t2\nsubject 1/s1 2\n')
    assert pairs(read_annotations(file)) == [
        ("my clips/first one.mp4", 3),
        ("a, b.mp4", 1),
        ("second, third.mp4", 2),
        ("subject 1/s1", 2),
    ]


@pytest.mark.parametrize("header", ["video_name,label", "path label", "Path\tLabel", '"video","label"'])
def test_header_comments_blank_lines_and_line_numbers(tmp_path: Path, header: str) -> None:
    file = write(tmp_path, f"\ufeff# made by hand\n\n{header}\r\na.mp4,1\r\n\r\n  # more\nb.mp4,2")
    clips = read_annotations(file)
    assert pairs(clips) == [("a.mp4", 1), ("b.mp4", 2)]
    assert [clip.line for clip in clips] == [4, 7]
    assert clips[1].where == f"{file}:7"


def test_relative_paths_start_at_the_file_or_at_root(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    file = write(tmp_path, "x/a.mp4 0\n/abs/b.mp4 1\n", "lists/train.csv")
    assert [clip.path for clip in read_annotations(file)] == [tmp_path / "lists/x/a.mp4", Path("/abs/b.mp4")]
    assert read_annotations(file, root="/data")[0].path == Path("/data/x/a.mp4")
    assert read_annotations(file, root="")[0].path == tmp_path / "lists/x/a.mp4"


def test_label_offset(tmp_path: Path) -> None:
    file = write(tmp_path, "a 1\nb 7\n")
    assert [clip.label for clip in read_annotations(file, num_classes=7, label_offset=1)] == [0, 6]


def test_frame_counts_are_recognised_per_file(tmp_path: Path) -> None:
    counted = write(tmp_path, "a.mp4 120 3\nmy folder 80 4\n")
    assert pairs(read_annotations(counted)) == [("a.mp4", 3), ("my folder", 4)]
    assert pairs(read_annotations(counted, frame_counts=False)) == [("a.mp4 120", 3), ("my folder 80", 4)]
    # One line without a count: the numbers belong to the names.
    named = write(tmp_path, "take 12 3\nother 4\n")
    assert pairs(read_annotations(named)) == [("take 12", 3), ("other", 4)]
    assert pairs(read_annotations(write(tmp_path, "a.mp4,120,3\n"))) == [("a.mp4", 3)]


def test_pretraining_lists(tmp_path: Path) -> None:
    assert pairs(read_annotations(write(tmp_path, "path\na.mp4\nb c.mp4\n"), labelled=False)) == [
        ("a.mp4", None),
        ("b c.mp4", None),
    ]
    assert pairs(read_annotations(write(tmp_path, "a.mp4 0\nb c.mp4 5\n"), labelled=False)) == [
        ("a.mp4", 0),
        ("b c.mp4", 5),
    ]
    assert pairs(read_annotations(write(tmp_path, "a.mp4 99 -1\nb 5 -1\n"), labelled=False)) == [
        ("a.mp4", None),
        ("b", None),
    ]
    # A folder that ends in a number is not a label unless every line has one.
    assert pairs(read_annotations(write(tmp_path, "subject 1\nb.mp4\n"), labelled=False)) == [
        ("subject 1", None),
        ("b.mp4", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", r"list.csv:2: the line has no label"),
        ("a.mp4 0\n\nmy clip.mp4\n", r"list.csv:3: the line has no label"),
        ("a.mp4,\n", r"list.csv:1: the line has no label"),
        ("3\n", r"list.csv:1: the line has no label"),
        ("a.mp4 happy\n", r"list.csv:1: label 'happy' is not a whole number"),
        ("a.mp4 3.5\n", r"list.csv:1: label '3.5' is not a whole number"),
        ("a.mp4,nan\n", r"list.csv:1: the line has no label"),
        (",3\n", r"list.csv:1: the line has no path"),
        ("a.mp4,1\npath,label\nb.mp4,1\n", r"list.csv:2: label 'label' is .*; is it a header\?"),
        ("vid,emo\na.mp4,1\n", r"list.csv:1: label 'emo' is .*; is it a header\?"),
        ("a.mp4 1\n./a.mp4 2\n", r"list.csv:2: './a.mp4' has another label than in line 1"),
        ("s3://x/a.mp4 1\n", r"list.csv:1: 's3://x/a.mp4' is an address"),
        ("D:\\x\\a.mp4 1\n", r"list.csv:1: 'D:.*a.mp4' is a path of Windows"),
        ("a.mp4 1\nb.mp4 7\n", r"list.csv:2: label 7 is out of range, allowed: 0 to 6"),
        ("a.mp4 -1\n", r"list.csv:1: label -1 is out of range, allowed: 0 to 6"),
        ("", r"list.csv: the annotation file lists no clips"),
        ("# nothing\n\nvideo_name,label\n", r"list.csv: the annotation file lists no clips"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_annotations(write(tmp_path, text), num_classes=7)
    assert "\n" not in str(caught.value)


def test_out_of_range_speaks_the_files_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label 0 is out of range, allowed: 1 to 7"):
        read_annotations(write(tmp_path, "a 0\n"), num_classes=7, label_offset=1)
    with pytest.raises(InputError, match="label -2 is out of range, allowed: 0 or more"):
        read_annotations(write(tmp_path, "a -2\n"))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such annotation file"):
        read_annotations(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_annotations(tmp_path)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not a text file"):
        read_annotations(tmp_path / "binary.csv")


def test_paths_that_mean_something_to_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    write(tmp_path / "home", "~/a.mp4 1\n~nosuchuser/b.mp4 1\n~here.mp4 0\n")
    (tmp_path / "home" / "~here.mp4").touch()
    clips = read_annotations("~/list.csv")
    assert [clip.path for clip in clips] == [
        tmp_path / "home/a.mp4",
        tmp_path / "home/~nosuchuser/b.mp4",
        tmp_path / "home/~here.mp4",
    ]
    assert clips[0].name == "~/a.mp4"
    for paths in (("~nosuchuser/list.csv",), ("~/list.csv", "~nosuchuser")):
        with pytest.raises(InputError, match="there is no user 'nosuchuser'"):
            read_annotations(*paths)
    # FFmpeg must not see a protocol, and a path beside its list has no folder before the colon.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file:x.mp4").touch()
    assert str(read_annotations(write(Path(), "file:x.mp4 1\n"))[0].path) == f"{tmp_path}/file:x.mp4"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.mp4").touch()
    with pytest.raises(InputError, match=r"list.csv:1: 'x.*a.mp4' is a path of Windows: write / in place"):
        read_annotations(write(tmp_path, "x\\a.mp4 1\n"))
    (tmp_path / "x\\a.mp4").touch()
    assert read_annotations(write(tmp_path, "x\\a.mp4 1\n"))[0].path == tmp_path / "x\\a.mp4"


def test_check_exists_says_why_a_clip_cannot_be_looked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    long = "n" * 300
    file = write(tmp_path, f"{long} 0\nfile/a 0\nloop/a 0\nx\\y 1\n")
    with pytest.raises(InputError) as caught:
        check_exists(read_annotations(file), show=4)
    text = str(caught.value)
    assert text.startswith("4 of 4 clips do not exist") and "\n" not in text
    assert f"{long} (File name too long)" in text and "loop/a (Too many levels of symbolic links)" in text
    assert f"{tmp_path}/file/a," in text and text.endswith("paths have / and no backslashes")
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9.mp4 1\n")
    with pytest.raises(InputError, match="the list is not in UTF-8"):
        check_exists(read_annotations(tmp_path / "latin.csv"))


@pytest.mark.parametrize(
    ("name", "there", "hint"),
    [
        ("a", "a.mp4", "; there is .*/a.mp4$"),
        ("a.mp4", "a", "; there is .*/a$"),
        ("caf\u00e9", "cafe\u0301", "; on disk the letters of 'café' are composed otherwise"),
        ("a", "b", r"\(data.root\)$"),
    ],
)
def test_check_exists_sees_what_may_be_meant(tmp_path: Path, name: str, there: str, hint: str) -> None:
    (tmp_path / there).touch()
    with pytest.raises(InputError, match=hint):
        check_exists(read_annotations(write(tmp_path, f"{name} 0\n")))


def test_check_exists_finds_the_folder_that_paths_start_from(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    (tmp_path / "lists").mkdir()
    with pytest.raises(InputError, match=f"there below '{tmp_path}': set data.root={tmp_path}$"):
        check_exists(read_annotations(write(tmp_path / "lists", "clips/a.mp4 0\n")))


def test_check_exists_names_the_first_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "here.mp4").touch()
    (tmp_path / "frames").mkdir()
    file = write(tmp_path, "here.mp4 0\nframes 1\n")
    check_exists(read_annotations(file))
    file = write(tmp_path, "here.mp4 0\n" + "".join(f"gone{number}.mp4 1\n" for number in range(5)))
    with pytest.raises(InputError) as caught:
        check_exists(read_annotations(file), show=2)
    text = str(caught.value)
    assert text.startswith("5 of 6 clips do not exist")
    assert f"{file}:2 {tmp_path}/gone0.mp4" in text and "gone1" in text and "gone2" not in text and "and 3 more" in text


def test_written_annotations_read_back(tmp_path: Path) -> None:
    rows = [("a b.mp4", 2), ("c/d", 0)]
    write_annotations(tmp_path / "new" / "list.csv", rows)
    assert pairs(read_annotations(tmp_path / "new" / "list.csv")) == rows
    write_annotations(tmp_path / "plain.csv", [("a.mp4", None)])
    assert pairs(read_annotations(tmp_path / "plain.csv", labelled=False)) == [("a.mp4", None)]


ODD_NAMES = [
    "a b.mp4", "clip 3", "00017", "17 45", "a,b.mp4", ",a", "a;b", "#1.mp4", "# 2",
    '"quoted".mp4', "it's", "'all'", '"',
    "video", "label", "path", "path,label", "sep=;", "~x.mp4", " a ", "a\u3000", "\ufeffa", "caf\udce9/a.mp4",
    "笑 3.mp4",    "a\\b.mp4", "nan", "-1", "3.0", "a\u2028b", "a/../b", "12:30:05.mp4", "x" * 400, "a  b 1 2", "happy",
]  # fmt: skip


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "plain"])
def test_every_name_reads_back_alone_and_among_others(tmp_path: Path, labelled: bool) -> None:
    draw = random.Random(0)
    lists = [[name] for name in ODD_NAMES] + [draw.sample(ODD_NAMES, draw.randint(2, 9)) for _ in range(60)]
    for names in lists:
        rows = [(name, draw.randint(0, 3) if labelled else None) for name in names]
        write_annotations(tmp_path / "list.csv", rows)
        assert pairs(read_annotations(tmp_path / "list.csv", labelled=labelled)) == rows
        assert pairs(read_annotations(tmp_path / "list.csv", labelled=False)) == rows


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "a\0b", "\ud800"])
def test_names_that_no_line_can_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"list.csv: path .* cannot be in a list"):
        write_annotations(tmp_path / "list.csv", [("a", 1), (name, 1)])
    assert not any(tmp_path.iterdir())
