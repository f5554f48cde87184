"""The kernels of this package: Triton's, and those of csrc; one operator of each against the specification."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import maedfer
from maedfer._native import MODULES, build_record
from maedfer.doctor.build import made_with
from maedfer.doctor.finding import Finding, Options, note, ok, wrong
from maedfer.kernels import Impl, choose, functional

_BUILD = "make setup, or pip install -e . in its folder"


def look(options: Options) -> Iterator[Finding]:
    """Who computes, what was compiled, operators."""
    gpu = torch.cuda.is_available()
    for device in ("cuda", "cpu") if gpu else ("cpu",):
        yield ok(f"impl=auto on {device}", choose("auto", torch.device(device)))
    yield from _triton(gpu)
    for part, record in build_record().items():
        module, name = MODULES[part], f"csrc {part.upper()}"
        if module is None:
            file = next(iter(_files(Path(maedfer.__file__).parent, part)), None)
            if file is not None:
                suffix = sysconfig.get_config_var("EXT_SUFFIX")
                yield wrong(name, f"{record['why']}; there is {file.name}, and this Python takes *{suffix}", _BUILD)
            else:
                yield note(name, made_with(record), f"operators run without it, on a CPU slower: {_BUILD}")
            continue
        sets = f"; the processor takes {', '.join(module.variants())}" if part == "cpu" else ""
        yield ok(name, made_with(record) + sets)
        if (why := stale(Path(maedfer.__file__).resolve().parent, part)) is not None:
            yield note(name, why, _BUILD)
        if part == "cpu" or gpu:
            yield _agrees(f"{name} operator", "native", "cuda" if part == "cuda" else "cpu")


def _triton(gpu: bool) -> Iterator[Finding]:
    try:
        import triton
    except ImportError as error:
        yield (wrong if gpu else note)("Triton", f"cannot be imported ({error})", "pip install triton")
        return
    if not gpu:
        yield ok("Triton", f"{triton.__version__}; without a GPU no kernel is compiled or run")
        return
    yield ok("Triton", triton.__version__)
    yield _agrees("Triton kernel", "triton", "cuda")


def _agrees(name: str, impl: Impl, device: str) -> Finding:
    """An operator of an implementation against the specification in float64."""
    # csrc's part for GPUs has no LayerNorm.
    compute, what = (_cubes, "forward") if (impl, device) == ("native", "cuda") else (_norm, "forward and backward")
    expected, found = compute("reference", "cpu"), compute(impl, device)
    error = max(
        float((one - other.double().cpu()).abs().max() / one.abs().max())
        for one, other in zip(expected, found, strict=True)
    )
    if not error <= 1e-4:
        return wrong(name, f"off by {error:.2g} of the specification", f"{_BUILD}; MAEDFER_IMPL=torch does without")
    return ok(name, f"{what} within {error:.1g} of the specification in float64")


def _norm(impl: Impl, device: str) -> list[Tensor]:
    """A LayerNorm and its gradients, in float64 by the specification, else in float32."""
    dtype = torch.float64 if impl == "reference" else torch.float32
    numbers = (torch.arange(24 * 64, dtype=torch.float64) * 0.7548776662466927).frac() - 0.5
    values = numbers.view(2, 12, 64), torch.linspace(0.5, 1.5, 64), torch.linspace(-1, 1, 64)
    x, weight, bias = (value.to(device, dtype).requires_grad_() for value in values)
    result = functional.layer_norm(x, (weight, bias), eps=1e-6, impl=impl)
    return [result.detach(), *torch.autograd.grad((result * result).sum(), (x, weight, bias))]


def _cubes(impl: Impl, device: str) -> list[Tensor]:
    """Normalised cubes of pixels."""
    frames = (torch.arange(3 * 4 * 16 * 16) * 37 % 251).to(torch.uint8).view(1, 3, 4, 16, 16).to(device)
    dtype = torch.float64 if impl == "reference" else torch.float32
    index = torch.tensor([[3, 0, 5]], device=device)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return [functional.tubelets(frames, index, patch_size=(2, 8, 8), mean=mean, std=std, dtype=dtype, impl=impl)]


def stale(package: Path, part: str) -> str | None:
    """Why a compiled module may not be of the source beside it; None where it is, or there is no source."""
    folder = package.parent / "csrc"
    sources = [path for path in folder.rglob("*") if path.suffix in (".cpp", ".h", ".cu", ".cuh")]
    sources = [path for path in sources if part == "cuda" or "cuda" not in path.relative_to(folder).parts]
    files = _files(package, part)
    if not files:
        return None
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    used = package / f"_{part}{suffix}"
    if sources and used.is_file():
        newest = max(sources, key=lambda path: path.stat().st_mtime)
        if newest.stat().st_mtime > used.stat().st_mtime:
            return f"csrc/{newest.relative_to(folder)} was changed after {used.name} was compiled"
    others = [path.name for path in files if path != used]
    return f"{', '.join(others)} of another Python lies beside {used.name}" if others else None


def _files(package: Path, part: str) -> list[Path]:
    return sorted(package.glob(f"_{part}.*.so")) + sorted(package.glob(f"_{part}.so"))
