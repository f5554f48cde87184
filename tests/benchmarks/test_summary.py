from __future__ import annotations

from benchmarks import summary


def test_the_figure_of_the_readme_is_drawn_from_committed_results() -> None:
    left, right = summary.draw().axes
    times = [bar.get_width() for bar in left.patches]
    scores = [bar.get_width() for bar in right.patches]
    # A row of benchmarks/results/README.md: ViT-B, published plan, ours.
    assert [round(1000 * seconds) for seconds in times[:3]] == [1673, 1062, 524]
    assert [round(score, 1) for score in scores] == [15.7, 14.6, 33.1, 39.3]
