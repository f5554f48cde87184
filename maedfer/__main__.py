"""`python -m maedfer`, which is also how torchrun starts the command line."""

import sys

from maedfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
