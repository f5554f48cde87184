"""Sharded runs against copied ones, on 1, 2 and 4 processes: four are started once, and join in pairs and all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maedfer.train import run_pretrain
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.checkpoint_folder import checked, read_folder
from tests.train.crowd import Crowd, in_crowd
from tests.train.runs import overrides, records, tiny, write_clips

KINDS = ("none", "full")
# Gradients of a tiny model are added up in another order, and Adam divides small ones by small ones.
COMMON = ["optim.epochs=2", "optim.lr=1e-3", "optim.clip_grad=0.3", "train.ema=0.5", "train.save_steps=2"]
# Copied runs write files, sharded ones folders, while they go on.
FORMS = {"none": ["train.checkpoint=file"], "full": ["train.checkpoint=sharded", "train.save_async=true"]}
DROPPING = "model.encoder.drop_path=0.3"
# Three steps, in which the depth of a clip is not drawn by its place in a pass.
SHORT = ["optim.epochs=1", "optim.warmup_epochs=0", "model.encoder.drop_path=0", "train.save_steps=0"]
ADDED_UP = [*SHORT, "train.batch_size=1", "train.accumulate=2"]


def settings(folder: Path, name: str, world: int, *changes: str) -> list[str]:
    batch = f"train.batch_size={4 // world}"
    return [*overrides("pretrain", folder / "clips", folder / name), *COMMON, DROPPING, batch, *changes]


def runs(crowd: Crowd, folder: Path) -> None:
    """All the runs: NAME is HOW_KINDwhere; `cut` ones are whole ones as they were before step 4, and go on."""

    def run(name: str, world: int, *changes: str, copies: Sequence[str] = ()) -> None:
        crowd.run("pretrain", settings(folder, name, world, *changes), 4, [folder / copy for copy in copies])

    def cut(kind: str, world: int) -> None:
        sharding = [f"train.sharding={kind}", *FORMS[kind]]
        run(f"whole_{kind}{world}", world, *sharding, copies=[f"cut_{kind}{world}", f"moved_{kind}{world}"])
        run(f"cut_{kind}{world}", world, *sharding)

    with crowd.in_groups_of(2) as group:
        kind = KINDS[group]
        cut(kind, 2)
        run(f"added_{kind}2", 2, f"train.sharding={kind}", *ADDED_UP)
        run(f"low_{kind}2", 2, f"train.sharding={kind}", *ADDED_UP, "train.precision=bf16")
        if kind == "full":
            run("recomputed_full2", 2, "train.sharding=full", "train.recompute=true")
    with crowd.in_groups_of(4):
        for kind, other in zip(KINDS, reversed(KINDS), strict=True):
            cut(kind, 4)
            run(f"moved_{kind}2", 4, f"train.sharding={other}", *FORMS[other])
    with crowd.in_groups_of(2) as group:
        other = KINDS[1 - group]
        run(f"moved_{KINDS[group]}4", 2, f"train.sharding={other}", *FORMS[other])


def compiled_run(crowd: Crowd, texts: Path, folder: Path, kind: str) -> None:
    # Inductor takes a minute for it, and which code it writes is not the trainer's doing.
    torch.compile = partial(torch.compile, backend="aot_eager", fullgraph=True)
    changes = [f"train.sharding={kind}", *ADDED_UP, "train.compile=true"]
    with crowd.in_groups_of(2):
        crowd.run("pretrain", settings(folder, f"compiled_{kind}2", 2, *changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parallel")
    write_clips(place / "clips")
    in_crowd(4, runs, place, joins=4)
    run_pretrain(tiny("pretrain", place / "clips", place / "one", *COMMON, DROPPING))
    run_pretrain(tiny("pretrain", place / "clips", place / "short", *COMMON, *SHORT))
    return place


def losses(folder: Path, name: str) -> list[float]:
    return [record["loss"] for record in records(folder / name, "step")]


def weights(folder: Path, name: str) -> dict[str, Any]:
    return load_file(folder / name / "model" / "model.safetensors")


def assert_same(folder: Path, left: str, right: str) -> None:
    ours, theirs = weights(folder, left), weights(folder, right)
    assert losses(folder, left) == losses(folder, right)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_went_on_repeats_the_whole_one(kind: str, world: int, folder: Path) -> None:
    name = f"{kind}{world}"
    assert [record["step"] for record in records(folder / f"cut_{name}", "step")] == [1, 2, 3, 4, 5, 6]
    assert_same(folder, f"cut_{name}", f"whole_{name}")


@pytest.mark.parametrize("name", ["none4", "full2", "full4"])
def test_any_number_of_processes_comes_to_the_same_losses(name: str, folder: Path) -> None:
    """Stochastic depth included, which is drawn by the place of a clip."""
    for before in ("one", "whole_none2"):
        assert losses(folder, f"whole_{name}") == pytest.approx(losses(folder, before), abs=1e-5)
    for key in ("lr", "grad_norm"):
        left, right = ([r[key] for r in records(folder / run, "step")] for run in (f"whole_{name}", "one"))
        assert left == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("name", ["none2", "full2", "none4", "full4"])
def test_a_run_goes_on_with_another_number_of_processes_sharded_or_not(name: str, folder: Path) -> None:
    """From 2 to 4 and from 4 to 2, from copied to sharded and back."""
    assert losses(folder, f"moved_{name}") == pytest.approx(losses(folder, f"whole_{name}"), abs=1e-5)
    # The one checkpoint that it wrote has the other form, and that which it went on from is the one before.
    here = {path.name for path in (folder / f"moved_{name}" / "checkpoints").iterdir()}
    assert here == ({"last", "previous.pt"} if name.startswith("none") else {"last.pt", "previous"})


def test_a_checkpoint_in_parts_holds_what_that_in_a_file_does(folder: Path) -> None:
    parts = checked(folder / "whole_full4" / "checkpoints" / "last")["files"]
    assert {f"__{rank}_0.distcp" for rank in range(4)} < parts.keys()
    ours = read_folder(folder / "whole_full2" / "checkpoints" / "last")
    theirs = load_checkpoint(folder / "whole_none2" / "checkpoints" / "last.pt")
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    for name in ("model", "ema"):
        assert list(ours[name]) and ours[name].keys() == theirs[name].keys()
        for key, value in theirs[name].items():
            torch.testing.assert_close(ours[name][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_two_passes_are_those_of_a_batch_twice_as_large(kind: str, folder: Path) -> None:
    for key in ("loss", "grad_norm"):
        ours, theirs = ([r[key] for r in records(folder / run, "step")] for run in (f"added_{kind}2", "short"))
        assert len(ours) == 3 and ours == pytest.approx(theirs, rel=1e-5)


def test_bfloat16_is_that_of_copied_weights(folder: Path) -> None:
    """Sharded, blocks get their weights in bfloat16; copied, products round them themselves."""
    ours, theirs, exact = (losses(folder, name) for name in ("low_full2", "low_none2", "added_none2"))
    assert ours == pytest.approx(theirs, rel=1e-4) and ours != pytest.approx(exact, rel=1e-4)
    low, copied = ([r["grad_norm"] for r in records(folder / run, "step")] for run in ("low_full2", "low_none2"))
    assert low == pytest.approx(copied, rel=2e-3)


@pytest.mark.parametrize(
    ("kind", "around"), [("none", "copied to 2 processes"), ("full", "sharded over 2 processes in 3 blocks")]
)
def test_compiled_runs_come_to_the_same_losses(kind: str, around: str, folder: Path, tmp_path: Path) -> None:
    text = in_crowd(2, compiled_run, tmp_path, folder, kind, joins=1)
    for key in ("loss", "grad_norm"):
        ours, theirs = ([r[key] for r in records(folder / f"{run}_{kind}2", "step")] for run in ("compiled", "added"))
        assert len(ours) == 3 and ours == pytest.approx(theirs, rel=1e-5)
    assert f"{around}, compiled: " in text


def test_recomputed_blocks_change_nothing(folder: Path) -> None:
    assert_same(folder, "recomputed_full2", "whole_full2")


def test_the_first_line_says_what_is_around_the_model(folder: Path) -> None:
    text = "".join(path.read_text() for path in folder.glob("crowd_*.txt"))
    assert text.count("by native, copied to 2 processes: ") == 5
    assert text.count("sharded over 4 processes in 3 blocks: ") == 3
    assert "layer by layer" not in text
