"""The wall itself: what it stands on, what it tells, and what it does when that is missing."""

from __future__ import annotations

import ast
import inspect
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    exists,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.mysql.base import MySQLCompiler
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.compiler import DDLCompiler, SQLCompiler

from partywall import (
    ConfigurationError,
    CrossTenantAccessError,
    MalformedTenantError,
    MissingTenantContextError,
    UnscopedStatementError,
    canary,
    compilers,
    engines,
    explain,
    tenant_scope,
    tenant_table,
    unscoped,
)

metadata = MetaData()
orders = tenant_table(
    Table(
        "wall_orders",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("tenant_id", String(20), nullable=False),
        Column("amount", Integer),
    )
)
lines = tenant_table(
    Table(
        "wall_lines",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("order_id", ForeignKey("wall_orders.id"), nullable=False),
    ),
    through="order_id",
)
counters = tenant_table(
    Table("wall_counters", metadata, Column("tenant_id", Integer, primary_key=True))
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.begin() as connection:
            connection.execute(insert(orders).values(id=key, amount=key * 10))
            connection.execute(insert(lines).values(id=key, order_id=key))

    yield engine
    engine.dispose()


SERIES = tuple(map(int, sqlalchemy.__version__.split(".")[:2]))

STANDS_ON = {
    "Compiler": (SQLCompiler, PGCompiler, MySQLCompiler, SQLiteCompiler),
    "DDLCompiler": (DDLCompiler,),
    "ExecutionContext": (DefaultExecutionContext,),
}


def test_every_private_name_it_stands_on_exists() -> None:
    tree = ast.parse(Path(inspect.getfile(compilers)).read_text())
    listed = {
        node.name: {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    if SERIES < (2, 1):
        listed["DDLCompiler"].remove("visit_create_view")
        listed["Compiler"].remove("visit_tstring")

    assert listed.keys() == STANDS_ON.keys()
    assert len(listed["Compiler"]) > 15
    for name, names in listed.items():
        assert names <= {known for cls in STANDS_ON[name] for known in dir(cls)}


def test_a_dialect_that_loses_the_condition_is_not_trusted() -> None:
    class Deaf(SQLiteCompiler):
        tenants: ClassVar = {"partywall_tenant": None}

    dialect = SQLiteDialect_pysqlite()
    dialect.statement_compiler = Deaf
    with pytest.raises(ConfigurationError, match="without the tenant condition"):
        canary.sing(dialect)


OPEN_BEFORE = """
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, select
from partywall import MissingTenantContextError, tenant_scope, tenant_table

connection = create_engine("sqlite://").connect()
t = Table("t", MetaData(), Column("id", Integer), Column("tenant_id", String))
t.create(connection)
connection.execute(t.insert(), [{"id": 1, "tenant_id": "acme"}, {"id": 2, "tenant_id": "globex"}])
assert len(connection.execute(select(t)).all()) == 2
tenant_table(t)
with tenant_scope("acme"):
    assert connection.execute(select(t.c.id)).all() == [(1,)]

try:
    connection.execute(select(t))
except MissingTenantContextError:
    print("guarded")
"""


def test_a_connection_that_was_open_before_the_first_mark_is_guarded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN_BEFORE], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "guarded\n"


OWN_DICTIONARY = """
from sqlalchemy import Column, Integer, String, Table, create_engine
from sqlalchemy.ext.instrumentation import InstrumentationManager
from sqlalchemy.orm import Session, registry
from partywall import CrossTenantAccessError, tenant_aware, tenant_scope

class Manager(InstrumentationManager):
    def get_instance_dict(self, class_, instance):
        return instance.__dict__["kept"]

    def initialize_instance_dict(self, class_, instance):
        instance.__dict__["kept"] = {}

    def install_state(self, class_, instance, state):
        instance.__dict__["state"] = state

    def state_getter(self, class_):
        return lambda instance: instance.__dict__["state"]

class Thing:
    __sa_instrumentation_manager__ = Manager

things = registry()
columns = [Column("id", Integer, primary_key=True), Column("tenant_id", String(20))]
things.map_imperatively(Thing, Table("thing", things.metadata, *columns))
tenant_aware(Thing)
engine = create_engine("sqlite://")
things.metadata.create_all(engine)
with tenant_scope("acme"), Session(engine) as session:
    session.add(mine := Thing())
    session.flush()
    print(mine.tenant_id, sorted(vars(mine)))
    theirs = Thing()
    theirs.tenant_id = "globex"
    try:
        session.add(theirs)
    except CrossTenantAccessError:
        print("refused", len(session.new))
"""


def test_objects_may_keep_their_attributes_where_they_like() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWN_DICTIONARY],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "acme ['kept', 'state']\nrefused 0\n"


SESSION_BEFORE = """
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from partywall import CrossTenantAccessError, tenant_aware, tenant_scope

class Base(DeclarativeBase):
    pass

class Country(Base):
    __tablename__ = "country"
    id: Mapped[int] = mapped_column(primary_key=True)

engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
session = Session(engine)
session.add(Country(id=1))
session.commit()
country = session.get(Country, 1)

@tenant_aware
class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]

Base.metadata.create_all(engine)
with tenant_scope("acme"):
    session.add(Invoice(id=1))
    session.commit()
    print(session.get(Invoice, 1).tenant_id, session.get(Country, 1) is country)

with tenant_scope("globex"):
    try:
        session.get(Invoice, 1)
    except CrossTenantAccessError as error:
        print(error)
"""


def test_a_session_that_was_there_before_the_first_mark_serves_one_tenant() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SESSION_BEFORE],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == "acme True"
    assert second.startswith(
        "This session serves tenant 'acme', but the current tenant is 'globex'"
    )


def owned_by_both(name: str) -> tuple[Table, Engine]:
    """A table of its own, with row 1 of acme's and row 2 of globex's."""
    columns = Column("id", Integer), Column("tenant_id", String)
    owned = tenant_table(Table(name, MetaData(), *columns))
    engine = create_engine("sqlite://")
    owned.create(engine)
    with engine.begin() as connection, unscoped("both tenants", write=True):
        connection.execute(
            owned.insert(), [{"id": 1, "tenant_id": "acme"}, {"id": 2, "tenant_id": "globex"}]
        )

    return owned, engine


def test_an_unscoped_statement_leaves_the_connection_walled() -> None:
    owned, engine = owned_by_both("wall_turns")

    with engine.connect() as connection, tenant_scope("acme"):
        assert connection.execute(select(owned.c.id)).all() == [(1,)]
        walled = connection.dialect
        with unscoped("all of them"):
            assert connection.execute(text("SELECT id FROM wall_turns")).all() == [(1,), (2,)]
            assert connection.dialect is walled

        with unscoped("fails"), pytest.raises(OperationalError, match="no such"):
            connection.execute(text("SELECT absent FROM wall_turns"))

        assert connection.dialect is walled
        assert "tenant_id = " in str(select(owned.c.id).compile(connection))
        assert connection.execute(select(owned.c.id)).all() == [(1,)]


@pytest.mark.parametrize("inside", ["before_execute", "after_execute"])
def test_unscoped_statements_of_an_event_do_not_open_the_one_around_them(inside: str) -> None:
    owned, engine = owned_by_both(f"wall_{inside}")

    seen: list[Any] = []

    @event.listens_for(engine, inside)
    def look(connection: Any, *args: Any) -> None:
        if len(seen) < 2:
            seen.append(None)
            with unscoped("an audit", write=True):
                seen.append(connection.execute(text(f"SELECT id FROM wall_{inside}")).all())

    with engine.connect() as connection, tenant_scope("acme"):
        for _ in range(2):
            assert connection.execute(select(owned.c.id)).all() == [(1,)]

    assert [(1,), (2,)] in seen


def test_a_statement_of_an_event_leaves_the_unscoped_one_around_it_unscoped() -> None:
    owned, engine = owned_by_both("wall_inner_turns")

    inner: Any = None
    seen: list[Any] = []

    @event.listens_for(engine, "before_execute")
    def look(connection: Any, *args: Any) -> None:
        nonlocal inner
        scope, inner = inner, None
        if scope is not None:
            with scope:
                seen.append(connection.execute(select(owned.c.id)).all())

    every = text("SELECT id FROM wall_inner_turns")
    with engine.connect() as connection:
        with tenant_scope("acme"):
            connection.execute(select(owned.c.id))

        walled = connection.dialect
        for write in (False, True):
            for scope in (tenant_scope("acme"), unscoped("an audit", write=not write)):
                inner = scope
                with unscoped("all of them", write=write):
                    assert connection.execute(every).all() == [(1,), (2,)]

                assert connection.dialect is walled

    assert seen == [[(1,)], [(1,), (2,)]] * 2


EVERY_TABLE = """
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, select
from partywall import tenant_scope, tenant_table

@event.listens_for(Table, "after_parent_attach")
def own(table, metadata):
    table.append_column(Column("tenant_id", String))
    tenant_table(table)

with create_engine("sqlite://").connect() as connection:
    t = Table("t", MetaData(), Column("id", Integer))
    t.create(connection)
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant):
            connection.execute(t.insert(), [{"id": len(tenant)}])

    with tenant_scope("acme"):
        print(connection.execute(select(t.c.id)).all())
"""


def test_an_application_may_mark_every_table_as_it_is_made() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_TABLE], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[(4,)]\n"


def test_what_is_done_to_the_class_of_a_dialect_reaches_the_next_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owned = tenant_table(
        Table("wall_patched", MetaData(), Column("id", Integer), Column("tenant_id", String))
    )
    engine = create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(MissingTenantContextError, match="current"):
        connection.execute(select(owned))

    connected: list[object] = []
    monkeypatch.setattr(engine.dialect.__class__, "on_connect", lambda _: connected.append)
    with create_engine("sqlite://").connect() as connection:
        assert len(connected) == 1
        with pytest.raises(MissingTenantContextError, match="current"):
            connection.execute(select(owned))


def test_an_unknown_dialect_is_refused_for_owned_tables_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "_supported", lambda dialect: False)
    engine = create_engine("sqlite://", poolclass=StaticPool)
    free = Table("wall_free", MetaData(), Column("id", Integer))
    with tenant_scope("acme"), engine.begin() as connection:
        free.create(connection)
        assert connection.execute(select(free)).all() == []
        with pytest.raises(ConfigurationError, match="SQLite, PostgreSQL, MySQL and MariaDB, not"):
            connection.execute(select(orders))


def test_e13_explain_names_what_guards_each_table(engine: Engine) -> None:
    told = explain(select(orders.c.id, lines.c.id).join(lines), engine)
    assert told.tables == {
        "wall_orders": "column tenant_id",
        "wall_lines": "through order_id -> wall_orders",
    }
    assert "wall_orders.tenant_id = ?" in told.sql
    assert "wall_orders: column tenant_id" in str(told)
    assert explain(select(1), engine).tables == {}


def test_e13_explain_names_aliases_as_the_sql_does(engine: Engine) -> None:
    order, other = orders.alias(), orders.alias("other")
    statement = (
        select(order.c.id)
        .join(other, order.c.id == other.c.id)
        .where(exists(select(lines.c.id).where(lines.c.order_id == order.c.id)))
    )
    told = explain(statement, engine)
    assert told.tables == {
        "wall_orders_1": "column tenant_id",
        "other": "column tenant_id",
        "wall_lines": "through order_id -> wall_orders",
        "wall_orders_2": "column tenant_id",
    }
    for name in ("wall_orders_1", "other", "wall_orders_2"):
        assert f"{name}.tenant_id = ?" in told.sql

    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.connect() as connection:
            assert connection.execute(statement).scalars().all() == [key]
            # It explains the statement, whoever asks.
            assert explain(statement, connection) == told


def test_a_join_to_the_guarded_parent_needs_no_second_condition(engine: Engine) -> None:
    joined = select(lines.c.id).join(orders)
    assert explain(joined, engine).sql.count("EXISTS") == 0
    assert explain(select(lines.c.id), engine).sql.count("EXISTS") == 1
    with tenant_scope("acme"), engine.connect() as connection:
        assert connection.execute(joined).scalars().all() == [1]
        assert connection.execute(select(lines.c.id)).scalars().all() == [1]


def test_a_tenant_that_does_not_fit_the_column_is_an_error(engine: Engine) -> None:
    with tenant_scope("7"), engine.connect() as connection:
        assert connection.execute(select(counters)).all() == []

    with (
        tenant_scope("acme"),
        engine.connect() as connection,
        pytest.raises(MalformedTenantError, match="Tenant 'acme' does not fit"),
    ):
        connection.execute(select(counters))


def test_a_refusal_leaves_the_transaction_usable(engine: Engine) -> None:
    with tenant_scope("acme"), engine.begin() as connection:
        with pytest.raises(CrossTenantAccessError, match="names tenant 'globex'"):
            connection.execute(insert(orders).values(id=9, tenant_id="globex"))

        connection.execute(insert(orders).values(id=8))

    with unscoped("all rows"), engine.connect() as connection:
        stored = connection.execute(select(orders.c.id, orders.c.tenant_id)).all()
        assert sorted(stored) == [(1, "acme"), (2, "globex"), (8, "acme")]


def test_refusals_are_logged_with_structure_and_without_rows(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "partywall"), engine.connect() as connection:
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            connection.execute(select(orders))

        with tenant_scope("acme"), pytest.raises(UnscopedStatementError, match="wall_orders"):
            connection.execute(text("SELECT amount FROM wall_orders WHERE amount = 20"))

    missing, raw = caplog.records
    assert (missing.event, missing.error) == ("refused", "MissingTenantContextError")
    assert (raw.event, raw.details) == ("refused", {"tables": ["wall_orders"]})
    assert "20" not in raw.getMessage()


def test_unscoped_logs_its_reason_and_where_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "partywall"), unscoped("nightly numbering"):
        pass

    (record,) = caplog.records
    assert (record.event, record.reason) == ("unscoped", "nightly numbering")
    assert Path(__file__).name in record.call_site


@pytest.mark.parametrize("reason", ["", "  "])
def test_unscoped_needs_a_reason(reason: str) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        unscoped(reason)


def test_unscoped_only_reads_unless_told_otherwise(engine: Engine) -> None:
    with (
        unscoped("a look"),
        engine.begin() as connection,
        pytest.raises(UnscopedStatementError, match="only reads"),
    ):
        connection.execute(orders.delete())

    with unscoped("a clean-up", write=True), engine.begin() as connection:
        assert connection.execute(lines.delete()).rowcount == 2


@pytest.mark.parametrize("other", ["SELECT 1", None, orders, MetaData])
def test_explain_takes_a_statement(engine: Engine, other: object) -> None:
    with pytest.raises(TypeError, match=r"takes a statement, such as select\(\.\.\.\), not"):
        explain(other, engine)


@pytest.mark.parametrize("bind", [None, "sqlite://", object()])
def test_explain_takes_an_engine_a_connection_or_a_session(bind: object) -> None:
    with pytest.raises(TypeError, match="takes an engine, a connection or a session to run on"):
        explain(select(orders), bind)
