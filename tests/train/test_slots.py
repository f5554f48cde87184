from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from maedfer.train import slots as module
from maedfer.train.loader import TrainBatches
from maedfer.train.processes import Runtime
from maedfer.train.slots import InSlot, Slots
from tests.train.runs import tiny, write_clips

ALONE = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def worker(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    found = None if number is None else SimpleNamespace(id=number)
    monkeypatch.setattr(module, "get_worker_info", lambda: found)


def clips(count: int, value: int) -> list[torch.Tensor]:
    return [torch.full((1, 2, 3), value + number, dtype=torch.uint8) for number in range(count)]


def placed(slots: Slots, frames: list[torch.Tensor]) -> InSlot:
    place = slots.join(frames)
    assert isinstance(place, InSlot)
    return place


def test_batches_of_a_process_go_round_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(workers=2, count=3, size=12)
    worker(monkeypatch, 1)
    places = [placed(slots, clips(2, value)) for value in (0, 10, 20)]
    # Those of the process before are in front.
    assert [place.number for place in places] == [3, 4, 5]
    for place, value in zip(places, (0, 10, 20), strict=True):
        assert torch.equal(place.take(), torch.cat(clips(2, value)))
    taken = places[0].take()
    again = placed(slots, clips(1, 40))
    assert again.number == 3
    assert torch.equal(again.take(), torch.cat(clips(1, 40))) and torch.equal(taken, torch.cat(clips(2, 0)))


def test_what_does_not_fit_is_sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(workers=1, count=1, size=12)
    for number, count in ((0, 3), (None, 2)):
        worker(monkeypatch, number)
        sent = slots.join(clips(count, 1))
        assert isinstance(sent, torch.Tensor) and torch.equal(sent, torch.cat(clips(count, 1)))


def test_frames_that_are_cut_out_of_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, 0)
    whole = [torch.arange(32, dtype=torch.uint8).view(1, 4, 8) + start for start in (0, 100)]
    slots = Slots(1, 1, 12)
    place = placed(slots, [frames[:, 1:3, 2:5] for frames in whole])
    assert torch.equal(place.take(), torch.cat([frames[:, 1:3, 2:5] for frames in whole]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1,)])
def test_frames_are_read_into_the_slot_they_are_sent_in(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    worker(monkeypatch, 1)
    slots = Slots(workers=2, count=2, size=12)
    placed(slots, clips(2, 90))
    rooms = [slots.room((2, 3)) for _ in range(3)]
    for value, room in enumerate(rooms):
        room[:] = value
    start = slots.look(InSlot(slots.key, 3, (1,))).data_ptr()
    # The last one has no place in the slot any more.
    assert [room.ctypes.data - start for room in rooms[:2]] == [0, 6] and not 0 <= rooms[2].ctypes.data - start < 12
    frames = [torch.from_numpy(rooms[number])[None] for number in order]
    expected = torch.cat(frames).clone()
    cat = Mock(wraps=torch.cat)
    monkeypatch.setattr(torch, "cat", cat)
    place = placed(slots, frames)
    # Out of their order, as where a clip was passed over, they are brought into it.
    assert cat.called == (order != (0, 1))
    assert torch.equal(place.take(), expected)
    assert slots.room((12,)).ctypes.data == slots.look(InSlot(slots.key, 2, (1,))).data_ptr()


def test_there_is_room_elsewhere_than_in_a_loader_process(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, None)
    assert Slots(1, 1, 12).room((2, 3)).shape == (2, 3)


def test_pinned_copies_are_of_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, 0)
    slots = Slots(1, 1, 12)
    place = placed(slots, clips(2, 7))
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    assert torch.equal(place.pin_memory(), torch.cat(clips(2, 7)))


def test_memory_is_used_again_when_nothing_refers_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, 0)
    slots = Slots(1, 1, 12)
    first = placed(slots, clips(2, 7)).take()
    address, view = first.data_ptr(), first[1:]
    del first
    second = placed(slots, clips(2, 30)).take()
    assert torch.equal(view, clips(2, 7)[1]) and second.data_ptr() != address
    del view
    third = placed(slots, clips(2, 50)).take()
    assert third.data_ptr() == address and torch.equal(second, torch.cat(clips(2, 30)))


def test_memory_goes_with_the_loader() -> None:
    slots = Slots(1, 1, 1 << 20)
    gone = weakref.ref(slots)
    del slots
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "changes", [(), ("data.repeats=2",), ("augment.device=cuda",), ("augment.device=cuda", "data.repeats=2")]
)
def test_batches_stay_as_they_are_when_others_come(data: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    """All batches of some epochs at a time, so that every slot was used again."""
    found = []
    for workers in (0, 2):
        cfg = tiny("pretrain", data, tmp_path, f"data.workers={workers}", "train.batch_size=2", *changes)
        batches = TrainBatches(cfg, ALONE)
        found.append([batch for number in range(3) for batch in batches.epoch(number)])
    assert len(found[0]) == len(found[1]) > 9
    for expected, batch in zip(*found, strict=True):
        assert expected.keys() == batch.keys()
        assert all(torch.equal(expected[name], batch[name]) for name in batch)
