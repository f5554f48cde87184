"""Fast LGI-Former and MAE-DFER for dynamic facial expression recognition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer import data as data
    from maedfer import doctor as doctor
    from maedfer import errors as errors
    from maedfer import evaluation as evaluation
    from maedfer import explanation as explanation
    from maedfer import faces as faces
    from maedfer import kernels as kernels
    from maedfer import layers as layers
    from maedfer import models as models
    from maedfer import planning as planning
    from maedfer import prediction as prediction
    from maedfer import preparation as preparation
    from maedfer import report as report
    from maedfer import studies as studies
    from maedfer import synthetic as synthetic
    from maedfer import train as train
    from maedfer.models import (
        MAEDFER,
        LGIFormer,
        LGIFormerConfig,
        MAEDFERConfig,
        accelerate,
        create_model,
        from_pretrained,
        list_models,
        load_published,
        model_config,
        to_published,
    )

    # By their own modules, which have the same names.
    from maedfer.models.fixed_weights import fixed_weights
    from maedfer.models.load import load
    from maedfer.prediction import Prediction, open_predictor, predict

__version__ = "0.1.0"

_PREDICTION = ["Prediction", "open_predictor", "predict"]

__all__ = [
    "MAEDFER",
    "LGIFormer",
    "LGIFormerConfig",
    "MAEDFERConfig",
    "Prediction",
    "accelerate",
    "create_model",
    "fixed_weights",
    "from_pretrained",
    "list_models",
    "load",
    "load_published",
    "model_config",
    "open_predictor",
    "predict",
    "to_published",
]

# Torch is imported on first use, so that `maedfer --help` answers at once.
__getattr__, __dir__ = lazy(
    __name__,
    {"models": [name for name in __all__ if name not in _PREDICTION], "prediction": _PREDICTION},
    "data doctor errors evaluation explanation faces kernels layers models planning prediction preparation "
    "report studies synthetic train".split(),
)
