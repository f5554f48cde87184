from pathlib import Path

from maedfer.report.incidents import incidents
from maedfer.report.run_data import RunData


def test_what_went_wrong_is_counted_and_the_first_of_each_kind_named() -> None:
    events = [
        {"kind": "note", "step": 0, "text": "none of these"},
        {"kind": "skipped_step", "step": 7, "why": "the loss is nan in process 1", "clips": ["a"]},
        {"kind": "skipped_step", "step": 9, "why": "the norm of the gradient is inf", "clips": ["b"]},
        {"kind": "spike", "step": 120, "loss": 12.3456, "usual": 1.5, "clips": ["c"]},
        {"kind": "dead", "step": 130, "steps": 100, "parameters": ["encoder.blocks.3 (12 parameters)", "norm.bias"]},
        *({"kind": "quarantined", "step": step, "clip": clip} for step, clip in ((3, "d"), (4, "<e>"), (5, "d"))),
    ]
    page, numbers = incidents(RunData(Path("run"), events=events))
    assert numbers == {
        "skipped_steps": 2, "spikes": 1, "dead": ["encoder.blocks.3 (12 parameters)", "norm.bias"], "broken_clips": 2,
    }  # fmt: skip
    for words in (
        "2 steps skipped because the loss or the gradient was no finite number; the first: step 7, the loss is nan in",
        "At 1 step the loss was far above the usual one; the first: step 120, 12.35 where 1.5 was usual.",
        "For 100 steps or more no gradient reached encoder.blocks.3 (12 parameters), norm.bias.",
        "2 clips to learn from could not be read, replaced by others: d, &lt;e&gt;.",
    ):
        assert words in page
    assert incidents(RunData(Path("run"), events=events[:1])) == ("", {})
