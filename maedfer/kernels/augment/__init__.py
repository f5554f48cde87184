"""Random changes to the frames of clips, as programs say."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.augment import schema as schema
