"""The local-global interaction."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.interaction import schema as schema
