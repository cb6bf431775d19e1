"""Whatever is written under a tenant leaves every other tenant's rows as they were."""

from __future__ import annotations

import pytest

from databases import DRIVERS
from oracle import Shape, Shapes, oracle
from shapes import dml, unit_of_work

WRITES = Shapes([*unit_of_work.WRITES.listed, *dml.WRITES.listed])


@pytest.mark.parametrize(
    ("driver", "family", "shape"),
    [*WRITES.cases(DRIVERS), *WRITES.cases(["sqlite3"], ["int", "uuid"], twins=[])],
)
def test_a_write_reaches_its_own_tenant_only(driver: str, family: str, shape: Shape) -> None:
    """A2"""
    oracle(driver, family).writes_alike(shape)


def test_there_are_many_shapes() -> None:
    assert len(WRITES.listed) > 250
