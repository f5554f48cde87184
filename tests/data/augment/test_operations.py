"""Operations by csrc and by plain PyTorch give the same bytes; both are torchvision's, but for the rounding."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from maedfer._native import build_record
from maedfer._programs import Interpolation
from maedfer.data.augment import operations as picture_operations
from maedfer.data.augment.operations import affine_matrix, operations_by
from maedfer.data.augment.rand_augment import OPERATIONS, RandAugment, apply_operation
from maedfer.data.augment.transforms import PretrainAugment, TrainAugment
from maedfer.errors import InputError

needs_csrc = pytest.mark.skipif(not build_record()["cpu"]["built"], reason=str(build_record()["cpu"].get("why")))

# Frames, rows, columns: as many frames as in a recipe and more, odd numbers, and as small as they get.
FILL = (1.0, 2.0, 255.0)
SIZES = [(16, 40, 56), (37, 24, 17), (5, 33, 47), (2, 3, 3), (1, 1, 1), (3, 2, 90)]


def clip(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth pictures with some noise, all frames different, with black and white in them."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(frames, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear") * 360 - 50
    return (smooth + 6 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def layouts(frames: Tensor) -> dict[str, Tensor]:
    """The same frames in other places of the memory."""
    length, channels, height, width = frames.shape
    wide = torch.zeros(length, channels, height + 2, 2 * width + 3, dtype=torch.uint8)
    wide[..., 1:-1, 3::2] = frames
    large = torch.zeros(height + 3, width + 4, channels, length, dtype=torch.uint8)
    large[2:-1, 3:-1] = frames.permute(2, 3, 1, 0)
    return {
        "planar": frames,
        "channels last": frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "channels before frames": frames.transpose(0, 1).contiguous().transpose(0, 1),
        "side by side": frames.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        "a box of pictures side by side": large[2:-1, 3:-1].permute(3, 2, 0, 1),
        "a box of every other column": wide[..., 1:-1, 3::2],
        "one frame for all": frames[:1].expand_as(frames),
    }


def close(got: Tensor, want: Tensor, share: float) -> None:
    """No value is off by more than 1, and at most a share of them is."""
    assert got.dtype == torch.uint8 and got.shape == want.shape
    difference = (got.int() - want.int()).abs()
    assert difference.max() <= 1
    # One value of a handful may be off, too.
    assert (difference > 0).sum() <= max(1, share * want.numel())


# By both ways, the same bytes


WAYS = [(name, "bicubic") for name in OPERATIONS]
WAYS += [(name, "bilinear") for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")]


@needs_csrc
@pytest.mark.parametrize(("name", "interpolation"), WAYS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_ways_give_the_same_bytes(name: str, interpolation: Any, size: tuple[int, int, int]) -> None:
    for layout, frames in layouts(clip(*size)).items():
        kept = frames.clone()
        for magnitude in (0.0, 3.3, 7.0, 10.0):
            for increasing in (True, False):
                for negative in (True, False):
                    how = (name, magnitude, increasing, negative)
                    native, plain = (
                        apply_operation(frames, *how, impl=impl, interpolation=interpolation)
                        for impl in ("native", "torch")
                    )
                    assert torch.equal(native, plain), (layout, *how)
        assert torch.equal(frames, kept)


@needs_csrc
@pytest.mark.parametrize("name", ["contrast", "rotate", "shear_x", "shear_y", "color", "sharpness"])
def test_both_ways_give_the_same_bytes_where_many_sums_lie_halfway(name: str) -> None:
    """Strengths of few digits on large pictures: the sums of weights and bytes are often halves."""
    frames = clip(4, 90, 110)
    for magnitude in (0.5, 1.0, 2.5, 5.0, 10 / 3, 20 / 3, 7.3):
        for interpolation in get_args(Interpolation):
            native, plain = (
                apply_operation(frames, name, magnitude, impl=impl, interpolation=interpolation)
                for impl in ("native", "torch")
            )
            assert torch.equal(native, plain), magnitude


@needs_csrc
@pytest.mark.parametrize("values", [[0], [255], [7], [0, 255], [3, 4], [0, 1, 254, 255]], ids=str)
@pytest.mark.parametrize("name", ["auto_contrast", "equalize", "contrast", "color", "sharpness"])
def test_pictures_of_few_values(name: str, values: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor(values, dtype=torch.uint8)[torch.randint(len(values), (4, 3, 20, 24), generator=generator)]
    frames[1, 2] = 9
    for negative in (True, False):
        native, plain = (apply_operation(frames, name, 7, negative=negative, impl=impl) for impl in ("native", "torch"))
        assert torch.equal(native, plain)


@needs_csrc
@pytest.mark.parametrize(
    ("size", "result"),
    [
        ((16, 40, 56), (40, 56)),
        ((16, 40, 56), (32, 32)),
        ((8, 24, 17), (48, 5)),
        ((5, 33, 47), (33, 90)),
        ((3, 300, 200), (7, 9)),
        ((2, 1, 1), (5, 6)),
        ((1, 64, 3), (1, 2)),
        ((2, 9, 30), (7, 1)),
        ((1, 5, 5), (14, 1)),
        ((3, 9, 1), (12, 1)),
        ((4, 13, 500), (12, 499)),
        ((2, 5, 7), (1, 1)),
    ],
    ids=str,
)
def test_resizing(size: tuple[int, int, int], result: tuple[int, int]) -> None:
    for frames in layouts(clip(*size)).values():
        for mirror in (False, True):
            for planar in (False, True):
                native, plain = (
                    operations_by(impl).resize(frames, result, mirror, planar) for impl in ("native", "torch")
                )
                assert torch.equal(native, plain)
                assert not planar or native.transpose(0, 1).is_contiguous()
                assert not planar or plain.transpose(0, 1).is_contiguous()


@needs_csrc
def test_resizing_between_any_two_lengths() -> None:
    draw = random.Random(0)
    for _ in range(300):
        rows, columns, height, width = (int(2 ** draw.uniform(0, 8.5)) for _ in range(4))
        frames = torch.randint(256, (1, 3, rows, columns), dtype=torch.uint8)
        native, plain = (operations_by(impl).resize(frames, (height, width)) for impl in ("native", "torch"))
        assert torch.equal(native, plain), (rows, columns, height, width)


@needs_csrc
def test_turns_and_shifts_of_any_size() -> None:
    frames = clip(3, 21, 34)
    for how in AFFINE:
        native, plain = (
            operations_by(impl).affine(frames, FILL, affine_matrix((21, 34), **how)) for impl in ("native", "torch")
        )
        assert torch.equal(native, plain)
        native, plain = (
            operations_by(impl).affine_bicubic(frames, affine_matrix((21, 34), **how)) for impl in ("native", "torch")
        )
        assert torch.equal(native, plain)


@needs_csrc
def test_whole_chains_give_the_same_bytes() -> None:
    """What fine-tuning and pre-training read does not depend on whether there was a compiler at installation."""
    draw = random.Random(1)
    for seed in range(150):
        size = draw.randint(8, 64), draw.randint(8, 64)
        frames = list(
            layouts(clip(draw.choice([1, 3, 16, 17]), draw.randint(8, 80), draw.randint(8, 80), seed)).values()
        )
        chosen = frames[seed % len(frames)]
        settings = f"rand-m{draw.choice([3, 7, 10])}-n{draw.randint(1, 6)}-mstd0.5-inc{draw.randint(0, 1)}"
        results, states = [], []
        for impl in ("native", "torch"):
            torch.manual_seed(seed)
            transform = TrainAugment(
                size,
                randaugment=settings,
                fit="crop" if seed % 2 else "stretch",
                interpolation="bilinear" if seed % 3 else "bicubic",
                impl=impl,
            )
            results.append(transform(chosen))
            assert results[-1].transpose(0, 1).is_contiguous()
            states.append(torch.get_rng_state())
        assert torch.equal(*results), (seed, settings)
        assert torch.equal(*states)


@needs_csrc
def test_what_pretraining_reads_is_what_csrc_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        plain = PretrainAugment((40, 32))(clip(5, 48 + seed, 90 - seed, seed))
        with monkeypatch.context() as patch:
            patch.setattr("maedfer.data.augment.transforms.resize", operations_by("native").resize)
            torch.manual_seed(seed)
            native = PretrainAugment((40, 32))(clip(5, 48 + seed, 90 - seed, seed))
        assert torch.equal(native, plain)
        assert plain.transpose(0, 1).is_contiguous()


# Against PIL, whose bicubic sampling the published code has


@pytest.mark.parametrize("impl", [pytest.param("native", marks=needs_csrc), "torch"])
@pytest.mark.parametrize("size", [(41, 64), (160, 160), (3, 3), (1, 50), (50, 1), (1, 1)], ids=str)
def test_bicubic_sampling_is_that_of_pil(size: tuple[int, int], impl: Any) -> None:
    (height, width), draw, off = size, random.Random(0), []
    frames = clip(2, *size)
    # What is one colour stays it to the byte, what is black and white has the largest swings.
    frames[1, 0], frames[1, 1] = 99, (frames[1, 1] > 128) * 255
    centre = (-0.5 + height / 2, -0.5 + width / 2)
    cos, sin = math.cos(0.3), math.sin(0.3)
    maps: list[tuple[float, ...]] = [(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)]
    maps += [(1.0, 0.0, 5.0, 0.0, 1.0, -3.0), (1.0, 0.0, 0.37, 0.0, 1.0, 0.0)]
    maps += [(1.0, 0.21, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, -0.3, 1.0, 0.0), (0.2, 0.0, 0.0, 0.0, 3.0, 0.0)]
    maps += [(cos, sin, centre[1] * (1 - cos), -sin, cos, centre[0] * (1 - cos)), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)]
    maps += [(1.0, 0.0, 1e6, 0.0, 1.0, 0.0)]
    maps += [tuple(draw.uniform(-1.5, 1.5) * (width if place % 3 == 2 else 1) for place in range(6)) for _ in range(6)]
    for a, b, c, d, e, f in maps:
        # PIL gives corners of pixels.
        matrix = (a, b, c - 0.5 + (a + b) / 2, d, e, f - 0.5 + (d + e) / 2)
        got = operations_by(impl).affine_bicubic(frames, matrix).permute(0, 2, 3, 1).numpy()
        for frame, result in zip(frames, got, strict=True):
            picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
            want = picture.transform(
                (width, height),
                Image.Transform.AFFINE,
                (a, b, c, d, e, f),
                Image.Resampling.BICUBIC,
                fillcolor=(128,) * 3,
            )
            off.append(np.abs(result.astype(int) - np.asarray(want)).ravel())
    values = np.concatenate(off)
    assert values.max() <= 1 and (values > 0).mean() < 1e-3


# Against torchvision, which computes in float32 as the processor has it

AFFINE: list[dict[str, Any]] = [
    {"angle": 45.0},
    {"angle": -170.0, "shift": (3, -2)},
    {"shift": (34, 0)},
    {"shift": (-40, 30)},
    {"shear": (1.5, 0.0)},
    {"shear": (0.0, -0.3)},
]


@pytest.mark.parametrize("how", AFFINE, ids=str)
def test_turns_shears_and_shifts_are_torchvisions(how: dict[str, Any]) -> None:
    frames, shear = clip(3, 41, 64), how.get("shear", (0.0, 0.0))
    want = functional.affine(
        frames,
        angle=how.get("angle", 0.0),
        translate=list(how.get("shift", (0, 0))),
        scale=1.0,
        shear=[math.degrees(math.atan(part)) for part in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=list(FILL),
        center=[0.0, 0.0] if any(shear) else None,
    )
    # Halves are frequent in shears, whose steps of 1/100 pixel make them.
    close(operations_by("torch").affine(frames, FILL, affine_matrix((41, 64), **how)), want, 0.02)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        ("auto_contrast", functional.autocontrast, [()]),
        ("equalize", functional.equalize, [()]),
        ("color", functional.adjust_saturation, [(0.0,), (0.37,), (1.63,), (1.9,)]),
        ("contrast", functional.adjust_contrast, [(0.0,), (0.37,), (1.63,), (1.9,)]),
        ("brightness", functional.adjust_brightness, [(0.1,), (0.37,), (1.63,), (1.9,)]),
        ("sharpness", functional.adjust_sharpness, [(0.0,), (0.37,), (1.63,), (1.9,)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_colours_are_torchvisions(
    size: tuple[int, int, int], ours: str, theirs: Callable[..., Tensor], factors: list[tuple[float, ...]]
) -> None:
    frames = clip(*size)
    for factor in factors:
        close(getattr(operations_by("torch"), ours)(frames, *factor), theirs(frames, *factor), 0.05)


@pytest.mark.parametrize("result", [(32, 32), (48, 5), (90, 33), (7, 9)], ids=str)
def test_resizing_is_torchvisions(result: tuple[int, int]) -> None:
    frames = clip(3, 40, 56)
    want = functional.resize(frames, list(result), interpolation=InterpolationMode.BILINEAR, antialias=True)
    # Where a processor's vectors cannot do it in integers, torchvision resizes in floats.
    close(operations_by("torch").resize(frames, result), want, 0.25)
    assert torch.equal(
        operations_by("torch").resize(frames, result, mirror=True).flip(-1),
        operations_by("torch").resize(frames, result),
    )


@pytest.mark.parametrize("impl", [pytest.param("native", marks=needs_csrc), "torch"])
def test_resizing_keeps_white_white(impl: Any) -> None:
    for side in (1, 2, 3, 31, 160, 997):
        frames = torch.full((2, 3, side, 100), 255, dtype=torch.uint8)
        assert (operations_by(impl).resize(frames, (40, 33)) == 255).all()


# What can be given


@pytest.mark.parametrize("impl", [pytest.param("native", marks=needs_csrc), "torch"])
def test_no_frames(impl: Any) -> None:
    frames = torch.zeros(0, 3, 20, 30, dtype=torch.uint8)
    for name in OPERATIONS:
        assert apply_operation(frames, name, 5, impl=impl).shape == frames.shape
    assert operations_by(impl).resize(frames, (7, 8), planar=True).shape == (0, 3, 7, 8)


@pytest.mark.parametrize("impl", [pytest.param("native", marks=needs_csrc), "torch"])
@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 0, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="meta"),
    ],
    ids=lambda x: f"{x.dtype} {list(x.shape)} {x.device}",
)
def test_other_frames_are_refused(frames: Tensor, impl: Any) -> None:
    by = operations_by(impl)
    for function, arguments in (
        (by.resize, [(4, 4)]),
        (by.affine, [FILL, affine_matrix((8, 8))]),
        (by.color, [0.5]),
        (by.contrast, [0.5]),
        (by.auto_contrast, []),
    ):
        with pytest.raises(InputError, match=r"frames must be uint8 \[T, 3, H, W\] on the CPU, got torch"):
            function(frames, *arguments)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'torch'"):
        TrainAugment(32, impl="troch")  # type: ignore[arg-type]
    monkeypatch.setitem(picture_operations.MODULES, "cpu", None)
    with pytest.raises(InputError, match=r"CPU part is not there .* use impl='torch'"):
        RandAugment("rand-m7-n4", impl="native")
    torch.manual_seed(0)
    without = TrainAugment(32)(clip(2, 40, 50))
    torch.manual_seed(0)
    assert torch.equal(without, TrainAugment(32, impl="torch")(clip(2, 40, 50)))
