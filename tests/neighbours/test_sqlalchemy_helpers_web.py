"""sqlalchemy-helpers behind FastAPI and Flask: lines C16, C18 and C20.

Requests of two tenants with the same names, through our middleware. The Flask side shares one
scoped_session per thread, which the extension removes after each request.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from flask import Flask, Response, stream_with_context
from sqlalchemy import select
from sqlalchemy.exc import InvalidRequestError, NoResultFound, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy_helpers.aio import AsyncDatabaseManager
from sqlalchemy_helpers.fastapi import make_db_session, manager_from_config
from sqlalchemy_helpers.flask_ext import DatabaseExtension, first_or_404, get_or_404

import authors
from authors import ASYNC, NAMES, ON_SQLITE, SYNC, Place
from partywall import (
    CrossTenantAccessError,
    TenantSessionMiddleware,
    tenant_scope,
    try_current_tenant,
)
from partywall.fastapi import add_error_handlers
from partywall.flask import init_app, with_tenant
from partywall.resolvers import header

TENANTS = ["acme", "globex"]
OF_GLOBEX = [*NAMES, "dan"]

# pytest finds fixtures by the names a module has for them.
database, place = authors.database, authors.place


def as_tenant(tenant: str) -> dict[str, str]:
    return {"x-tenant": tenant}


# The application of C16 and C18, with the session dependency as the library's guide writes it, and
# with one that hands errors on to the library's generator.


async def manager_of(request: Request) -> AsyncDatabaseManager:
    manager: AsyncDatabaseManager = request.app.state.manager
    return manager


Manager = Annotated[AsyncDatabaseManager, Depends(manager_of)]


async def guided(manager: Manager) -> AsyncIterator[AsyncSession]:
    async for session in make_db_session(manager):
        yield session


async def managed(manager: Manager) -> AsyncIterator[AsyncSession]:
    async with asynccontextmanager(make_db_session)(manager) as session:
        yield session


# What is written is told only when it is committed; a stream needs its session for longer.
Db = Annotated[AsyncSession, Depends(guided, scope="function")]
StreamingDb = Annotated[AsyncSession, Depends(guided)]


async def list_names(db: Db) -> Any:
    return (await db.scalars(select(ASYNC.Author.name).order_by(ASYNC.Author.id))).all()


async def stream_notes(db: StreamingDb) -> StreamingResponse:
    notes = select(ASYNC.Note.text).order_by(ASYNC.Note.id)

    async def lines() -> AsyncIterator[str]:
        async for note in await db.stream_scalars(notes.execution_options(yield_per=1)):
            await asyncio.sleep(0)
            yield f"{note};"

    return StreamingResponse(lines())


async def show_author(db: Db, name: str) -> Any:
    try:
        author = await ASYNC.Author.get_one(db, name=name)
    except NoResultFound:
        raise HTTPException(404) from None

    return {"id": author.id, "full_name": author.full_name}


async def show_key(db: Db, key: int) -> Any:
    author = await ASYNC.Author.get_by_pk(key, session=db)
    if author is None:
        raise HTTPException(404)

    return author.name


async def create_author(db: Db, name: str) -> Any:
    author, created = await ASYNC.Author.get_or_create(db, name=name)
    if name == "forbidden":
        raise HTTPException(403)

    return {"tenant": author.tenant_id, "created": created}


async def change_author(db: Db, name: str, full_name: str) -> Any:
    _, created = await ASYNC.Author.update_or_create(
        db, name=name, defaults={"full_name": full_name}
    )
    return {"created": created}


async def write_book(db: Db, author_id: int) -> None:
    db.add(ASYNC.Book(title="new", author_id=author_id))


async def wait(request: Request, db: Db) -> None:
    await ASYNC.Author.get_or_create(db, name="waiting")
    request.app.state.waiting.set()
    await asyncio.Event().wait()


@pytest.fixture(params=[guided, managed])
async def fastapi_app(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[FastAPI]:
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    add_error_handlers(app)
    app.dependency_overrides[guided] = request.param
    app.state.waiting = asyncio.Event()
    app.state.manager = manager_from_config(
        {
            "sqlalchemy": {"url": place.uri, "pool_size": 1, "max_overflow": 0},
            "alembic": {"migrations_path": "migrations"},
        }
    )
    app.get("/names")(list_names)
    app.get("/stream")(stream_notes)
    app.get("/wait")(wait)
    app.get("/authors/{name}")(show_author)
    app.get("/keys/{key}")(show_key)
    app.post("/authors/{name}")(create_author)
    app.put("/authors/{name}/{full_name}")(change_author)
    app.post("/books/{author_id}")(write_book)
    yield app
    await app.state.manager.engine.dispose()


@pytest.fixture
async def client(fastapi_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(fastapi_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How sessions end, and the tenant that is current then."""
    ends: list[Any] = []

    def noting(name: str, end: Any) -> Any:
        async def noted(session: AsyncSession) -> None:
            await end(session)
            tenant = try_current_tenant()
            ends.append((name, tenant and tenant.tenant_id))

        return noted

    for name in ["commit", "rollback", "close"]:
        monkeypatch.setattr(AsyncSession, name, noting(name, getattr(AsyncSession, name)))

    return ends


GUIDED = pytest.mark.parametrize("fastapi_app", [guided], indirect=True)
MANAGED = pytest.mark.parametrize("fastapi_app", [managed], indirect=True)


# C16


async def test_c16_commit_and_close_run_inside_the_tenant(
    place: Place, client: Any, ends: list[Any]
) -> None:
    for tenant in TENANTS:
        ends.clear()
        answer = await client.post("/authors/eve", headers=as_tenant(tenant))
        assert answer.json() == {"tenant": tenant, "created": True}
        assert ends == [("commit", tenant), ("close", tenant)]

    assert {row[1:3] for row in place.added()} == {("acme", "eve"), ("globex", "eve")}


@MANAGED
async def test_c16_rollback_and_close_run_inside_the_tenant(
    place: Place, client: Any, ends: list[Any]
) -> None:
    for tenant in TENANTS:
        ends.clear()
        answer = await client.post("/authors/forbidden", headers=as_tenant(tenant))
        assert answer.status_code == 403
        assert ends == [("rollback", tenant), ("close", tenant)]

    assert place.is_untouched()


@GUIDED
async def test_c16_a_session_that_is_left_to_the_collector_ends_in_nothing(
    place: Place, client: Any, ends: list[Any]
) -> None:
    """The guide's `async for` does not hand an error on: the generator is closed when it is found.

    Then another tenant may be current, or none; nothing is committed and the connection comes back.
    """
    for tenant in TENANTS * 2:
        answer = await client.post("/authors/forbidden", headers=as_tenant(tenant))
        assert answer.status_code == 403
        gc.collect()
        async with asyncio.timeout(20):
            while not ends:
                await asyncio.sleep(0.01)

        assert {end for end, _ in ends} == {"close"}
        ends.clear()
        answer = await client.get("/names", headers=as_tenant(tenant))
        assert answer.json() == (NAMES if tenant == "acme" else OF_GLOBEX)
        assert ends == [("commit", tenant), ("close", tenant)]
        ends.clear()

    assert place.is_untouched()


@MANAGED
async def test_c16_a_refused_commit_is_told_and_rolled_back(
    place: Place, client: Any, ends: list[Any]
) -> None:
    """Author 1 is acme's and 2 is globex's; the books are only flushed by the commit."""
    for tenant, own, foreign in [("acme", 1, 2), ("globex", 2, 1)]:
        ends.clear()
        answer = await client.post(f"/books/{foreign}", headers=as_tenant(tenant))
        assert answer.status_code == 404
        assert "acme" not in answer.text
        assert "globex" not in answer.text
        assert ends == [("rollback", tenant), ("close", tenant)]
        answer = await client.post(f"/books/{own}", headers=as_tenant(tenant))
        assert answer.status_code == 200

    assert {row[1:] for row in place.added("book")} == {("acme", 1, "new"), ("globex", 2, "new")}


@ON_SQLITE
async def test_c16_without_a_tenant_nothing_is_done(
    place: Place, client: Any, ends: list[Any]
) -> None:
    for method, path in [("GET", "names"), ("POST", "authors/eve"), ("POST", "books/1")]:
        answer = await client.request(method, f"/{path}")
        assert (answer.status_code, answer.json()["status"]) == (400, 400)
        gc.collect()
        await asyncio.sleep(0)
        answer = await client.get("/names", headers=as_tenant("acme"))
        assert answer.json() == NAMES

    assert ("commit", None) not in ends
    assert place.is_untouched()


async def test_c16_a_client_that_hangs_up_leaves_nothing(
    place: Place, fastapi_app: FastAPI, client: Any, ends: list[Any]
) -> None:
    for tenant in TENANTS:
        request = asyncio.create_task(client.get("/wait", headers=as_tenant(tenant)))
        await asyncio.wait_for(fastapi_app.state.waiting.wait(), 20)
        fastapi_app.state.waiting.clear()
        ends.clear()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

        del request
        gc.collect()
        answer = await client.get("/names", headers=as_tenant(tenant))
        assert answer.json() == (NAMES if tenant == "acme" else OF_GLOBEX)
        assert {end for end, _ in ends[:-2]} == {"close"}
        assert ends[-2:] == [("commit", tenant), ("close", tenant)]

    assert place.is_untouched()


async def test_c16_a_stream_ends_before_the_session_does(client: Any, ends: list[Any]) -> None:
    asked = [client.get("/stream", headers=as_tenant(tenant)) for tenant in TENANTS]
    answers = await asyncio.wait_for(asyncio.gather(*asked), 20)

    assert [answer.text for answer in answers] == [
        "Emma of acme;Ulysses of acme;",
        "Emma of globex;Ulysses of globex;",
    ]
    assert sorted(ends) == [(end, tenant) for end in ["close", "commit"] for tenant in TENANTS]


# C18


async def test_c18_the_same_name_in_two_tenants(place: Place, client: Any) -> None:
    for created in [True, False]:
        for tenant in TENANTS:
            answer = await client.post("/authors/eve", headers=as_tenant(tenant))
            assert answer.json() == {"tenant": tenant, "created": created}

    for tenant in TENANTS:
        answer = await client.put(f"/authors/ada/{tenant}", headers=as_tenant(tenant))
        assert answer.json() == {"created": False}

    shown = [
        (await client.get("/authors/ada", headers=as_tenant(tenant))).json() for tenant in TENANTS
    ]
    assert shown == [{"id": 1, "full_name": "acme"}, {"id": 2, "full_name": "globex"}]
    answer = await client.put("/authors/dan/new", headers=as_tenant("acme"))
    assert answer.json() == {"created": True}
    assert {row[1:4] for row in place.added()} == {
        ("acme", "ada", "acme"),
        ("globex", "ada", "globex"),
        ("acme", "eve", ""),
        ("globex", "eve", ""),
        ("acme", "dan", "new"),
    }
    assert place.stored("author", "*")[8, "globex", "dan", "dan of globex", "dan"] == 1


async def test_c18_a_foreign_author_is_not_found(client: Any) -> None:
    found = {}
    for tenant in TENANTS:
        for path in [*(f"keys/{key}" for key in range(1, 10)), "authors/ada", "authors/dan"]:
            answer = await client.get(f"/{path}", headers=as_tenant(tenant))
            assert answer.status_code in (200, 404)
            if answer.status_code == 200:
                found.setdefault(tenant, []).append(path)

    assert found == {
        "acme": ["keys/1", "keys/3", "keys/5", "authors/ada"],
        "globex": ["keys/2", "keys/4", "keys/6", "keys/8", "authors/ada", "authors/dan"],
    }


async def test_c18_requests_of_two_tenants_at_once(place: Place, client: Any) -> None:
    tenants = TENANTS * 5
    asked = [
        client.post(f"/authors/eve{turn // 2}", headers=as_tenant(tenant))
        for turn, tenant in enumerate(tenants)
    ]
    answers = await asyncio.wait_for(asyncio.gather(*asked), 20)

    assert [answer.json()["tenant"] for answer in answers] == tenants
    assert sorted(row[1:3] for row in place.added()) == [
        (tenant, f"eve{turn}") for tenant in TENANTS for turn in range(5)
    ]


# C20


@pytest.fixture
def flask_app(place: Place) -> Iterator[Flask]:
    app = Flask("helpers_app")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=place.uri,
        DB_ALEMBIC_LOCATION="migrations",
        DB_MODELS_LOCATION="authors",
    )
    db = DatabaseExtension(app)
    init_app(app, resolve_tenant=header("x-tenant"))
    app.extensions["db"] = db
    m = SYNC

    @app.get("/public")
    def public() -> Any:
        return "public"

    @app.get("/names")
    def names() -> Any:
        return list(db.session.scalars(select(m.Author.name).order_by(m.Author.id)))

    @app.get("/keys/<int:key>")
    def by_key(key: int) -> Any:
        return get_or_404(m.Author, key, "no such author").name

    @app.get("/authors/<name>")
    def show(name: str) -> Any:
        author = first_or_404(select(m.Author).filter_by(name=name), "no such author")
        return {"id": author.id, "full_name": author.full_name}

    @app.get("/given/<name>")
    def show_given(name: str) -> Any:
        return first_or_404(select(m.Author).filter_by(name=name), session=db.session).full_name

    @app.post("/authors/<name>")
    def create(name: str) -> Any:
        author, created = m.Author.get_or_create(name=name)
        if name == "broken":
            raise ZeroDivisionError

        if name != "forgotten":
            db.session.commit()

        return {"tenant": author.tenant_id, "created": created}

    @app.put("/authors/<name>/<full_name>")
    def change(name: str, full_name: str) -> Any:
        _, created = m.Author.update_or_create(name=name, defaults={"full_name": full_name})
        db.session.commit()
        return {"created": created}

    @app.get("/stream")
    def stream() -> Response:
        notes = select(m.Note.text).order_by(m.Note.id).execution_options(yield_per=1)

        def lines() -> Iterator[str]:
            for text in db.session.scalars(notes):
                yield f"{text};"

        return Response(stream_with_context(lines()))

    @app.cli.command("count")
    @with_tenant()
    def count() -> None:
        print(len(db.session.scalars(select(m.Author)).all()), m.Author.get_one(name="ada").id)

    yield app
    manager = app.extensions.get(DatabaseExtension._app_manager_name)
    if manager is not None:
        manager.Session.remove()
        manager.engine.dispose()


def test_c20_a_request_has_its_tenants_rows(flask_app: Flask) -> None:
    client = flask_app.test_client()
    for tenant in [*TENANTS, *TENANTS]:
        answer = client.get("/names", headers=as_tenant(tenant))
        assert answer.json == (NAMES if tenant == "acme" else OF_GLOBEX)


def test_c20_a_foreign_row_is_404(flask_app: Flask) -> None:
    client = flask_app.test_client()
    found = {}
    for path in [
        *(f"/keys/{key}" for key in range(1, 10)),
        *(f"/{kind}/{name}" for kind in ["authors", "given"] for name in ["ada", "dan"]),
    ]:
        for tenant in TENANTS:
            answer = client.get(path, headers=as_tenant(tenant))
            assert answer.status_code in (200, 404)
            if answer.status_code == 200:
                found.setdefault(tenant, []).append(path)

    assert found == {
        "acme": ["/keys/1", "/keys/3", "/keys/5", "/authors/ada", "/given/ada"],
        "globex": [
            *("/keys/2", "/keys/4", "/keys/6", "/keys/8"),
            *("/authors/ada", "/authors/dan", "/given/ada", "/given/dan"),
        ],
    }


def test_c20_the_same_name_in_two_tenants(place: Place, flask_app: Flask) -> None:
    client = flask_app.test_client()
    for created in [True, False]:
        for tenant in TENANTS:
            answer = client.post("/authors/eve", headers=as_tenant(tenant))
            assert answer.json == {"tenant": tenant, "created": created}

    for tenant in TENANTS:
        assert client.put(f"/authors/ada/{tenant}", headers=as_tenant(tenant)).json == {
            "created": False
        }

    assert client.put("/authors/dan/new", headers=as_tenant("acme")).json == {"created": True}
    assert {row[1:4] for row in place.added()} == {
        ("acme", "ada", "acme"),
        ("globex", "ada", "globex"),
        ("acme", "eve", ""),
        ("globex", "eve", ""),
        ("acme", "dan", "new"),
    }


@pytest.mark.parametrize(("name", "status"), [("broken", 500), ("forgotten", 200)])
def test_c20_uncommitted_work_ends_with_its_request(
    place: Place, flask_app: Flask, name: str, status: int
) -> None:
    client = flask_app.test_client()
    for tenant in [*TENANTS, *TENANTS]:
        answer = client.post(f"/authors/{name}", headers=as_tenant(tenant))
        assert answer.status_code == status
        answer = client.get("/names", headers=as_tenant(tenant))
        assert answer.json == (NAMES if tenant == "acme" else OF_GLOBEX)

    assert place.is_untouched()


@ON_SQLITE
def test_c20_without_a_tenant_owned_rows_are_refused(place: Place, flask_app: Flask) -> None:
    client = flask_app.test_client()
    assert client.get("/public").text == "public"
    for method, path in [("GET", "/names"), ("GET", "/keys/1"), ("POST", "/authors/eve")]:
        answer = client.open(path, method=method)
        assert (answer.status_code, answer.json["status"]) == (400, 400)
        assert client.get("/names", headers=as_tenant("acme")).json == NAMES

    assert place.is_untouched()


def test_c20_threads_serve_requests_of_two_tenants(place: Place, flask_app: Flask) -> None:
    def request(turn: int) -> Any:
        tenant = TENANTS[turn % 2]
        client = flask_app.test_client()
        names = client.get("/names", headers=as_tenant(tenant)).json
        return tenant, names

    flask_app.test_client().get("/public")
    with ThreadPoolExecutor(3) as workers:
        for tenant, names in workers.map(request, range(24), timeout=20):
            assert names == (NAMES if tenant == "acme" else OF_GLOBEX)

        manager = flask_app.extensions[DatabaseExtension._app_manager_name]
        list(workers.map(lambda _: manager.Session.remove(), range(6)))


@ON_SQLITE
def test_c20_a_kept_context_does_not_keep_the_session(flask_app: Flask) -> None:
    with flask_app.test_client() as client:
        for tenant in [*TENANTS, *TENANTS]:
            answer = client.get("/names", headers=as_tenant(tenant))
            assert answer.json == (NAMES if tenant == "acme" else OF_GLOBEX)
            assert try_current_tenant() is None


def test_c20_two_tenants_in_one_application_context(place: Place, flask_app: Flask) -> None:
    """Nothing removes the session between them."""
    db = flask_app.extensions["db"]
    with flask_app.app_context():
        with tenant_scope("acme"):
            assert db.session.get(SYNC.Author, 1).name == "ada"
            held, _ = SYNC.Author.get_or_create(name="eve")

        for method in [SYNC.Author.get_one, SYNC.Author.get_or_create]:
            with (
                tenant_scope("globex"),
                pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"),
            ):
                method(name="eve")

        assert held.name == "eve"

    assert place.is_untouched()
    with flask_app.app_context(), tenant_scope("globex"):
        assert SYNC.Author.get_or_create(name="eve")[1]
        db.session.commit()

    assert {row[1:3] for row in place.added()} == {("globex", "eve")}


@ON_SQLITE
def test_c20_a_command_runs_for_a_tenant(flask_app: Flask) -> None:
    runner = flask_app.test_cli_runner()
    for tenant, printed in [("acme", "3 1\n"), ("globex", "4 2\n")]:
        assert runner.invoke(args=["count", "--tenant", tenant]).output == printed

    assert "Missing option '--tenant'" in runner.invoke(args=["count"]).output


def test_c20_a_stream_has_its_tenants_rows(flask_app: Flask) -> None:
    client = flask_app.test_client()
    for tenant in [*TENANTS, *TENANTS]:
        answer = client.get("/stream", headers=as_tenant(tenant))
        assert answer.text == f"Emma of {tenant};Ulysses of {tenant};"


def test_c20_streams_that_share_a_threads_session_do_not_mix(flask_app: Flask) -> None:
    """The thread has one session, and the first request to end removes it."""
    client = flask_app.test_client()
    acme = client.get("/stream", headers=as_tenant("acme"), buffered=False)
    lines = acme.iter_encoded()
    received = [next(lines)]
    answer = client.get("/names", headers=as_tenant("globex"))
    assert answer.status_code == 404
    assert "acme" not in answer.text
    with suppress(ProgrammingError, InvalidRequestError):
        received += lines

    acme.close()
    assert set(received) <= {b"Emma of acme;", b"Ulysses of acme;"}
    for tenant in TENANTS:
        answer = client.get("/names", headers=as_tenant(tenant))
        assert answer.json == (NAMES if tenant == "acme" else OF_GLOBEX)
