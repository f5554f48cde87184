"""Budgets of compiled kernels: what they let pass, and what they do not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks import __main__ as cli
from benchmarks import budgets
from benchmarks.ahead_of_time import Resources, compile_case
from benchmarks.budgets import CHOSEN_WITH, SPILLS_OF_OTHERS, complaints, known
from benchmarks.shipped import Case, cases
from maedfer.kernels._configs import Config, force
from maedfer.kernels._dispatch import interpreting

compiling = pytest.mark.skipif(interpreting(), reason="nothing can be compiled under TRITON_INTERPRET=1")

KNOWN, COMING = f"{CHOSEN_WITH[0]}.0", "17.0.1"
GOOD = Resources(registers=128, spills=0, shared=40 * 1024, columns=0, warps=4, matrix=frozenset({"mma.sync"}))


def shipped(name: str) -> Case:
    """The case of this name, in bfloat16."""
    return next(case for case in cases() if case.name == name)


ATTENTION, LOSS = shipped("self_attention_fwd-101"), shipped("reconstruction_loss_fwd")


def test_versions() -> None:
    assert known("3.6.0") and known("3.8.1+git0") and not known("3.7.1") and not known("3.60.0") and not known(COMING)


@pytest.mark.parametrize("version", [KNOWN, COMING])
def test_what_keeps_within_its_budget(version: str) -> None:
    assert complaints(ATTENTION, "kernel", GOOD, 90, version) == []
    assert complaints(ATTENTION, "kernel", replace(GOOD, matrix=frozenset({"wgmma.mma_async"})), 90, version) == []
    # Of float32 and of sums, no matrix instructions are asked.
    wide = next(case for case in cases() if case.name == ATTENTION.name and case != ATTENTION)
    assert complaints(wide, "kernel", replace(GOOD, matrix=frozenset()), 90, version) == []


@pytest.mark.parametrize("version", [KNOWN, COMING])
@pytest.mark.parametrize(
    ("case", "resources", "complaint"),
    [
        (ATTENTION, replace(GOOD, shared=228 * 1024), "does not fit"),
        (ATTENTION, replace(GOOD, columns=640), "does not fit"),
        (ATTENTION, replace(GOOD, registers=255, warps=8), "runs fewer than 2 programs"),
        (LOSS, replace(GOOD, registers=160), "runs fewer than 4 programs"),
        (ATTENTION, replace(GOOD, matrix=frozenset()), "has the matrix instructions []"),
        (ATTENTION, replace(GOOD, matrix=frozenset({"tcgen05.mma"})), "has the matrix instructions ['tcgen05.mma']"),
        (ATTENTION, replace(GOOD, spills=SPILLS_OF_OTHERS + 8), "spills more than"),
    ],
)
def test_what_is_beyond_its_budget(version: str, case: Case, resources: Resources, complaint: str) -> None:
    (said, *_) = complaints(case, "kernel", resources, 90, version)
    assert said.startswith(f"{case} on sm_90: kernel ") and complaint in said


def test_a_few_spilled_bytes_are_allowed_to_compilers_to_come_alone() -> None:
    spilling = replace(GOOD, spills=SPILLS_OF_OTHERS)
    assert complaints(ATTENTION, "kernel", spilling, 90, COMING) == []
    assert all(complaints(ATTENTION, "kernel", spilling, 90, f"{version}.0") for version in CHOSEN_WITH)


@compiling
def test_a_bad_configuration_is_found_by_any_compiler() -> None:
    case = shipped("self_attention_bwd-201")
    with force("attention_bwd", Config({"BLOCK_Q": 64}, 4, 1)):
        ((_, resources),) = compile_case(case, 80).values()
    assert resources.spills > SPILLS_OF_OTHERS
    assert "spills more than" in complaints(case, "kernel", resources, 80, COMING)[0]


@compiling
def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ahead-of-time", "--cases", "reconstruction_loss_bwd-bfloat16", "--arch", "80"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert re.search(r"sm_80 reconstruction_loss_bwd-bfloat16 _reconstruction_loss_bwd_kernel: \d+ registers", said)
    assert said.endswith("all within their budgets\n")
    monkeypatch.setattr(budgets, "_LEAST_RESIDENT", {"": 33})
    assert cli.main(command) == 1
    assert "runs fewer than 33 programs at once" in capsys.readouterr().out


def test_unknown_cases_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ahead-of-time", "--cases", "self_atention_fwd-8-bfloat16"]) == 2
    assert "did you mean 'self_attention_fwd-8-bfloat16'?" in capsys.readouterr().err
