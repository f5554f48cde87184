"""The loss of pre-training."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.loss import schema as schema
