"""`python -m partywall demo`"""

from __future__ import annotations

import sys

from .demo import main

if __name__ == "__main__":
    if sys.argv[1:] != ["demo"]:
        sys.exit("usage: python -m partywall demo")

    sys.exit(main())
