"""What all readers have in common, and the border at which whatever fails becomes one sentence."""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from maedfer.data.video.times import FrameTimes
from maedfer.errors import InputError, MissingDependencyError

# Larger pictures are refused before memory is taken for them: a damaged header may promise 65535 x 65535.
MAX_PIXELS = 2**25
PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .gif .avif".split()
)

# Of a shape [n, H, W, 3], gives memory for so many frames: a contiguous uint8 array, not set.
Room = Callable[[tuple[int, ...]], np.ndarray]


class VideoReader(abc.ABC):
    """An open clip: `len(reader)` frames of `reader.size` (height, width); `reader.read(indices)` fetches some.

    Attributes:
        path: file or folder.
        size: height and width of every frame, as displayed.
        fps: average frames per second; 0 where unknown (folders).
        backend: "decord", "pyav", "frames" or "shards".
        room: what gives the memory that frames are read into; None = it is fresh. Not every reader asks for it.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    backend: str
    room: Room | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    def name(self) -> str:
        """What sentences call the clip."""
        return shown(self.path)

    @property
    @abc.abstractmethod
    def _frame_times(self) -> FrameTimes:
        """When frames are shown, as far as that is known."""

    @abc.abstractmethod
    def _read(self, positions: list[int]) -> np.ndarray:
        """Return frames at rising positions without repeats."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free the file and the decoder."""

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown: float64 [len(reader)], rising, in seconds since the start of the file.

        They are the presentation times that players go by, also where the rate varies. A file whose pictures come later
        than its sound starts with a time above 0.

        Raises:
            InputError: the frames have no times: a folder, a bare stream of pictures, joined recordings.
        """
        with in_a_sentence(self.name):
            return self._frame_times.known(self.name)

    @property
    def end_time(self) -> float:
        """When the last frame has been shown, in the seconds of `times`; by the average rate where no file says it.

        Raises:
            InputError: as for `times`.
        """
        return self._frame_times.end if len(self.times) else 0.0

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames.

        Args:
            indices: positions in [0, len(reader)), in any order, with repeats if need be; each is decoded once.

        Returns:
            uint8 [n, H, W, 3], RGB.

        Raises:
            InputError: the file is damaged where one of the frames is, or has changed or gone since it was opened.
            IndexError: a position outside the clip.
        """
        requested = np.asarray(indices, dtype=np.int64).reshape(-1)
        if requested.size == 0:
            return np.zeros((0, *self.size, 3), np.uint8)
        first, last = requested.min(), requested.max()
        if first < 0 or last >= len(self):
            raise IndexError(f"{self.name}: frames {first} to {last} are asked for, there are {len(self)}")
        positions, inverse = np.unique(requested, return_inverse=True)
        with in_a_sentence(self.name):
            frames = self._read(positions.tolist())
            return frames if np.array_equal(positions, requested) else frames[inverse]

    def read_jpeg(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return frames as the JPEG files that they are stored as.

        Args:
            indices: positions in [0, len(reader)), rising.

        Returns:
            The content of each file, uint8 [bytes]; nothing is decoded.

        Raises:
            InputError: they are not stored so, or the file is damaged where its parts are.
        """
        with in_a_sentence(self.name):
            return self._read_jpeg(np.asarray(indices, dtype=np.int64).tolist())

    def _room(self, count: int) -> np.ndarray:
        """Memory for frames: uint8 [count, H, W, 3]."""
        shape = (count, *self.size, 3)
        return np.empty(shape, np.uint8) if self.room is None else self.room(shape)

    def _read_jpeg(self, positions: list[int]) -> list[np.ndarray]:
        raise InputError(f"{self.name}: holds no JPEG pictures, which data.decode=cuda is for: set data.decode=cpu")

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def in_a_sentence(path: str | Path, problem: str = "cannot be read") -> Iterator[None]:
    """Make an `InputError` that names the file (its path, or its name in sentences) of whatever else is raised inside.

    What a damaged file makes a decoder raise cannot be listed: besides its own errors it may be an error of Unicode,
    of arithmetic, of memory, or an attribute that is missing. That this process has too many files open is no fault of
    the file: it must not be passed over as a broken one.
    """
    try:
        yield
    except (InputError, MissingDependencyError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise InputError(f"{shown(path)}: {problem} ({words(error)})") from error


def words(error: Exception) -> str:
    """What an error says, in one line; of system and FFmpeg errors without their number and the file's name."""
    text = shown(" ".join(str(getattr(error, "strerror", None) or error).split()))[:200]
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return text if text and isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


def shown(path: str | Path) -> str:
    """A name as it can be printed in one line: control characters and bytes that are not UTF-8 are escaped."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def look_at(path: Path) -> os.stat_result:
    """Find out what is at `path`, without opening it: opening a named pipe would wait for ever.

    Raises:
        InputError: nothing, something that cannot be reached, or neither a file nor a folder.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        what = "a link to something that is not there" if path.is_symlink() else "no such file or folder"
        raise InputError(f"{shown(path)}: {what}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be opened ({words(error)})") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise InputError(f"{shown(path)}: is a device, a pipe or a socket, not a file or folder")
    return status
