"""The files that `export_model` writes: how each is made of a traced model, and run again.

Each carries one text about the model, JSON, under the name "maedfer".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from maedfer.errors import InputError, require

# Names of the one input, of what may be any number in it, and of the text about the model.
CLIPS, BATCH, ABOUT = "clips", "batch", "maedfer"
# The first opset with a Gelu of its own.
ONNX_OPSET = 20
# One message of Protocol Buffers, which an ONNX file is; the graph takes some of it.
_ONNX_MOST_BYTES = 2**31 - 2**25
_AOTI_ABOUT = "aot_inductor.metadata"

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        title: what people call it.
        suffixes: of the files that are written, that of the file to name first.
        dtypes: what its weights can be in.
        needs: refuses where something that makes or runs it is missing.
        write: writes a traced model whose output has a name, and the text about it, under the first suffix.
        open: gives what runs the file: clips [B, ...] to [B, n] float32. Takes the number of threads, PyTorch's when
            None, and whether to compute in bfloat16 what is stored in float32.
    """

    title: str
    suffixes: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    needs: Callable[[], None]
    write: Callable[[ExportedProgram, Path, str, str], None]
    open: Callable[[Path, int | None, bool], Run]

    def files(self, out: Path) -> list[Path]:
        """All files that are written where `out` is the one to name."""
        return [out.with_suffix(suffix) for suffix in self.suffixes]


def _needs_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "export")


def _write_onnx(program: ExportedProgram, path: Path, output: str, about: str) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > _ONNX_MOST_BYTES:
        raise InputError(
            f"an ONNX file holds less than 2 GiB and the weights are {size / 2**30:.1f} GiB: "
            "choose --format openvino or pt2"
        )
    made = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        opset_version=ONNX_OPSET,
        input_names=[CLIPS],
        output_names=[output],
        dynamic_shapes={CLIPS: {0: BATCH}},
    )
    assert made is not None
    made.model.metadata_props[ABOUT] = about
    made.save(path, external_data=False)


def _open_onnx(path: Path, threads: int | None, low: bool) -> Run:
    runtime = require("onnxruntime", "export")
    _refuse_low(low, "ONNX Runtime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Errors are raised; what else it says is for its developers.
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {CLIPS: clips.numpy()})[0])


def _openvino() -> ModuleType:
    # Where this package is found, OpenVINO reports to its makers that it is used; nobody here was asked.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", "export")


def _needs_openvino() -> None:
    _openvino()


def _write_openvino(program: ExportedProgram, path: Path, output: str, about: str) -> None:
    openvino = _openvino()
    clips = next(node for node in program.graph.nodes if node.name == CLIPS).meta["val"]
    model = openvino.convert_model(program)
    # The conversion leaves every size open.
    model.reshape({0: openvino.PartialShape([-1, *clips.shape[1:]])})
    model.inputs[0].tensor.set_names({CLIPS})
    model.outputs[0].tensor.set_names({output})
    model.set_rt_info(about, [ABOUT])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _open_openvino(path: Path, threads: int | None, low: bool) -> Run:
    openvino = _openvino()
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        # Some processors would compute in less by themselves.
        "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
    }
    request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()
    # A copy: the next request writes into the same memory.
    return lambda clips: torch.from_numpy(request.infer([clips.numpy()], share_inputs=True)[0].copy())


def _needs_nothing() -> None:
    pass


def _write_pt2(program: ExportedProgram, path: Path, output: str, about: str) -> None:
    torch.export.save(program, path, extra_files={f"{ABOUT}.json": about})


def _open_pt2(path: Path, threads: int | None, low: bool) -> Run:
    _refuse_low(low, "torch.export")
    return _called(torch.export.load(path).module(), threads)


def _needs_compiler() -> None:
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler.split()[0]) is None:
        raise InputError(
            f"--format aoti compiles for this machine, and its C++ compiler {compiler!r} is not found: install g++ "
            "(Debian and Ubuntu: apt install g++), or name another by the environment variable CXX"
        )


def _write_aoti(program: ExportedProgram, path: Path, output: str, about: str) -> None:
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=str(path), inductor_configs={_AOTI_ABOUT: {ABOUT: about}})


def _open_aoti(path: Path, threads: int | None, low: bool) -> Run:
    from torch._inductor import aoti_load_package

    _refuse_low(low, "AOTInductor")
    return _called(aoti_load_package(str(path)), threads)


def _called(module: Callable[..., Any], threads: int | None) -> Run:
    @torch.no_grad()
    def run(clips: Tensor) -> Tensor:
        with _threads(threads):
            return module(clips)

    return run


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_low(low: bool, runtime: str) -> None:
    if low:
        raise InputError(f"{runtime} computes in the dtype that weights are stored in")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_FLOAT32 = (torch.float32,)
_BOTH = (torch.float32, torch.bfloat16)

FORMATS: dict[str, Format] = {
    "onnx": Format("ONNX", (".onnx",), _FLOAT32, _needs_onnx, _write_onnx, _open_onnx),
    "openvino": Format("OpenVINO", (".xml", ".bin"), _FLOAT32, _needs_openvino, _write_openvino, _open_openvino),
    "pt2": Format("torch.export", (".pt2",), _BOTH, _needs_nothing, _write_pt2, _open_pt2),
    "aoti": Format("AOTInductor", (".pt2",), _BOTH, _needs_compiler, _write_aoti, _open_aoti),
}
