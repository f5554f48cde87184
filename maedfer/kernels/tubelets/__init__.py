"""Cubes of tokens, ready for the embedding."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.tubelets import schema as schema
