"""Costs of a step by what is trained: what a line of the measurement says."""

from __future__ import annotations

import re

import torch

from benchmarks.trained_parts import measure


def test_a_head_keeps_nothing_for_the_backward_pass() -> None:
    line = measure("head", "lgi_former_tiny", 1, torch.device("cpu"), 1)
    assert re.match(r"head +\d+\.\d{3} s \(forward .*\), kept 0 MB, optimiser 0 MB, peak \d+ MB; 21.47 M ", line)
    assert line.endswith("0.0018 M trained (0.00838%): the head")
