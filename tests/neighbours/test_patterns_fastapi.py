"""Sessions as FastAPI dependencies that applications write themselves: lines B4 and B9.

Two tenants with the same titles; each dependency says in `seen` which tenant its teardown met.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import String, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from partywall import (
    TenantSessionMiddleware,
    tenant_aware,
    tenant_scope,
    try_current_tenant,
    unscoped,
)
from partywall.resolvers import header


class Base(DeclarativeBase):
    pass


@tenant_aware
class Book(Base):
    __tablename__ = "pattern_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(40))
    shelf: Mapped[str] = mapped_column(String(40))


def _see(request: Request, what: str) -> None:
    tenant = try_current_tenant()
    request.app.state.seen.append((what, tenant and tenant.tenant_id))


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    session = request.app.state.async_sessions()
    try:
        yield session
        await session.commit()
        _see(request, "commit")
    except BaseException:
        await session.rollback()
        _see(request, "rollback")
        raise
    finally:
        await session.close()
        _see(request, "close")


async def get_plain_db(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.async_sessions() as session:
        yield session

    _see(request, "close")


def get_threaded_db(request: Request) -> Iterator[Session]:
    session = request.app.state.sessions()
    try:
        yield session
        session.commit()
        _see(request, "commit")
    except BaseException:
        session.rollback()
        _see(request, "rollback")
        raise
    finally:
        session.close()
        _see(request, "close")


Db = Annotated[AsyncSession, Depends(get_db)]
PlainDb = Annotated[AsyncSession, Depends(get_plain_db)]
ThreadedDb = Annotated[Session, Depends(get_threaded_db)]
TITLES = select(Book.title, Book.shelf).order_by(Book.id)


async def list_books(db: Db) -> list[str]:
    return [f"{title} on {shelf}" for title, shelf in await db.execute(TITLES)]


async def list_plainly(db: PlainDb) -> list[str]:
    return [f"{title} on {shelf}" for title, shelf in await db.execute(TITLES)]


def list_in_a_thread(db: ThreadedDb) -> list[str]:
    return [f"{title} on {shelf}" for title, shelf in db.execute(TITLES)]


async def stream_books(db: Db) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        async for title, shelf in await db.stream(TITLES.execution_options(yield_per=1)):
            await asyncio.sleep(0)
            yield f"{title} on {shelf};"

    return StreamingResponse(lines())


async def add_book(db: Db, title: str) -> int | None:
    book = Book(title=title, shelf="new")
    db.add(book)
    await db.flush()
    if title == "forbidden":
        raise HTTPException(403)

    return book.id


async def add_uncommitted(db: PlainDb, title: str) -> None:
    db.add(Book(title=title, shelf="new"))
    await db.flush()


async def add_committed(db: PlainDb, title: str) -> None:
    async with db.begin():
        db.add(Book(title=title, shelf="new"))


def add_in_a_thread(db: ThreadedDb, title: str) -> None:
    db.add(Book(title=title, shelf="new"))
    db.flush()
    if title == "forbidden":
        raise HTTPException(403)


async def show_book(db: Db, key: int) -> str:
    book = await db.get(Book, key)
    if book is None:
        raise HTTPException(404)

    return book.shelf


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[FastAPI]:
    path = tmp_path / "books.db"
    engine = create_engine(f"sqlite:///{path}")
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    for each in (engine, async_engine.sync_engine):
        event.listen(each, "connect", lambda c, _: c.execute("PRAGMA busy_timeout = 20000"))

    Base.metadata.create_all(engine)
    for tenant in ["acme", "globex"]:
        with tenant_scope(tenant), Session(engine) as session, session.begin():
            session.add_all(Book(title=title, shelf=tenant) for title in ["Emma", "Ulysses"])

    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    app.state.seen = []
    app.state.engine = engine
    app.state.sessions = sessionmaker(engine)
    app.state.async_sessions = async_sessionmaker(async_engine)
    app.get("/books")(list_books)
    app.get("/plain")(list_plainly)
    app.get("/threaded")(list_in_a_thread)
    app.get("/stream")(stream_books)
    app.get("/books/{key}")(show_book)
    app.post("/books/{title}")(add_book)
    app.post("/plain/{title}")(add_uncommitted)
    app.post("/committed/{title}")(add_committed)
    app.post("/threaded/{title}")(add_in_a_thread)
    yield app
    await async_engine.dispose()
    engine.dispose()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def as_tenant(tenant: str) -> dict[str, Any]:
    return {"headers": {"x-tenant": tenant}}


def stored(app: FastAPI) -> list[tuple[str, str]]:
    with unscoped("what the test left in the table"), Session(app.state.engine) as session:
        new = select(Book.tenant_id, Book.title).where(Book.shelf == "new").order_by(Book.title)
        return [tuple(row) for row in session.execute(new)]


@pytest.mark.parametrize("path", ["/books", "/plain", "/threaded"])
async def test_a_path_operation_reads_its_tenants_rows(client: Any, app: Any, path: str) -> None:
    """B9: with transaction handling in the dependency, and without."""
    for tenant in ["acme", "globex"]:
        response = await client.get(path, **as_tenant(tenant))

        assert response.json() == [f"Emma on {tenant}", f"Ulysses on {tenant}"]

    assert {tenant for _, tenant in app.state.seen} == {"acme", "globex"}
    assert (await client.get(path)).status_code == 400


async def test_a_stream_is_read_before_the_teardown_and_inside_the_tenant(
    client: Any, app: Any
) -> None:
    """B4"""
    responses = await asyncio.gather(
        *(client.get("/stream", **as_tenant(tenant)) for tenant in ["acme", "globex"])
    )

    assert [response.text for response in responses] == [
        "Emma on acme;Ulysses on acme;",
        "Emma on globex;Ulysses on globex;",
    ]
    assert sorted(app.state.seen) == [
        (what, tenant) for what in ("close", "commit") for tenant in ("acme", "globex")
    ]


@pytest.mark.parametrize("path", ["/books", "/threaded"])
async def test_the_teardown_runs_inside_the_tenant(client: Any, app: Any, path: str) -> None:
    """B4"""
    for tenant in ["acme", "globex"]:
        app.state.seen.clear()
        assert (await client.post(f"{path}/Walden", **as_tenant(tenant))).status_code == 200
        assert app.state.seen == [("commit", tenant), ("close", tenant)]

        app.state.seen.clear()
        assert (await client.post(f"{path}/forbidden", **as_tenant(tenant))).status_code == 403
        assert app.state.seen == [("rollback", tenant), ("close", tenant)]

    assert stored(app) == [("acme", "Walden"), ("globex", "Walden")]
    assert try_current_tenant() is None


async def test_without_transaction_handling_the_path_operation_commits(
    client: Any, app: Any
) -> None:
    """B9"""
    for tenant in ["acme", "globex"]:
        await client.post("/plain/Walden", **as_tenant(tenant))
        await client.post("/committed/Dracula", **as_tenant(tenant))

    assert stored(app) == [("acme", "Dracula"), ("globex", "Dracula")]
    assert app.state.seen == [("close", "acme")] * 2 + [("close", "globex")] * 2


async def test_a_foreign_id_is_not_found(client: Any, app: Any) -> None:
    """B4: 1 and 2 are acme's, 3 and 4 are globex's."""
    found = [
        [
            (await client.get(f"/books/{key}", **as_tenant(tenant))).status_code
            for key in range(1, 6)
        ]
        for tenant in ["acme", "globex"]
    ]

    assert found == [[200, 200, 404, 404, 404], [404, 404, 200, 200, 404]]


async def test_requests_of_two_tenants_at_once(client: Any, app: Any) -> None:
    """B4"""
    tenants = ["acme", "globex"] * 5
    await asyncio.gather(
        *(client.post(f"/books/{place}", **as_tenant(t)) for place, t in enumerate(tenants))
    )

    assert sorted(stored(app), key=lambda row: int(row[1])) == [
        (tenant, str(place)) for place, tenant in enumerate(tenants)
    ]
    assert {what for what, _ in app.state.seen} == {"commit", "close"}
