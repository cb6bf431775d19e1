"""Awaited, everything is as it is when called."""

from __future__ import annotations

from collections import defaultdict

import pytest

from databases import DRIVERS
from oracle import Shape, Shapes, oracle, raise_error_of
from partywall.errors import MissingTenantContextError
from shapes.awaits import AREADS, AWRITES
from test_reads import READS
from test_refusals import REFUSED
from test_writes import WRITES

ASYNC = [driver for driver, (_, _, is_async) in DRIVERS.items() if is_async]


@pytest.mark.parametrize("shapes", [READS, WRITES, REFUSED], ids=["reads", "writes", "refused"])
def test_e2_every_shape_runs_with_a_session_and_with_an_async_session(shapes: Shapes) -> None:
    """E2, E12: a shape's twin on the connection may run on one driver alone."""
    kinds: dict[str, set[bool]] = defaultdict(set)
    for case in shapes.cases(DRIVERS):
        driver, _, shape = case.values
        kinds[shape.name].add(driver in ASYNC)

    both = {shape.name for shape in shapes.listed if not shape.twin} & kinds.keys()
    assert len(both) > 150
    # Reflection is asked of an engine, and an async one has none of its own.
    assert {name for name in both if len(kinds[name]) != 2} <= {"reflection", "automapped classes"}


@pytest.mark.parametrize(("driver", "family", "shape"), AREADS.cases(ASYNC))
def test_an_awaited_read_sees_its_own_tenant_only(driver: str, family: str, shape: Shape) -> None:
    oracle(driver, family).reads_alike(shape)


@pytest.mark.parametrize(("driver", "family", "shape"), AWRITES.cases(ASYNC))
def test_an_awaited_write_reaches_its_own_tenant_only(
    driver: str, family: str, shape: Shape
) -> None:
    oracle(driver, family).writes_alike(shape)


@pytest.mark.parametrize(
    ("driver", "family", "shape"), [*AREADS.cases(ASYNC), *AWRITES.cases(ASYNC)]
)
def test_without_a_tenant_it_is_refused(driver: str, family: str, shape: Shape) -> None:
    outcome = oracle(driver, family).shared.perform(shape.run)
    oracle(driver, family).nothing_changed()
    if shape.without_tenant == "same":
        assert outcome.error is None
        return

    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        raise_error_of(outcome)
