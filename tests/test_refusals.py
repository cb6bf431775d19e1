"""What would reach over the wall is refused or finds nothing, and nothing has changed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from databases import DRIVERS
from oracle import ONE_PER_SERVER, Shape, Shapes, oracle, raise_error_of
from partywall.errors import MissingTenantContextError, TenancyError
from shapes.refusals import FOREIGN, POWERLESS, RAW, REFERENCES
from test_writes import WRITES

REFUSED = Shapes([*RAW.listed, *FOREIGN.listed, *REFERENCES.listed])
TENANT_TYPES = ["int", "uuid"]


@pytest.mark.parametrize(
    ("driver", "family", "shape"),
    [*REFUSED.cases(DRIVERS), *REFUSED.cases(["sqlite3"], TENANT_TYPES, twins=[])],
)
def test_it_is_refused_and_nothing_has_changed(driver: str, family: str, shape: Shape) -> None:
    """A2"""
    outcome = oracle(driver, family).refuses(shape)
    with pytest.raises(shape.error or TenancyError, match=shape.match):
        raise_error_of(outcome)


@pytest.mark.parametrize(("driver", "family", "shape"), REFUSED.cases(ONE_PER_SERVER, twins=[]))
def test_the_session_is_usable_after_a_refusal(driver: str, family: str, shape: Shape) -> None:
    def refused_and_rolled_back(session: Any, m: Any) -> Any:
        with pytest.raises(TenancyError, match=shape.match):
            shape.run(session, m)

        session.rollback()
        return session.scalar(select(func.count(m.Tag.id)))

    assert raise_error_of(oracle(driver, family).refuses(shape, refused_and_rolled_back)) == 3


@pytest.mark.parametrize(("driver", "family", "shape"), REFUSED.cases(ONE_PER_SERVER, twins=[]))
def test_a_refusal_in_a_savepoint_leaves_what_came_before(
    driver: str, family: str, shape: Shape
) -> None:
    def refused_in_a_savepoint(session: Any, m: Any) -> Any:
        session.add(m.Tag(name="before"))
        session.flush()
        with pytest.raises(TenancyError, match=shape.match), session.begin_nested():
            shape.run(session, m)

        kept = session.scalars(select(m.Tag.name).where(m.Tag.name == "before")).all()
        session.rollback()
        return kept

    assert raise_error_of(oracle(driver, family).refuses(shape, refused_in_a_savepoint)) == [
        "before"
    ]


@pytest.mark.parametrize(
    ("driver", "family", "shape"),
    [*POWERLESS.cases(DRIVERS), *POWERLESS.cases(["sqlite3"], TENANT_TYPES, twins=[])],
)
def test_it_does_nothing_to_others(driver: str, family: str, shape: Shape) -> None:
    outcome = oracle(driver, family).refuses(shape)
    assert not isinstance(outcome.error, AssertionError), outcome.error


@pytest.mark.parametrize(
    ("driver", "family", "shape"), WRITES.refused().cases(ONE_PER_SERVER, twins=["sqlite3"])
)
def test_a_write_without_a_tenant_is_refused(driver: str, family: str, shape: Shape) -> None:
    outcome = oracle(driver, family).shared.perform(shape.run)
    oracle(driver, family).nothing_changed()
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        raise_error_of(outcome)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_statement_over_shared_rows_changes_ones_own_only(driver: str) -> None:
    def changed(session: Any, m: Any) -> Any:
        return session.execute(update(m.Setting).values(value="x")).rowcount

    checked = oracle(driver)
    outcome = checked.shared.perform(changed, "acme")
    found = checked.shared.database.execute(
        "SELECT tenant_id, count(*) FROM settings WHERE value = 'x' GROUP BY tenant_id"
    )
    checked.shared.database.restore()
    assert raise_error_of(outcome) == 2
    assert [tuple(row) for row in found] == [("acme", 2)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_row_added_without_a_tenant_is_never_everybodys(driver: str) -> None:
    def added(session: Any, m: Any) -> None:
        session.add(m.Setting(name="x", tenant_id=None))
        session.flush()
        session.execute(m.Setting.__table__.insert().values(name="x"))

    checked = oracle(driver)
    outcome = checked.shared.perform(added, "acme")
    found = checked.shared.database.execute("SELECT tenant_id FROM settings WHERE name = 'x'")
    checked.shared.database.restore()
    assert outcome.error is None
    assert [tuple(row) for row in found] == [("acme",), ("acme",)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_text_that_names_no_owned_table_runs(driver: str) -> None:
    def counted(session: Any, m: Any) -> Any:
        session.execute(text("UPDATE countries SET name = name"))
        return session.scalar(text("SELECT count(*) FROM countries WHERE name <> 'orders'"))

    assert raise_error_of(oracle(driver).shared.perform(counted)) == 2
    assert raise_error_of(oracle(driver).shared.perform(counted, "acme")) == 2


def test_what_is_allowed_is_a_longer_list_than_what_is_refused() -> None:
    from test_reads import READS

    assert len(READS.listed) + len(WRITES.listed) > len(REFUSED.listed) + len(POWERLESS.listed)
