"""Files of boxes, as people and spreadsheets write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.faces.boxes import BoxFile, read_boxes
from maedfer.faces.frame import Frame

# Half of a frame is 20 ms but for a pause of one second.
TIMES = np.array([0.0, 0.04, 0.08, 0.12, 1.12, 1.16])


def _file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "boxes.csv"
    path.write_bytes(text.encode(encoding))
    return path


def _found(boxes: BoxFile, count: int = 6) -> dict[int, list[tuple]]:
    """Boxes, scores and faces by frame."""
    found = {}
    for index, each in enumerate(boxes.detect([Frame(index, 0.0, None) for index in range(count)])):
        assert each.boxes.dtype == each.scores.dtype == np.float32 and each.boxes.shape == (len(each), 4)
        faces = [None] * len(each) if each.faces is None else each.faces.tolist()
        if len(each):
            found[index] = [*zip(each.boxes.tolist(), each.scores.tolist(), faces, strict=True)]
    return found


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("frame,x,y,width,height,score\n0,1.5,2,30,40,0.25\n2,-3,4,50,60,1\n2,100,4,50,60,0.5\n", "utf-8"),
        ("sep=;\r\nHeight;Width;Y;X;Score;Frame;\r\n40;30;2;1,5;0,25;0;\r\n60;50;4;-3;1;2\r\n60;50;4;100;,5;2;\r\n;;;;;;\r\n",
         "utf-8-sig"),
        ("x\ty\twidth\theight\tscore\tframe\tat\n1,5\t2\t30\t40\t0,25\t0\ta\n-3\t4\t50\t60\t1\t2.0\n\n100\t4\t50\t60\t.5\t2\t\n",
         "utf-16"),
        ('"score","frame","time","x","y","width","height"\n"0.25","0","7.5","1.5","2","30","40"\n1,2,,-3,4,50,60\n.5,2,,100,4,50,60\n1,3,,,,,\n',
         "utf-8"),
    ],
    ids=["plain", "semicolons", "tabs", "quotes"],
)  # fmt: skip
def test_any_spreadsheets_file_by_frame(text: str, encoding: str, tmp_path: Path) -> None:
    boxes = read_boxes(_file(tmp_path, text, encoding), times=TIMES)
    assert _found(boxes) == {
        0: [([1.5, 2, 30, 40], 0.25, None)],
        2: [([-3, 4, 50, 60], 1.0, None), ([100, 4, 50, 60], 0.5, None)],
    }
    assert boxes.name == "boxes of boxes.csv" and not boxes.needs_pictures


def test_boxes_by_time_belong_to_the_nearest_frame(tmp_path: Path) -> None:
    # In the pause, the frame before or after it; at 0.037 nobody is there, which is nearer to frame 1 than 0.05.
    rows = [(-0.019, 1), (0.018, 2), (0.037, None), (0.05, 3), (0.12, 4), (0.61, 5), (0.63, 6), (1.179, 7)]
    lines = [f"{time},,,,\n" if x is None else f"{time},{x},0,1,1\n" for time, x in rows]
    found = _found(read_boxes(_file(tmp_path, "time,x,y,width,height\n" + "".join(lines)), times=TIMES))
    nearest: dict[int, tuple[float, int | None]] = {}
    for time, x in rows:
        away = np.abs(TIMES - time)
        frame = int(away.argmin())
        nearest[frame] = min(nearest.get(frame, (9.0, None)), (away[frame], x))
    expected = {frame: x for frame, (_, x) in nearest.items() if x is not None}
    assert {frame: each[0][0][0] for frame, each in found.items()} == expected
    assert expected == {0: 2, 3: 4, 4: 6, 5: 7}


@pytest.mark.parametrize(
    ("faces", "numbers"),
    [(["7", "3", "3"], [7, 3, 3]), (["7.0", "0", "1"], [7, 0, 1]), (["bo", "an", "bo"], [2, 1, 2]),
     (["1", "x", "1"], [2, 1, 2])],
)  # fmt: skip
def test_faces_are_numbers_or_get_them_as_they_appear(faces: list[str], numbers: list[int], tmp_path: Path) -> None:
    # The second line's frame is the first one.
    lines = [f"{frame},{face},0,0,9,9\n" for frame, face in zip((4, 1, 2), faces, strict=True)]
    found = _found(read_boxes(_file(tmp_path, "frame,face,x,y,width,height\n" + "".join(lines))))
    assert [found[frame][0][2] for frame in (4, 1, 2)] == numbers


@pytest.mark.parametrize(
    ("video", "x"),
    [("/d/one/a.mp4", 1), ("/d/two/a.mp4", 2), ("a.mp4", 3), ("/d/a.mkv", 4), ("b ü.mov", 5), ("/other/b ü.mov", 5)],
)
def test_several_videos_in_one_file(video: str, x: int, tmp_path: Path) -> None:
    names = ["one/a.mp4", "two/a.mp4", "a.mp4", "a", "b ü"]
    text = "video,frame,x,y,width,height\n" + "".join(f"{name},0,{n},0,9,9\n" for n, name in enumerate(names, 1))
    path = _file(tmp_path, text)
    assert _found(read_boxes(path, video))[0][0][0][0] == x
    with pytest.raises(InputError, match=r"boxes of one/a.mp4, two/a.mp4, a.mp4 and 2 more: say of which video"):
        read_boxes(path)
    with pytest.raises(InputError, match=r"no line of it is of 'c.mp4'"):
        read_boxes(path, "one/c.mp4")


def test_a_video_that_is_where_one_is_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, f"video,frame,x,y,width,height\n{tmp_path.name},0,1,0,9,9\n")
    monkeypatch.chdir(tmp_path)
    assert _found(read_boxes(path, "."))[0][0][0][0] == 1
    with pytest.raises(InputError, match=r"no line of it is of ''"):
        read_boxes(path, "/")


def test_cuts_are_those_of_their_frames(tmp_path: Path) -> None:
    path = _file(tmp_path, "frame,x,y,width,height,cut\n0,1,0,9,9,\n2,1,0,9,9,1\n2,50,0,9,9,1\n3,,,,,0\n4,,,,,1\n")
    assert read_boxes(path).cuts == {2, 4}


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    head = "frame,x,y,width,height\n"
    assert _found(read_boxes(_file(tmp_path, head))) == {}
    assert len(_found(read_boxes(_file(tmp_path, head + "1,0,0,9,9\n")))) == 1


H = "frame,x,y,width,height"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file of boxes is empty"),
        ("sep=;\n\n", "the file of boxes is empty"),
        ("1,2,3,4,5\n", ":1: the header has no column x, y, width, height"),
        ("\n\nx,y,width,height\n", ":3: the header has no column frame or time"),
        (f"{H},x\n", ":1: the header names x twice"),
        (f"{H}\n0,1,2,3,4\n1,1,2,a\x1b,4\n", "not a text file"),
        (f"{H}\n0,1,2,3,4\n1,1,2,a ,4\n", ":3: width must be a number from -1e9 to 1e9, got 'a'"),
        (f"{H}\n0,1,2,nan,4\n", ":2: width must be a number from -1e9 to 1e9, got 'nan'"),
        (f"{H}\n0,1,2,1e39,4\n", ":2: width must be a number from -1e9 to 1e9, got '1e39'"),
        (f"{H}\n0,1,2,1e-50,4\n", ":2: width and height must be above 0"),
        (f"{H}\n\n0,1,2,0,4\n", ":3: width and height must be above 0, got 0 and 4"),
        (f"{H}\n0,1,2,3,\n", ":2: height must be a number from -1e9 to 1e9, got ''"),
        (f"{H}\n0,1,2,3,4,5\n", ":2: the line has 6 fields, and the header names 5"),
        (f"{H}\n0.5,1,2,3,4\n", ":2: frame must be a whole number, got 0.5"),
        (f"{H}\n-1,1,2,3,4\n", ":2: frame must be a number from 0 to "),
        (f"{H}\n,1,2,3,4\n", ":2: frame must be a number from 0 to .*, got ''"),
        (f"{H}\n6,1,2,3,4\n", ":2: frame 6 is not in the video, which has 6, from 0 on"),
        (f'{H}\n0,"1,2,3,4\n', ":2: quotes are not closed"),
        (f'{H}\n0,"1,5",2,3,4\n', ":2: x must be a number from -1e9 to 1e9, got '1,5'"),
        (f"{H},cut\n0,1,2,3,4,2\n", ":2: cut must be 1, 0 or empty, got 2"),
        (f"{H},score\n0,1,2,3,4,1.5\n", ":2: score must be a number from 0 to 1, got '1.5'"),
        (f"{H},face\n0,1,2,3,4,a\n1,1,2,3,4,\n", ":3: face is empty, and other lines have one"),
        (f"{H},face\n0,1,2,3,4,3\n1,1,2,3,4,-1\n", ":3: face must be a whole number from 0 on or a name, got -1"),
        (f"{H},face\n0,1,2,3,4,a\n0,1,2,3,4,b\n0,1,2,3,4,a\n", ":4: face a is in this frame already, by line 2"),
        ("time,x,y,width,height\n1.2,1,2,3,4\n", ":2: time 1.2 is not in the video, whose frames .* 0 s to 1.16 s"),
        ("time,x,y,width,height\n-0.03,1,2,3,4\n", ":2: time -0.03 is not in the video"),
    ],
)
def test_bad_lines_are_named(text: str, sentence: str, tmp_path: Path) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + sentence) as caught:
        read_boxes(path, times=TIMES)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_boxes_by_time_need_the_frames_times(tmp_path: Path) -> None:
    path = _file(tmp_path, "time,x,y,width,height\n0.1,1,2,3,4\n")
    with pytest.raises(InputError, match="its boxes are by time, but when frames are shown is not known"):
        read_boxes(path)
    assert _found(read_boxes(path, times=np.array([0.1]))) == {0: [([1, 2, 3, 4], 1.0, None)]}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\\nb.csv: no such file"):
        read_boxes(tmp_path / "a\nb.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_boxes(tmp_path)
