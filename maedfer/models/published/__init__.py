"""Other people's layouts: published checkpoints, their constructors' arguments, and models built from their code."""
