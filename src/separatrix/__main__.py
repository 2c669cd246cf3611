"""`python -m separatrix`: the same as the command `separatrix`."""

from __future__ import annotations

import sys

from separatrix.cli import main

if __name__ == "__main__":
    sys.exit(main())
