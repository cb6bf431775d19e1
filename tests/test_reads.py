"""Whatever is asked under a tenant is answered as if only that tenant's rows existed."""

from __future__ import annotations

from typing import Any

import pytest

from databases import DRIVERS
from oracle import ONE_PER_SERVER, Shape, Shapes, oracle, raise_error_of
from partywall.errors import MissingTenantContextError
from shapes.habits import HABITS, LEGITIMATE
from shapes.loading import LOADING
from shapes.reading import READING
from shapes.selects import SELECTS

READS = Shapes([*SELECTS.listed, *LOADING.listed, *READING.listed, *HABITS.listed])
UNOWNED = Shapes(
    [*(shape for shape in READS.listed if shape.without_tenant == "same"), *LEGITIMATE.listed]
)
OTHER_TENANT_TYPES = [*READS.cases(["sqlite3"], ["int", "uuid"], twins=[])]


@pytest.mark.parametrize(
    ("driver", "family", "shape"), [*READS.cases(DRIVERS), *OTHER_TENANT_TYPES]
)
def test_a_read_sees_its_own_tenant_only(driver: str, family: str, shape: Shape) -> None:
    """A3"""
    oracle(driver, family).reads_alike(shape)


@pytest.mark.parametrize(
    ("driver", "family", "shape"), READS.refused().cases(ONE_PER_SERVER, twins=["sqlite3"])
)
def test_a_read_without_a_tenant_is_refused(driver: str, family: str, shape: Shape) -> None:
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        raise_error_of(oracle(driver, family).shared.perform(shape.run))


@pytest.mark.parametrize(("driver", "family", "shape"), UNOWNED.cases(DRIVERS))
def test_what_nobody_owns_needs_no_tenant(driver: str, family: str, shape: Shape) -> None:
    asked = oracle(driver, family)
    alone = asked.acme.perform(shape.run)
    assert alone.error is None
    for tenant in (None, "acme", "globex"):
        assert asked.shared.perform(shape.run, tenant).seen == alone.seen


def test_there_are_many_shapes() -> None:
    assert len(READS.listed) > 500


def test_no_shape_is_left_out_everywhere() -> None:
    run = {case.values[2].name for case in READS.cases(DRIVERS)}
    skipped: set[Any] = {
        shape.name for shape in READS.listed if shape.series == (2, 0) and shape.below == (3, 0)
    } - run
    assert not skipped
