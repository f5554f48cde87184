"""Probes: small classifiers on features that do not change, which tell what is in the features.

    probe = fit_probe("linear", features, labels, groups=subjects, seed=0)
    probabilities = probe.probabilities(others)

Arrays go in and come out, so that labels may be anything that is known of a clip: its expression, its speaker, the
order of its frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.evaluation.probes.attentive import AttentiveNetwork, AttentiveProbe, fit_attentive
    from maedfer.evaluation.probes.fit import (
        KINDS,
        PROTOCOLS,
        FittedProbe,
        Probe,
        ProbeChoice,
        Trial,
        fit_probe,
        probe_grid,
    )
    from maedfer.evaluation.probes.linear import LinearProbe, fit_linear
    from maedfer.evaluation.probes.neighbours import NeighboursProbe, fit_knn
    from maedfer.evaluation.probes.split import validation_split

__all__ = [
    "KINDS",
    "PROTOCOLS",
    "AttentiveNetwork",
    "AttentiveProbe",
    "FittedProbe",
    "LinearProbe",
    "NeighboursProbe",
    "Probe",
    "ProbeChoice",
    "Trial",
    "fit_attentive",
    "fit_knn",
    "fit_linear",
    "fit_probe",
    "probe_grid",
    "validation_split",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "attentive": ["AttentiveNetwork", "AttentiveProbe", "fit_attentive"],
        "fit": ["KINDS", "PROTOCOLS", "FittedProbe", "Probe", "ProbeChoice", "Trial", "fit_probe", "probe_grid"],
        "linear": ["LinearProbe", "fit_linear"],
        "neighbours": ["NeighboursProbe", "fit_knn"],
        "split": ["validation_split"],
    },
)
