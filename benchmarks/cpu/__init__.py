"""What a processor makes of the classifier, beside the same weights in a model that a user builds.

    python -m benchmarks cpu --peer FILE.py:FUNCTION

`peer.py` builds that model, `sides.py` what is compared, `rates.py` how fast the processor multiplies, `kinds.py` where
a call's time goes, `session.py` measures, `table.py` prints.
"""
