"""FastAPI: sessions as dependencies, and what a refused client is told.

Annotations stay objects here: FastAPI cannot read strings that name local types."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, make_transient_to_detached, sessionmaker
from sqlalchemy.pool import StaticPool
from starlette.websockets import WebSocketDisconnect

import doors
from doors import Note, stored, texts
from partywall.context import (
    active_scope,
    atenant_scope,
    current_tenant,
    tenant_scope,
    try_current_tenant,
)
from partywall.errors import (
    CrossTenantAccessError,
    MissingTenantContextError,
    UnscopedStatementError,
)
from partywall.fastapi import add_error_handlers, tenant_session
from partywall.middleware import TenantSessionMiddleware
from partywall.resolvers import header
from protocols import Exchange, asgi, scope


@pytest.fixture(autouse=True)
def _nothing_is_left_bound() -> Iterator[None]:
    yield
    assert active_scope() is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = doors.filled(tmp_path)
    yield engine
    engine.dispose()


def current() -> Any:
    context = try_current_tenant()
    return None if context is None else context.tenant_id


def application(path: Path, engine: Engine, *, middleware: bool = True) -> FastAPI:
    async_engine = doors.async_engine(path)
    dispose = async_engine.dispose

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.dispose = dispose
    app.state.seen = []
    if middleware:
        app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))

    add_error_handlers(app)
    sessions = async_sessionmaker(async_engine)

    def tenant_of_the_user(authorization: Annotated[str | None, Header()] = None) -> str | None:
        return authorization

    given = None if middleware else tenant_of_the_user
    session = tenant_session(sessions, given)
    sync_session = tenant_session(sessionmaker(engine), given)
    before = Annotated[AsyncSession, Depends(session, scope="function")]
    after = Annotated[AsyncSession, Depends(session)]
    threaded = Annotated[Session, Depends(sync_session, scope="function")]

    @app.get("/public")
    async def public() -> Any:
        return current()

    @app.get("/notes")
    async def read(session: before) -> Any:
        return (await session.scalars(texts())).all()

    @app.get("/threaded")
    def read_in_a_thread(session: threaded) -> Any:
        return session.scalars(texts()).all()

    @app.get("/stream")
    async def stream(session: after) -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            async for text in await session.stream_scalars(texts()):
                await asyncio.sleep(0)
                yield f"{text};"

        return StreamingResponse(rows())

    @app.post("/notes")
    async def write(session: before, text: str) -> Any:
        session.add(Note(text=text))
        await session.flush()
        if text == "fail":
            raise ZeroDivisionError

        return text

    @app.post("/threaded")
    def write_in_a_thread(session: threaded, text: str) -> Any:
        session.add(Note(text=text))
        session.flush()
        if text == "fail":
            raise ZeroDivisionError

        return text

    @app.post("/forged")
    async def forge(session: before, tenant: str) -> Any:
        session.add(Note(text="forged", tenant_id=tenant))

    @app.get("/raw")
    async def raw() -> Any:
        raise UnscopedStatementError("SELECT * FROM door_note names globex")

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> Any:
        tasks.add_task(lambda: app.state.seen.append(current()))

    @app.websocket("/talk")
    async def talk(websocket: WebSocket, session: after) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            await websocket.send_json((await session.scalars(texts())).all())

    return app


@asynccontextmanager
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://example.com") as found:
        yield found

    await app.state.dispose()


def headers(tenant: str, middleware: bool = True) -> dict[str, str]:
    return {"x-tenant" if middleware else "authorization": tenant}


tenant_from = pytest.mark.parametrize("middleware", [True, False], ids=["middleware", "dependency"])


@tenant_from
@pytest.mark.parametrize("path", ["/notes", "/threaded"])
async def test_a_session_reads_its_tenants_rows(
    tmp_path: Path, engine: Engine, middleware: bool, path: str
) -> None:
    async with client(application(tmp_path, engine, middleware=middleware)) as http:
        for tenant, rows in doors.TEXTS.items():
            assert (await http.get(path, headers=headers(tenant, middleware))).json() == rows


@tenant_from
@pytest.mark.parametrize("path", ["/notes", "/threaded"])
async def test_it_commits_or_rolls_back_inside_the_tenant(
    tmp_path: Path, engine: Engine, middleware: bool, path: str
) -> None:
    async with client(application(tmp_path, engine, middleware=middleware)) as http:
        for tenant in doors.TEXTS:
            who = headers(tenant, middleware)
            answer = await http.post(path, params={"text": f"new {tenant}"}, headers=who)
            assert answer.status_code == 200
            assert stored(engine)[tenant][-1] == f"new {tenant}"
            answer = await http.post(path, params={"text": "fail"}, headers=who)
            assert answer.status_code == 500

    assert stored(engine) == {
        tenant: [*rows, f"new {tenant}"] for tenant, rows in doors.TEXTS.items()
    }


@tenant_from
async def test_it_streams_within_its_session(
    tmp_path: Path, engine: Engine, middleware: bool
) -> None:
    async with client(application(tmp_path, engine, middleware=middleware)) as http:
        both = await asyncio.gather(
            *(http.get("/stream", headers=headers(tenant, middleware)) for tenant in doors.TEXTS)
        )
        assert [answer.text for answer in both] == [
            ";".join(rows) + ";" for rows in doors.TEXTS.values()
        ]


@tenant_from
async def test_without_a_tenant_public_pages_pass_and_rows_are_400(
    tmp_path: Path, engine: Engine, middleware: bool
) -> None:
    async with client(application(tmp_path, engine, middleware=middleware)) as http:
        assert (await http.get("/public")).json() is None
        for path in ("/notes", "/threaded"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["status"]) == (400, 400)
            assert answer.headers["content-type"] == "application/problem+json"


async def test_d11_a_malformed_tenant_is_400(tmp_path: Path, engine: Engine) -> None:
    async with client(application(tmp_path, engine)) as http:
        answer = await http.get("/notes", headers=headers("acme,globex"))
        assert (answer.status_code, answer.json()["detail"]) == (400, "The tenant is malformed.")

    async with client(application(tmp_path, engine, middleware=False)) as http:
        answer = await http.get("/notes", headers=headers(" ", False))
        assert answer.status_code == 400


async def test_d11_a_refusal_names_no_tenant_and_other_errors_stay_errors(
    tmp_path: Path, engine: Engine
) -> None:
    async with client(application(tmp_path, engine)) as http:
        answer = await http.post("/forged", params={"tenant": "globex"}, headers=headers("acme"))
        assert answer.status_code == 404
        assert answer.json()["detail"] == "There is nothing here."
        assert "globex" not in answer.text
        assert (await http.get("/raw", headers=headers("acme"))).status_code == 500

    assert stored(engine) == doors.TEXTS


def by_key(path: Path, engine: Engine) -> FastAPI:
    """What applications do with a key from the path, in a session of either kind."""
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))
    add_error_handlers(app)
    async_engine = doors.async_engine(path)
    app.state.dispose = async_engine.dispose
    asynchronous = Depends(tenant_session(async_sessionmaker(async_engine)), scope="function")
    threaded = Depends(tenant_session(sessionmaker(engine)), scope="function")

    def found(note: Note | None) -> Note:
        if note is None:
            raise HTTPException(404)

        return note

    def changed(result: Any) -> int:
        if not result.rowcount:
            raise HTTPException(404)

        return result.rowcount

    def detached(key: int) -> Note:
        note = Note(id=key, text="before")
        make_transient_to_detached(note)
        return note

    def get(session: Session, key: int) -> Any:
        return found(session.get(Note, key)).text

    def select_one(session: Session, key: int) -> Any:
        return session.scalars(select(Note).where(Note.id == key)).one().text

    def select_or_none(session: Session, key: int) -> Any:
        return session.scalar(select(Note.text).where(Note.id == key))

    def exists(session: Session, key: int) -> Any:
        return session.scalar(select(func.count()).where(Note.id == key))

    def refresh(session: Session, key: int) -> Any:
        note = detached(key)
        session.add(note)
        session.refresh(note)
        return note.text

    def put(session: Session, key: int) -> Any:
        note = detached(key)
        session.add(note)
        note.text = "taken over"

    def patch(session: Session, key: int) -> Any:
        return changed(session.execute(update(Note).where(Note.id == key).values(text="changed")))

    def update_by_key(session: Session, key: int) -> Any:
        session.execute(update(Note), [{"id": key, "text": "changed"}])

    def delete_one(session: Session, key: int) -> Any:
        session.delete(found(session.get(Note, key)))

    def delete_detached(session: Session, key: int) -> Any:
        note = detached(key)
        session.add(note)
        session.delete(note)

    def delete_many(session: Session, key: int) -> Any:
        return changed(session.execute(delete(Note).where(Note.id == key)))

    def add_route(work: Any) -> None:
        async def awaited(key: int, session: Annotated[AsyncSession, asynchronous]) -> Any:
            return await session.run_sync(work, key)

        def called(key: int, session: Annotated[Session, threaded]) -> Any:
            return work(session, key)

        app.post(f"/awaited/{work.__name__}/{{key}}")(awaited)
        app.post(f"/called/{work.__name__}/{{key}}")(called)

    for work in (get, select_one, select_or_none, exists, refresh, put, patch, update_by_key):
        add_route(work)

    for work in (delete_one, delete_detached, delete_many):
        add_route(work)

    return app


async def test_d12_a_foreign_key_in_the_path_is_answered_like_one_that_nobody_has(
    tmp_path: Path, engine: Engine
) -> None:
    """Status, headers and body, to the letter; and the foreign row stays as it was."""
    app = by_key(tmp_path, engine)
    paths = [route.path for route in app.routes if "{key}" in getattr(route, "path", "")]
    assert len(paths) == 22
    async with client(app) as http:
        for tenant, foreign in (("acme", 4), ("globex", 1)):
            for path in paths:
                answers = [
                    await http.post(path.format(key=key), headers=headers(tenant))
                    for key in (foreign, 99)
                ]
                told = [(a.status_code, a.headers.multi_items(), a.content) for a in answers]
                assert told[0] == told[1], path
                assert b"acme" not in told[0][2] and b"globex" not in told[0][2]

    assert stored(engine) == doors.TEXTS
    async with client(by_key(tmp_path, engine)) as http:
        assert (await http.post("/awaited/get/1", headers=headers("acme"))).json() == "acme 1"
        assert (await http.post("/called/patch/4", headers=headers("globex"))).json() == 1


async def test_background_tasks_keep_the_tenant(tmp_path: Path, engine: Engine) -> None:
    app = application(tmp_path, engine)
    async with client(app) as http:
        for tenant in doors.TEXTS:
            await http.get("/later", headers=headers(tenant))

    assert app.state.seen == list(doors.TEXTS)


def test_a_websocket_has_a_session_and_is_closed_without_a_tenant(
    tmp_path: Path, engine: Engine
) -> None:
    with TestClient(application(tmp_path, engine)) as http:
        for tenant, rows in doors.TEXTS.items():
            with http.websocket_connect("/talk", headers=headers(tenant)) as socket:
                socket.send_text("notes")
                assert socket.receive_json() == rows

        with (
            pytest.raises(WebSocketDisconnect) as closed,
            http.websocket_connect("/talk") as socket,
        ):
            socket.send_text("notes")
            socket.receive_json()

        assert (closed.value.code, closed.value.reason) == (1008, "This request needs a tenant.")


async def test_a_websocket_that_was_closed_is_not_closed_again() -> None:
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))
    add_error_handlers(app)

    @app.websocket("/")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()
        current_tenant()

    for tenant in ("acme", "globex"):
        request = scope(type="websocket", tenant=tenant)
        exchange = await asgi(app, request, {"type": "websocket.connect"})
        assert [one["type"] for one in exchange.sent] == ["websocket.accept", "websocket.close"]

    exchange = Exchange({"type": "websocket.connect"})
    with pytest.raises(RuntimeError, match="once a close message") as no:
        await app(scope(type="websocket"), exchange.receive, exchange.send)

    assert isinstance(no.value.__context__, MissingTenantContextError)
    assert [one["type"] for one in exchange.sent] == ["websocket.accept", "websocket.close"]


async def test_many_requests_at_once(tmp_path: Path, engine: Engine) -> None:
    async with client(application(tmp_path, engine)) as http:
        tenants = list(doors.TEXTS) * 15
        paths = ["/notes", "/threaded", "/stream"] * 10
        answers = await asyncio.gather(
            *(http.get(p, headers=headers(t)) for t, p in zip(tenants, paths, strict=True))
        )
        for tenant, answer in zip(tenants, answers, strict=True):
            assert answer.status_code == 200
            assert tenant in answer.text
            assert all(other not in answer.text for other in doors.TEXTS if other != tenant)


def test_a33_in_memory_sqlite_with_a_static_pool_and_a_threaded_client() -> None:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    doors.fill(engine)
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))

    def session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    @app.get("/")
    def read(session: Annotated[Session, Depends(session)]) -> Any:
        return session.scalars(texts()).all()

    with TestClient(app) as http:
        for tenant, rows in list(doors.TEXTS.items()) * 5:
            assert http.get("/", headers=headers(tenant)).json() == rows

        assert http.get("/").status_code == 400

    engine.dispose()


async def test_a33_the_same_async() -> None:
    """E11: an async engine in memory."""
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(doors.Base.metadata.create_all)

    sessions = async_sessionmaker(engine)
    for tenant, rows in doors.TEXTS.items():
        async with atenant_scope(tenant), sessions.begin() as session:
            session.add_all(Note(text=text) for text in rows)

    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))
    app.state.dispose = engine.dispose

    @app.get("/")
    async def read(session: Annotated[AsyncSession, Depends(tenant_session(sessions))]) -> Any:
        return (await session.scalars(texts())).all()

    async with client(app) as http:
        for tenant, rows in list(doors.TEXTS.items()) * 5:
            assert (await http.get("/", headers=headers(tenant))).json() == rows


@tenant_scope("globex")
def _decorated() -> Iterator[str]:
    for _ in range(3):
        yield f"{current()};"


def _inside() -> Iterator[str]:
    with tenant_scope("globex"):
        for _ in range(3):
            yield f"{current()};"


@pytest.mark.parametrize(
    "body",
    [
        _decorated,
        pytest.param(
            _inside,
            marks=pytest.mark.xfail(strict=True, reason="each step runs in a context of its own"),
        ),
    ],
)
def test_a_sync_stream_keeps_the_tenant_that_it_binds(body: Any) -> None:
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))
    app.add_api_route("/", lambda: StreamingResponse(body()))
    answer = TestClient(app).get("/", headers={"X-Tenant": "acme"})
    assert answer.text == "globex;globex;globex;"


def test_a_sync_dependency_that_binds_neither_raises_nor_leaves_a_tenant() -> None:
    """FastAPI runs its two halves in copies of the context: the endpoint does not see it."""
    from partywall.scopes import SessionScope

    app = FastAPI()

    def bind(authorization: Annotated[str, Header()]) -> Iterator[None]:
        with SessionScope(authorization):
            yield

    @app.get("/")
    def read(_: Annotated[None, Depends(bind)]) -> Any:
        return current()

    @app.get("/async")
    async def aread(_: Annotated[None, Depends(bind)]) -> Any:
        return current()

    with TestClient(app) as http:
        for tenant in list(doors.TEXTS) * 10:
            for path in ("/", "/async"):
                assert http.get(path, headers={"authorization": tenant}).json() is None


async def test_b4_a_hand_written_dependency_ends_inside_the_tenant(
    tmp_path: Path, engine: Engine
) -> None:
    sessions = async_sessionmaker(doors.async_engine(tmp_path))
    ends = []

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            try:
                yield session
                await session.commit()
            except BaseException:
                await session.rollback()
                raise
            finally:
                ends.append(current())

    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))
    app.state.dispose = sessions.kw["bind"].dispose

    @app.post("/")
    async def write(session: Annotated[AsyncSession, Depends(get_db)]) -> None:
        session.add(Note(text="by hand"))

    async with client(app) as http:
        for tenant in doors.TEXTS:
            assert (await http.post("/", headers=headers(tenant))).status_code == 200

    assert ends == list(doors.TEXTS)
    assert stored(engine) == {tenant: [*rows, "by hand"] for tenant, rows in doors.TEXTS.items()}


def test_every_answer_is_made_for_a_refusal() -> None:
    from partywall.problems import _PROBLEMS, ANSWERED, problem_of

    assert set(ANSWERED) == set(_PROBLEMS)
    for kind in ANSWERED:
        assert problem_of(kind("globex")).status in (400, 404)

    from partywall.errors import CrossTenantReferenceError

    assert problem_of(CrossTenantReferenceError("globex")) == problem_of(CrossTenantAccessError())
