"""Flask's `async def` views, which asgiref runs in a loop and a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from sqlalchemy import Engine, NullPool
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

import doors
from doors import Note, stored, texts
from partywall.context import (
    SyncScope,
    active_scope,
    atenant_scope,
    tenant_scope,
    try_current_tenant,
)
from partywall.flask import init_app
from partywall.resolvers import header
from partywall.scopes import AsyncSessionScope

pytest.importorskip("asgiref", reason="flask[async] is not installed")

OTHER = {"acme": "globex", "globex": "acme"}


@pytest.fixture(autouse=True)
def _nothing_is_left_bound() -> Iterator[None]:
    yield
    assert active_scope() is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = doors.filled(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> async_sessionmaker[AsyncSession]:
    """Without a pool: every request has an event loop of its own."""
    url = f"sqlite+aiosqlite:///{engine.url.database}"
    async_engine = create_async_engine(url, poolclass=NullPool, connect_args={"timeout": 20})
    # SQLAlchemy 2.0 guards the first connection by a lock that belongs to one event loop.
    asyncio.run(_connect(async_engine))
    return async_sessionmaker(async_engine)


async def _connect(async_engine: AsyncEngine) -> None:
    async with async_engine.connect():
        pass


@pytest.fixture
def app() -> Flask:
    app = Flask("notes")
    init_app(app, resolve_tenant=header("X-Tenant"))
    return app


def current() -> Any:
    context = try_current_tenant()
    return None if context is None else context.tenant_id


def headers(tenant: str) -> dict[str, str]:
    return {"X-Tenant": tenant}


def test_an_async_view_reads_and_writes_its_tenants_rows(
    app: Flask, engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    @app.get("/notes")
    async def read() -> Any:
        async with sessions() as session:
            return [*await session.scalars(texts())]

    @app.post("/notes/<text>")
    async def write(text: str) -> str:
        async with sessions.begin() as session:
            session.add(Note(text=text))
            await session.flush()
            if text == "fail":
                raise ZeroDivisionError

        return text

    client = app.test_client()
    for tenant, rows in list(doors.TEXTS.items()) * 2:
        assert client.get("/notes", headers=headers(tenant)).json == rows

    for tenant in doors.TEXTS:
        assert client.post("/notes/new", headers=headers(tenant)).status_code == 200
        assert client.post("/notes/fail", headers=headers(tenant)).status_code == 500

    assert stored(engine) == {tenant: [*rows, "new"] for tenant, rows in doors.TEXTS.items()}


def test_a_scope_inside_an_async_view_ends_where_the_view_does(
    app: Flask, engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    seen: list[Any] = []

    @app.get("/")
    async def nested() -> Any:
        here = current()
        async with AsyncSessionScope(OTHER[here], sessions=sessions) as session:
            theirs = [*await session.scalars(texts())]
            async with atenant_scope("initech"), sessions() as empty:
                assert [*await empty.scalars(texts())] == []

        async with sessions() as session:
            assert current() == here
            return {"ours": [*await session.scalars(texts())], "theirs": theirs}

    @app.after_request
    def after(response: Response) -> Response:
        seen.append(current())
        return response

    for tenant, rows in doors.TEXTS.items():
        told = app.test_client().get("/", headers=headers(tenant)).json
        assert told == {"ours": rows, "theirs": doors.TEXTS[OTHER[tenant]]}
        assert seen.pop() == tenant


def test_one_session_across_async_views_of_two_tenants_is_refused(
    app: Flask, sessions: async_sessionmaker[AsyncSession]
) -> None:
    session = sessions()

    @app.get("/")
    async def read() -> Any:
        return [*await session.scalars(texts())]

    client = app.test_client()
    assert client.get("/", headers=headers("acme")).json == doors.TEXTS["acme"]
    answer = client.get("/", headers=headers("globex"))
    assert answer.status_code == 404
    assert "acme" not in answer.text
    asyncio.run(session.close())


def test_tasks_and_threads_of_an_async_view_have_its_tenant(app: Flask, engine: Engine) -> None:
    def rows() -> list[str]:
        with Session(engine) as session:
            return [*session.scalars(texts())]

    async def task(tenant: str) -> Any:
        async with atenant_scope(tenant):
            await asyncio.sleep(0)
            return await asyncio.to_thread(rows)

    @app.get("/")
    async def view() -> Any:
        async with asyncio.TaskGroup() as tasks:
            nested = [tasks.create_task(task(tenant)) for tenant in OTHER]
            plain = tasks.create_task(asyncio.to_thread(rows))

        return [plain.result(), *(one.result() for one in nested)]

    for tenant, own in doors.TEXTS.items():
        told = app.test_client().get("/", headers=headers(tenant)).json
        assert told == [own, doors.TEXTS["acme"], doors.TEXTS["globex"]]


def test_async_functions_around_a_view_have_the_tenant_too(app: Flask) -> None:
    seen: list[Any] = []

    @app.before_request
    async def before() -> None:
        seen.append(current())

    @app.after_request
    async def after(response: Response) -> Response:
        seen.append(current())
        return response

    @app.teardown_request
    async def teardown(error: BaseException | None) -> None:
        seen.append(current())

    @app.errorhandler(ZeroDivisionError)
    async def handle(error: Exception) -> Any:
        seen.append(current())
        return "handled"

    @app.get("/")
    async def fail() -> Any:
        raise ZeroDivisionError

    for tenant in doors.TEXTS:
        assert app.test_client().get("/", headers=headers(tenant)).text == "handled"
        assert seen == [tenant] * 4
        seen.clear()


def test_a_scope_that_async_functions_open_and_leave_apart_stays_within_its_request(
    app: Flask,
) -> None:
    scopes: list[SyncScope[Any]] = []

    @app.before_request
    async def before() -> None:
        scopes.append(tenant_scope(OTHER[current()]))
        scopes[-1].__enter__()

    @app.teardown_request
    async def teardown(error: BaseException | None) -> None:
        scopes.pop().__exit__(None, None, None)

    @app.get("/")
    async def view() -> Any:
        return {"tenant": current()}

    for tenant in list(OTHER) * 2:
        assert app.test_client().get("/", headers=headers(tenant)).json == {"tenant": OTHER[tenant]}
        assert active_scope() is None


def test_a28_without_a_tenant_public_pages_pass_and_rows_are_400(
    app: Flask, engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    @app.get("/public")
    async def public() -> Any:
        return {"tenant": current()}

    @app.get("/notes")
    async def read() -> Any:
        async with sessions() as session:
            return [*await session.scalars(texts())]

    @app.get("/forged/<tenant>")
    async def forge(tenant: str) -> Any:
        async with sessions.begin() as session:
            session.add(Note(text="forged", tenant_id=tenant))

    client = app.test_client()
    assert client.get("/public").json == {"tenant": None}
    answer = client.get("/notes")
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
    assert client.get("/notes", headers=headers("globex")).json == doors.TEXTS["globex"]
    assert client.get("/forged/globex", headers=headers("acme")).status_code == 404
    assert stored(engine) == doors.TEXTS


def test_async_views_in_many_threads(
    app: Flask, sessions: async_sessionmaker[AsyncSession]
) -> None:
    @app.get("/")
    async def read() -> Any:
        async with sessions() as session:
            first = [*await session.scalars(texts())]
            await asyncio.sleep(0.005)
            return [first, [*await session.scalars(texts())]]

    barrier = threading.Barrier(4)

    def ask(tenant: str) -> tuple[str, Any, Any]:
        barrier.wait(timeout=10)
        return tenant, app.test_client().get("/", headers=headers(tenant)).json, current()

    with ThreadPoolExecutor(4) as threads:
        for tenant, rows, left in threads.map(ask, list(doors.TEXTS) * 10):
            assert (rows, left) == ([doors.TEXTS[tenant]] * 2, None)
