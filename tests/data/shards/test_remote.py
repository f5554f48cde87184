from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import fsspec
import fsspec.asyn
import numpy as np
import pytest

from maedfer.data.shards import open_clip, read_index
from maedfer.data.shards.remote import RemoteStore
from maedfer.errors import InputError, MissingDependencyError
from tests.data.shards.made import Made, make_shards
from tests.data.shards.server import Fault, Server, serving

SIZE = 3 << 20
CONTENT = np.random.default_rng(0).bytes(SIZE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make_shards(tmp_path_factory.mktemp("shards") / "s")
    (made.folder / "big.tar").write_bytes(CONTENT)
    return made


@pytest.fixture
def server(made: Made) -> Iterator[Server]:
    with serving(made.folder, "/a folder") as running:
        running.url = running.url.replace(" ", "%20")
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def store(server: Server, waits: list[float]) -> Iterator[RemoteStore]:
    store = RemoteStore(server.url, cache=1 << 20, sleep=waits.append)
    yield store
    store.close()


def read(store: RemoteStore, ranges: list[tuple[int, int]]) -> list[bytes]:
    return [bytes(part) for part in store.read_ranges("big.tar", ranges, SIZE)]


def right(ranges: list[tuple[int, int]]) -> list[bytes]:
    return [CONTENT[start : start + length] for start, length in ranges]


def test_clips_are_read_from_an_address(made: Made, server: Server, store: RemoteStore) -> None:
    index = read_index(store)
    for number, (frames, times) in enumerate(zip(made.frames, made.times, strict=True)):
        reader = open_clip(index, number, store, check=number == 3)
        np.testing.assert_array_equal(reader.read(range(len(frames))), frames)
        np.testing.assert_array_equal(reader.times, times)
    # The index's two files, and of each shard the file of frames once and each clip once.
    assert server.count("index") == 2 and server.count("frames.npy") == 2 and server.count(".tar") == 4


def test_near_ranges_are_one_request_and_kept(server: Server, store: RemoteStore) -> None:
    ranges = [(5000, 10), (1000, 500), (200_000, 7), (900_000, 1000), (1600, 4)]
    assert read(store, ranges) == right(ranges)
    assert [span for _, *span in server.requests] == [[1000, 200_007], [900_000, 901_000]]
    # What lies in them is not asked for again.
    inside = [(1000, 199_007), (150_000, 3), (900_999, 1)]
    assert read(store, inside) == right(inside)
    assert server.count() == 2


def test_what_is_kept_has_a_bound(server: Server, store: RemoteStore) -> None:
    for number in range(12):
        ranges = [(number * 250_000, 200_000)]
        # The first one is asked for all the time, and stays.
        assert read(store, ranges) == right(ranges) and read(store, [(7, 7)]) == right([(7, 7)])
        assert sum(len(piece.content.result()) for piece in store._pieces.values()) <= 1 << 20
    assert server.count() == 12
    assert read(store, [(250_000, 1)]) == right([(250_000, 1)])
    assert server.count() == 13
    # More than is kept is read all the same.
    assert read(store, [(0, SIZE)]) == right([(0, SIZE)]) and len(store._pieces) <= 5


def test_what_came_short_is_asked_for_again_where_more_is_wanted(server: Server, store: RemoteStore) -> None:
    # Half of a block is enough for the first one, who waits, and not for the second one, who waits with him.
    server.faults = ["late and short"]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda length: store.read("big.tar", 10, length), (100, 200_000)))
    assert found == [CONTENT[10:110], CONTENT[10:200_010]]
    assert store.read("big.tar", 1 << 18, 200_000) == CONTENT[1 << 18 :][:200_000]
    assert store.read("big.tar", 10, SIZE - 10) == CONTENT[10:]
    with pytest.raises(InputError, match=r"bytes .* after 4 tries \(262144 bytes came\)|the server answers 416"):
        store.read("big.tar", SIZE - 5, 10)


def test_what_is_fetched_beforehand_is_there(server: Server, store: RemoteStore) -> None:
    store.prefetch("big.tar", 1000, 401_000)
    ranges = [(1000, 10), (100_000, 100_000), (400_990, 10)]
    assert read(store, ranges) == right(ranges)
    assert [span for _, *span in server.requests] == [[1000, 401_000]]
    # At most half of what is kept.
    store.prefetch("big.tar", 1 << 20, 3 << 20)
    assert server.requests[-1][1:] == (1 << 20, (1 << 20) + (1 << 19))


def test_threads_that_want_the_same_wait_for_one_request(server: Server, store: RemoteStore) -> None:
    server.faults = ["late"]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: read(store, [(10, 10)]), range(40))) == [right([(10, 10)])] * 40
    assert server.count() == 1


@pytest.mark.parametrize(
    "faults", [[500], ["half"], ["short"], ["gone"], ["slow"], [503, "half", 429]], ids=lambda faults: str(faults)
)
def test_what_fails_is_asked_for_again(
    faults: list[Fault | None], server: Server, store: RemoteStore, waits: list[float]
) -> None:
    server.faults = [*faults]
    store._seconds = 0.5 if "slow" in faults else 10
    assert read(store, [(100, 1000)]) == right([(100, 1000)])
    # Some aiohttp make a connection that is closed before an answer anew at once, without our waiting.
    assert waits == [0.5, 1.0, 2.0][: len(faults)] or (faults == ["gone"] and not waits)
    assert not server.faults


@pytest.mark.parametrize(
    ("fault", "requests", "words"),
    [
        (500, 4, r"after 4 tries \(the server answers 500 Internal Server Error\)"),
        ("half", 4, r"after 4 tries \(ClientPayloadError: .*\)"),
        ("short", 4, r"after 4 tries \(500 bytes came\)"),
        ("gone", 4, r"after 4 tries \(ServerDisconnectedError: .*\)"),
        ("slow", 4, r"after 4 tries \(no answer within 0.5 s\)"),
        (403, 1, r"\(the server answers 403 Forbidden\)"),
    ],
)
def test_what_goes_on_failing_is_given_up(
    server: Server, store: RemoteStore, fault: Fault, requests: int, words: str
) -> None:
    server.always = fault
    store._seconds = 0.5 if fault == "slow" else 10
    with pytest.raises(InputError, match=rf"^http://.*/a%20folder/big.tar: bytes 100 to 1099 cannot be read.*{words}$"):
        read(store, [(100, 1000)])
    assert server.count() == requests or (fault == "gone" and server.count() == 2 * requests)
    # It is nothing that is kept.
    server.always = None
    assert read(store, [(100, 1000)]) == right([(100, 1000)])


def test_errors_name_the_clip(server: Server, store: RemoteStore) -> None:
    index = read_index(store)
    for faults, words in (([500] * 4, "wanted for clip 000000005"), ([None] + [500] * 4, "bytes .* after 4 tries")):
        server.faults = list(faults)
        with pytest.raises(InputError, match=words) as error:
            open_clip(index, 2, store).read([0])
        assert "clip 000000005" in str(error.value) and "a b/clip 2.mp4" in str(error.value)
    with pytest.raises(InputError, match=r"/nothing.tar: there is no such file$"):
        store.read_ranges("nothing.tar", [(0, 1)], 10)


def test_a_server_without_ranges_is_asked_once(server: Server, store: RemoteStore) -> None:
    server.always = "whole"
    for _ in range(3):
        with pytest.raises(
            InputError, match="sends whole files where some of their bytes are asked for; copy the shards"
        ):
            read(store, [(100, 1000)])
    assert server.count() == 1


def test_secrets_are_asked_with_and_not_told(server: Server, made: Made) -> None:
    url = server.url.replace("http://", "http://me:hidden@") + "?token=secret"
    store = RemoteStore(url, sleep=lambda _: None)
    assert store.read("index.json") == (made.folder / "index.json").read_bytes()
    assert server.requests[-1][0] == "/a%20folder/index.json?token=secret"
    for fault in (404, 500, "half", "gone", "whole"):
        server.always = fault
        with pytest.raises(InputError) as error:
            store.read_ranges("big.tar", [(5, 5)], SIZE)
        assert "hidden" not in str(error.value) and "secret" not in str(error.value)
    store.close()


def _first(store: RemoteStore, number: int) -> np.ndarray:
    return open_clip(read_index(store), number, store).read([0])


def _send(store: RemoteStore, answers: Connection) -> None:
    answers.send([_first(store, number) for number in range(4)])


def test_forked_and_other_processes_have_connections_of_their_own(made: Made, store: RemoteStore) -> None:
    expected = [frames[:1] for frames in made.frames]
    np.testing.assert_array_equal(_first(store, 0), expected[0])
    here, there = multiprocessing.Pipe(duplex=False)
    # Not pickled, but forked along, while a thread of this process holds the lock.
    with store._lock:
        child = multiprocessing.get_context("fork").Process(target=_send, args=(store, there), daemon=True)
        child.start()
    assert here.poll(20)
    np.testing.assert_array_equal(here.recv(), expected)
    child.join()
    np.testing.assert_array_equal(_first(store, 1), expected[1])
    copy = pickle.loads(pickle.dumps(RemoteStore(store._url, tries=7)))
    np.testing.assert_array_equal(_first(copy, 2), expected[2])
    assert copy._tries == 7


def test_connections_are_given_back(server: Server, made: Made) -> None:
    def sockets() -> int:
        kinds = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)]
        return sum(kind.startswith("socket:") for kind in kinds)

    RemoteStore(server.url).read("index.json")
    before = sockets()
    for fault in [*(3 * (None, "half", 404)), "slow"]:
        store = RemoteStore(server.url, seconds=0.2, tries=1)
        server.faults = [None, fault]
        store.read("index.json")
        try:
            read(store, [(0, 10)])
        except InputError:
            assert fault
        store.close()
    # The server's end of a connection is one of this process as well. Where closing takes long, fsspec leaves it to its
    # loop, which must do something before it does that; one of the ten may still be on its way.
    for _ in range(200):
        # What an error holds in a circle is freed when circles are looked for.
        gc.collect()
        if sockets() <= before + 2:
            break
        fsspec.asyn.sync(fsspec.asyn.get_loop(), asyncio.sleep, 0.01)
    assert sockets() <= before + 2


def _is_open(number: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{number}")


def test_other_kinds_of_addresses(made: Made) -> None:
    memory = fsspec.filesystem("memory")
    for file in made.folder.iterdir():
        memory.pipe_file(f"/shards/{file.name}", file.read_bytes())
    store = RemoteStore("memory://shards", sleep=lambda _: None)
    np.testing.assert_array_equal(_first(store, 3), made.frames[3][:1])
    with pytest.raises(InputError, match="memory://shards/b.tar: there is no such file"):
        store.read("b.tar")
    with pytest.raises(InputError, match="nothing://here/: Protocol not known: nothing"):
        RemoteStore("nothing://here").read("index.json")
    with pytest.raises(InputError, match="'../index.json' is no name of a file of shards"):
        store.read("../index.json")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_package(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", no_such_package)
    with pytest.raises(MissingDependencyError, match="s3://bucket/: Install s3fs to access S3"):
        RemoteStore("s3://bucket").read("index.json")
