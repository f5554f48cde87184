"""Drawn faces that act out seven expressions: a data set for the demo and the tests, made of nothing but numbers."""
