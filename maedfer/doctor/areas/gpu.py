"""The GPUs that PyTorch finds: what they are, and whether they compute what a CPU does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from maedfer.doctor.areas.torch_build import product
from maedfer.doctor.finding import Finding, Options, note, ok, wrong

_GIB = 1 << 30


def look(options: Options) -> Iterator[Finding]:
    """Each GPU with a product; then Triton and csrc on the first."""
    if not torch.cuda.is_available():
        yield _none(torch.version.cuda)
        return
    version = Path("/proc/driver/nvidia/version")
    driver = version.read_text().splitlines()[0].partition("Module")[2].split() if version.is_file() else []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        major, minor = torch.cuda.get_device_capability(device)
        free, total = torch.cuda.mem_get_info(device)
        said = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}, {total / _GIB:.0f} GiB, "
        said += f"{free / _GIB:.1f} GiB free" + (f", driver {driver[0]}" if driver else "")
        name = f"GPU {index}"
        if major < 8:
            yield note(name, said, "Triton's kernels need 8.0: PyTorch's own operators are used")
        elif free < total // 4:
            yield note(name, said, "most of its memory is taken: nvidia-smi says by whom")
        else:
            yield ok(name, said)
        for dtype in (torch.float32, torch.bfloat16):
            if dtype == torch.float32 or torch.cuda.is_bf16_supported(including_emulation=False):
                yield product(device, dtype, f"GPU {index} product")


def _none(built_for: str | None) -> Finding:
    """Why there is no GPU, as far as it shows."""
    if Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists():
        if built_for is None:
            return wrong("GPU", "there is one, and this PyTorch is built for CPUs alone", "install torch for CUDA")
        why = "there is a driver, and PyTorch finds no GPU"
        return wrong("GPU", why, "nvidia-smi, CUDA_VISIBLE_DEVICES, and a driver that knows CUDA " + built_for)
    return note("GPU", "none: CPU only")
