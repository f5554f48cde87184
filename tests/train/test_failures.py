import errno

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler

from maedfer.errors import InputError
from maedfer.train import load_config
from maedfer.train.failures import cannot_start, explain
from maedfer.train.processes import start

CFG = load_config("finetune", None, ["data.train=x", "train.device=cpu", "data.workers=4"])
WRAPPED = "Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n{}"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ["process (7)", "signal: Killed"]),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), ["(7, 8) was killed", "line of its own"]),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory. Please try to raise your shared memory limit."
            ),
            ["no room in shared memory", "--shm-size"],
        ),
        (
            RuntimeError(
                WRAPPED.format(
                    "RuntimeError", "RuntimeError: unable to write to file </torch_1>: No space left on device"
                )
            ),
            ["no room in shared memory (unable to write to file </torch_1>: No space left on device)", "workers=0"],
        ),
        (RuntimeError("received 0 items of ancillary data"), ["too many open files", "ulimit -n"]),
        (OSError(errno.EMFILE, "Too many open files"), ["too many open files"]),
        (MemoryError(WRAPPED.format("MemoryError", "MemoryError: Unable to allocate 3.4 GiB")), ["ran out of memory"]),
        (
            RuntimeError(
                WRAPPED.format("_ArrayMemoryError", "numpy._ArrayMemoryError: Unable to allocate 3.4 GiB for x")
            ),
            ["a loader process ran out of memory (Unable to allocate 3.4 GiB for x)", "data.workers (4)"],
        ),
        (MemoryError(), ["MemoryError: lower train.batch_size"]),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried 9"),
            ["can't allocate memory", "lower train.batch_size"],
        ),
        (RuntimeError("Pin memory thread exited unexpectedly"), ["for the GPU has ended"]),
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
            ["there is no C compiler", "train.compile=false"],
        ),
        (
            BackendCompilerFailed(lambda: None, InvalidCxxCompiler(), None),
            ["there is no C compiler", "train.compile=false"],
        ),
        (
            BackendCompilerFailed(lambda: None, NotImplementedError("no such operator"), None),
            ["torch.compile does not compile this run (", "no such operator): train.compile=false runs it eagerly"],
        ),
    ],
)
def test_what_the_machine_did_is_a_sentence(error, parts):
    told = explain(error, CFG)
    assert told is not None and "\n" not in str(told)
    for part in parts:
        assert part in str(told)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError(WRAPPED.format("IndexError", "IndexError: list index out of range")),
        KeyError("DataLoader worker (pid 7) is killed by signal: Killed"),
        InputError("DataLoader worker (pid 7) is killed by signal: Killed"),
        RuntimeError("Connection closed by peer [127.0.0.1]:1"),
    ],
)
def test_what_is_a_defect_stays_one(error):
    assert explain(error, CFG) is None
    with pytest.raises(type(error)) as caught, start(CFG):
        raise error
    assert caught.value is error


def test_lost_processes_are_told_where_there_are_several():
    error = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")
    assert "another process of this run has ended" in str(explain(error, CFG, processes=2))


def test_a_run_raises_the_sentence():
    with pytest.raises(InputError, match="a loader process"), start(CFG):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_memory_of_a_gpu_keeps_its_own_words():
    assert explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), CFG) is None


def test_loader_processes_that_cannot_be_started():
    text = str(cannot_start(OSError(errno.EAGAIN, "Resource temporarily unavailable"), CFG))
    assert text.startswith("data.workers=4 loader processes cannot be started (Resource temporarily unavailable)")
    assert "too many open files" in str(cannot_start(OSError(errno.EMFILE, "Too many open files"), CFG))
