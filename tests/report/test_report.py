"""Reports from run folders that are made up but plausible."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.evaluation.predictions import Predictions, write_predictions
from maedfer.report import sections, write_comparison, write_report
from maedfer.report.comparison import Difference
from maedfer.report.page import points
from maedfer.report.page import write as write_page
from maedfer.report.sections import tsne
from maedfer.train.config import load_config, save_config

CLASSES = ("happy", "sad", "neutral", "anger", "surprise", "disgust", "fear")

TIMES = {"started": "2026-01-01T10:00:00+00:00", "ended": "2026-01-01T11:05:00+00:00", "earlier": []}


def make_finetune_run(
    folder: Path,
    seed: int = 0,
    clips: int = 210,
    skill: float = 1.0,
    epochs: int = 6,
    overrides: tuple[str, ...] = (),
    embed: bool = False,
) -> Path:
    """A folder as fine-tuning leaves it; `skill` sets how far the classes lie apart."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = "[" + ", ".join(CLASSES) + "]"
    config = ["data.train=train.csv", "data.test=test.csv", f"data.classes={names}", f"seed={seed}", f"output={folder}"]
    save_config(
        load_config("finetune", None, [*config, "model.name=lgi_former_tiny", *overrides]), folder / "config.yaml"
    )
    labels = np.sort(rng.choice(len(CLASSES), clips, p=[0.21, 0.16, 0.23, 0.18, 0.12, 0.03, 0.07]))
    labels[: len(CLASSES)] = np.arange(len(CLASSES))
    centres = np.random.default_rng(7).normal(size=(len(CLASSES), 32))
    features = (skill * centres[labels] + rng.normal(size=(clips, 32)) * 1.6).astype(np.float32)
    logits = 0.35 * features @ centres.T
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)
    predictions = Predictions([f"clip_{i:05d}.mp4" for i in range(clips)], labels, probabilities, CLASSES)
    write_predictions(folder / "pred.csv", predictions)
    metrics = predictions.metrics()
    (folder / "metrics.json").write_text(json.dumps({**metrics, "split": "test", "views": 2, "epoch": epochs - 1}))
    if embed:
        np.savez(folder / "features.npz", features=features, labels=labels, predictions=predictions.predicted)
    (folder / "environment.json").write_text(
        json.dumps(
            {"versions": {"python": "3.11.9", "torch": "2.15.0"}, "device": "CPU (1 threads)", "cuda": None, **TIMES}
        )
    )
    log = []
    per_epoch = 14
    for step in range(1, epochs * per_epoch + 1):
        done = step / (epochs * per_epoch)
        loss = 1.95 - 1.1 * skill * done**0.5 + 0.08 * rng.normal()
        log.append(
            {
                "kind": "step",
                "step": step,
                "epoch": -(-step // per_epoch),
                "loss": loss,
                "lr": 1e-3 * (1 + np.cos(np.pi * done)) / 2,
            }
            | {"clips_per_s": 41 + rng.normal(), "data_wait": 0.06, "memory_mb": 1830}
        )
        if step % per_epoch == 0:
            epoch = step // per_epoch
            grown = 1 - np.exp(-2.5 * epoch / epochs)
            log.append({"kind": "epoch", "epoch": epoch, "step": step, "loss": loss})
            log += [
                {"kind": "eval", "split": split, "epoch": epoch, "step": step, "loss": 1.9 - grown + gap}
                | {key: metrics[key] * grown * (1 + 0.02 * rng.normal()) for key in ("uar", "war")}
                for split, gap in (("val", 0.0), ("test", 0.1))
            ]
    write_log(folder, log)
    return folder


def make_pretrain_run(folder: Path, clips: int = 3, size: int = 32, steps: int = 80, target: str = "joint") -> Path:
    """A folder as pre-training leaves it, with pictures of a moving disc."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    overrides = ["data.train=list.csv", f"output={folder}", "model.name=mae_dfer_tiny", f"model.target={target}"]
    save_config(load_config("pretrain", None, overrides), folder / "config.yaml")
    decay = np.exp(-np.arange(steps) / 25)
    appearance, motion = 0.55 + 0.45 * decay + 0.01 * rng.normal(size=steps), 0.3 + 0.1 * decay
    write_log(
        folder,
        [
            {"kind": "step", "step": i + 1, "epoch": i // 10 + 1, "loss": (appearance[i] + motion[i]) / 2, "lr": 3e-4}
            | {"appearance": appearance[i], "motion": motion[i], "clips_per_s": 88.0}
            for i in range(steps)
        ]
        + [{"kind": "epoch", "epoch": e + 1, "step": 10 * e + 10} for e in range(steps // 10)],
    )
    y, x = np.mgrid[:size, :size] / size
    original = np.empty((clips, 16, size, size, 3), dtype=np.float16)
    for clip in range(clips):
        for frame in range(16):
            disc = (x - 0.3 - 0.02 * frame) ** 2 + (y - 0.5) ** 2 < 0.05
            original[clip, frame] = np.where(disc[..., None], [0.9, 0.7, 0.6], [0.2, 0.25 + 0.1 * clip, 0.4])
    patch = size // 8
    hidden = np.kron(rng.random((8, 8)) < 0.9, np.ones((patch, patch)))[None, None, ..., None]
    full = original * 0.9 + 0.05
    motion_picture = 0.5 + 0.5 * (np.roll(original, -1, axis=1) - original)
    np.savez(
        folder / "reconstructions.npz",
        masked=(original * (1 - hidden) + 0.5 * hidden).astype(np.float16),
        appearance=full,
        motion=motion_picture.astype(np.float16),
        full=full,
        original=original,
    )
    return folder


def write_log(folder: Path, records: list[dict], tail: str = "") -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)


class Page(HTMLParser):
    """What a test wants to know of a page: headings, text, figures, addresses, identifiers."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
                self.addresses.append(value or "")
            elif name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] in ("h1", "h2", "summary") and data.strip():
            self.headings.append(data.strip())


def numbers(page: Path) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads((page.parent / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_finetune_run(tmp_path_factory.mktemp("runs") / "finetune", embed=True)
    write_report(run)
    return run


def test_page_of_a_finetuning_run_shows_everything_and_loads_nothing(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert page.headings[0] == "Fine-tuning · lgi_former_tiny"
    assert page.headings[1:4] == ["Course of training", "Classes", "95 % intervals"]
    assert page.headings[4:6] == ["How sure it is", "Features"]
    assert page.headings[6].startswith("Surest mistakes") and page.headings[7:] == ["Settings", "Environment"]
    assert page.tags.count("svg") == 5 and "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", page.source)


def test_identifiers_inside_the_figures_are_unique_and_found(finished: Path) -> None:
    page = Page(finished / "report.html")
    used = {address[1:] for address in page.addresses if address.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]*)\)", page.source))
    assert len(page.ids) == len(set(page.ids))
    assert used and used <= set(page.ids)


def test_colours_of_figures_follow_the_page(finished: Path) -> None:
    source = Page(finished / "report.html").source
    body = source[source.index("<main>") :]
    assert "var(--ink)" in body and "var(--c0)" in body and "#4477aa" not in body and "DejaVu" not in body
    defined = set(re.findall(r"(--[\w-]+):", source))
    assert set(re.findall(r"var\((--[\w-]+)\)", source)) <= defined


def test_settings_and_environment_are_complete(finished: Path) -> None:
    page = Page(finished / "report.html")
    config = numbers(finished / "report.html")["config"]
    assert config["model"]["name"] == "lgi_former_tiny"
    for section in ("model", "data", "augment", "optim", "train", "eval"):
        assert all(f"<td>{key}</td>" in page.source for key in config[section]), section
    assert "happy, sad, neutral" in page.text and "2.15.0" in page.text


def test_json_holds_the_numbers_of_the_page(finished: Path) -> None:
    found, page = numbers(finished / "report.html"), Page(finished / "report.html")
    metrics = json.loads((finished / "metrics.json").read_text())
    assert found["headline"]["uar"] == pytest.approx(metrics["uar"])
    assert found["headline"]["war"] == pytest.approx(metrics["war"])
    assert found["scores"]["confusion"] == metrics["confusion"]
    assert found["scores"]["recall"] == pytest.approx(metrics["recall"])
    assert f"{100 * metrics['uar']:.2f}" in page.text and f"{100 * metrics['war']:.2f}" in page.text
    low, high = found["headline"]["uar_interval_95"]
    assert low < metrics["uar"] < high
    assert found["headline"]["epochs"] == 6 and found["headline"]["seconds"] == 3900
    assert found["headline"]["parameters"] == pytest.approx(21.47e6, rel=0.001)
    loss = found["curves"]["Training loss"]["loss"]
    assert loss["x"] == list(range(1, 85)) and loss["y"][0] == pytest.approx(1.8, abs=0.4)
    assert set(found["curves"]["UAR and WAR"]) == {"UAR val", "WAR val", "UAR test", "WAR test"}
    assert len(found["tsne"]["points"]) == len(found["tsne"]["labels"]) == 210


def test_mistakes_are_the_surest_ones(finished: Path) -> None:
    clips = numbers(finished / "report.html")["mistakes"]["clips"]
    sure = [clip["probability"] for clip in clips]
    assert len(clips) == 10 and sure == sorted(sure, reverse=True)
    assert all(
        clip["true"] != clip["predicted"] and clip["probability"] > clip["probability_of_true"] for clip in clips
    )


def test_published_confusion_matrix_gives_the_published_scores(tmp_path: Path) -> None:
    clips = np.array([489, 379, 534, 435, 294, 29, 181])
    right = np.round(clips * np.array([92.84, 77.04, 75.47, 77.24, 65.99, 10.34, 39.23]) / 100).astype(int)
    confusion = np.diag(right)
    confusion[np.arange(7), (np.arange(7) + 1) % 7] += clips - right
    (tmp_path / "metrics.json").write_text(json.dumps({"classes": CLASSES, "confusion": confusion.tolist()}))
    text = Page(write_report(tmp_path)).text
    assert "62.59" in text and "74.88" in text and "2,341" in text


def test_scores_of_few_clips_have_an_interval_that_means_something(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"classes": ["a", "b"], "confusion": [[0, 4], [0, 0]]}))
    page = write_report(tmp_path)
    assert "0.0 to 49.0, 95 % over clips" in Page(page).text
    assert numbers(page)["headline"]["war_interval_95"] == pytest.approx([0, 0.489891], abs=1e-5)


def test_skipped_clips_and_short_runs_are_told(tmp_path: Path) -> None:
    metrics = {"classes": ["a", "b"], "confusion": [[3, 1], [0, 4]], "skipped": 2, "views": 1}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    when = "2026-01-01T00:00:00+00:00"
    (tmp_path / "environment.json").write_text(json.dumps({"started": when, "ended": when}))
    page = write_report(tmp_path)
    assert "2 more could not be read" in Page(page).text and "under 1 s" in Page(page).text
    assert numbers(page)["headline"]["seconds"] == 0 and numbers(page)["headline"]["skipped"] == 2


def test_names_that_are_no_utf8_are_shown_with_a_mark(tmp_path: Path) -> None:
    odd = Predictions(
        ["caf\udce9 <b>", "x"], np.array([0, 1]), np.array([[0.1, 0.9], [0.2, 0.8]], np.float32), ("a", "b")
    )
    write_predictions(tmp_path / "pred.csv", odd)
    (tmp_path / "metrics.json").write_text(json.dumps(odd.metrics()))
    page = write_report(tmp_path)
    assert "caf\ufffd <b>" in Page(page).text
    assert numbers(page)["mistakes"]["clips"][0]["clip"] == "caf\udce9 <b>"


def test_what_is_no_number_is_not_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(
            json.dumps({"classes": ["x", "y"], "confusion": [[1, 0], [0, 1]]})
        )
    broken = tmp_path / "b" / "metrics.json"
    broken.write_text('{"classes": ["x", "y"], "confusion": [[1, 0], [0, 1]], "loss": NaN}')
    with pytest.raises(InputError, match=r"metrics\.json' is not JSON \(it holds NaN"):
        write_report(tmp_path / "b")
    broken.write_text((tmp_path / "a" / "metrics.json").read_text())
    (tmp_path / "b" / "pred.csv").write_text("name,label,prediction,p_x,p_y\nclip,0,0,nan,nan\n")
    for attempt in (
        lambda: write_report(tmp_path / "b"),
        lambda: write_comparison(tmp_path / "c", {name: [tmp_path / name] for name in "ab"}, "two"),
    ):
        with pytest.raises(InputError, match=r"pred\.csv' line 2: nan is no probability"):
            attempt()


def test_absent_files_leave_no_trace(tmp_path: Path) -> None:
    run = make_finetune_run(tmp_path / "run", clips=60, embed=True)
    whole = Page(write_report(run)).headings
    for name, heading in (
        ("features.npz", "Features"),
        ("pred.csv", "Surest"),
        ("metrics.json", "Classes"),
        ("environment.json", "Environment"),
        ("log.jsonl", "Course of training"),
    ):
        assert any(found.startswith(heading) for found in whole)
        (run / name).unlink()
        page = Page(write_report(run))
        assert not any(found.startswith(heading) for found in page.headings), name
        assert not re.search(r"<(div|section|figure|dl|tbody|table)[^>]*>\s*</\1>", page.source)
    assert page.headings == ["Fine-tuning · lgi_former_tiny", "Settings"] and "figure" not in page.tags


def test_log_cut_off_by_a_kill_is_shown_up_to_there(tmp_path: Path) -> None:
    run = make_finetune_run(tmp_path)
    whole = numbers(write_report(run))["curves"]["Training loss"]["loss"]
    text = (run / "log.jsonl").read_text().rstrip("\n")
    (run / "log.jsonl").write_text(text + '\n{"kind": "step", "step": 85, "epo')
    page = write_report(run)
    assert numbers(page)["curves"]["Training loss"]["loss"] == whole
    assert numbers(page)["cut_off_log_line"] == len(text.split("\n")) + 1
    assert "cut off in line" in Page(page).text


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"ended": None}, "it was killed, or goes on; the last step in its log is 84, in epoch 6 of 100."),
        ({"outcome": "stopped"}, "it was stopped; the last step in its log is 84"),
        ({"outcome": "complete"}, ""),
        ({}, ""),
    ],
)
def test_run_that_has_not_ended_says_so_and_shows_what_there_is(tmp_path: Path, facts: dict, words: str) -> None:
    run = make_finetune_run(tmp_path)
    (run / "environment.json").write_text(json.dumps({**TIMES, **facts}))
    if not words:
        page = write_report(run)
        assert "has not ended" not in Page(page).text and "ending" not in numbers(page)
        return
    (run / "metrics.json").unlink()
    (run / "pred.csv").unlink()
    page = write_report(run)
    assert words in Page(page).text and "goes on from its last checkpoint" not in Page(page).text
    assert Page(page).headings[:2] == ["Fine-tuning \N{MIDDLE DOT} lgi_former_tiny", "Course of training"]
    assert numbers(page)["ending"] == {"ended": False, "step": 84, "epoch": 6}
    latest = numbers(page)["headline"]["latest_scores"]
    assert (latest["split"], latest["epoch"]) == ("test", 6)
    assert f"{100 * latest['uar']:.2f}test, epoch 6" in Page(page).text
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.pt").touch()
    (run / "log.jsonl").unlink()
    text = Page(write_report(run)).text
    assert "This run has not ended" in text and "goes on from its last checkpoint" in text and "last step" not in text


def test_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: finetune\n")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        write_page(tmp_path / "file" / "out", "", {})


def test_a_full_disk_leaves_the_earlier_page_and_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(tmp_path, "<html>earlier</html>", {"loss": 1.0})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    original = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if ".report.html." in path.name:
            original(path, text[: len(text) // 2], **options)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"cannot write .*report\.html: No space left"):
        write_page(tmp_path, "<html>later</html>", {"loss": 2.0})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_steps_that_were_done_twice_count_once(tmp_path: Path) -> None:
    step = {"kind": "step", "epoch": 1, "lr": 1e-3}
    write_log(tmp_path, [step | {"step": i, "loss": 1.0} for i in (1, 2, 3)] + [step | {"step": 2, "loss": 0.5}])
    loss = numbers(write_report(tmp_path))["curves"]["Training loss"]["loss"]
    assert loss == {"x": [1, 2, 3], "y": [1.0, 0.5, 1.0]}


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    step = {"kind": "step", "epoch": 1, "lr": 1e-3}
    losses = (2.0, None, float("nan"), 1.0)
    write_log(tmp_path, [step | {"step": i, "loss": loss} for i, loss in enumerate(losses)])
    assert numbers(write_report(tmp_path))["curves"]["Training loss"]["loss"] == {"x": [0, 3], "y": [2.0, 1.0]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.jsonl", '{"kind": "step", "step": 1}\nnonsense\n{"kind": "step", "step": 2}\n', "line 2 is not a JSON"),
        ("metrics.json", "{", "is not JSON"),
        ("metrics.json", "[1]", "must hold a JSON object"),
        ("metrics.json", '{"uar": 0.5}', "needs 'classes' and a 'confusion'"),
        ("metrics.json", '{"classes": ["a", "b"], "confusion": [[1, 2]]}', "2 x 2 classes"),
        ("metrics.json", '{"classes": ["a", "b"], "confusion": [[0, 0], [0, 0]]}', "with 0 clips"),
        ("environment.json", "", "is not JSON"),
        ("config.yaml", "task: [", "is not YAML"),
        ("config.yaml", "just text", "must hold sections"),
        ("features.npz", "PK", "cannot be read"),
        ("reconstructions.npz", "", "cannot be read"),
        ("pred.csv", "a,b\n", "is not a pred.csv"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text("task: finetune\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        write_report(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("features.npz", {"labels": np.zeros(3)}, "lacks the array features"),
        ("features.npz", {"features": np.zeros((4, 2)), "labels": np.zeros(3)}, "do not belong together"),
        ("reconstructions.npz", {"masked": np.zeros((1, 2, 4, 4, 3)), "original": np.zeros((1, 2, 4, 4))}, "one shape"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, name: str, arrays: dict, words: str) -> None:
    (tmp_path / "config.yaml").write_text("task: finetune\n")
    np.savez(tmp_path / name, **arrays)
    with pytest.raises(InputError, match=words):
        write_report(tmp_path)


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a run folder"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "split", "words", "on_scored"),
    [
        (("eval.select=last",), "test", "no score had a part in the choice", False),
        (("eval.select=val", "data.val=val.csv"), "test", "on the validation clips (epoch 5)", False),
        (("eval.select=val", "data.val=test.csv"), "test", "selected on the test clips (eval.select = val, with", True),
        (("eval.select=test",), "test", "selected on the test clips (eval.select = test)", True),
        (("eval.select=val", "data.val=val.csv", "data.test="), "val", "selected on the val clips", True),
    ],
)
def test_selection_is_told(tmp_path: Path, overrides: tuple[str, ...], split: str, words: str, on_scored: bool) -> None:
    run = make_finetune_run(tmp_path, overrides=overrides)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "split": split}))
    page = write_report(run)
    assert words in Page(page).text
    assert ("optimistic" in Page(page).text) == on_scored == ("selected_on_scored_clips" in numbers(page)["selection"])


def test_folds_that_were_put_together_are_listed(tmp_path: Path) -> None:
    run = make_finetune_run(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["folds"] = [{"run": f"runs/fold_{k}", "uar": 0.4 + 0.1 * k, "war": 0.6, "n": 105} for k in (1, 2)]
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = Page(write_report(run)).text
    assert "runs/fold_2" in text and "60.00" in text and "all clips together" in text


def test_time_counts_the_parts_of_a_resumed_run(tmp_path: Path) -> None:
    run = make_finetune_run(tmp_path)
    first = {"started": "2026-01-01T08:00:00+00:00", "ended": "2026-01-01T08:30:00+00:00"}
    (run / "environment.json").write_text(json.dumps({**TIMES, "earlier": [first]}))
    page = write_report(run)
    assert numbers(page)["headline"]["seconds"] == 3900 + 1800 and "killed" not in Page(page).text
    (run / "environment.json").write_text(json.dumps({**TIMES, "earlier": [{**first, "ended": None}]}))
    page = write_report(run)
    assert numbers(page)["headline"]["seconds"] == 3900 and "without parts that were killed" in Page(page).text


@pytest.mark.parametrize(
    ("target", "rows"),
    [
        ("joint", ["masked", "untrained", "appearance", "motion", "full", "original"]),
        ("appearance", ["masked", "untrained", "appearance", "original"]),
        ("motion", ["masked", "untrained", "motion", "original"]),
        ("pixels", ["masked", "untrained", "full", "original"]),
    ],
)
def test_pretraining_shows_only_what_its_objective_trains(tmp_path: Path, target: str, rows: list[str]) -> None:
    run = make_pretrain_run(tmp_path, target=target)
    shutil.copy(run / "reconstructions.npz", run / "reconstructions_start.npz")
    page = write_report(run)
    assert Page(page).headings == ["Pre-training · mae_dfer_tiny", "Course of training", "Reconstructions", "Settings"]
    assert numbers(page)["reconstructions"]["rows"] == rows
    assert numbers(page)["headline"]["loss"] < numbers(page)["headline"]["first_loss"]
    assert ("not trained" in Page(page).text) == (target in ("appearance", "motion"))


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: finetune\nmodel: {name: '<script>alert(1)</script>'}\n")
    confusion = {"classes": ["<b>", "a & b"], "confusion": [[3, 1], [0, 2]]}
    (tmp_path / "metrics.json").write_text(json.dumps(confusion))
    page = Page(write_report(tmp_path))
    assert "script" not in page.tags and "b" not in page.tags and "<b>" in page.text and "a & b" in page.text


def test_tsne_repeats_and_keeps_groups_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = (8 * rng.normal(size=(3, 64))[labels] + rng.normal(size=(60, 64))).astype(np.float32)
    first, second = tsne(features, 6.0), tsne(features, 6.0)
    np.testing.assert_array_equal(first, second)
    distance = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e9 * np.eye(60)
    assert (labels[distance.argmin(axis=1)] == labels).all()


def test_features_of_few_or_equal_clips_are_not_embedded(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: finetune\n")
    for features in (np.random.default_rng(0).normal(size=(5, 4)), np.ones((20, 4))):
        np.savez(tmp_path / "features.npz", features=features, labels=np.zeros(len(features), dtype=int))
        assert "Features" not in Page(write_report(tmp_path)).headings


def test_many_features_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "MAX_POINTS", 200)
    run = make_finetune_run(tmp_path, clips=250, epochs=2, embed=True)
    found = numbers(write_report(run))["tsne"]
    labels = np.load(run / "features.npz")["labels"]
    assert len(found["index"]) == len(set(found["index"])) == 200
    assert found["labels"] == labels[found["index"]].tolist()
    kept = np.bincount(found["labels"], minlength=7) / np.bincount(labels, minlength=7)
    assert np.abs(kept - 0.8).max() < 0.05


@pytest.mark.parametrize(
    ("values", "verdict", "words"),
    [
        (
            [0.02, 0.03, 0.025],
            "better",
            '"new" is better than "old" (mean difference +2.50 points, standard deviation 0.50',
        ),
        ([-0.02, -0.03, -0.025], "worse", '"new" is worse than "old" (mean difference \N{MINUS SIGN}2.50 points'),
        ([0.05, -0.01, 0.01], "unclear", 'higher than "old" on average, but not clearly so'),
        ([0.001, 0.08, 0.001], "unclear", 'higher than "old" on average, but not clearly so'),
        ([-0.05, 0.01, 0.01], "unclear", 'lower than "old" on average, but not clearly so'),
        ([0.25, -0.25], "unclear", "score the same on average"),
        ([0.0, 0.0], "equal", "score the same (better in 0 of 2 seeds)"),
        ([0.3], "unclear", "one seed says nothing"),
    ],
)
def test_words_about_a_difference_follow_the_numbers(values: list[float], verdict: str, words: str) -> None:
    difference = Difference("UAR", "new", "old", np.array(values))
    assert difference.verdict == verdict
    assert words in difference.sentence()
    wins = sum(value > 0 for value in values)
    assert f"better in {wins} of {len(values)} seed" in difference.sentence()
    assert ("is better" in difference.sentence()) == (verdict == "better")


def test_comparison(tmp_path: Path) -> None:
    runs = {
        label: [make_finetune_run(tmp_path / f"{label}{seed}", seed=seed, skill=skill) for seed in seeds]
        for label, skill, seeds in (("scratch", 0.5, (0, 1, 2)), ("pre-trained", 0.9, (2, 0, 1)))
    }
    picture = tmp_path / "plot.png"
    picture.write_bytes(b"\x89PNG")
    page = write_comparison(
        tmp_path / "out",
        runs,
        "Does it help?",
        "A note.",
        pretraining=make_pretrain_run(tmp_path / "pretraining"),
        pictures={"A plot": picture},
    )
    assert page == tmp_path / "out" / "report.html"
    shown, found = Page(page), numbers(page)
    assert shown.headings[:6] == [
        "Does it help?",
        "Scores",
        "Course of training",
        "Classes",
        "Pre-training · mae_dfer_tiny",
        "Pictures",
    ]
    assert "A note." in shown.text and shown.tags.count("img") == 1
    scores = {
        label: np.array([json.loads((run / "metrics.json").read_text())["uar"] for run in items])
        for label, items in runs.items()
    }
    paired = scores["pre-trained"][[1, 2, 0]] - scores["scratch"]
    conditions = found["scores"]["conditions"]
    assert conditions["scratch"]["uar"]["mean"] == pytest.approx(scores["scratch"].mean())
    assert conditions["scratch"]["uar"]["std"] == pytest.approx(scores["scratch"].std(ddof=1))
    assert conditions["pre-trained"]["seeds"] == [0, 1, 2] and found["scores"]["pairing"] == "seed"
    difference = found["scores"]["differences"][0]
    assert difference["values"] == pytest.approx(paired.tolist())
    assert difference["std"] == pytest.approx(paired.std(ddof=1)) and difference["better_in"] == 3
    assert difference["verdict"] == "better" and '"pre-trained" is better than "scratch"' in shown.text
    assert all(address.startswith(("#", "data:")) for address in shown.addresses)
    pooled = np.sum([json.loads((run / "metrics.json").read_text())["confusion"] for run in runs["scratch"]], axis=0)
    assert found["classes"]["scratch"]["confusion"] == pooled.tolist()
    band = found["curves"]["Training loss"]["scratch"]
    assert band["x"] == [1, 2, 3, 4, 5, 6] and all(np.array(band["low"]) <= np.array(band["high"]))


def test_comparison_with_other_seeds_or_numbers_of_them(tmp_path: Path) -> None:
    runs = [make_finetune_run(tmp_path / str(seed), seed=seed, epochs=2) for seed in range(4)]
    page = write_comparison(tmp_path / "out", {"a": runs[:2], "b": runs[2:]}, "Other seeds")
    assert numbers(page)["scores"]["pairing"] == "position" and "in the order given" in Page(page).text
    page = write_comparison(tmp_path / "out", {"a": runs[:1], "b": runs[1:]}, "Other numbers")
    assert numbers(page)["scores"]["differences"] == [] and "no paired differences" in Page(page).text
    assert numbers(page)["scores"]["conditions"]["a"]["uar"]["std"] is None
    page = write_comparison(tmp_path / "out", {"a": runs}, "One condition")
    assert numbers(page)["scores"]["differences"] == [] and "better" not in Page(page).text


def test_comparison_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    run = make_finetune_run(tmp_path / "run", epochs=1)
    bare = make_pretrain_run(tmp_path / "bare")
    with pytest.raises(InputError, match="no runs to compare"):
        write_comparison(tmp_path / "out", {}, "Nothing")
    with pytest.raises(InputError, match="'b' has no runs"):
        write_comparison(tmp_path / "out", {"a": [run], "b": []}, "Nothing")
    with pytest.raises(InputError, match=r"bare' has no metrics\.json"):
        write_comparison(tmp_path / "out", {"a": [run, bare]}, "No scores")
    with pytest.raises(InputError, match=r"plot\.tif' cannot be shown"):
        write_comparison(tmp_path / "out", {"a": [run]}, "A picture", pictures={"": tmp_path / "plot.tif"})


def test_settings_of_the_machine_are_no_difference_between_conditions(tmp_path: Path) -> None:
    changes = ("data.workers=3", "report=false", "model.impl=reference", "data.test=other.csv", "optim.lr=0.5")
    runs = {
        "a": [make_finetune_run(tmp_path / "a", epochs=1)],
        "b": [make_finetune_run(tmp_path / "b", epochs=1, overrides=changes)],
    }
    text = write_comparison(tmp_path / "out", runs, "Two").read_text()
    table = text.split("Settings that differ")[1].split("</table>")[0]
    assert "data.test" in table and "optim.lr" in table
    assert not any(key in table for key in ("data.workers", "report", "model.impl", "output"))


def test_a_difference_that_rounds_to_nought_is_not_negative() -> None:
    shown = [points(value) for value in (-1e-6, -0.0, 0.012, -0.012, float("nan"))]
    assert shown == ["+0.00", "+0.00", "+1.20", "\N{MINUS SIGN}1.20", "\N{EN DASH}"]


def test_precision_is_shown_of_a_run_and_compared(tmp_path: Path) -> None:
    runs = {name: [make_finetune_run(tmp_path / name, epochs=1)] for name in ("a", "b", "unknown")}
    for name, precision in (("a", "fp32"), ("b", "bf16")):
        path = tmp_path / name / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "precision": precision}))
    page = write_comparison(tmp_path / "out", runs, "Three")
    table = page.read_text().split("Settings that differ")[1].split("</table>")[0]
    assert "train.precision" in table and "bf16" in table
    conditions = numbers(page)["scores"]["conditions"]
    assert [conditions[name]["precision"] for name in runs] == [["fp32"], ["bf16"], [None]]
    assert "7 classes, 2 views, bf16" in Page(write_report(tmp_path / "b")).text
