"""How long the properties are tried, and where.

`python -m pytest` tries the same bounded number of examples each time. The long mode tries new
ones for as long as it is told, shared out among the properties that are selected:

    python -m pytest tests/properties --minutes 60
    python -m pytest tests/properties --minutes 10 -k "sqlite and reads"

What fails is shrunk and printed as a program that can be pasted and run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from .arena import Arena

Explore = Callable[[Callable[[], None], int], None]
_HERE = Path(__file__).parent
_ROUND = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes", type=float, default=None, help="explore the properties for so many minutes"
    )


@pytest.fixture(scope="module", autouse=True)
def _quietly() -> Iterator[None]:
    """Every example goes through unscoped(), which is logged."""
    log = logging.getLogger("partywall")
    before, log.disabled = log.disabled, True
    yield
    log.disabled = before


@pytest.fixture(scope="module")
def arena() -> Iterator[Callable[[str], Arena]]:
    opened = cache(Arena)
    arenas: list[Arena] = []

    def on(server: str) -> Arena:
        found = opened(server)
        arenas.append(found)
        return found

    yield on
    for each in dict.fromkeys(arenas):
        each.close()


@pytest.fixture
def explore(request: pytest.FixtureRequest) -> Explore:
    """Try a property on so many examples, or in the long mode until its share of time is over."""
    minutes = request.config.getoption("--minutes", default=None)

    def explored(check: Any, examples: int) -> None:
        options: dict[str, Any] = {
            "deadline": None,
            "database": None,
            "phases": [Phase.explicit, Phase.generate, Phase.shrink],
            "suppress_health_check": list(HealthCheck),
        }
        if minutes is None:
            settings(max_examples=examples, derandomize=True, **options)(check)()
            return

        sharing = [item for item in request.session.items if _HERE in item.path.parents]
        until = time.monotonic() + minutes * 60 / len(sharing)
        while time.monotonic() < until:
            settings(max_examples=_ROUND, **options)(check)()

    return explored
