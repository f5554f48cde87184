from __future__ import annotations

import json
from pathlib import Path

import pytest

from maedfer.data.annotations import Clip
from maedfer.errors import InputError
from maedfer.train import load_config, run_evaluate, run_finetune
from maedfer.train.dry_run import dry_run
from maedfer.train.list_notes import list_notes
from tests.train.runs import tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_a_run_that_is_scored_on_its_training_clips_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["optim.epochs=1", "optim.warmup_epochs=0", f"data.test={data / 'train.csv'}"]
    said: list[str] = []
    dry_run(tiny("finetune", data, tmp_path / "alone", *given, "train.batch_size=1", "data.repeats=1"), said.append)
    assert sum("mixup and CutMix mix the clips of one process's pass" in line for line in said) == 1
    said.clear()
    cfg = tiny("finetune", data, tmp_path / "run", *given)
    dry_run(cfg, said.append)
    (sentence,) = [line.split(maxsplit=1)[1] for line in said if line.startswith("note ")]
    assert "clips of data.test are in data.train too, which has no others (the first is 'clip_0', in" in sentence
    run_finetune(cfg)
    assert f"\n{sentence}\n" in f"\n{capsys.readouterr().out}"
    assert sentence in json.loads((tmp_path / "run/metrics.json").read_text())["notes"]
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert sentence in [record["text"] for record in records if record["kind"] == "note"]
    # Its model is known by what it was trained on.
    for model, scores in (("run", "scores"), ("run/model", "others")):
        lists = [f"eval.checkpoint={tmp_path / model}", f"data.test={data / 'test.csv'}", "train.device=cpu"]
        run_evaluate(load_config("evaluate", None, [*lists, f"output={tmp_path / scores}"]))
        (note,) = json.loads((tmp_path / scores / "metrics.json").read_text())["notes"]
        assert "all 7 clips of data.test are in the list that the model was trained on too" in note
    # Nor is it passed over where that list is gone.
    settings = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(settings.replace(str(data / "train.csv"), str(data / "gone.csv")))
    run_evaluate(load_config("evaluate", None, [*lists, f"output={tmp_path / 'gone'}"]))
    (note,) = json.loads((tmp_path / "gone/metrics.json").read_text())["notes"]
    assert "whether the model was trained on clips of data.test is not known" in note and "gone.csv" in note


def test_weights_that_were_fine_tuned_on_what_is_scored_are_told(data: Path, tmp_path: Path) -> None:
    def notes_of(*overrides: str) -> list[str]:
        said: list[str] = []
        dry_run(
            tiny("finetune", data, tmp_path / "second", f"train.init={tmp_path / 'first'}", *overrides), said.append
        )
        return [line.split(maxsplit=1)[1] for line in said if line.startswith("note ")]

    run_finetune(tiny("finetune", data, tmp_path / "first", "optim.epochs=1", "optim.warmup_epochs=0"))
    (note,) = notes_of(f"data.train={data / 'test.csv'}", "data.test=", f"data.val={data / 'train.csv'}")[1:]
    assert "clips of data.val are in the list that the weights of train.init were fine-tuned on too" in note
    few = notes_of("data.labels=1", "train.batch_size=1", "data.test=")
    assert any(
        "were fine-tuned on 14 labelled clips: what is learned is not of data.labels=1 alone" in one for one in few
    )


def test_labels_may_be_names_of_classes(data: Path, tmp_path: Path) -> None:
    rows = [line.rsplit(" ", 1) for line in (data / "test.csv").read_text().splitlines()]
    named = [f"{data / path},{'abc'[int(label)].upper()}" for path, label in rows]
    (tmp_path / "named.csv").write_text("\n".join(named))
    cfg = tiny("finetune", data, tmp_path / "run", f"data.test={tmp_path / 'named.csv'}", "data.classes=[a,b,c]")
    said: list[str] = []
    dry_run(cfg, said.append)
    assert "(a 3, b 2, c 2)" in " ".join(said)
    cfg = tiny("finetune", data, tmp_path / "run", f"data.test={tmp_path / 'named.csv'}", "data.classes=[a,b,cc]")
    with pytest.raises(InputError, match="named.csv:.* unknown label 'C' in data.classes"):
        dry_run(cfg, said.append)
    with pytest.raises(InputError, match="data.classes names 'a' twice"):
        dry_run(tiny("finetune", data, tmp_path / "run", "data.classes=[a,b,a]"), said.append)


def test_people_who_were_learned_from_are_told(data: Path, tmp_path: Path) -> None:
    cfg = tiny("finetune", data, tmp_path / "run", "data.subject=clip_([0-3])", f"data.val={data / 'test.csv'}")
    people = [Clip(data / "x", 0, 1, "x", subject="1")]
    notes = list_notes(cfg, {"test": people, "train": [*people, *people], "val": []})
    assert notes[0].startswith(
        "all 1 subjects of data.test are in data.train too (the first is '1'), with 1 of 1 clips"
    )
