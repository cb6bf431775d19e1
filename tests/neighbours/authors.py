"""Authors and their books on the base classes of sqlalchemy-helpers, and the fixtures of their tests.

The sync and the async classes map the same tables. acme's ids are odd and globex's are even, as far
as both have the same rows. What is stored is read through the plain driver.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, Integer, String, UniqueConstraint, create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, mapped_column, relationship
from sqlalchemy_helpers import Base, DatabaseManager, aio
from sqlalchemy_helpers.manager import set_sqlite_pragma

import databases
from partywall import tenant_aware, try_current_tenant

NAMES = ["ada", "bob", "cyd"]
TITLES = ["Emma", "Ulysses"]


def build(base: Any) -> SimpleNamespace:
    """The same models on any base class."""

    @tenant_aware
    class Author(base):
        __tablename__ = "helpers_author"
        __table_args__ = (UniqueConstraint("tenant_id", "name"),)
        id = mapped_column(Integer, primary_key=True)
        tenant_id = mapped_column(String(40), nullable=False)
        name = mapped_column(String(40), nullable=False)
        full_name = mapped_column(String(40), nullable=False, default="")
        # Unique over all tenants.
        handle = mapped_column(String(40), unique=True)
        books = relationship("Book", back_populates="author", order_by="Book.id")

    @tenant_aware
    class Book(base):
        __tablename__ = "helpers_book"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = mapped_column(String(40), nullable=False)
        author_id = mapped_column(ForeignKey("helpers_author.id"), nullable=False)
        title = mapped_column(String(40), nullable=False)
        author = relationship("Author", back_populates="books")
        notes = relationship("Note", back_populates="book", order_by="Note.id")

    @tenant_aware(through="book")
    class Note(base):
        __tablename__ = "helpers_note"
        id = mapped_column(Integer, primary_key=True)
        book_id = mapped_column(ForeignKey("helpers_book.id"), nullable=False)
        text = mapped_column(String(40), nullable=False)
        book = relationship("Book", back_populates="notes")

    @tenant_aware
    class Shelf(base):
        __tablename__ = "helpers_shelf"
        tenant_id = mapped_column(String(40), primary_key=True)
        number = mapped_column(Integer, primary_key=True)
        label = mapped_column(String(40), nullable=False)

    class Language(base):
        __tablename__ = "helpers_language"
        code = mapped_column(String(9), primary_key=True)
        name = mapped_column(String(40), nullable=False, default="")

    return SimpleNamespace(Author=Author, Book=Book, Note=Note, Shelf=Shelf, Language=Language)


SYNC = build(Base)
ASYNC = build(aio.Base)


def rows() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for owner, tenant in enumerate(("acme", "globex"), 1):
        yield "shelf", (tenant, 1, f"shelf of {tenant}")
        for place, name in enumerate(NAMES):
            yield "author", (2 * place + owner, tenant, name, f"{name} of {tenant}", None)

        for place, title in enumerate(TITLES):
            yield "book", (2 * place + owner, tenant, 2 * place + owner, title)
            yield "note", (2 * place + owner, 2 * place + owner, f"{title} of {tenant}")

    yield "language", ("en", "English")
    yield "author", (8, "globex", "dan", "dan of globex", "dan")
    # A second Emma of globex, whose author is acme's ada.
    yield "book", (6, "globex", 1, "Emma")


class Place:
    """One database, and what is stored in it."""

    def __init__(self, server: str, name: str) -> None:
        self.server = databases.server(server)
        self.kind = server
        self.name = f"partywall_{os.getpid()}_{name}"
        self.server.create(self.name)
        databases._created[server].append(self.name)

    @property
    def uri(self) -> str:
        driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[self.kind]
        url: str = self.server.url(driver, self.name).render_as_string(hide_password=False)
        return url

    def create_tables(self) -> None:
        engine = create_engine(self.uri)
        Base.metadata.create_all(engine)
        engine.dispose()

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect(self.name)) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)

            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def empty(self) -> None:
        if self.kind == "postgresql":
            self.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
            return

        tables = self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        self.execute(*(f"DROP TABLE {name}" for (name,) in tables))

    def fill(self) -> None:
        tables = ["note", "book", "author", "shelf", "language"]
        stored = sorted(rows(), key=lambda row: -tables.index(row[0]))
        self.execute(
            *(f"DELETE FROM helpers_{table}" for table in tables),
            *(
                f"INSERT INTO helpers_{table} VALUES {row!r}".replace("None", "NULL")
                for table, row in stored
            ),
            *(
                f"SELECT setval('helpers_{table}_id_seq', 100)"
                for table in tables[:3]
                if self.kind == "postgresql"
            ),
        )

    def stored(self, table: str, columns: str = "tenant_id") -> Counter[Any]:
        found = self.execute(f"SELECT {columns} FROM helpers_{table}")
        return Counter(row[0] if len(row) == 1 else row for row in found)

    def added(self, table: str = "author") -> Counter[Any]:
        return self.stored(table, "*") - SEED[table]

    def is_untouched(self) -> bool:
        return {table: self.stored(table, "*") for table in SEED} == SEED


SEED = {table: Counter(row for name, row in rows() if name == table) for table, _ in rows()}


class SyncLibrary:
    """The manager, its models, and their methods as an application calls them."""

    session_class = Session

    def __init__(self, place: Place, models: Any = SYNC, **options: Any) -> None:
        self.models = models
        self.manager = DatabaseManager(place.uri, "migrations", **options)

    @asynccontextmanager
    async def session(self) -> Any:
        try:
            yield self.manager.Session()
        finally:
            self.manager.Session.remove()

    async def call(self, session: Any, model: Any, method: str, *args: Any, **attrs: Any) -> Any:
        assert self.manager.Session() is session
        return getattr(model, method)(*args, **attrs)

    async def close(self) -> None:
        self.manager.Session.remove()
        self.manager.engine.dispose()


class AsyncLibrary:
    """Async version of `SyncLibrary`."""

    session_class = AsyncSession

    def __init__(self, place: Place, models: Any = ASYNC, **options: Any) -> None:
        self.models = models
        self.manager = aio.AsyncDatabaseManager(place.uri, "migrations", **options)

    @asynccontextmanager
    async def session(self) -> Any:
        async with self.manager.Session() as session:
            yield session

    async def call(self, session: Any, model: Any, method: str, *args: Any, **attrs: Any) -> Any:
        return await getattr(model, method)(*args, session=session, **attrs)

    async def close(self) -> None:
        await self.manager.engine.dispose()


LIBRARIES = {"sync": SyncLibrary, "async": AsyncLibrary}


async def maybe(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


@contextmanager
def library_listening() -> Iterator[None]:
    """Its listener is for every engine of the process: the other tests are to keep theirs."""
    event.listen(Engine, "connect", set_sqlite_pragma)
    try:
        yield
    finally:
        event.remove(Engine, "connect", set_sqlite_pragma)


event.remove(Engine, "connect", set_sqlite_pragma)


ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Place:
    place = Place(request.param, request.module.__name__.removeprefix("test_sqlalchemy_"))
    place.create_tables()
    return place


@pytest.fixture
def place(database: Place) -> Iterator[Place]:
    database.fill()
    with library_listening():
        yield database

    assert try_current_tenant() is None


@pytest.fixture(params=LIBRARIES)
async def library(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Any]:
    library = LIBRARIES[request.param](place)
    yield library
    await library.close()


@pytest.fixture
async def sync_library(place: Place) -> AsyncIterator[SyncLibrary]:
    library = SyncLibrary(place)
    yield library
    await library.close()


@pytest.fixture
async def async_library(place: Place) -> AsyncIterator[AsyncLibrary]:
    library = AsyncLibrary(place)
    yield library
    await library.close()
