"""docs/plan.md shows what its commands print, and says the same in words."""

from __future__ import annotations

import json

from PIL import Image

from maedfer.planning import RunPlan
from tests.cli import plan_page
from tests.cli.plan_page import TEN_TIMES, VOXCELEB2, plans

PAGE = plan_page.PAGE.read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


def test_tables_are_what_the_commands_print() -> None:
    assert len(plan_page.commands(PAGE)) == 4
    assert plan_page.renewed(PAGE) == PAGE, f"docs/plan.md is stale: {plan_page.COMMAND} renews it"


def test_the_figure_shows_these_numbers() -> None:
    with Image.open(plan_page.FIGURE) as picture:
        kept = json.loads(picture.info["Description"])
    assert kept == plan_page.shown(), f"docs/images/plan.png is stale: {plan_page.COMMAND} renews it"


def test_numbers_in_words() -> None:
    def at(clips: int, batch: int) -> dict[int, RunPlan]:
        return {plan.gpus: plan for plan in plans(clips, batch)}

    small, large, ten, ten_large = (at(clips, batch) for clips in (VOXCELEB2, TEN_TIMES) for batch in (128, 4096))
    whole = (ten_large[8].global_batch / (ten_large[8].step_ms - ten_large[8].loading_ms)) * 0.1147
    for sentence in (
        f"{small[1].hours:.1f} hours and {small[1].price:.0f} dollars, or {small[8].hours:.1f} hours and "
        f"{small[8].price:.0f} dollars",
        f"run eagerly it takes {small[1].eager_hours:.1f} hours on one GPU",
        f"{small[64].hours:.1f} hours, and {small[64].price:.0f} dollars",
        f"take {ten[1].hours:.1f} hours on one GPU and {ten[8].hours:.1f} on eight",
        f"64 take {ten_large[64].hours:.1f} hours and 512 take {ten_large[512].hours:.1f}",
        f"on 512 GPUs {ten_large[512].failures:.4f} failures are expected",
        f"read {whole:.1f} GB/s",
        f"{small[8].sent_mb:.0f} MB of gradients go over NVLink in under {small[8].gradients_ms + 0.5:.0f} ms",
        f"has here {small[8].read_mb_s / 1000:.1f} GB/s",
        f"Checkpoints that take {large[512].checkpoint_s:.0f} s come every {60 * large[512].interval_min:.0f} s",
    ):
        assert sentence in WORDS, sentence
    assert 512 not in small and small[64].batch_size == 2
    assert large[512].efficiency < 1 / 10 and 1 / 7 < ten_large[512].efficiency < 1 / 5.5
