"""Explanation: what a model looks at, what raises a class, what an autoencoder makes of what is hidden from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.explanation.attention import ClipAttention, attention_maps
    from maedfer.explanation.embedding import FeatureMap, feature_map
    from maedfer.explanation.evidence import ClassEvidence, class_evidence
    from maedfer.explanation.options import Explaining
    from maedfer.explanation.reconstruction import Reconstruction, reconstruct
    from maedfer.explanation.run import ExplainedFace, explain_video

__all__ = [
    "ClassEvidence",
    "ClipAttention",
    "ExplainedFace",
    "Explaining",
    "FeatureMap",
    "Reconstruction",
    "attention_maps",
    "class_evidence",
    "explain_video",
    "feature_map",
    "reconstruct",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "attention": ["ClipAttention", "attention_maps"],
        "embedding": ["FeatureMap", "feature_map"],
        "evidence": ["ClassEvidence", "class_evidence"],
        "options": ["Explaining"],
        "reconstruction": ["Reconstruction", "reconstruct"],
        "run": ["ExplainedFace", "explain_video"],
    },
)
