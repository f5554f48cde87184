"""What the settings of compilers and graphs come to on a device, and how that is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maedfer.dataclass_tree import from_dict
from maedfer.errors import InputError
from maedfer.train import compiling, load_config
from maedfer.train.compiling import Compiling
from maedfer.train.settings import TrainConfig

GIVEN = {"finetune": ["data.train=a"], "evaluate": ["data.test=a", "eval.checkpoint=w.pth"]}
GPU = torch.device("cuda", 0)


def resolved(device: torch.device, *changes: str, task: str = "finetune") -> Compiling:
    return Compiling.of_run(load_config(task, None, [*GIVEN[task], *changes]), device)


def test_settings_of_earlier_versions_are_read() -> None:
    assert from_dict(TrainConfig, {"compile": False, "cuda_graphs": True}) == TrainConfig(
        compile="false", cuda_graphs="true"
    )


def test_a_cpu_runs_as_ever_unless_it_is_told() -> None:
    assert resolved(torch.device("cpu")) == Compiling()
    assert resolved(torch.device("cpu"), "train.compile=true") == Compiling(True, why="compiled")
    with pytest.raises(InputError, match="train.cuda_graphs needs a CUDA device"):
        resolved(torch.device("cpu"), "train.cuda_graphs=true")


@pytest.mark.parametrize(("text", "switch"), [("true", "true"), ("True", "true"), ("FALSE", "false")])
def test_switches_of_earlier_versions_are_read(text: str, switch: str, tmp_path: Path) -> None:
    """They were true or false, in a file and on the command line."""
    file = tmp_path / "config.yaml"
    file.write_text(f"task: finetune\ndata: {{train: a}}\ntrain: {{compile: {text}, cuda_graphs: false}}\n")
    train = load_config("finetune", file).train
    assert (train.compile, train.cuda_graphs) == (switch, "false")
    assert load_config("finetune", None, ["data.train=a", f"train.compile={text}"]).train.compile == switch


@pytest.mark.parametrize(
    ("changes", "impl", "want"),
    [
        ([], "triton", (True, True, True, "compiled and replayed as CUDA graphs")),
        (["train.compile=false"], "triton", (False, False, False, "run eagerly (train.compile=false)")),
        (["train.cuda_graphs=false"], "triton", (True, False, False, "not replayed (train.cuda_graphs=false)")),
        (["train.accumulate=2"], "triton", (True, False, True, "not replayed (gradients of train.accumulate")),
        ([], "torch", (True, False, False, "CUDA graphs are for Triton's kernels")),
    ],
)
def test_a_gpu_compiles_and_replays_unless_something_is_against_it(
    changes: list[str], impl: str, want: tuple[bool, bool, bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "choose", lambda *_: impl)
    found = resolved(GPU, *changes)
    assert (found.compiled, found.replayed, found.scoring) == want[:3] and want[3] in found.why


def test_an_evaluation_replays_and_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "choose", lambda *_: "triton")
    found = resolved(GPU, "train.accumulate=2", task="evaluate")
    assert found.scoring and found.why == "batches replayed as CUDA graphs"
    assert not resolved(GPU, "train.compile=false", task="evaluate").scoring
    assert resolved(GPU, "train.compile=false", "train.cuda_graphs=true", task="evaluate").scoring


def test_graphs_are_refused_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "choose", lambda *_: "torch")
    with pytest.raises(InputError, match="replays Triton's kernels, and model.impl comes to 'torch' here"):
        resolved(GPU, "train.cuda_graphs=true")
