"""Feed-forward network: two products with a GELU between them, joined with the residual that follows."""

# Declares the operators and binds csrc's calls to them, whichever file of the folder is imported.
from maedfer.kernels.feed_forward import native as native
from maedfer.kernels.feed_forward import schema as schema
