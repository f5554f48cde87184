"""The operations of LGI-Former on plain tensors, by the implementation of choice.

Every function takes impl="auto" | "reference" | "torch" | "native" | "triton" | "cuda" (see _dispatch.py) and raises
InputError, with the reasons, where one was chosen that cannot run. Under autocast, products and the results of
LayerNorms are in autocast's dtype; statistics and sums are float32 everywhere. What follows the tensors is given by
name; a linear layer and a LayerNorm are each a pair (weight, bias).

Shapes: B clips, M regions, S rows a region (row 0 the representative token), H heads, C channels, F hidden channels.
"""

from maedfer.kernels._autocast import product_operand
from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels._products import low_copy, split_rows
from maedfer.kernels.augment.api import augment
from maedfer.kernels.feed_forward.api import feed_forward_residual, feed_forward_residual_layer_norm
from maedfer.kernels.interaction.api import adds_value_bias, local_global_interaction
from maedfer.kernels.loss.api import masked_appearance_motion_loss
from maedfer.kernels.region_attention.api import (
    FULL_ATTENTION,
    attention_adds_biases,
    cross_attention,
    full_attention,
    region_attention,
)
from maedfer.kernels.sub_layer.api import (
    layer_norm,
    linear,
    linear_residual,
    linear_residual_layer_norm,
    linear_residual_layer_norm_representative,
)
from maedfer.kernels.tubelets.api import tubelets

__all__ = [
    "FULL_ATTENTION",
    "Linear",
    "Norm",
    "adds_value_bias",
    "attention_adds_biases",
    "augment",
    "cross_attention",
    "feed_forward_residual",
    "feed_forward_residual_layer_norm",
    "full_attention",
    "layer_norm",
    "linear",
    "linear_residual",
    "linear_residual_layer_norm",
    "linear_residual_layer_norm_representative",
    "local_global_interaction",
    "low_copy",
    "masked_appearance_motion_loss",
    "product_operand",
    "region_attention",
    "split_rows",
    "tubelets",
]
