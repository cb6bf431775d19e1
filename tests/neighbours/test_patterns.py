"""The patterns that every application on SQLAlchemy uses, sync and async: lines B1 to B21.

Two tenants with the same e-mail addresses and account numbers; some rows of globex point at rows of
acme. What is stored is read through the plain driver, where the wall cannot be.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import (
    ForeignKey,
    String,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    sessionmaker,
    subqueryload,
)

import databases
from partywall import (
    AsyncSessionScope,
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    SessionScope,
    UnscopedStatementError,
    atenant_scope,
    tenant_aware,
    tenant_scope,
    tenant_text,
    try_current_tenant,
)

EMAILS = ["ada@example.com", "bob@example.com", "cyd@example.com"]
SYNC = {"sqlite": "sqlite3", "postgresql": "psycopg"}
ASYNC = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}


class Base(DeclarativeBase):
    pass


@tenant_aware
class User(Base):
    __tablename__ = "pattern_user"
    __table_args__ = (UniqueConstraint("tenant_id", "email"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    email: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(40))
    orders: Mapped[list[Order]] = relationship(back_populates="user", order_by="Order.id")


@tenant_aware
class Account(Base):
    __tablename__ = "pattern_account"
    __table_args__ = (UniqueConstraint("tenant_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    number: Mapped[str] = mapped_column(String(40))
    balance: Mapped[int]


@tenant_aware
class Order(Base):
    __tablename__ = "pattern_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    user_id: Mapped[int] = mapped_column(ForeignKey("pattern_user.id"))
    title: Mapped[str] = mapped_column(String(40))
    user: Mapped[User] = relationship(back_populates="orders")
    lines: Mapped[list[Line]] = relationship(back_populates="order", order_by="Line.id")


@tenant_aware(through="order")
class Line(Base):
    __tablename__ = "pattern_line"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("pattern_order.id"))
    product: Mapped[str] = mapped_column(String(40))
    order: Mapped[Order] = relationship(back_populates="lines")


def rows() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """acme's ids are odd and globex's are even, as far as both have the same rows."""
    both = ("acme", "globex")
    for place, email in enumerate(EMAILS):
        for owner, tenant in enumerate(both, 1):
            name = email.partition("@")[0]
            yield "user", (2 * place + owner, tenant, email, f"{name} of {tenant}")

    for place, number in enumerate(["A-1", "A-2"]):
        for owner, tenant in enumerate(both, 1):
            yield "account", (2 * place + owner, tenant, number, 100 * owner)

    for place in range(4):
        for owner, tenant in enumerate(both, 1):
            order = 2 * place + owner
            user = 2 * (place // 2) + owner
            yield "order", (order, tenant, user, f"order {place} of {tenant}")
            for line in range(2):
                product = f"product {line} of {tenant}"
                yield "line", (4 * place + 2 * line + owner, order, product)

    # globex's orders at acme's user, and their lines.
    yield "order", (10, "globex", 1, "spy of globex")
    yield "line", (20, 10, "spy of globex")


class Place:
    """One database with the tables above, and its engines."""

    def __init__(self, server: str) -> None:
        self.server = databases.server(server)
        self.kind = server
        self.name = f"partywall_{os.getpid()}_patterns"
        self.server.create(self.name)
        databases._created[server].append(self.name)
        engine = self.engine()
        Base.metadata.create_all(engine)
        engine.dispose()

    def engine(self, **options: Any) -> Any:
        return self._engine(create_engine, SYNC, options)

    def async_engine(self, **options: Any) -> AsyncEngine:
        engine: AsyncEngine = self._engine(create_async_engine, ASYNC, options)
        return engine

    def _engine(self, make: Any, drivers: dict[str, str], options: Any) -> Any:
        driver = databases.DRIVERS[drivers[self.kind]][1]
        engine = make(self.server.url(driver, self.name), **options)
        if self.kind == "sqlite":
            databases._with_real_transactions(engine)

        return engine

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect(self.name)) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)

            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def fill(self) -> None:
        tables = [f"pattern_{name}" for name in ("line", "order", "account", "user")]
        values = ", ".join
        self.execute(
            *(f"DELETE FROM {table}" for table in tables),
            *(
                f"INSERT INTO pattern_{name} VALUES ({values(map(repr, row))})"
                for name, row in rows()
            ),
            *(
                f"SELECT setval('{table}_id_seq', 100)"
                for table in tables
                if self.kind == "postgresql"
            ),
        )

    def stored(self, table: str, columns: str = "tenant_id") -> Counter[Any]:
        found = self.execute(f"SELECT {columns} FROM pattern_{table}")
        return Counter(row[0] if len(row) == 1 else row for row in found)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Place:
    return Place(request.param)


@pytest.fixture
def place(database: Place) -> Iterator[Place]:
    database.fill()
    yield database
    assert try_current_tenant() is None


@pytest.fixture
def engine(place: Place) -> Iterator[Any]:
    engine = place.engine()
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(place: Place) -> AsyncIterator[AsyncEngine]:
    engine = place.async_engine()
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: Any) -> Any:
    return sessionmaker(engine)


@pytest.fixture
def async_sessions(async_engine: AsyncEngine) -> Any:
    return async_sessionmaker(async_engine)


# B1

POOLS = [
    {"pool_size": 1, "max_overflow": 0},
    {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": True},
    {"pool_size": 1, "max_overflow": 2, "pool_pre_ping": True, "pool_recycle": 0},
    {"pool_size": 1, "max_overflow": 0, "pool_recycle": 3600},
]


@pytest.mark.parametrize("options", POOLS)
def test_a_pooled_connection_keeps_no_tenant(place: Place, options: Any) -> None:
    """B1"""
    engine = place.engine(**options)
    used = []
    event.listen(engine, "checkout", lambda _, record, __: used.append(record))
    for tenant in ["acme", "globex", "acme"]:
        with tenant_scope(tenant), Session(engine) as session:
            assert {user.tenant_id for user in session.scalars(select(User))} == {tenant}

        assert not used[-1].info and not used[-1].record_info
        with (
            Session(engine) as session,
            pytest.raises(MissingTenantContextError, match="No tenant"),
        ):
            session.scalars(select(User)).all()

    assert len(set(used)) == 1
    engine.dispose()


@pytest.mark.parametrize("options", POOLS)
async def test_a_pooled_async_connection_keeps_no_tenant(place: Place, options: Any) -> None:
    """B1"""
    engine = place.async_engine(**options)
    used = []
    event.listen(engine.sync_engine, "checkout", lambda _, record, __: used.append(record))
    for tenant in ["acme", "globex", "acme"]:
        async with atenant_scope(tenant), AsyncSession(engine) as session:
            assert {user.tenant_id for user in await session.scalars(select(User))} == {tenant}

        assert not used[-1].info and not used[-1].record_info
        async with AsyncSession(engine) as session:
            with pytest.raises(MissingTenantContextError, match="No tenant"):
                await session.scalars(select(User))

    assert len(set(used)) == 1
    await engine.dispose()


async def test_tasks_of_two_tenants_share_a_small_pool(place: Place) -> None:
    """B1"""
    engine = place.async_engine(pool_size=2, max_overflow=1, pool_pre_ping=True)

    async def names(tenant: str) -> set[str]:
        async with AsyncSessionScope(tenant, sessions=async_sessionmaker(engine)) as session:
            await session.execute(update(User).values(name=f"named by {tenant}"))
            return set(await session.scalars(select(User.name)))

    found = await asyncio.gather(*(names(tenant) for tenant in ["acme", "globex"] * 8))

    assert found == [{"named by acme"}, {"named by globex"}] * 8
    assert place.stored("user", "tenant_id, name") == {
        ("acme", "named by acme"): 3,
        ("globex", "named by globex"): 3,
    }
    await engine.dispose()


# B2


def test_what_is_kept_after_commit_stays_the_tenants(engine: Any) -> None:
    """B2"""
    with Session(engine, expire_on_commit=False) as session:
        with tenant_scope("acme"):
            user = session.get(User, 1)
            session.commit()

        assert (user.tenant_id, user.name) == ("acme", "ada of acme")
        with tenant_scope("globex"):
            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                session.get(User, 1)

            with Session(engine) as other:
                other.merge(user)
                with pytest.raises(CrossTenantAccessError, match="'acme'"):
                    other.flush()

            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                session.refresh(user)


async def test_what_is_kept_after_an_async_commit_stays_the_tenants(
    async_engine: AsyncEngine,
) -> None:
    """B2"""
    async with AsyncSession(async_engine, expire_on_commit=False) as session:
        async with atenant_scope("acme"):
            user = await session.get(User, 1)
            await session.commit()

        assert (user.tenant_id, user.name) == ("acme", "ada of acme")
        async with atenant_scope("globex"):
            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                await session.get(User, 1)

            async with AsyncSession(async_engine) as other:
                await other.merge(user)
                with pytest.raises(CrossTenantAccessError, match="'acme'"):
                    await other.flush()

            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                await session.refresh(user)


# B3


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_a_factory_as_context_manager(sessions: Any, tenant: str) -> None:
    """B3"""
    with tenant_scope(tenant), sessions() as session:
        users = session.scalars(select(User).order_by(User.email)).all()

    assert [(user.email, user.tenant_id) for user in users] == [(email, tenant) for email in EMAILS]


@pytest.mark.parametrize("tenant", ["acme", "globex"])
async def test_an_async_factory_as_context_manager(async_sessions: Any, tenant: str) -> None:
    """B3"""
    async with atenant_scope(tenant), async_sessions() as session:
        users = (await session.scalars(select(User).order_by(User.email))).all()

    assert [(user.email, user.tenant_id) for user in users] == [(email, tenant) for email in EMAILS]


# B5: accounts 1 and 3 are acme's, 2 and 4 are globex's.


def _moved(giver: Any, taker: Any, amount: int) -> None:
    if giver is None or taker is None:
        raise LookupError("no such account")

    giver.balance -= amount
    taker.balance += amount


def test_a_transfer_stays_between_the_tenants_accounts(place: Place, sessions: Any) -> None:
    """B5"""
    with tenant_scope("acme"):
        with sessions() as session, session.begin():
            _moved(session.get(Account, 1), session.get(Account, 3), 30)

        for giver, taker in [(1, 2), (2, 1), (2, 4)]:
            with pytest.raises(LookupError, match="no such account"), sessions.begin() as session:
                _moved(session.get(Account, giver), session.get(Account, taker), 50)

    assert place.stored("account", "id, balance") == Counter(
        [(1, 70), (2, 200), (3, 130), (4, 200)]
    )


async def test_an_async_transfer_stays_between_the_tenants_accounts(
    place: Place, async_sessions: Any
) -> None:
    """B5"""
    async with atenant_scope("acme"):
        async with async_sessions() as session, session.begin():
            _moved(await session.get(Account, 1), await session.get(Account, 3), 30)

        for giver, taker in [(1, 2), (2, 1), (2, 4)]:
            with pytest.raises(LookupError, match="no such account"):
                async with async_sessions.begin() as session:
                    _moved(await session.get(Account, giver), await session.get(Account, taker), 50)

    assert place.stored("account", "id, balance") == Counter(
        [(1, 70), (2, 200), (3, 130), (4, 200)]
    )


def test_a_forged_account_is_out_of_reach(place: Place, sessions: Any) -> None:
    """B5: an object that claims to be stored and the tenant's, under a foreign id."""
    with tenant_scope("acme"), sessions() as session:
        forged = Account(id=2, tenant_id="acme", number="A-1", balance=0)
        with pytest.raises(Exception, match="Duplicate|UNIQUE|duplicate|unique"), session.begin():
            session.merge(forged)

    assert place.stored("account", "id, tenant_id")[2, "globex"] == 1
    assert sum(place.stored("account").values()) == 4


# B6


def _foreign_object(session: Session) -> None:
    session.add(User(tenant_id="globex", email="new@example.com", name="new"))


def _foreign_reference(session: Session) -> None:
    session.add(Order(user_id=2, title="new"))
    session.flush()


def _foreign_value(session: Session) -> None:
    session.execute(update(User).values(tenant_id="globex"))


def _foreign_text(session: Session) -> None:
    session.execute(text("DELETE FROM pattern_user"))


REFUSED = [
    (_foreign_object, CrossTenantAccessError, "belongs to tenant 'globex'"),
    (_foreign_reference, CrossTenantReferenceError, "pattern_user"),
    (_foreign_value, CrossTenantAccessError, "'globex'"),
    (_foreign_text, UnscopedStatementError, "pattern_user"),
]


@pytest.mark.parametrize(("work", "error", "message"), REFUSED)
def test_a_refusal_in_a_savepoint_leaves_the_transaction_usable(
    place: Place, sessions: Any, work: Any, error: Any, message: str
) -> None:
    """B6"""
    with tenant_scope("acme"), sessions.begin() as session:
        session.add(User(email="before@example.com", name="before"))
        with pytest.raises(error, match=message), session.begin_nested():
            session.add(User(email="within@example.com", name="within"))
            session.flush()
            work(session)

        session.add(User(email="after@example.com", name="after"))

    added = place.stored("user", "tenant_id, name") - Counter(
        row[1][1::2] for row in rows() if row[0] == "user"
    )
    assert added == Counter([("acme", "before"), ("acme", "after")])


@pytest.mark.parametrize(("work", "error", "message"), REFUSED)
async def test_a_refusal_in_an_async_savepoint_leaves_the_transaction_usable(
    place: Place, async_sessions: Any, work: Any, error: Any, message: str
) -> None:
    """B6"""
    async with atenant_scope("acme"), async_sessions.begin() as session:
        session.add(User(email="before@example.com", name="before"))
        with pytest.raises(error, match=message):
            async with session.begin_nested():
                session.add(User(email="within@example.com", name="within"))
                await session.flush()
                await session.run_sync(work)

        session.add(User(email="after@example.com", name="after"))

    added = place.stored("user", "tenant_id, name") - Counter(
        row[1][1::2] for row in rows() if row[0] == "user"
    )
    assert added == Counter([("acme", "before"), ("acme", "after")])


# B7


def _refused_without_a_greenlet(read: Any) -> None:
    # SQLAlchemy 2.1 wraps it for aiosqlite, with partywall and without.
    with pytest.raises((MissingGreenlet, StatementError), match="greenlet_spawn has not") as caught:
        read()

    assert isinstance(getattr(caught.value, "orig", caught.value), MissingGreenlet)


async def test_a_lazy_load_is_a_missing_greenlet_and_nothing_else(async_sessions: Any) -> None:
    """B7"""
    async with async_sessions() as session:
        async with atenant_scope("acme"):
            user = await session.get(User, 1)
            _refused_without_a_greenlet(lambda: user.orders)

            order = await session.get(Order, 1)
            session.expire(order)
            _refused_without_a_greenlet(lambda: order.title)

            assert await session.run_sync(lambda _: [o.title for o in user.orders]) == [
                "order 0 of acme",
                "order 1 of acme",
            ]

        async with atenant_scope("globex"):
            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                await session.run_sync(lambda _: user.orders[0].lines)


def test_a_sync_lazy_load_brings_the_tenants_rows(sessions: Any) -> None:
    """B7"""
    with tenant_scope("acme"), sessions() as session:
        user = session.get(User, 1)

        assert [order.title for order in user.orders] == ["order 0 of acme", "order 1 of acme"]


# B8

LOADERS = {"selectin": selectinload, "joined": joinedload, "subquery": subqueryload}
CHAINS = [(first, second) for first in LOADERS for second in LOADERS]


def _tree(users: Any) -> Any:
    return {
        (user.name, order.title, line.product)
        for user in users
        for order in user.orders
        for line in order.lines
    }


def _own_tree(tenant: str) -> Any:
    user_of = {0: "ada", 1: "ada", 2: "bob", 3: "bob"}
    return {
        (f"{name} of {tenant}", f"order {place} of {tenant}", f"product {line} of {tenant}")
        for place, name in user_of.items()
        for line in range(2)
    }


@pytest.mark.parametrize("tenant", ["acme", "globex"])
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_chained_loaders_are_filtered_at_every_level(
    sessions: Any, chain: tuple[str, str], tenant: str
) -> None:
    """B8: globex's order at acme's user, and its line, are not among acme's."""
    first, second = (LOADERS[name] for name in chain)
    option = getattr(first(User.orders), f"{second.__name__}")(Order.lines)
    with tenant_scope(tenant), sessions() as session:
        users = session.scalars(select(User).options(option)).unique().all()

    assert _tree(users) == _own_tree(tenant)


@pytest.mark.parametrize("tenant", ["acme", "globex"])
@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
async def test_chained_async_loaders_are_filtered_at_every_level(
    async_sessions: Any, chain: tuple[str, str], tenant: str
) -> None:
    """B8"""
    first, second = (LOADERS[name] for name in chain)
    option = getattr(first(User.orders), f"{second.__name__}")(Order.lines)
    async with atenant_scope(tenant), async_sessions() as session:
        users = (await session.scalars(select(User).options(option))).unique().all()

    assert _tree(users) == _own_tree(tenant)


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_loaded_parent_is_the_tenants_or_none(sessions: Any, loader: Any) -> None:
    """B8: the spy order's user is acme's."""
    with tenant_scope("globex"), sessions() as session:
        spy = session.scalars(select(Order).where(Order.id == 10).options(loader(Order.user))).one()

        assert spy.user is None


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
async def test_an_async_loaded_parent_is_the_tenants_or_none(
    async_sessions: Any, loader: Any
) -> None:
    """B8"""
    async with atenant_scope("globex"), async_sessions() as session:
        found = await session.scalars(
            select(Order).where(Order.id == 10).options(loader(Order.user))
        )

        assert found.one().user is None


# B10

NEW = [{"email": f"new{place}@example.com", "name": "new"} for place in range(3)]


def _values(rows: Any) -> tuple[Any, ...]:
    return (insert(User).values(rows),)


def _executemany(rows: Any) -> tuple[Any, ...]:
    return insert(User), rows


@pytest.mark.parametrize("spelled", [_values, _executemany])
def test_inserted_rows_are_stamped(place: Place, sessions: Any, spelled: Any) -> None:
    """B10"""
    stating_it = [{**row, "tenant_id": "globex"} for row in NEW]
    with tenant_scope("acme"), sessions.begin() as session:
        session.execute(*spelled(NEW))

    with tenant_scope("globex"), sessions.begin() as session:
        session.execute(*spelled(stating_it))

    assert place.stored("user") == {"acme": 6, "globex": 6}


@pytest.mark.parametrize("spelled", [_values, _executemany])
async def test_async_inserted_rows_are_stamped(
    place: Place, async_sessions: Any, spelled: Any
) -> None:
    """B10"""
    stating_it = [{**row, "tenant_id": "globex"} for row in NEW]
    async with atenant_scope("acme"), async_sessions.begin() as session:
        await session.execute(*spelled(NEW))

    async with atenant_scope("globex"), async_sessions.begin() as session:
        await session.execute(*spelled(stating_it))

    assert place.stored("user") == {"acme": 6, "globex": 6}


def _all_stating(tenant: str) -> Any:
    rows = [{**row, "tenant_id": "acme"} for row in NEW]
    return [*rows[:2], {**rows[2], "tenant_id": tenant}]


@pytest.mark.parametrize("spelled", [_values, _executemany])
def test_every_inserted_row_is_checked(place: Place, sessions: Any, spelled: Any) -> None:
    """B10"""
    refused = pytest.raises(CrossTenantAccessError, match="'globex'")
    with tenant_scope("acme"), sessions.begin() as session, refused:
        session.execute(*spelled(_all_stating("globex")))

    assert place.stored("user") == {"acme": 3, "globex": 3}


@pytest.mark.parametrize("spelled", [_values, _executemany])
async def test_every_async_inserted_row_is_checked(
    place: Place, async_sessions: Any, spelled: Any
) -> None:
    """B10"""
    async with atenant_scope("acme"), async_sessions.begin() as session:
        with pytest.raises(CrossTenantAccessError, match="'globex'"):
            await session.execute(*spelled(_all_stating("globex")))

    assert place.stored("user") == {"acme": 3, "globex": 3}


# B11


def test_a_bulk_update_changes_the_tenants_rows(place: Place, sessions: Any) -> None:
    """B11"""
    with tenant_scope("acme"), sessions.begin() as session:
        changed = session.execute(update(Account).values(balance=Account.balance + 1))
        by_key = session.execute(update(User).where(User.id.in_([1, 2, 4])).values(name="new"))

        assert (changed.rowcount, by_key.rowcount) == (2, 1)

    assert place.stored("account", "id, balance") == Counter(
        [(1, 101), (2, 200), (3, 101), (4, 200)]
    )
    assert place.stored("user", "id, name")[1, "new"] == 1
    assert sum(name == "new" for _, name in place.stored("user", "id, name")) == 1


async def test_an_async_bulk_update_changes_the_tenants_rows(
    place: Place, async_sessions: Any
) -> None:
    """B11"""
    async with atenant_scope("acme"), async_sessions.begin() as session:
        changed = await session.execute(update(Account).values(balance=Account.balance + 1))
        by_key = await session.execute(
            update(User).where(User.id.in_([1, 2, 4])).values(name="new")
        )

        assert (changed.rowcount, by_key.rowcount) == (2, 1)

    assert place.stored("account", "id, balance") == Counter(
        [(1, 101), (2, 200), (3, 101), (4, 200)]
    )
    assert sum(name == "new" for _, name in place.stored("user", "id, name")) == 1


MOVES = [
    (update(User).values(tenant_id="globex"), None),
    (update(User).values({User.tenant_id: "globex"}), None),
    (update(User).ordered_values(("name", "x"), ("tenant_id", "globex")), None),
    (update(User), [{"id": 1, "tenant_id": "globex"}]),
]


@pytest.mark.parametrize(("statement", "parameters"), MOVES)
def test_a_bulk_update_moves_no_row(
    place: Place, sessions: Any, statement: Any, parameters: Any
) -> None:
    """B11"""
    refused = pytest.raises(CrossTenantAccessError, match="'globex'")
    with tenant_scope("acme"), sessions.begin() as session, refused:
        session.execute(statement, parameters)

    assert place.stored("user") == {"acme": 3, "globex": 3}


@pytest.mark.parametrize(("statement", "parameters"), MOVES)
async def test_an_async_bulk_update_moves_no_row(
    place: Place, async_sessions: Any, statement: Any, parameters: Any
) -> None:
    """B11"""
    async with atenant_scope("acme"), async_sessions.begin() as session:
        with pytest.raises(CrossTenantAccessError, match="'globex'"):
            await session.execute(statement, parameters)

    assert place.stored("user") == {"acme": 3, "globex": 3}


# B12


def test_a_bulk_delete_removes_the_tenants_rows(place: Place, sessions: Any) -> None:
    """B12"""
    with tenant_scope("acme"), sessions.begin() as session:
        lines = session.execute(delete(Line))
        one = session.execute(delete(Account).where(Account.number == "A-1"))
        none = session.execute(delete(Account).where(Account.id == 2))

        assert (lines.rowcount, one.rowcount, none.rowcount) == (8, 1, 0)

    assert place.stored("account", "id") == Counter([2, 3, 4])
    assert place.stored("line", "product") == {
        "product 0 of globex": 4,
        "product 1 of globex": 4,
        "spy of globex": 1,
    }


async def test_an_async_bulk_delete_removes_the_tenants_rows(
    place: Place, async_sessions: Any
) -> None:
    """B12"""
    async with atenant_scope("acme"), async_sessions.begin() as session:
        lines = await session.execute(delete(Line))
        one = await session.execute(delete(Account).where(Account.number == "A-1"))
        none = await session.execute(delete(Account).where(Account.id == 2))

        assert (lines.rowcount, one.rowcount, none.rowcount) == (8, 1, 0)

    assert place.stored("account", "id") == Counter([2, 3, 4])
    assert place.stored("line", "product") == {
        "product 0 of globex": 4,
        "product 1 of globex": 4,
        "spy of globex": 1,
    }


# B13


def _chunk(after: int) -> Any:
    return select(Line).where(Line.id > after).order_by(Line.id).limit(3)


def test_chunks_with_a_commit_each_hold_no_foreign_row(place: Place, sessions: Any) -> None:
    """B13"""
    chunks = []
    with tenant_scope("acme"), sessions() as session:
        last = 0
        while chunk := session.scalars(_chunk(last)).all():
            chunks.append([line.product for line in chunk])
            for line in chunk:
                line.product = "done"

            last = chunk[-1].id
            session.commit()

    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert all(product.endswith("of acme") for chunk in chunks for product in chunk)
    assert place.stored("line", "product")["done"] == 8
    assert sum(place.stored("line", "id").values()) == 17


async def test_async_chunks_with_a_commit_each_hold_no_foreign_row(
    place: Place, async_sessions: Any
) -> None:
    """B13"""
    chunks = []
    async with atenant_scope("acme"), async_sessions() as session:
        last = 0
        while chunk := (await session.scalars(_chunk(last))).all():
            chunks.append([line.product for line in chunk])
            last = chunk[-1].id
            for line in chunk:
                line.product = "done"

            await session.commit()

    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert all(product.endswith("of acme") for chunk in chunks for product in chunk)
    assert place.stored("line", "product")["done"] == 8
    assert sum(place.stored("line", "id").values()) == 17


# B14 and B15

IN_ORDER = select(Line).order_by(Line.id)


def _products(tenant: str) -> list[str]:
    own = [row[1][2] for row in rows() if row[0] == "line" and row[1][2].endswith(tenant)]
    return own


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_yield_per_brings_the_tenants_rows(sessions: Any, tenant: str) -> None:
    """B14"""
    with tenant_scope(tenant), sessions() as session:
        found = [line.product for line in session.scalars(IN_ORDER.execution_options(yield_per=3))]

    assert found == _products(tenant)


@pytest.mark.parametrize("tenant", ["acme", "globex"])
async def test_a_stream_brings_the_tenants_rows(async_sessions: Any, tenant: str) -> None:
    """B14"""
    async with atenant_scope(tenant), async_sessions() as session:
        result = await session.stream(IN_ORDER.execution_options(yield_per=3))
        found = [line.product async for line in result.scalars()]

    assert found == _products(tenant)


async def test_streams_of_two_tenants_interleave(async_sessions: Any) -> None:
    """B14"""

    async def products(tenant: str) -> list[str]:
        found = []
        async with atenant_scope(tenant), async_sessions() as session:
            async for line in await session.stream_scalars(IN_ORDER.execution_options(yield_per=1)):
                found.append(line.product)
                await asyncio.sleep(0)

        return found

    assert await asyncio.gather(products("acme"), products("globex")) == [
        _products("acme"),
        _products("globex"),
    ]


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_partitions_hold_the_tenants_rows(sessions: Any, tenant: str, size: int) -> None:
    """B15"""
    with tenant_scope(tenant), sessions() as session:
        parts = [
            [line.product for line in part]
            for part in session.scalars(IN_ORDER.execution_options(yield_per=2)).partitions(size)
        ]

    assert [product for part in parts for product in part] == _products(tenant)
    assert max(map(len, parts)) <= size


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("tenant", ["acme", "globex"])
async def test_async_partitions_hold_the_tenants_rows(
    async_sessions: Any, tenant: str, size: int
) -> None:
    """B15"""
    async with atenant_scope(tenant), async_sessions() as session:
        result = await session.stream(IN_ORDER)
        parts = [[row.Line.product for row in part] async for part in result.partitions(size)]

    assert [product for part in parts for product in part] == _products(tenant)
    assert max(map(len, parts)) <= size


# B16 and B17

RAW = "SELECT id, name FROM pattern_user WHERE email = :email"
RAW_INSERT = "INSERT INTO pattern_user (tenant_id, email, name) VALUES ('globex', :email, 'new')"
OWN = tenant_text("SELECT id, name FROM pattern_user WHERE tenant_id = :tenant AND email = :email")
OWN_INSERT = tenant_text(
    "INSERT INTO pattern_user (tenant_id, email, name) VALUES (:tenant, :email, :name)"
)
ADA = {"email": "ada@example.com"}


def test_a_raw_select_is_refused_and_tenant_text_works(sessions: Any) -> None:
    """B16"""
    for tenant, key in [("acme", 1), ("globex", 2)]:
        with tenant_scope(tenant), sessions() as session:
            with pytest.raises(UnscopedStatementError, match="pattern_user"):
                session.execute(text(RAW), ADA)

            (row,) = session.execute(OWN, ADA).all()
            assert (row.id, row.name) == (key, f"ada of {tenant}")


async def test_an_async_raw_select_is_refused_and_tenant_text_works(async_sessions: Any) -> None:
    """B16"""
    for tenant, key in [("acme", 1), ("globex", 2)]:
        async with atenant_scope(tenant), async_sessions() as session:
            with pytest.raises(UnscopedStatementError, match="pattern_user"):
                await session.execute(text(RAW), ADA)

            (row,) = (await session.execute(OWN, ADA)).all()
            assert (row.id, row.name) == (key, f"ada of {tenant}")


def test_a_raw_insert_is_refused_and_tenant_text_works(place: Place, sessions: Any) -> None:
    """B17"""
    for tenant in ["acme", "globex"]:
        with tenant_scope(tenant), sessions.begin() as session:
            with pytest.raises(UnscopedStatementError, match="pattern_user"):
                session.execute(text(RAW_INSERT), NEW[0])

            session.execute(OWN_INSERT, NEW)

    assert place.stored("user") == {"acme": 6, "globex": 6}


async def test_an_async_raw_insert_is_refused_and_tenant_text_works(
    place: Place, async_sessions: Any
) -> None:
    """B17"""
    for tenant in ["acme", "globex"]:
        async with atenant_scope(tenant), async_sessions.begin() as session:
            with pytest.raises(UnscopedStatementError, match="pattern_user"):
                await session.execute(text(RAW_INSERT), NEW[0])

            await session.execute(OWN_INSERT, NEW)

    assert place.stored("user") == {"acme": 6, "globex": 6}


# B18


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lasting_engine() -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    yield engine
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)

    await engine.dispose()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("turn", [1, 2])
async def test_a_session_scoped_engine_serves_two_tenants(
    lasting_engine: AsyncEngine, turn: int
) -> None:
    """B18: the same engine in two tests; the second finds what the first has stored."""
    sessions = async_sessionmaker(lasting_engine)
    for tenant in ["acme", "globex"]:
        async with AsyncSessionScope(tenant, sessions=sessions) as session:
            session.add(User(email=f"{turn}@example.com", name=tenant))

    async with AsyncSessionScope("acme", sessions=sessions) as session:
        assert (await session.scalars(select(User.name))).all() == ["acme"] * turn


@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_definitions_are_never_blocked(
    place: Place, async_engine: AsyncEngine, tenant: str | None
) -> None:
    """B18"""
    async with AsyncSessionScope(tenant), async_engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        assert not await connection.run_sync(lambda sync: inspect(sync).has_table("pattern_user"))
        await connection.run_sync(Base.metadata.create_all)

    assert sum(place.stored("user").values()) == 0
    async with atenant_scope("globex"), AsyncSession(async_engine) as session, session.begin():
        session.add(User(**NEW[0]))

    assert place.stored("user") == {"globex": 1}


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_sync_definitions_are_never_blocked(place: Place, engine: Any, tenant: str | None) -> None:
    """B18"""
    with SessionScope(tenant):
        Base.metadata.drop_all(engine)
        assert not inspect(engine).has_table("pattern_user")
        Base.metadata.create_all(engine)

    with tenant_scope("globex"), Session(engine) as session, session.begin():
        session.add(User(**NEW[0]))

    assert place.stored("user") == {"globex": 1}


# B19


@pytest.fixture
def rolled_back(engine: Any) -> Iterator[Any]:
    """Sessions in one transaction that is rolled back after the test."""
    with engine.connect() as connection:
        transaction = connection.begin()
        yield lambda: Session(connection, join_transaction_mode="create_savepoint")
        transaction.rollback()


@pytest.fixture
async def async_rolled_back(async_engine: AsyncEngine) -> AsyncIterator[Any]:
    async with async_engine.connect() as connection:
        transaction = await connection.begin()
        yield lambda: AsyncSession(connection, join_transaction_mode="create_savepoint")
        await transaction.rollback()


@pytest.mark.parametrize("turn", [1, 2])
def test_a_rolled_back_session_per_test(place: Place, rolled_back: Any, turn: int) -> None:
    """B19: each turn finds the seed, and each tenant its own, on one connection."""
    for tenant in ["acme", "globex"]:
        with tenant_scope(tenant), rolled_back() as session:
            session.add(User(email="new@example.com", name="new"))
            session.commit()

    for tenant in ["acme", "globex"]:
        with tenant_scope(tenant), rolled_back() as session:
            assert session.scalar(select(func.count()).select_from(User)) == 4
            assert set(session.scalars(select(User.tenant_id))) == {tenant}

    with rolled_back() as session, pytest.raises(MissingTenantContextError, match="No tenant"):
        session.scalars(select(User)).all()

    assert place.stored("user") == {"acme": 3, "globex": 3}


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_rolled_back_async_session_per_test(
    place: Place, async_rolled_back: Any, turn: int
) -> None:
    """B19"""
    for tenant in ["acme", "globex"]:
        async with atenant_scope(tenant), async_rolled_back() as session:
            session.add(User(email="new@example.com", name="new"))
            await session.commit()

    for tenant in ["acme", "globex"]:
        async with atenant_scope(tenant), async_rolled_back() as session:
            assert await session.scalar(select(func.count()).select_from(User)) == 4
            assert set(await session.scalars(select(User.tenant_id))) == {tenant}

    async with async_rolled_back() as session:
        with pytest.raises(MissingTenantContextError, match="No tenant"):
            await session.scalars(select(User))

    assert place.stored("user") == {"acme": 3, "globex": 3}


# B20


def test_a_flush_assigns_the_id_and_the_tenant(sessions: Any) -> None:
    """B20"""
    with tenant_scope("acme"), sessions.begin() as session:
        user = User(**NEW[0])
        session.add(user)
        session.flush()
        key = user.id

        assert (key > 6, user.tenant_id) == (True, "acme")

    with tenant_scope("globex"), sessions() as session:
        assert session.get(User, key) is None


async def test_an_async_flush_assigns_the_id_and_the_tenant(async_sessions: Any) -> None:
    """B20"""
    async with atenant_scope("acme"), async_sessions.begin() as session:
        user = User(**NEW[0])
        session.add(user)
        await session.flush()
        key = user.id

        assert (key > 6, user.tenant_id) == (True, "acme")

    async with atenant_scope("globex"), async_sessions() as session:
        assert await session.get(User, key) is None


# B21: what each way of asking gives acme; of globex's row with the same e-mail there is no trace.

BY_EMAIL = select(User).where(User.email == "ada@example.com")
FOREIGN_ID = select(User).where(User.id == 2)
WITH_ORDERS = BY_EMAIL.options(selectinload(User.orders))


async def _maybe(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


async def _scalar_one_or_none(session: Any) -> Any:
    foreign = (await _maybe(session.execute(FOREIGN_ID))).scalar_one_or_none()
    own = (await _maybe(session.execute(BY_EMAIL))).scalar_one_or_none()
    return foreign, own.name


async def _scalars_all(session: Any) -> Any:
    return [user.name for user in (await _maybe(session.scalars(BY_EMAIL))).all()]


async def _execute_scalars_all(session: Any) -> Any:
    return [user.name for user in (await _maybe(session.execute(BY_EMAIL))).scalars().all()]


async def _stream(session: Any) -> Any:
    if isinstance(session, AsyncSession):
        return [row.User.name async for row in await session.stream(BY_EMAIL)]

    return [row.User.name for row in session.execute(BY_EMAIL, execution_options={"yield_per": 1})]


async def _get(session: Any) -> Any:
    return [await _maybe(session.get(User, 2)), (await _maybe(session.get(User, 1))).name]


async def _commit(session: Any) -> Any:
    user = (await _maybe(session.scalars(BY_EMAIL))).one()
    user.name = "renamed"
    await _maybe(session.commit())
    return [user.name for user in (await _maybe(session.scalars(BY_EMAIL))).all()]


async def _begin(session: Any) -> Any:
    if isinstance(session, AsyncSession):
        async with session.begin():
            await session.execute(update(User).values(name="renamed"))

    else:
        with session.begin():
            session.execute(update(User).values(name="renamed"))

    return (await _maybe(session.scalars(select(User.name)))).all()


async def _options(session: Any) -> Any:
    user = (await _maybe(session.scalars(WITH_ORDERS))).one()
    return [order.title for order in user.orders]


CONTRACT = [
    (_scalar_one_or_none, (None, "ada of acme")),
    (_scalars_all, ["ada of acme"]),
    (_execute_scalars_all, ["ada of acme"]),
    (_stream, ["ada of acme"]),
    (_get, [None, "ada of acme"]),
    (_commit, ["renamed"]),
    (_begin, ["renamed"] * 3),
    (_options, ["order 0 of acme", "order 1 of acme"]),
]


@pytest.mark.parametrize(("ask", "given"), CONTRACT)
@pytest.mark.parametrize("flavour", ["sync", "async"])
async def test_every_way_of_asking_keeps_to_the_tenant(
    place: Place, engine: Any, async_engine: AsyncEngine, flavour: str, ask: Any, given: Any
) -> None:
    """B21"""
    foreign = [row for row in place.stored("user", "tenant_id, id, name") if row[0] == "globex"]
    session: Any = AsyncSession(async_engine) if flavour == "async" else Session(engine)
    with tenant_scope("acme"):
        assert await ask(session) == given

    await _maybe(session.close())
    with pytest.raises(MissingTenantContextError, match="No tenant"):
        await ask(session)

    await _maybe(session.close())
    stored = place.stored("user", "tenant_id, id, name")
    assert sorted(row for row in stored if row[0] == "globex") == sorted(foreign)
