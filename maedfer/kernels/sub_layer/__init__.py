"""What sub-layers begin and end with: LayerNorm, products with bias, GELU, residual."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.sub_layer import schema as schema
