from __future__ import annotations

from collections.abc import Iterator

import pytest

import databases
import oracle


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    if oracle.runner.cache_info().currsize or databases._engines:
        oracle.runner().run(databases.dispose())
        oracle.runner().close()

    databases.drop_all()
