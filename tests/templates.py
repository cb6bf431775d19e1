"""Templates, for a Python that does not know them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any


def template(*parts: Any) -> Any:
    """What SQLAlchemy 2.1 makes of t"...": strings are text, all else is a value."""
    from sqlalchemy import tstring
    from sqlalchemy.util import compat

    if sys.version_info >= (3, 14):
        from string.templatelib import Interpolation

        fill: Any = lambda value: Interpolation(value, "")
    else:
        fill = lambda value: SimpleNamespace(value=value)

    made = (part if isinstance(part, str) else fill(part) for part in parts)
    return tstring(compat.Template(*made))
