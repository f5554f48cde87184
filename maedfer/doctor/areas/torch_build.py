"""What PyTorch was built for, and whether its products on this processor are right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import torch

from maedfer.doctor.finding import Finding, Options, note, ok, wrong

_ROWS, _WIDTH = 96, 257


def look(options: Options) -> Iterator[Finding]:
    """Build, instructions, products, the compiler that torch.compile and Triton call."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPUs alone"
    onednn = "with" if torch.backends.mkldnn.is_available() else "without"
    said = f"{torch.__version__}, built for {built}, {torch.backends.cpu.get_cpu_capability()} here, {onednn} oneDNN"
    yield ok("torch build", said)
    for dtype in (torch.float32, torch.bfloat16):
        yield product(torch.device("cpu"), dtype)
    compiler = next((name for name in (os.environ.get("CXX"), "g++", "clang++") if name and shutil.which(name)), None)
    if compiler is None:
        yield note(
            "compiler", "no C++ compiler", "install g++ for torch.compile and Triton, or set train.compile=false"
        )
    else:
        yield ok("compiler", f"{shutil.which(compiler)}, for torch.compile and Triton")


def product(device: torch.device, dtype: torch.dtype, name: str = "") -> Finding:
    """A product on a device against float64 on the CPU."""
    short = str(dtype).removeprefix("torch.")
    name = name or f"{device.type} product"
    numbers = torch.arange(_ROWS * _WIDTH, dtype=torch.float64) * 0.7548776662466927
    x = (numbers.frac() - 0.5).view(_ROWS, _WIDTH).to(dtype)
    exact = x.double() @ x.double().t()
    found = (x.to(device) @ x.to(device).t()).cpu().double()
    error = float((found - exact).abs().max() / exact.abs().max())
    # Roundings of the result, of TF32 where it is allowed, and of sums in float32.
    allowed = 2**-7 if dtype == torch.bfloat16 else 2**-10 if torch.backends.cuda.matmul.allow_tf32 else 2**-18
    if not error <= allowed:
        return wrong(
            name, f"{short} is off by {error:.2g} of the largest result", "the processor or its driver is broken"
        )
    return ok(name, f"{short} is off by {error:.1g} of the largest result, as its digits allow")
