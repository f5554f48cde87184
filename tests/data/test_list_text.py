from __future__ import annotations

from pathlib import Path

import pytest

from maedfer.data.list_text import UnclosedQuoteError, read_text, split_fields, unquote
from maedfer.errors import InputError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
def test_what_programs_write(encoding: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(f"ä 1{end}b\u2028 2{end}".encode(encoding))
    assert read_text(tmp_path / "list") == "ä 1\nb\u2028 2\n"


def test_marks_inside_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa 1\n\xef\xbb\xbfb 2\ncaf\xe9 3\n")
    assert read_text(tmp_path / "list") == "a 1\nb 2\ncaf\udce9 3\n"


@pytest.mark.parametrize("content", [b"\x00\x00\x00\x18ftypmp42", b"a\x00 \x001\x00", b"\xff\xfea", b"a\x1bb"])
def test_what_is_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(InputError, match="list: not a text file"):
        read_text(tmp_path / "list")


def test_a_name_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the annotation file cannot be read: File name too long"):
        read_text(tmp_path / ("n" * 300))


def test_fields() -> None:
    lines = ["a b , 3", '"a, ""b""",3', '" a " , "3"', 'it"s,3', "x,,"]
    expected = [["a b", "3"], ['a, "b"', "3"], [" a ", "3"], ['it"s', "3"], ["x", "", ""]]
    assert list(split_fields(lines, ",")) == expected
    assert list(split_fields(["'a;b';3"], ";", "'")) == [["a;b", "3"]]
    for line in ('"a,3', '3,"a', '"a"b,3'):
        with pytest.raises(UnclosedQuoteError) as caught:
            list(split_fields(["a,1", line], ","))
        assert caught.value.args == (1,)
    assert [unquote(name) for name in ("'a'", '"a""b"', "'a\"", "'", "it's")] == ["a", 'a"b', "'a\"", "'", "it's"]
