from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from maedfer.data.shards import open_clip, open_store, read_index
from maedfer.data.shards.ranges import gathered
from maedfer.data.shards.remote import RemoteStore
from maedfer.data.shards.store import LocalStore
from maedfer.errors import InputError
from tests.data.shards.made import make_shards

CONTENT = np.random.default_rng(0).bytes(100_000)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    return LocalStore(tmp_path)


def open_files(folder: Path) -> int:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith(str(folder)) for link in links if os.path.islink(link))


def test_bytes_are_those_of_the_file(store: LocalStore) -> None:
    assert store.read("a.tar") == CONTENT
    assert store.read("a.tar", 99_000) == CONTENT[99_000:]
    assert store.read("a.tar", 7, 20) == CONTENT[7:27]
    assert store.read("a.tar", 100_000, 0) == b"" and store.read_ranges("a.tar", [], 100_000) == []
    draw = np.random.default_rng(1)
    for _ in range(50):
        starts = draw.integers(0, 90_000, draw.integers(1, 20))
        ranges = [(int(start), int(draw.integers(1, 10_000))) for start in starts]
        found = store.read_ranges("a.tar", ranges, 100_000)
        assert [bytes(part) for part in found] == [CONTENT[start : start + length] for start, length in ranges]


def test_near_ranges_are_read_together_and_others_are_not() -> None:
    asked = []

    def fetch(start: int, stop: int) -> tuple[int, bytes]:
        asked.append((start, stop))
        return start - 3, bytes(3) + CONTENT[start:stop]

    ranges = [(500, 10), (0, 100), (110, 5), (40, 200), (511, 1), (90_000, 10)]
    found = gathered(ranges, 20, fetch)
    assert [bytes(part) for part in found] == [CONTENT[start : start + length] for start, length in ranges]
    assert asked == [(0, 240), (500, 512), (90_000, 90_010)]
    # What would be longer than 16 MiB is read in parts, between ranges.
    asked.clear()
    gathered([(number << 20, 1 << 20) for number in range(20)], 0, fetch)
    assert asked == [(0, 16 << 20), (16 << 20, 20 << 20)]


def test_what_is_not_there_is_told(store: LocalStore, tmp_path: Path) -> None:
    def refused(words: str, name: str, start: int = 0, length: int | None = None) -> None:
        with pytest.raises(InputError, match=words) as error:
            store.read(name, start, length)
        assert "\n" not in str(error.value)

    refused(f"^{tmp_path}/b.tar: cannot be read .No such file", "b.tar")
    refused(f"^{tmp_path}/a.tar: ends at byte 100000, before byte 100001", "a.tar", 1, 100_000)
    refused("ends at byte 100000, before byte 100000", "a.tar", 100_001)
    # No memory is taken for what cannot be there.
    refused("ends at byte 100000", "a.tar", 0, 1 << 60)
    for name in ("../a.tar", "/etc/passwd", "a/b", "..", "", "a\0"):
        refused("is no name of a file of shards", name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        refused("is not a file", name)
    for ranges in ([(0, 0)], [(-1, 5)], [(99_999, 2)], [(0, 5), (1 << 62, 1 << 62)]):
        with pytest.raises(InputError, match=r"a clip: bytes .* are asked for, and there are 100000"):
            store.read_ranges("a.tar", ranges, 100_000, "a clip")
    with pytest.raises(InputError, match="a clip: the file has 100000 bytes, and its index says 100001"):
        store.read_ranges("a.tar", [(0, 1)], 100_001, "a clip")
    # What is told beforehand never fails.
    store.prefetch("a.tar", 0, 1 << 70)
    store.prefetch("b.tar", 0, 10)
    store.prefetch("a.tar", 10, 20)


def test_the_system_is_told_of_long_ranges_piece_by_piece_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(1_000_000))
    told: list[tuple[int, int]] = []
    now = [100.0]
    monkeypatch.setattr("os.posix_fadvise", lambda file, start, length, advice: told.append((start, length)))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    store = LocalStore(tmp_path)
    store.prefetch("a.tar", 1_000, 900_000)
    # Each goes on where the one before ends, and is no longer than Linux takes it.
    assert [start for start, _ in told] == [1_000, *(start + length for start, length in told[:-1])]
    assert sum(told[-1]) == 900_000 and max(length for _, length in told) <= 128 << 10
    count = len(told)
    store.prefetch("a.tar", 1_000, 900_000)
    assert len(told) == count
    store.prefetch("a.tar", 900_000, 1 << 60)
    assert told[count:] == [(900_000, 100_000)]
    now[0] += 31
    store.prefetch("a.tar", 1_000, 900_000)
    assert len(told) == 2 * count + 1


def test_few_files_are_open_and_none_afterwards(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    names = [f"{number}.tar" for number in range(100)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(store.read, names * 4)) == [name.encode() for name in names] * 4
    assert open_files(tmp_path) == 32
    # An error that is kept keeps no file.
    errors = []
    for name in names:
        with pytest.raises(InputError) as error:
            store.read(name, 1, 100)
        errors.append(error)
    assert open_files(tmp_path) == 32
    store.close()
    assert open_files(tmp_path) == 0
    # They keep the store, though.
    del errors, error
    store.read("1.tar")
    assert open_files(tmp_path) == 1
    del store
    assert open_files(tmp_path) == 0


def test_a_file_that_is_forgotten_while_it_is_read_stays_open(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, waits, go = os.pread, threading.Event(), threading.Event()

    def slow(number: int, length: int, start: int) -> bytes:
        waits.set()
        go.wait(5)
        return pread(number, min(length, 1000), start)

    monkeypatch.setattr(os, "pread", slow)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, "a.tar")
        waits.wait(5)
        store.close()
        go.set()
        # Calls that return less than was asked for are gone on with.
        assert reading.result() == CONTENT
    assert open_files(tmp_path) == 0


def test_too_many_open_files_are_no_fault_of_the_shard(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(OSError, match="Too many") as error:
        store.read("a.tar")
    assert not isinstance(error.value, InputError)


def _sum(store: LocalStore, number: int) -> int:
    return int(open_clip(read_index(store), number, store).read([0]).sum())


def test_processes_read_by_the_same_store(tmp_path: Path) -> None:
    store = LocalStore(make_shards(tmp_path / "s").folder)
    expected = [_sum(store, number) for number in range(4)]
    # A lock that a thread of the parent holds is not waited for.
    with store._lock, multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_sum, [(store, number % 4) for number in range(8)]) == expected * 2
    copy = pickle.loads(pickle.dumps(store))
    assert [_sum(each, number) for each in (store, copy) for number in range(4)] == expected * 2


def _read_by(store: LocalStore, answers: Connection) -> None:
    answers.send([_sum(store, number) for number in range(4)])


def test_a_forked_process_reads_by_files_that_its_parent_opened(tmp_path: Path) -> None:
    store = LocalStore(make_shards(tmp_path / "s").folder)
    expected = [_sum(store, number) for number in range(4)]
    here, there = multiprocessing.Pipe(duplex=False)
    # Not pickled, but forked along.
    with store._lock:
        child = multiprocessing.get_context("fork").Process(target=_read_by, args=(store, there), daemon=True)
        child.start()
    assert here.poll(10) and here.recv() == expected
    child.join()
    assert [_sum(store, number) for number in range(4)] == expected


def test_paths_and_addresses_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        found = open_store(place)
        assert isinstance(found, LocalStore) and found.read("a.tar") == CONTENT and not found.remote
    for place in ("https://example.org/a", "s3://bucket/a", "simplecache::s3://bucket/a"):
        assert isinstance(open_store(place), RemoteStore)
