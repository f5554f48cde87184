"""Every operation of LGI-Former and MAE-DFER in plain PyTorch: the specification.

Shapes: B clips, M regions, N local tokens a region, S = 1 + N rows a region (row 0 is the representative token),
H heads, D head dim, C = H * D channels, K = M * N tokens a clip, P pixels a cube (2 * 16 * 16 = 512), I input channels.
Section and table numbers are those of Sun et al., "MAE-DFER", ACM MM 2023 (arXiv 2307.02227).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels.cubes import gather_cubes


def attention(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention, softmax(q k^T / sqrt(D)) v for each head.

    Args:
        q: [..., Sq, C] queries; the leading dimensions are batch dimensions.
        k: [..., Sk, C] keys.
        v: [..., Sk, C] values.
        num_heads: H, which divides C.
        mask: [..., Sk] bool, broadcast over the leading dimensions: True for keys that may be attended to; at least
            one of each group.

    Returns:
        [..., Sq, C], the heads side by side.
    """
    shape = q.shape
    if mask is not None:
        mask = mask.expand(k.shape[:-1]).flatten(0, -2)[:, None, None]  # [batch, 1, 1, Sk]
    q, k, v = (_split_heads(part, num_heads).flatten(0, -4) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask)  # [batch, H, Sq, D]
    return out.transpose(-3, -2).reshape(shape)


def attention_weights(q: Tensor, k: Tensor, *, num_heads: int) -> Tensor:
    """The probabilities of `attention`: [..., H, Sq, Sk], rows sum to one."""
    q, k = _split_heads(q, num_heads), _split_heads(k, num_heads)
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


def layer_norm(x: Tensor, norm: Norm, *, eps: float) -> Tensor:
    """Normalise the last dimension to mean 0 and variance 1, then scale and shift: [..., C]."""
    weight, bias = norm
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def residual_add(residual: Tensor, branch: Tensor, *, bias: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
    """residual + keep * (branch + bias).

    Args:
        residual: [..., C] the stream.
        branch: [..., C] what a sub-layer adds, its last bias left out.
        bias: [C] that bias.
        keep: stochastic depth's factor (see `drop_path_factors`) over the leading dimensions, [B] or [B, M].

    Returns:
        [..., C].
    """
    branch = branch if bias is None else branch + bias
    return residual + (branch if keep is None else scaled(branch, keep))


def residual_layer_norm(
    residual: Tensor,
    branch: Tensor,
    norm: Norm,
    *,
    eps: float,
    bias: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`residual_add` followed by the LayerNorm of the next sub-layer: (stream, normed), [..., C] each."""
    z = residual_add(residual, branch, bias=bias, keep=keep)
    return z, layer_norm(z, norm, eps=eps)


def residual_layer_norm_representative(
    residual: Tensor,
    branch: Tensor,
    norm: Norm,
    *,
    eps: float,
    bias: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`residual_add` on [B, M, S, C], with a LayerNorm of the representative tokens alone.

    Returns:
        The stream [B, M, S, C], its representative tokens [B, M, C], and those normed [B, M, C].
    """
    z = residual_add(residual, branch, bias=bias, keep=keep)
    s = z[:, :, 0]
    return z, s, layer_norm(s, norm, eps=eps)


def bias_gelu(x: Tensor, bias: Tensor | None) -> Tensor:
    """GELU(x + bias) with the exact (erf) GELU: [..., F]."""
    return F.gelu(x if bias is None else x + bias)


def feed_forward(x: Tensor, fc1: Linear, out_weight: Tensor) -> Tensor:
    """GELU(x weight^T + bias) out_weight^T: the branch of a feed-forward network, its last bias left out.

    Args:
        x: [..., C].
        fc1: [F, C] and [F].
        out_weight: [C, F].

    Returns:
        [..., C].
    """
    weight, bias = fc1
    return F.linear(bias_gelu(F.linear(x, weight), bias), out_weight)


def local_global_interaction(
    z: Tensor,
    s: Tensor,
    kv: Tensor,
    *,
    norm: Norm,
    query: Linear,
    output: Linear,
    next_norm: Norm,
    num_heads: int,
    eps: float,
    keep: Tensor | None = None,
    kv_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Local-global interaction (equations 4 and 5): local tokens attend to all representative tokens of their clip.

    Args:
        z: [B, M, S, C] the stream; row 0 of each region is not read.
        s: [B, M, C] the representative tokens, row 0 of the result.
        kv: [B, M, 2C] their keys and values, side by side.
        norm: [C] and [C], the LayerNorm before the queries.
        query: [C, C] and [C], the queries' projection; its bias may be None.
        output: [C, C] and [C], the output projection.
        next_norm: [C] and [C], the LayerNorm of the next sub-layer.
        num_heads: H.
        eps: of both LayerNorms.
        keep: [B] stochastic depth's factor, or None.
        kv_bias: [C] a bias of the values that `kv` comes without, or None.

    Returns:
        The stream [B, M, S, C] and its LayerNorm [B, M, S, C].
    """
    x = z[:, :, 1:]
    q = F.linear(layer_norm(x, norm, eps=eps).flatten(1, 2), *query)  # [B, K, C]
    k, v = kv.chunk(2, dim=-1)
    v = v if kv_bias is None else v + kv_bias
    weight, bias = output
    branch = F.linear(attention(q, k, v, num_heads=num_heads), weight).unflatten(1, x.shape[1:3])
    z = torch.cat([s.unsqueeze(2), residual_add(x, branch, bias=bias, keep=keep)], dim=2)
    return z, layer_norm(z, next_norm, eps=eps)


def drop_path_factors(shape: Sequence[int], probability: float, device: torch.device) -> Tensor:
    """Stochastic depth: 0 for dropped samples of a residual branch, 1 / (1 - probability) for the others.

    Args:
        shape: one sample each; [B] drops clips, [B, M] regions.
        probability: the chance of dropping a sample.
        device: where they are drawn.

    Returns:
        Factors of shape `shape`, float32 for branches of every dtype: in 16 bits their mean would not be 1.
    """
    return torch.empty(shape, dtype=torch.float32, device=device).bernoulli_(1.0 - probability).div_(1.0 - probability)


def scaled(branch: Tensor, keep: Tensor) -> Tensor:
    """A branch [..., C] times float32 factors over its leading dimensions, rounded once to the branch's dtype."""
    return (branch * keep.reshape(keep.shape + (1,) * (branch.dim() - keep.dim()))).to(branch.dtype)


def normalize(frames: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frames as models take them: brought to [0, 1], then (x - mean) / std for each channel.

    Args:
        frames: [B, I, ...] uint8, or float in [0, 1].
        mean: I values.
        std: I values.
    """
    frames = frames.float() / 255.0 if frames.dtype == torch.uint8 else frames
    shape = (-1, *[1] * (frames.dim() - 2))
    return (frames - frames.new_tensor(mean).view(shape)) / frames.new_tensor(std).view(shape)


def own_share(mix: Tensor, height: int, width: int) -> Tensor:
    """What a pixel of a mixed clip keeps of its own clip: [height, width].

    Args:
        mix: [5] (keep, top, bottom, left, right): nothing inside of the box, `keep` outside of it.
        height, width: of the frames.
    """
    keep, top, bottom, left, right = mix
    row, column = torch.arange(height, device=mix.device)[:, None], torch.arange(width, device=mix.device)
    boxed = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return torch.where(boxed, 0.0, keep)


def tubelets(
    frames: Tensor,
    index: Tensor,
    *,
    patch_size: tuple[int, ...],
    mean: Sequence[float],
    std: Sequence[float],
    mix: Tensor | None = None,
) -> Tensor:
    """Normalised cubes of the wanted tokens, ready for the embedding's product.

    Args:
        frames: [B, I, T, H, W] uint8, or float in [0, 1].
        index: [B, n] or [n] int64 token numbers, row-major over (t, h, w).
        patch_size: (t, h, w) of a cube.
        mean: of each channel.
        std: of each channel.
        mix: [5] float32 (see `own_share`): what a clip does not keep is taken from the one at the opposite place.

    Returns:
        [B, n, I * t * h * w], float32 from uint8.
    """
    clips = normalize(frames, mean=mean, std=std)
    if mix is not None:
        clips = torch.lerp(clips.flip(0), clips, own_share(mix, *clips.shape[-2:]).to(clips.dtype))
    return gather_cubes(clips, patch_size, index).flatten(2)


def reconstruction_target(
    frames: Tensor, index: Tensor, *, patch_size: tuple[int, ...], motion: bool = True, normalize: bool = True
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
    *,
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
    target = reconstruction_target(frames, index, patch_size=patch_size, motion=motion, normalize=normalize)
    error = (prediction.to(target.dtype).unflatten(2, (patch_size[0], -1)) - target).square()
    return error[:, :, 0].mean(), error[:, :, 1:].mean()


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[..., S, C] -> [..., H, S, D], with one leading dimension added when there is none."""
    x = x if x.dim() > 2 else x.unsqueeze(0)
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)
