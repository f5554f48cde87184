"""Every operation of LGI-Former and MAE-DFER in plain PyTorch: the specification.

Shapes: B clips, M regions, N local tokens a region, S = 1 + N rows a region (row 0 is the representative token),
H heads, D head dim, C = H * D channels, K = M * N tokens a clip, P pixels a cube (2 * 16 * 16 = 512), I input channels.
Section and table numbers are those of Sun et al., "MAE-DFER", ACM MM 2023 (arXiv 2307.02227).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention, softmax(q k^T / sqrt(D)) v for each head.

    Args:
        q: [..., Sq, C] queries; the leading dimensions are batch dimensions.
        k: [..., Sk, C] keys.
        v: [..., Sk, C] values.
        num_heads: H, which divides C.

    Returns:
        [..., Sq, C], the heads side by side.
    """
    shape = q.shape
    q, k, v = (_split_heads(part, num_heads).flatten(0, -4) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)  # [batch, H, Sq, D]
    return out.transpose(-3, -2).reshape(shape)


def attention_weights(q: Tensor, k: Tensor, num_heads: int) -> Tensor:
    """The probabilities of `attention`: [..., H, Sq, Sk], rows sum to one."""
    q, k = _split_heads(q, num_heads), _split_heads(k, num_heads)
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


def drop_path(x: Tensor, probability: float, training: bool, batch_dims: int) -> Tensor:
    """Stochastic depth: zero whole samples of a residual branch and scale the others by 1 / (1 - probability).

    Args:
        x: the branch's output.
        probability: the chance of dropping a sample.
        training: outside of training nothing is dropped.
        batch_dims: how many leading dimensions make up one sample each. 1 drops clips; 2 on [B, M, ...] drops regions.
    """
    if probability == 0.0 or not training:
        return x
    keep = x.new_empty(x.shape[:batch_dims] + (1,) * (x.dim() - batch_dims)).bernoulli_(1.0 - probability)
    return x * keep.div_(1.0 - probability)


def cubes(video: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """View a clip as a grid of cubes without copying it.

    Args:
        video: [B, I, *size], each size a multiple of the patch.
        patch_size: (2, 16, 16) for tubelets, (16, 16) for patches of a 2-D input.

    Returns:
        [B, *grid, I, *patch_size].
    """
    dims = len(patch_size)
    split = [part for size, patch in zip(video.shape[2:], patch_size, strict=True) for part in (size // patch, patch)]
    view = video.reshape(*video.shape[:2], *split)
    grid_axes, patch_axes = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return view.permute(0, *grid_axes, 1, *patch_axes)


def gather_cubes(video: Tensor, patch_size: tuple[int, ...], index: Tensor) -> Tensor:
    """Copy the wanted cubes of a clip, and read no others.

    Args:
        video: [B, I, *size].
        patch_size: the cube's size.
        index: [B, n] or [n] token numbers in row-major (t, h, w) order.

    Returns:
        [B, n, I, *patch_size].
    """
    grid_view = cubes(video, patch_size)
    dims = len(patch_size)
    coordinates = []
    for size in reversed(grid_view.shape[1 : 1 + dims]):
        coordinates.append(index % size)
        index = index // size
    clip = torch.arange(video.shape[0], device=video.device)[:, None]
    return grid_view[(clip, *reversed(coordinates))]


def reconstruction_target(
    frames: Tensor, index: Tensor, patch_size: tuple[int, ...], motion: bool = True, normalize: bool = True
) -> Tensor:
    """Targets of masked appearance and motion modelling (section 3.3).

    Every cube and channel is normalised over its P values (mean, unbiased standard deviation + 1e-6). Its first frame
    stays as it is (appearance), the others become their difference to the first (motion).

    Args:
        frames: [B, I, T, H, W] un-normalised clip, float in [0, 1] or uint8.
        index: [B, n] token numbers of the wanted cubes.
        patch_size: (t, h, w) of a cube.
        motion: False keeps all frames as they are (the target of VideoMAE).
        normalize: False keeps raw pixels.

    Returns:
        [B, n, t, h * w * I], pixels in the order (t, h, w, channel).
    """
    cube = gather_cubes(frames, patch_size, index)
    cube = cube.float() / 255.0 if cube.dtype == torch.uint8 else cube
    cube = cube.flatten(3).transpose(2, 3)  # [B, n, P, I]
    if normalize:
        cube = (cube - cube.mean(dim=2, keepdim=True)) / (cube.var(dim=2, keepdim=True).sqrt() + 1e-6)
    cube = cube.flatten(2).unflatten(2, (patch_size[0], -1))  # [B, n, t, h * w * I]
    if motion:
        cube = torch.cat([cube[:, :, :1], cube[:, :, 1:] - cube[:, :, :1]], dim=2)
    return cube


def masked_appearance_motion_loss(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    patch_size: tuple[int, ...],
    motion: bool = True,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the two halves of the reconstruction (section 3.3, equation of the joint loss).

    Args:
        prediction: [B, n, P * I], the decoder's output for the tokens in `index`.
        frames: [B, I, T, H, W] un-normalised clip, float in [0, 1] or uint8.
        index: [B, n] token numbers that were predicted.
        patch_size: (t, h, w) of a cube.
        motion: see `reconstruction_target`.
        normalize: see `reconstruction_target`.

    Returns:
        Two float32 scalars: the error over first frames (appearance) and over the other frames (motion).
    """
    target = reconstruction_target(frames, index, patch_size, motion, normalize)
    error = (prediction.to(target.dtype).unflatten(2, (patch_size[0], -1)) - target).square()
    return error[:, :, 0].mean(), error[:, :, 1:].mean()


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[..., S, C] -> [..., H, S, D], with one leading dimension added when there is none."""
    x = x if x.dim() > 2 else x.unsqueeze(0)
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)
