"""The record of detections: what is written is read, bit for bit, wherever the run that wrote it was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.faces.boxes import read_boxes
from maedfer.faces.frame import Detections, Frame
from maedfer.faces.record import DetectionRecord

HEAD = "frame,time,face,x,y,width,height,score,cut\n"


def _run(faces: bool = False) -> list[tuple[Frame, Detections, bool]]:
    """Frames at 29.97 a second, every fifth one and some between, with none to three boxes of any float32."""
    generator = np.random.default_rng(0)
    found = []
    for place, index in enumerate([0, 5, 10, 11, 12, 15, 20]):
        count = place % 4
        bits = generator.integers(0x30000000, 0x4F000000, (count, 5)).astype(np.uint32).view(np.float32)
        who = generator.permutation(3)[:count] if faces and count else None
        found.append(
            (
                Frame(index, index / 29.97, None),
                Detections(bits[:, :4], bits[:, 4] / bits.max(initial=1), who),
                index == 11,
            )
        )
    return found


def _same(a: Detections, b: Detections) -> bool:
    whole = a.boxes.tobytes() == b.boxes.tobytes() and a.scores.tobytes() == b.scores.tobytes()
    return whole and a.boxes.dtype == a.scores.dtype == np.float32 and str(a.faces) == str(b.faces)


@pytest.mark.parametrize("faces", [False, True])
def test_what_was_added_is_on_record_but_for_the_last_frame(faces: bool, tmp_path: Path) -> None:
    run, path = _run(faces), tmp_path / "a b.csv"
    with DetectionRecord(path) as record:
        assert record.last_index == -1
        for each in run:
            assert record.get(each[0].index) is None
            record.add(*each)
    with DetectionRecord(path) as record:
        assert record.last_index == 15
        for frame, found, cut in run[:-1]:
            got = record.get(frame.index)
            assert got is not None and _same(got[0], found) and got[1] == cut
            # Asked again, and for a frame in which nobody looked for a face.
            assert record.get(frame.index) is not None
            assert record.get(frame.index + 1) is None or frame.index in (10, 11)
        assert record.get(20) is None
        with pytest.raises(ValueError, match="frame 15 comes after frame 15"):
            record.add(*run[5])
        record.add(*run[6])
    if not faces:
        given = read_boxes(path).detect([frame for frame, _, _ in run])
        assert all(_same(a, b) for a, (_, b, _) in zip(given, run, strict=True))


def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    run = _run()
    whole = tmp_path / "whole.csv"
    with DetectionRecord(whole) as record:
        for each in run:
            record.add(*each)
    content = whole.read_bytes()
    assert content.decode().startswith(HEAD + "0,0.0,,,,,,,\n5,")
    for size in [*range(len(HEAD) + 20), *np.random.default_rng(1).integers(0, len(content) + 1, 60).tolist()]:
        path = tmp_path / "stopped.csv"
        path.write_bytes(content[:size])
        with DetectionRecord(path) as record:
            for each in run:
                on_record = record.get(each[0].index)
                assert (on_record is not None) == (each[0].index <= record.last_index)
                if on_record is None:
                    record.add(*each)
                else:
                    assert _same(on_record[0], each[1])
            record.flush()
            assert path.read_bytes() == content


def test_without_a_file_nothing_is_kept() -> None:
    record = DetectionRecord(None)
    for each in _run():
        record.add(*each)
        assert record.get(each[0].index) is None
    record.flush()
    record.close()
    assert record.last_index == -1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("video,label\n", 1),
        ("a.mp4 3", 1),
        (HEAD + "0,0.0,,,,,,\n", 2),
        (HEAD + "0,0.0,,1,2,3,4,x,\n1,0.1,,,,,,,\n", 2),
        (HEAD + "1,0.0,,,,,,,\n0,0.1,,,,,,,\n", 3),
        (HEAD + "0,0.0,,1,2,3,4,\u00bd,\n", 2),
        (HEAD + f"0,0.0,{10**20},1,2,3,4,1,\n", 2),
    ],
)
def test_other_files_stay_as_they_are(text: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "it\n.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"it\\n.csv:{line}: is no record of detections"):
        DetectionRecord(path)
    assert path.read_text(encoding="utf-8") == text


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write .*: No such file"):
        DetectionRecord(tmp_path / "none" / "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        DetectionRecord(tmp_path)
    full = Path("/dev/full")
    if full.exists():
        # As a file that a system with a full disk has.
        record = DetectionRecord(None)
        record._path, record._out = full, full.open("wb")
        record.add(*_run()[1])
        with pytest.raises(InputError, match="cannot write /dev/full: No space left"):
            record.flush()


def test_the_record_of_a_run_that_has_ended_is_whole_and_stays_as_it_is(tmp_path: Path) -> None:
    run, path = _run(), tmp_path / "a.csv"
    with DetectionRecord(path) as record:
        for each in run[2:]:
            record.add(*each)
    content = path.read_bytes()
    path.chmod(0o444)
    with DetectionRecord(path, ended=True) as record:
        assert (record.first_index, record.last_index) == (10, 20)
        for frame, found, cut in run[2:]:
            got = record.get(frame.index)
            assert got is not None and _same(got[0], found) and got[1] == cut
    assert path.read_bytes() == content
    with pytest.raises(InputError, match="no such file"):
        DetectionRecord(tmp_path / "absent.csv", ended=True)
    assert not (tmp_path / "absent.csv").exists()
