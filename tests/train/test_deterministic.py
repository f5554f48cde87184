"""`train.deterministic`: the same settings give the same bits of weights, state and log twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maedfer.train import load_config, run_finetune, run_pretrain
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.processes import start
from tests.train.runs import in_process, overrides, tiny, write_clips

# All that draws or sums: augmentation, mixing, stochastic depth, the moving average, loader processes, accumulation.
_BOTH = """data.workers=2 data.repeats=2 train.accumulate=2 train.batch_size=2 train.ema=0.9 train.deterministic=true
optim.clip_grad=0.5 optim.epochs=2""".split()
_TASKS = {
    "finetune": ["model.drop_path=0.3", "augment.erase=0.5", "eval.select=test", "eval.save_features=true"],
    "pretrain": ["model.encoder.drop_path=0.3", "model.decoder_keep=0.5"],
}
# What the clock and the machine say.
_OF_THE_CLOCK = {"time", "clips_per_s", "data_wait", "mfu", "memory_mb", "seconds_left", "seconds"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """What a tree of dictionaries and lists holds, by its place."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)  # type: ignore[assignment]
    else:
        return {path: value}
    return {place: leaf for key, item in pairs for place, leaf in leaves(item, f"{path}/{key}").items()}


def written(output: Path) -> dict[str, Any]:
    """All that a run has computed."""
    state = load_checkpoint(output / "checkpoints" / "last.pt")
    # Both know where the run is.
    for name in ("config", "digest"):
        state.pop(name, None)
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    found = leaves(state, "state") | leaves(load_file(output / "model" / "model.safetensors"), "model")
    found |= leaves([{key: item[key] for key in item.keys() - _OF_THE_CLOCK} for item in log], "log")
    for name in ("pred.csv", "features.npz", "reconstructions.npz", "metrics.json"):
        if (output / name).is_file():
            found[name] = (output / name).read_bytes()
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Places at which two runs have other bits."""

    def same(place: str) -> bool:
        left, right = one[place], other[place]
        if isinstance(left, torch.Tensor):
            return left.dtype == right.dtype and left.shape == right.shape and left.equal(right)
        return type(left) is type(right) and repr(left) == repr(right)

    return sorted(one.keys() ^ other.keys()) + [place for place in one if place in other and not same(place)]


@pytest.mark.parametrize(
    ("task", "precision", "threads"),
    [("finetune", "fp32", 1), ("finetune", "bf16", 1), ("pretrain", "fp32", 2), ("pretrain", "bf16", 1)],
)
def test_the_same_bits_twice(task: str, precision: str, threads: int, data: Path, tmp_path: Path) -> None:
    settings = [*_BOTH, *_TASKS[task], f"train.precision={precision}", f"train.threads={threads}"]
    if threads > 1:
        # Threads that wait for each other take long where others want the processor too.
        settings += ["optim.epochs=1", "optim.warmup_epochs=0"]
    found = []
    # In this process, which has computed other things, and in one of its own.
    {"finetune": run_finetune, "pretrain": run_pretrain}[task](tiny(task, data, tmp_path / "a" / "run", *settings))
    found.append(written(tmp_path / "a" / "run"))
    done = in_process(task, [*overrides(task, data, tmp_path / "b" / "run"), *settings])
    assert done.ok, done.text
    found.append(written(tmp_path / "b" / "run"))
    assert len(found[0]) > 200 and any(place.startswith("state/ema/") for place in found[0])
    assert differing(*found) == []


def test_another_seed_gives_other_bits(data: Path, tmp_path: Path) -> None:
    found = []
    for seed in (5, 6):
        cfg = tiny(
            "pretrain", data, tmp_path / f"{seed}", *_BOTH, *_TASKS["pretrain"], f"seed={seed}", "data.workers=0"
        )
        run_pretrain(cfg)
        found.append(written(tmp_path / f"{seed}"))
    places = differing(*found)
    assert {place.partition("/")[0] for place in places} >= {"state", "model", "log", "reconstructions.npz"}
    weights = [place for place in found[0] if place.startswith("state/model/")]
    assert sum(place in places for place in weights) > len(weights) / 2


def test_what_is_switched_on_is_switched_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)

    def state() -> tuple[bool, bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, config.deterministic

    before = state()
    for given, expected in ((["train.deterministic=true"], (True, False, True)), ([], before)):
        with start(load_config("finetune", None, ["data.train=x", "train.device=cpu", *given])):
            assert state() == expected
        assert state() == before
    with pytest.raises(RuntimeError, match="deterministic"):
        with start(load_config("finetune", None, ["data.train=x", "train.device=cpu", "train.deterministic=true"])):
            # As PyTorch refuses what it has no deterministic way for.
            raise RuntimeError("put_ does not have a deterministic implementation")
    assert state() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("task", _TASKS)
@pytest.mark.parametrize("compiled", ["true", "false"])
def test_the_same_bits_twice_on_a_gpu(task: str, compiled: str, data: Path, tmp_path: Path) -> None:
    settings = [*overrides(task, data, tmp_path / "x"), *_BOTH, *_TASKS[task], "train.device=cuda"]
    settings += ["train.accumulate=1", f"train.compile={compiled}"]
    found = []
    for name in ("a", "b"):
        done = in_process(task, [*settings, f"output={tmp_path / name / 'run'}"])
        assert done.ok, done.text
        found.append(written(tmp_path / name / "run"))
    assert differing(*found) == []
