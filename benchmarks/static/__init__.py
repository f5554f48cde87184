"""What can be known of the fast path without a GPU: compiled kernels, and launches and bytes of whole steps.

Nothing is timed and no time is made up: kernels.py has what is counted of a compiled launch, counter.py what counts as
a launch and its bytes, steps.py what is run.
"""
