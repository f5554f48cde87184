"""Features of the windows of a video, kept as they come and put into one file in the end, never all in memory."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from maedfer._files import atomic_path
from maedfer.prediction.rows import Row
from maedfer.prediction.table import writing

# Every file has the same bytes whenever it was made; the first moment that a zip file knows.
_MOMENT = (1980, 1, 1, 0, 0, 0)


class FeatureLog:
    """Vectors one behind the other in a file that grows; one that a killed process left is gone on with.

    Args:
        path: of the file.
        channels: of a vector.

    Attributes:
        count: whole vectors that it holds.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self.path, self.channels = path, channels
        with writing(path):
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
            self.count = self._file.seek(0, 2) // self._width
            self.cut(self.count)

    @property
    def _width(self) -> int:
        return 4 * self.channels

    def append(self, vectors: np.ndarray) -> None:
        """Write vectors, float32 [n, C]; all of them, or none where the system refuses.

        Raises:
            OutputError: it refuses.
        """
        rest = memoryview(np.ascontiguousarray(vectors, "<f4").tobytes())
        try:
            with writing(self.path):
                while rest:
                    rest = rest[self._file.write(rest) :]
        except BaseException:
            self.cut(self.count)
            raise
        self.count += len(vectors)

    def cut(self, count: int) -> None:
        """Keep the first vectors only."""
        with writing(self.path):
            self._file.truncate(count * self._width)
        self.count = count

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def join(self, target: Path, rows: Iterable[Row]) -> None:
        """Write all vectors as an .npz of numpy, whole or not at all: features [n, C], start, end, time, face [n].

        Args:
            target: file to write.
            rows: of the table, from the first one on; those without probabilities are passed over. Of the others
                four numbers each are held at once, some hundred bytes; vectors are not.

        Raises:
            InputError: it cannot be written.
        """
        told = [
            (row.window.start, row.window.end, row.window.time, row.window.face or 0)
            for row in rows
            if row.probabilities is not None
        ]
        assert len(told) == self.count, f"{self.count} vectors for {len(told)} rows"
        columns = np.array(told, np.float64).reshape(-1, 4)
        arrays = {name: columns[:, number] for number, name in enumerate(("start", "end", "time"))}
        with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with _entry(archive, "features") as entry:
                _head(entry, "<f4", (self.count, self.channels))
                self._file.seek(0)
                shutil.copyfileobj(self._file, entry, 2**20)
            for name, values in {**arrays, "face": columns[:, 3].astype("<i8")}.items():
                with _entry(archive, name) as entry:
                    _head(entry, values.dtype.str, values.shape)
                    entry.write(np.ascontiguousarray(values).tobytes())


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", _MOMENT), "w", force_zip64=True)


def _head(entry: IO[bytes], descr: str, shape: tuple[int, ...]) -> None:
    head: dict[str, Any] = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(entry, head)  # type: ignore[arg-type]
