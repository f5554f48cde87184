"""Variables of the environment that change what the package does. Others are not read, and not told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from maedfer.doctor.finding import Finding, Options, note, ok

# With what each does where that is worth a word.
KNOWN = {
    "MAEDFER_IMPL": "chooses who computes, for everything whose impl is auto",
    "MAEDFER_PRODUCTS": "chooses who multiplies on a CPU",
    "MAEDFER_TRACEBACK": "shows where errors come from",
    "TRITON_INTERPRET": "runs Triton's kernels on the CPU by an interpreter, for tests: a thousand times slower",
    "TRITON_CACHE_DIR": "",
    "CUDA_VISIBLE_DEVICES": "hides GPUs",
    "CUDA_LAUNCH_BLOCKING": "waits for every kernel: slower",
    "CUBLAS_WORKSPACE_CONFIG": "",
    "NVIDIA_TF32_OVERRIDE": "changes the arithmetic of float32 products on a GPU",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "changes the arithmetic of float32 products on a GPU",
    "PYTORCH_ALLOC_CONF": "",
    "PYTORCH_CUDA_ALLOC_CONF": "",
    "TORCH_COMPILE_DISABLE": "switches torch.compile off",
    "TORCHDYNAMO_DISABLE": "switches torch.compile off",
    "TORCHINDUCTOR_CACHE_DIR": "",
    "OMP_NUM_THREADS": "",
    "MKL_NUM_THREADS": "",
    "OMP_PROC_BIND": "",
    "KMP_AFFINITY": "",
    "GOMP_CPU_AFFINITY": "",
    "LD_PRELOAD": "puts other code into every process",
    "MALLOC_ARENA_MAX": "",
    "CC": "",
    "CXX": "",
    "RANK": "",
    "LOCAL_RANK": "",
    "WORLD_SIZE": "",
    "MASTER_ADDR": "",
    "MASTER_PORT": "",
    "NCCL_DEBUG": "",
    "NCCL_SOCKET_IFNAME": "",
    "NCCL_IB_DISABLE": "",
    "GLOO_SOCKET_IFNAME": "",
    "PYTHONHASHSEED": "",
    "PYTHONOPTIMIZE": "leaves out assertions",
}


def look(options: Options) -> Iterator[Finding]:
    """Those that are set."""
    yield from told(os.environ)


def told(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The known variables of an environment."""
    found = {name: environment[name] for name in KNOWN if environment.get(name)}
    plain = [f"{name}={value}" for name, value in found.items() if not KNOWN[name]]
    yield ok("environment", ", ".join(plain) or "no variable that changes anything is set")
    for name, value in found.items():
        if KNOWN[name]:
            yield note(name, f"{value!r}: {KNOWN[name]}")
