"""The local-global interaction."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.interaction import fold_schema as fold_schema
from maedfer.kernels.interaction import schema as schema
