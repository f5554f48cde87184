"""Programs followed by Triton's kernels give the bytes that augmentation on a CPU gives."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer._programs import BOX, EACH, ERASED, FIRST, MIRROR, NOISE, Operation
from maedfer.data.augment.transforms import EvalTransform, follow_program
from maedfer.kernels import functional
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._operators import operator
from maedfer.kernels.augment.triton import not_supported_reasons

Size = tuple[int, int]
FRAME, SIZE = (14, 17), (12, 13)


def clips(count: int, length: int, height: int, width: int) -> Tensor:
    """Smooth pictures with some noise, all frames different, with black and white in them: uint8 [B, T, H, W, 3]."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count * length, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear") * 360 - 50
    noisy = (smooth + 6 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    return noisy.view(count, length, 3, height, width).permute(0, 1, 3, 4, 2).contiguous()


def program(
    frame: Size,
    *operations: tuple[float, ...],
    box: tuple[int, ...] | None = None,
    mirror: bool = False,
    erased: tuple[int, ...] = (0, 0, 0, 0),
) -> Tensor:
    out = torch.zeros(FIRST + EACH * len(operations), dtype=torch.float64)
    out[BOX] = torch.tensor(box or (0, 0, *frame), dtype=torch.float64)
    out[MIRROR], out[ERASED] = float(mirror), torch.tensor(erased, dtype=torch.float64)
    out[NOISE] = torch.tensor([2**32 - 5, 123456789], dtype=torch.float64)
    for place, numbers in enumerate(operations):
        start = FIRST + EACH * place
        out[start : start + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    return out


def turn(angle: float, x: float = 0.0, y: float = 0.0) -> tuple[float, ...]:
    cos, sin = math.cos(angle), math.sin(angle)
    return Operation.AFFINE, cos, sin, x, -sin, cos, y


# Strengths from one end to the other, what comes out even, and what leaves nothing of the picture.
OPERATIONS: list[tuple[float, ...]] = [
    (Operation.NONE,),
    (Operation.AUTO_CONTRAST,),
    (Operation.EQUALIZE,),
    (Operation.INVERT,),
    *((Operation.POSTERIZE, mask) for mask in (0, 240)),
    *((Operation.SOLARIZE, threshold) for threshold in (0, 77, 256)),
    *((Operation.SOLARIZE_ADD, amount) for amount in (0, 110)),
    *((code, factor) for code in Operation if Operation.COLOR <= code <= Operation.SHARPNESS for factor in (0.1, 1.73)),
    *(turn(0.4, -3.0, 2.5), turn(-0.5), turn(0.0, 4.0, -7.0), turn(0.0, 0.5, 40.0)),
    (Operation.AFFINE, 1.0, 0.3, 0.0, 0.0, 1.0, 0.0),
    (Operation.AFFINE, 1e12, 0.0, -1e300, 0.0, 1e12, 1e300),
]
# The same places, bicubically.
OPERATIONS += [(Operation.AFFINE_BICUBIC, *how[1:]) for how in OPERATIONS if how[0] == Operation.AFFINE]


def augmented(frames: Tensor, programs: list[Tensor], size: Size, fit: Any) -> Tensor:
    return functional.augment(frames, torch.stack(programs), size=size, fit=fit, impl="triton")


def by_cpu(frames: Tensor, programs: list[Tensor], size: Size, fit: Any) -> Tensor:
    """What a loader's worker gives, clip by clip, in plain PyTorch: [B, 3, T, *size]."""
    out = []
    for clip, row in zip(frames.permute(0, 1, 4, 2, 3), programs, strict=True):
        brought = EvalTransform(size, fit)(clip) if fit else clip
        out.append(follow_program(brought, row, size, impl="torch").transpose(0, 1))
    return torch.stack(out)


def assert_right(
    frames: Tensor, programs: list[Tensor], device: torch.device, size: Size = SIZE, fit: str | None = None
) -> None:
    got, want = augmented(frames.to(device), programs, size, fit).cpu(), by_cpu(frames, programs, size, fit)
    assert got.dtype == torch.uint8 and got.shape == want.shape and got.is_contiguous()
    assert torch.equal(got, want), (got.int() - want.int()).abs().amax((1, 2, 3, 4))


def test_operations(device: torch.device) -> None:
    programs = [program(SIZE, how) for how in OPERATIONS]
    assert_right(clips(len(programs), 1, *SIZE), programs, device)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 7), (9, 3, 3), (1, 11, 100)], ids=str)
def test_frames_of_any_size_and_number(shape: tuple[int, int, int], device: torch.device) -> None:
    codes = Operation.EQUALIZE, Operation.CONTRAST, Operation.COLOR, Operation.SHARPNESS
    programs = [program(shape[1:], (code, 0.6)) for code in codes]
    programs += [program(shape[1:], turn(0.3)), program(shape[1:], (Operation.AFFINE_BICUBIC, *turn(0.3)[1:]))]
    assert_right(clips(len(programs), *shape), programs, device, size=(7, shape[2] // 2 + 1))


def test_frames_of_one_value_stay(device: torch.device) -> None:
    programs = [program(SIZE, (code,)) for code in (Operation.AUTO_CONTRAST, Operation.EQUALIZE)]
    frames = torch.full((2, 1, *SIZE, 3), 93, dtype=torch.uint8, device=device)
    assert (augmented(frames, programs, SIZE, None) == 93).all()


def test_boxes_mirror_images_and_noise(device: torch.device) -> None:
    boxes = [(0, 0, 20, 30), (5, 3, 12, 13), (19, 29, 1, 1), (0, 7, 20, 2), (11, 0, 7, 30), (1, 2, 17, 25)]
    erased = [(0, 0, 0, 0), (2, 3, 5, 9), (0, 0, *SIZE)]
    programs = [
        program((20, 30), box=box, mirror=number % 2 == 1, erased=erased[number % 3])
        for number, box in enumerate(boxes)
    ]
    assert_right(clips(len(programs), 2, 20, 30), programs, device)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("frame", [SIZE, (9, 22)], ids=str)
def test_frames_are_brought_to_size_first(frame: Size, fit: str, device: torch.device) -> None:
    frames = clips(2, 1, *frame)
    for operations in ([], [(Operation.NONE,), (Operation.EQUALIZE,)]):
        programs = [program(SIZE, *operations, box=(3, 2, 9, 11), mirror=bool(operations)) for _ in range(2)]
        assert_right(frames, programs, device, fit=fit)


def chains(count: int, size: Size) -> list[Tensor]:
    """Programs of four operations, some of which do nothing."""
    drawn, programs = random.Random(0), []
    for _ in range(count):
        height, width = drawn.randint(1, size[0]), drawn.randint(1, size[1])
        box = (drawn.randint(0, size[0] - height), drawn.randint(0, size[1] - width), height, width)
        erased = (0, 0, size[0] // 2, drawn.randint(1, size[1]))
        operations = [drawn.choice(OPERATIONS) for _ in range(4)]
        programs.append(program(size, *operations, box=box, mirror=drawn.random() < 0.5, erased=erased))
    return programs


def test_every_clip_follows_its_own_program(device: torch.device) -> None:
    count = 6 if interpreting() else 400
    frames, programs = clips(count, 2, *FRAME), chains(count, SIZE)
    assert_right(frames, programs, device, fit="stretch")
    # Whatever the others of its batch do.
    alone = augmented(frames[3:4].to(device), programs[3:4], SIZE, "stretch").cpu()
    assert torch.equal(alone, by_cpu(frames[3:4], programs[3:4], SIZE, "stretch"))


@pytest.mark.skipif(interpreting(), reason="the sizes of training take the interpreter a minute")
def test_the_sizes_of_training_repeat_bit_for_bit(device: torch.device) -> None:
    frames, programs = clips(8, 16, 256, 256), chains(8, (160, 160))
    assert_right(frames, programs, device, size=(160, 160), fit="stretch")
    many, programs = frames.to(device).repeat(8, 1, 1, 1, 1), chains(64, (160, 160))
    first = augmented(many, programs, (160, 160), "stretch")
    assert all(torch.equal(augmented(many, programs, (160, 160), "stretch"), first) for _ in range(5))


def test_frames_are_read_in_place(device: torch.device) -> None:
    frames = clips(2, 2, *FRAME)
    wide = torch.zeros(2, 4, 18, 40, 5, dtype=torch.uint8)[:, 1:-1, 2:16, 3:37:2, 1:4]
    programs = [program(FRAME, how, box=(1, 2, 9, 14)) for how in ((Operation.INVERT,), turn(0.2))]
    want = by_cpu(frames, programs, SIZE, None)
    for like in (frames.permute(0, 4, 1, 2, 3).contiguous().permute(0, 2, 3, 4, 1), wide):
        view = torch.zeros(wide.untyped_storage().nbytes(), dtype=torch.uint8, device=device)
        view = view.as_strided(like.shape, like.stride(), like.storage_offset()).copy_(frames)
        assert torch.equal(augmented(view, programs, SIZE, None).cpu(), want)
        assert torch.equal(view.cpu(), frames)


@pytest.mark.parametrize("far", range(4), ids=["clip", "frame", "row", "column"])
def test_offsets_past_two_to_the_31(far: int, device: torch.device) -> None:
    shape, strides = (3, 3, 3, 3, 3), [4096, 256, 64, 16, 1]
    strides[far] = 2**30 + 16
    storage = torch.empty(2**31 + 16384, dtype=torch.uint8, device=device)
    pictures = clips(*shape[:4])
    frames = storage.as_strided(shape, strides).copy_(pictures)
    programs = [program(shape[2:4], (Operation.INVERT,))] * 3
    assert torch.equal(augmented(frames, programs, (4, 2), None).cpu(), by_cpu(pictures, programs, (4, 2), None))


@pytest.mark.skipif(interpreting(), reason="seven gigabytes")
def test_batches_past_two_to_the_31(device: torch.device) -> None:
    if torch.cuda.mem_get_info()[0] < 10 * 2**30:
        pytest.skip("needs 10 GiB of the GPU's memory")
    # The whole second copy lies beyond, and the end of the first.
    frames, programs = clips(1, 16, 160, 160), [program((160, 160), (Operation.SHARPNESS, 0.3), (Operation.INVERT,))]
    got = augmented(frames.to(device).expand(1800, -1, -1, -1, -1), programs * 1800, (160, 160), None)
    want = by_cpu(frames, programs, (160, 160), None)[0].to(device)
    assert all(torch.equal(got[place], want) for place in (0, 899, 1799))


def test_an_empty_batch(device: torch.device) -> None:
    frames = torch.empty(0, 2, *FRAME, 3, dtype=torch.uint8, device=device)
    for operations in (0, 2):
        programs = torch.empty(0, FIRST + EACH * operations, dtype=torch.float64)
        got = functional.augment(frames, programs, size=SIZE, fit="crop", impl="triton")
        assert got.shape == (0, 3, 2, *SIZE)


def test_compiles_into_one_graph(device: torch.device) -> None:
    frames, programs, graphs = clips(1, 1, 3, 2).to(device), torch.stack([program((3, 2), (Operation.INVERT,))]), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    augment = operator("augment_fwd")
    compiled = torch.compile(lambda x, y: augment(x, y, [3, 2], "stretch"), fullgraph=True, backend=count)
    # Other programs are other launches in the same graph.
    for batch in (programs, programs * (torch.arange(programs.shape[1]) < FIRST)):
        assert torch.equal(compiled(frames, batch), augment(frames, batch, [3, 2], "stretch"))
    assert len(graphs) == 1
    # It has no gradients.
    torch.library.opcheck(augment, (frames, programs, [3, 2], "stretch"), test_utils=("test_schema", "test_faketensor"))


def test_limits_are_told() -> None:
    frames = torch.empty(2, 4, *FRAME, 3, dtype=torch.uint8, device="meta")
    assert not not_supported_reasons(frames, SIZE)
    assert "3221225472 values" in not_supported_reasons(frames, (2**14, 2**14))[0]
