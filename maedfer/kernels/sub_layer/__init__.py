"""What sub-layers begin and end with: LayerNorm, products with bias, GELU, residual."""

# Declares the operators and binds csrc's calls to them, whichever file of the folder is imported.
from maedfer.kernels.sub_layer import native as native
from maedfer.kernels.sub_layer import native_product as native_product
from maedfer.kernels.sub_layer import schema as schema
