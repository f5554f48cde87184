"""Explanation: what a model looks at, what raises a class, what an autoencoder makes of what is hidden from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.explanation.attention import ClipAttention, attention_maps
    from maedfer.explanation.evidence import ClassEvidence, class_evidence
    from maedfer.explanation.reconstruction import Reconstruction, reconstruct

__all__ = ["ClassEvidence", "ClipAttention", "Reconstruction", "attention_maps", "class_evidence", "reconstruct"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "attention": ["ClipAttention", "attention_maps"],
        "evidence": ["ClassEvidence", "class_evidence"],
        "reconstruction": ["Reconstruction", "reconstruct"],
    },
)
