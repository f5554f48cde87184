"""Attention rollout, against products of whole matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maedfer.explanation import attention_maps
from maedfer.explanation.rollout import roll_back
from tests.explanation.test_attention import SIDES, clip_for, model_of


def matrices(stages: Any, regions: int, rows: int) -> list[np.ndarray]:
    """Every stage as a matrix over all rows of a clip, [M * S, M * S], row r of it what row r is made of."""
    found = []
    everything = np.arange(regions * rows).reshape(regions, rows)
    own, local = everything[:, 0], everything[:, 1:].ravel()
    for name in ("intra_region", "inter_region", "interaction", "again", "feedback"):
        if name not in stages:
            continue
        weights, matrix = stages[name], np.eye(regions * rows)
        if name == "inter_region":
            matrix[np.ix_(own, own)] = (np.eye(regions) + weights) / 2
        elif name == "interaction":
            matrix[local, local] = 0.5
            matrix[np.ix_(local, own)] = weights / 2
        elif weights.ndim == 2:
            matrix[own, own] = 0.5
            matrix[np.ix_(own, local)] = weights / 2
        else:
            for region in range(regions):
                every = everything[region]
                if weights.shape[1] == rows:
                    matrix[np.ix_(every, every)] = (np.eye(rows) + weights[region]) / 2
                else:
                    matrix[every[0], every[0]] = 0.5
                    matrix[every[0], every[1:]] = weights[region, 0] / 2
        found.append(matrix)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"token_type": "all", "intra_region": "cross"},
        {"token_type": "local", "interaction": "self"},
        {"inter_region": False, "feedback": "region"},
        {"feedback": "clip", "interaction": "cross"},
        {"interaction": "none"},
    ],
    ids=str,
)
def test_stages_are_multiplied(changes: Any) -> None:
    model = model_of(**SIDES, **changes)
    config = model.config
    found = attention_maps(model, clip_for(config))
    regions, rows = config.num_regions, 1 + config.region_tokens
    product = np.eye(regions * rows)
    for stages in found.stages:
        for matrix in matrices(stages, regions, rows):
            np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
            product = matrix @ product
    read = np.zeros((regions, rows))
    read[:, {"region": slice(0, 1), "local": slice(1, None), "all": slice(None)}[config.token_type]] = 1
    expected = (read.ravel() / read.sum() @ product).reshape(regions, rows)
    grid = np.empty(config.num_tokens)
    grid[found.order.ravel()] = expected[:, 1:].ravel()
    got = found.rollout()
    np.testing.assert_allclose(got.ravel(), grid, atol=1e-6)
    assert got.sum() + expected[:, 0].sum() == pytest.approx(1, abs=1e-5)
    # Of one region, through the first block alone.
    one = matrices(found.stages[0], regions, rows)
    single = np.linalg.multi_dot([*one[::-1], np.eye(regions * rows)])[5 * rows].reshape(regions, rows)
    grid[found.order.ravel()] = single[:, 1:].ravel()
    np.testing.assert_allclose(found.map("rollout", 1, of=5).ravel(), grid, atol=1e-6)


def test_a_vits_blocks_are_multiplied() -> None:
    model = model_of(architecture="vit", clip_size=(4, 8, 16), patch_size=(2, 4, 4))
    found = attention_maps(model, clip_for(model.config))
    first, second = (stages["attention"][0] for stages in found.stages)
    product = (np.eye(16) + second) / 2 @ (np.eye(16) + first) / 2
    np.testing.assert_allclose(found.rollout().ravel(), product.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.rollout(of=(1, 0, 2)).ravel(), product[10], atol=1e-6)
    assert found.rollout().sum() == pytest.approx(1, abs=1e-5)


def test_who_reads_nothing_but_themselves_is_where_they_began() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(12)).reshape(1, 4, 3)
    alone = {"intra_region": np.tile(np.eye(3), (4, 1, 1)), "inter_region": np.eye(4)}
    np.testing.assert_allclose(roll_back(rows, [alone, alone]), rows)
