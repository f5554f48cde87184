"""The arithmetic of a run: what `train.precision` comes to on a device, and what there is to say of it.

A processor multiplies bfloat16 faster than float32 where it has instructions for that, AMX-BF16 or AVX512-BF16. There
"auto" scores clips and computes features in bfloat16; it trains in float32 on every CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from maedfer._files import parse_json
from maedfer.errors import InputError
from maedfer.models import arithmetic
from maedfer.train.settings import RunConfig


@dataclass(frozen=True)
class Precision:
    """The arithmetic of forward passes.

    Args:
        name: "fp32", "bf16" or "fp16".
        why: what there is to say of it, for people; "" where it is what everybody expects.
    """

    name: str
    why: str = ""


def precision_of(cfg: RunConfig, device: torch.device) -> Precision:
    """What the settings come to on a device.

    Raises:
        InputError: the device cannot do what was asked for.
    """
    asked = cfg.train.precision
    if device.type == "cpu":
        return _on_cpu(asked, scores=cfg.task == "evaluate" and not cfg.eval.runs)
    # Emulated bfloat16 works but is slower than float32.
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "bf16" and not native:
        raise InputError(f"{torch.cuda.get_device_name(device)} has no bfloat16: use train.precision=fp16")
    return Precision(("bf16" if native else "fp16") if asked == "auto" else asked)


def _on_cpu(asked: str, scores: bool) -> Precision:
    if asked == "fp16":
        raise InputError("train.precision=fp16 needs a GPU: use fp32 or bf16 on a CPU")
    instructions = arithmetic.bfloat16_instructions()
    if asked == "auto" and scores and instructions:
        why = (
            f"computed in bf16, which this processor multiplies fast ({instructions}); train.precision=fp32 is exacter"
        )
        return Precision("bf16", why)
    if asked == "bf16" and not instructions:
        why = "bf16 is slow here: the processor has neither AMX-BF16 nor AVX512-BF16; train.precision=fp32 is faster"
        return Precision("bf16", why)
    return Precision("fp32" if asked == "auto" else asked)


def auto_in_words(device: torch.device) -> str:
    """What `train.precision=auto` comes to on a kind of device, for scoring and for training."""
    if device.type != "cpu":
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return f"{name} on {device.type}"
    instructions = arithmetic.bfloat16_instructions()
    if not instructions:
        return "fp32 on cpu, which has neither AMX-BF16 nor AVX512-BF16"
    return f"bf16 on cpu to score clips and compute features, by {instructions}; fp32 to train"


def precision_here(cfg: RunConfig) -> str:
    """What the settings come to on this machine, before a run starts; the setting itself where that cannot be said."""
    name = cfg.train.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return precision_of(cfg, torch.device(name)).name
    except (InputError, RuntimeError):
        # The run will say what is wrong with it.
        return cfg.train.precision


def recorded_precision(folder: str | Path) -> str | None:
    """What a run computed in, as its folder says; None where it does not."""
    try:
        facts = parse_json((Path(folder) / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = facts.get("precision") if isinstance(facts, dict) else None
    return name if isinstance(name, str) else None
