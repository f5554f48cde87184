"""Counting without a GPU: what is read off compiled code, what counts as a launch, and that the figures are held."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from benchmarks import __main__ as cli
from benchmarks.shipped import Case, cases
from benchmarks.static import steps
from benchmarks.static.command import RESULTS
from benchmarks.static.counter import Counter, once
from benchmarks.static.difference import table, worse
from benchmarks.static.kernels import case_rows, launch_row
from benchmarks.static.machine_code import (
    BULK,
    Access,
    accesses,
    barriers,
    in_loops,
    instructions,
    matrix_instructions,
    widths,
)
from benchmarks.static.pretend import DEVICE, backward, build, gpu
from benchmarks.static.results import Results, read
from benchmarks.tune import representatives
from maedfer.kernels._configs import Config
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import launch, recording

STORED = read(RESULTS)

compiling = pytest.mark.skipif(interpreting(), reason="nothing can be compiled under TRITON_INTERPRET=1")

LISTING = """
        /*0000*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;     /* 0x0 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR4][R2.64], P1 ;
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0040*/               @P2 LDG.E.U16 R7, desc[UR4][R2.64+0x10] ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/               @P0 BRA 0x20 ;
        /*0070*/              @!P1 BRA `(.L_x_3) ;
        /*0080*/                   UTMALDG.2D [UR8], [UR4] ;
        /*0090*/                   STG.E desc[UR4][R2.64], R7 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   BRA 0xb0;
        /*00c0*/                   NOP;
"""


def test_a_listing_is_read() -> None:
    code = instructions(LISTING)
    # The padding after the last instruction is none of them.
    assert len(code) == 11 and code[-1].name == "EXIT"
    assert next(iter(in_loops(code))).name.startswith("BAR.SYNC") and len(in_loops(code)) == 5
    assert (barriers(code), barriers(in_loops(code))) == (2, 2)
    assert matrix_instructions(code) == {"HGMMA": 1}
    assert widths(code) == {"LDG.16": 1, "LDG.2": 1, "LDGSTS.16": 1, "STG.4": 1, "UTMALDG": 1}


PTX = """
	ld.param.b64 	%rd7, [kernel_param_0];
	ld.param.b64 	%rd8, [kernel_param_1];
	mad.wide.s32 	%rd1, %r5, 2, %rd7;
$L__BB0_1:
	add.s64 	%rd2, %rd1, 32;
	@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd2 + 0 ];
	cp.async.cg.shared.global [ %r9 + 0 ], [ %rd2 + 0 ], 0x10, %r8;
	@%p2 bra 	$L__BB0_1;
	cvta.to.global.u64 	%rd9, %rd8;
	@%p3 st.global.L1::evict_last.b16 [ %rd9 + 0 ], { %rs1 };
	cp.async.bulk.global.shared::cta.bulk_group [%rd9], [%r4], 64;
"""


def test_accesses_are_followed_to_their_pointers() -> None:
    wide = Access(0, stores=False, width=16, repeated=1)
    assert accesses(PTX) == [wide, wide, Access(1, True, 2, 0), Access(1, True, BULK, 0)]


@triton.jit
def _sums_kernel(x_ptr, y_ptr, out_ptr, rows, C: tl.constexpr, ROWS: tl.constexpr, PITCH: tl.constexpr):
    """Sums of rows, `rows` a program: of some that lie together, and of some that are `PITCH` numbers apart."""
    col = tl.arange(0, C)
    for start in range(0, rows, ROWS):
        row = tl.program_id(0) * rows + start + tl.arange(0, ROWS)
        x = tl.load(x_ptr + row[:, None] * C + col[None, :]).to(tl.float32)
        x += tl.load(y_ptr + row[:, None] * PITCH + col[None, :]).to(tl.float32)
        tl.store(out_ptr + row, tl.sum(x, 1))


@compiling
def test_a_kernel_that_is_known() -> None:
    rows, dim = 64, 256
    x, y = (torch.empty(rows, pitch, dtype=torch.bfloat16, device="meta")[:, :dim] for pitch in (dim, dim + 1))
    out = torch.empty(rows, dtype=torch.float32, device="meta")
    with recording() as launches:
        config = Config({"ROWS": 4, "PITCH": dim + 1}, 8, 1)
        launch(_sums_kernel, (2,), x, y, out, 32, config=config, C=dim)
    row = launch_row(launches[0], 90)
    assert (row["grid"], row["warps"], row["spills"], row["matrix"]) == (2, 8, 0, {})
    assert row["tile_rows"] == 4 and 0 < row["tile_barriers"] == row["barriers"]
    assert row["bytes"] == sum(map(once, (x, y, out)))
    assert (row["narrowest_load"], row["narrowest_store"]) == (2, None)
    tensors = row["tensors"]
    assert max(tensors["x_ptr"]["load_widths"]) > 2 and tensors["y_ptr"]["load_widths"] == [2]
    # The loop runs eight times.
    assert tensors["x_ptr"]["asked_for"] == tensors["y_ptr"]["asked_for"] == once(x) == once(y)
    assert tensors["x_ptr"]["written"] == 0 < tensors["out_ptr"]["written"]
    assert row["programs"] == 2048 // 256


class Small(nn.Module):
    """Two uses of one weight, a residual, changes of dtype, and a reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer(self.norm(x))
        return F.gelu(self.layer(x)).float().square().mean()


class Doubled(torch.autograd.Function):
    """Takes what has no gradient first, and asks for none where there is none."""

    @staticmethod
    def forward(ctx: Any, number: float, fixed: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * number + fixed, x - fixed

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, 2 * first + second


def test_the_walk_over_a_graph_gives_the_gradients_of_the_engine() -> None:
    torch.manual_seed(0)
    module, x = Small(), torch.randn(4, 8)

    def loss() -> Tensor:
        return module(Doubled.apply(2.0, torch.ones(8), module.norm(x))[0])

    loss().backward()
    want = [parameter.grad for parameter in module.parameters()]
    module.zero_grad()
    backward(loss())
    for got, wanted in zip(module.parameters(), want, strict=True):
        torch.testing.assert_close(got.grad, wanted)


def test_what_is_a_launch() -> None:
    with gpu(90):
        layer = build(lambda: nn.Linear(512, 512))
        x = torch.empty(64, 512, device=DEVICE)
        with Counter() as counter, torch.autocast("cuda", torch.bfloat16):
            assert layer(x.view(8, 8, 512)[:4]).dtype == torch.bfloat16
            x.new_empty(4)
            x.expand(7, 64, 512).sum(0)
            x.mul_(2.0)
            x.copy_(x.new_empty(()))
            assert float(torch.rand(())) < 1
            torch._foreach_mul_([x] * 150, 2.0)
        numbers = 64 * 512
    found = [(unit.kind, unit.name, unit.bytes) for unit in counter.units[3:]]
    # Casts of input, weight and bias come before the product, in the order of PyTorch's arguments.
    assert sorted(unit.bytes for unit in counter.units[:3]) == [6 * 512, 6 * numbers // 2, 6 * 512 * 512]
    low = 2 * (numbers // 2 * 2 + 512 * 512 + 512)
    assert found[:4] == [
        ("product", "addmm", low),
        ("tiny", "sum", 4 * 2 * numbers),
        ("tiny", "mul_", 4 * 2 * numbers),
        ("tiny", "copy_", 4 * (numbers + 1)),
    ]
    assert [name for _, name, _ in found[4:]] == ["_foreach_mul_"] * 2


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def test_all_that_is_shipped_is_stored() -> None:
    # Else `python -m benchmarks static` writes the file anew.
    assert {row["case"] for row in STORED["kernels"]} == {str(case) for case in cases((torch.bfloat16,))}
    assert STORED["traces"].keys() == set(steps.TRACES)


# Inference on 64 clips is that on one, launch by launch.
@pytest.mark.parametrize("name", [name for name in steps.TRACES if name != "inference-64"])
def test_launches_and_bytes_are_held(name: str) -> None:
    counted = {"name": name, "clips": steps.CLIPS[name], **steps.trace(name, 90)}
    assert not worse(STORED, {"kernels": [], "traces": {name: counted}})


@compiling
@pytest.mark.parametrize("case", representatives(torch.bfloat16), ids=str)
def test_compiled_kernels_are_held(case: Case) -> None:
    # Another compiler deals registers and barriers out differently.
    same = minor(triton.__version__) == minor(STORED["machine"]["triton"])
    assert not worse(STORED, {"kernels": case_rows(case, 90), "traces": {}}, compiled=same)


def stored() -> Results:
    row = {
        "case": "norm", "kernel": "norm_kernel", "registers": 64, "shared": 0, "spills": 0, "programs": 8, "waves": 1.0,
        "instructions": 99, "tile_barriers": 4, "row_barriers": 1.0, "narrowest_load": 16, "narrowest_store": None,
        "bytes": 10_000_000,
    }  # fmt: skip
    kinds = {kind: {"launches": 2, "bytes": 5_000_000} for kind in ("product", "ours", "tiny", "other")}
    machine = {"commit": "abc", "torch": "2.14", "triton": "3.8"}
    about = {"machine": machine, "arch": 90, "dtype": "bfloat16"}
    return {**about, "kernels": [row], "traces": {"block": {"stages": {"all": kinds}}}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"programs": 7}, "programs 8 -> 7"),
        ({"row_barriers": 1.5}, "row_barriers 1.0 -> 1.5"),
        ({"narrowest_load": 8}, "narrowest_load 16 -> 8"),
        ({"spills": 8}, "spills 0 -> 8"),
        ({"programs": 9, "narrowest_load": 1024, "registers": 70, "narrowest_store": 2}, None),
    ],
    ids=str,
)
def test_what_of_a_kernel_is_worse(changes: dict[str, Any], complaint: str | None) -> None:
    before, after = stored(), stored()
    after["kernels"][0] |= changes
    assert worse(before, after) == ([] if complaint is None else [f"norm norm_kernel: {complaint}"])
    assert worse(before, after, compiled=False) == []
    assert any(line.startswith("norm norm_kernel: ") for line in table(before, after))


def test_what_of_launches_and_bytes_is_worse() -> None:
    before, after = stored(), stored()
    after["traces"]["block"]["stages"]["all"]["tiny"] = {"launches": 1, "bytes": 6_000_000}
    assert worse(before, after) == ["block all: MB 20.0 -> 21.0"]
    assert worse(after, before) == ["block all: launches 7 -> 8", "block all: tiny 1 -> 2"]
    # The work of a case may go over to other kernels, but not grow.
    split = copy.deepcopy(before["kernels"][0]) | {"kernel": "other_kernel", "bytes": 2_000_000}
    more = {**before, "kernels": [*before["kernels"], split]}
    assert worse(before, more, compiled=False) == ["norm: launches 1 -> 2", "norm: MB 10.0 -> 12.0"]
    assert "norm other_kernel: only after" in table(before, more)
    # A few bytes more are those of small tensors.
    more["kernels"][1] |= {"bytes": 1}
    assert worse(before, more, compiled=False) == ["norm: launches 1 -> 2"]


@compiling
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "static.json"
    command = ["static", "--cases", "reconstruction_loss_bwd", "--out", str(out)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "reconstruction_loss_bwd-bfloat16 reconstruction_loss_bwd: " in said and "programs at once" in said
    results = json.loads(out.read_text())
    assert results["arch"] == 90 and results["processors"] == 132 and "device" not in results["machine"]
    results["kernels"][0]["programs"] += 1
    before = tmp_path / "before.json"
    before.write_text(json.dumps(results))
    assert cli.main([*command, "--against", str(before)]) == 0
    assert cli.main([*command, "--against", str(before), "--fail"]) == 1
    assert "worse: reconstruction_loss_bwd-bfloat16 reconstruction_loss_bwd: programs" in capsys.readouterr().out


def test_what_there_is_not_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["static", "--cases", "blok"]) == 2
    assert "did you mean 'block'?" in capsys.readouterr().err
    assert cli.main(["static", "--arch", "75", "--cases", "block"]) == 2
    assert "unknown architecture '75'" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("[]")
    assert cli.main(["static", "--cases", "block", "--against", str(tmp_path / "other.json")]) == 2
    assert "is no results file of python -m benchmarks static" in capsys.readouterr().err
