"""`maedfer predict`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from tests.cli.helpers import Call
from tests.data.media import pictures, write_sound, write_video
from tests.helpers import REPOSITORY


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, and boxes of one face in one of them, of two in the other, in a part of the time."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "in" / "day 2").mkdir(parents=True)
    write_video(folder / "in" / "one.mp4", pictures(100, 64, 64))
    write_video(folder / "in" / "day 2" / "two.mp4", pictures(75, 64, 64), times=[2 * n + n % 2 for n in range(75)])
    lines = ["video,frame,face,x,y,width,height,score"]
    lines += [f"one.mp4,{frame},1,{20 + frame / 50},16,20,24,0.9" for frame in range(60)]
    lines += [f"two.mp4,{frame},{face},{20 * face - 15},8,16,20,0.8" for frame in range(75) for face in (1, 2)]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    (folder / "turns.csv").write_text("start,end,label\n0,2,first\n2,0:06,second\n")
    return folder


def command(videos: Path, trained: Path, out: Path, *more: object) -> list[object]:
    boxes = ["--boxes", videos / "boxes.csv", "--precision", "fp32", "--no-plot"]
    return ["predict", videos / "in", "--checkpoint", trained, "--out", out, "--window", 1, *boxes, *more]


def kept(out: Path) -> dict[str, object]:
    """All files of a folder of results, but for what time changes."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        content: object = path.read_bytes()
        if path.suffix == ".json":
            content = {key: value for key, value in json.loads(path.read_text()).items() if key != "speed"}
        elif path.name == "summary.csv":
            content = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        found[str(path.relative_to(out))] = content
    return found


def test_a_folder_is_predicted_once(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(*command(videos, trained, out, "--features", "--segments", videos / "turns.csv", "--hop", 0.5))
    assert done.status == 0, done.err
    assert "classes: calm, moved" in done.out and "fp32" not in done.err and "float32, as asked for" in done.out
    assert "faces: boxes of " in done.out and "confidences are uncalibrated" in done.out
    names = [f"{name}{end}" for name in ("day 2/two", "one") for end in (".csv", ".json", ".npz", ".segments.csv")]
    assert sorted(kept(out)) == sorted([*names, "summary.csv"])
    one = pandas.read_csv(out / "one.csv")
    # 4 s at 25 frames a second, a window of 1 s every half a second, four samples a quarter of a second apart, of which
    # two must show the face; it is in the first 60 frames.
    # Half a second is between two frames, of which the earlier one counts.
    assert one["start"].tolist() == [(25 * number // 2) / 25 for number in range(7)]
    assert one["end"].tolist() == [(25 * number // 2 + 25) / 25 for number in range(7)]
    inside = [sum(round(25 * (number / 2 + sample / 4)) < 60 for sample in range(4)) for number in range(7)]
    assert one["frames"].tolist() == [count if count >= 2 else 0 for count in inside]
    assert one["status"].tolist() == [{4: "ok", 3: "partial", 2: "partial"}.get(count, "no_face") for count in inside]
    assert set(one["video"]) == {str(videos / "in" / "one.mp4")}
    two = pandas.read_csv(out / "day 2" / "two.csv")
    # 75 frames; the last one is shown from 5.92 s on, for less than the 0.08 s that would make room for a window more.
    assert two["face"].tolist() == [1, 2] * 10 and two["start"].nunique() == 10
    np.testing.assert_allclose(two[["p_calm", "p_moved"]].sum(axis=1), 1, atol=2e-6)
    summary = json.loads((out / "day 2" / "two.json").read_text())
    assert summary["windows"] == 10 and [face["face"] for face in summary["faces"]] == [1, 2]
    assert summary["video_stream"]["detector"] == "boxes of boxes.csv" and summary["video_stream"]["frames"] == 75
    assert abs(summary["minutes"] * 60 - 6) < 0.1 and "no measurement of what somebody feels" in str(summary)
    assert summary["model"]["weights_sha256"] == summary["settings"]["weights_sha256"]
    turns = pandas.read_csv(out / "one.segments.csv")
    assert turns["label"].tolist() == ["first", "second"]
    with np.load(out / "one.npz") as saved:
        assert saved["features"].shape == ((one["status"] != "no_face").sum(), 16)
    whole = pandas.read_csv(out / "summary.csv")
    assert whole["name"].tolist() == ["day 2/two", "one"] and whole["windows"].tolist() == [10, 7]

    # The same command finds everything done; another hop is no way to go on.
    before = kept(out)
    done = call(*command(videos, trained, out, "--features", "--hop", 0.5))
    assert done.status == 0 and "2 of 2 videos done already" in done.out and kept(out) == before
    more = ["--features", "--hop", 0.5, "--annotate"]
    done = call(*(item for item in command(videos, trained, out, *more) if item != "--no-plot"))
    assert done.status == 0 and "2 of 2 videos done already" in done.out, done.err
    extra = {f"{name}{end}": kept(out)[f"{name}{end}"] for name in ("day 2/two", "one") for end in (".png", ".mp4")}
    assert kept(out) == {**before, **extra} and all(len(str(content)) > 1000 for content in extra.values())
    before = kept(out)
    status, _, err = call(*command(videos, trained, out, "--features"))
    assert status == 2 and "was made with another hop (0.5 there, 1.0 now): choose another --out, or --over" in err
    status, _, err = call(*command(videos, trained, out, "--hop", 0.5))
    assert status == 2 and "was made with another features (True there, False now)" in err
    assert kept(out) == before
    done = call(*command(videos, trained, out, "--overwrite"))
    assert done.status == 0 and pandas.read_csv(out / "one.csv")["start"].tolist() == [0, 1, 2, 3]
    assert not (out / "one.npz").exists()

    # Other processes find the same.
    done = call(*command(videos, trained, tmp_path / "beside", "--workers", 1, "--batch-size", 3))
    assert done.status == 0 and (tmp_path / "beside" / "one.csv").read_bytes() == (out / "one.csv").read_bytes()


def test_killed_at_any_time_it_goes_on(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--hop", 0.2, "--features"]
    assert call(*command(videos, trained, tmp_path / "whole", *more)).status == 0
    # Each time the process ends itself when it has scored so many windows.
    program = (
        "import os, signal, sys; from maedfer.cli import main; from maedfer.prediction.predictor import Predictor\n"
        "score, left = Predictor.score, [int(sys.argv[1])]\n"
        "def scored(self, clips):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return score(self, clips)\n"
        "Predictor.score = scored\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    argv = list(map(str, command(videos, trained, out, *more)))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program, "30", *argv], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (out / "day 2" / "two.csv").read_bytes().count(b"\n") == 1 + 2 * ((30 - 1) // 2)
    assert call(*argv).status == 0
    assert kept(out) == kept(tmp_path / "whole")


def test_what_was_found_in_frames_is_not_looked_for_again(
    call: Call, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maedfer.faces.detector import PictureDetector
    from maedfer.prediction.predictor import Predictor
    from maedfer.synthetic.scene import write_scene

    class End(BaseException):
        """The process ends here."""

    (tmp_path / "in").mkdir()
    write_scene(tmp_path / "in" / "scene.mp4", 6.0).unlink()

    def predict(out: Path) -> None:
        argv = ["--checkpoint", trained, "--out", out, "--no-plot", "--features", "--window", 1, "--hop", 0.5]
        assert call("predict", tmp_path / "in", *argv).status == 0

    predict(tmp_path / "whole")
    wanted = kept(tmp_path / "whole")
    assert len(pandas.read_csv(tmp_path / "whole" / "scene.csv")) == 22
    draw, looks = random.Random(0), 0
    left = 0

    def ending(whole: Any, looking: bool) -> Any:
        def method(*args: Any) -> Any:
            nonlocal left, looks
            left, looks = left - 1, looks + looking
            if not left:
                raise End
            return whole(*args)

        return method

    monkeypatch.setattr(PictureDetector, "detect", ending(PictureDetector.detect, looking=True))
    monkeypatch.setattr(Predictor, "score", ending(Predictor.score, looking=False))
    for out in (tmp_path / "a", tmp_path / "b"):
        looks, ends = 0, 0
        while True:
            left = draw.randrange(8, 30)
            try:
                predict(out)
                break
            except End:
                ends += 1
            # What a process holds back is lost when it is killed.
            for path in out.glob("scene.*"):
                if path.suffix != ".json" and draw.random() < 0.7:
                    content = path.read_bytes()
                    path.write_bytes(content[: max(0, len(content) - draw.randrange(200))])
        assert kept(out) == wanted
        # 30 frames in all, and a few anew after each end.
        assert ends >= 2 and looks < 31 + 8 * ends


def test_what_cannot_be_read_is_listed(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_video(tmp_path / 'a "b",\n\udcff.mp4', pictures(3, 32, 32))
    (tmp_path / "list.txt").write_text("absent.mp4\ntext.mp4\n")
    out = tmp_path / "out"
    items = [tmp_path / "list.txt", tmp_path, "--checkpoint", trained, "--out", out, "--no-crop", "--no-plot"]
    dry = call("predict", *items, "--dry-run")
    assert (
        dry.status == 1
        and "1 video, 0 s, 1 window for each face: about" in dry.out
        and dry.out.count("fails: ") == 4
        and not out.exists()
    )
    done = call("predict", *items)
    assert done.status == 1 and "4 videos have failed" in done.out
    failed = pandas.read_csv(out / "failed.csv")
    assert [Path(video).name for video in failed["input"]] == ["absent.mp4", "text.mp4", "empty.mp4", "sound.mp4"]
    assert failed["reason"].str.contains("mp4: ").all()
    (table,) = (path for path in out.glob("*.csv") if path.stem not in ("failed", "summary"))
    row = pandas.read_csv(table, encoding_errors="surrogateescape")
    assert len(row) == 1 and row["video"][0] == str(tmp_path / 'a "b",\n\udcff.mp4')
    assert not list(out.glob("*.part*")) and not list(out.glob("[!a]*.json"))


def test_a_dry_run_measures_a_video_that_can_be_read(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("video,frame,face,x,y,width,height\na.mp4,500,1,0,0,9,9\nb.mp4,0,1,0,0,9,9\n")
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", pictures(30, 32, 32))
    argv = [tmp_path / "a.mp4", tmp_path / "b.mp4", "--checkpoint", trained, "--out", tmp_path / "out", "--dry-run"]
    done = call("predict", *argv, "--boxes", tmp_path / "boxes.csv")
    assert done.status == 1 and "a.mp4: fails: " in done.out and "1 video, 1 s" in done.out, done
    done = call("predict", *argv, "--whole", "--no-crop")
    assert done.status == 0 and "2 videos, 2 s, 2 windows for each face: about" in done.out, done


def test_whole_clips(call: Call, frames: Path, trained: Path, tmp_path: Path) -> None:
    more = ["--whole", "--no-crop", "--fps", 25, "--precision", "fp32"]
    done = call("predict", frames / "clips.txt", "--checkpoint", trained, "--out", tmp_path, *more)
    assert done.status == 0, done.err
    evaluated = pandas.read_csv(trained / "pred.csv").set_index("name")
    for clip in range(8):
        rows = pandas.read_csv(tmp_path / f"clip_{clip}.csv")
        assert len(rows) == 1 and rows["status"][0] == "ok"
        if clip < 4:
            scores = evaluated.loc[f"clip_{clip}", ["p_calm", "p_moved"]]
            np.testing.assert_allclose(
                rows.loc[0, ["p_calm", "p_moved"]].astype(float), scores.astype(float), atol=1e-5
            )
    assert len(evaluated) == 4 and not list(tmp_path.glob("*.png"))


def test_names_of_results_are_their_own(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    names = ["summary.mp4", "failed.mp4", "a.mp4", "a.avi", "c.mp4", "c.boxes.mp4", "c.part.mp4", "a/b.mp4", ".x.mp4"]
    video = write_video(tmp_path / "v.mp4", pictures(8, 32, 32)).read_bytes()
    for name in names:
        (tmp_path / "in" / name).write_bytes(video)
    out = tmp_path / "out"
    done = call("predict", tmp_path / "in", "--checkpoint", trained, "--out", out, "--no-crop", "--no-plot")
    assert done.status == 0, done.err
    tables = sorted(str(path.relative_to(out)) for path in out.rglob("*.csv"))
    assert tables == [
        "a.avi.csv",
        "a.mp4.csv",
        "a/b.csv",
        "c.boxes.mp4.csv",
        "c.csv",
        "c.part.mp4.csv",
        "failed.mp4.csv",
        "summary.csv",
        "summary.mp4.csv",
    ]
    assert len(pandas.read_csv(out / "summary.csv")) == 8


def test_a_stream_that_ends(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    # What a protocol of FFmpeg reads is no file of ours.
    stream = f"async:file://{videos}/in/one.mp4"
    argv = ["predict", stream, "--checkpoint", trained, "--out", tmp_path / "out", "--no-crop", "--no-plot"]
    done = call(*argv)
    assert done.status == 0, done.err
    (table,) = (path for path in (tmp_path / "out").glob("*.csv") if path.stem != "summary")
    assert table.name.endswith("one.mp4.csv") and len(pandas.read_csv(table)) >= 3
    assert json.loads(table.with_suffix(".json").read_text())["video_stream"]["live"] is True
    # Seconds are counted from the first window on.
    done = call(*[tmp_path / "later" if one == tmp_path / "out" else one for one in argv], "--between", 1, 9)
    assert done.status == 0, done.err
    (later,) = (path for path in (tmp_path / "later").glob("*.csv") if path.stem != "summary")
    rows, summary = pandas.read_csv(later), json.loads(later.with_suffix(".json").read_text())
    span = rows["end"].max() - rows["start"].min()
    assert rows["start"].min() >= 1 and summary["minutes"] * 60 == pytest.approx(span, abs=0.01)
    assert summary["video_stream"]["start"] == pytest.approx(rows["start"].min(), abs=0.001)
    status, _, err = call(*argv)
    assert status == 2 and "which nobody can go on with: choose another --out, or --overwrite" in err


def test_an_interrupted_stream_is_completed(call: Call, trained: Path, tmp_path: Path) -> None:
    # A pipe gives a video that goes on for as long as somebody writes.
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    content = write_video(tmp_path / "one.ts", pictures(100, 64, 64)).read_bytes()

    def write() -> None:
        with open(pipe, "wb") as writer:
            writer.write(content)
            writer.flush()
            for _ in range(300):
                if any(path.read_bytes().count(b"\n") > 3 for path in out.glob("*.csv")):
                    os.kill(os.getpid(), signal.SIGINT)
                    break
                time.sleep(0.02)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    # Whoever starts tests in the background has it ignored.
    before = signal.getsignal(signal.SIGINT)
    argv = ["--checkpoint", trained, "--out", out, "--no-crop", "--no-plot", "--window", 0.2, "--hop", 0.2]
    done = call("predict", f"file://{pipe}", *argv)
    thread.join(10)
    assert done.status == 0, done.err
    assert signal.getsignal(signal.SIGINT) is before
    (table,) = (path for path in out.glob("*.csv") if path.stem != "summary")
    summary = json.loads(table.with_suffix(".json").read_text())
    assert 3 <= summary["windows"] == len(pandas.read_csv(table))
    assert summary["video_stream"]["ended"] == "it was ended"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "predict needs an INPUT"),
        (["absent.mp4"], "absent.mp4: no such file or folder"),
        (["v.mp4", "--hop", "0"], "--hop must be above 0, got 0"),
        (["v.mp4", "--hop", "0.0001"], "--hop must be 0.001 s at least"),
        (["v.mp4", "--between", "2", "1"], "between must be two seconds, the earlier one first, got 2 and 1"),
        (["v.mp4", "--between", "1:99", "200"], "argument --between: '1:99' is neither seconds nor minutes:seconds"),
        (["v.mp4", "--faces", "some"], "argument --faces: 'some' is neither all, largest, nor a number"),
        (["v.mp4", "--threshold", "1"], "--threshold must be between 0 and 1, both excluded, got 1"),
        (["v.mp4", "--coverage", "nan"], "--coverage must be a finite number above 0 and at most 1, got nan"),
        (["v.mp4", "--every", "0"], "--every must be between 1 and 50, got 0"),
        (["v.mp4", "--batch-size", "0"], "--batch-size must be at least 1, or null, got 0"),
        (["v.mp4", "--workers", "-1"], "--workers must be at least 0, got -1"),
        (["v.mp4", "--columns", "other"], "argument --columns: invalid choice: 'other'"),
        (["v.mp4", "--no-crop", "--boxes", "b.csv"], "--no-crop and --boxes do not go together"),
        (["v.mp4", "--no-crop", "--faces", "largest"], "--no-crop and --faces do not go together"),
        (["v.mp4", "--whole", "--hop", "2"], "--whole and --hop do not go together"),
        (["v.mp4", "--whole", "--coverage", "0.7"], "--whole and --coverage do not go together"),
        (["v.mp4", "--boxes", "b.csv", "--threshold", "0.7"], "--boxes and --threshold do not go together"),
        (["v.mp4", "--boxes", "b.csv", "--every", "2"], "--boxes and --every do not go together"),
        (["v.mp4", "--boxes", "absent.csv"], "absent.csv: no such file or folder"),
        (["v.mp4", "--segments", "b.csv"], "b.csv"),
        (["v.mp4", "file://x.mp4"], "goes on until it ends: give it as the only INPUT"),
        (["file://x.mp4", "--whole"], "--whole needs videos that end"),
        (["v.mp4", "--out", "v.mp4"], "v.mp4: is a file: give a folder with --out"),
        (["file://v.mp4"], "file://v.mp4: is a file or a folder, and no stream: give its path, v.mp4"),
        (["rtsp://me:secret@host/a", "--whole"], "needs videos that end, which rtsp://***@host/a does not"),
        (["rtsp://me:secret@host/a", "--annotate"], "cannot be done with rtsp://***@host/a: leave it out"),
        (["v.mp4", "--out", "."], "v.mp4: would be overwritten by a result: choose another --out"),
        (["v.mp4", "--checkpoint", "absent"], "'absent' does not exist"),
        (["v.mp4", "--bogus"], "unrecognised argument '--bogus'"),
    ],
)
def test_what_cannot_be_is_told_at_once(
    argv: list[str], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("v.mp4", "b.csv", "c.pth"):
        (tmp_path / name).write_text("x")
    monkeypatch.setitem(sys.modules, "maedfer.prediction.predictor", None)
    for name, value in (("--checkpoint", "c.pth"), ("--out", "out")):
        argv = argv if name in argv else [*argv, name, value]
    status, out, err = call("predict", *argv)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.csv", "c.pth", "v.mp4"]


@pytest.mark.parametrize("name", ["summary.csv", "failed.csv", "v.csv"])
def test_lists_are_not_overwritten(name: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.avi").write_text("x")
    (tmp_path / "c.pth").write_text("x")
    (tmp_path / name).write_text("v.avi\n")
    argv = ["predict", name, "--checkpoint", "c.pth", "--out", ".", "--overwrite"]
    assert call(*argv).err == f"maedfer: error: {name}: would be overwritten by a result: choose another --out\n"
    assert (tmp_path / name).read_text() == "v.avi\n"


@pytest.mark.parametrize(
    ("module", "more"), [("matplotlib.figure", []), ("PIL.ImageDraw", ["--no-plot", "--annotate"])]
)
def test_what_is_not_installed_is_told_at_once(
    module: str, more: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("v.mp4", "c.pth"):
        (tmp_path / name).write_text("x")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "maedfer.prediction.predictor", None)
    argv = [tmp_path / "v.mp4", "--checkpoint", tmp_path / "c.pth", "--out", tmp_path / "out", *more]
    status, _, err = call("predict", *argv)
    assert status != 0 and f"{module.partition('.')[0]!r} is needed here" in err and not (tmp_path / "out").exists()


def test_turns_of_no_video_and_pictures_too_small_to_be_annotated(call: Call, trained: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "flat.mp4", pictures(30, 8, 64))
    write_video(tmp_path / "good.mp4", pictures(30, 64, 64))
    (tmp_path / "turns.csv").write_text("video,start,end\ngood,0,1\ngood.mp4,50,60\nodd,0,1\n")
    more = ["--segments", tmp_path / "turns.csv", "--annotate", "--no-plot", "--no-crop", "--window", 1]
    items = [tmp_path / "flat.mp4", tmp_path / "good.mp4", "--checkpoint", trained, "--out", tmp_path / "out"]
    done = call("predict", *items, *more)
    assert done.status == 1 and "turns.csv: 'odd' is none of the videos: its turns are passed over" in done.out
    (reason,) = pandas.read_csv(tmp_path / "out" / "failed.csv")["reason"]
    assert "flat.mp4: its frames have 64 x 8 pixels" in reason and reason.endswith("leave --annotate out")
    assert not list((tmp_path / "out").glob("flat*"))
    turns = pandas.read_csv(tmp_path / "out" / "good.segments.csv")
    assert turns["status"].tolist() == ["ok", "no_window"]


def test_passwords_are_nowhere(tmp_path: Path) -> None:
    from maedfer.prediction.inputs import find_videos

    def name(url: str) -> tuple[str, str]:
        (video,) = find_videos([url], tmp_path, print)
        return video.name, video.told

    assert name("rtsp://me:secret@host:554/a/b?token=x") == ("host_554_a_b", "rtsp://***@host:554/a/b?token=x")
    assert name("http://host/@me/live") == ("host_me_live", "http://host/@me/live")
    assert len(name(f"http://host/{'é' * 300}/{'x' * 300}")[0]) <= 100


def test_two_commands_do_not_write_into_one_folder(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    from maedfer.prediction.inputs import hold

    with hold(tmp_path):
        status, _, err = call(*command(videos, trained, tmp_path))
    assert status == 2 and "another maedfer predict writes into this folder" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_cannot_be_written(call: Call, videos: Path, trained: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    status, out, err = call(*command(videos, trained, tmp_path / "out"))
    assert (status, out) == (2, "") and "cannot be written (Permission denied)" in err
