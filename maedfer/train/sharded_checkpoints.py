"""Writes the checkpoints of a run as folders of parts, every process its own, at once or while the run goes on."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from maedfer._files import remove_path, temporary_beside
from maedfer.models.weight_files import save_torch
from maedfer.train.checkpoint_folder import REST, FolderForm, complete, fingerprint, os_error, parted, save_tensors
from maedfer.train.checkpoints import Checkpoints
from maedfer.train.config import RunConfig
from maedfer.train.processes import Runtime

Result = TypeVar("Result")


def checkpoints_of(cfg: RunConfig, runtime: Runtime) -> Checkpoints:
    """What writes the checkpoints of a run, as its settings say."""
    if cfg.train.checkpoint == "file":
        return Checkpoints(cfg.output, runtime)
    return ShardedCheckpoints(cfg.output, runtime, later=cfg.train.save_async)


class ShardedCheckpoints(Checkpoints):
    """Writes checkpoints as folders; weights alone, the best epoch's, are a file as ever.

    Args:
        run: the run folder.
        runtime: its processes, which all write.
        later: copy what is to be written, and let it be written while the run goes on.
    """

    def __init__(self, run: str | Path, runtime: Runtime, later: bool = False) -> None:
        super().__init__(run, runtime)
        self.form = FolderForm()
        self.later = later
        self._files = Checkpoints(run, runtime)
        # Of its own, so that the run's exchanges do not meet those of a thread.
        self._group: Any = dist.new_group(backend="gloo") if later and runtime.world > 1 else None
        self._thread: threading.Thread | None = None
        self._pending: tuple[str, int] | None = None
        self._why = ""
        # What a process that is alone by now has met, to be raised where it waits and not in the thread.
        self._error: Exception | None = None
        if runtime.world == 1:
            # It comes with every checkpoint, from a thread, where nothing else can keep it back.
            warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")

    def write(self, name: str, state: Mapping[str, Any]) -> list[str]:
        """Write a checkpoint whole or not at all; every process takes part.

        With `later` it is written when this returns as a copy in memory, and in its place some time later: `wait`.

        Returns:
            What there is to say of this one or, with `later`, of the one before.
        """
        if "optimizer" not in state:
            said = self._files.write(name, state)
            self.failed.pop(name, None)
            self.failed |= self._files.failed
            return said
        said = self.wait()
        tensors, rest = parted(state)
        step = int(rest["position"]["step"])
        why, place = self.runtime.on_main(lambda: self._begin(name, rest), f"is writing checkpoints/{name}")
        if why:
            return said + self._outcome(name, step, why)
        temporary = Path(place)
        finish = lambda wrote: self._finish(name, temporary, rest, wrote)  # noqa: E731
        if not self.later:
            return said + self._outcome(name, step, finish(lambda: save_tensors(temporary, tensors)))
        why, future = "", None
        try:
            # Returns when the tensors are copied.
            future = dcp.async_save(
                tensors,
                storage_writer=dcp.FileSystemWriter(temporary),
                process_group=self._group,
                no_dist=self.runtime.world == 1,
            )
        except (OSError, RuntimeError, dcp.api.CheckpointException) as error:
            why = str(os_error(error))

        def end() -> None:
            def wrote() -> None:
                if future is None:
                    raise OSError(why)
                future.result()  # type: ignore[union-attr]

            try:
                self._why = finish(wrote)
            except Exception as error:
                self._error = error

        self._pending = (name, step)
        self._thread = threading.Thread(target=end, name="maedfer-checkpoint")
        self._thread.start()
        return said

    def wait(self) -> list[str]:
        """Wait for a checkpoint that is being written; what there is to say of it.

        Raises:
            RuntimeError: another process has gone while it was written.
        """
        if self._thread is None or self._pending is None:
            return []
        self._thread.join()
        (name, step), self._thread, self._pending = self._pending, None, None
        if self._error is not None:
            raise self._error
        return self._outcome(name, step, self._why)

    def finish(self, write: Callable[[], Result]) -> Result:
        """Write what the run came to, after all checkpoints."""
        self.wait()
        return super().finish(write)

    def _begin(self, name: str, rest: Mapping[str, Any]) -> tuple[str, str]:
        """Make a folder for a checkpoint, with all that one process has; why not, and its path."""
        temporary = temporary_beside(self.folder / name)
        try:
            self.folder.mkdir(exist_ok=True)
            temporary.mkdir()
            save_torch(temporary / REST, rest)
        except OSError as error:
            with contextlib.suppress(OSError):
                remove_path(temporary)
            return error.strerror or str(error), ""
        return "", str(temporary)

    def _finish(self, name: str, temporary: Path, rest: Mapping[str, Any], wrote: Callable[[], None]) -> str:
        """Write this process's part and give the folder its name; why not, alike in every process."""
        why, files = "", {}
        try:
            wrote()
            own = [path for path in temporary.iterdir() if path.name.startswith(f"__{self.runtime.rank}_")]
            if self.runtime.main:
                own += [path for path in temporary.iterdir() if not path.name.startswith("__")]
            files = {path.name: fingerprint(path) for path in own}
        except (Exception, dcp.api.CheckpointException) as error:
            # Whatever it is: others must not wait, and a checkpoint that cannot be written does not end a run. PyTorch
            # derives its own from BaseException.
            found = os_error(error)
            why = found.strerror or str(found)
        rows = self._gather((why, files))
        whys = [row[0] for row in rows if row[0]]
        why = whys[0] if whys else ""
        if self.runtime.main:
            try:
                if not why:
                    complete(temporary, {key: value for _, part in rows for key, value in part.items()}, rest)
                    self.put(name, temporary)
            except OSError as error:
                why = error.strerror or str(error)
            finally:
                with contextlib.suppress(OSError):
                    remove_path(temporary)
        return str(self._gather(why)[0])

    def _gather(self, value: Any) -> list[Any]:
        if self._group is None:
            return self.runtime.gather(value)
        values: list[Any] = [None] * self.runtime.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _outcome(self, name: str, step: int, why: str) -> list[str]:
        """Note what became of a checkpoint; what there is to say of it."""
        return self.noted(name, why, step)
