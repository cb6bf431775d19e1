"""`python -m partywall demo`"""

from __future__ import annotations

import os
import sys

from .demo import main

if __name__ == "__main__":
    if sys.argv[1:] != ["demo"]:
        sys.exit("usage: python -m partywall demo")

    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough; Python would flush once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0

    sys.exit(status)
