"""`python -m benchmarks.static`, which counts another revision (see difference.py); for people, `benchmarks static`."""

from __future__ import annotations

import sys

from benchmarks.static.command import main

if __name__ == "__main__":
    sys.exit(main())
