"""The local-global interaction."""

# Declares the operators and binds csrc's calls to them, whichever file of the folder is imported.
from maedfer.kernels.interaction import fold_schema as fold_schema
from maedfer.kernels.interaction import native as native
from maedfer.kernels.interaction import schema as schema
