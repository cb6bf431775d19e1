"""Ordinary code of somebody who forgot every filter: nothing of it is refused, changed or lost.

Each operation runs beside globex's rows. What it sees is acme's; what globex has stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import enum
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import pytest
import sqlalchemy
from sqlalchemy import (
    CHAR,
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PickleType,
    Select,
    String,
    Table,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    create_engine,
    delete,
    event,
    extract,
    func,
    insert,
    inspect,
    join,
    literal,
    literal_column,
    select,
    table,
    tablesample,
    text,
    type_coerce,
    update,
    values,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import (
    CompileError,
    DBAPIError,
    IntegrityError,
    NoResultFound,
    SAWarning,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.ext.declarative import AbstractConcreteBase
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    aliased,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    mapped_column,
    noload,
    raiseload,
    relationship,
    scoped_session,
    selectinload,
    sessionmaker,
    subqueryload,
    validates,
    with_loader_criteria,
    with_parent,
    with_polymorphic,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import DDL, CreateIndex, CreateTable, DropIndex
from sqlalchemy.sql import ClauseElement, Executable
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

import databases
from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    UnscopedStatementError,
    atenant_scope,
    current_tenant,
    tenant_aware,
    tenant_scope,
    tenant_table,
    tenant_text,
    unscoped,
)
from partywall.context import without_tenant
from templates import template

TENANTS = ("acme", "globex")
DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "mariadb": "mysql+pymysql",
}


class Base(DeclarativeBase):
    pass


def key() -> Any:
    return mapped_column(Integer, primary_key=True)


def tenant() -> Any:
    return mapped_column(String(20), nullable=False)


class Country(Base):
    __tablename__ = "lands"
    code = mapped_column(String(8), primary_key=True)
    name = mapped_column(String(40))


@tenant_aware
class Job(Base):
    __tablename__ = "jobs"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(40))
    pay = mapped_column(Integer)
    steps = relationship("Step", back_populates="job", cascade="all")
    tools = relationship("Tool", secondary="job_tools")
    visits = relationship("Visit", back_populates="job")


@tenant_aware(through="job")
class Step(Base):
    __tablename__ = "steps"
    id = key()
    job_id = mapped_column(ForeignKey("jobs.id"))
    text = mapped_column(String(40))
    job = relationship(Job, back_populates="steps")


@tenant_aware
class Visit(Base):
    __tablename__ = "visits"
    id = key()
    tenant_id = tenant()
    job_id = mapped_column(ForeignKey("jobs.id"))
    job = relationship(Job, back_populates="visits")


@tenant_aware
class Tool(Base):
    __tablename__ = "tools"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(40))


job_tools = Table(
    "job_tools",
    Base.metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("tool_id", ForeignKey("tools.id"), primary_key=True),
)

C: Any = Country.__table__
J: Any = Job.__table__
V: Any = Visit.__table__

SEED = {
    C: ["'NL', 'Netherlands'", "'ZA', 'South Africa'"],
    J: [
        "1, 'acme', 'N1', 10",
        "2, 'globex', 'SECRET', 7777",
        "3, 'acme', 'N3', 30",
        "4, 'globex', 'SECRET2', 8888",
    ],
    Step.__table__: ["1, 1, 'own'", "2, 2, 'SECRET step'"],
    V: ["1, 'acme', 1", "2, 'globex', 2"],
    Tool.__table__: ["1, 'acme', 't1'", "2, 'globex', 'SECRET tool'"],
    job_tools: ["1, 1", "2, 2"],
}
OF_GLOBEX = {
    "jobs": "tenant_id = 'globex'",
    "steps": "job_id IN (2, 4)",
    "visits": "tenant_id = 'globex' OR job_id IN (2, 4)",
    "tools": "tenant_id = 'globex'",
    "job_tools": "job_id IN (2, 4) OR tool_id = 2",
}


def _engine(on: str, **options: Any) -> Engine:
    if on == "sqlite":
        return create_engine(
            "sqlite://",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            **options,
        )

    name = f"partywall_{os.getpid()}_legitimate"
    if name not in databases._created.get(on, ()):
        databases.server(on).create(name)
        databases._created[on].append(name)

    return create_engine(databases.server(on).url(DRIVERS[on], name), **options)


_made: set[sqlalchemy.URL] = set()


def _stored(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    connection = engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute(sql)
    found = sorted(map(tuple, cursor.fetchall()))
    connection.close()
    return found


def _of_globex(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    return {
        name: _stored(engine, f"SELECT * FROM {name} WHERE {condition}")
        for name, condition in OF_GLOBEX.items()
    }


def _seed(engine: Engine) -> None:
    if engine.dialect.name == "sqlite" or engine.url not in _made:
        scope = without_tenant(object())
        Base.metadata.create_all(engine)
        scope.leave()
        _made.add(engine.url)

    connection = engine.raw_connection()
    cursor = connection.cursor()
    if engine.dialect.name == "mysql":
        cursor.execute("SET foreign_key_checks = 0")

    for made in reversed(Base.metadata.sorted_tables):
        cursor.execute(f"DELETE FROM {made.name}")

    for seeded, rows in SEED.items():
        for row in rows:
            cursor.execute(f"INSERT INTO {seeded.name} VALUES ({row})")

        if engine.dialect.name == "postgresql" and "id" in seeded.c:
            cursor.execute(f"SELECT setval('{seeded.name}_id_seq', 100)")

    if engine.dialect.name == "mysql":
        cursor.execute("SET foreign_key_checks = 1")

    connection.commit()
    connection.close()


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = _engine(getattr(request, "param", "sqlite"))
    _seed(engine)
    yield engine
    engine.dispose()


CASES: list[Any] = []


def legitimate(
    run: Callable[[Session], None] | None = None,
    *,
    on: str = "sqlite postgresql mariadb",
    tenants: tuple[str | None, ...] = ("acme",),
) -> Any:
    if run is None:
        return lambda run: legitimate(run, on=on, tenants=tenants)

    for database in on.split():
        for whose in tenants:
            name = f"{database}-{run.__name__}" + ("" if whose else "-no tenant")
            CASES.append(pytest.param(database, run, whose, id=name))

    return run


EITHER = ("acme", None)


def names(session: Session) -> list[str]:
    return sorted(session.scalars(select(Job.name)))


# Tables that nobody owns, with and without a tenant.


@legitimate(tenants=EITHER)
def unowned_rows_are_written_and_read(session: Session) -> None:
    session.add(Country(code="X", name="x"))
    session.flush()
    session.execute(update(Country).values(name="y").where(Country.code == "X"))
    session.execute(insert(Country), [{"code": "A", "name": "a"}, {"code": "B", "name": "b"}])
    session.bulk_insert_mappings(Country, [{"code": "Q"}])  # type: ignore[arg-type]
    session.bulk_save_objects([Country(code="R")])
    session.execute(delete(Country).where(Country.code == "A"))
    session.merge(Country(code="X", name="z"))
    session.commit()
    assert session.scalar(select(func.count()).select_from(Country)) == 6


@legitimate(tenants=EITHER)
def text_on_unowned_tables(session: Session) -> None:
    found = text("SELECT name FROM lands WHERE code = :c /* jobs; ' */ -- jobs\n")
    assert session.execute(found, {"c": "NL"}).scalar() == "Netherlands"
    counted = session.connection().exec_driver_sql("SELECT count(*) FROM lands -- join jobs")
    assert counted.scalar() == 2
    session.execute(text("INSERT INTO lands VALUES ('x', 'jobs')"))
    session.execute(text("UPDATE lands SET name = 'from jobs' WHERE code = 'x'"))
    named = session.execute(text("SELECT name FROM lands WHERE name LIKE '%jobs%'"))
    assert named.scalar() == "from jobs"
    session.execute(text("DELETE FROM lands WHERE code = 'x'"))
    by_text = select(Country).from_statement(text("SELECT * FROM lands ORDER BY code"))
    assert session.scalars(by_text).first().code == "NL"  # type: ignore[union-attr]
    typed = text("SELECT code, name FROM lands ORDER BY 1").columns(Country.code, Country.name)
    assert session.execute(typed).first() == ("NL", "Netherlands")
    assert session.execute(select(literal_column("'a;b'"), literal_column("'--'"))).all()


@legitimate(tenants=EITHER)
def statements_without_a_table(session: Session) -> None:
    assert session.scalar(select(1)) == 1
    assert session.execute(select(literal("jobs"), bindparam("b", 1))).one() == ("jobs", 1)
    session.execute(select(func.count()))
    session.execute(select(func.now()))
    session.execute(select(extract("year", literal(datetime.date(2026, 1, 1)))))


@legitimate(tenants=EITHER)
def definitions(session: Session) -> None:
    engine: Any = session.get_bind()
    made = Table(
        "made",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("a", String(10), server_default=text("'jobs'"), comment="of jobs"),
        Column("b", Integer, CheckConstraint("b > 0 OR b IS NULL")),
        Index("ix_made", "a"),
    )
    session.commit()
    made.drop(engine, checkfirst=True)
    made.create(engine)
    on_jobs = " ON jobs" if engine.dialect.name == "mysql" else ""
    copied = J.to_metadata(MetaData())
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN extra VARCHAR(10)"))
        connection.execute(DDL("CREATE INDEX ix_jobs ON jobs (name)"))
        connection.execute(text(f"DROP INDEX ix_jobs{on_jobs}"))
        connection.execute(text("ALTER TABLE jobs DROP COLUMN extra"))
        by_pay = Index("ix_pay", copied.c.pay)
        connection.execute(CreateIndex(by_pay))
        connection.execute(DropIndex(by_pay))

    made.drop(engine)
    session.execute(select(1))


@legitimate(tenants=EITHER)
def reflection(session: Session) -> None:
    bind: Any = session.get_bind()
    inspector = inspect(bind)
    assert {"jobs", "lands"} <= set(inspector.get_table_names())
    assert "tenant_id" in [found["name"] for found in inspector.get_columns("jobs")]
    assert inspector.get_foreign_keys("visits")[0]["referred_table"] == "jobs"
    assert inspector.get_pk_constraint("jobs")["constrained_columns"] == ["id"]
    assert inspector.has_table("jobs")
    inspector.get_indexes("jobs"), inspector.get_unique_constraints("jobs")
    reflected = MetaData()
    reflected.reflect(bind)
    assert "jobs" in reflected.tables
    assert "name" in Table("jobs", MetaData(), autoload_with=session.connection()).c


@legitimate(on="sqlite", tenants=EITHER)
def everything_is_dropped_and_made_again(session: Session) -> None:
    engine: Any = session.get_bind()
    session.close()
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    _seed(engine)


@legitimate(tenants=EITHER)
def transactions_by_hand(session: Session) -> None:
    with session.begin_nested() as savepoint:
        session.execute(insert(C).values(code="S", name="s"))
        savepoint.rollback()

    session.execute(text("SAVEPOINT a"))
    session.execute(text("RELEASE SAVEPOINT a"))
    assert session.get(Country, "S") is None


@legitimate(on="postgresql", tenants=EITHER)
def what_postgresql_has_beside_tables(session: Session) -> None:
    for sql in (
        "SET LOCAL statement_timeout = 0",
        "SHOW server_version",
        "LOCK TABLE lands IN SHARE MODE",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT set_config('x.y', 'jobs', true)",
        "NOTIFY jobs, 'x'",
    ):
        session.execute(text(sql))


@legitimate(on="mariadb", tenants=EITHER)
def what_mysql_has_beside_tables(session: Session) -> None:
    for sql in ("SET @a = 1", "SHOW TABLES", "DESCRIBE jobs", "SELECT GET_LOCK('jobs', 0)"):
        session.execute(text(sql))


@legitimate(tenants=EITHER)
def statements_are_printed(session: Session) -> None:
    bind: Any = session.get_bind()
    for statement in (select(Job), insert(J), update(J).values(name="x"), delete(J), select(J)):
        assert "jobs" in str(statement)
        assert "jobs" in str(statement.compile(bind))
        assert "jobs" in str(statement.compile(dialect=postgresql.dialect()))
        statement.compile(bind).params  # noqa: B018

    assert "= 1" in str(
        select(Job).where(Job.id == 1).compile(compile_kwargs={"literal_binds": True})
    )
    assert "jobs" in str(CreateTable(J).compile(bind))


@legitimate
def a_statement_is_printed_with_its_values(session: Session) -> None:
    bind: Any = session.get_bind()
    session.execute(select(J.c.id)).all()
    assert "'acme'" in str(select(J.c.id).compile(bind, compile_kwargs={"literal_binds": True}))


@legitimate(tenants=EITHER)
def types_of_every_kind(session: Session) -> None:
    class Kind(enum.Enum):
        a = 1
        b = 2

    kinds = Table(
        "kinds",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("k", Enum(Kind, name="legitimate_kind")),
        Column("u", Uuid),
        Column("j", JSON),
        Column("n", Numeric(10, 2)),
        Column("d", DateTime),
        Column("b", LargeBinary),
        Column("p", PickleType),
    )
    bind: Any = session.get_bind()
    kinds.drop(bind, checkfirst=True)
    kinds.create(bind)
    given = {
        "id": 1,
        "k": Kind.a,
        "u": uuid.uuid4(),
        "j": {"jobs": [1]},
        "n": decimal.Decimal("1.10"),
        "d": datetime.datetime(2026, 1, 1),
        "b": b"x",
        "p": {1},
    }
    session.execute(insert(kinds).values(given))
    assert session.execute(select(kinds).where(kinds.c.k == Kind.a)).mappings().one() == given
    assert session.scalar(select(cast(literal("a"), String(5)))) == "a"
    session.commit()
    kinds.drop(bind)


# Text in statements on owned tables.

FRAGMENTS = [
    "jobs.pay > 5",
    "pay > 5 OR pay < 100",
    "name LIKE 'N%'",
    "name <> 'a;b'",
    "name <> '--'",
    "name <> '/*'",
    "name <> 'it''s'",
    "(pay > 5)",
    "pay > 5 /* why, of all jobs */",
    "pay IN (10, 30)",
    "CASE WHEN pay > 5 THEN 1 ELSE 0 END = 1",
    "pay BETWEEN 1 AND 100",
    "coalesce(pay, 0) >= 0",
    "NOT (pay < 0)",
    "name IS NOT NULL",
    "'join jobs' <> name",
    "replace(name, 'N', 'M') <> ''",
    "jobs.name <> 'select * from jobs'",
    "exists (select 1 from lands where lands.code = 'NL')",
]
POSTGRESQL_FRAGMENTS = [
    """'{"a": 1}'::jsonb ? 'a'""",
    """'{"a": 1}'::jsonb @> '{"a": 1}'::jsonb""",
    """'{"a": {"b": 1}}'::json #>> '{a,b}' = '1'""",
    """'{"a": 1}'::jsonb - 'a' = '{}'""",
    "'[1, 2]'::jsonb #- '{0}' is not null",
    "'{a}'::text[] && '{a}'::text[]",
    "jobs.name ~ '^N[0-9]+$'",
    "jobs.name !~* 'x;y'",
    "jobs.name ILIKE '%n%'",
    "jobs.name SIMILAR TO 'N%'",
    r"jobs.name ~ E'\\d'",
    "jobs.id = ANY(ARRAY[1, 3])",
    "jobs.id IS DISTINCT FROM 2",
    "extract(year from now()) > 1",
    "now() AT TIME ZONE 'utc' IS NOT NULL",
    "substring(jobs.name from 1 for 1) = 'N'",
    "position('N' in jobs.name) = 1",
    "trim(both ' ' from jobs.name) <> ''",
    "$$x$$ = 'x'",
    "jobs.pay::text <> ''",
]


@pytest.mark.parametrize(
    ("shared", "fragment"),
    [("sqlite", fragment) for fragment in FRAGMENTS]
    + [("postgresql", fragment) for fragment in POSTGRESQL_FRAGMENTS],
    indirect=["shared"],
)
def test_a_text_as_a_criterion(shared: Engine, fragment: str) -> None:
    with tenant_scope("acme"), Session(shared) as session:
        found = session.scalars(select(J.c.name).where(text(fragment)).order_by(text("jobs.name")))
        assert found.all() == ["N1", "N3"]


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
@pytest.mark.parametrize("name", [r"C:\jobs\x", "a\\", r"\' OR 1 = 1 -- ", r"\\''\x"])
def test_a_value_with_backslashes_is_written_into_the_sql(shared: Engine, name: str) -> None:
    literally = bindparam("name", name, literal_execute=True)
    several = bindparam("names", [name], expanding=True, literal_execute=True)
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Job(name=name))
            session.flush()
            assert session.scalars(select(J.c.name).where(J.c.name == literally)).all() == [name]
            assert session.scalars(select(J.c.name).where(J.c.name.in_(several))).all() == [name]
            session.commit()


@legitimate
def text_in_every_other_place(session: Session) -> None:
    ordered = select(J.c.name).order_by(text("pay DESC"), literal_column("name"))
    assert session.scalars(ordered.group_by(text("name, pay"))).all() == ["N3", "N1"]
    counted = select(text("count(*)")).select_from(J)
    assert session.scalar(counted) == 2
    assert session.execute(select(J.c.name, text("'a' as lit")).order_by(J.c.id)).first() == (
        "N1",
        "a",
    )
    hinted = select(J.c.name).prefix_with("DISTINCT").suffix_with("/* jobs */")
    assert len(session.scalars(hinted).all()) == 2
    given = session.scalars(select(J.c.name).where(text("pay > :least")), {"least": 10})
    assert given.all() == ["N3"]
    assert session.execute(select(J.c.id.label("select from jobs"))).first() is not None
    assert session.scalars(select(J.alias("jobs_x").c.name)).first() is not None
    session.execute(select(cast(J.c.pay, Numeric(10, 2)), type_coerce(J.c.pay, String))).all()


@legitimate(on="postgresql")
def constructs_of_postgresql(session: Session) -> None:
    json = postgresql.JSONB
    session.execute(
        select(
            literal({"a": 1}, json)["a"].astext,
            literal({"a": 1}, json).has_key("a"),  # type: ignore[attr-defined]
            literal({"a": 1}, json).contains({"a": 1}),
            cast({"a": {"b": 1}}, json)[("a", "b")].astext,
            postgresql.array([1, 2]),
        )
    ).all()
    sorted_ids = func.array_agg(postgresql.aggregate_order_by(J.c.id, J.c.id.desc()))
    assert session.scalar(select(sorted_ids)) == [3, 1]
    session.execute(select(func.percentile_cont(0.5).within_group(J.c.pay))).all()
    found = func.to_tsvector("english", J.c.name).op("@@")(func.to_tsquery("english", "n1"))
    assert session.scalars(select(J.c.name).where(found)).all() == ["N1"]
    assert len(session.execute(select(J.c.id).distinct(J.c.id).order_by(J.c.id)).all()) == 2
    numbers = func.unnest(postgresql.array([1, 2])).table_valued("n").render_derived()
    assert len(session.execute(select(numbers.c.n)).all()) == 2
    keys = values(column("id", Integer), column("n", String), name="v").data([(1, "a"), (2, "b")])
    joined = select(J.c.name, keys.c.n).join(keys, keys.c.id == J.c.id)
    assert session.execute(joined).all() == [("N1", "a")]


# Objects.


@legitimate
def every_loader_strategy(session: Session) -> None:
    for load in (joinedload, selectinload, subqueryload, lazyload, immediateload):
        session.expire_all()
        options = (load(Job.steps), load(Job.tools))
        found = session.scalars(select(Job).options(*options).order_by(Job.id)).unique().all()
        assert [(len(job.steps), len(job.tools)) for job in found] == [(1, 1), (0, 0)]

    session.expire_all()
    few = select(Job).options(defer(Job.name), load_only(Job.id), noload(Job.steps), raiseload("*"))
    assert len(session.scalars(few).all()) == 2
    eager = select(Step).join(Step.job).options(contains_eager(Step.job))
    assert [step.text for step in session.scalars(eager)] == ["own"]
    parent = session.get(Job, 1)
    assert len(session.scalars(select(Step).where(with_parent(parent, Job.steps))).all()) == 1


@legitimate
def a_graph_of_objects_comes_and_goes(session: Session) -> None:
    job = Job(name="new", steps=[Step(text="s")], visits=[Visit()], tools=[Tool(name="t")])
    session.add(job)
    session.flush()
    assert (job.tenant_id, job.steps[0].job_id) == ("acme", job.id)
    job.name = "changed"
    session.commit()
    session.refresh(job)
    job.steps[0].text = "z"
    session.delete(job.visits[0])
    job.tools.clear()
    session.flush()
    session.expire(job)
    assert (job.visits, job.tools) == ([], [])
    session.delete(job)
    session.commit()
    assert names(session) == ["N1", "N3"]


@legitimate
def many_rows_at_once(session: Session) -> None:
    rows = [{"name": str(number)} for number in range(30)]
    assert len(session.scalars(insert(Job).returning(Job.id), rows).all()) == 30
    in_order = insert(Job).returning(Job.name, sort_by_parameter_order=True)
    assert session.scalars(in_order, rows).all() == [row["name"] for row in rows]
    session.bulk_insert_mappings(Job, [{"name": "q"}, {"name": "r", "pay": 1}])  # type: ignore[arg-type]
    session.bulk_update_mappings(Job, [{"id": 1, "name": "u"}])  # type: ignore[arg-type]
    session.execute(update(Job), [{"id": 1, "name": "v"}, {"id": 3, "name": "w"}])
    session.add_all([Job(name=str(number)) for number in range(20)])
    session.flush()
    assert session.scalar(select(func.count(Job.id))) == 84
    assert session.get(Job, 3).name == "w"  # type: ignore[union-attr]


@legitimate
def references_to_ones_own_rows(session: Session) -> None:
    session.execute(insert(Visit), [{"job_id": 1}, {"job_id": 3}, {"job_id": None}])
    session.execute(insert(Visit).values([{"job_id": 1}, {"job_id": 3}]))
    first = select(Job.id).order_by(Job.id).limit(1).scalar_subquery()
    session.execute(insert(Visit).values(job_id=first))
    session.execute(insert(Visit).from_select(["job_id"], select(Job.id)))
    session.execute(update(V).values(job_id=V.c.job_id))
    session.execute(update(V).values(job_id=func.coalesce(V.c.job_id, 1)))
    session.execute(update(V).values(job_id=case((V.c.id == 1, 1), else_=3)))
    assert session.scalar(select(func.count()).where(V.c.job_id == 3)) == 8
    assert session.execute(update(V).values(job_id=func.nullif(V.c.job_id, 1))).rowcount > 0  # type: ignore[attr-defined]
    session.execute(update(V).values(job_id=J.c.id).where(J.c.id == V.c.job_id))
    session.execute(update(Visit).values(job_id=None))


@legitimate
def references_in_every_spelling(session: Session) -> None:
    session.add(Visit(job_id="1"))
    session.flush()
    for whose in ("3", 3.0):
        session.execute(insert(Visit).values(job_id=whose))
        session.execute(update(Visit).where(Visit.id == 1).values(job_id=whose))

    session.execute(insert(Visit).values(job_id=True))
    assert session.scalar(select(func.count()).where(V.c.job_id == 1)) == 2


@legitimate(on="postgresql")
def a_row_is_inserted_beside_another(session: Session) -> None:
    job = insert(J).values(name="first").returning(J.c.id).cte("job")
    key = select(job.c.id).scalar_subquery()
    session.execute(insert(J).values(name="second", pay=key).add_cte(job))
    session.execute(insert(J).values(pay=key).add_cte(job), {"name": "second"})
    counted = select(func.count()).select_from(J).where(J.c.name.in_(["first", "second"]))
    assert session.scalar(counted) == 4


@legitimate
def a_reference_is_selected_in_each_row_of_several(session: Session) -> None:
    rows = [{"job_id": select(J.c.id).where(J.c.name == name)} for name in ("N1", "N3")]
    session.execute(insert(Visit).values(rows))
    session.execute(insert(V).values(rows))
    referred = select(J.c.name).join(V, V.c.job_id == J.c.id).order_by(V.c.id.desc()).limit(4)
    assert session.scalars(referred).all() == ["N3", "N1", "N3", "N1"]


@legitimate
def rows_are_copied_with_text_in_the_select(session: Session) -> None:
    session.execute(insert(J).from_select(["name"], select(text("name")).select_from(J)))
    both = select(text("name, pay")).select_from(J).where(text("jobs.id = 1"))
    session.execute(insert(J).from_select(["name", "pay"], both))
    counted = select(literal_column("max(name)"), J.c.pay).group_by(text("2")).order_by(text("2"))
    session.execute(insert(J).from_select(["name", "pay"], counted))
    visited = select(J.c.id).where(text("name IN (SELECT 'N1' UNION SELECT 'N3')"))
    session.execute(insert(V).from_select(["job_id"], visited.distinct()))
    session.execute(insert(Step).from_select(["text", "job_id"], select(text("'x'"), J.c.id)))
    assert len(names(session)) == 8
    assert session.scalar(select(func.count()).select_from(Step)) == 9


@legitimate
def rows_are_copied_by_a_union(session: Session) -> None:
    rows = select(Step.job_id, Step.text).union_all(select(J.c.id, J.c.name))
    session.execute(insert(Step).from_select(["job_id", "text"], rows))
    assert session.scalar(select(func.count()).select_from(Step)) == 4
    rows = select(literal("acme"), J.c.name).union_all(select(J.c.tenant_id, J.c.name))
    session.execute(insert(J).from_select(["tenant_id", "name"], rows))
    assert len(names(session)) == 6


@legitimate
def the_newest_of_ones_own_rows_is_referred_to(session: Session) -> None:
    newest = select(func.max(J.c.id)).scalar_subquery()
    session.execute(insert(V).values(job_id=newest))
    assert session.scalar(select(func.max(V.c.job_id))) == 3


@legitimate
def the_tenant_is_set_to_what_it_is(session: Session) -> None:
    session.execute(update(J).values(tenant_id="acme"))
    session.execute(update(J).values(tenant_id=J.c.tenant_id))
    session.execute(update(J).where(J.c.tenant_id == "acme").values(name="q"))
    session.execute(insert(J).values(tenant_id="acme", name="x"))
    session.execute(insert(J).values([{"tenant_id": "acme", "name": "x"}, {"name": "y"}][:1]))
    columns = ["tenant_id", "name"]
    session.execute(insert(J).from_select(columns, select(J.c.tenant_id, J.c.name)))
    session.bulk_update_mappings(Job, [{"id": 1, "tenant_id": "acme"}])  # type: ignore[arg-type]
    assert session.scalar(select(func.count()).select_from(J)) == 8


@legitimate
def the_tenant_is_selected_as_a_value(session: Session) -> None:
    rows = select(literal("acme"), J.c.name)
    session.execute(insert(J).from_select(["tenant_id", "name"], rows))
    assert session.scalar(select(func.count()).select_from(J)) == 4


def _insert(session: Session) -> Any:
    return {"sqlite": sqlite, "postgresql": postgresql}[session.get_bind().dialect.name].insert


@legitimate(on="sqlite postgresql")
def upserts(session: Session) -> None:
    insert = _insert(session)
    ids = {"index_elements": ["id"]}
    upsert = insert(J).values(id=1, name="up", pay=2)
    changed = {"name": upsert.excluded.name, "pay": J.c.pay + 1}
    session.execute(upsert.on_conflict_do_update(**ids, set_=changed))
    assert session.execute(select(J.c.name, J.c.pay).where(J.c.id == 1)).one() == ("up", 11)
    many = insert(J)
    many = many.on_conflict_do_update(**ids, set_={"name": many.excluded.name})
    session.execute(many, [{"id": 1, "name": "m"}, {"id": 3, "name": "n"}])
    assert names(session) == ["m", "n"]
    visit = insert(V).values(id=1, job_id=3)
    session.execute(visit.on_conflict_do_update(**ids, set_={"job_id": visit.excluded.job_id}))
    session.execute(visit.on_conflict_do_update(**ids, set_={"job_id": 1}))
    whole = insert(J).values(id=1, tenant_id="acme", name="w")
    everything = {found.name: whole.excluded[found.name] for found in J.c}
    session.execute(whole.on_conflict_do_update(**ids, set_=everything))
    entity = insert(Job).values(id=1, name="o")
    entity = entity.on_conflict_do_update(**ids, set_={"name": "o"}).returning(Job)
    found = session.scalars(entity, execution_options={"populate_existing": True}).one()
    assert found.name == "o"
    session.execute(insert(J).values(id=1).on_conflict_do_nothing())
    session.execute(
        insert(C)
        .values(code="NL", name="n")
        .on_conflict_do_update(index_elements=["code"], set_={"name": "n"})
    )


@legitimate
def texts_as_the_values_of_an_update(session: Session) -> None:
    for said in ("coalesce(pay, 0) + 1", "(SELECT max(pay) FROM (SELECT 1 AS pay, 2 AS b) AS x)"):
        session.execute(update(J).values(pay=text(said), name=literal_column("'a, b = 2'")))

    given = {J.c.pay: func.coalesce(J.c.pay, text("1")), "name": J.c.name + ", c"}
    session.execute(update(J).where(J.c.id == 1).values(given))
    session.execute(update(J).where(J.c.id == 1).ordered_values((J.c.pay, text("pay + 1"))))
    if session.get_bind().dialect.name != "sqlite":
        session.execute(update(J).where(J.c.id == 3).values(pay=text("DEFAULT")))

    job: Any = session.get(Job, 1)
    job.pay = text("nullif(pay, 7)")
    session.flush()
    assert (job.pay, job.name) == (2, "a, b = 2, c")


@legitimate(on="mariadb")
def upserts_of_mysql(session: Session) -> None:
    upsert = mysql.insert(J).values(id=1, name="up", pay=2)
    changed = upsert.on_duplicate_key_update(name=upsert.inserted.name, pay=J.c.pay + 1)
    session.execute(changed)
    assert session.execute(select(J.c.name, J.c.pay).where(J.c.id == 1)).one() == ("up", 11)
    many = mysql.insert(J)
    many = many.on_duplicate_key_update(name=many.inserted.name)
    session.execute(many, [{"id": 1, "name": "m"}, {"id": 3, "name": "n"}])
    assert names(session) == ["m", "n"]
    own = select(J.c.id, func.concat(J.c.name, "!"))
    again = mysql.insert(J).from_select(["id", "name"], own)
    session.execute(again.on_duplicate_key_update(name=again.inserted.name))
    assert names(session) == ["m!", "n!"]
    visit = mysql.insert(V).values(id=1, job_id=3)
    session.execute(visit.on_duplicate_key_update(job_id=visit.inserted.job_id))
    session.execute(visit.on_duplicate_key_update(job_id=1))
    longer = mysql.insert(J).values(id=1)
    session.execute(longer.on_duplicate_key_update(name=func.concat(J.c.name, "x"), pay=None))
    assert session.execute(select(J.c.name, J.c.pay).where(J.c.id == 1)).one() == ("m!x", None)
    shown = (J.c.id, J.c.name, func.upper(J.c.name).label("loud"), text("pay"))
    changed = mysql.insert(J).values(id=1).on_duplicate_key_update(name="r", pay=5)
    row = session.execute(changed.returning(*shown)).one()
    assert (row._mapping[J.c.id], row.name, row.loud, row.pay) == (1, "r", "R", 5)
    job = mysql.insert(Job).values(id=1).on_duplicate_key_update(name="again").returning(Job)
    assert session.scalars(job).one() is session.get(Job, 1)


@legitimate
def defaults_count_on_from_ones_own_rows(session: Session) -> None:
    def numbered(**options: Any) -> Table:
        following = select(func.coalesce(func.max(J.c.pay), 0) + 100).scalar_subquery()
        return Table(
            "jobs",
            MetaData(),
            Column("id", Integer, primary_key=True, default=following, autoincrement=False),
            Column("tenant_id", String(20)),
            Column("name", String(40)),
            Column("pay", Integer, default=following),
            **options,
        )

    # The first key is asked for beforehand, the second comes with RETURNING where there is one.
    session.execute(insert(numbered(implicit_returning=False)).values(name="first"))
    session.execute(insert(numbered()).values(name="second"))
    added = select(J.c.id, J.c.pay).where(J.c.id > 4).order_by(J.c.id)
    assert session.execute(added).all() == [(130, 130), (230, 230)]


@legitimate(tenants=EITHER)
def columns_and_labels_named_like_owned_tables(session: Session) -> None:
    odd = Table(
        "oddities",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("jobs", Integer),
        Column("tools", String(20)),
    )
    bind: Any = session.get_bind()
    odd.drop(bind, checkfirst=True)
    odd.create(bind)
    session.execute(insert(odd).values(id=1, jobs=5, tools="a"))
    session.execute(update(odd).values(jobs=6))
    for statement in (
        select(odd.c.jobs).where(odd.c.jobs == 6),
        select(odd.c.jobs.label("visits")).order_by("visits"),
        select(odd.alias("tools").c.jobs),
        select(odd.c.jobs).where(text("oddities.jobs > 5")).order_by(text("jobs")),
        select(odd.c.jobs).where(literal_column("jobs") == 6),
        select(odd.c.id + 5).where(text("id > 0 /* of all jobs */")),
        select(func.sum(odd.c.jobs).label("jobs")).having(text("sum(oddities.jobs) > 1")),
    ):
        assert session.scalar(statement) == 6

    assert session.execute(text("SELECT id FROM oddities")).all() == [(1,)]
    assert session.scalars(select(C.alias("jobs").c.code)).first() is not None
    session.commit()
    odd.drop(bind)


@legitimate
def subqueries_and_ctes_beside_text(session: Session) -> None:
    mine = select(J.c.id, J.c.name).cte("mine")
    assert len(session.execute(select(mine).where(text("mine.id > 0"))).all()) == 2
    below = select(J.c.id).subquery("tools")
    assert len(session.execute(select(below.c.id).where(text("tools.id > 0"))).all()) == 2
    alias = J.alias("j")
    chosen = text("j.pay > 1 and j.name in (select 'N1' union select 'N3')")
    assert len(session.execute(select(alias.c.id, text("j.name")).where(chosen)).all()) == 2


@legitimate
def many_rows_that_each_read_one(session: Session) -> None:
    highest = select(func.max(J.c.pay)).where(J.c.name != "N9").scalar_subquery()
    added = insert(J).values(pay=highest + 1).returning(J.c.name, J.c.pay)
    rows = session.connection().execute(added, [{"name": "a"}, {"name": "b"}]).all()
    highest_now = session.scalar(select(func.max(J.c.pay)))
    assert [name for name, _ in rows] == ["a", "b"]
    assert {pay for _, pay in rows} <= {highest_now, (highest_now or 0) - 1}


@legitimate
def templates(session: Session) -> None:
    if not hasattr(sqlalchemy, "tstring"):
        # SQLAlchemy 2.0
        return

    low = template("lower(", J.c.name, ") IN (", literal("n1"), ", 'n2')")
    assert session.scalars(select(J.c.name).where(low)).all() == ["N1"]
    chosen = template("lower(", J.c.name, ") = ", literal("n3"))
    jobs = select(J.c.name).where(chosen).scalar_subquery()
    assert session.execute(template("SELECT * FROM ", jobs, " AS found")).all() == [("N3",)]
    session.execute(insert(J).from_select(["name"], select(J.c.name).group_by(template("1"))))
    assert len(session.scalars(select(J.c.name)).all()) == 4
    on_mysql = session.get_bind().dialect.name == "mysql"
    session.execute(template("CREATE INDEX job_names ON jobs (name)"))
    session.execute(template("DROP INDEX job_names", " ON jobs" if on_mysql else ""))


@legitimate(on="postgresql mariadb")
def a_cte_by_the_name_of_its_table(session: Session) -> None:
    jobs = select(J.c.id, J.c.name).where(J.c.name != "N1").cte("jobs")
    assert session.execute(select(jobs.c.name)).all() == [("N3",)]
    before = select(J.c.id).cte("before")
    late = select(J.c.name).join(before, before.c.id == J.c.id).cte("jobs")
    assert len(session.execute(select(late.c.name).order_by(late.c.name)).all()) == 2


class Greater(FunctionElement[int]):
    type = Integer()
    inherit_cache = True
    name = "greater"


@compiles(Greater)
def _greater(element: Any, compiler: Any, **kw: Any) -> str:
    given = compiler.process(element.clauses, **kw)
    return f"CASE WHEN {given} > 0 THEN {given} ELSE 0 END"


class Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Any, compiler: Any, **kw: Any) -> str:
    return f"EXPLAIN {compiler.process(element.statement, **kw)}"


class Absolute(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        return func.abs(bindparam, type_=self)

    def column_expression(self, column: Any) -> Any:
        return func.abs(column, type_=self)


@legitimate
def constructs_and_types_of_ones_own(session: Session) -> None:
    greater = select(J.c.name).where(Greater(J.c.pay) > 10)
    assert session.scalars(greater).all() == ["N3"]
    session.execute(update(C).values(name="x").where(Greater(literal(1)) == 1))
    assert session.execute(Explain(select(C.c.code))).all()
    assert session.execute(Explain(select(J.c.id).where(J.c.id == 1))).all()
    assert session.scalar(select(literal(-5, Absolute()))) == 5


@legitimate(on="mariadb")
def casts_that_mysql_leaves_out(session: Session) -> None:
    with pytest.warns(sqlalchemy.exc.SAWarning, match="does not support CAST"):
        assert session.scalar(select(cast(J.c.id, Boolean)).where(J.c.id == 1)) is True


@tenant_aware
class Listed(Base):
    __tablename__ = "listed"
    id = key()
    tenant_id = tenant()
    numbers = mapped_column(postgresql.ARRAY(Integer).with_variant(JSON, "sqlite", "mysql"))
    document = mapped_column(JSON)


@legitimate(on="postgresql")
def elements_of_an_array(session: Session) -> None:
    session.add(Listed(numbers=[1, 2, 3]))
    session.flush()
    numbers: Any = Listed.__table__.c.numbers
    session.execute(update(Listed.__table__).values({numbers[1]: 9}))
    session.execute(update(Listed.__table__).values({numbers[2:3]: [7, 7]}))
    assert session.scalar(select(numbers)) == [9, 7, 7]


@legitimate
def documents(session: Session) -> None:
    session.add(Listed(document={"a": 1}))
    session.flush()
    found = session.scalars(select(Listed)).one()
    found.document = {"a": 2}
    session.flush()
    assert session.scalar(select(Listed.document["a"].as_integer())) == 2
    session.execute(insert(Listed), [{"document": {"a": [1]}}, {"document": None}])
    if session.get_bind().dialect.name == "mysql":
        upsert: Any = mysql.insert(Listed).values(id=found.id)
        upsert = upsert.on_duplicate_key_update(document={"b": 2})
    else:
        upsert = _insert(session)(Listed).values(id=found.id, document={"z": 1})
        upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"document": {"b": 2}})

    session.execute(upsert)
    session.expire_all()
    assert found.document == {"b": 2}


@legitimate(on="sqlite")
def what_only_sqlite_can(session: Session) -> None:
    session.execute(insert(J).prefix_with("OR IGNORE").values(id=1))
    session.execute(insert(J).prefix_with("OR ABORT").values(id=70))
    session.execute(insert(C).prefix_with("OR REPLACE").values(code="NL", name="z"))
    session.execute(update(J).prefix_with("OR IGNORE").values(name="x"))
    numbers = func.json_each("[1, 2]").table_valued("value")
    assert len(session.execute(select(J.c.id, numbers.c.value)).all()) == 6
    assert session.scalars(select(text("rowid")).select_from(J).order_by(J.c.id)).first() == 1
    for sql in (
        "REPLACE INTO lands VALUES ('NL', 'x')",
        "EXPLAIN QUERY PLAN SELECT 1",
        "SELECT * FROM json_each('[1]')",
        "PRAGMA table_info(jobs)",
        "ANALYZE",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<5) SELECT n FROM c",
    ):
        session.execute(text(sql))


@legitimate(on="mariadb")
def what_only_mysql_can(session: Session) -> None:
    session.execute(select(J).with_hint(J, "USE INDEX (PRIMARY)", "mysql")).all()
    session.execute(select(J).prefix_with("STRAIGHT_JOIN", "SQL_NO_CACHE")).all()
    one = update(J).values(name="l").with_dialect_options(mysql_limit=1)
    assert session.execute(one).rowcount == 1  # type: ignore[attr-defined]
    session.execute(insert(J).prefix_with("IGNORE").values(id=1))
    session.execute(select(J.c.name.op("REGEXP")("N"), J.c.name.op("SOUNDS LIKE")("N"))).all()
    session.execute(select(cast(J.c.id, mysql.INTEGER(unsigned=True)))).all()
    session.execute(select(cast(J.c.name, mysql.CHAR(5, charset="utf8mb4")))).all()
    session.execute(select(func.group_concat(J.c.name.op("ORDER BY")(J.c.id)))).all()
    session.execute(update(J).values(name="j").where(J.c.id == V.c.job_id))
    session.execute(update(J.join(V, V.c.job_id == J.c.id)).values({J.c.name: "k"}))
    session.execute(delete(V).where(V.c.job_id == J.c.id))
    session.execute(text("SELECT STRAIGHT_JOIN * FROM lands FORCE INDEX (PRIMARY)"))


@legitimate(on="postgresql")
def what_only_postgresql_can(session: Session) -> None:
    session.execute(select(J).with_hint(J, "ONLY", "postgresql")).all()
    session.execute(select(tablesample(J, func.bernoulli(100)))).all()
    session.execute(select(J).with_for_update(skip_locked=True, of=J)).all()
    session.execute(select(J.c.name, func.sum(J.c.pay)).group_by(func.rollup(J.c.name))).all()
    assert (
        len(session.scalars(select(J.c.id).order_by(J.c.pay).fetch(1, with_ties=True)).all()) == 1
    )
    keys = values(column("id", Integer), column("n", String), name="v").data([(1, "z"), (2, "z")])
    assert session.execute(update(J).values(name=keys.c.n).where(J.c.id == keys.c.id)).rowcount == 1  # type: ignore[attr-defined]
    assert session.execute(delete(V).where(V.c.job_id == keys.c.id)).rowcount == 1  # type: ignore[attr-defined]
    added = insert(J).values(name="c").returning(J.c.id).cte()
    session.execute(insert(V).from_select(["job_id"], select(added.c.id)))
    gone = delete(V).returning(V.c.id).cte()
    assert session.scalar(select(func.count()).select_from(gone)) == 1
    assert len(session.execute(select(func.row_to_json(text("jobs"))).select_from(J)).all()) == 3
    assert session.execute(select(text("g")).select_from(text("generate_series(1, 2) g"))).all()
    session.execute(
        select(
            cast("x", postgresql.TSVECTOR),
            cast([1], postgresql.ARRAY(Integer)),
            cast("1 day", postgresql.INTERVAL(fields="DAY TO SECOND")),
            cast("2020-01-01", postgresql.TIMESTAMP(timezone=True, precision=3)),
            cast("a", postgresql.VARCHAR(5, collation="C")),
            cast("jobs", postgresql.REGCLASS),
            cast("[1,2)", postgresql.INT4RANGE),
            literal_column("now() - interval '1 day'"),
        )
    ).all()


@legitimate(on="sqlite postgresql")
def conditions_that_fail_on_the_rows_of_others(session: Session) -> None:
    session.execute(update(J).values(name='{"a": 1}'))
    if session.get_bind().dialect.name == "sqlite":
        found = func.json_extract(J.c.name, "$.a") == 1
    else:
        found = cast(J.c.name, JSON)["a"].as_integer() == 1

    assert len(session.scalars(select(J.c.id).where(found)).all()) == 2
    assert session.scalars(select(Visit.id).join(Job, (Job.id == Visit.job_id) & found)).all() == [
        1
    ]
    assert session.execute(update(J).where(found).values(pay=1)).rowcount == 2  # type: ignore[attr-defined]
    assert session.execute(delete(J).where(found, J.c.id == 3)).rowcount == 1  # type: ignore[attr-defined]


@legitimate
def values_that_are_rendered_when_executed(session: Session) -> None:
    literally = bindparam("job", 3, literal_execute=True)
    session.execute(insert(V).values(id=60, job_id=literally))
    assert session.scalar(select(V.c.job_id).where(V.c.id == 60)) == 3
    chosen = select(J.c.name).where(J.c.id == bindparam("id", 3, literal_execute=True))
    assert session.scalars(chosen).all() == ["N3"]


@legitimate
def queries_of_the_old_style(session: Session) -> None:
    assert session.query(Job).count() == 2
    assert session.query(Job).filter_by(name="N1").update({"pay": 5}) == 1
    assert session.query(Job).filter(Job.name == "SECRET").delete() == 0
    assert session.query(func.count(Job.id)).scalar() == 2
    assert len(session.query(Job.id, Step).join(Step).all()) == 1
    assert session.query(Job).filter(Job.steps.any()).one().id == 1
    assert session.query(Step).filter(Step.job.has(name="N1")).one().id == 1
    by_id = session.query(Job).filter(Job.id.in_([1, 2, 3])).order_by(Job.id.desc())
    assert [job.id for job in by_id.limit(5).offset(0)] == [3, 1]
    other = aliased(Job)
    assert session.query(Job, other).join(other, other.id >= Job.id).count() == 3


@legitimate
def further_ways_to_select(session: Session) -> None:
    assert len(session.execute(select(Job).with_for_update()).all()) == 2
    assert len(session.execute(select(Bundle("b", Job.id, Job.name))).all()) == 2
    rows = select(Job.id, func.row_number().over(order_by=Job.id))
    assert session.execute(rows).all() == [(1, 1), (3, 2)]
    assert session.scalars(select(Job.id).union(select(Step.id)).order_by("id")).all() == [1, 3]
    session.merge(Job(id=1, name="merged"))
    session.flush()
    session.expunge_all()
    assert session.get(Job, 1, with_for_update=True) is session.get_one(Job, 1)


@legitimate
def the_connection_answers_as_ever(session: Session) -> None:
    bind: Any = session.get_bind()
    with bind.begin() as connection:
        assert connection.execute(update(J).values(pay=1)).rowcount == 2
        assert connection.execute(delete(J).where(J.c.id == 3)).rowcount == 1
        assert connection.scalar(select(func.count()).select_from(J)) == 1
        added = connection.execute(insert(J).values(name="k"))
        assert connection.scalar(select(J.c.name).where(J.c.id == added.inserted_primary_key[0]))


@legitimate
def streams(session: Session) -> None:
    assert len(list(session.scalars(select(Job).execution_options(yield_per=1)))) == 2
    parts = session.scalars(select(Job).order_by(Job.id)).partitions(1)
    assert [len(part) for part in parts] == [1, 1]
    bind: Any = session.get_bind()
    with bind.connect().execution_options(stream_results=True, max_row_buffer=1) as connection:
        assert len(connection.execute(select(J)).all()) == 2


@legitimate
def execution_options(session: Session) -> None:
    bind: Any = session.get_bind()
    assert len(session.execute(select(J), execution_options={"compiled_cache": None}).all()) == 2
    cache: dict[Any, Any] = {}
    with bind.connect().execution_options(compiled_cache=cache) as connection:
        for whose, ids in (("acme", [1, 3]), ("globex", [2, 4])):
            with tenant_scope(whose):
                assert connection.scalars(select(J.c.id).order_by(J.c.id)).all() == ids

    assert cache
    with bind.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(insert(C).values(code="au"))

    with bind.connect().execution_options(insertmanyvalues_page_size=2) as connection:
        rows = [{"name": str(number)} for number in range(7)]
        assert len(connection.execute(insert(J).returning(J.c.id), rows).all()) == 7


@legitimate
def the_applications_own_events(session: Session) -> None:
    bind, seen = session.get_bind(), []

    @event.listens_for(bind, "before_cursor_execute", retval=True)
    def comment(_: Any, __: Any, statement: str, params: Any, *___: Any) -> Any:
        return f"{statement} /* trace: jobs */", params

    @event.listens_for(bind, "before_execute", retval=True)
    def pass_on(_: Any, statement: Any, many: Any, params: Any, options: Any) -> Any:
        return statement, many, params

    @event.listens_for(bind, "after_cursor_execute")
    def note(*_: Any) -> None:
        seen.append("executed")

    @event.listens_for(session, "do_orm_execute")
    def filter_more(state: Any) -> None:
        if state.is_select:
            criteria = with_loader_criteria(Job, Job.pay > 10)
            state.statement = state.statement.options(criteria)

    assert [job.name for job in session.scalars(select(Job))] == ["N3"]
    session.execute(text("SELECT 1"))
    assert seen == ["executed", "executed"]
    session.execute(insert(Job).returning(Job.id), [{"name": "a"}, {"name": "b"}]).all()
    named = update(J).where(J.c.name == bindparam("old")).values(name=bindparam("new"))
    session.connection().execute(named, [{"old": "a", "new": "c"}, {"old": "b", "new": "d"}])


@legitimate(on="postgresql")
def an_event_asks_for_the_plan(session: Session) -> None:
    @event.listens_for(session.get_bind(), "before_cursor_execute", retval=True)
    def plan(_: Any, __: Any, statement: str, params: Any, *___: Any) -> Any:
        hinted = statement.replace("SELECT", "SELECT /*+ SeqScan(jobs) */", 1)
        return f"/* why */ EXPLAIN {hinted}", params

    assert "Scan" in str(session.connection().execute(select(J.c.name)).all())


@legitimate
def errors_of_the_application(session: Session) -> None:
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(insert(C).values(code="NL"))

    with pytest.raises(DBAPIError, match="nowhere"), session.begin_nested():
        session.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(CompileError, match="Unconsumed column names: nothing"):
        session.execute(update(J).values(nothing=1))

    with pytest.raises(StatementError, match="A value is required for bind parameter 'a'"):
        session.execute(text("SELECT :a"))

    with pytest.raises(NoResultFound, match="No row was found when one was required"):
        session.execute(select(Job).where(Job.id == 2)).one()

    @event.listens_for(session.get_bind(), "before_cursor_execute")
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("my own")

    with pytest.raises(ZeroDivisionError, match="my own"):
        session.execute(select(Job))

    event.remove(session.get_bind(), "before_cursor_execute", fail)


@legitimate
def a_session_that_is_used_again(session: Session) -> None:
    factory = scoped_session(sessionmaker(session.get_bind()))
    for _ in range(2):
        for whose, first in (("acme", 1), ("globex", 2)):
            with tenant_scope(whose):
                assert factory.scalars(select(Job).order_by(Job.id)).first().id == first  # type: ignore[union-attr]
                factory.commit()
                factory.close()

    factory.remove()


@legitimate
def a_refusal_inside_a_savepoint(session: Session) -> None:
    session.add(Job(name="kept"))
    session.flush()
    with pytest.raises(UnscopedStatementError, match="Raw SQL"), session.begin_nested():
        session.execute(text("SELECT * FROM jobs"))

    session.commit()
    assert names(session) == ["N1", "N3", "kept"]


@legitimate(on="postgresql mariadb")
def one_connection_for_several_sessions(session: Session) -> None:
    bind: Any = session.get_bind()
    session.close()
    with bind.connect() as connection:
        outer = connection.begin()
        first = Session(connection, join_transaction_mode="create_savepoint")
        second = Session(connection, join_transaction_mode="create_savepoint")
        first.add(Job(name="first"))
        first.commit()
        second.add(Job(name="second"))
        second.commit()
        assert names(first) == ["N1", "N3", "first", "second"]
        first.close(), second.close()
        outer.rollback()

    assert names(session) == ["N1", "N3"]


@pytest.mark.parametrize(("shared", "operation", "whose"), CASES, indirect=["shared"])
def test_it_works_and_leaves_the_others_alone(
    shared: Engine, operation: Callable[[Session], None], whose: str | None
) -> None:
    before = _of_globex(shared)
    scope = tenant_scope(whose) if whose else contextlib.nullcontext()
    with scope, Session(shared) as session:
        operation(session)
        session.commit()

    assert _of_globex(shared) == before


class Pickled(DeclarativeBase):
    pass


@tenant_aware
class Letter(Pickled):
    __tablename__ = "letters"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(9))


LETTERS: Any = Letter.__table__


@pytest.mark.parametrize(
    "what",
    [Pickled.metadata, LETTERS, LETTERS.c.name, select(LETTERS.c.name), insert(LETTERS)],
    ids=["metadata", "table", "column", "select", "insert"],
)
def test_what_plain_sqlalchemy_pickles_can_be_pickled(shared: Engine, what: Any) -> None:
    again = pickle.loads(pickle.dumps(what))
    names = {
        MetaData: lambda: select(again.tables["letters"].c.name),
        Table: lambda: select(again.c.name),
        Column: lambda: select(again),
        Select: lambda: again,
    }.get(type(what), lambda: select(again.table.c.name))()
    Pickled.metadata.create_all(shared)
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Letter(name=whose))
            session.commit()
            assert session.scalars(names).all() == [whose]


def _migrate(connection: Connection) -> None:
    migration = pytest.importorskip("alembic.migration")
    operations = pytest.importorskip("alembic.operations")
    autogenerate = pytest.importorskip("alembic.autogenerate")
    context = migration.MigrationContext.configure(connection)
    op = operations.Operations(context)
    op.create_table("moved", Column("id", Integer, primary_key=True), Column("n", String(10)))
    op.add_column("jobs", Column("zz", String(5)))
    op.bulk_insert(table("moved", column("id"), column("n")), [{"id": 1, "n": "x"}])
    op.execute("UPDATE moved SET n = 'y'")
    op.create_index("ix_zz", "jobs", ["zz"])
    op.drop_index("ix_zz", "jobs")
    op.drop_table("moved")
    found = autogenerate.compare_metadata(context, Base.metadata)
    assert ["zz"] == [change[3].name for change in found if change[0] == "remove_column"]
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("zz")


@pytest.mark.parametrize("shared", ["postgresql", "mariadb"], indirect=True)
def test_migrations_run_without_a_tenant(shared: Engine) -> None:
    before = _of_globex(shared)
    with shared.begin() as connection:
        _migrate(connection)

    assert _of_globex(shared) == before


def test_migrations_that_copy_tables_run_unscoped(shared: Engine) -> None:
    before = _of_globex(shared)
    with unscoped("migration", write=True), shared.begin() as connection:
        _migrate(connection)

    assert _of_globex(shared) == before


def test_migrations_that_copy_tables_do_not_leave_the_others_behind(shared: Engine) -> None:
    kept = "SELECT id, name FROM jobs WHERE tenant_id = 'globex'"
    before = _stored(shared, kept)
    with (
        pytest.raises(TenancyError, match="unscoped"),
        tenant_scope("acme"),
        shared.connect() as connection,
    ):
        _migrate(connection)
        connection.commit()

    assert _stored(shared, kept) == before


SHOWN = "CREATE VIEW shown AS SELECT name FROM jobs"


@pytest.mark.parametrize(
    "define",
    [
        lambda connection: connection.execute(DDL(SHOWN)),
        lambda connection: connection.execute(text(SHOWN)),
        lambda connection: connection.exec_driver_sql(SHOWN),
    ],
)
def test_a_view_is_a_definition_where_no_tenant_is_current(shared: Engine, define: Any) -> None:
    """To a tenant it is refused, also when the compiled text is at hand."""
    for _ in range(2):
        with shared.connect() as connection:
            define(connection)
            connection.exec_driver_sql("DROP VIEW shown")
            connection.commit()

        with (
            pytest.raises(UnscopedStatementError, match="jobs"),
            tenant_scope("acme"),
            shared.connect() as connection,
        ):
            define(connection)

    assert not inspect(shared).get_view_names()


# Models of every make, the same operations for each tenant in turn.


class Prefixed(TypeDecorator[str]):
    impl = String(40)
    cache_ok = True

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else self.prefix + str(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.removeprefix(self.prefix)


def _values(members: type[enum.Enum]) -> list[str]:
    return [member.value for member in members]


class Firm(enum.Enum):
    acme = "A"
    globex = "G"


@tenant_aware
class ByEnum(Base):
    __tablename__ = "by_enum"
    id = key()
    tenant_id = mapped_column(Enum(Firm))
    name = mapped_column(String(9))


class Initial(str, enum.Enum):
    acme = "a"
    globex = "g"


@tenant_aware
class ByCode(Base):
    __tablename__ = "by_code"
    id = key()
    tenant_id = mapped_column(Enum(Initial, values_callable=_values, native_enum=False))
    name = mapped_column(String(9))


@tenant_aware
class ByText(Base):
    __tablename__ = "by_text"
    id = key()
    tenant_id = mapped_column(String(9))
    name = mapped_column(String(9))


@pytest.mark.parametrize(("model", "spell"), [(ByCode, Initial), (ByCode, str), (ByText, Initial)])
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_member_of_an_enum_is_a_tenant_by_its_value(
    shared: Engine, model: Any, spell: Any
) -> None:
    for whose in _values(Initial):
        with tenant_scope(spell(whose)), Session(shared) as session:
            session.add_all([model(name="x"), model(name="y", tenant_id=Initial(whose))])
            session.execute(insert(model).values(name="z"))
            session.commit()

    with tenant_scope(spell("a")), Session(shared) as session:
        first = session.scalars(select(model).where(model.tenant_id == Initial.acme)).first()
        first.name = "changed"  # type: ignore[union-attr]
        session.commit()
        names = select(model.name).order_by(model.id)
        assert session.scalars(names).all() == ["changed", "y", "z"]
        with pytest.raises(CrossTenantAccessError, match="globex"):
            session.add(model(tenant_id=Initial.globex))

    stored = _stored(shared, f"SELECT DISTINCT tenant_id FROM {model.__tablename__}")
    assert stored == [("a",), ("g",)]


@tenant_aware
class ByNames(Base):
    __tablename__ = "by_names"
    id = key()
    tenant_id = mapped_column(Enum(*TENANTS, name="legitimate_tenant"))
    name = mapped_column(String(9))


@tenant_aware
class ByWords(Base):
    __tablename__ = "by_words"
    id = key()
    tenant_id = mapped_column(Enum(*TENANTS, native_enum=False))
    name = mapped_column(String(9))


@tenant_aware
class ByChar(Base):
    __tablename__ = "by_char"
    id = key()
    tenant_id = mapped_column(CHAR(10), nullable=False)
    name = mapped_column(String(9))


@tenant_aware
class ByPrefix(Base):
    __tablename__ = "by_prefix"
    id = key()
    tenant_id = mapped_column(Prefixed("a-"))
    name = mapped_column(String(9))


@tenant_aware
class ByOtherPrefix(Base):
    __tablename__ = "by_other_prefix"
    id = key()
    tenant_id = mapped_column(Prefixed("b-"))
    name = mapped_column(String(9))


@tenant_aware
class WithDefault(Base):
    __tablename__ = "with_default"
    id = key()
    tenant_id = mapped_column(String(9), default="nobody")
    name = mapped_column(String(9), default=lambda: "d", onupdate=lambda: "u")


@tenant_aware
class WithServerDefault(Base):
    __tablename__ = "with_server_default"
    id = key()
    tenant_id = mapped_column(String(9), server_default="nobody")
    name = mapped_column(String(9), server_default="d")


@tenant_aware
class WithCallable(Base):
    __tablename__ = "with_callable"
    id = key()
    tenant_id = mapped_column(String(9), default=lambda: current_tenant().tenant_id)
    name = mapped_column(String(9))


@tenant_aware
class AsDataclass(MappedAsDataclass, Base):
    __tablename__ = "as_dataclass"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    tenant_id: Mapped[str] = mapped_column(String(9), init=False)
    name: Mapped[str] = mapped_column(String(9), default="x")


@tenant_aware
class AsDataclassWithDefault(MappedAsDataclass, Base):
    __tablename__ = "as_dataclass_with_default"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    tenant_id: Mapped[str | None] = mapped_column(String(9), default=None)
    name: Mapped[str] = mapped_column(String(9), default="x")


@tenant_aware
class Validated(Base):
    __tablename__ = "validated"
    id = key()
    tenant_id = mapped_column(String(9))
    name = mapped_column(String(9))

    def __init__(self, name: str = "n") -> None:
        self.name = name

    @validates("name", "tenant_id")
    def check(self, attribute: str, value: Any) -> Any:
        assert value
        return value


MAKES = [
    ByEnum,
    ByNames,
    ByWords,
    ByChar,
    ByPrefix,
    ByOtherPrefix,
    WithDefault,
    WithServerDefault,
    WithCallable,
    AsDataclass,
    AsDataclassWithDefault,
    Validated,
]


@pytest.mark.parametrize("model", MAKES)
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_model_of_this_make(shared: Engine, model: Any) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(model())
            session.commit()
            found = session.scalars(select(model)).one()
            found.name = whose
            session.commit()
            session.execute(insert(model), [{"name": "q"}, {"name": "r"}])
            session.execute(insert(model).values(name="s"))
            assert session.scalar(select(func.count()).select_from(model)) == 4
            session.execute(update(model).values(name="z").where(model.id != found.id))
            session.execute(delete(model).where(model.id != found.id))
            session.commit()

    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            assert session.scalars(select(model)).one().name == whose


@pytest.mark.parametrize("model", MAKES)
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_rows_of_this_make_are_copied(shared: Engine, model: Any) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(model(name=whose))
            session.flush()
            copied = select(model.name).where(model.name == whose)
            session.execute(insert(model).from_select(["name"], copied))
            session.execute(insert(model).from_select(["name"], copied.union_all(copied)))
            named = select(model.tenant_id, model.name)
            session.execute(insert(model).from_select(["tenant_id", "name"], named))
            session.execute(update(model).values(tenant_id=model.tenant_id))
            session.commit()

    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            assert session.scalar(select(func.count()).select_from(model)) == 12


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_tenant_that_a_column_would_fill_up_to_another_does_not_fit(shared: Engine) -> None:
    with tenant_scope("acme"), Session(shared) as session:
        session.add(ByChar(name="own"))
        session.commit()

    with (
        tenant_scope("acme "),
        Session(shared) as session,
        pytest.raises(MalformedTenantError, match="does not fit"),
    ):
        session.scalars(select(ByChar)).all()


def test_each_tenant_column_has_a_type_of_its_own(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add_all([ByPrefix(name=whose), ByOtherPrefix(name=whose)])
            session.commit()

    assert _stored(shared, "SELECT tenant_id FROM by_prefix") == [("a-acme",), ("a-globex",)]
    assert _stored(shared, "SELECT tenant_id FROM by_other_prefix") == [("b-acme",), ("b-globex",)]


class Swapped(enum.Enum):
    acme = "globex"
    globex = "acme"


LIKE_EACH_OTHER = {
    "names": Enum(Swapped, name="legitimate_names"),
    "values": Enum(Swapped, name="legitimate_values", values_callable=_values),
    "strings": Enum(*TENANTS, name="legitimate_strings"),
    "text": String(32),
    "uuid": String(32).with_variant(postgresql.UUID(), "postgresql"),
}


@pytest.mark.parametrize("kinds", [list(LIKE_EACH_OTHER), list(LIKE_EACH_OTHER)[::-1]])
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_types_that_look_the_same_to_a_cache_are_told_apart(shared: Engine, kinds: Any) -> None:
    class Alike(DeclarativeBase):
        pass

    models: dict[str, Any] = {}
    for kind in kinds:
        columns = {"id": key(), "tenant_id": mapped_column(LIKE_EACH_OTHER[kind])}
        made = type(kind, (Alike,), {"__tablename__": f"alike_{kind}", **columns})
        models[kind] = tenant_aware(made)

    Alike.metadata.drop_all(shared)
    Alike.metadata.create_all(shared)
    for kind, model in models.items():
        tenants = TENANTS if kind != "uuid" else (uuid.UUID(int=1).hex, uuid.UUID(int=2).hex)
        for number, whose in enumerate(tenants, 1):
            with tenant_scope(whose), Session(shared) as session:
                session.add(model(id=number))
                session.commit()
                assert session.scalars(select(model.id)).all() == [number]

    assert _stored(shared, "SELECT tenant_id, id FROM alike_values ORDER BY id") == [
        ("acme", 2),
        ("globex", 1),
    ]
    Alike.metadata.drop_all(shared)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
@pytest.mark.parametrize(
    "type_",
    [
        Uuid().with_variant(String(36), "sqlite", "mysql", "mariadb"),
        String(36).with_variant(Uuid(), "sqlite", "postgresql", "mysql", "mariadb"),
        Integer().with_variant(String(36), "sqlite", "postgresql", "mysql", "mariadb"),
    ],
    ids=["uuid", "text", "integer"],
)
def test_a_tenant_fits_the_type_that_its_database_has(shared: Engine, type_: Any) -> None:
    class Base(DeclarativeBase):
        pass

    @tenant_aware
    class Varied(Base):
        __tablename__ = "varied"
        id = key()
        tenant_id = mapped_column(type_)
        name = mapped_column(String(9), default="new")

    Base.metadata.drop_all(shared)
    Base.metadata.create_all(shared)
    mine, others = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    for number, whose in enumerate((mine, others), 1):
        with tenant_scope(whose), Session(shared) as session:
            session.add(Varied(id=number))
            session.commit()

    with tenant_scope(mine), Session(shared) as session:
        assert session.get(Varied, 2) is None
        session.get_one(Varied, 1).name = "changed"
        session.execute(insert(Varied), [{"id": 3}, {"id": 4}])
        session.execute(update(Varied).where(Varied.id > 2).values(name="more"))
        session.commit()

    assert _stored(shared, "SELECT id, name FROM varied ORDER BY id") == [
        (1, "changed"),
        (2, "new"),
        (3, "more"),
        (4, "more"),
    ]
    Base.metadata.drop_all(shared)


class AnyCase(TypeDecorator[str]):
    impl = String(20)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(postgresql.CITEXT())


ANY_CASE: dict[str, Any] = {
    "sqlite-collation": lambda: String(20, collation="NOCASE"),
    "postgresql-collation": lambda: String(20, collation="legitimate_case"),
    "postgresql-citext": postgresql.CITEXT,
    "postgresql-variant": lambda: String(20).with_variant(postgresql.CITEXT(), "postgresql"),
    "postgresql-decorated": AnyCase,
    "postgresql-domain": lambda: postgresql.DOMAIN("legitimate_any", postgresql.CITEXT()),
    "postgresql-collated": lambda: postgresql.DOMAIN(
        "legitimate_firm", String(20), collation="legitimate_case"
    ),
}


@pytest.mark.parametrize(
    ("shared", "type_"),
    [pytest.param(name.split("-")[0], type_, id=name) for name, type_ in ANY_CASE.items()],
    indirect=["shared"],
)
def test_a_type_that_ignores_the_case_tells_tenants_apart(shared: Engine, type_: Any) -> None:
    if shared.dialect.name == "postgresql":
        try:
            with shared.begin() as connection:
                connection.execute(text("CREATE EXTENSION IF NOT EXISTS citext"))
                connection.execute(
                    text(
                        "CREATE COLLATION IF NOT EXISTS legitimate_case "
                        "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                    )
                )
        except DBAPIError as error:
            pytest.skip(f"This PostgreSQL comes without citext or ICU: {error}")

    made = tenant_table(
        Table(
            "any_case",
            MetaData(),
            Column("id", Integer, primary_key=True),
            Column("tenant_id", type_()),
            Column("name", String(9)),
        )
    )
    made.create(shared)
    spelled = ("acme", "ACME", "Acme")
    for whose in spelled:
        with tenant_scope(whose), shared.begin() as connection:
            connection.execute(insert(made).values(name=whose))
            connection.execute(tenant_text("INSERT INTO any_case (tenant_id) VALUES (:tenant)"))

    for whose in spelled:
        with tenant_scope(whose), shared.begin() as connection:
            assert connection.scalars(select(made.c.name)).all() == [whose, None]
            mine = tenant_text("SELECT tenant_id FROM any_case WHERE tenant_id = :tenant")
            assert connection.scalars(mine).all() == [whose, whose]
            assert connection.execute(delete(made)).rowcount == 2

    made.drop(shared)


@pytest.mark.parametrize("comment", ["", " /* route='/jobs' */"], ids=["", "a comment"])
@pytest.mark.parametrize(
    "name", ["item #", "a;b", "a--b", "a/*b", "it's", "%", 'a"b', "jobs", "a(b"]
)
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_column_may_have_any_name(shared: Engine, name: str, comment: str) -> None:
    """Drivers are given it as the name of a parameter."""

    def append(_: Any, __: Any, sql: str, values: Any, *___: Any) -> tuple[str, Any]:
        return sql + comment, values

    event.listen(shared, "before_cursor_execute", append, retval=True)
    made = tenant_table(
        Table(
            "any_column",
            MetaData(),
            Column("id", Integer, primary_key=True),
            Column("tenant_id", String(9)),
            Column(name, String(9)),
        )
    )
    made.drop(shared, checkfirst=True)
    made.create(shared)
    for whose in TENANTS:
        with tenant_scope(whose), shared.begin() as connection:
            connection.execute(insert(made), [{name: "a"}, {name: "b"}])
            connection.execute(insert(made).values({name: "c"}))
            changed = update(made).where(made.c[name] == "c").values({name: whose})
            assert connection.execute(changed).rowcount == 1
            found = select(made.c[name]).where(made.c[name] != "a", text("id > 0"))
            assert connection.scalars(found.order_by(made.c.id)).all() == ["b", whose]
            found = found.where(made.c[name].in_(["a", "b"]))
            assert connection.scalars(found).all() == ["b"]

    made.drop(shared)


@pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
def test_a_domain_is_what_it_is_made_of(shared: Engine) -> None:
    made = tenant_table(
        Table(
            "by_domain",
            MetaData(),
            Column("id", Integer, primary_key=True),
            Column("tenant_id", postgresql.DOMAIN("legitimate_number", Integer, check="VALUE > 0")),
        )
    )
    made.create(shared)
    for whose in (7, "8"):
        with tenant_scope(whose), shared.begin() as connection:
            connection.execute(insert(made))
            assert connection.scalars(select(made.c.tenant_id)).all() == [int(whose)]

    with (
        pytest.raises(MalformedTenantError, match="does not fit"),
        tenant_scope("acme"),
        shared.begin() as connection,
    ):
        connection.execute(select(made))

    made.drop(shared)


class Plain(TypeDecorator[str]):
    """As SQLModel declares its strings."""

    impl = String(40)
    cache_ok = True


class Guid(TypeDecorator[uuid.UUID]):
    """As SQLAlchemy's documentation writes it."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else uuid.UUID(str(value)).hex

    def process_result_value(self, value: Any, dialect: Any) -> uuid.UUID | None:
        return None if value is None else uuid.UUID(value)


class DeclaredGuid(Guid):
    cache_ok = True

    @property
    def python_type(self) -> type[uuid.UUID]:
        return uuid.UUID


class Figures(TypeDecorator[int]):
    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else f"#{value}"

    def process_result_value(self, value: Any, dialect: Any) -> int | None:
        return None if value is None else int(value[1:])


@tenant_aware
class ByPlain(Base):
    __tablename__ = "by_plain"
    id = key()
    tenant_id = mapped_column(Plain)
    name = mapped_column(String(9))


@tenant_aware
class ByGuid(Base):
    __tablename__ = "by_guid"
    id = key()
    tenant_id = mapped_column(Guid)
    name = mapped_column(String(9))


@tenant_aware
class ByDeclaredGuid(Base):
    __tablename__ = "by_declared_guid"
    id = key()
    tenant_id = mapped_column(DeclaredGuid)
    name = mapped_column(String(9))


@tenant_aware
class ByFigures(Base):
    __tablename__ = "by_figures"
    id = key()
    tenant_id = mapped_column(Figures)
    name = mapped_column(String(9))


UUIDS = uuid.UUID(int=0xACE), uuid.UUID(int=0x610BE)
SPELLED = [
    (ByPlain, str, UUIDS),
    (ByPlain, uuid.UUID, UUIDS),
    (ByGuid, str, UUIDS),
    (ByGuid, uuid.UUID, UUIDS),
    (ByDeclaredGuid, str, UUIDS),
    (ByDeclaredGuid, uuid.UUID, UUIDS),
    (ByDeclaredGuid, lambda tenant: tenant.upper(), UUIDS),
    (ByFigures, str, (7, 8)),
    (ByFigures, int, (7, 8)),
]


@pytest.mark.parametrize(("model", "spell", "tenants"), SPELLED)
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_tenant_is_spelled_as_text_or_not(
    shared: Engine, model: Any, spell: Any, tenants: Any
) -> None:
    mine, theirs = tenants
    for whose in tenants:
        with tenant_scope(whose), Session(shared) as session, session.begin():
            session.add_all([model(name="x"), model(name="y")])

    with tenant_scope(spell(str(mine))), Session(shared) as session:
        first, second = session.scalars(select(model).order_by(model.id))
        first.name = "z"
        session.delete(second)
        session.add(model(name="given", tenant_id=mine))
        session.commit()
        session.execute(insert(model).values(name="core", tenant_id=mine))
        session.commit()
        names = session.scalars(select(model.name).order_by(model.id)).all()
        assert names == ["z", "given", "core"]
        refused = pytest.raises(CrossTenantAccessError, match=str(theirs))
        with refused:
            session.add(model(name="x", tenant_id=theirs))

        with refused:
            session.execute(update(model).values(tenant_id=theirs))

    with tenant_scope(theirs), Session(shared) as session:
        assert session.scalars(select(model.name)).all() == ["x", "y"]


@dataclass(frozen=True)
class Key:
    value: str


class Keys(TypeDecorator[Key]):
    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return value.value if isinstance(value, Key) else value

    def process_result_value(self, value: Any, dialect: Any) -> Key | None:
        return None if value is None else Key(value)


class Capitals(TypeDecorator[str]):
    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else value.upper()


@tenant_aware
class ByKey(Base):
    __tablename__ = "by_key"
    id = key()
    tenant_id = mapped_column(Keys)
    name = mapped_column(String(9))


@tenant_aware
class ByCapitals(Base):
    __tablename__ = "by_capitals"
    id = key()
    tenant_id = mapped_column(Capitals)
    name = mapped_column(String(9))


@pytest.mark.parametrize(("model", "given"), [(ByKey, Key), (ByCapitals, str.upper)])
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_type_may_give_back_something_else_than_it_was_given(
    shared: Engine, model: Any, given: Any
) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add_all([model(name="x"), model(name="y", tenant_id=given(whose))])
            session.execute(insert(model).values(name="z", tenant_id=given(whose)))
            session.commit()

    with tenant_scope("acme"), Session(shared) as session:
        first, second, _ = session.scalars(select(model).order_by(model.id))
        assert first.tenant_id == given("acme")
        first.name = "changed"
        session.merge(first)
        session.delete(second)
        session.commit()
        with pytest.raises(CrossTenantAccessError, match="belongs to tenant"):
            session.add(model(tenant_id=given("globex")))

        with pytest.raises(CrossTenantAccessError, match="names tenant"):
            session.execute(update(model).values(tenant_id=given("globex")))

        names = select(model.name).order_by(model.id)
        assert session.scalars(names).all() == ["changed", "z"]

    with tenant_scope("globex"), Session(shared) as session:
        assert session.scalars(names).all() == ["x", "y", "z"]


def test_what_is_no_uuid_fits_no_type_of_uuids(shared: Engine) -> None:
    for whose in TENANTS:
        refused = pytest.raises(MalformedTenantError, match="does not fit")
        with refused, tenant_scope(whose), Session(shared) as session:
            session.scalars(select(ByDeclaredGuid)).all()


@tenant_aware
class Versioned(Base):
    __tablename__ = "versioned"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(9))
    version = mapped_column(Integer, nullable=False)
    __mapper_args__: ClassVar[Any] = {"version_id_col": version}


@pytest.mark.parametrize("whose", TENANTS)
def test_a_version_counter(shared: Engine, whose: str) -> None:
    for other in TENANTS:
        with tenant_scope(other), Session(shared) as session:
            session.add(Versioned(name=other))
            session.commit()

    with tenant_scope(whose), Session(shared) as session:
        found = session.scalars(select(Versioned)).one()
        found.name = "b"
        session.commit()
        assert found.version == 2
        session.connection().execute(update(Versioned.__table__).values(version=9))
        found.name = "c"
        with pytest.raises(StaleDataError, match="expected to update 1 row"):
            session.flush()

    versions = _stored(shared, "SELECT version FROM versioned")
    assert versions == [(1,), (2,)]


@tenant_aware
class Node(Base):
    __tablename__ = "nodes"
    id = key()
    tenant_id = tenant()
    parent_id = mapped_column(ForeignKey("nodes.id"))
    best_id = mapped_column(ForeignKey("nodes.id"))
    children = relationship(
        "Node", foreign_keys=parent_id, back_populates="parent", cascade="all, delete-orphan"
    )
    parent = relationship("Node", foreign_keys=parent_id, remote_side=id, back_populates="children")
    best = relationship("Node", foreign_keys=best_id, remote_side=id, post_update=True)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_tree_in_one_flush(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            root = Node(children=[Node(children=[Node(), Node()]), Node()])
            root.best = root.children[0]
            session.add(root)
            session.commit()
            root.children[0].children[0].parent = root.children[1]
            root.best = root
            session.commit()
            tree = select(Node.id).where(Node.id == root.id).cte(recursive=True)
            tree = tree.union_all(select(Node.id).join(tree, Node.parent_id == tree.c.id))
            assert len(session.execute(select(tree)).all()) == 5

    with tenant_scope("acme"), Session(shared) as session:
        root = session.scalars(select(Node).where(Node.parent_id.is_(None))).one()
        root.best = None
        session.flush()
        session.delete(root)
        session.commit()

    assert _stored(shared, "SELECT DISTINCT tenant_id FROM nodes") == [("globex",)]


@tenant_aware
class Shelf(Base):
    __tablename__ = "shelves"
    tenant_id = mapped_column(String(9), primary_key=True)
    number = mapped_column(Integer, primary_key=True, autoincrement=False)
    name = mapped_column(String(9))
    books = relationship("Book", back_populates="shelf")


@tenant_aware
class Book(Base):
    __tablename__ = "books"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "number"], ["shelves.tenant_id", "shelves.number"]),
    )
    id = key()
    tenant_id = tenant()
    number = mapped_column(Integer)
    shelf = relationship(Shelf, back_populates="books")


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_keys_that_include_the_tenant(shared: Engine) -> None:
    for whose, other in (TENANTS, TENANTS[::-1]):
        with tenant_scope(whose), Session(shared) as session:
            session.add(Shelf(number=1, name="x", books=[Book(), Book()]))
            session.commit()
            session.add(Book(number=1))
            session.execute(insert(Book), [{"number": 1}])
            session.execute(update(Book).values(number=None))
            session.execute(update(Book).values(number=1))
            session.merge(Shelf(tenant_id=whose, number=1, name="merged"))
            session.commit()
            assert session.get(Shelf, (whose, 1)).name == "merged"  # type: ignore[union-attr]
            assert session.get(Shelf, (other, 1)) is None
            assert len(session.get(Shelf, (whose, 1)).books) == 4  # type: ignore[union-attr]


def test_a_dialect_is_given_an_execution_context_of_ones_own(shared: Engine) -> None:
    begun: list[str] = []

    class Own(SQLiteExecutionContext):
        def pre_exec(self) -> None:
            begun.append(self.statement)
            super().pre_exec()

    def ids() -> list[int]:
        with shared.connect() as connection:
            return list(connection.scalars(select(Job.id).order_by(Job.id)))

    with tenant_scope("acme"):
        mine = ids()

    with shared.connect() as connection:
        dialects = [shared.dialect, connection.dialect]

    for dialect in dialects:
        begun.clear()
        with mock.patch.object(dialect, "execution_ctx_cls", Own):
            with tenant_scope("acme"):
                assert ids() == mine

            with pytest.raises(MissingTenantContextError, match="No tenant is current"):
                ids()

        assert len(begun) == 1
        with tenant_scope("acme"):
            assert ids() == mine

        assert len(begun) == 1


def test_a_session_may_be_bound_to_a_stand_in() -> None:
    engine = mock.Mock()
    with tenant_scope("acme"), Session(engine) as session:
        assert session.connection() is engine.connect.return_value
        session.commit()


def test_a_dialect_may_be_a_stand_in() -> None:
    engine = create_engine("sqlite://", _initialize=False)
    engine.dialect = mock.Mock()
    with engine.connect() as connection:
        assert connection.dialect is engine.dialect


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_table_may_be_called_values(shared: Engine) -> None:
    table = Table(
        "values",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("tenant_id", String(9)),
    )
    table.drop(shared, checkfirst=True)
    table.create(shared)
    tenant_table(table)
    value = type("Value", (), {})
    sqlalchemy.orm.registry().map_imperatively(value, table)
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add_all([value(), value()])
            session.commit()
            assert session.scalar(select(func.count()).select_from(table)) == 2

    name = shared.dialect.identifier_preparer.format_table(table)
    assert len(_stored(shared, f"SELECT * FROM {name}")) == 4
    table.drop(shared)


@tenant_aware
class Seat(Base):
    __tablename__ = "seats"
    __table_args__ = (ForeignKeyConstraint(["hall", "behind"], ["seats.hall", "seats.number"]),)
    hall = mapped_column(Integer, primary_key=True, autoincrement=False)
    number = mapped_column(Integer, primary_key=True, autoincrement=False)
    tenant_id = tenant()
    behind = mapped_column(Integer)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_part_of_a_key_is_set_where_the_rest_is_known_or_it_becomes_null(shared: Engine) -> None:
    for hall, whose in enumerate(TENANTS):
        with tenant_scope(whose), Session(shared) as session, session.begin():
            session.add(Seat(hall=hall, number=1))
            session.flush()
            session.add(Seat(hall=hall, number=2, behind=1))

    with tenant_scope("acme"), Session(shared) as session:
        seat = session.get_one(Seat, (0, 2))
        seat.behind = None
        session.commit()
        seat.behind = 1
        session.commit()
        session.execute(update(Seat).values(behind=None))
        session.execute(update(Seat).where(Seat.hall == 0, Seat.number == 2).values(behind=1))
        session.commit()
        with pytest.raises(CrossTenantReferenceError, match="does not belong"):
            session.execute(
                update(Seat).where((Seat.hall == 1) & (Seat.number == 2)).values(behind=1)
            )

        # The rest is what the changed rows hold: acme has this hall alone.
        assert session.execute(update(Seat).values(behind=1)).rowcount == 2  # type: ignore[attr-defined]
        session.rollback()

    assert _stored(shared, "SELECT hall, number, behind FROM seats ORDER BY 1, 2") == [
        (0, 1, None),
        (0, 2, 1),
        (1, 1, None),
        (1, 2, 1),
    ]


@tenant_aware
class Person(Base):
    __tablename__ = "persons"
    id = key()
    tenant_id = tenant()
    kind = mapped_column(String(9))
    __mapper_args__: ClassVar[Any] = {"polymorphic_on": kind, "polymorphic_identity": "person"}


class Clerk(Person):
    __tablename__ = "clerks"
    id = mapped_column(ForeignKey("persons.id"), primary_key=True)
    wage = mapped_column(Integer)
    boss_id = mapped_column(ForeignKey("clerks.id"))
    boss = relationship("Clerk", remote_side="Clerk.id", foreign_keys=boss_id)
    __mapper_args__: ClassVar[Any] = {
        "polymorphic_identity": "clerk",
        "inherit_condition": id == Person.id,
    }


class Animal(AbstractConcreteBase, Base):
    strict_attrs = True
    tenant_id = mapped_column(String(9))
    name = mapped_column(String(9))


@tenant_aware
class Cat(Animal):
    __tablename__ = "cats"
    id = key()
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "cat", "concrete": True}


@tenant_aware
class Dog(Animal):
    __tablename__ = "dogs"
    id = key()
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "dog", "concrete": True}


@tenant_aware
class Vehicle(AbstractConcreteBase, Base):
    pass


class Car(Vehicle):
    __tablename__ = "cars"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(9))
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "car", "concrete": True}


class Bike(Vehicle):
    __tablename__ = "bikes"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(9))
    __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "bike", "concrete": True}


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_inheritance(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add_all([Clerk(wage=2, boss=Clerk(wage=1)), Person()])
            session.add_all([Cat(name="c"), Dog(name="d")])
            session.add_all([Car(name=whose[:1]), Bike(name=whose[-1:])])
            session.commit()
            assert len(session.scalars(select(Person)).all()) == 3
            session.execute(update(Clerk).values(wage=3))
            assert session.scalar(select(func.sum(Clerk.wage))) == 6
            assert len(session.scalars(select(with_polymorphic(Person, "*"))).all()) == 3
            assert len(session.execute(select(Clerk.__table__)).all()) == 2
            session.execute(insert(Clerk), [{"wage": 5}, {"wage": 6}])
            session.bulk_save_objects([Clerk(wage=1)])
            assert session.scalar(select(func.count(Clerk.id))) == 5
            assert sorted(found.name for found in session.scalars(select(Animal))) == ["c", "d"]
            vehicles = session.scalars(select(Vehicle).order_by(Vehicle.name))
            assert [found.name for found in vehicles] == sorted(whose[0] + whose[-1])


@tenant_aware
class Album(Base):
    __tablename__ = "albums"
    id = key()
    tenant_id = tenant()
    songs = relationship(lambda: Song, secondary="album_songs")
    verses = relationship(
        lambda: Verse,
        secondary=lambda: join(album_songs, Song.__table__),
        primaryjoin=lambda: Album.id == album_songs.c.album_id,
        secondaryjoin=lambda: Song.__table__.c.id == Verse.song_id,
        viewonly=True,
    )
    covers = relationship("Cover", lazy="write_only", cascade="all, delete-orphan")
    all_covers = relationship("Cover", lazy="dynamic", viewonly=True)


@tenant_aware
class Song(Base):
    __tablename__ = "songs"
    id = key()
    tenant_id = tenant()
    name = mapped_column(String(9))


@tenant_aware(through="song")
class Verse(Base):
    __tablename__ = "verses"
    id = key()
    song_id = mapped_column(ForeignKey("songs.id"))
    song = relationship(Song)


@tenant_aware
class Cover(Base):
    __tablename__ = "covers"
    id = key()
    tenant_id = tenant()
    album_id = mapped_column(ForeignKey("albums.id"))


album_songs = Table(
    "album_songs",
    Base.metadata,
    Column("album_id", ForeignKey("albums.id"), primary_key=True),
    Column("song_id", ForeignKey("songs.id"), primary_key=True),
)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_relationships_of_every_make(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            album = Album(songs=[Song(name="1"), Song(name="2")])
            session.add(album)
            session.flush()
            session.add_all([Verse(song=album.songs[0]), Verse(song_id=album.songs[1].id)])
            album.covers.add(Cover())
            session.commit()
            assert len(album.verses) == 2
            assert len(session.scalars(album.covers.select()).all()) == 1
            assert album.all_covers.count() == 1
            eager = select(Album).options(selectinload(Album.verses), joinedload(Album.songs))
            assert len(session.scalars(eager).unique().one().songs) == 2
            assert session.scalars(select(Album).where(Album.verses.any())).one() is album
            session.execute(album.covers.update().values(album_id=album.id))
            album.songs.pop()
            session.commit()
            assert session.scalar(select(func.count()).select_from(album_songs)) == 1
            last = session.scalars(select(Song.id).order_by(Song.id.desc()).limit(1)).one()
            session.execute(insert(album_songs).values(album_id=album.id, song_id=last))
            session.commit()

    assert len(_stored(shared, "SELECT * FROM album_songs")) == 4


@tenant_aware
class Keyed(Base):
    __tablename__ = "keyed"
    id = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    tenant_id = tenant()
    other_id = mapped_column(ForeignKey("keyed.id"))
    other = relationship("Keyed", remote_side=id)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_references_by_uuid(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            first = Keyed()
            session.add(first)
            session.flush()
            session.add_all([Keyed(other=first), Keyed(other_id=first.id)])
            session.execute(insert(Keyed), [{"other_id": first.id}])
            session.execute(insert(Keyed).values(other_id=first.id))
            rows = [{"id": uuid.uuid4(), "other_id": first.id} for _ in range(2)]
            session.execute(insert(Keyed).values(rows))
            session.commit()
            assert session.scalar(select(func.count()).select_from(Keyed)) == 7


class Unowned(Base):
    __tablename__ = "unowned_links"
    id = key()
    name = mapped_column(String(9))
    cover_id = mapped_column(ForeignKey("covers.id"))
    cover = relationship(Cover)


def test_an_unowned_table_that_refers_to_an_owned_one(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Unowned(cover=Cover(), name="x"))
            session.commit()

    with Session(shared) as session:
        assert len(session.scalars(select(Unowned)).all()) == 2
        session.execute(update(Unowned).values(name="z"))
        session.execute(delete(Unowned))
        session.commit()


@pytest.mark.parametrize("model", [Country, Job, Step])
def test_a_model_has_no_mapper_events_but_its_own(shared: Engine, model: Any) -> None:
    """There are libraries that take another way where a mapper has any."""
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Job())
            session.flush()

    dispatch = inspect(model).dispatch
    assert not any(
        getattr(dispatch, f"{when}_{what}")
        for when in ("before", "after")
        for what in ("insert", "update", "delete")
    )


def test_a_mapper_event_sees_the_tenant_of_a_new_row(shared: Engine) -> None:
    seen = []

    def note(mapper: Any, connection: Any, album: Any) -> None:
        seen.append(album.tenant_id)

    event.listen(Album, "before_insert", note)
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Album())
            session.commit()

    event.remove(Album, "before_insert", note)
    assert seen == list(TENANTS)


def test_what_a_later_listener_adds_to_a_flush_is_stamped(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            event.listen(session, "before_flush", lambda session, *_: session.add(Cover()))
            session.add(Album())
            session.commit()

    assert _stored(shared, "SELECT tenant_id FROM covers") == [("acme",), ("globex",)]


def test_a_flush_is_refused_before_its_first_statement(shared: Engine) -> None:
    sent: list[str] = []
    event.listen(shared, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with tenant_scope("acme"), Session(shared) as session:
        job = Job()
        session.add_all([Country(code="US", name="x"), job])
        job.tenant_id = "globex"
        with pytest.raises(CrossTenantAccessError, match="belongs to tenant 'globex'"):
            session.flush()

    assert sent == []


ASYNC = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "mariadb": "mysql+asyncmy",
}


@pytest.mark.parametrize("on", ASYNC)
def test_everything_async(on: str) -> None:
    engine = _engine(on)
    _seed(engine)
    before = _of_globex(engine)
    if on == "sqlite":
        url: Any = databases.server("sqlite").url(ASYNC[on], "legitimate")
        _seed(create_engine(url.set(drivername=DRIVERS[on])))
    else:
        url = engine.url.set(drivername=ASYNC[on])

    asyncio.run(_everything_async(url))
    assert _of_globex(engine) == before
    engine.dispose()


async def _everything_async(url: Any) -> None:
    engine = create_async_engine(url)
    async with atenant_scope("acme"), AsyncSession(engine, expire_on_commit=False) as session:
        job = Job(name="new", tools=[Tool(name="t")])
        session.add(job)
        await session.commit()
        await session.refresh(job, ["tools", "id"])
        assert len(job.tools) == 1
        stream = await session.stream(select(Job))
        assert len([row async for row in stream]) == 3
        await session.scalars(select(Job).options(selectinload(Job.tools)))
        await session.merge(Job(id=1, name="merged"))
        async with session.begin_nested():
            session.add(Job(name="nested"))

        await session.execute(insert(Job), [{"name": "1"}, {"name": "2"}])
        await session.commit()
        parts = await session.stream_scalars(select(Job.id).execution_options(yield_per=1))
        assert len([part async for part in parts.partitions(1)]) == 6
        assert await session.run_sync(lambda sync: sync.scalar(select(func.count(Job.id)))) == 6
        assert await session.get(Job, 2) is None

    for call in (
        lambda session: session.execute(select(Job)),
        lambda session: session.stream(select(Job)),
        lambda session: session.get(Job, 1),
        lambda session: session.execute(insert(Job).values(name="1").returning(Job.id)),
        lambda session: session.execute(insert(Job), [{"name": "1"}, {"name": "2"}]),
        lambda session: session.execute(update(Job).values(name="1")),
    ):
        async with AsyncSession(engine) as session:
            with pytest.raises(MissingTenantContextError, match="No tenant is current") as caught:
                await call(session)

            assert not isinstance(caught.value, sqlalchemy.exc.StatementError)

    await engine.dispose()


@tenant_aware
class Region(Base):
    __tablename__ = "regions"
    land = mapped_column(String(8), primary_key=True)
    number = mapped_column(Integer, primary_key=True, autoincrement=False)
    tenant_id = tenant()


@tenant_aware
class Shop(Base):
    __tablename__ = "shops"
    __table_args__ = (ForeignKeyConstraint(["land", "number"], ["regions.land", "regions.number"]),)
    id = key()
    tenant_id = tenant()
    land = mapped_column(String(8))
    number = mapped_column(Integer)
    region = relationship(Region)


def _two_regions_and_a_shop(shared: Engine) -> None:
    for first, whose in enumerate(TENANTS):
        with tenant_scope(whose), Session(shared) as session:
            session.add_all([Region(land="NL", number=first), Region(land="NL", number=first + 2)])
            session.add(Shop(land="NL", number=first))
            session.commit()


PARTS: list[Callable[[Session, Any, int], Any]] = [
    lambda session, shop, to: setattr(shop, "number", to),
    lambda session, shop, to: session.execute(update(Shop).values(number=to)),
    lambda session, shop, to: session.execute(update(Shop), [{"id": shop.id, "number": to}]),
    lambda session, shop, to: session.query(Shop).filter_by(land="NL").update({"number": to}),
    lambda session, shop, to: session.connection().execute(
        update(Shop.__table__).where(Shop.id == shop.id).values(number=bindparam("to")),
        [{"to": 0}, {"to": to}],
    ),
]


@pytest.mark.parametrize("change", PARTS)
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_part_of_a_key_is_changed(shared: Engine, change: Any) -> None:
    _two_regions_and_a_shop(shared)
    with tenant_scope("acme"), Session(shared) as session:
        shop = session.scalars(select(Shop)).one()
        change(session, shop, 2)
        session.commit()
        assert session.scalars(select(Shop.number)).one() == 2
        with pytest.raises(CrossTenantReferenceError, match="does not belong to the current"):
            change(session, shop, 3)
            session.flush()

        session.rollback()
        shop.number = None
        session.commit()

    assert _stored(shared, "SELECT number FROM shops WHERE tenant_id = 'globex'") == [(1,)]


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
@pytest.mark.parametrize("other", [Region, aliased(Shop)], ids=["table", "alias"])
@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_what_other_rows_are_says_nothing_of_a_key(shared: Engine, other: Any) -> None:
    _two_regions_and_a_shop(shared)
    with tenant_scope("acme"), Session(shared) as session:
        session.add(Region(land="BE", number=3))
        session.flush()
        session.add(Shop(id=60, land="BE", number=3))
        session.flush()
        changed = update(Shop).where(other.land == "BE", Shop.id != 60)
        options = {"synchronize_session": False}
        session.execute(changed.values(number=2), execution_options=options)
        with pytest.raises(CrossTenantReferenceError, match="does not belong to the current"):
            session.execute(changed.values(number=3), execution_options=options)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_key_of_two_columns_is_read_from_one_row(shared: Engine) -> None:
    _two_regions_and_a_shop(shared)
    with tenant_scope("acme"), Session(shared) as session:
        rows = select(Region.land, Region.number)
        session.execute(insert(Shop).from_select(["land", "number"], rows))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Shop)) == 3
        other = aliased(Region)
        mixed = select(Region.land, other.number).join(other, other.land == Region.land)
        with pytest.raises(CrossTenantReferenceError, match="cannot be told"):
            session.execute(insert(Shop).from_select(["land", "number"], mixed))


@tenant_aware
class Folder(Base):
    __tablename__ = "folders"
    id = key()
    tenant_id = tenant()
    papers = relationship(
        "Paper",
        secondary="folder_papers",
        primaryjoin="Folder.id == folder_papers.c.folder_id",
        secondaryjoin="Paper.id == folder_papers.c.paper_id",
    )


@tenant_aware
class Paper(Base):
    __tablename__ = "papers"
    id = key()
    tenant_id = tenant()


folder_papers = Table(
    "folder_papers",
    Base.metadata,
    Column("folder_id", ForeignKey("folders.id"), primary_key=True),
    Column("paper_id", ForeignKey("papers.id"), primary_key=True),
    Column("instead_of_id", ForeignKey("papers.id")),
)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_an_association_with_a_third_key_that_may_be_empty(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            folder = Folder(papers=[Paper(), Paper()])
            session.add(folder)
            session.commit()
            assert len(folder.papers) == 2
            paper = folder.papers[0].id
            session.execute(update(folder_papers).values(instead_of_id=paper))
            folder.papers.pop()
            session.commit()
            assert len(session.execute(select(folder_papers)).all()) == 1
            foreign = _stored(shared, f"SELECT min(id) FROM papers WHERE tenant_id <> '{whose}'")
            if foreign != [(None,)]:
                with pytest.raises(CrossTenantReferenceError, match="does not belong to the"):
                    session.execute(update(folder_papers).values(instead_of_id=foreign[0][0]))


@tenant_aware(through="folder")
class Sheet(Base):
    __tablename__ = "sheets"
    id = key()
    folder_id = mapped_column(ForeignKey("folders.id"), nullable=False)
    folder = relationship(Folder)


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_missing_parent_is_left_to_the_database_where_it_must_be_there(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Sheet(folder=Folder()))
            session.commit()
            session.add(Sheet())
            with pytest.raises(IntegrityError):
                session.flush()

            session.rollback()
            session.scalars(select(Sheet)).one().folder_id = None
            with pytest.raises(IntegrityError):
                session.flush()


@tenant_aware(through="sheet")
class Wrapping(Base):
    __tablename__ = "wrappings"
    sheet_id = mapped_column(ForeignKey("sheets.id"), primary_key=True)
    colour = mapped_column(String(9))
    sheet = relationship(Sheet)


@pytest.mark.filterwarnings("ignore:Column 'wrappings.sheet_id' is marked")
@pytest.mark.parametrize(
    ("shared", "match"),
    [
        ("postgresql", 'null value in column "sheet_id"'),
        ("mariadb", "'sheet_id' doesn't have a default value"),
    ],
    indirect=["shared"],
)
def test_a_key_that_no_database_numbers_may_not_be_left_out(shared: Engine, match: str) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Wrapping(sheet=Sheet(folder=Folder()), colour=whose))
            session.commit()
            left_out = insert(Wrapping.__table__).values(colour="red")
            with pytest.raises(DBAPIError, match=match):
                session.execute(left_out)

            session.rollback()
            assert session.scalars(select(Wrapping.colour)).all() == [whose]


@tenant_aware
class Code(Base):
    __tablename__ = "codes"
    code = mapped_column(CHAR(6), primary_key=True)
    tenant_id = tenant()
    above = mapped_column(ForeignKey("codes.code"))


@pytest.mark.parametrize("shared", DRIVERS, indirect=True)
def test_a_key_that_the_database_writes_otherwise(shared: Engine) -> None:
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Code(code=whose[:2]))
            session.commit()
            session.execute(insert(Code).values(code=whose[:3], above=whose[:2]))
            if shared.dialect.name == "mysql":
                session.execute(insert(Code).values(code=whose[:4], above=whose[:2].upper()))

            session.commit()

    with tenant_scope("acme"), Session(shared) as session:
        session.add(Code(code="x", above="gl"))
        with pytest.raises(CrossTenantReferenceError, match="does not belong to the current"):
            session.flush()


@tenant_aware(shared=True)
class Norm(Base):
    __tablename__ = "norms"
    id = key()
    tenant_id = mapped_column(String(20))


@tenant_aware
class Check(Base):
    __tablename__ = "checks"
    id = key()
    tenant_id = tenant()
    norm_id = mapped_column(ForeignKey("norms.id"))
    passed = mapped_column(Integer)


@pytest.mark.parametrize("shared", ["mariadb"], indirect=True)
def test_an_update_over_a_join_with_shared_rows(shared: Engine) -> None:
    connection = shared.raw_connection()
    connection.cursor().execute("INSERT INTO norms (id, tenant_id) VALUES (9, NULL)")
    connection.commit()
    connection.close()
    for whose in TENANTS:
        with tenant_scope(whose), Session(shared) as session:
            session.add(Check(norm_id=9))
            session.commit()

    checks: Any = Check.__table__
    norms: Any = Norm.__table__
    with tenant_scope("acme"), shared.begin() as begun:
        joined = checks.join(norms, checks.c.norm_id == norms.c.id)
        assert begun.execute(update(joined).values({checks.c.passed: 1})).rowcount == 1
        assert begun.execute(update(joined).values({norms.c.id: norms.c.id + 1})).rowcount == 0

    assert _stored(shared, "SELECT tenant_id, passed FROM checks WHERE passed = 1") == [("acme", 1)]


def test_a_row_of_ones_own_joins_the_collection_of_a_shared_row() -> None:
    class Base(DeclarativeBase):
        pass

    @tenant_aware(shared=True)
    class Kind(Base):
        __tablename__ = "shared_kinds"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = mapped_column(String(20))
        name = mapped_column(String(20))

    @tenant_aware
    class Thing(Base):
        __tablename__ = "kind_things"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = mapped_column(String(20))
        kind_id = mapped_column(ForeignKey("shared_kinds.id"))
        kind = relationship(Kind, backref="things")

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with unscoped("shared rows", write=True), Session(engine) as session:
        session.add(Kind(id=1, name="chair"))
        session.commit()

    for whose in ("acme", "globex"):
        with tenant_scope(whose), Session(engine) as session:
            session.add(Thing(kind=session.get(Kind, 1)))
            session.commit()
            assert [thing.tenant_id for thing in session.get(Kind, 1).things] == [whose]

    with tenant_scope("acme"), Session(engine) as session:
        session.get(Kind, 1).name = "table"
        with pytest.raises(CrossTenantAccessError, match="belongs to no tenant"):
            session.flush()


@pytest.mark.parametrize("how", ["auto", "evaluate", "fetch"])
@pytest.mark.parametrize("shared", databases.SERVERS, indirect=True)
def test_a_bulk_statement_leaves_shared_rows_in_memory_as_they_are(
    shared: Engine, how: Any
) -> None:
    class Base(DeclarativeBase):
        pass

    @tenant_aware(shared=True)
    class Kind(Base):
        __tablename__ = "bulk_kinds"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = mapped_column(String(20))
        name = mapped_column(String(20))

    Base.metadata.drop_all(shared)
    Base.metadata.create_all(shared)
    for key, whose in enumerate([None, "acme", "globex"], 1):
        scope = tenant_scope(whose) if whose else unscoped("shared rows", write=True)
        with scope, Session(shared) as session:
            session.add(Kind(id=key, name="old"))
            session.commit()

    with tenant_scope("acme"), Session(shared) as session:
        held = session.scalars(select(Kind).order_by(Kind.id)).all()
        changed = update(Kind).values(name="new").where(Kind.name == "old")
        session.execute(changed, execution_options={"synchronize_session": how})
        assert [row.name for row in held] == ["old", "new"]
        gone = delete(Kind).where(Kind.name.in_(["old", "new"]))
        session.execute(gone, execution_options={"synchronize_session": how})
        assert [row in session for row in held] == [True, False]
        assert session.get(Kind, 1) is held[0]
        session.commit()

    stored = _stored(shared, "SELECT id, name FROM bulk_kinds ORDER BY id")
    assert stored == [(1, "old"), (3, "old")]


def test_an_event_may_be_sent_without_a_flush(shared: Engine) -> None:
    with tenant_scope("acme"), Session(shared) as session:
        session.dispatch.before_flush()
        session.dispatch.before_flush(session, None, None)
        assert len(session.scalars(select(Job)).all()) == 2


@pytest.mark.parametrize(
    "statement",
    [select(Job.id, Visit.id), update(Job).values(name="x").where(Visit.id == 1)],
    ids=["a select", "an update"],
)
def test_a_warning_names_the_line_that_is_to_blame(shared: Engine, statement: Any) -> None:
    warned = pytest.warns(SAWarning, match="cartesian product")
    with tenant_scope("acme"), shared.begin() as connection, warned as warnings:
        connection.execute(statement)

    assert [each.filename for each in warnings] == [__file__]
    assert "SECRET" in str(_of_globex(shared)["jobs"])
