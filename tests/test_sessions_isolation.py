"""A session serves one tenant, whoever holds it, wherever it is used and however long it lives."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import gc
import pickle
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, func, insert, inspect, select, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Session,
    make_transient,
    make_transient_to_detached,
    mapped_column,
    scoped_session,
    selectinload,
    sessionmaker,
)
from sqlalchemy.orm.loading import merge_frozen_result
from sqlalchemy.pool import QueuePool

import models
from databases import DRIVERS
from oracle import bag, oracle, runner
from partywall.context import atenant_scope, tenant_scope, unscoped
from partywall.errors import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    TenancyError,
)
from partywall.ownership import tenant_aware

SYNC = [driver for driver, (_, _, is_async) in DRIVERS.items() if not is_async]
ASYNC = [driver for driver, (_, _, is_async) in DRIVERS.items() if is_async]

OTHER_TENANT = r"serves tenant 'acme', but the current tenant is 'globex'"
NO_TENANT = "No tenant is current"


class Place:
    """The shared database, its models, and what is stored in it."""

    def __init__(self, driver: str) -> None:
        self.oracle = oracle(driver)
        self.engine = self.oracle.shared.engine
        self.m = self.oracle.schema

    def pooled(self, **options: Any) -> Engine:
        """An engine of the test's own, which keeps its connections."""
        database = self.oracle.shared.database
        return database.engine(self.oracle.driver, poolclass=QueuePool, **options)

    def rows(self, table: str, column: str = "name") -> dict[str, list[Any]]:
        found = self.oracle.shared.database.execute(
            f"SELECT tenant_id, {column} FROM {table} ORDER BY id"
        )
        grouped: dict[str, list[Any]] = {"acme": [], "globex": []}
        for tenant, value in found:
            grouped[tenant].append(value)

        return grouped


TAGS = {"acme": ["tag 0", "tag 1", "tag 2"], "globex": ["tag 0", "tag 1", "tag 2"]}


@pytest.fixture(params=SYNC)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found = Place(request.param)
    yield found
    found.oracle.shared.database.restore()


@pytest.fixture(params=ASYNC)
def aplace(request: pytest.FixtureRequest) -> Iterator[Place]:
    found = Place(request.param)
    yield found
    found.oracle.shared.database.restore()


def on_the_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """The engines' connections live on one loop, so the tests do too."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        runner().run(test(**fixtures))

    return run


def warmed(place: Place) -> Session:
    """A session that acme has used and left open, with its objects in memory."""
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.info["kept"] = session.scalars(
            select(place.m.Order).order_by(place.m.Order.id)
        ).all()
        session.info["kept"] += session.scalars(select(place.m.Customer)).all()
        session.info["memo"] = session.get(place.m.Memo, 1)

    return session


USES: dict[str, Callable[[Session, Any], Any]] = {
    "get of a held key": lambda session, m: session.get(m.Order, 1),
    "get of one's own key": lambda session, m: session.get(m.Order, 2),
    "a statement": lambda session, m: session.scalars(select(m.Order)).all(),
    "a column": lambda session, m: session.scalar(select(func.max(m.Order.amount))),
    "a merge over a held key": lambda session, m: session.merge(m.Order(id=1, amount=1)),
    "a many-to-one from memory": lambda session, m: session.info["kept"][0].customer,
    "a lazy collection": lambda session, m: session.info["kept"][0].lines,
    "a deferred column": lambda session, m: session.info["kept"][0].note,
    "a refresh": lambda session, m: session.refresh(session.info["kept"][0]),
    "an addition": lambda session, m: session.add(m.Tag(name="x")),
    "a deletion": lambda session, m: (session.delete(session.info["memo"]), session.flush()),
    "a change": lambda session, m: (
        setattr(session.info["kept"][0], "amount", 1),
        session.flush(),
    ),
    "a bulk update": lambda session, m: session.execute(update(m.Order).values(amount=1)),
    "a bulk delete": lambda session, m: session.execute(delete(m.Memo)),
    "a bulk save": lambda session, m: session.bulk_save_objects([m.Tag(name="x")]),
    "a query": lambda session, m: session.query(m.Order).all(),
    "a query by key": lambda session, m: session.query(m.Order).get(1),
    "its connection": lambda session, m: session.connection().execute(select(m.Order.id)).all(),
    "a write-only collection": lambda session, m: session.scalars(
        session.info["kept"][0].shipments.select()
    ).all(),
    "a dynamic collection": lambda session, m: session.info["kept"][0].events.all(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_warm_session_refuses_another_tenant(
    place: Place, use: Callable[[Session, Any], Any]
) -> None:
    session = warmed(place)
    with session, pytest.raises(CrossTenantAccessError, match=OTHER_TENANT), tenant_scope("globex"):
        use(session, place.m)

    place.oracle.nothing_changed()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_warm_session_refuses_nobody(place: Place, use: Callable[[Session, Any], Any]) -> None:
    session = warmed(place)
    with session, pytest.raises(MissingTenantContextError, match=NO_TENANT):
        use(session, place.m)
        session.flush()

    place.oracle.nothing_changed()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_warm_session_refuses_an_unscoped_block(
    place: Place, use: Callable[[Session, Any], Any]
) -> None:
    session = warmed(place)
    with (
        session,
        pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"),
        unscoped("test", write=True),
    ):
        use(session, place.m)

    place.oracle.nothing_changed()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_warm_session_goes_on_serving_its_own_tenant(
    place: Place, use: Callable[[Session, Any], Any]
) -> None:
    session = warmed(place)
    with tenant_scope("globex"), Session(place.engine) as other:
        assert len(other.scalars(select(place.m.Order)).all()) == 7

    with session, tenant_scope("acme"):
        use(session, place.m)
        session.rollback()

    place.oracle.nothing_changed()


@pytest.mark.parametrize(
    "listed",
    [
        list,
        lambda session: session.identity_map.values(),
        lambda session: session.identity_map.items(),
        lambda session: session.dirty,
        lambda session: session.new,
        lambda session: session.deleted,
    ],
    ids=["all", "values", "items", "dirty", "new", "deleted"],
)
def test_objects_in_memory_are_not_listed_for_another_tenant(place: Place, listed: Any) -> None:
    session = warmed(place)
    with tenant_scope("acme"):
        session.delete(session.info["kept"][0])
        session.add(place.m.Tag(name="x"))
        session.info["memo"].title = "changed"
        assert list(listed(session))

    with session, tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
        listed(session)


@pytest.mark.parametrize("listed", [list, lambda session: session.new], ids=["all", "new"])
def test_pending_objects_are_listed_for_their_tenant_alone(place: Place, listed: Any) -> None:
    with Session(place.engine) as session:
        with tenant_scope("acme"):
            session.add(tag := place.m.Tag(name="x"))
            session.add(country := place.m.Country(code="XX"))
            assert set(listed(session)) == {tag, country}

        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            listed(session)

        with tenant_scope("globex"):
            with pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
                listed(session)

            session.close()
            session.add(country)
            assert list(listed(session)) == [country]


def test_an_expired_object_is_not_loaded_for_another_tenant(place: Place) -> None:
    session = warmed(place)
    order = session.info["kept"][0]
    session.expire_all()
    with session, tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
        order.number  # noqa: B018


def test_an_unscoped_session_refuses_a_tenant(place: Place) -> None:
    session = Session(place.engine)
    with unscoped("test"):
        assert len(session.scalars(select(place.m.Tag)).all()) == 6

    with (
        session,
        tenant_scope("acme"),
        pytest.raises(CrossTenantAccessError, match="serves an unscoped block"),
    ):
        session.scalars(select(place.m.Tag)).all()


@pytest.mark.parametrize("empty", [Session.close, Session.reset], ids=["close", "reset"])
def test_an_emptied_session_may_serve_the_next_tenant(
    place: Place, empty: Callable[[Session], None]
) -> None:
    session = warmed(place)
    empty(session)
    with session, tenant_scope("globex"):
        assert {order.tenant_id for order in session.scalars(select(place.m.Order))} == {"globex"}


def test_an_emptied_session_may_be_used_by_nobody_before_it_serves_the_next_tenant(
    place: Place,
) -> None:
    session = warmed(place)
    session.close()
    country = session.scalars(select(place.m.Country)).first()
    session.add(place.m.Tag(name="made early"))
    with session, tenant_scope("globex"):
        assert session.scalar(select(func.max(place.m.Order.amount))) == 99999
        session.commit()
        assert country in session

    assert place.rows("tags") == {**TAGS, "globex": [*TAGS["globex"], "made early"]}


def test_a_session_may_serve_one_tenant_after_the_other_when_nothing_is_kept(place: Place) -> None:
    with Session(place.engine) as session:
        for tenant, amount in [("acme", 180), ("globex", 99999), ("acme", 180)]:
            with tenant_scope(tenant), session.begin():
                assert session.scalar(select(func.max(place.m.Order.amount))) == amount


def test_a_session_may_be_rolled_back_and_closed_by_anyone(place: Place) -> None:
    session = warmed(place)
    session.rollback()
    session.expire_all()
    with tenant_scope("globex"):
        session.rollback()
        session.expunge_all()

    session.close()


def test_a_session_that_only_read_may_be_committed_after_the_scope(place: Place) -> None:
    session = warmed(place)
    session.commit()
    session.close()


def test_what_is_pending_is_not_flushed_for_another_tenant(place: Place) -> None:
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.add(place.m.Tag(name="of acme"))

    with session, tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
        session.commit()

    assert place.rows("tags") == TAGS


def test_what_is_pending_is_not_autoflushed_for_another_tenant(place: Place) -> None:
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.add(place.m.Tag(name="of acme"))

    with session, tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
        session.scalars(select(place.m.Label)).all()

    assert place.rows("tags") == TAGS


def test_what_is_pending_is_not_committed_after_the_scope(place: Place) -> None:
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.add(place.m.Tag(name="of acme"))

    with session, pytest.raises(MissingTenantContextError, match=NO_TENANT):
        session.commit()

    assert place.rows("tags") == TAGS


def test_what_was_changed_is_not_flushed_after_the_scope(place: Place) -> None:
    session = warmed(place)
    session.info["kept"][0].amount = 1
    with session, pytest.raises(MissingTenantContextError, match=NO_TENANT):
        session.flush()

    place.oracle.nothing_changed()


def test_what_was_deleted_is_not_flushed_for_another_tenant(place: Place) -> None:
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.delete(session.get(place.m.Memo, 1))

    with session, tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
        session.commit()

    place.oracle.nothing_changed()


def test_what_is_pending_is_flushed_when_its_tenant_is_back(place: Place) -> None:
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.add(place.m.Tag(name="of acme"))

    with session, tenant_scope("acme"):
        session.commit()

    assert place.rows("tags") == {**TAGS, "acme": [*TAGS["acme"], "of acme"]}


def test_flushed_rows_of_a_failed_turn_do_not_stay(place: Place) -> None:
    session = Session(place.engine)
    with tenant_scope("acme"):
        session.add(place.m.Tag(name="of acme"))
        session.flush()

    with session, tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
        session.add(place.m.Tag(name="of globex"))

    assert place.rows("tags") == TAGS


def test_what_was_flushed_is_not_committed_for_another_tenant(place: Place) -> None:
    with Session(place.engine) as session:
        for end in [session.rollback, session.commit]:
            with tenant_scope("acme"):
                session.add(place.m.Tag(name="of acme"))
                session.flush()

            with (
                tenant_scope("globex"),
                pytest.raises(CrossTenantAccessError, match=OTHER_TENANT),
            ):
                session.commit()

            assert place.rows("tags") == TAGS
            end()

        assert place.rows("tags") == {**TAGS, "acme": [*TAGS["acme"], "of acme"]}


def test_an_object_made_under_one_tenant_and_added_under_another_belongs_to_the_other(
    place: Place,
) -> None:
    with tenant_scope("acme"):
        tag = place.m.Tag(name="made early")

    with tenant_scope("globex"), Session(place.engine) as session, session.begin():
        session.add(tag)

    assert place.rows("tags") == {**TAGS, "globex": [*TAGS["globex"], "made early"]}


def test_a_backref_does_not_pull_an_object_into_another_tenants_session(place: Place) -> None:
    m = place.m
    with tenant_scope("globex"), Session(place.engine) as theirs:
        customer = theirs.get(m.Customer, 2)
        with (
            tenant_scope("acme"),
            Session(place.engine) as session,
            pytest.raises(Exception, match="already attached|serves|belongs to tenant"),
        ):
            session.add(m.Order(number="x", customer=customer))
            session.flush()

    place.oracle.nothing_changed()


def test_a_scoped_session_left_open_refuses_the_next_tenant(place: Place) -> None:
    registry = scoped_session(sessionmaker(place.engine))
    with tenant_scope("acme"):
        kept = registry.scalars(select(place.m.Order)).all()

    assert kept
    with tenant_scope("globex"):
        with pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            registry.get(place.m.Order, 1)

        registry.remove()
        assert registry.get(place.m.Order, 1) is None
        assert registry.get(place.m.Order, 2).tenant_id == "globex"
        registry.remove()


def test_the_query_property_of_a_scoped_session_is_walled(place: Place) -> None:
    registry = scoped_session(sessionmaker(place.engine))
    for tenant, count in [("acme", 6), ("globex", 7)]:
        with tenant_scope(tenant):
            assert registry.query(place.m.Order).count() == count
            registry.remove()

    with pytest.raises(MissingTenantContextError, match=NO_TENANT):
        registry.query(place.m.Order).count()

    registry.remove()


def test_a_session_class_of_ones_own_is_walled(place: Place) -> None:
    class Mine(Session):
        pass

    with Mine(place.engine) as session, tenant_scope("globex"):
        assert session.get(place.m.Order, 1) is None
        assert session.get(place.m.Order, 2) is not None


def test_a_session_on_a_connection_is_walled(place: Place) -> None:
    with place.engine.connect() as connection:
        for tenant, count in [("acme", 6), ("globex", 7)]:
            with tenant_scope(tenant), Session(connection) as session:
                assert len(session.scalars(select(place.m.Order)).all()) == count


def test_one_connection_serves_one_tenant_after_the_other(place: Place) -> None:
    statement = select(func.count()).select_from(place.m.Order)
    with place.engine.connect() as connection:
        for tenant, count in [("acme", 6), ("globex", 7), ("initech", 0), ("acme", 6)]:
            with tenant_scope(tenant):
                assert connection.scalar(statement) == count

        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            connection.scalar(statement)


def test_a_pooled_connection_keeps_nothing_of_its_last_tenant(place: Place) -> None:
    engine = place.pooled(pool_size=1, max_overflow=0)
    for tenant, count in [("acme", 6), ("globex", 7), ("acme", 6)]:
        with tenant_scope(tenant), Session(engine) as session:
            assert len(session.scalars(select(place.m.Order)).all()) == count

        with unscoped("test"), Session(engine) as session:
            assert len(session.scalars(select(place.m.Order)).all()) == 13

        with Session(engine) as session, pytest.raises(MissingTenantContextError, match=NO_TENANT):
            session.scalars(select(place.m.Order)).all()


def test_an_inner_scope_wins_and_the_outer_returns(place: Place) -> None:
    def count() -> int:
        with Session(place.engine) as session:
            return len(session.scalars(select(place.m.Order)).all())

    with tenant_scope("acme"):
        with tenant_scope("globex"):
            assert count() == 7

        with pytest.raises(ZeroDivisionError), tenant_scope("globex"):
            1 / 0  # noqa: B018

        assert count() == 6


def test_an_object_detached_from_one_session_is_refused_by_another_tenants(place: Place) -> None:
    with tenant_scope("acme"), Session(place.engine) as session:
        order = session.get(place.m.Order, 1)

    with tenant_scope("globex"), Session(place.engine) as session:
        with pytest.raises(CrossTenantAccessError, match="belongs to tenant 'acme'"):
            session.add(order)

        assert order not in session
        with pytest.raises(TenancyError, match="tenant"):
            session.merge(order)
            session.flush()


@pytest.mark.parametrize("expire", [True, False], ids=["expired", "kept"])
def test_an_object_of_an_earlier_transaction_is_no_proof_of_its_row(
    place: Place, expire: bool
) -> None:
    m = place.m
    with tenant_scope("acme"), Session(place.engine, expire_on_commit=expire) as session:
        session.add(tag := m.Tag(id=500, name="x"))
        session.commit()
        with Session(place.engine) as other, other.begin():
            other.execute(delete(m.Tag).where(m.Tag.id == 500))

        with tenant_scope("globex"), Session(place.engine) as other, other.begin():
            other.add(m.Tag(id=500, name="y"))

        with pytest.raises(CrossTenantReferenceError, match="does not belong"):
            session.execute(insert(m.order_tags).values(order_id=1, tag_id=500))

        assert tag in session


def test_an_object_moves_between_sessions_of_its_tenant(place: Place) -> None:
    with tenant_scope("acme"):
        with Session(place.engine) as session:
            order = session.get(place.m.Order, 1)

        with Session(place.engine) as session, session.begin():
            session.add(order)
            order.amount = 31
            assert [line.id for line in order.lines] == [1, 9]

        with Session(place.engine) as session, session.begin():
            session.merge(order).amount = 32

    amounts = place.rows("orders", "amount")
    assert amounts["acme"][0] == 32
    assert amounts["globex"][0] == 210


class Pickled(DeclarativeBase):
    pass


@tenant_aware
class Letter(Pickled):
    """At the top of a module, so that it can be pickled."""

    __tablename__ = "letters"
    id = mapped_column(models.Integer, primary_key=True)
    tenant_id = mapped_column(models.String(20), nullable=False)
    text = mapped_column(models.String(20))


def test_an_expired_object_remembers_no_session_it_has_left(place: Place) -> None:
    m = place.m
    with tenant_scope("acme"):
        with Session(place.engine) as session:
            order = session.get(m.Order, 1)
            session.commit()

        left = [Session(place.engine), Session(place.engine)]
        for session in left:
            session.add(order)
            session.close()

    with tenant_scope("globex"):
        kept = left[0].get(m.Order, 2)

    with tenant_scope("acme"), Session(place.engine) as session:
        session.add(order)
        anew = select(m.Order).where(m.Order.id == 1).execution_options(populate_existing=True)
        assert session.scalars(anew).all() == [order]
        session.expunge(order)
        make_transient(order)
        make_transient_to_detached(order)
        session.add(order)
        assert (order.tenant_id, order.number) == ("acme", "N-0")

    assert (kept.tenant_id, left[0].identity_map.all_states()) == ("globex", [inspect(kept)])
    left[0].close()


@pytest.mark.parametrize("load", [True, False])
def test_a_merged_object_keeps_no_session_alive(place: Place, load: bool) -> None:
    with tenant_scope("acme"), Session(place.engine) as session:
        order = session.get(place.m.Order, 1)
        session.commit()
        other = Session(place.engine)
        merged = other.merge(order, load=load)
        other.close()
        alive = weakref.ref(other)
        gc.disable()
        try:
            del other
            assert alive() is None
        finally:
            gc.enable()

        session.expunge(order)
        session.add(merged)
        assert merged.number == "N-0"


def test_what_is_added_to_an_emptied_session_is_of_nobodys_yet(place: Place) -> None:
    session = warmed(place)
    session.close()
    tag = place.m.Tag(name="early")
    session.add(tag)
    assert list(session.new) == list(session) == [tag]
    with tenant_scope("globex"):
        assert list(session.new) == [tag]
        session.commit()

    session.close()
    assert place.rows("tags") == TAGS | {"globex": [*TAGS["globex"], "early"]}


def test_a_result_read_late_brings_no_object_into_another_tenants_turn(place: Place) -> None:
    m = place.m
    with Session(place.pooled()) as session:
        with tenant_scope("acme"):
            late = session.scalars(select(m.Order).where(m.Order.id == 1))
            session.commit()

        with tenant_scope("globex"):
            assert session.get(m.Order, 1) is None
            with pytest.raises(InvalidRequestError, match="identity map is no longer valid"):
                late.all()

            assert session.get(m.Order, 1) is None
            assert session.get(m.Order, 2).tenant_id == "globex"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_of_another_connection_become_objects_of_their_tenants_session_only(
    place: Place,
) -> None:
    m = place.m
    with Session(place.engine) as session, place.engine.connect() as connection:
        countries = connection.execute(select(m.Country.__table__))
        assert {type(each) for each in session.query(m.Country).instances(countries)} == {m.Country}
        with tenant_scope("acme"):
            rows = connection.execute(select(m.Tag.__table__).order_by(m.Tag.id))
            tags = list(session.query(m.Tag).instances(rows))
            assert [tag.id for tag in tags] == [1, 3, 5]

        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            session.get(m.Tag, 1)

        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            session.query(m.Tag).instances(rows)


def test_a_pickled_object_stays_with_its_tenant(place: Place) -> None:
    Pickled.metadata.create_all(place.engine)
    try:
        with tenant_scope("acme"), Session(place.engine) as session, session.begin():
            session.add(Letter(text="dear acme"))

        with tenant_scope("acme"), Session(place.engine) as session:
            sent = pickle.dumps(session.scalars(select(Letter)).one())

        with tenant_scope("globex"), Session(place.engine) as session:
            with pytest.raises(CrossTenantAccessError, match="belongs to tenant 'acme'"):
                session.add(pickle.loads(sent))

            with pytest.raises(CrossTenantAccessError, match="tenant"):
                session.merge(pickle.loads(sent), load=False)

        with tenant_scope("acme"), Session(place.engine) as session:
            letter = pickle.loads(sent)
            session.add(letter)
            session.refresh(letter)
            assert letter.text == "dear acme"
    finally:
        Pickled.metadata.drop_all(place.engine)


def test_a_shared_object_is_merged_without_asking_the_database(place: Place) -> None:
    m = place.m
    with unscoped("what everybody shares"), Session(place.engine) as session:
        shared = session.scalars(select(m.Setting).where(m.Setting.tenant_id.is_(None))).first()

    with tenant_scope("acme"), Session(place.engine) as session:
        assert session.merge(shared, load=False).name == shared.name


def test_a_session_that_a_listener_empties_is_the_tenants_all_the_same(place: Place) -> None:
    m = place.m
    with tenant_scope("acme"), Session(place.engine) as session:
        session.add(m.Customer(name="first"))
        event.listen(session, "before_attach", lambda session, _: session.expunge_all())
        session.add(m.Customer(name="second"))
        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            list(session.new)


def test_a_copied_object_is_refused_too(place: Place) -> None:
    with tenant_scope("acme"), Session(place.engine) as session:
        order = session.get(place.m.Order, 1)

    twin = copy.copy(order)
    with (
        tenant_scope("globex"),
        Session(place.engine) as session,
        pytest.raises(TenancyError, match="tenant"),
    ):
        session.add(twin)
        session.flush()


def test_a_frozen_result_is_not_merged_for_another_tenant(place: Place) -> None:
    statement = select(place.m.Tag).order_by(place.m.Tag.id)
    with tenant_scope("acme"), Session(place.engine) as session:
        frozen = session.execute(statement).freeze()

    with tenant_scope("acme"), Session(place.engine) as session:
        again = merge_frozen_result(session, statement, frozen, load=False)()
        assert [tag.id for tag in again.scalars()] == [1, 3, 5]

    with (
        tenant_scope("globex"),
        Session(place.engine) as session,
        pytest.raises(TenancyError, match="tenant"),
    ):
        merge_frozen_result(session, statement, frozen, load=False)().scalars().all()


def test_what_is_kept_after_commit_can_still_be_read_as_data(place: Place) -> None:
    with tenant_scope("acme"), Session(place.engine, expire_on_commit=False) as session:
        order = session.scalars(
            select(place.m.Order)
            .where(place.m.Order.id == 1)
            .options(selectinload(place.m.Order.lines))
        ).one()
        session.commit()

    assert (order.number, [line.id for line in order.lines]) == ("N-0", [1, 9])


def test_a_result_that_outlives_its_scope_holds_its_tenants_rows_only(place: Place) -> None:
    statement = select(place.m.Order.tenant_id).execution_options(yield_per=2)
    with Session(place.engine) as session:
        with tenant_scope("acme"):
            rows = iter(session.scalars(statement))
            assert next(rows) == "acme"

        assert set(rows) == {"acme"}


def test_objects_streamed_after_the_scope_load_nothing_for_another_tenant(place: Place) -> None:
    m = place.m
    statement = select(m.Order).order_by(m.Order.id).execution_options(yield_per=2)
    seen = []
    with Session(place.engine) as session:
        with tenant_scope("acme"):
            orders = iter(session.scalars(statement))
            seen.append(next(orders))

        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            [order.lines for order in orders]

    assert {order.tenant_id for order in seen} == {"acme"}


def test_generators_of_two_tenants_take_turns(place: Place) -> None:
    def orders() -> Iterator[str]:
        with Session(place.engine) as session:
            for key in range(1, 13):
                found = session.get(place.m.Order, key)
                yield "none" if found is None else found.tenant_id

    ours, theirs = tenant_scope("acme")(orders)(), tenant_scope("globex")(orders)()
    seen = [pair for pair in zip(ours, theirs, strict=True)]
    assert seen == [("acme", "none"), ("none", "globex")] * 6


def test_a_generator_that_outlives_its_scope_leaves_no_tenant_behind(place: Place) -> None:
    def orders() -> Iterator[Any]:
        with tenant_scope("acme"), Session(place.engine) as session:
            yield from session.scalars(select(place.m.Order).order_by(place.m.Order.id))

    def consume() -> None:
        rows = orders()
        assert next(rows).tenant_id == "acme"
        rows.close()
        with (
            Session(place.engine) as session,
            pytest.raises(MissingTenantContextError, match=NO_TENANT),
        ):
            session.scalars(select(place.m.Order)).all()

    contextvars.copy_context().run(consume)


def test_a_thread_has_no_tenant_of_its_own(place: Place) -> None:
    def load() -> Any:
        with Session(place.engine) as session:
            return session.scalars(select(place.m.Order)).all()

    with tenant_scope("acme"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            pool.submit(load).result()

        taken = contextvars.copy_context()
        found = pool.submit(taken.run, load).result()
        assert {order.tenant_id for order in found} == {"acme"}


def test_threads_of_two_tenants_do_not_mix(place: Place) -> None:
    m = place.m
    mixed: list[Any] = []
    start = threading.Barrier(4)

    def work(tenant: str, count: int) -> None:
        start.wait()
        for _ in range(15):
            with tenant_scope(tenant), Session(place.engine) as session:
                orders = session.scalars(select(m.Order).options(selectinload(m.Order.lines))).all()
                lines = sum(len(order.lines) for order in orders)
                seen = {order.tenant_id for order in orders}, len(orders), lines
                if seen != ({tenant}, count, count + 2):
                    mixed.append((tenant, *seen))

    with ThreadPoolExecutor(4) as pool:
        for tenant, count in [("acme", 6), ("globex", 7)] * 2:
            pool.submit(work, tenant, count)

    assert mixed == []


def test_a_session_shared_by_threads_of_two_tenants_is_refused(place: Place) -> None:
    session = warmed(place)

    def intrude() -> Any:
        with tenant_scope("globex"):
            return session.get(place.m.Order, 1)

    with (
        session,
        ThreadPoolExecutor(1) as pool,
        pytest.raises(CrossTenantAccessError, match=OTHER_TENANT),
    ):
        pool.submit(intrude).result()


def test_one_statement_object_serves_threads_of_all_tenants(place: Place) -> None:
    statement = select(place.m.Order.tenant_id).distinct()

    def ask(tenant: str) -> set[str]:
        with tenant_scope(tenant), place.engine.connect() as connection:
            return set(connection.scalars(statement))

    with ThreadPoolExecutor(4) as pool:
        asked = ["acme", "globex", "initech"] * 10
        assert list(pool.map(ask, asked)) == [
            set() if tenant == "initech" else {tenant} for tenant in asked
        ]


def test_case_and_spaces_tell_tenants_apart(place: Place) -> None:
    m = place.m
    database = place.oracle.shared.database
    quote = database.server.quoted
    for key, tenant in [(7001, "ACME"), (7002, "acme "), (7003, "\u00e1cme")]:
        database.execute(
            f"INSERT INTO {quote('tags')} (id, tenant_id, name) VALUES ({key}, '{tenant}', 'x')"
        )

    with tenant_scope("acme"), Session(place.engine) as session, session.begin():
        assert bag(session.scalars(select(m.Tag.id))) == [1, 3, 5]
        assert session.get(m.Tag, 7001) is None
        assert session.execute(update(m.Tag).values(name="mine")).rowcount == 3

    with tenant_scope("ACME"), Session(place.engine) as session:
        assert bag(session.scalars(select(m.Tag.id))) == [7001]

    found = database.execute("SELECT id FROM tags WHERE name = 'x'")
    assert bag(row[0] for row in found) == [7001, 7002, 7003]


# The same with AsyncSession, and what only tasks can do.


async def awarmed(place: Place) -> AsyncSession:
    session = AsyncSession(place.engine)
    async with atenant_scope("acme"):
        in_order = select(place.m.Order).order_by(place.m.Order.id)
        session.info["kept"] = (await session.scalars(in_order)).all()
        session.info["kept"] += (await session.scalars(select(place.m.Customer))).all()

    return session


AUSES: dict[str, Callable[[AsyncSession, Any], Any]] = {
    "get of a held key": lambda session, m: session.get(m.Order, 1),
    "a statement": lambda session, m: session.execute(select(m.Order)),
    "scalars": lambda session, m: session.scalars(select(m.Order)),
    "a column": lambda session, m: session.scalar(select(func.max(m.Order.amount))),
    "a stream": lambda session, m: session.stream(select(m.Order)),
    "a merge over a held key": lambda session, m: session.merge(m.Order(id=1, amount=1)),
    "an awaited attribute": lambda session, m: session.info["kept"][0].awaitable_attrs.lines,
    "an awaited many-to-one": lambda session, m: session.info["kept"][0].awaitable_attrs.customer,
    "a refresh": lambda session, m: session.refresh(session.info["kept"][0]),
    "a bulk update": lambda session, m: session.execute(update(m.Order).values(amount=1)),
    "run_sync": lambda session, m: session.run_sync(lambda sync: sync.get(m.Order, 1)),
}


@pytest.mark.parametrize("use", AUSES.values(), ids=AUSES)
@on_the_loop
async def test_a_warm_async_session_refuses_another_tenant(
    aplace: Place, use: Callable[[AsyncSession, Any], Any]
) -> None:
    session = await awarmed(aplace)
    async with session, atenant_scope("globex"):
        with pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            await use(session, aplace.m)


@pytest.mark.parametrize("use", AUSES.values(), ids=AUSES)
@on_the_loop
async def test_a_warm_async_session_refuses_nobody(
    aplace: Place, use: Callable[[AsyncSession, Any], Any]
) -> None:
    async with await awarmed(aplace) as session:
        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            await use(session, aplace.m)


@on_the_loop
async def test_what_is_pending_is_not_committed_for_another_task(aplace: Place) -> None:
    async with AsyncSession(aplace.engine) as session:
        async with atenant_scope("acme"):
            session.add(aplace.m.Tag(name="of acme"))

        async with atenant_scope("globex"):
            with pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
                await session.commit()

        await session.rollback()
        async with atenant_scope("acme"):
            session.add(aplace.m.Tag(name="of acme"))

        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            await session.commit()

    assert aplace.rows("tags") == TAGS


@on_the_loop
async def test_a_closed_async_session_may_serve_the_next_tenant(aplace: Place) -> None:
    session = await awarmed(aplace)
    await session.close()
    async with session, atenant_scope("globex"):
        found = await session.scalars(select(aplace.m.Order))
        assert {order.tenant_id for order in found} == {"globex"}


@on_the_loop
async def test_gathered_tasks_do_not_mix(aplace: Place) -> None:
    m = aplace.m
    make = async_sessionmaker(aplace.engine)

    async def work(tenant: str, number: int) -> tuple[set[str], int]:
        async with atenant_scope(tenant), make() as session:
            tag = m.Tag(name=f"{tenant} {number}")
            session.add(tag)
            await session.commit()
            found = (
                await session.scalars(select(m.Order).options(selectinload(m.Order.lines)))
            ).all()
            return {order.tenant_id for order in found}, len(found)

    tenants = ["acme", "globex"] * 4
    done = await asyncio.gather(*(work(tenant, n) for n, tenant in enumerate(tenants)))
    assert done == [({tenant}, {"acme": 6, "globex": 7}[tenant]) for tenant in tenants]
    for tenant, names in aplace.rows("tags").items():
        assert bag(names) == bag(
            [*TAGS[tenant], *(f"{tenant} {n}" for n in range(8) if tenants[n] == tenant)]
        )


@on_the_loop
async def test_a_session_shared_by_tasks_of_two_tenants_is_refused(aplace: Place) -> None:
    session = await awarmed(aplace)

    async def intrude() -> Any:
        async with atenant_scope("globex"):
            return await session.get(aplace.m.Order, 1)

    async with session:
        with pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            await asyncio.create_task(intrude())


@on_the_loop
async def test_a_task_that_outlives_its_scope_keeps_its_tenant(aplace: Place) -> None:
    go_on = asyncio.Event()

    async def work() -> set[str]:
        await go_on.wait()
        async with AsyncSession(aplace.engine) as session:
            return set(await session.scalars(select(aplace.m.Order.tenant_id)))

    async with atenant_scope("acme"):
        task = asyncio.create_task(work())
        await asyncio.sleep(0)

    async with atenant_scope("globex"):
        go_on.set()
        assert await task in ({"acme"}, set())


@on_the_loop
async def test_a_task_group_takes_the_tenant_along(aplace: Place) -> None:
    async def tenants() -> set[str]:
        async with AsyncSession(aplace.engine) as session:
            return set(await session.scalars(select(aplace.m.Order.tenant_id)))

    async def ask(tenant: str) -> set[str]:
        async with atenant_scope(tenant), asyncio.TaskGroup() as group:
            return await group.create_task(tenants())

    assert await asyncio.gather(ask("acme"), ask("globex")) == [{"acme"}, {"globex"}]


@on_the_loop
async def test_to_thread_takes_the_tenant_along(aplace: Place) -> None:
    on = {"aiosqlite": "sqlite3", "asyncpg": "psycopg", "asyncmy": "pymysql"}
    engine = oracle(on[aplace.oracle.driver]).shared.engine
    m = oracle(on[aplace.oracle.driver]).schema

    def load() -> set[str]:
        with Session(engine) as session:
            return set(session.scalars(select(m.Order.tenant_id)))

    async with atenant_scope("globex"):
        assert await asyncio.to_thread(load) == {"globex"}
        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            await asyncio.get_running_loop().run_in_executor(None, load)


@on_the_loop
async def test_an_async_scoped_session_left_open_refuses_the_next_tenant(aplace: Place) -> None:
    registry = async_scoped_session(
        async_sessionmaker(aplace.engine), scopefunc=asyncio.current_task
    )
    async with atenant_scope("acme"):
        kept = (await registry.scalars(select(aplace.m.Order))).all()

    assert kept
    async with atenant_scope("globex"):
        with pytest.raises(CrossTenantAccessError, match=OTHER_TENANT):
            await registry.get(aplace.m.Order, 1)

        await registry.remove()
        assert await registry.get(aplace.m.Order, 1) is None
        assert (await registry.get(aplace.m.Order, 2)).tenant_id == "globex"
        await registry.remove()


@on_the_loop
async def test_an_async_scoped_session_of_another_task_is_another_session(aplace: Place) -> None:
    registry = async_scoped_session(
        async_sessionmaker(aplace.engine), scopefunc=asyncio.current_task
    )

    async def ask(tenant: str) -> set[str]:
        async with atenant_scope(tenant):
            try:
                found = await registry.scalars(select(aplace.m.Order))
                return {order.tenant_id for order in found}
            finally:
                await registry.remove()

    assert await asyncio.gather(ask("acme"), ask("globex")) == [{"acme"}, {"globex"}]


@on_the_loop
async def test_a_stream_that_outlives_its_scope_holds_its_tenants_rows_only(
    aplace: Place,
) -> None:
    async with AsyncSession(aplace.engine) as session:
        async with atenant_scope("acme"):
            stream = await session.stream_scalars(
                select(aplace.m.Order.tenant_id).execution_options(yield_per=2)
            )
            seen = {await anext(aiter(stream))}

        seen |= {tenant async for tenant in stream}
        assert seen == {"acme"}


@on_the_loop
async def test_async_generators_of_two_tenants_take_turns(aplace: Place) -> None:
    async def orders() -> AsyncIterator[str]:
        async with AsyncSession(aplace.engine) as session:
            for key in range(1, 9):
                found = await session.get(aplace.m.Order, key)
                yield "none" if found is None else found.tenant_id

    ours, theirs = atenant_scope("acme")(orders)(), atenant_scope("globex")(orders)()
    seen = [(await anext(ours), await anext(theirs)) for _ in range(8)]
    await ours.aclose()
    await theirs.aclose()
    assert seen == [("acme", "none"), ("none", "globex")] * 4


@on_the_loop
async def test_an_async_generator_closed_elsewhere_leaves_no_tenant_behind(
    aplace: Place,
) -> None:
    async def orders() -> AsyncIterator[Any]:
        async with atenant_scope("acme"), AsyncSession(aplace.engine) as session:
            for order in await session.scalars(select(aplace.m.Order)):
                yield order

    async def begin() -> AsyncIterator[Any]:
        rows = orders()
        await anext(rows)
        return rows

    rows = await asyncio.create_task(begin())
    await rows.aclose()
    async with AsyncSession(aplace.engine) as session:
        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            await session.scalars(select(aplace.m.Order))


@on_the_loop
async def test_a_cancelled_task_leaves_no_tenant_behind(aplace: Place) -> None:
    async def wait() -> None:
        async with atenant_scope("acme"), AsyncSession(aplace.engine) as session:
            await session.scalars(select(aplace.m.Order))
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with atenant_scope("globex"), AsyncSession(aplace.engine) as session:
        assert set(await session.scalars(select(aplace.m.Order.tenant_id))) == {"globex"}


@on_the_loop
async def test_both_kinds_of_session_work_side_by_side(aplace: Place) -> None:
    on = {"aiosqlite": "sqlite3", "asyncpg": "psycopg", "asyncmy": "pymysql"}
    beside = oracle(on[aplace.oracle.driver])
    with tenant_scope("globex"):
        async with AsyncSession(aplace.engine) as session:
            with Session(beside.shared.engine) as sync:
                amount = select(func.max(aplace.m.Order.amount))
                assert await session.scalar(amount) == sync.scalar(amount) == 99999
