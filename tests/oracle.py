"""Solo equivalence, put to the test.

A shape runs walled on the shared database and, without the wall, on a database in which only the
tenant's rows exist. Results, errors, what is stored and the number of statements must agree, and
every other tenant's rows must be what they were.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy import inspect as inspection
from sqlalchemy.engine import Row
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import InstanceState, Session

import models
from databases import DRIVERS, Database, Stored, server

SERIES = tuple(int(part) for part in sqlalchemy.__version__.split(".")[:2])


# The drivers that run everything: of each server one, and both kinds.
ONE_PER_SERVER = ("sqlite3", "asyncpg", "pymysql")


@dataclass(frozen=True)
class Shape:
    """One way to use a session, and where it makes sense."""

    name: str
    run: Callable[..., Any]
    only: frozenset[str] = frozenset(DRIVERS) | {"sqlite", "postgresql", "mariadb"}
    series: tuple[int, int] = (2, 0)
    below: tuple[int, int] = (3, 0)
    families: frozenset[str] = frozenset(models.FAMILIES)
    without_tenant: str = "refused"
    sync_only: bool = False
    twin: bool = False
    extra_statements: int = 0
    changes: bool = True
    fails: type[Exception] | None = None
    error: type[Exception] | None = None
    match: str = ""

    def fits(self, driver: str) -> bool:
        on, _, is_async = DRIVERS[driver]
        return (
            bool(self.only & {driver, on})
            and self.series <= SERIES < self.below
            and not (is_async and self.sync_only)
        )


@dataclass
class Shapes:
    """A list of shapes, filled by decorating functions or from named statements."""

    listed: list[Shape] = field(default_factory=list)

    def __call__(self, run: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        if run is None:
            return lambda run: self(run, **options)

        name = options.pop("name", run.__name__).replace("_", " ")
        if "only" in options:
            options["only"] = frozenset(options["only"].split())

        if "families" in options:
            options["families"] = frozenset(options["families"].split())

        if any(shape.name == name for shape in self.listed):
            raise ValueError(f"two shapes are named {name!r}")

        self.listed.append(Shape(name, run, **options))
        return run

    def statements(self, named: Mapping[str, Callable[[Any], Any]], **options: Any) -> None:
        """Each statement is run by the session and by the session's connection."""
        for name, build in named.items():
            self(_by_session(build), name=name, **options)
            self(_by_connection(build), name=f"{name}, by the connection", twin=True, **options)

    def cases(
        self,
        drivers: Iterable[str],
        families: Iterable[str] = ("str",),
        twins: Iterable[str] = ONE_PER_SERVER,
    ) -> list[Any]:
        """A statement that the connection runs goes the same way on every driver of a server."""
        twins = set(twins)
        return [
            pytest.param(driver, family, shape, id=f"{driver}-{family}-{shape.name}")
            for driver in drivers
            for family in families
            for shape in self.listed
            if shape.fits(driver) and family in shape.families
            if not shape.twin or driver in twins
        ]

    def refused(self) -> Shapes:
        """Without those that no tenant is needed for."""
        return Shapes([shape for shape in self.listed if shape.without_tenant == "refused"])


def _by_session(build: Callable[[Any], Any]) -> Callable[..., Any]:
    def run(session: Any, m: Any) -> list[Any]:
        statement = build(m)
        return result(session.execute(statement), statement)

    return run


def _by_connection(build: Callable[[Any], Any]) -> Callable[..., Any]:
    def run(session: Any, m: Any) -> list[Any]:
        statement = build(m)
        return result(session.connection().execute(statement), statement)

    return run


def let(build: Callable[..., Any], *values: Any) -> Any:
    """Names for parts of a statement, inside an expression."""
    return build(*values)


def result(found: Any, statement: Any = None) -> list[Any]:
    """The rows, in their order if the statement asks for one."""
    statement = getattr(statement, "element", statement)
    listed = [plain(row) for row in found.all()]
    return listed if getattr(statement, "_order_by_clauses", ()) else bag(listed)


def bag(values: Iterable[Any]) -> list[Any]:
    """Values whose order is left to the database."""
    return sorted((plain(value) for value in values), key=repr)


def plain(value: Any) -> Any:
    """A result as values that can be compared across two schemas."""
    if isinstance(value, Row):
        return tuple(plain(item) for item in value)

    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}

    if isinstance(value, (list, tuple)):
        return (
            type(value)(plain(item) for item in value)
            if type(value) in (list, tuple)
            else [plain(item) for item in value]
        )

    if isinstance(value, (set, frozenset)):
        return bag(value)

    state = _state(value)
    if state is None:
        return value

    loaded = {
        name: state.dict[name]
        for name in state.mapper.column_attrs.keys()  # noqa: SIM118 (not a dict)
        if name in state.dict
    }
    return type(value).__name__, loaded


def _state(value: Any) -> InstanceState[Any] | None:
    try:
        found = inspection(value)
    except NoInspectionAvailable:
        return None

    return found if isinstance(found, InstanceState) else None


@dataclass
class Outcome:
    value: Any = None
    error: Exception | None = None
    statements: list[str] = field(default_factory=list)

    @property
    def seen(self) -> tuple[str, Any]:
        """What user code sees: a value, or an error of some type."""
        if self.error is None:
            return "returned", self.value

        return "raised", type(self.error)

    @property
    def writes(self) -> list[str]:
        return [sql for sql in self.statements if not sql.lstrip().upper().startswith("SELECT")]


class Side:
    """One database through one driver."""

    def __init__(self, database: Database, driver: str, schema: SimpleNamespace) -> None:
        self.database = database
        self.schema = schema
        self.engine = database.engine(driver)
        self.is_async = isinstance(self.engine, AsyncEngine)
        self._sent: list[str] = []
        sync = self.engine.sync_engine if self.is_async else self.engine
        event.listen(sync, "before_cursor_execute", self._note)

    def _note(self, _: Any, __: Any, statement: str, *___: Any) -> None:
        self._sent.append(statement)

    def perform(self, shape: Callable[..., Any], tenant: Any = None) -> Outcome:
        """Run a shape in a session of its own and commit."""
        self._sent = []
        outcome = Outcome()
        try:
            if self.is_async:
                outcome.value = runner().run(self._aperform(shape, tenant))
            else:
                with _scope(tenant), Session(self.engine) as session:
                    outcome.value = plain(shape(session, self.schema))
                    session.commit()
        except Exception as error:  # noqa: BLE001  what was raised is what is compared
            outcome.error = error

        outcome.statements = self._sent
        return outcome

    async def _aperform(self, shape: Callable[..., Any], tenant: Any) -> Any:
        with _scope(tenant):
            async with AsyncSession(self.engine) as session:
                if inspect.iscoroutinefunction(shape):
                    value = plain(await shape(session, self.schema))
                else:
                    value = await session.run_sync(lambda sync: plain(shape(sync, self.schema)))

                await session.commit()
                return value


def _scope(tenant: Any) -> Any:
    if tenant is None:
        return nullcontext()

    from partywall.context import tenant_scope

    return tenant_scope(tenant)


@cache
def runner() -> asyncio.Runner:
    """One event loop for all shapes, so that pooled connections stay usable."""
    return asyncio.Runner()


class Oracle:
    """The shared database and the solo ones, through one driver, for one type of tenant."""

    def __init__(self, driver: str, family: str) -> None:
        self.driver = driver
        self.family = models.FAMILIES[family]
        on = DRIVERS[driver][0]
        walled, alone = walled_schema(family), plain_schema(family)
        self.schema = walled
        self.shared = Side(_database(on, family, None), driver, walled)
        self.alone = {
            owner: Side(_database(on, family, owner), driver, alone) for owner in ("acme", "globex")
        }
        self.acme = self.alone["acme"]
        self.foreign = _without(self.shared.database.seed, self.acme.database.seed)

    def tenant(self, owner: str) -> Any:
        return getattr(self.family, owner)

    def reads_alike(self, shape: Shape) -> None:
        """For each tenant in turn, so that a compiled statement made for one serves the next."""
        for owner, side in self.alone.items():
            walled = self.shared.perform(shape.run, self.tenant(owner))
            alone = side.perform(shape.run)
            _agree(shape, walled, alone)
            if len(walled.statements) > len(alone.statements) + shape.extra_statements:
                pytest.fail(
                    f"{len(walled.statements)} statements instead of {len(alone.statements)}:\n"
                    + "\n".join(walled.statements)
                )

    def writes_alike(self, shape: Shape) -> None:
        walled = self.shared.perform(shape.run, self.tenant("acme"))
        alone = self.acme.perform(shape.run)
        shared_rows, own_rows = self.shared.database.stored(), self.acme.database.stored()
        self.shared.database.restore(shared_rows)
        self.acme.database.restore(own_rows)
        _agree(shape, walled, alone)
        _same_rows(shared_rows, _together(own_rows, self.foreign))
        if len(walled.writes) > len(alone.writes) + shape.extra_statements:
            pytest.fail(
                f"{len(walled.writes)} writes instead of {len(alone.writes)}:\n"
                + "\n".join(walled.writes)
            )

    def refuses(self, shape: Shape, run: Callable[..., Any] | None = None) -> Outcome:
        outcome = self.shared.perform(run or shape.run, self.tenant("acme"))
        self.nothing_changed()
        return outcome

    def nothing_changed(self) -> None:
        rows = self.shared.database.stored()
        self.shared.database.restore(rows)
        _same_rows(rows, self.shared.database.seed)


def oracle(driver: str, family: str = "str") -> Oracle:
    made = _made(driver, family)
    if isinstance(made, BaseException):
        raise made

    return made


@cache
def _made(driver: str, family: str) -> Oracle | BaseException:
    """Made once; what went wrong, or the reason to skip, is kept as well."""
    try:
        return Oracle(driver, family)
    except (Exception, pytest.skip.Exception) as error:  # noqa: BLE001  raised again each time
        return error


@cache
def walled_schema(family: str) -> SimpleNamespace:
    from partywall.ownership import tenant_aware, tenant_table

    return models.build(tenant_aware, tenant_table, family=models.FAMILIES[family])


@cache
def plain_schema(family: str) -> SimpleNamespace:
    found = models.FAMILIES[family]
    return models.build(family=found, prefix="solo_", tenant=found.acme)


@cache
def _database(on: str, family: str, owner: str | None) -> Database:
    schema = walled_schema(family) if owner is None else plain_schema(family)
    return Database(server(on), schema, owner)


def raise_error_of(outcome: Outcome) -> Any:
    if outcome.error is not None:
        raise outcome.error

    return outcome.value


def _agree(shape: Shape, walled: Outcome, alone: Outcome) -> None:
    if alone.error is not None and not isinstance(alone.error, shape.fails or ()):
        raise alone.error

    if walled.seen == alone.seen:
        return

    raise AssertionError(
        f"{shape.name}:\n  walled: {walled.seen}\n  alone:  {alone.seen}\n"
        + "\n".join(["walled SQL:", *walled.statements, "SQL alone:", *alone.statements])
    ) from (walled.error or alone.error)


def _same_rows(found: Stored, expected: Stored) -> None:
    different = {
        table: {
            "unexpected": found[table] - expected[table],
            "missing": expected[table] - found[table],
        }
        for table in expected
        if found[table] != expected[table]
    }
    assert not different


def _without(rows: Stored, others: Stored) -> Stored:
    return {table: rows[table] - others[table] for table in rows}


def _together(rows: Stored, others: Stored) -> Stored:
    return {table: Counter(rows[table]) + others[table] for table in rows}
