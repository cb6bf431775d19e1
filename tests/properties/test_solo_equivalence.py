"""Whatever is asked or written, it is as if only the tenant's rows existed.

The statements and histories are made up by Hypothesis (see `grammar` and `histories`); `conftest`
says how to look for longer. Where the wall refuses what would work alone, the example fails, with
two exceptions: a foreign key that names another tenant's row is refused by CrossTenantReferenceError
where the database alone would miss the row or change none; and what takes a row's tenant away is
refused by CrossTenantAccessError where the column would not have taken a NULL.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given

from partywall import MissingTenantContextError

from .arena import Arena, Program
from .conftest import Explore
from .forgeries import foreign, forgeries, references, views
from .grammar import datasets, reads
from .histories import histories
from .schema import Data

ON = ["sqlite", "postgresql", "mariadb"]
At = Callable[[str], Arena]
# Of statements that nobody would write: old ways to alias, odd joins.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")


@pytest.mark.parametrize(("on", "examples"), list(zip(ON, [400, 60, 40], strict=True)), ids=ON)
def test_reads_are_those_of_a_tenant_alone(
    on: str, examples: int, arena: At, explore: Explore
) -> None:
    here = arena(on)

    @given(data=datasets(on, strays=True), program=reads(on))
    def alike(data: Data, program: Program) -> None:
        here.reads_alike(data, program)

    explore(alike, examples)


@pytest.mark.parametrize(("on", "examples"), list(zip(ON, [500, 60, 40], strict=True)), ids=ON)
def test_histories_are_those_of_a_tenant_alone(
    on: str, examples: int, arena: At, explore: Explore
) -> None:
    here = arena(on)

    @given(data=datasets(on), program=histories(on))
    def alike(data: Data, program: Program) -> None:
        here.writes_alike(data, program, data.tenants[data.seed % len(data.tenants)])

    explore(alike, examples)


@pytest.mark.parametrize(("on", "examples"), list(zip(ON, [400, 60, 40], strict=True)), ids=ON)
def test_the_others_keep_what_they_have_whatever_is_tried(
    on: str, examples: int, arena: At, explore: Explore
) -> None:
    here = arena(on)

    @given(data=datasets(on), program=forgeries(on))
    def kept(data: Data, program: Program) -> None:
        tenant, *others = data.tenants
        before, outcomes, after = here.perform_among_all(data, program, tenant)
        columns = here.walled.columns
        had, have = views(before, columns), views(after, columns)
        for other in (*others, None):
            assert have.get(other) == had.get(other), f"{other!r} sees another database"

        assert set(references(after, columns)) <= set(references(before, columns))
        for outcome in outcomes:
            assert not list(foreign(outcome.value, tenant))
            assert "raw SQL was run" not in repr(outcome.value)

    explore(kept, examples)


def test_nothing_owned_is_read_without_a_tenant(arena: At, explore: Explore) -> None:
    here = arena("sqlite")

    @given(data=datasets("sqlite"), program=reads("sqlite"))
    def refused(data: Data, program: Program) -> None:
        outcome, asks = here.without_tenant(data, program)
        assert isinstance(outcome.error, MissingTenantContextError) == asks, outcome

    explore(refused, 150)
