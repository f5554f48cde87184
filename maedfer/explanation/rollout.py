"""Attention rollout through the stages of an encoder: where in a clip that comes from which is read in the end.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (arXiv 2005.00928): a layer hands on half of
what a row was and half of what it attends to, (I + A) / 2 with A the mean over its heads, and layers follow on one
another as matrices are multiplied. Values, output projections, LayerNorms and feed-forward networks are not looked at:
it is a bookkeeping of where rows look, and no measure of how much they change.

For LGI-Former every stage is a layer of that kind, over all rows of a clip, of which it changes some:

    intra-region      z_i <- (z_i + A_i z_i) / 2, all rows of region i (representative token and local ones)
    inter-region      s   <- (s + A s) / 2, representative tokens
    interaction       x   <- (x + A s) / 2, local tokens
    feedback          s   <- (s + A x) / 2, where a model has this stage

Rows are carried backwards, from those that are read to the embedding: M regions, S = 1 + N rows of each, row 0 the
representative token. What ends in a representative token at the embedding ends in a weight and not in the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# Head-averaged attention of one block and one clip, by stage; see `roll_back`.
Stages = Mapping[str, np.ndarray]


def roll_back(rows: np.ndarray, blocks: Sequence[Stages]) -> np.ndarray:
    """Carry rows after the last of some blocks back to before the first.

    Args:
        rows: [R, M, S] weights over the rows after the last block, each summing to one; [R, 1, K] for a ViT.
        blocks: of each block, in their order: "intra_region" [M, S, S] (or [M, 1, N], representative tokens reading
            local ones), "inter_region" [M, M], "interaction" [M * N, M], "again" [M, S, S], "feedback" [M, 1, N] or
            [M, M * N], as far as there are these stages; "attention" [1, K, K] for a ViT.

    Returns:
        float64 of the same shape, weights over the rows before the first block, each summing to one.
    """
    rows = np.array(rows, np.float64)
    for stages in reversed(blocks):
        for stage in ("feedback", "again", "interaction", "inter_region", "intra_region", "attention"):
            if stage in stages:
                rows = _STEPS[stage](rows, stages[stage].astype(np.float64))
    return rows


def _within(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """All rows of a region, or of a ViT's clip, read one another; or representative tokens read local ones."""
    if weights.shape[1] != rows.shape[2]:
        return _feedback(rows, weights)
    return (rows + np.einsum("rms,mst->rmt", rows, weights)) / 2


def _among(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    out = rows.copy()
    out[:, :, 0] = (rows[:, :, 0] + rows[:, :, 0] @ weights) / 2
    return out


def _interaction(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    out = rows.copy()
    local = rows[:, :, 1:]
    out[:, :, 1:] = local / 2
    out[:, :, 0] += local.reshape(len(rows), -1) @ weights / 2
    return out


def _feedback(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    out = rows.copy()
    own = rows[:, :, 0]
    out[:, :, 0] = own / 2
    read = own @ weights if weights.ndim == 2 else np.einsum("rm,mn->rmn", own, weights[:, 0])
    out[:, :, 1:] += read.reshape(out[:, :, 1:].shape) / 2
    return out


_STEPS = {
    "intra_region": _within,
    "again": _within,
    "attention": _within,
    "inter_region": _among,
    "interaction": _interaction,
    "feedback": _feedback,
}
