"""SQLAlchemy-Continuum: the history of owned rows is owned, and nothing but the models is marked.

Two tenants with the same invoice numbers, tags and price codes; what is stored is read through the
plain driver. Versioning is on for every session of the process, so each world has a manager and a
registry of its own and turns them off again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    ForeignKey,
    String,
    Table,
    create_engine,
    delete,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    configure_mappers,
    make_transient_to_detached,
    mapped_column,
    relationship,
)
from sqlalchemy.orm.exc import StaleDataError

import databases
from partywall import (
    ConfigurationError,
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    UnscopedStatementError,
    atenant_scope,
    tenant_aware,
    tenant_scope,
    unscoped,
)

continuum = pytest.importorskip("sqlalchemy_continuum", reason="SQLAlchemy-Continuum is missing")

BOTH = ("acme", "globex")
INSERT, UPDATE, DELETE = 0, 1, 2


def build(manager: Any, variant: str) -> SimpleNamespace:
    class Base(DeclarativeBase):
        pass

    if variant in ("owned", "shared"):
        # Continuum takes the class of this name that it finds; without one it makes a global one.
        @tenant_aware(shared=variant == "shared")
        class Transaction(Base, continuum.transaction.TransactionBase):
            __tablename__ = "continuum_transaction"
            __versioning_manager__ = manager
            id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
            tenant_id: Mapped[str] = mapped_column(String(40), nullable=variant == "shared")

    tagged = Table(
        "continuum_tagged",
        Base.metadata,
        Column("invoice_id", ForeignKey("continuum_invoice.id"), primary_key=True),
        Column("tag_id", ForeignKey("continuum_tag.id"), primary_key=True),
        Column("tenant_id", String(40)),
    )

    @tenant_aware
    class Tag(Base):
        __tablename__ = "continuum_tag"
        __versioned__: Any = {}
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        name: Mapped[str] = mapped_column(String(40))

    @tenant_aware
    class Invoice(Base):
        __tablename__ = "continuum_invoice"
        __versioned__: Any = {}
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain"}
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        kind: Mapped[str] = mapped_column(String(40))
        number: Mapped[str] = mapped_column(String(40))
        amount: Mapped[int]
        lines: Mapped[list[Line]] = relationship(cascade="all, delete-orphan")
        tags: Mapped[list[Tag]] = relationship(secondary=tagged)

    class Credit(Invoice):
        __tablename__ = "continuum_credit"
        __mapper_args__ = {"polymorphic_identity": "credit"}
        id: Mapped[int] = mapped_column(ForeignKey(Invoice.id), primary_key=True)
        reason: Mapped[str] = mapped_column(String(40))

    class Draft(Invoice):
        __mapper_args__ = {"polymorphic_identity": "draft"}
        note: Mapped[str | None] = mapped_column(String(40))

    @tenant_aware
    class Line(Base):
        __tablename__ = "continuum_line"
        __versioned__: Any = {}
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        invoice_id: Mapped[int] = mapped_column(ForeignKey(Invoice.id))
        product: Mapped[str] = mapped_column(String(40))

    @tenant_aware(column="organization")
    class Price(Base):
        __tablename__ = "continuum_price"
        __versioned__: Any = {"strategy": "subquery"}
        organization: Mapped[str] = mapped_column("org", String(40), primary_key=True)
        code: Mapped[str] = mapped_column(String(40), primary_key=True)
        cents: Mapped[int]

    if variant == "without columns":
        _add_models_without_columns(Base, Invoice, Tag)

    # Held, as a module would: a registry does not keep its classes.
    classes = Base.__subclasses__()
    return SimpleNamespace(metadata=Base.metadata, registry=Base.registry, classes=classes)


def _add_models_without_columns(base: Any, invoice: Any, tag: Any) -> None:
    loosely = Table(
        "continuum_loosely",
        base.metadata,
        Column("loose_id", ForeignKey("continuum_loose.id"), primary_key=True),
        Column("tag_id", ForeignKey(tag.id), primary_key=True),
    )

    @tenant_aware(through="invoice_id")
    class Child(base):
        __tablename__ = "continuum_child"
        __versioned__: Any = {}
        id: Mapped[int] = mapped_column(primary_key=True)
        invoice_id: Mapped[int] = mapped_column(ForeignKey(invoice.id))

    @tenant_aware
    class Hidden(base):
        __tablename__ = "continuum_hidden"
        __versioned__: Any = {"exclude": ["tenant_id"]}
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))

    @tenant_aware
    class Loose(base):
        __tablename__ = "continuum_loose"
        __versioned__: Any = {}
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        tags: Mapped[list[Any]] = relationship("Tag", secondary=loosely)


class World:
    """The models, their version classes and one database."""

    def __init__(self, kind: str, variant: str) -> None:
        self.kind = kind
        self.variant = variant
        self.manager = continuum.VersioningManager()
        options = {"native_versioning": variant == "native"}
        continuum.make_versioned(manager=self.manager, user_cls=None, options=options)
        self.models = build(self.manager, variant)
        configure_mappers()
        self.Transaction = self.manager.transaction_cls
        self.server = databases.server(kind)
        self.name = f"partywall_{os.getpid()}_continuum_{variant[:6]}"
        self.server.create(self.name)
        databases._created[kind].append(self.name)
        engine = self.engine()
        if variant == "native":
            self._create_extension()

        self.models.metadata.create_all(engine)
        engine.dispose()
        self.seed: Any = None

    def __getattr__(self, name: str) -> Any:
        """A model, or the version class of one."""
        model = name.removesuffix("Version")
        found = self.models.registry._class_registry[model]
        return found if model == name else continuum.version_class(found)

    def engine(self) -> Engine:
        driver = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}[self.kind]
        engine = create_engine(self.server.url(driver, self.name))
        if self.kind == "sqlite":
            databases._with_real_transactions(engine)

        return engine

    def async_engine(self) -> AsyncEngine:
        driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[self.kind]
        engine = create_async_engine(self.server.url(driver, self.name))
        if self.kind == "sqlite":
            databases._with_real_transactions(engine)

        return engine

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect(self.name)) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)

            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def stored(self, table: str, columns: str = "tenant_id") -> Counter[Any]:
        found = self.execute(f"SELECT {columns} FROM continuum_{table}")
        return Counter(row[0] if len(row) == 1 else row for row in found)

    def everything(self) -> dict[str, Counter[Any]]:
        names = [f'"{table.name}"' for table in self.models.metadata.sorted_tables]
        return {name: Counter(self.execute(f"SELECT * FROM {name}")) for name in names}

    def fill(self, engine: Engine) -> None:
        """Each tenant: an invoice with two versions, a price with two, a credit that is gone."""
        if self.seed and self.everything() == self.seed:
            return

        tables = reversed(self.models.metadata.sorted_tables)
        self.execute(*(f'DELETE FROM "{table.name}"' for table in tables))
        for step in (first_step, second_step, third_step):
            for tenant in BOTH:
                with tenant_scope(tenant), Session(engine) as session, session.begin():
                    step(self, session, tenant)

        self.seed = self.everything()

    def _create_extension(self) -> None:
        found = self.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'")
        if not found:
            pytest.skip("this PostgreSQL has no hstore, which native versioning needs")

        self.execute("CREATE EXTENSION hstore")

    def close(self) -> None:
        continuum.remove_versioning(manager=self.manager)
        self.models.registry.dispose()


WORLDS = [("sqlite", "owned"), ("sqlite", "global"), ("postgresql", "shared")]


@pytest.fixture(scope="module", params=WORLDS, ids="-".join)
def built(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(*request.param)
    yield world
    world.close()


@pytest.fixture
def engine(built: World) -> Iterator[Engine]:
    engine = built.engine()
    yield engine
    engine.dispose()


@pytest.fixture
def world(built: World, engine: Engine) -> World:
    built.fill(engine)
    return built


def first_step(world: World, session: Session, tenant: str) -> None:
    paid, late = world.Tag(name="paid"), world.Tag(name="late")
    desk = world.Line(product=f"desk of {tenant}")
    invoice = world.Invoice(number="1", amount=len(tenant), lines=[desk], tags=[paid])
    credit = world.Credit(number="2", amount=5, reason=f"gift of {tenant}")
    draft = world.Draft(number="3", amount=7, note=f"note of {tenant}")
    price = world.Price(code="A", cents=len(tenant))
    session.add_all([late, invoice, credit, draft, price])


def second_step(world: World, session: Session, tenant: str) -> None:
    invoice = the_invoice(world, session)
    invoice.amount += 100
    invoice.lines.append(world.Line(product=f"chair of {tenant}"))
    invoice.tags.append(session.scalars(select(world.Tag).filter_by(name="late")).one())
    session.scalars(select(world.Price)).one().cents += 100


def third_step(world: World, session: Session, tenant: str) -> None:
    session.delete(session.scalars(select(world.Credit)).one())


def the_invoice(world: World, session: Session) -> Any:
    return session.scalars(select(world.Invoice).filter_by(number="1")).one()


def versions(world: World, session: Session, name: str, *attributes: str) -> list[tuple[Any, ...]]:
    version = getattr(world, f"{name}Version")
    order = (version.transaction_id, inspect(version).primary_key[0])
    found = session.scalars(select(version).order_by(*order))
    return [tuple(getattr(each, attribute) for attribute in attributes) for each in found]


HISTORY = {
    "Invoice": (
        ("kind", "number", "amount", "operation_type"),
        lambda tenant: [
            ("plain", "1", len(tenant), INSERT),
            ("credit", "2", 5, INSERT),
            ("draft", "3", 7, INSERT),
            ("plain", "1", len(tenant) + 100, UPDATE),
            ("credit", "2", 5, DELETE),
        ],
    ),
    "Credit": (
        ("number", "reason", "operation_type"),
        lambda tenant: [("2", f"gift of {tenant}", INSERT), ("2", f"gift of {tenant}", DELETE)],
    ),
    "Draft": (("number", "note"), lambda tenant: [("3", f"note of {tenant}")]),
    "Line": (
        ("product", "tenant_id"),
        lambda tenant: [(f"desk of {tenant}", tenant), (f"chair of {tenant}", tenant)],
    ),
    "Price": (
        ("organization", "code", "cents"),
        lambda tenant: [(tenant, "A", len(tenant)), (tenant, "A", len(tenant) + 100)],
    ),
}


@pytest.mark.parametrize("name", HISTORY)
@pytest.mark.parametrize("tenant", BOTH)
def test_a_tenant_reads_its_own_history(
    world: World, engine: Engine, tenant: str, name: str
) -> None:
    attributes, expected = HISTORY[name]
    with tenant_scope(tenant), Session(engine) as session:
        assert versions(world, session, name, *attributes) == expected(tenant)


@pytest.mark.parametrize("name", HISTORY)
def test_without_a_tenant_there_is_no_history(world: World, engine: Engine, name: str) -> None:
    version = getattr(world, f"{name}Version")
    for entity in (version, version.__table__):
        with (
            Session(engine) as session,
            pytest.raises(MissingTenantContextError, match="No tenant is current"),
        ):
            session.execute(select(entity)).all()


def test_every_version_is_stored_with_its_tenant(world: World) -> None:
    assert world.stored("invoice_version") == {"acme": 5, "globex": 5}
    assert world.stored("line_version") == {"acme": 2, "globex": 2}
    assert world.stored("tag_version") == {"acme": 2, "globex": 2}
    assert world.stored("tagged_version") == {"acme": 2, "globex": 2}
    assert world.stored("price_version", "org") == {"acme": 2, "globex": 2}
    if world.variant != "global":
        assert world.stored("transaction") == {"acme": 3, "globex": 3}


def test_core_statements_see_and_change_their_own_history(world: World, engine: Engine) -> None:
    table = world.InvoiceVersion.__table__
    with tenant_scope("acme"), engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(table)) == 5
        assert connection.execute(update(table).values(amount=0)).rowcount == 5
        assert connection.execute(delete(world.LineVersion.__table__)).rowcount == 2

    assert world.stored("line_version") == {"globex": 2}
    assert world.stored("invoice_version", "tenant_id, amount")["acme", 0] == 5
    assert world.stored("invoice_version", "tenant_id, amount")["globex", 0] == 0


def test_the_versions_of_an_invoice(world: World, engine: Engine) -> None:
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            invoice = the_invoice(world, session)
            first, second = invoice.versions

            assert [first.amount, second.amount] == [len(tenant), len(tenant) + 100]
            assert (first.next, second.previous) == (second, first)
            assert (first.previous, second.next) == (None, None)
            assert second.changeset == {"amount": [len(tenant), len(tenant) + 100]}
            assert first.version_parent is second.version_parent is invoice
            assert invoice.versions.count() == 2


def test_versions_by_the_rule_of_subqueries(world: World, engine: Engine) -> None:
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            first, second = session.scalars(select(world.Price)).one().versions

            assert (first.index, second.index) == (0, 1)
            assert (first.next, second.previous) == (second, first)
            assert (first.previous, second.next) == (None, None)


def test_versions_at_a_foreign_key(world: World, engine: Engine) -> None:
    keys = {}
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            first = the_invoice(world, session).versions[0]
            keys[tenant] = (first.id, first.transaction_id)

    for tenant in BOTH:
        for owner, (key, transaction) in keys.items():
            with tenant_scope(tenant), Session(engine) as session:
                version = world.InvoiceVersion
                at = version.version_at(session, {"id": key}, transaction)
                every = version.all_versions(session, {"id": key})
                got = session.get(version, (key, transaction))

                assert (at is None) == (got is None) == (tenant != owner)
                assert len(every) == (2 if tenant == owner else 0)


def test_the_relations_of_a_version(world: World, engine: Engine) -> None:
    """Lines and tags as they were, through version tables and an association that is versioned."""
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            first, second = the_invoice(world, session).versions

            assert [line.product for line in first.lines] == [f"desk of {tenant}"]
            assert [line.product for line in second.lines] == [
                f"desk of {tenant}",
                f"chair of {tenant}",
            ]
            assert [tag.name for tag in first.tags] == ["paid"]
            assert sorted(tag.name for tag in second.tags) == ["late", "paid"]
            assert {tag.tenant_id for tag in second.tags} == {tenant}

            association = world.models.metadata.tables["continuum_tagged_version"]
            assert session.execute(select(association.c.tenant_id)).scalars().all() == [tenant] * 2


def test_revert_restores_the_own_row(world: World, engine: Engine) -> None:
    with tenant_scope("acme"), Session(engine) as session, session.begin():
        the_invoice(world, session).versions[0].revert(relations=["lines"])

    with tenant_scope("acme"), Session(engine) as session:
        invoice = the_invoice(world, session)
        assert invoice.amount == len("acme")
        assert [line.product for line in invoice.lines] == ["desk of acme"]
        assert invoice.versions.count() == 3

    amounts = world.stored("invoice", "tenant_id, number, amount")
    assert amounts["acme", "1", len("acme")] == amounts["globex", "1", len("globex") + 100] == 1
    assert world.stored("line") == {"acme": 1, "globex": 2}
    assert world.stored("invoice_version") == {"acme": 6, "globex": 5}


def test_revert_brings_a_deleted_row_back(world: World, engine: Engine) -> None:
    with tenant_scope("acme"), Session(engine) as session, session.begin():
        version = session.scalars(select(world.CreditVersion).filter_by(operation_type=INSERT))
        assert version.one().revert().reason == "gift of acme"

    assert world.stored("invoice", "tenant_id, number")["acme", "2"] == 1
    assert world.stored("invoice", "tenant_id, number")["globex", "2"] == 0


def test_transactions_and_what_they_changed(world: World, engine: Engine) -> None:
    """The table of transactions is as owned as its own class is; what it leads to is owned."""
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            transaction = world.Transaction
            issued = select(transaction).where(transaction.issued_at.is_not(None))
            found = session.scalars(issued.order_by(transaction.id)).all()
            assert len(found) == (3 if world.variant != "global" else 6)

            changed = [
                {
                    version.tenant_id
                    for rows in each.changed_entities.values()
                    for version in rows
                    if hasattr(version, "tenant_id")
                }
                for each in found
            ]
            assert sorted(changed, key=len) == [set()] * (len(found) - 3) + [{tenant}] * 3

            last = the_invoice(world, session).versions[1].transaction
            assert last in found


def test_history_of_another_tenant_is_not_written(world: World, engine: Engine) -> None:
    before = world.everything()
    forged = world.LineVersion(id=1, transaction_id=1, operation_type=0, tenant_id="globex")
    with (
        tenant_scope("acme"),
        Session(engine) as session,
        pytest.raises(CrossTenantAccessError, match="belongs to tenant 'globex'"),
    ):
        session.add(forged)

    with tenant_scope("globex"), Session(engine) as session:
        foreign = the_invoice(world, session).versions[0]
        session.expunge(foreign)

    with (
        tenant_scope("acme"),
        Session(engine) as session,
        pytest.raises(CrossTenantAccessError, match="belongs to tenant 'globex'"),
    ):
        session.delete(foreign)

    assert world.everything() == before


def test_a_forged_row_leaves_no_history(world: World, engine: Engine) -> None:
    with tenant_scope("globex"), Session(engine) as session:
        key = the_invoice(world, session).id

    before = world.everything()
    forged = world.Invoice(id=key, tenant_id="acme", kind="plain", number="1", amount=1)
    make_transient_to_detached(forged)
    with tenant_scope("acme"), Session(engine) as session:
        session.add(forged)
        forged.amount = 0
        with pytest.raises(StaleDataError, match="0 were matched"):
            session.flush()

    assert world.everything() == before


def test_a_refused_flush_leaves_no_history_and_the_next_one_does(
    world: World, engine: Engine
) -> None:
    with tenant_scope("globex"), Session(engine) as session:
        foreign = the_invoice(world, session).id

    before = world.everything()
    with tenant_scope("acme"), Session(engine) as session:
        the_invoice(world, session).amount = 0
        session.add(world.Line(invoice_id=foreign, product="forged"))
        with pytest.raises(CrossTenantReferenceError, match="continuum_invoice"):
            session.commit()

        session.rollback()
        assert world.everything() == before

        the_invoice(world, session).amount = 0
        session.commit()
        assert the_invoice(world, session).versions.count() == 3

    assert world.stored("invoice_version") == {"acme": 6, "globex": 5}


@pytest.mark.filterwarnings("ignore:.*transaction already deassociated")
def test_a_savepoint_takes_its_history_back(world: World, engine: Engine) -> None:
    with tenant_scope("acme"), Session(engine) as session, session.begin():
        invoice = the_invoice(world, session)
        savepoint = session.begin_nested()
        invoice.amount = 0
        session.flush()
        savepoint.rollback()
        assert invoice.amount == len("acme") + 100

    assert world.stored("invoice_version") == {"acme": 5, "globex": 5}


def test_a_session_serves_one_tenant_until_it_is_closed(world: World, engine: Engine) -> None:
    with Session(engine) as session:
        with tenant_scope("acme"):
            held = the_invoice(world, session)
            held.amount = 0
            session.commit()

        with (
            tenant_scope("globex"),
            pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"),
        ):
            the_invoice(world, session)

        session.close()
        with tenant_scope("globex"):
            the_invoice(world, session).amount = 0
            session.commit()

    assert world.stored("invoice_version", "tenant_id, amount")["acme", 0] == 1
    assert world.stored("invoice_version", "tenant_id, amount")["globex", 0] == 1


def test_vacuum_removes_what_is_futile_of_its_own_tenant(world: World, engine: Engine) -> None:
    world.execute("UPDATE continuum_line_version SET id = 1, product = 'same'")
    with tenant_scope("acme"), Session(engine) as session, session.begin():
        continuum.vacuum(session, world.Line)

    assert world.stored("line_version") == {"acme": 1, "globex": 2}


@pytest.mark.filterwarnings("ignore:.*transaction already deassociated")
def test_unscoped_writes_each_tenants_history(world: World, engine: Engine) -> None:
    """A transaction of several tenants belongs to none of them: it is global or shared, or refused."""
    before = world.everything()
    with unscoped("a correction", write=True), Session(engine) as session:
        for line in session.scalars(select(world.Line)):
            line.product = "corrected"

        if world.variant == "owned":
            with pytest.raises(MissingTenantContextError, match="This Transaction has no tenant"):
                session.commit()

            session.rollback()
            assert world.everything() == before
            return

        session.commit()

    corrected = world.stored("line_version", "tenant_id, product")
    assert corrected["acme", "corrected"] == corrected["globex", "corrected"] == 2


def test_counting_versions_in_raw_sql_is_refused(world: World, engine: Engine) -> None:
    """`count_versions` writes SQL of its own that names the version table."""
    with tenant_scope("acme"), Session(engine) as session:
        line = session.scalars(select(world.Line)).first()
        with pytest.raises(UnscopedStatementError, match="continuum_line_version"):
            continuum.count_versions(line)

        assert line.versions.count() == 1


@pytest.mark.parametrize("built", [("sqlite", "without columns")], indirect=True, ids=[""])
@pytest.mark.parametrize("name", ["Child", "Hidden", "Loose"])
def test_history_without_a_tenant_column_is_refused(
    world: World, engine: Engine, name: str
) -> None:
    """A child without the column, a column left out of the history, an association without it."""
    before = world.everything()
    with tenant_scope("acme"), Session(engine) as session:
        made = getattr(world, name)()
        if name == "Child":
            made.invoice_id = the_invoice(world, session).id
        elif name == "Loose":
            made.tags = list(session.scalars(select(world.Tag)))

        session.add(made)
        with pytest.raises(ConfigurationError, match="has no tenant column of its own"):
            session.commit()

    assert world.everything() == before


async def test_history_through_an_async_session(world: World) -> None:
    engine = world.async_engine()
    try:
        for tenant in BOTH:
            async with atenant_scope(tenant), AsyncSession(engine) as session:
                line = (await session.scalars(select(world.Line).order_by(world.Line.id))).first()
                line.product = f"table of {tenant}"
                await session.commit()

                found = await session.scalars(
                    select(world.LineVersion.product).order_by(world.LineVersion.transaction_id)
                )
                assert found.all() == [f"{what} of {tenant}" for what in ("desk", "chair", "table")]

                def revert(sync: Session) -> None:
                    sync.scalars(select(world.Line).order_by(world.Line.id)).first().versions[
                        0
                    ].revert()

                await session.run_sync(revert)
                await session.commit()

        async with AsyncSession(engine) as session:
            with pytest.raises(MissingTenantContextError, match="No tenant is current"):
                await session.scalars(select(world.LineVersion))
    finally:
        await engine.dispose()

    assert world.stored("line_version") == {"acme": 4, "globex": 4}


@pytest.mark.parametrize("built", [("postgresql", "native")], indirect=True, ids=[""])
def test_history_that_triggers_write(built: World, engine: Engine) -> None:
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            session.add(built.Price(code="A", cents=len(tenant)))
            session.commit()
            session.scalars(select(built.Price)).one().cents += 100
            session.commit()

    expected = HISTORY["Price"][1]
    for tenant in BOTH:
        with tenant_scope(tenant), Session(engine) as session:
            attributes = ("organization", "code", "cents")
            assert versions(built, session, "Price", *attributes) == expected(tenant)

    assert built.stored("price_version", "org") == {"acme": 2, "globex": 2}


VERSIONED_FIRST = """
from sqlalchemy import Column, ForeignKey, Integer, String, Table, create_engine, select
from sqlalchemy.orm import Session, configure_mappers, declarative_base, relationship
from sqlalchemy_continuum import make_versioned

make_versioned(user_cls=None)
from partywall import tenant_aware, tenant_scope

Base = declarative_base()
tagged = Table(
    "tagged",
    Base.metadata,
    Column("note_id", ForeignKey("note.id"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id"), primary_key=True),
    Column("tenant_id", String),
)

@tenant_aware
class Tag(Base):
    __tablename__ = "tag"
    __versioned__ = {}
    id = Column(Integer, primary_key=True)
    tenant_id = Column(String)

@tenant_aware
class Note(Base):
    __tablename__ = "note"
    __versioned__ = {}
    id = Column(Integer, primary_key=True)
    tenant_id = Column(String)
    tags = relationship(Tag, secondary=tagged)

configure_mappers()
engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
for tenant in ("acme", "globex"):
    with tenant_scope(tenant), Session(engine) as session, session.begin():
        session.add(Note(tags=[Tag()]))

with tenant_scope("globex"), engine.connect() as connection:
    for name in ("note_version", "tag_version", "tagged_version"):
        table = Base.metadata.tables[name]
        print(name, *connection.scalars(select(table.c.tenant_id)))
"""


def test_versioning_may_be_turned_on_before_partywall_is_imported() -> None:
    """Its listeners then run first, and find associations that nobody has looked at yet."""
    command = [sys.executable, "-c", VERSIONED_FIRST]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert done.stdout.splitlines() == [
        "note_version globex",
        "tag_version globex",
        "tagged_version globex",
    ], done.stderr
