"""Exported files, run as somebody without this package runs them."""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from maedfer.errors import InputError, MissingDependencyError, require
from maedfer.models import ClipSettings, LGIFormer, build_model, export, export_formats, export_model, normalize_frames
from tests.helpers import SMALL_MAE, randomize, relative_error, small

CLASSES = ("calm", 'moved "so"', "gerührt", "<d>", "e")
# One block, no more than a compiler can read in a moment.
TINY: dict[str, Any] = {"clip_size": (4, 16, 16), "region_size": (1, 2, 2), "embed_dim": 16, "depth": 1}
_NO_WHEEL = pytest.mark.skipif(platform.machine() != "x86_64", reason="no wheels of OpenVINO for all Python versions")
ONNX = pytest.param("onnx", "m.onnx", id="onnx")
OPENVINO = pytest.param("openvino", "m.xml", id="openvino", marks=_NO_WHEEL)
PT2 = pytest.param("pt2", "m.pt2", id="pt2")
_NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
AOTI = pytest.param("aoti", "m.pt2", id="aoti", marks=[pytest.mark.slow, _NO_COMPILER])


class Deployed(NamedTuple):
    """A file as its own runtime has it."""

    run: Callable[[Tensor], Tensor]
    about: str
    shapes: list[str]


def model(**changes: Any) -> LGIFormer:
    """A classifier with random weights and class names."""
    made = build_model(small(**changes)).eval()
    randomize(made)
    made.clip_settings = ClipSettings(classes=CLASSES[: made.config.num_classes], stride=3, fit="crop", views=2)
    return made


def frames(of: LGIFormer, count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, *of.config.clip_size), dtype=torch.uint8)


def deployed(format: str, path: Path) -> Deployed:
    """Load a file as the manual of its runtime has it."""
    if format == "onnx":
        session = require("onnxruntime", "export").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        ends = [*session.get_inputs(), *session.get_outputs()]
        return Deployed(
            lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0]),
            session.get_modelmeta().custom_metadata_map["maedfer"],
            [f"{end.name} {end.shape}" for end in ends],
        )
    if format == "openvino":
        openvino = require("openvino", "export")
        graph = openvino.Core().read_model(str(path))
        compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return Deployed(
            lambda clips: torch.from_numpy(compiled({"clips": clips.numpy()})["logits"].copy()),
            graph.get_rt_info(["maedfer"]).astype(str),
            [f"{end.any_name} {end.partial_shape}" for end in [*graph.inputs, *graph.outputs]],
        )
    if format == "pt2":
        extra = {"maedfer.json": ""}
        program = torch.export.load(path, extra_files=extra)
        return Deployed(program.module(), extra["maedfer.json"], [])
    package = torch._inductor.aoti_load_package(str(path))
    return Deployed(package, package.get_metadata()["maedfer"], [])


@pytest.mark.parametrize(("format", "name"), [ONNX, OPENVINO, PT2, AOTI])
def test_a_file_is_the_model_for_any_number_of_clips(format: str, name: str, tmp_path: Path) -> None:
    original = model(**TINY) if format in ("pt2", "aoti") else model()
    said: list[str] = []
    found = export_model(original, tmp_path / name, format, tell=said.append)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in found.files}
    assert found.difference < 1e-5 and len(said) == 3
    file = deployed(format, found.files[0])
    for count in (1, 2, 5):
        clips = frames(original, count)
        with torch.no_grad():
            assert relative_error(file.run(clips), original(clips)) < 1e-5
    about = json.loads(file.about)
    assert about == found.about
    assert about["classes"] == list(CLASSES) and about["sampling"] == {"stride": 3, "fit": "crop", "views": 2}
    if format == "onnx":
        assert file.shapes == ["clips ['batch', 3, 8, 32, 32]", "logits ['batch', 5]"]
    if format == "openvino":
        assert file.shapes == ["clips [?,3,8,32,32]", "logits [?,5]"]
        # It would report its use.
        assert sys.modules["openvino_telemetry"] is None


def test_clips_that_the_caller_normalises(tmp_path: Path) -> None:
    original = model(**TINY, num_classes=0)
    found = export_model(original, tmp_path / "m.pt2", "pt2", input="float32")
    clips = frames(original, 3)
    file = deployed("pt2", found.files[0])
    with torch.no_grad():
        assert relative_error(file.run(normalize_frames(clips.float() / 255)), original(clips)) < 1e-5
    about = json.loads(file.about)
    pixels = clips[:, :, 0, 0, 0] / 255
    mean, std = (torch.tensor(about["input"][key]) for key in ("mean", "std"))
    torch.testing.assert_close((pixels - mean) / std, normalize_frames(clips.float() / 255)[:, :, 0, 0, 0])
    assert about["input"]["dtype"] == "float32" and about["input"]["normalised_by"].startswith("caller")
    assert about["output"] == {"name": "features", "shape": ["batch", 16], "dtype": "float32"}


def test_bfloat16_is_half_the_bytes(tmp_path: Path) -> None:
    original = model(**{**TINY, "embed_dim": 256})
    found = export_model(original, tmp_path / "m.pt2", "pt2", dtype="bfloat16")
    assert found.about["dtype"] == "bfloat16" and 1e-4 < found.difference <= found.tolerance == 0.05
    whole = sum(parameter.nbytes for parameter in original.parameters())
    assert 0.5 * whole < found.files[0].stat().st_size < 0.6 * whole
    got = deployed("pt2", found.files[0]).run(frames(original, 1))
    assert got.dtype == torch.float32


@pytest.mark.parametrize(
    "changes",
    [
        {"intra_region": "cross", "interaction": "self", "share_attention": "all", "token_type": "all"},
        {"inter_region": False, "feedback": "clip", "token_type": "local", "position": "learned"},
        {"interaction": "none", "inter_region": False},
        {"architecture": "vit"},
        {"clip_size": (16, 16), "patch_size": (4, 4), "region_size": (2, 2), "in_channels": 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_design_is_a_graph_of_pytorchs_operators(changes: dict[str, Any]) -> None:
    original = model(**{**TINY, "depth": 2, **changes})
    shape = (1, original.config.in_channels, *original.config.clip_size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8)
    with torch.no_grad():
        want = original(clips)
        program = export._trace(original, clips.repeat(2, *[1] * (len(shape) - 1)))
        assert relative_error(program.module()(clips), want) < 1e-5


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    original = build_model(small(**TINY, impl="reference")).train()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    export_model(original, tmp_path / "m.pt2", "pt2")
    assert original.training and all(parameter.requires_grad for parameter in original.parameters())
    assert original.config.impl == original.encoder.embedding.impl == "reference"
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = model(**TINY)
    (tmp_path / "m.pt2").write_text("earlier")
    monkeypatch.setitem(export.TOLERANCE, torch.float32, -1.0)
    with pytest.raises(InputError, match=r"differs from the model by .*, -1 is allowed: .*m.pt2 was not written"):
        export_model(original, tmp_path / "m.pt2", "pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]
    assert (tmp_path / "m.pt2").read_text() == "earlier"


def test_differences_are_relative_and_nothing_is_lost() -> None:
    want = [torch.tensor([[1.0, -4.0]]), torch.tensor([[2.0, 0.0]])]

    def difference(*changes: Tensor) -> float:
        found = iter([value + change for value, change in zip(want, changes, strict=True)])
        return export._difference(lambda clips: next(found), want, want)

    zero, wide = torch.zeros(1, 2), torch.zeros(2, 2)
    assert difference(zero, zero) == 0.0
    assert difference(torch.tensor([[0.0, 1.0]]), zero - 0.5) == 0.25
    assert math.isnan(difference(zero * math.nan, zero)) and math.isnan(difference(zero, wide))


def test_operators_of_somebody_else_are_refused(tmp_path: Path) -> None:
    @torch.library.custom_op("maedfer_tests::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return 2 * x

    double.register_fake(torch.empty_like)

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return double(x)

    original = model(**TINY, num_classes=0)
    original.head = Head()  # type: ignore[assignment]
    with pytest.raises(InputError, match="the model calls maedfer_tests.double.default, which no other runtime has"):
        export_model(original, tmp_path / "m.pt2", "pt2")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("out", "format", "settings", "message"),
    [
        ("m.onnx", "onxx", {}, "unknown format 'onxx': did you mean 'onnx'"),
        ("m.onnx", "onnx", {"input": "uint16"}, "unknown input 'uint16'"),
        ("m.onnx", "onnx", {"dtype": "int8"}, "unknown dtype 'int8'"),
        ("m.onnx", "onnx", {"dtype": "bfloat16"}, "a file of ONNX is written in float32, not in bfloat16"),
        ("m.xml", "openvino", {"dtype": "bfloat16"}, "told INFERENCE_PRECISION_HINT=bf16"),
        ("m.pth", "pt2", {}, "m.pth' must end in .pt2, as files of torch.export do"),
        ("absent/m.pt2", "pt2", {}, "cannot write .*: there is no folder '.*absent'"),
        ("folder.pt2", "pt2", {}, "cannot write .*folder.pt2': it is a folder"),
        ("m.bin", "openvino", {}, "m.bin' must end in .xml"),
    ],
)
def test_what_cannot_be_written(out: str, format: str, settings: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(InputError, match=message):
        export_model(model(**TINY), tmp_path / out, format, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt2"]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give maedfer.evaluation.feature_extractor\(model\)"):
        export_model(build_model(SMALL_MAE), tmp_path / "m.pt2", "pt2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="an LGIFormer can be exported, got Linear"):
        export_model(nn.Linear(2, 2), tmp_path / "m.pt2", "pt2")  # type: ignore[arg-type]


def test_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = model(**TINY)
    for package, format, name in (("onnxscript", "onnx", "m.onnx"), ("openvino", "openvino", "m.xml")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=f"pip install .*{package}"):
            export_model(original, tmp_path / name, format)
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(InputError, match="its C\\+\\+ compiler 'no-such-compiler -O2' is not found: install g\\+\\+"):
        export_model(original, tmp_path / "m.pt2", "aoti")


def test_onnx_holds_no_more_than_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "_ONNX_MOST_BYTES", 1000)
    with pytest.raises(InputError, match="an ONNX file holds less than 2 GiB .* choose --format openvino or pt2"):
        export_model(model(**TINY), tmp_path / "m.onnx", "onnx")
    assert not [*tmp_path.iterdir()]
