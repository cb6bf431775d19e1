"""factory_boy: factories make rows of the current tenant, and find no others.

Two tenants with the same e-mail addresses; what is stored is read through the plain driver.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, UniqueConstraint, create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)

from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    SessionScope,
    atenant_scope,
    tenant_aware,
    tenant_scope,
    unscoped,
)

factory = pytest.importorskip("factory", reason="factory_boy is missing")

BOTH = ("acme", "globex")


class Base(DeclarativeBase):
    pass


@tenant_aware
class User(Base):
    __tablename__ = "factory_user"
    __table_args__ = (
        UniqueConstraint("tenant_id", "email"),
        UniqueConstraint("tenant_id", "nick"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    email: Mapped[str] = mapped_column(String(40))
    nick: Mapped[str] = mapped_column(String(40))
    passport: Mapped[str | None] = mapped_column(String(40), unique=True)
    orders: Mapped[list[Order]] = relationship(back_populates="user")


@tenant_aware
class Order(Base):
    __tablename__ = "factory_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    title: Mapped[str] = mapped_column(String(40))
    user: Mapped[User] = relationship(back_populates="orders")


@tenant_aware(through="order")
class Line(Base):
    __tablename__ = "factory_line"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id))
    product: Mapped[str] = mapped_column(String(40))
    order: Mapped[Order] = relationship()


registry = scoped_session(sessionmaker())


class UserFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = User
        sqlalchemy_session = registry

    email = factory.Sequence(lambda n: f"user{n}@example.com")
    nick = factory.LazyAttribute(lambda user: user.email.partition("@")[0])


class CommittedUserFactory(UserFactory):
    class Meta:
        sqlalchemy_session_persistence = "commit"


class KnownUserFactory(UserFactory):
    class Meta:
        sqlalchemy_get_or_create = ("email",)
        sqlalchemy_session_persistence = "flush"


class EitherUserFactory(UserFactory):
    class Meta:
        sqlalchemy_get_or_create = ("email", "nick")
        sqlalchemy_session_persistence = "commit"


class OrderFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = Order
        sqlalchemy_session = registry
        sqlalchemy_session_persistence = "flush"

    title = factory.Sequence(lambda n: f"order {n}")
    user = factory.SubFactory(UserFactory)


class LineFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = Line
        sqlalchemy_session = registry
        sqlalchemy_session_persistence = "commit"

    product = "desk"
    order = factory.SubFactory(OrderFactory)


class BareOrderFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = Order
        sqlalchemy_session = registry
        sqlalchemy_session_persistence = "flush"

    title = "bare"


class CustomerFactory(UserFactory):
    orders = factory.RelatedFactoryList(OrderFactory, factory_related_name="user", size=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "factory.db"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    registry.configure(bind=engine)
    yield engine
    registry.remove()
    engine.dispose()


@pytest.fixture
async def async_engine(path: Path, engine: Engine) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    yield engine
    await engine.dispose()


@pytest.fixture
def stored(path: Path, engine: Engine) -> Any:
    def stored(table: str, columns: str = "tenant_id") -> Counter[Any]:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute(f"SELECT {columns} FROM factory_{table}").fetchall()

        return Counter(row[0] if len(row) == 1 else row for row in found)

    return stored


def test_a_factory_makes_rows_of_the_current_tenant(stored: Any) -> None:
    for tenant in BOTH:
        with tenant_scope(tenant):
            ada = UserFactory(email="ada@example.com")
            UserFactory.create_batch(2)
            registry.commit()

            assert ada.tenant_id == tenant
            assert len(registry.scalars(select(User)).all()) == 3

        registry.remove()

    assert stored("user") == {"acme": 3, "globex": 3}


@pytest.mark.parametrize("persistence", ["commit", "flush", None])
def test_persistence(stored: Any, persistence: str | None) -> None:
    class Persistent(UserFactory):
        class Meta:
            sqlalchemy_session_persistence = persistence

    for tenant in BOTH:
        with tenant_scope(tenant):
            made = Persistent(email="ada@example.com")

            assert (made in registry.new) == (persistence is None)
            assert registry().in_transaction() == (persistence != "commit")
            if persistence is not None:
                assert made.tenant_id == tenant

        registry.remove()

    assert sum(stored("user").values()) == (2 if persistence == "commit" else 0)


@pytest.mark.parametrize(
    "make", [CommittedUserFactory, KnownUserFactory, OrderFactory, LineFactory]
)
def test_without_a_tenant_nothing_is_made(stored: Any, make: Any) -> None:
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        make()

    registry.rollback()
    UserFactory()
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        registry.commit()

    assert not stored("user") + stored("order")


def test_objects_that_are_only_built_need_no_tenant(stored: Any) -> None:
    order = OrderFactory.build(user__email="ada@example.com")
    assert (order.tenant_id, order.user.email) == (None, "ada@example.com")

    with tenant_scope("globex"), registry.begin():
        registry.add(order)

    assert stored("user", "tenant_id, email") == {("globex", "ada@example.com"): 1}


def test_get_or_create_knows_its_own_rows_only(stored: Any) -> None:
    made = {}
    for tenant in BOTH:
        with tenant_scope(tenant):
            made[tenant] = KnownUserFactory(email="ada@example.com", nick=f"ada of {tenant}").id
            again = KnownUserFactory(email="ada@example.com", nick="never stored")
            registry.commit()

            assert (again.id, again.nick) == (made[tenant], f"ada of {tenant}")

        registry.remove()

    assert made["acme"] != made["globex"]
    assert stored("user", "tenant_id, nick") == {(t, f"ada of {t}"): 1 for t in BOTH}


def test_get_or_create_after_an_integrity_error(stored: Any) -> None:
    """With another nick the row is not found, made, refused by the database, and found by e-mail."""
    for tenant in BOTH:
        with tenant_scope(tenant):
            first = EitherUserFactory(email="ada@example.com", nick="ada")
            assert EitherUserFactory(email="ada@example.com").id == first.id

        registry.remove()

    assert stored("user") == {"acme": 1, "globex": 1}


def test_get_or_create_never_finds_the_row_that_a_global_key_collides_with(stored: Any) -> None:
    with tenant_scope("globex"):
        EitherUserFactory(email="ada@example.com", passport="P1")

    registry.remove()
    with tenant_scope("acme"), pytest.raises(IntegrityError, match="passport"):
        EitherUserFactory(email="ada@example.com", passport="P1")

    assert stored("user") == {"globex": 1}


def test_sub_factories_and_related_factories(stored: Any) -> None:
    for tenant in BOTH:
        with tenant_scope(tenant):
            line = LineFactory(order__user__email="ada@example.com")
            customer = CustomerFactory(email="bob@example.com")
            registry.commit()

            assert line.order.user.tenant_id == tenant
            assert [order.tenant_id for order in customer.orders] == [tenant] * 3
            assert registry.scalars(select(Line.product)).all() == ["desk"]

        registry.remove()

    assert stored("user", "tenant_id, email") == {
        (tenant, email): 1 for tenant in BOTH for email in ("ada@example.com", "bob@example.com")
    }
    assert stored("order") == {"acme": 4, "globex": 4}
    assert stored("line", "product") == {"desk": 2}


def test_a_session_is_not_shared_by_two_tenants(stored: Any) -> None:
    with tenant_scope("acme"):
        kept = CommittedUserFactory(email="ada@example.com")
        assert kept.tenant_id == "acme"

    with tenant_scope("globex"):
        for make in (UserFactory, KnownUserFactory, OrderFactory, LineFactory):
            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                make()

    assert stored("user") == {"acme": 1}
    registry.remove()
    with tenant_scope("globex"):
        CommittedUserFactory(email="ada@example.com")

    assert stored("user") == {"acme": 1, "globex": 1}


def test_a_session_factory_gives_each_tenant_its_own(stored: Any, engine: Engine) -> None:
    current: list[Session] = []

    class Own(UserFactory):
        class Meta:
            sqlalchemy_session = None
            sqlalchemy_session_factory = lambda: current[-1]
            sqlalchemy_get_or_create = ("email",)

    for tenant in (*BOTH, *BOTH):
        with SessionScope(tenant, sessions=sessionmaker(engine)) as session:
            current.append(session)
            Own(email="ada@example.com")
            Own(email="bob@example.com")

    assert stored("user") == {"acme": 2, "globex": 2}


def test_a_foreign_tenant_or_parent_is_refused(stored: Any) -> None:
    with tenant_scope("globex"):
        foreign = CommittedUserFactory(email="ada@example.com")
        key = foreign.id

    registry.remove()
    with tenant_scope("acme"):
        with pytest.raises(CrossTenantAccessError, match="belongs to tenant 'globex'"):
            UserFactory(tenant_id="globex")

        registry.rollback()
        with pytest.raises(CrossTenantAccessError, match="belongs to tenant 'globex'"):
            OrderFactory(user=foreign)

        registry.rollback()
        with pytest.raises(CrossTenantReferenceError, match="factory_user"):
            BareOrderFactory(user_id=key)

        registry.rollback()

    assert stored("user") == {"globex": 1}
    assert not stored("order")


def test_unscoped_one_session_makes_rows_of_every_tenant(stored: Any) -> None:
    with unscoped("a fixture for the whole suite", write=True):
        for tenant in BOTH:
            CommittedUserFactory(tenant_id=tenant, email="ada@example.com")

        with pytest.raises(MissingTenantContextError, match="This User has no tenant"):
            CommittedUserFactory(email="bob@example.com")

    assert stored("user") == {"acme": 1, "globex": 1}


async def test_an_async_session_runs_factories_in_run_sync(
    stored: Any, async_engine: AsyncEngine
) -> None:
    class Own(KnownUserFactory):
        pass

    def make(session: Session) -> list[str]:
        Own._meta.sqlalchemy_session = session
        Own.create_batch(2, email="ada@example.com")
        return list(session.scalars(select(User.tenant_id)))

    for tenant in BOTH:
        async with atenant_scope(tenant), AsyncSession(async_engine) as session:
            assert await session.run_sync(make) == [tenant]
            await session.commit()

    async with AsyncSession(async_engine) as session:
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            await session.run_sync(make)

    assert stored("user") == {"acme": 1, "globex": 1}
