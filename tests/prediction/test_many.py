"""`maedfer.prediction.many`: several videos, batches across them, failures, and ends at any moment."""

from __future__ import annotations

import collections
import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from maedfer.errors import InputError
from maedfer.models.arithmetic import steady_multiplier
from maedfer.prediction import Prediction, many, run, table
from maedfer.prediction.batch import Wanted, make_jobs
from maedfer.prediction.inputs import NamedVideo
from maedfer.prediction.many import VideoJob, predict_jobs
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.predictor import open_predictor
from maedfer.prediction.products import Products
from maedfer.prediction.table import TableWriter, read_table
from tests.prediction.fakes import CLASSES, FakeModel, Silent, find, job, rows, windows
from tests.prediction.models import classifier

VIDEOS = {"a": "9 1", "b": "0 2", "c": "14 3", "d": "5 4"}


def put(folder: Path, videos: dict[str, str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.mp4" for name in videos]
    for path, text in zip(paths, videos.values(), strict=True):
        path.write_text(text)
    return paths


def predict(paths: list[Path], out: Path, batch: int = 1, workers: int = 0, **settings: Any) -> list[VideoJob]:
    jobs = [job(number, path, out, **settings) for number, path in enumerate(paths)]
    for one in jobs:
        one.before = one.files.state() == "done"
        one.summary = one.files.read_summary() if one.before else {}
    told = Silent()
    out.mkdir(exist_ok=True)
    predict_jobs(jobs, FakeModel(batch), find=find, folder=out, common={"x": 1}, workers=workers, told=told)
    return jobs


def contents(out: Path) -> dict[str, Any]:
    """All files of a folder of results; of summaries what time does not change."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        found[path.name] = path.read_bytes()
        if path.suffix == ".json":
            found[path.name] = json.loads(path.read_text())
            found[path.name].pop("speed", None)
        elif path.name == "summary.csv":
            found[path.name] = [line.rpartition(b",")[0] for line in found[path.name].splitlines()]
    return found


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (4, 0), (300, 0), (4, 2)])
def test_tables_hold_what_is_known(batch: int, workers: int, tmp_path: Path) -> None:
    paths, out = put(tmp_path / "in", VIDEOS), tmp_path / "out"
    predict(paths, out, batch, workers)
    for path in paths:
        count, seed = map(int, path.read_text().split())
        wanted = rows(str(path), windows(count, seed))
        format, found = read_table(out / f"{path.stem}.csv")
        there = list(found)
        assert [format.fields(one) for one in there] == [format.fields(one) for one in wanted]
        summary = json.loads((out / f"{path.stem}.json").read_text())
        scored = [row for row in wanted if row.probabilities is not None]
        assert summary["windows"] == count and summary["scored"] == len(scored) and summary["x"] == 1
        assert summary["video_stream"] == {"frames": 25 * count} and summary["minutes"] == round((count + 2) / 60, 4)
        best = [CLASSES[int(row.probabilities.argmax())] for row in wanted if row.probabilities is not None]
        for name in CLASSES:
            assert summary["shares"][name] == (round(best.count(name) / len(best), 6) if best else None)
        # Seconds that are in a window with a face, counted in steps of ten milliseconds.
        grid = np.arange(0, count + 3, 0.01)
        covered = np.zeros(len(grid), bool)
        for row in scored:
            covered |= (grid >= row.window.start) & (grid < row.window.start + 2.56)
        assert abs(summary["minutes_with_a_face"] * 60 - covered.sum() * 0.01) < 0.2
        assert {one["face"] for one in summary["faces"]} == {row.window.face for row in scored}
        with np.load(out / f"{path.stem}.npz") as saved:
            model = FakeModel()
            values = [one for one in windows(count, seed) if one.clip is not None]
            vectors = [model.score(one.clip[None])[1][0] for one in values if one.clip is not None]
            np.testing.assert_array_equal(saved["features"], np.array(vectors, np.float32).reshape(-1, 2))
            assert saved["face"].tolist() == [one.face for one in values]
            np.testing.assert_allclose(saved["time"], [one.time for one in values], atol=5.1e-4)
    assert {path.name for path in out.iterdir()} == {
        "summary.csv",
        *(f"{path.stem}{end}" for path in paths for end in (".csv", ".json", ".npz")),
    }
    summary = pandas.read_csv(out / "summary.csv")
    assert summary["name"].tolist() == list(VIDEOS) and summary["windows"].tolist() == [9, 0, 14, 5]


class End(BaseException):
    """The process ends here."""


def ends_somewhere(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the process end where it writes, scores or goes on, some writes in their middle."""
    left = [after]
    part = random.Random(after)

    def passes() -> bool:
        left[0] -= 1
        return left[0] >= 0

    def wrap(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def method(*args: Any, **options: Any) -> Any:
            if not passes():
                raise End
            done = whole(*args, **options)
            if not passes():
                raise End
            return done

        monkeypatch.setattr(owner, name, method)

    class File:
        """A file of which only a part may be written."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: memoryview) -> int:
            if not passes():
                self.file.write(data[: part.randrange(len(data) + 1)])
                # A process that is gone puts nothing right.
                self.truncate = lambda size: None
                raise End
            return int(self.file.write(data))

    def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = open(path, mode, *args, **options)  # noqa: SIM115
        return File(file) if "a+b" in mode else file

    from maedfer.prediction import feature_file

    monkeypatch.setattr(table, "open", opened, raising=False)
    monkeypatch.setattr(feature_file, "open", opened, raising=False)
    for owner, name in (
        (FakeModel, "score"),
        (run, "_write"),
        (many, "write_tables"),
        (run.PredictionFiles, "complete_table"),
        (run.PredictionFiles, "complete"),
        (run.PredictionFiles, "remove_parts"),
        (run.FeatureLog, "join"),
    ):
        wrap(owner, name)


def test_ends_at_any_moment_change_no_byte(tmp_path: Path) -> None:
    paths = put(tmp_path / "in", {"a": "4 1", "b": "0 2", "c": "5 3"})
    predict(paths, tmp_path / "whole", 2)
    wanted = contents(tmp_path / "whole")
    draw = random.Random(0)
    ends = 0
    for number in range(20):
        out = tmp_path / f"out_{number}"
        # Again and again, until it comes through.
        while True:
            with pytest.MonkeyPatch.context() as patch:
                ends_somewhere(patch, draw.randrange(70))
                try:
                    predict(paths, out, 2)
                    break
                except End:
                    ends += 1
        assert contents(out) == wanted, number
    assert ends >= 20


def test_what_fails_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    videos = {"bad": "bad", "a": "4 1", "breaks": "6 2 3", "defect": "defect", "die": "die", "z": "3 5"}
    paths, out = put(tmp_path / "in", videos), tmp_path / "out"
    predict(paths, out, 4, workers=1)
    with open(out / "failed.csv", newline="") as file:
        head, *failed = csv.reader(file)
    assert head == ["input", "reason"]
    assert [Path(video).stem for video, _ in failed] == ["bad", "breaks", "defect", "die"]
    reasons = [reason for _, reason in failed]
    assert reasons[0].endswith("bad.mp4: is no video") and reasons[1].endswith("breaks off")
    assert "TypeError: a defect" in reasons[2] and "has died (status 9)" in reasons[3]
    assert pandas.read_csv(out / "summary.csv")["name"].tolist() == ["a", "z"]
    # Whole windows of what breaks off stay, with what is needed to go on; nothing of the others does.
    there = list(read_table(out / "breaks.csv")[1])
    wanted = rows(str(paths[2]), windows(6, 2)[:])
    assert 0 < len(there) < len(wanted) and {row.window.start for row in there} <= {0.333, 1.333, 2.333}
    assert {path.name for path in out.glob("breaks*")} == {"breaks.csv", "breaks.part.json", "breaks.part.features"}
    assert not [*out.glob("bad*"), *out.glob("defect*"), *out.glob("die*")]
    # Mended, it is gone on with, and nobody has failed.
    for path in paths:
        path.write_text({"bad": "2 9", "breaks": "6 2", "defect": "1 1", "die": "2 2"}.get(path.stem, path.read_text()))
    jobs = predict(paths, out)
    assert not (out / "failed.csv").exists() and [one.before for one in jobs] == [path.stem in "az" for path in paths]
    predict(paths, tmp_path / "whole")
    for path in paths:
        assert (out / f"{path.stem}.csv").read_bytes() == (tmp_path / "whole" / f"{path.stem}.csv").read_bytes()


def test_other_settings_in_one_folder_are_refused(tmp_path: Path) -> None:
    paths, out = put(tmp_path / "in", {"a": "4 1", "b": "4 2 2"}), tmp_path / "out"
    predict(paths, out)
    for name, path in (("a.json", paths[0]), ("b.part.json", paths[1])):
        with pytest.raises(InputError, match=rf"{name}: was made with another seed \(1 there, 2 now\): choose another"):
            predict([path], out, seed=2)
    (out / "c.csv").write_text("mine")
    with pytest.raises(InputError, match=r"c\.csv: exists, and nothing beside it says"):
        job(0, tmp_path / "c.mp4", out).files.state()
    (out / "c.json").write_text("{}")
    with pytest.raises(InputError, match="does not say what it was made with"):
        job(0, tmp_path / "c.mp4", out).files.state()
    (out / "c.json").write_text("{")
    (out / "a.csv").rename(out / "elsewhere")
    with pytest.raises(InputError, match=r"a\.csv: is gone, though .*a\.json says that it was completed"):
        predict(paths, out)
    with pytest.raises(InputError, match="is damaged"):
        job(0, tmp_path / "c.mp4", out).files.state()


def test_rows_that_the_video_does_not_give_are_told(tmp_path: Path) -> None:
    paths, out = put(tmp_path / "in", {"a": "6 1 5"}), tmp_path / "out"
    predict(paths, out)
    paths[0].write_text("6 2")
    (failed,) = predict(paths, out)
    assert "is not what comes now" in str(failed.failure)
    paths[0].write_text("2 1")
    (failed,) = predict(paths, out)
    assert "where the video has none now" in str(failed.failure)


def test_a_full_disk_stops_everything_and_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, out = put(tmp_path / "in", VIDEOS), tmp_path / "out"
    append = TableWriter.append
    left = iter([True] * 6)

    def full(self: TableWriter, found: Any) -> None:
        if not next(left, False):
            with table.writing(self.path):
                raise OSError(28, "No space left on device")
        append(self, found)

    monkeypatch.setattr(TableWriter, "append", full)
    with pytest.raises(InputError, match=r"a\.csv: cannot be written \(No space left on device\)"):
        predict(paths, out)
    monkeypatch.undo()
    predict(paths, out)
    predict(paths, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_an_interrupt_leaves_tables_of_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, out = put(tmp_path / "in", {"bad": "bad", "a": "4 1", "c": "9 3"}), tmp_path / "out"
    left = iter([True] * 10)

    def interrupted(self: FakeModel, clips: np.ndarray) -> Any:
        if not next(left, False):
            raise KeyboardInterrupt
        return score(self, clips)

    score = FakeModel.score
    monkeypatch.setattr(FakeModel, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(paths, out)
    assert pandas.read_csv(out / "summary.csv")["name"].tolist() == ["a"]
    assert pandas.read_csv(out / "failed.csv")["input"].tolist() == [str(paths[0])]
    monkeypatch.undo()
    rows_before = len(list(read_table(out / "c.csv")[1]))
    resumed = predict(paths, out)[2]
    # What was there does not count as speed.
    assert rows_before and resumed.first == rows(str(paths[2]), windows(9, 3))[rows_before].window.start


def test_lines_of_earlier_commands_stay(tmp_path: Path) -> None:
    paths, out = put(tmp_path / "in", VIDEOS), tmp_path / "out"
    predict(paths[2:], out)
    predict(paths[:3], out)
    assert pandas.read_csv(out / "summary.csv")["name"].tolist() == ["d", "a", "b", "c"]
    bad = put(tmp_path / "bad", {"x": "bad", "y": "bad"})
    for some in (bad, paths[:1], bad[1:]):
        predict(some, out)
        assert pandas.read_csv(out / "failed.csv")["input"].tolist() == [str(path) for path in bad]
    bad[1].write_text("2 2")
    predict(bad[1:], out)
    assert pandas.read_csv(out / "failed.csv")["input"].tolist() == [str(bad[0])]


def test_what_changes_rows_is_in_the_settings(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "1.png").write_bytes(b"one")
    predictor = open_predictor(classifier(), device="cpu")
    videos = [NamedVideo(str(frames), "frames")]

    def settings() -> dict[str, Any]:
        (one,) = make_jobs(videos, predictor, PredictionOptions(), Wanted(tmp_path))
        return one.files.settings

    first = settings()
    assert first["device"] == "cpu" and first["products"] == steady_multiplier()
    assert first == settings() and first["content"]["files"] == 1
    (frames / "1.png").write_bytes(b"another")
    assert settings()["content"] != first["content"]
    (frames / "1.png").write_bytes(b"two")
    assert settings()["content"] != first["content"]


def test_a_video_that_has_failed_is_not_read_on(tmp_path: Path) -> None:
    paths, out = put(tmp_path / "in", {"a": "9 1 5", "b": "3 2"}), tmp_path / "out"
    predict(paths[:1], out)
    paths[0].write_text("9 2")
    seen = collections.Counter[int]()

    def counting(task: Any) -> Iterator[Any]:
        for event in find(task):
            seen[task.number] += event[0] == "window"
            yield event

    jobs = [job(number, path, out) for number, path in enumerate(paths)]
    predict_jobs(jobs, FakeModel(), find=counting, folder=out, common={}, told=Silent())
    assert "is not what comes now" in str(jobs[0].failure) and jobs[1].summary
    assert seen[0] < len(windows(9, 2)) and seen[1] == len(windows(3, 2))


def test_a_timeline_ends_where_the_video_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float | None] = []
    monkeypatch.setattr(Prediction, "plot", lambda self, path: ends.append(self._end()))
    (path,) = put(tmp_path / "in", {"a": "9 1"})
    one = job(0, path, tmp_path / "out")
    one.finish = Products(plot=True, note="calm").make
    (tmp_path / "out").mkdir()
    predict_jobs([one], FakeModel(), find=find, folder=tmp_path / "out", common={}, told=Silent())
    one.before, one.about = True, {}
    one.finish(one)
    # Nine windows, and 11 seconds of video.
    assert ends == [pytest.approx(11.0, abs=0.01)] * 2


def test_rows_are_held_until_their_window_is_whole(tmp_path: Path) -> None:
    path = put(tmp_path / "in", {"a": "9 1"})[0]
    seen: list[int] = []

    def spied(task: Any) -> Iterator[Any]:
        for event in find(task):
            seen.append((tmp_path / "out" / "a.csv").read_bytes().count(b"\n"))
            yield event

    (tmp_path / "out").mkdir()
    one = job(0, path, tmp_path / "out")
    predict_jobs([one], FakeModel(), find=spied, folder=tmp_path / "out", common={}, told=Silent())
    starts = [window.start for window in windows(9, 1)]
    # Lines of the file are the head and those of windows that were left behind: the last one may still get a face.
    whole = {1, *(1 + sum(start < later for start in starts) for later in starts), 1 + len(starts)}
    assert set(seen) <= whole and len(set(seen)) > 5
