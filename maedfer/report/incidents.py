"""What went wrong in a run that went on: for readers of its scores, and of its weights where there are no scores."""

from __future__ import annotations

from maedfer._progress import counted
from maedfer.errors import some
from maedfer.report import page as html
from maedfer.report.run_data import RunData, number
from maedfer.report.sections import Numbers


def incidents(run: RunData) -> tuple[str, Numbers]:
    """Skipped steps, losses far above the usual, parts that do not learn, clips that could not be read; by the log."""
    skipped, spikes, dead, broken = (
        [event for event in run.events if event.get("kind") == kind]
        for kind in ("skipped_step", "spike", "dead", "quarantined")
    )
    # A run that was resumed tells of a clip again.
    clips = list(dict.fromkeys(str(event.get("clip")) for event in broken))
    parts = [str(name) for event in dead for name in event.get("parameters", [])]
    sentences = []
    if skipped:
        sentences.append(
            f"{counted(len(skipped), 'step')} skipped because the loss or the gradient was no finite number; the "
            f"first: step {skipped[0].get('step')}, {skipped[0].get('why')}."
        )
    if spikes:
        loss, usual = (number(spikes[0].get(name)) or 0.0 for name in ("loss", "usual"))
        sentences.append(
            f"At {counted(len(spikes), 'step')} the loss was far above the usual one; the first: step "
            f"{spikes[0].get('step')}, {loss:.4g} where {usual:.4g} was usual."
        )
    if parts:
        sentences.append(f"For {dead[0].get('steps')} steps or more no gradient reached {some(parts)}.")
    if clips:
        sentences.append(
            f"{counted(len(clips), 'clip')} to learn from could not be read, replaced by others: {some(clips)}."
        )
    if not sentences:
        return "", {}
    found: Numbers = {"skipped_steps": len(skipped), "spikes": len(spikes), "dead": parts, "broken_clips": len(clips)}
    return html.section("Incidents", *map(html.paragraph, sentences)), found
