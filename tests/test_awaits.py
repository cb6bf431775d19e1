"""Awaited, everything is as it is when called."""

from __future__ import annotations

import pytest

from databases import DRIVERS
from oracle import Shape, oracle, raise_error_of
from partywall.errors import MissingTenantContextError
from shapes.awaits import AREADS, AWRITES

ASYNC = [driver for driver, (_, _, is_async) in DRIVERS.items() if is_async]


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
