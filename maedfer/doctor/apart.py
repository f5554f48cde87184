"""Areas of an examination, each in a process of its own, so that one that crashes or hangs is a finding like others.

`findings` starts a process that imports torch once and is forked for every area (`main`). What an area finds comes
back line by line, so that a crash keeps what was found before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from maedfer.doctor.finding import Finding, Options, wrong
from maedfer.errors import InputError, MissingDependencyError

# Seconds that an area may take, and the import of torch; and those in which a process has to end.
LIMIT, _GRACE = 120.0, 15.0
_ROOT = str(Path(__file__).resolve().parents[2])
# Another installation of the package may be on the path, and a folder that somebody is in may hold anything.
_START = (
    "import sys; sys.path[:1] = [sys.argv[2]] if sys.argv[2] not in sys.path[1:] else []; "
    "from maedfer.doctor.apart import main; main(*sys.argv[1:])"
)


@dataclasses.dataclass(frozen=True)
class Area:
    """Something to look at.

    Args:
        name: for people.
        module: whose `look(options)` gives findings.
        needs_torch: whether it is of no use where torch cannot be imported.
    """

    name: str
    module: str
    needs_torch: bool = True


def findings(areas: Sequence[Area], options: Options, limit: float = LIMIT) -> Iterator[tuple[str, Finding | None]]:
    """Look at areas one after the other.

    Yields:
        The name of the area and what was found; None as it begins.
    """
    left, name = list(areas), "doctor"
    while left:
        before, importing, how = len(left), False, ""
        for kind, value in _said(left, options, limit):
            if kind == "begin":
                left.pop(0)
                name = value
                yield name, None
            elif kind == "torch":
                importing = value == "begins"
                yield "torch", None
            elif kind == "found":
                yield name, Finding(**value)
            else:
                how = value
        if importing:
            yield "torch", wrong("torch", f"import torch {how}", "install it anew: pip install --force-reinstall torch")
            # What does without it is looked at in another process.
            left = [area for area in left if not area.needs_torch]
        elif how:
            yield name, wrong("doctor", f"the examination {how}", "report it with this page")
        if len(left) == before:
            return


def _said(areas: Sequence[Area], options: Options, limit: float) -> Iterator[tuple[str, Any]]:
    """What the process that looks at areas says; ("ended", how) in the end where it did not end well."""
    read, write = os.pipe()
    order = json.dumps([[dataclasses.asdict(area) for area in areas], dataclasses.asdict(options), limit])
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(write), _ROOT, order],
            pass_fds=[write],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        os.close(write)
        try:
            # Areas have their limits there; the import of torch has none but this.
            for line in _lines(read, limit + _GRACE, each=True):
                kind, value = json.loads(line)
                yield kind, value
            how = _ended(process.wait(_GRACE), errors)
        except TimeoutError:
            how = f"takes more than {limit:g} s"
        except subprocess.TimeoutExpired:
            how = "does not end"
        finally:
            os.close(read)
            process.kill()
            process.wait()
        if how:
            yield "ended", how


def _lines(read: int, limit: float, each: bool = False) -> Iterator[bytes]:
    """Lines from a pipe until it is closed.

    Args:
        read: its file descriptor.
        limit: seconds for all of them, or for each.

    Raises:
        TimeoutError: they are over.
    """
    end, rest = time.monotonic() + limit, b""
    while True:
        if not select.select([read], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(read, 1 << 16)
        if not part:
            return
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
        if each:
            end = time.monotonic() + limit


def main(write: str, root: str, order: str) -> None:
    """Look at areas, and write what is found to a file descriptor; the process that `findings` starts."""
    areas, options, limit = json.loads(order)
    with open(int(write), "w") as out:

        def tell(kind: str, value: Any) -> None:
            out.write(json.dumps([kind, value]) + "\n")
            out.flush()

        loaded = False
        for area in (Area(**facts) for facts in areas):
            if area.needs_torch and not loaded:
                tell("torch", "begins")
                try:
                    import torch  # noqa: F401
                except BaseException as error:
                    tell("ended", f"fails: {_short(error)}")
                    return
                tell("torch", "ends")
                loaded = True
            tell("begin", area.name)
            for finding in _apart(area, Options(**options), limit):
                tell("found", dataclasses.asdict(finding))


def _apart(area: Area, options: Options, limit: float) -> Iterator[Finding]:
    """What an area finds, in a process of its own."""
    read, write = os.pipe()
    with tempfile.TemporaryFile() as errors:
        parent, child = os.getpid(), os.fork()
        if not child:
            os.close(read)
            os.setsid()
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
            os.dup2(errors.fileno(), 2)
            with open(write, "w") as out:
                _look(area, options, out)
            os._exit(0)
        os.close(write)
        ended = ""
        try:
            for line in _lines(read, limit):
                yield Finding(**json.loads(line))
        except TimeoutError:
            ended = f"takes more than {limit:g} s"
        finally:
            os.close(read)
            # With the processes that it has started. One that has ended stands for its group until it is waited for.
            if ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if how := ended or _ended(status, errors):
            yield wrong(area.name, f"the check {how}", "report it with this page")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _look(area: Area, options: Options, out: TextIO) -> None:
    def give(finding: Finding) -> None:
        out.write(json.dumps(dataclasses.asdict(finding)) + "\n")
        out.flush()

    try:
        for finding in importlib.import_module(area.module).look(options):
            give(finding)
    except (InputError, MissingDependencyError) as error:
        give(wrong(area.name, str(error), ""))
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name} line {place.lineno}"
        give(wrong(area.name, f"{_short(error)} ({where})", "report it with this page"))


def _ended(status: int, errors: Any) -> str:
    """How a process ended that did not end well, with its last words; "" of others."""
    if status == 0:
        return ""
    errors.seek(0)
    lines = errors.read()[-4000:].decode(errors="replace").strip().splitlines()
    last = f": {lines[-1][:200]}" if lines else ""
    if status < 0:
        return f"ends by signal {signal.Signals(-status).name}{last}"
    return f"ends with status {status}{last}"


def _short(error: BaseException) -> str:
    """An error in a few words."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300].rstrip(": ")
