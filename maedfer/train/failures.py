"""What the machine did to a run, in a sentence: errors of loader processes, memory, compilers and other processes.

Libraries report these as a RuntimeError whose text alone tells them apart, or as an OSError without a hint.
"""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Callable

from maedfer._progress import duration
from maedfer.errors import InputError
from maedfer.train.settings import RunConfig

# The status of a loader process that could not send a batch; the line that says why is its own.
CANNOT_SEND = 71

_SHARED = re.compile(
    r"shared memory|/dev/shm|unable to (write to|resize|mmap|open) .*(file|torch_)|Bus error|No space left on device",
    re.IGNORECASE,
)
_FILES = re.compile(r"Too many open files|ancillary data|Errno 24\b")
_MEMORY = re.compile(r"MemoryError|[Cc]an(no|')t allocate memory|[Uu]nable to allocate [\d.]+ .?i?B|Errno 12\b")
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_WRAPPED = re.compile(r"Caught .* in (DataLoader worker process|pin memory thread)")
_SIGNAL = re.compile(r"killed by signal: ([\w ]+)")
_PEER = re.compile(
    r"gloo|connection (was )?(closed|reset|refused)|broken pipe|NCCL|remote process|socket timeout", re.IGNORECASE
)
_LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
_NO_COMPILER = re.compile(r"Failed to find C compiler|No working C\+\+ compiler|InvalidCxxCompiler")
_RESUME = "the same command goes on from the last checkpoint"


def explain(
    error: BaseException, cfg: RunConfig, processes: int = 1, late: Callable[[], str] = str
) -> InputError | None:
    """The sentence for an error that the machine caused; None where it is another one.

    Args:
        error: what was raised inside a run.
        cfg: the run.
        processes: how many work together.
        late: says which one of them is waited for, as far as that is known.
    """
    if isinstance(error, InputError) or not isinstance(error, (RuntimeError, OSError, MemoryError)):
        return None
    text = f"{type(error).__name__}: {error}"
    worker = _WORKER.search(text)
    if worker or _WRAPPED.search(text):
        return _of_loader(text, worker, cfg)
    if "Pin memory thread exited" in text:
        return InputError(
            "the loader's thread that prepares batches for the GPU has ended: lower data.workers or train.batch_size; "
            + _RESUME
        )
    if "OutOfMemoryError" in text:
        return None
    if _NO_COMPILER.search(text):
        return InputError(
            "there is no C compiler, which torch.compile and Triton's kernels need: install gcc or g++, or name it in "
            "CC and CXX; train.compile=false does without torch.compile, model.impl=torch without the kernels"
        )
    if any(kind.__module__.startswith(("torch._dynamo.", "torch._inductor.")) for kind in type(error).__mro__):
        reason = _short(text.partition(" raised:\n")[2] or text)
        return InputError(f"torch.compile does not compile this run ({reason}): train.compile=false runs it eagerly")
    if _FILES.search(text) or (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
        return _files(cfg)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return InputError(f"{_short(text)}: lower train.batch_size or data.workers; {_RESUME}")
    if processes > 1 and isinstance(error, RuntimeError) and _PEER.search(text) and _LATE.search(text):
        return InputError(
            f"the other processes did not get on for {duration(cfg.train.timeout)} (train.timeout), {late()}; {_RESUME}"
        )
    if processes > 1 and isinstance(error, RuntimeError) and _PEER.search(text):
        return InputError(
            f"another process of this run has ended, or cannot be reached any more ({_short(text)}): its own message "
            f"says why; {_RESUME}"
        )
    return None


def cannot_start(error: OSError, cfg: RunConfig) -> InputError:
    """The sentence for loader processes that could not be started."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return _files(cfg)
    return InputError(
        f"data.workers={cfg.data.workers} loader processes cannot be started ({error.strerror or error}): lower "
        "data.workers; 0 does without such processes"
    )


def lost_while_sending(cfg: RunConfig) -> InputError:
    """The sentence for a loader process that ended while it handed a batch over."""
    return InputError(
        "a loader process was killed while it handed a batch over, most often because memory ran out: lower "
        f"data.workers ({cfg.data.workers}) or train.batch_size; {_RESUME}"
    )


def late_batch(clips: str, cfg: RunConfig) -> InputError:
    """The sentence for a batch that the loader's processes do not bring within `data.timeout`.

    Args:
        clips: the names of those that it is of.
        cfg: the run.
    """
    return InputError(
        f"no batch has come from the loader's processes for {duration(cfg.data.timeout)} (data.timeout): one of them "
        f"is reading {clips}, or waits for a file before; see whether the storage hangs; {_RESUME}"
    )


def _of_loader(text: str, worker: re.Match[str] | None, cfg: RunConfig) -> InputError | None:
    if worker and not _SHARED.search(text.partition(". It is possible")[0]):
        found = _SIGNAL.search(text)
        how = (
            f"was killed (signal: {found[1].strip()}), most often because memory ran out"
            if found
            else "was killed, most often because memory ran out, or ended for what a line of its own above says"
        )
        return InputError(
            f"a loader process ({worker[1].strip()}) {how}: lower data.workers ({cfg.data.workers}) or "
            f"train.batch_size; {_RESUME}"
        )
    if _FILES.search(text):
        return _files(cfg)
    if _MEMORY.search(text):
        return InputError(
            f"a loader process ran out of memory ({_short(text)}): lower data.workers ({cfg.data.workers}) or "
            f"train.batch_size; {_RESUME}"
        )
    if _SHARED.search(text):
        return InputError(
            f"a loader process found no room in shared memory ({_short(text)}): enlarge /dev/shm (docker run "
            f"--shm-size=8g), lower data.workers ({cfg.data.workers}), or set data.workers=0; {_RESUME}"
        )
    return None


def _files(cfg: RunConfig) -> InputError:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return InputError(
        f"too many open files (this process may have {limit}): raise the limit (ulimit -n {max(4096, 4 * limit)}), or "
        f"lower data.workers ({cfg.data.workers}); {_RESUME}"
    )


def _short(text: str) -> str:
    """The line of an error that says what it was, without the name of its class."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrapped = lines[0].partition(": ")[2].startswith("Caught ")
    line = lines[-1] if wrapped and len(lines) > 1 else lines[0]
    return re.sub(r"^(\w+\.)*\w*(Error|Exception): ?", "", line).strip(" .") or line.rstrip(": ")
