"""Programs on a device in plain PyTorch give the bytes that the CPU's own way gives."""

from __future__ import annotations

import functools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from maedfer._programs import BOX, EACH, ERASED, FIRST, MIRROR, NOISE, Interpolation, Operation
from maedfer.data.augment.operations import affine_matrix
from maedfer.data.augment.rand_augment import OPERATIONS, Strength, apply_operation, operation_step
from maedfer.data.augment.transforms import PretrainAugment, TrainAugment
from maedfer.errors import InputError
from maedfer.kernels import functional
from maedfer.kernels.augment import torch as plain

FITS: Any = ["stretch", "crop"]
augment = functools.partial(functional.augment, impl="torch")


def clips(count: int, length: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth pictures with some noise, all frames different, with black and white in them: uint8 [B, T, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count * length, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear") * 360 - 50
    noisy = (smooth + 6 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    return noisy.view(count, length, 3, height, width).permute(0, 1, 3, 4, 2).contiguous()


def programs(draw: Any, count: int, *size: int) -> Tensor:
    return torch.stack([draw(*size) for _ in range(count)])


def fine_tuning(size: tuple[int, int], **how: Any) -> TrainAugment:
    # Which is not there with the oldest versions.
    pytest.importorskip("torchvision")
    return TrainAugment(size, **how)


def on_the_cpu(transform: TrainAugment | PretrainAugment, frames: Tensor, program: Tensor) -> Tensor:
    """The same by what follows programs on the CPU."""
    out = [
        transform.follow(transform.fit(clip) if isinstance(transform, TrainAugment) else clip, row)
        for clip, row in zip(frames.permute(0, 1, 4, 2, 3), program, strict=True)
    ]
    return torch.stack(out).transpose(1, 2)


# As on the CPU, to the byte


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("frame", [(40, 56), (33, 31), (70, 50)], ids=str)
def test_chains_of_fine_tuning(frame: tuple[int, int], fit: Any) -> None:
    torch.manual_seed(0)
    transform = fine_tuning((33, 31), randaugment="rand-m7-n4-mstd2-inc1-p0.8", erase=0.5, fit=fit)
    frames = clips(24, 3, *frame)
    program = programs(transform.draw, len(frames))
    kept = frames.clone(), program.clone()
    got = augment(frames, program, size=(33, 31), fit=fit)
    assert got.shape == (24, 3, 3, 33, 31) and got.dtype == torch.uint8 and got.is_contiguous()
    assert torch.equal(got, on_the_cpu(transform, frames, program))
    assert torch.equal(frames, kept[0]) and torch.equal(program, kept[1])


@pytest.mark.parametrize(("frame", "size"), [((40, 56), (32, 32)), ((24, 20), (31, 33)), ((90, 70), (16, 24))], ids=str)
def test_crops_of_pretraining(frame: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    transform = PretrainAugment(size)
    frames = clips(20, 2, *frame)
    program = programs(transform.draw, len(frames), *frame)
    assert torch.equal(augment(frames, program, size=size), on_the_cpu(transform, frames, program))


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(33, 47), (3, 3), (1, 1), (2, 90)], ids=str)
def test_operations(name: str, size: tuple[int, int], interpolation: Any) -> None:
    strengths = [
        Strength(magnitude, increasing, negative, interpolation)
        for magnitude in (0.0, 3.3, 7.0, 10.0)
        for increasing in (True, False)
        for negative in (True, False)
    ]
    frames = clips(len(strengths), 2, *size)
    # Pictures of one value, and of two.
    frames[1, 0], frames[2], frames[3] = 0, 255, frames[3] // 128 + 7
    rows = [torch.tensor(operation_step(name, strength, size), dtype=torch.float64) for strength in strengths]
    numbers = torch.stack([torch.nn.functional.pad(row[1:], (0, 7 - len(row))) for row in rows])
    got = plain.do(Operation(int(rows[0][0])), frames.permute(0, 4, 1, 2, 3), numbers)
    for clip, how, result in zip(frames.permute(0, 1, 4, 2, 3), strengths, got.transpose(1, 2), strict=True):
        assert torch.equal(result, apply_operation(clip, name, *how[:3], interpolation=interpolation)), how


def test_what_lies_elsewhere_in_memory() -> None:
    torch.manual_seed(0)
    transform = fine_tuning((32, 32))
    frames = clips(4, 3, 40, 36)
    program = programs(transform.draw, 4)
    want = augment(frames, program, size=(32, 32), fit="stretch")
    planar = frames.permute(0, 4, 1, 2, 3).contiguous().permute(0, 2, 3, 4, 1)
    wide = torch.zeros(4, 6, 42, 80, 3, dtype=torch.uint8)
    wide[:, ::2, 1:-1, 4:76:2] = frames
    for other in (planar, wide[:, ::2, 1:-1, 4:76:2]):
        assert torch.equal(augment(other, program, size=(32, 32), fit="stretch"), want)
    assert torch.equal(augment(frames, program.repeat(1, 2)[:, : program.shape[1]], size=(32, 32), fit="stretch"), want)


def test_a_batch_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    frames, transform = clips(7, 2, 24, 20), fine_tuning((16, 16))
    program = programs(transform.draw, 7)
    want = augment(frames, program, size=(16, 16), fit="crop")
    monkeypatch.setattr(plain, "_VALUES_AT_ONCE", 3 * 2 * 24 * 20 * 3)
    assert torch.equal(augment(frames, program, size=(16, 16), fit="crop"), want)


def test_no_clips() -> None:
    none = torch.zeros(0, 2, 20, 24, 3, dtype=torch.uint8)
    assert augment(none, torch.zeros(0, 25, dtype=torch.float64), size=(8, 9)).shape == (0, 3, 2, 8, 9)


# Worked by hand


def still(count: int = 1) -> Tensor:
    """Programs that leave frames of 20 x 30 as they are."""
    program = torch.zeros(count, FIRST + EACH, dtype=torch.float64)
    program[:, BOX] = torch.tensor([0.0, 0, 20, 30], dtype=torch.float64)
    return program


def test_nothing_is_done_and_a_mirror_image() -> None:
    frames, program = clips(2, 3, 20, 30), still(2)
    program[1, MIRROR] = 1
    got = augment(frames, program, size=(20, 30))
    assert torch.equal(got[0], frames[0].permute(3, 0, 1, 2))
    assert torch.equal(got[1], frames[1].permute(3, 0, 1, 2).flip(-1))


def test_operations_are_done_in_order() -> None:
    frames = torch.full((1, 1, 20, 30, 3), 200, dtype=torch.uint8)
    program = torch.cat([still(), torch.zeros(1, EACH, dtype=torch.float64)], 1)
    program[0, FIRST : FIRST + 2] = torch.tensor([Operation.SOLARIZE_ADD, 100.0])
    program[0, FIRST + EACH] = Operation.INVERT
    # 200 is not below 128, and is inverted; the other way round 55 would come to 155.
    assert (augment(frames, program, size=(20, 30)) == 55).all()
    program[0, FIRST], program[0, FIRST + EACH : FIRST + EACH + 2] = Operation.INVERT, torch.tensor([6, 100.0])
    assert (augment(frames, program, size=(20, 30)) == 155).all()


def test_a_shift_brings_in_the_colour_of_the_border() -> None:
    frames, program = clips(1, 2, 20, 30), still()
    program[0, FIRST:] = torch.tensor([Operation.AFFINE, *affine_matrix((20, 30), shift=(4, 0))])
    got = augment(frames, program, size=(20, 30))
    assert torch.equal(got[0, ..., 4:], frames[0, :, :, :-4].permute(3, 0, 1, 2))
    assert got[0, :, 1, 7, 2].tolist() == [124, 116, 104]


def test_noise_is_that_of_the_key() -> None:
    frames, program = torch.zeros(3, 2, 20, 30, 3, dtype=torch.uint8), still(3)
    program[:, ERASED] = torch.tensor([[3.0, 5, 9, 11], [0, 0, 20, 30], [0, 0, 20, 30]], dtype=torch.float64)
    program[:, NOISE] = torch.tensor([[7.0, 2**32 - 1], [7, 2**32 - 1], [8, 1]], dtype=torch.float64)
    small, whole, other = augment(frames, program, size=(20, 30))
    # Noise does not depend on the box.
    box = (..., slice(3, 12), slice(5, 16))
    assert torch.equal(small[box], whole[box])
    small[box] = 0
    assert not small.any()
    assert (whole == other).float().mean() < 0.02
    assert (whole[:, 0] == whole[:, 1]).float().mean() < 0.02 and (whole[0] == whole[1]).float().mean() < 0.02


# What can be given


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": torch.zeros(1, 2, 3, 20, 30, dtype=torch.uint8)}, r"frames must be uint8 \[B, T, H, W, 3\]"),
        ({"frames": torch.zeros(1, 2, 20, 30, 3)}, "frames must be uint8"),
        ({"program": still(2)}, r"program must be float64 \[1, 11 \+ 7 n\] on the CPU"),
        ({"program": still().float()}, "program must be float64"),
        ({"program": still()[:, :-1]}, "program must be float64"),
        ({"size": (20, 0)}, "size must be"),
        ({"fit": "corp"}, "did you mean 'crop'"),
    ],
)
def test_what_is_something_else_is_refused(change: dict[str, Any], said: str) -> None:
    given = {"frames": clips(1, 2, 20, 30), "program": still(), "size": (20, 30), "fit": None, **change}
    with pytest.raises(InputError, match=said):
        augment(given["frames"], given["program"], size=given["size"], fit=given["fit"])


@pytest.mark.parametrize(
    ("place", "number", "said"),
    [
        (0, 1.0, r"resized box .* \[1.0, 0.0, 20.0, 30.0\] .* not in frames of 20x30"),
        (2, 0.0, "resized box"),
        (1, float("nan"), "resized box"),
        (3, 29.5, "resized box"),
        (ERASED.start, -1.0, "erased box"),
        (ERASED.start + 3, 31.0, "erased box"),
        (NOISE.start, 2.0**32, "keys of noise"),
        (FIRST, 13.0, "operations of a program are the whole numbers 0 to 12"),
        (FIRST, 0.5, "operations of a program"),
    ],
)
def test_programs_that_nobody_drew_are_refused(place: int, number: float, said: str) -> None:
    program = still()
    program[0, place] = number
    with pytest.raises(InputError, match=said):
        augment(clips(1, 2, 20, 30), program, size=(20, 30))
