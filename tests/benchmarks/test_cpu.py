"""The comparison on a processor, with small models of published names in the peer's place. Nothing is asserted of
times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import __main__ as cli
from benchmarks.cpu import kinds, rates, session
from benchmarks.cpu.peer import build_network, load_peer
from benchmarks.cpu.session import Plan, measure
from benchmarks.cpu.sides import INFERENCE, PROVIDERS, TRAINING, Sides, Work
from benchmarks.cpu.table import tables
from benchmarks.deployed import RUNTIMES
from benchmarks.workload import Settings
from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig, create_model
from tests.helpers import randomize

CLIP, REGION = (4, 32, 32), (1, 2, 2)
# A width whose heads the published recipes tell.
PEER = """
import beside
from torch import nn

from tests.models.published.stand_ins import Classifier

ARGS = dict(
    embed_dim=192, depth=2, num_heads=3, num_classes=3, all_frames=4, img_size=32, attn_type="local_global",
    lg_region_size=(1, 2, 2), lg_first_attn_type="self", lg_third_attn_type="cross", lg_no_second=False,
    lg_no_third=False, lg_classify_token_type="region",
)


def build():
    return beside.randomized(Classifier(ARGS))


class Other(Classifier):
    # Another model with the weights of a published one.
    def __init__(self):
        super().__init__(ARGS)
        beside.randomized(self)

    def forward(self, video):
        return super().forward(video) * 1.1


def unknown():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 32 * 32, 5))


def words():
    return ["a model"]


def broken():
    raise ValueError("no weights\\nand more")


def stops():
    raise SystemExit(3)


def features():
    return nn.Identity()


def endless():
    return nn.Sequential(unknown(), nn.Threshold(float("inf"), float("nan")))


def demands():
    return nn.Linear(7, 7)

"""
BESIDE = """
import torch

from tests.helpers import randomize


def randomized(model):
    randomize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.3
    return model
"""
SMALL = [
    *("--clip", "4", "32", "32", "--region", "1", "2", "2"),
    *("--threads", "1", "--rounds", "2", "--seconds", "0", "--compile", "without"),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "beside.py").write_text(BESIDE)
    (folder / "peer.py").write_text(PEER)
    return folder / "peer.py"


@pytest.fixture(scope="module")
def results(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results") / "new" / "cpu.json"
    options = [*SMALL, "--batch", "1", "3", "--profile", "ours", "--out", str(out)]
    assert cli.main(["cpu", "--peer", f"{file}:build", *options]) == 0
    return json.loads(out.read_text())


def test_all_sides_are_measured_and_agree(results: dict[str, Any]) -> None:
    assert results["peer"] == {"shares_weights": True, "apart": None}
    places = {(row["op"], row["dtype"], row["batch"]) for row in results["rows"]}
    dtypes = ("float32", "bfloat16")
    assert places == {
        (op, dtype, batch) for op, batch in ((INFERENCE, 1), (INFERENCE, 3), (TRAINING, 2)) for dtype in dtypes
    }
    # Those of torch.compile are left out here, and runtimes are measured by name.
    usual = {name for name in PROVIDERS if "compiled" not in name and name not in RUNTIMES}
    assert {row["provider"] for row in results["rows"]} == usual
    assert len(results["rows"]) == 2 * 3 + 2 * 4 + 2 * 3
    for row in results["rows"]:
        assert row["error_of_budget"] <= 1 and row["rounds"] == 2
        assert row["least"] <= row["p20"] <= row["ms_per_clip"] <= row["p80"]
        assert row["of_floor"] == pytest.approx(row["floor_ms"] / row["ms_per_clip"])
        assert row["speed_of_peer"] == 1 if row["provider"] == "peer" else row["speed_of_peer"] > 0
        assert ("kinds_ms" in row) == (row["provider"] == "ours")
    assert {"processor", "instructions", "csrc", "torch", "commit"} <= results["machine"].keys()


def test_the_floor_is_that_of_the_executed_products(results: dict[str, Any]) -> None:
    rate = {(row["op"], row["dtype"], row["batch"]): row["flops_per_s"] for row in results["rates"]}
    found = {
        (row["op"], row["batch"]): row["floor_ms"] * rate[row["op"], row["dtype"], row["batch"]] / 1e3
        for row in results["rows"]
    }
    # Three passes' worth of work in training, and as much for each clip of any batch.
    assert found[INFERENCE, 1] == pytest.approx(found[INFERENCE, 3])
    assert found[TRAINING, 2] == pytest.approx(3 * found[INFERENCE, 1])
    # A block's products by hand: qkv, proj and half of the feed-forward network in both, of 10 rows; see test_profile.
    dim, rows = 192, 10
    whole = rows * (4 * dim**2 + 2 * dim * 4 * dim)
    assert 2 * whole < found[INFERENCE, 1] < 2 * 2 * 2 * whole


def test_the_table_has_a_row_for_each_work_and_where_time_goes(results: dict[str, Any]) -> None:
    lines = tables(results)
    assert lines[0] == "|  | threads | clips | peer | accelerated | ours | ours autocast | floor |"
    works = [line for line in lines if line.startswith(("| inference", "| training"))]
    # Six works, and again where the time of ours goes.
    assert len(works) == 12
    assert all(line.count("|") == lines[0].count("|") for line in works[:6])
    assert any("products" in line for line in lines)
    assert lines[-1].startswith(results["machine"]["processor"]) and "same weights on both sides" in lines[-1]


def test_works_are_added_to_a_file_of_the_same_code(
    results: dict[str, Any], file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cpu.json"
    out.write_text(json.dumps(results))
    options = ["cpu", "--peer", f"{file}:build", *SMALL, "--op", TRAINING, "--dtype", "float32", "--out", str(out)]
    assert cli.main([*options, "--add", "--training-batch", "1"]) == 0
    found = json.loads(out.read_text())
    assert len(found["rows"]) == len(results["rows"]) + 3 and found["rows"][:-3] == results["rows"]
    out.write_text(json.dumps({**found, "machine": {**found["machine"], "commit": "another"}}))
    capsys.readouterr()
    assert cli.main([*options, "--add"]) == 2
    assert "has results of commit 'another'" in capsys.readouterr().err
    out.write_text(json.dumps(found))
    assert cli.main([*options, "--add", "--clock", "processor"]) == 2
    assert "has results of clock 'wall', this is 'processor'" in capsys.readouterr().err
    out.write_text("{}")
    assert cli.main([*options, "--add"]) == 2
    assert "holds no results of this command" in capsys.readouterr().err
    assert cli.main([*options[:-2], "--add"]) == 2
    assert "--add goes with --out" in capsys.readouterr().err


def test_what_disagrees_is_not_timed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--op", INFERENCE, "--dtype", "float32", "--providers", "peer", "ours"]
    assert cli.main(["cpu", "--peer", f"{file}:Other", *options]) == 1
    said = capsys.readouterr().out
    assert "ours: failed: output 0 is wrong by" in said and "and is not timed" in said
    assert "peer: failed" not in said


def test_a_runtime_that_is_named_agrees(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--op", INFERENCE, "--batch", "2", "--providers", "peer", "onnxruntime"]
    assert cli.main(["cpu", "--peer", f"{file}:build", *options]) == 0
    said = capsys.readouterr().out
    assert "float32, 2 clips, 1 thread, onnxruntime: " in said and " times peer, floor" in said
    assert "onnxruntime: skipped: onnxruntime does not compute in bfloat16 on processors" in said


def test_gradients_are_compared(file: Path) -> None:
    sides = Sides(load_peer(f"{file}:build", CLIP, REGION))
    work = Work(TRAINING, torch.float32, 1, 2)
    verdict = sides.check("ours", work, sides.call("ours", work))
    assert verdict is not None and verdict.reason is None
    # One wrong gradient beside a loss that is right.
    dict(sides.peer.ours.named_parameters())["head.bias"].register_hook(lambda gradient: 1.01 * gradient)
    verdict = sides.check("ours", work, sides.call("ours", work))
    assert verdict is not None and verdict.reason is not None
    assert verdict.reason.startswith("the gradient of head.bias is wrong by")


def test_a_model_of_another_kind_is_measured_and_not_compared(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.cpu.peer.create_model", small_model)
    options = [*SMALL, "--op", INFERENCE, "--dtype", "float32"]
    assert cli.main(["cpu", "--peer", f"{file}:unknown", *options]) == 0
    said = capsys.readouterr().out
    assert "the peer's weights cannot be taken over, and results are not compared: the state dict has no" in said
    assert "accelerated: skipped: Sequential has no blocks of the published" in said
    assert "weights are not shared" in said


def test_ours_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.cpu.peer.create_model", small_model)
    assert cli.main(["cpu", *SMALL, "--op", INFERENCE, "--dtype", "float32"]) == 0
    said = capsys.readouterr().out
    assert "peer: skipped: there is no peer" in said and "ours alone" in said


def small_model(name: str, **changes: Any) -> nn.Module:
    model = create_model(name, **{**changes, "embed_dim": 32, "depth": 2, "num_heads": 2})
    randomize(model)
    return model


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("peer.py", "--peer 'peer.py': give FILE.py:FUNCTION"),
        ("nowhere.py:build", "there is no file 'nowhere.py'"),
        ("{file}:bild", "unknown function 'bild' in '{file}': did you mean 'build'?"),
        ("{file}:words", "words() of '{file}' gives a list: it must build a torch.nn.Module"),
        ("{file}:broken", "broken() of '{file}' raises ValueError: no weights"),
        ("{file}:stops", "stops() of '{file}' raises SystemExit: 3"),
        ("{file}:features", "gives a tensor [2, 3, 4, 32, 32] of torch.float32: it must give logits [2, classes]"),
        ("{file}:endless", "gives logits that are not finite"),
        ("{file}:demands", "the peer, given clips [2, 3, 4, 32, 32], raises RuntimeError: mat1 and mat2"),
        ("{folder}/bad.py:build", "bad.py' raises SyntaxError: "),
        ("{folder}/empty.py:build", "empty.py' has no function 'build'"),
        ("{folder}/text.txt:build", "text.txt' is no file of Python"),
    ],
)
def test_a_bad_peer_is_told_in_a_sentence(
    spec: str, sentence: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "bad.py").write_text("def build(:\n")
    (file.parent / "empty.py").write_text("")
    (file.parent / "text.txt").write_text("")
    names = {"file": str(file), "folder": str(file.parent)}
    assert cli.main(["cpu", *SMALL, "--peer", spec.format(**names)]) == 2
    said = capsys.readouterr().err
    assert sentence.format(**names) in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--threads", "0"], "--threads must be positive, got 0"),
        (["--threads", "1", "100000"], "--threads 100000: this process may use"),
        (["--batch", "1", "-1"], "--batch must be positive, got -1"),
        (["--training-batch", "0"], "--training-batch must be positive"),
        (["--rounds", "0"], "--rounds must be positive"),
        (["--threads", "2", "--clock", "processor"], "--clock processor adds up what all threads work"),
        (["--clip", "16", "0", "160"], "--clip must be positive"),
        (["--out", "."], "is a folder: give the name of a file in it"),
    ],
)
def test_bad_settings(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cpu", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_that_is_cut_off_leaves_its_rounds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_KEEP_EVERY", 0.0)
    plan = Plan([INFERENCE], [torch.float32], [1], [1], 2, Settings(compiled="without"), rounds=5, seconds=60.0)
    kept: list[dict[str, Any]] = []

    def keep(found: dict[str, Any]) -> None:
        kept.append(json.loads(json.dumps(found)))
        if len(kept) == 3:
            raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        measure(load_peer(f"{file}:build", CLIP, REGION), plan, {}, keep)
    assert torch.get_num_threads() == threads
    assert [{row["rounds"] for row in found["rows"]} for found in kept] == [{1}, {2}, {3}]


def test_the_best_way_to_multiply_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LGIFormerConfig(clip_size=CLIP, region_size=REGION, embed_dim=32, depth=1, num_heads=2)
    found = rates.product_rate(config, torch.float32, 2, seconds=0.001)
    assert [shape["shape"] for shape in found["shapes"]] == [[20, 32, 96], [20, 32, 32], [20, 32, 128], [20, 128, 32]]
    slowest, fastest = (pick(shape["flops_per_s"] for shape in found["shapes"]) for pick in (min, max))
    assert slowest <= found["flops_per_s"] <= fastest
    monkeypatch.setattr(rates, "_ways", lambda x, weight: {"linear": lambda: x @ x.T @ x, "none": lambda: None})
    found = rates.product_rate(config, torch.float32, 2, seconds=0.001)
    assert {shape["way"] for shape in found["shapes"]} == {"none"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "products"),
        ("mkldnn::_linear_pointwise", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::native_layer_norm_backward", "norms"),
        ("aten::gelu", "GELU"),
        ("aten::_softmax_backward_data", "softmax"),
        ("aten::copy_", "copies"),
        ("aten::cat", "copies"),
        ("aten::add_", "rest"),
        ("## Call CompiledFxGraph abc ##", "compiled loops"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "rest"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kinds.kind_of(name) == kind


def test_times_of_kinds_are_those_of_one_call() -> None:
    x = torch.randn(64, 64)
    found = kinds.kinds(lambda: torch.nn.functional.gelu(x @ x), seconds=1.0)
    assert found["products"] > 0 and found["GELU"] > 0 and found["attention"] == found["norms"] == 0
    # Calls by the same name, however many there were.
    assert set(found) == set(kinds.KINDS)


def test_the_file_is_run_once_and_finds_its_neighbours(file: Path) -> None:
    assert not build_network(f"{file}:build").training
    with pytest.raises(InputError, match="give FILE.py:FUNCTION"):
        build_network(":build")
