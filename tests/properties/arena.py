"""Where both sides of a comparison run: one database, the walled tables and the other tables.

A program is Python source over `m`, the schema, so that a failing example can be read and run.
The walled side runs it as a tenant among all rows; the other side runs it unscoped, on tables that
are not owned and hold that tenant's rows and nobody's rows alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import cache
from types import CodeType, SimpleNamespace
from typing import Any

import sqlalchemy
from sqlalchemy import create_engine, event, inspect, orm
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import StaticPool

import databases
from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    tenant_scope,
    unscoped,
)

from . import schema

Stored = dict[str, "Counter[tuple[Any, ...]]"]

_NAMES = vars(sqlalchemy) | vars(orm)
_UPSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert, "mariadb": mysql.insert}
_DEPTH = 3


@dataclass(frozen=True)
class Program:
    """Source in two parts: what is built once for all tenants, and what each tenant does."""

    shared: str
    run: tuple[str, ...]
    ordered: bool = True

    def __repr__(self) -> str:
        return "\n    " + "\n    ".join((self.shared + "\n".join(self.run)).splitlines())


@dataclass
class Outcome:
    """What user code saw of one step."""

    value: Any = None
    error: Exception | None = None

    def alike(self, other: Outcome) -> bool:
        if self.error is None or other.error is None:
            return self.error is other.error and repr(self.value) == repr(other.value)

        return type(self.error) is type(other.error)


class Side:
    def __init__(self, arena: Arena, tables: SimpleNamespace) -> None:
        self.arena = arena
        self.schema = tables
        self._filled: Any = None
        self._names = [table.name for table in tables.metadata.sorted_tables]
        self.columns = {
            table.name.removeprefix(tables.prefix): [column.name for column in table.columns]
            for table in tables.metadata.sorted_tables
        }

    def fill(self, rows: list[schema.Row]) -> None:
        arena = self.arena
        arena.unguarded()
        for name in self._names:
            arena.execute(f"DELETE FROM {arena.quoted(name)}")

        grouped: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        for table, _, values in rows:
            grouped.setdefault((table, *values), []).append(tuple(values.values()))

        for (table, *columns), listed in grouped.items():
            arena.execute_many(self.schema.prefix + table, columns, listed)

        arena.guarded()

    def rewind(self) -> None:
        """New rows get the same numbers on both sides."""
        numbered = [
            table.name
            for table in self.schema.metadata.sorted_tables
            if table.autoincrement_column is not None
        ]
        self.arena.rewind(numbered)

    def stored(self) -> Stored:
        execute, prefix = self.arena.execute, self.schema.prefix
        return {
            name.removeprefix(prefix): Counter(execute(f"SELECT * FROM {self.arena.quoted(name)}"))
            for name in self._names
        }

    def prepare(self, program: Program) -> dict[str, Any]:
        names = {
            **_NAMES,
            "m": self.schema,
            "upsert": _UPSERT[self.arena.on],
            "engine": self.arena.engine,
            "unscoped": unscoped,
        }
        exec(_compiled(program.shared), names)  # noqa: S102  programs are source, to be read
        return names

    def perform(self, program: Program, names: dict[str, Any], tenant: str | None) -> list[Outcome]:
        """Run each part of a program in one session; after an error it is rolled back."""
        with Session(self.arena.engine) as session:
            names = {**names, "session": session, "tenant": tenant}
            return [_outcome(part, names, session, program.ordered) for part in program.run]


def _outcome(part: str, names: dict[str, Any], session: Session, ordered: bool) -> Outcome:
    noted: list[Any] = []
    names["note"] = lambda value: noted.append(plain(value))
    names["result"] = None
    try:
        exec(_compiled(part), names)  # noqa: S102
        result = plain(names["result"])
        if not ordered:
            noted.sort(key=repr)
            if isinstance(result, list):
                result.sort(key=repr)

        return Outcome([*noted, result])
    except Exception as error:  # noqa: BLE001  whatever user code would see
        session.rollback()
        return Outcome(noted, error)


@cache
def _compiled(source: str) -> CodeType:
    return compile(source, "<program>", "exec")


class Arena:
    """The database of one server, with an engine and a plain connection beside it."""

    def __init__(self, on: str) -> None:
        self.on = on
        if on == "sqlite":
            self.engine = create_engine(
                "sqlite://", poolclass=StaticPool, enable_from_linting=False
            )
            _with_real_transactions(self.engine)
            self._plain = self.engine.raw_connection().driver_connection
        else:
            self._server = databases.server(on)
            name = f"partywall_{os.getpid()}_properties"
            self._server.create(name)
            databases._created[on].append(name)
            driver = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[on]
            self.engine = create_engine(self._server.url(driver, name), enable_from_linting=False)
            self._plain = self._server.connect(name)

        self.sent: deque[str] = deque(maxlen=100)
        event.listen(self.engine, "before_cursor_execute", lambda *sent: self.sent.append(sent[2]))
        self.walled = Side(self, schema.walled())
        self.alone = Side(self, schema.alone())
        for side in (self.walled, self.alone):
            side.schema.metadata.create_all(self.engine)

    def close(self) -> None:
        self._plain.close()
        self.engine.dispose()

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._plain.cursor()) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def execute_many(self, table: str, columns: Iterable[str], rows: list[tuple[Any, ...]]) -> None:
        columns = list(columns)
        marks = ", ".join(["?" if self.on == "sqlite" else "%s"] * len(columns))
        names = ", ".join(self.quoted(column) for column in columns)
        with closing(self._plain.cursor()) as cursor:
            cursor.executemany(f"INSERT INTO {self.quoted(table)} ({names}) VALUES ({marks})", rows)

    def quoted(self, name: str) -> str:
        return f'"{name}"' if self.on == "sqlite" else str(self._server.quoted(name))

    def unguarded(self) -> None:
        if self.on == "sqlite":
            self.execute("PRAGMA foreign_keys=OFF")
        else:
            self._server.unguarded(self.execute)

    def guarded(self) -> None:
        if self.on == "sqlite":
            self.execute("PRAGMA foreign_keys=ON")

    def rewind(self, tables: list[str]) -> None:
        """Elsewhere than on SQLite every new row is given its number (see `histories`)."""
        if self.on == "sqlite":
            for table in tables:
                self.execute(f"DELETE FROM sqlite_sequence WHERE name = '{table}'")
                self.execute(f"INSERT INTO sqlite_sequence VALUES ('{table}', {_LAST_ID})")

    def reads_alike(self, data: schema.Data, program: Program) -> None:
        rows = data.rows()
        self.walled.fill(rows)
        walled = self.walled.prepare(program)
        with _unwalled():
            alone = self.alone.prepare(program)

        for tenant in data.tenants:
            self.alone.fill(_rows_of(rows, tenant))
            with tenant_scope(tenant):
                found = self.walled.perform(program, walled, tenant)

            _agree(program, found, self._alone(program, alone, tenant), tenant)

        # What was compiled for tenants must not be run unscoped, nor the other way round.
        self.alone.fill(rows)
        with _unwalled():
            found = self.walled.perform(program, walled, data.tenants[0])

        _agree(program, found, self._alone(program, alone, data.tenants[0]), "everyone")

    def writes_alike(self, data: schema.Data, program: Program, tenant: str) -> None:
        rows = data.rows()
        self.walled.fill(rows)
        self.alone.fill(_rows_of(rows, tenant))
        self.walled.rewind()
        self.alone.rewind()
        before, mine = self.walled.stored(), self.alone.stored()
        with tenant_scope(tenant):
            found = self.walled.perform(program, self.walled.prepare(program), tenant)

        with _unwalled():
            names = self.alone.prepare(program)

        expected = self._alone(program, names, tenant)
        after, mine_after = self.walled.stored(), self.alone.stored()
        others = {table: before[table] - mine[table] for table in before}
        lost = {table: others[table] - after[table] for table in before}
        assert not any(lost.values()), f"another tenant's rows were changed: {_some(lost)}"
        foreign = {
            (table, str(values["id"]))
            for table, owner, values in rows
            if owner not in (None, tenant) and "id" in values
        }
        if _agree(program, found, expected, tenant, foreign):
            _same_rows(after, {table: mine_after[table] + others[table] for table in before})

    def perform_among_all(
        self, data: schema.Data, program: Program, tenant: str
    ) -> tuple[Stored, list[Outcome], Stored]:
        self.walled.fill(data.rows())
        before = self.walled.stored()
        with tenant_scope(tenant):
            found = self.walled.perform(program, self.walled.prepare(program), tenant)

        return before, found, self.walled.stored()

    def without_tenant(self, data: schema.Data, program: Program) -> tuple[Outcome, bool]:
        """What comes of a program with no tenant, and whether it asks for anything owned."""
        self.walled.fill(data.rows())
        names = self.walled.prepare(program)
        self.sent.clear()
        with tenant_scope(data.tenants[0]):
            self.walled.perform(program, names, data.tenants[0])

        owned = any(_names_owned(sql) for sql in self.sent)
        self.sent.clear()
        (outcome,) = self.walled.perform(program, names, None)
        assert not any(_names_owned(sql) for sql in self.sent), self.sent
        return outcome, owned

    def _alone(self, program: Program, names: dict[str, Any], tenant: str) -> list[Outcome]:
        schema.alone_tenant = tenant
        with _unwalled():
            return self.alone.perform(program, names, tenant)


def _names_owned(sql: str) -> bool:
    return bool(re.search(r"\bprop_(?!countries)", sql))


_LAST_ID = schema.FIRST_NEW_ID - 1


def plain(value: Any, depth: int = 0) -> Any:
    """A result as values that can be compared across two schemas, loaded relationships included."""
    if isinstance(value, Row):
        return tuple(plain(item, depth) for item in value)

    if isinstance(value, Mapping):
        return {str(key): plain(item, depth) for key, item in value.items()}

    if isinstance(value, (list, tuple)):
        return [plain(item, depth) for item in value]

    state = inspect(value, raiseerr=False)
    if not isinstance(state, InstanceState):
        return value

    names = state.mapper.column_attrs.keys()
    if depth < _DEPTH:
        names = [*names, *state.mapper.relationships.keys()]

    held = {name: plain(state.dict[name], depth + 1) for name in names if name in state.dict}
    return type(value).__name__, held


def _agree(
    program: Program,
    walled: list[Outcome],
    alone: list[Outcome],
    tenant: str,
    foreign: AbstractSet[tuple[str, str]] = frozenset(),
) -> bool:
    """False where the histories part, with a refusal that is documented."""
    for place, (found, expected) in enumerate(zip(walled, alone, strict=True)):
        if found.alike(expected) or _fails_as_well(found, expected):
            continue

        if _refused_early(program.run[place], found, expected, foreign):
            return False

        raise AssertionError(
            f"as {tenant!r}, in part {place} of{program}\n  walled: {_seen(found)}\n  alone:  {_seen(expected)}"
        ) from (found.error or expected.error)

    return True


def _fails_as_well(found: Outcome, expected: Outcome) -> bool:
    """Alone, the row that a foreign key names is not there; here it is somebody else's.

    And what would take a row's tenant away (a composite key that the ORM clears) fails in both.
    """
    if isinstance(found.error, CrossTenantReferenceError):
        return isinstance(expected.error, (IntegrityError, StaleDataError))

    return (
        isinstance(found.error, CrossTenantAccessError)
        and isinstance(expected.error, IntegrityError)
        and "belongs to no tenant" in str(found.error)
        and "tenant_id" in str(expected.error.orig)
    )


def _refused_early(
    part: str, found: Outcome, expected: Outcome, foreign: AbstractSet[tuple[str, str]]
) -> bool:
    """A foreign key is checked before the statement runs, also where no row would have got it."""
    if not isinstance(found.error, CrossTenantReferenceError) or expected.error is not None:
        return False

    target = found.error.details["target"].removeprefix("prop_")
    return any((target, number) in foreign for number in re.findall(r"\b\d+\b", part))


def _seen(outcome: Outcome) -> str:
    return repr(outcome.value if outcome.error is None else outcome.error)


def _same_rows(found: Stored, expected: Stored) -> None:
    unexpected = {table: found[table] - expected[table] for table in expected}
    missing = {table: expected[table] - found[table] for table in expected}
    assert not any(unexpected.values()) and not any(missing.values()), (
        f"unexpected: {_some(unexpected)}, missing: {_some(missing)}"
    )


def _some(rows: Stored) -> dict[str, list[Any]]:
    return {table: list(found.elements()) for table, found in rows.items() if found}


def _rows_of(rows: list[schema.Row], tenant: str) -> list[schema.Row]:
    return [row for row in rows if row[1] in (None, tenant)]


def _unwalled() -> AbstractContextManager[None]:
    return unscoped("the other side of the comparison", write=True)


def _with_real_transactions(engine: Any) -> None:
    """sqlite3 opens transactions late and not at all for SAVEPOINT; SQLAlchemy's recipe helps."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")
