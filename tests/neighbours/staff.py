"""Companies and their people, of two tenants: in walled tables, and for each tenant alone.

Names and addresses overlap. "Zenith", "zoe" and "secret" exist in globex only. Some rows of acme
point at rows of globex, as data does that is older than the wall.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import JSON, Column, ForeignKey, Integer, String, Table, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.schema import CreateTable

import databases
from partywall import tenant_aware, tenant_scope, unscoped

TENANTS = ("acme", "globex")
DRIVERS = ("sqlite3", "aiosqlite", "psycopg", "asyncpg")


def build(prefix: str, mark: Callable[..., Any] | None = None) -> SimpleNamespace:
    def owned(**options: Any) -> Callable[[Any], Any]:
        return (lambda cls: cls) if mark is None else mark(**options)

    class Base(DeclarativeBase):
        type_annotation_map = {
            str: String(40),
            dict: JSON().with_variant(JSONB, "postgresql"),
        }

    def to(table: str) -> Any:
        return ForeignKey(f"{prefix}{table}.id")

    class Country(Base):
        __tablename__ = f"{prefix}country"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    @owned(shared=True)
    class Plan(Base):
        __tablename__ = f"{prefix}plan"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str | None]
        name: Mapped[str]

    @owned()
    class Company(Base):
        __tablename__ = f"{prefix}company"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]
        name: Mapped[str]
        country_id: Mapped[int | None] = mapped_column(to("country"))
        plan_id: Mapped[int | None] = mapped_column(to("plan"))
        country: Mapped[Country | None] = relationship()
        plan: Mapped[Plan | None] = relationship()
        people: Mapped[list[Person]] = relationship(back_populates="company", order_by="Person.id")

    @owned()
    class Person(Base):
        __tablename__ = f"{prefix}person"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]
        name: Mapped[str]
        email: Mapped[str]
        age: Mapped[int | None]
        details: Mapped[dict | None]
        company_id: Mapped[int | None] = mapped_column(to("company"))
        boss_id: Mapped[int | None] = mapped_column(to("person"))
        company: Mapped[Company | None] = relationship(back_populates="people")
        boss: Mapped[Person | None] = relationship(remote_side=[id])
        posts: Mapped[list[Post]] = relationship(back_populates="author", order_by="Post.id")

    post_tag = Table(
        f"{prefix}post_tag",
        Base.metadata,
        Column("post_id", to("post"), primary_key=True),
        Column("tag_id", to("tag"), primary_key=True),
    )

    @owned(through="author")
    class Post(Base):
        __tablename__ = f"{prefix}post"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(to("person"))
        title: Mapped[str]
        public: Mapped[bool]
        author: Mapped[Person] = relationship(back_populates="posts")
        tags: Mapped[list[Tag]] = relationship(
            secondary=post_tag, back_populates="posts", order_by="Tag.id"
        )

    @owned()
    class Tag(Base):
        __tablename__ = f"{prefix}tag"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]
        name: Mapped[str]
        posts: Mapped[list[Post]] = relationship(
            secondary=post_tag, back_populates="tags", order_by="Post.id"
        )

    Base.registry.configure()
    classes = {mapper.class_.__name__: mapper.class_ for mapper in Base.registry.mappers}
    return SimpleNamespace(Base=Base, post_tag=post_tag, prefix=prefix, **classes)


def rows() -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """The table, whose the row is (None: it is there for everybody), and its values."""
    yield "country", None, {"id": 1, "name": "Norway"}
    yield "country", None, {"id": 2, "name": "Peru"}
    yield "plan", None, {"id": 1, "tenant_id": None, "name": "free"}
    yield "plan", "acme", {"id": 2, "tenant_id": "acme", "name": "gold"}
    yield "plan", "globex", {"id": 3, "tenant_id": "globex", "name": "gold"}
    for place, tenant in enumerate(TENANTS, 1):
        hidden = "Zenith" if tenant == "globex" else "Apex"
        for key, name in enumerate(["Initrode", "Hooli", hidden]):
            values = {"id": 2 * key + place, "tenant_id": tenant, "name": name}
            values |= {"country_id": 1 + key % 2, "plan_id": 1 if key else 1 + place}
            yield "company", tenant, values

        names = ["ada", "bob", "cyd", "zoe" if tenant == "globex" else "dan"]
        for key, name in enumerate(names):
            values = {"id": 2 * key + place, "tenant_id": tenant, "name": name}
            values["email"] = f"{name}@example.com"
            values["age"] = None if key == 2 else 20 + 10 * key + (59 * place - 59) * (key == 3)
            values["details"] = {"theme": "dark" if key % 2 else "light", "tenant": tenant}
            values["company_id"] = None if key == 2 else 2 * (key % 3) + place
            values["boss_id"] = place if key else None
            yield "person", tenant, values

    # acme's people at a company and under a boss of globex.
    seen = {"tenant_id": "acme", "age": 33, "details": None}
    yield "person", "acme", seen | spy(11, "eve", 6, 1)
    yield "person", "acme", seen | spy(13, "fay", None, 8)
    for place, tenant in enumerate(TENANTS, 1):
        for key, name in enumerate(["red", "blue", "secret" if tenant == "globex" else "plain"]):
            yield "tag", tenant, {"id": 2 * key + place, "tenant_id": tenant, "name": name}

        for key in range(4):
            post = 2 * key + place
            title = ["hello", "news", "draft", f"only {tenant}"][key]
            values = {"id": post, "author_id": 2 * (key // 2) + place, "title": title}
            yield "post", tenant, values | {"public": key % 2 == 0}
            yield "post_tag", tenant, {"post_id": post, "tag_id": 2 * (key % 3) + place}

    # A post of acme under a tag of globex belongs to neither.
    yield "post_tag", "nobody", {"post_id": 1, "tag_id": 6}


def spy(key: int, name: str, company: int | None, boss: int | None) -> dict[str, Any]:
    email = f"{name}@example.com"
    return {"id": key, "name": name, "email": email, "company_id": company, "boss_id": boss}


WALLED = build("staff_", tenant_aware)
ALONE = {tenant: build(f"staff_{tenant}_") for tenant in TENANTS}


class Place:
    """One database that holds the walled tables and, for each tenant, those of it alone."""

    def __init__(self, kind: str) -> None:
        self.server = databases.server(kind)
        self.kind = kind
        self.name = f"partywall_{os.getpid()}_staff"
        self.server.create(self.name)
        databases._created[kind].append(self.name)
        engine = create_engine(self._url("sqlite3" if kind == "sqlite" else "psycopg"))
        WALLED.Base.metadata.create_all(engine)
        with unscoped("a test's rows", write=True), engine.begin() as connection:
            self._fill(connection, WALLED, (None, *TENANTS, "nobody"))
            for tenant, alone in ALONE.items():
                for table in alone.Base.metadata.sorted_tables:
                    # What they point to may not exist here.
                    connection.execute(CreateTable(table, include_foreign_key_constraints=[]))

                self._fill(connection, alone, (None, tenant))

        engine.dispose()

    def _fill(self, connection: Any, m: Any, owners: tuple[str | None, ...]) -> None:
        for name, owner, values in rows():
            if owner in owners:
                table = m.Base.metadata.tables[m.prefix + name]
                connection.execute(table.insert(), values)

        if self.kind == "postgresql":
            for table in m.Base.metadata.sorted_tables:
                if isinstance(next(iter(table.primary_key)).type, Integer) and "id" in table.c:
                    connection.exec_driver_sql(f"SELECT setval('{table.name}_id_seq', 100)")

    def _url(self, driver: str) -> Any:
        return self.server.url(databases.DRIVERS[driver][1], self.name)

    def desk(self, driver: str) -> Desk:
        is_async = databases.DRIVERS[driver][2]
        make: Any = create_async_engine if is_async else create_engine
        return Desk(make(self._url(driver)), self.kind, is_async)


@cache
def place(kind: str) -> Place:
    return Place(kind)


class Desk:
    """An engine, and sessions of its kind."""

    def __init__(self, engine: Any, kind: str, is_async: bool) -> None:
        self.engine = engine
        self.kind = kind
        self.is_async = is_async

    async def run(self, work: Callable[[Session], Any], tenant: str | None = None) -> Any:
        """Done by a Session, or by the one inside an AsyncSession, and rolled back."""
        if tenant is not None:
            with tenant_scope(tenant):
                return await self.run(work)

        if not self.is_async:
            with Session(self.engine) as session:
                return work(session)

        async with AsyncSession(self.engine) as session:
            return await session.run_sync(work)

    async def fetch(self, statement: Any, tenant: str | None = None) -> list[Any]:
        """Through the session's own `execute`."""
        if tenant is not None:
            with tenant_scope(tenant):
                return await self.fetch(statement)

        if not self.is_async:
            with Session(self.engine) as session:
                return list(session.execute(statement).unique().scalars())

        async with AsyncSession(self.engine) as session:
            return list((await session.execute(statement)).unique().scalars())

    async def dispose(self) -> None:
        done = self.engine.dispose()
        if self.is_async:
            await done
