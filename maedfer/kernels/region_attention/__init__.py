"""Attention within regions, of rows to other rows of their group, and over whole clips."""

# Declares the operators, whichever file of the folder is imported.
from maedfer.kernels.region_attention import schema as schema
