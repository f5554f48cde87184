"""Augmentation by csrc against torchvision, which is its specification."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import Tensor

from maedfer._native import build_record
from maedfer.data.augment import native_operations, torchvision_operations
from maedfer.data.augment import operations as picture_operations
from maedfer.data.augment.rand_augment import OPERATIONS, RandAugment, apply_operation
from maedfer.data.augment.transforms import PretrainAugment, TrainAugment
from maedfer.errors import InputError

needs_csrc = pytest.mark.skipif(not build_record()["cpu"]["built"], reason=str(build_record()["cpu"].get("why")))

# Frames, rows, columns: as many frames as in a recipe and more, odd numbers, and as small as they get.
SIZES = [(16, 40, 56), (37, 24, 17), (5, 33, 47), (2, 3, 3), (1, 1, 1), (3, 2, 90)]
# What is computed in the same integers and floats; others may round to the other side.
ROUNDED = ["contrast", "rotate", "shear_x", "shear_y"]
# Where vectors of PyTorch have multiply-adds, which round once.
FUSED = ["color", "sharpness"]


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


def vectorised() -> bool:
    """Whether PyTorch has multiply-adds here, and resizes uint8 as such, not by way of floats."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")


def close(got: Tensor, want: Tensor, share: float) -> None:
    """No value is off by more than 1, and at most a share of them is."""
    assert got.dtype == torch.uint8 and got.shape == want.shape
    difference = (got.int() - want.int()).abs()
    assert difference.max() <= 1
    # One value of a handful may be off, too.
    assert (difference > 0).sum() <= max(1, share * want.numel())


@needs_csrc
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_operations(name: str, size: tuple[int, int, int]) -> None:
    for layout, frames in layouts(clip(*size)).items():
        kept = frames.clone()
        for magnitude in (0.0, 3.3, 7.0, 10.0):
            for increasing in (True, False):
                for negative in (True, False):
                    how = (name, magnitude, increasing, negative)
                    want = apply_operation(frames, *how, impl="torchvision")
                    got = apply_operation(frames, *how, impl="csrc")
                    if name in ROUNDED or (name in FUSED and not vectorised()):
                        close(got, want, 0.05)
                    else:
                        assert torch.equal(got, want), (layout, magnitude, increasing, negative)
        assert torch.equal(frames, kept)


@needs_csrc
@pytest.mark.parametrize("name", ROUNDED)
def test_nearly_all_values_are_the_same(name: str) -> None:
    frames = clip(4, 90, 110)
    differing = []
    for magnitude in (1.3, 4.7, 9.1):
        want = apply_operation(frames, name, magnitude, impl="torchvision")
        got = apply_operation(frames, name, magnitude, impl="csrc")
        differing.append((got != want).float().mean())
    # Half of a value is frequent in shears only, whose steps of 1/100 pixel make it.
    assert torch.stack(differing).mean() < (0.02 if name.startswith("shear") else 0.004)


@needs_csrc
@pytest.mark.parametrize("values", [[0], [255], [7], [0, 255], [3, 4], [0, 1, 254, 255]], ids=str)
@pytest.mark.parametrize("name", ["auto_contrast", "equalize", "contrast", "color", "sharpness"])
def test_pictures_of_few_values(name: str, values: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor(values, dtype=torch.uint8)[torch.randint(len(values), (4, 3, 20, 24), generator=generator)]
    frames[1, 2] = 9
    for negative in (True, False):
        got, want = (apply_operation(frames, name, 7, negative=negative, impl=impl) for impl in ("csrc", "torchvision"))
        close(got, want, 0.05)


@needs_csrc
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((16, 40, 56), (40, 56)),
        ((16, 40, 56), (32, 32)),
        ((8, 24, 17), (48, 5)),
        ((5, 33, 47), (33, 90)),
        ((3, 300, 200), (7, 9)),
        ((2, 1, 1), (5, 6)),
        ((1, 64, 3), (1, 2)),
        ((4, 13, 500), (12, 499)),
    ],
    ids=str,
)
def test_resizing(size: tuple[int, int, int], wanted: tuple[int, int]) -> None:
    for frames in layouts(clip(*size)).values():
        for mirror in (False, True):
            for planar in (False, True):
                got = native_operations.resize(frames, wanted, mirror, planar)
                want = torchvision_operations.resize(frames, wanted, mirror, planar)
                if vectorised():
                    assert torch.equal(got, want)
                else:
                    close(got, want, 0.1)
                assert got.transpose(0, 1).is_contiguous() or not planar


@needs_csrc
def test_resizing_keeps_white_white() -> None:
    for side in (1, 2, 3, 31, 160, 997):
        frames = torch.full((2, 3, side, 100), 255, dtype=torch.uint8)
        assert (native_operations.resize(frames, (40, 33)) == 255).all()


@needs_csrc
def test_turns_and_shifts_of_any_size() -> None:
    frames = clip(3, 21, 34)
    for given in (
        {"angle": 45.0},
        {"angle": -170.0, "shift": (3, -2)},
        {"shift": (34, 0)},
        {"shift": (-40, 30)},
        {"shear": (1.5, 0.0)},
    ):
        got = native_operations.affine(frames, (1.0, 2.0, 255.0), **given)
        close(got, torchvision_operations.affine(frames, (1.0, 2.0, 255.0), **given), 0.02)


@needs_csrc
@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_whole_augmentation_draws_the_same_and_gives_the_same(fit) -> None:
    frames = clip(16, 72, 96).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for seed in range(40):
        results = []
        for impl in ("csrc", "torchvision"):
            torch.manual_seed(seed)
            results.append(TrainAugment(48, fit=fit, impl=impl)(frames))
            assert results[-1].transpose(0, 1).is_contiguous()
        # A difference of 1 may be one of 255 after inverting what is above a threshold.
        assert ((results[0].int() - results[1].int()).abs() <= 1).float().mean() > 0.98


@needs_csrc
def test_no_frames() -> None:
    frames = torch.zeros(0, 3, 20, 30, dtype=torch.uint8)
    for name in OPERATIONS:
        assert apply_operation(frames, name, 5, impl="csrc").shape == frames.shape
    assert native_operations.resize(frames, (7, 8), planar=True).shape == (0, 3, 7, 8)


@needs_csrc
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
def test_other_frames_are_refused(frames: Tensor) -> None:
    for function, given in (
        (native_operations.resize, [(4, 4)]),
        (native_operations.affine, [(0.0, 0.0, 0.0)]),
        (native_operations.color, [0.5]),
        (native_operations.contrast, [0.5]),
        (native_operations.auto_contrast, []),
    ):
        with pytest.raises(InputError, match=r"frames must be uint8 \[T, 3, H, W\] on the CPU, got torch"):
            function(frames, *given)


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean 'torchvision'"):
        TrainAugment(32, impl="torchvison")  # type: ignore[arg-type]
    monkeypatch.setitem(picture_operations.MODULES, "cpu", None)
    assert picture_operations.operations_by() is torchvision_operations
    with pytest.raises(InputError, match=r"CPU part is not there .* use impl='torchvision'"):
        RandAugment("rand-m7-n4", impl="csrc")
    torch.manual_seed(0)
    without = TrainAugment(32)(clip(2, 40, 50))
    torch.manual_seed(0)
    assert torch.equal(without, TrainAugment(32, impl="torchvision")(clip(2, 40, 50)))


def test_pretraining_clips_come_as_models_take_them() -> None:
    for size in (32, 40):
        out = PretrainAugment(size)(clip(2, 40, 40))
        assert out.transpose(0, 1).is_contiguous()
