"""Video files: what they hold, and reading their frames."""
