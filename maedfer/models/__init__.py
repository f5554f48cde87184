"""LGI-Former, MAE-DFER and the ViT baseline: models, their weights, what they cost."""

from __future__ import annotations

from maedfer.models.build import build_model, create_model, from_pretrained
from maedfer.models.clip_settings import ClipSettings
from maedfer.models.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LGIFormerConfig,
    MAEDFERConfig,
    ModelConfig,
    list_models,
    model_config,
)
from maedfer.models.export import Exported, export_model
from maedfer.models.fixed_weights import fixed_weights
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.load import load
from maedfer.models.load_report import LoadReport
from maedfer.models.lora import add_lora, merge_lora
from maedfer.models.mae_dfer import MAEDFER, normalize_frames
from maedfer.models.masking import running_cell_mask, tube_mask
from maedfer.models.profile import ModelProfile, profile
from maedfer.models.published.accelerate import Acceleration, accelerate
from maedfer.models.published.checkpoints import load_published, published_gradients, to_published
from maedfer.models.serialization import read_config
from maedfer.models.transfer import load_pretrained

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAEDFER",
    "Acceleration",
    "ClipSettings",
    "Exported",
    "LGIFormer",
    "LGIFormerConfig",
    "LoadReport",
    "MAEDFERConfig",
    "ModelConfig",
    "ModelProfile",
    "accelerate",
    "add_lora",
    "build_model",
    "create_model",
    "export_model",
    "fixed_weights",
    "from_pretrained",
    "list_models",
    "load",
    "load_pretrained",
    "load_published",
    "merge_lora",
    "model_config",
    "normalize_frames",
    "profile",
    "published_gradients",
    "read_config",
    "running_cell_mask",
    "to_published",
    "tube_mask",
]
