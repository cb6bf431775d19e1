"""ASGI requests and their tenant."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

import doors
from doors import Note, stored, texts
from partywall.context import (
    active_scope,
    bind_tenant,
    current_tenant,
    tenant_scope,
    try_current_tenant,
)
from partywall.errors import (
    ConfigurationError,
    CrossTenantAccessError,
    MalformedTenantError,
    MissingTenantContextError,
    UnknownTenantError,
)
from partywall.middleware import TenantSessionMiddleware, TenantSessionMiddlewareWSGI
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


async def tell(request: Any, receive: Any, send: Any) -> None:
    """An application that says whose turn it is, and fails if it is nobody's."""
    body = str(current_tenant().tenant_id).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def tell_or_not(request: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(current()).encode()})


def walled(app: Any = tell, **options: Any) -> TenantSessionMiddleware:
    return TenantSessionMiddleware(app, **{"resolve_tenant": header("X-Tenant"), **options})


async def test_a_request_has_its_tenant_and_leaves_none_behind() -> None:
    for tenant in ("acme", "globex"):
        assert (await asgi(walled(), scope(tenant=tenant))).body == tenant.encode()
        assert active_scope() is None


async def test_requests_at_once_do_not_see_each_other() -> None:
    async def slow(request: Any, receive: Any, send: Any) -> None:
        found = set()
        for _ in range(20):
            await asyncio.sleep(0)
            found.add(current())

        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": ",".join(found).encode()})

    app = walled(slow)
    tenants = ["acme", "globex"] * 20
    exchanges = await asyncio.gather(*(asgi(app, scope(tenant=tenant)) for tenant in tenants))
    assert [exchange.body.decode() for exchange in exchanges] == tenants


async def _coroutine(tenant: str) -> str:
    await asyncio.sleep(0)
    return tenant


def _task(tenant: str) -> asyncio.Task[str]:
    return asyncio.create_task(_coroutine(tenant))


def _future(tenant: str) -> asyncio.Future[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result(tenant)
    return future


class _Awaitable:
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def __await__(self) -> Any:
        return _coroutine(self.tenant).__await__()


@pytest.mark.parametrize("make", [str, bind_tenant, _coroutine, _task, _future, _Awaitable])
async def test_a15_a_resolver_is_sync_or_returns_any_awaitable(make: Any) -> None:
    read = header("X-Tenant")
    app = walled(resolve_tenant=lambda request: make(read(request)))
    for tenant in ("acme", "globex"):
        assert (await asgi(app, scope(tenant=tenant))).body == tenant.encode()


async def test_a16_a_resolver_is_a_plain_function_of_the_scope() -> None:
    seen = []

    def resolve(request: Any) -> str:
        seen.append(request)
        return "acme"

    async def aresolve(request: Any) -> str:
        seen.append(request)
        return "globex"

    request = scope()
    assert (await asgi(walled(resolve_tenant=resolve), request)).body == b"acme"
    assert (await asgi(walled(resolve_tenant=aresolve), request)).body == b"globex"
    assert seen[0] is seen[1] is request


async def test_a17_lifespan_and_what_else_there_is_pass_untouched() -> None:
    seen = []

    async def app(request: Any, receive: Any, send: Any) -> None:
        seen.append((request, receive, send, current()))

    def resolve(request: Any) -> str:
        raise AssertionError("the resolver was asked")

    for kind in ("lifespan", "something new"):
        request, receive, send = {"type": kind}, object(), object()
        await walled(app, resolve_tenant=resolve, on_missing_tenant="raise")(request, receive, send)
        assert seen.pop() == (request, receive, send, None)


async def test_a17_the_tenant_stays_while_the_body_streams_and_in_the_background() -> None:
    seen = []

    async def chunks() -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield f"{current()} "

    def sync_chunks() -> Iterator[str]:
        for _ in range(3):
            yield f"{current()} "

    async def later() -> None:
        seen.append(current())

    def later_in_a_thread() -> None:
        seen.append(current())

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks(), background=BackgroundTask(later))

    async def sync_stream(request: Request) -> StreamingResponse:
        return StreamingResponse(sync_chunks(), background=BackgroundTask(later_in_a_thread))

    def in_a_thread(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{current()}")

    app = Starlette(
        routes=[Route("/a", stream), Route("/b", sync_stream), Route("/c", in_a_thread)],
        middleware=[Middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))],
    )
    async with _client(app) as client:
        for tenant in ("acme", "globex"):
            for path in ("/a", "/b"):
                response = await client.get(path, headers={"x-tenant": tenant})
                assert response.text == f"{tenant} {tenant} {tenant} "
                assert seen.pop() == tenant

            response = await client.get("/c", headers={"x-tenant": tenant})
            assert response.text == tenant


async def test_a17_the_tenant_stays_below_other_middleware() -> None:
    class Between(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["between"] = str(current())
            return response

    async def chunks() -> AsyncIterator[str]:
        yield f"{current()}"

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    for order in (1, -1):
        middleware = [
            Middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant")),
            Middleware(Between),
        ][::order]
        app = Starlette(
            routes=[Mount("/sub", app=Starlette(routes=[Route("/", stream)]))],
            middleware=middleware,
        )
        async with _client(app) as client:
            for tenant in ("acme", "globex"):
                response = await client.get("/sub/", headers={"x-tenant": tenant})
                assert response.text == tenant
                assert response.headers["between"] == (tenant if order == 1 else "None")


@asynccontextmanager
async def _client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://example.com") as client:
        yield client


async def test_a17_an_exception_passes_and_leaves_nothing_bound() -> None:
    async def fail(request: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError(current())

    for tenant in ("acme", "globex"):
        with pytest.raises(ZeroDivisionError, match=tenant):
            await asgi(walled(fail), scope(tenant=tenant))

        assert active_scope() is None


async def test_a17_a_cancelled_request_leaves_nothing_bound() -> None:
    async def wait(request: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asgi(walled(wait), scope(tenant="acme"))

    assert active_scope() is None


async def test_a22_a_task_started_by_a_request_outlives_it_with_its_tenant() -> None:
    go = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def later() -> Any:
        await go.wait()
        return current()

    async def app(request: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await tell(request, receive, send)

    for tenant in ("acme", "globex"):
        await asgi(walled(app), scope(tenant=tenant))

    go.set()
    assert await asyncio.gather(*tasks) == ["acme", "globex"]


async def _resolver_that_fails(request: Any) -> Any:
    await asyncio.sleep(0)
    raise ZeroDivisionError("the lookup failed")


def _resolver_that_fails_at_once(request: Any) -> Any:
    raise ZeroDivisionError("the lookup failed")


@pytest.mark.parametrize("resolve", [_resolver_that_fails, _resolver_that_fails_at_once])
@pytest.mark.parametrize("choice", ["defer", "reject", "raise"])
async def test_a_resolver_that_fails_reaches_no_application(resolve: Any, choice: Any) -> None:
    async def app(request: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the application was called")

    for around in ("acme", "globex"):
        with tenant_scope(around), pytest.raises(ZeroDivisionError, match="the lookup failed"):
            await asgi(walled(app, resolve_tenant=resolve, on_missing_tenant=choice), scope())


async def test_a_request_cancelled_while_its_tenant_is_looked_up_leaves_nothing_bound() -> None:
    async def slow(request: Any) -> str:
        await asyncio.sleep(60)
        return "acme"

    with tenant_scope("globex"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asgi(walled(resolve_tenant=slow), scope())

        assert current() == "globex"


async def test_an_awaitable_of_an_awaitable_is_no_tenant(recwarn: pytest.WarningsRecorder) -> None:
    async def twice(request: Any) -> Any:
        return _coroutine("acme")

    with pytest.raises(ConfigurationError, match="got an awaitable"):
        await asgi(walled(tell_or_not, resolve_tenant=twice), scope(tenant="globex"))

    gc.collect()
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


async def test_a_client_that_is_gone_leaves_nothing_bound() -> None:
    async def send(message: Any) -> None:
        raise OSError("the client is gone")

    async def app(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for tenant in ("acme", "globex", None):
        with pytest.raises(OSError, match="the client is gone"):
            await walled(app if tenant else tell)(scope(tenant=tenant), None, send)

        assert active_scope() is None


async def test_a_stream_that_is_abandoned_ends_inside_its_tenant() -> None:
    seen = []

    async def rows() -> AsyncIterator[bytes]:
        try:
            while True:
                yield str(current()).encode()
                await asyncio.sleep(0.001)
        finally:
            seen.append(current())

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(rows())

    app = Starlette(routes=[Route("/", stream)])
    for tenant in ("acme", "globex"):
        # The server of an older protocol has the client's end told by `receive`.
        request = scope(tenant=tenant, asgi={"version": "3.0", "spec_version": "2.3"})
        exchange = await asyncio.wait_for(asgi(walled(app), request), 10)
        assert exchange.body
        assert exchange.body.replace(tenant.encode(), b"") == b""
        assert seen.pop() == tenant
        assert active_scope() is None


async def test_a_failure_in_the_background_of_an_answer_is_not_answered_again() -> None:
    async def needs_a_tenant() -> None:
        current_tenant()

    async def later(request: Request) -> PlainTextResponse:
        return PlainTextResponse("soon", background=BackgroundTask(needs_a_tenant))

    app = walled(Starlette(routes=[Route("/", later)]))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        await app(scope(), Exchange().receive, send)

    assert sent == ["http.response.start", "http.response.body"]
    assert (await asgi(app, scope(tenant="globex"))).body == b"soon"


async def test_of_two_middlewares_the_inner_wins_and_the_outer_returns() -> None:
    seen = []

    async def around(request: Any, receive: Any, send: Any) -> None:
        await inner(request, receive, send)
        seen.append(current())

    inner = walled(tell, resolve_tenant=header("X-Inner"))
    app = walled(around)
    for tenant, other in (("acme", "globex"), ("globex", "acme")):
        request = scope(tenant=tenant, headers=[(b"x-inner", other.encode())])
        assert (await asgi(app, request)).body == other.encode()
        assert seen.pop() == tenant

    # The inner one found nobody: the outer's tenant is not taken instead.
    _is_problem(await asgi(app, scope(tenant="acme")), 400, "Bad Request")
    assert seen.pop() == "acme"


async def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    made: list[Any] = []

    class Big:
        pass

    async def app(request: Any, receive: Any, send: Any) -> None:
        big = Big()
        made.append(weakref.ref(big))
        await tell_or_not(request, receive, send)

    gc.disable()
    try:
        for tenant in ("acme", "globex", None):
            await asgi(walled(app), scope(tenant=tenant))

        assert [one() for one in made] == [None] * 3
    finally:
        gc.enable()


# Websockets


async def _talk(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_text(str(current_tenant().tenant_id))


async def _before_accept(websocket: WebSocket) -> None:
    current_tenant()
    await websocket.accept()


def _sockets(**options: Any) -> TestClient:
    return TestClient(
        Starlette(
            routes=[WebSocketRoute("/", _talk), WebSocketRoute("/before", _before_accept)],
            middleware=[
                Middleware(
                    TenantSessionMiddleware, **{"resolve_tenant": header("X-Tenant"), **options}
                )
            ],
        )
    )


def test_a17_a_websocket_has_its_tenant_also_after_accept() -> None:
    client = _sockets()
    with (
        client.websocket_connect("/", headers={"x-tenant": "acme"}) as acme,
        client.websocket_connect("/", headers={"x-tenant": "globex"}) as globex,
    ):
        for _ in range(3):
            for socket, tenant in ((acme, "acme"), (globex, "globex")):
                socket.send_text("whose?")
                assert socket.receive_text() == tenant


@pytest.mark.parametrize("path", ["/", "/before"])
def test_a28_a_websocket_without_a_tenant_is_closed_when_it_needs_one(path: str) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as closed,
        _sockets().websocket_connect(path) as socket,
    ):
        socket.send_text("whose?")
        socket.receive_text()

    assert closed.value.code == 1008
    assert closed.value.reason == "This request needs a tenant."


def test_a28_a_websocket_closed_midway_ends_inside_its_tenant() -> None:
    seen = []

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
        finally:
            seen.append(current())

    client = TestClient(walled(Starlette(routes=[WebSocketRoute("/", talk)])))
    for tenant in ("acme", "globex"):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/", headers={"x-tenant": tenant}) as socket,
        ):
            socket.send_text("one")
            socket.close(1001)

        assert seen.pop() == tenant


async def test_a28_raise_raises_for_a_websocket_too() -> None:
    sent: list[Any] = []
    app = walled(tell_or_not, on_missing_tenant="raise")
    with pytest.raises(MissingTenantContextError, match="The request has no tenant"):
        await app(scope(type="websocket"), None, sent.append)

    assert sent == []


def test_a28_reject_closes_a_websocket_at_once() -> None:
    for headers, options in [
        ({}, {"on_missing_tenant": "reject"}),
        ({"x-tenant": "acme/globex"}, {}),
        ({"x-tenant": "acme"}, {"resolve_tenant": _unknown}),
    ]:
        with (
            pytest.raises(WebSocketDisconnect) as closed,
            _sockets(**options).websocket_connect("/", headers=headers),
        ):
            pass

        assert closed.value.code == 1008


def _unknown(request: Any) -> Any:
    raise UnknownTenantError()


async def test_a_websocket_that_was_closed_is_not_closed_again() -> None:
    async def app(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        current_tenant()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        await walled(app)(scope(type="websocket"), None, send)

    assert sent == ["websocket.accept", "websocket.close"]


# Without a tenant


async def test_a28_defer_lets_public_pages_pass_and_answers_400_when_a_tenant_is_needed() -> None:
    assert (await asgi(walled(tell_or_not), scope())).body == b"None"
    exchange = await asgi(walled(), scope())
    _is_problem(exchange, 400, "Bad Request")


async def test_a28_reject_answers_400_at_once() -> None:
    exchange = await asgi(walled(tell_or_not, on_missing_tenant="reject"), scope())
    _is_problem(exchange, 400, "Bad Request")


async def test_a28_raise_raises() -> None:
    with pytest.raises(MissingTenantContextError, match="The request has no tenant"):
        await asgi(walled(tell_or_not, on_missing_tenant="raise"), scope())

    exchange = await asgi(walled(on_missing_tenant="raise"), scope(tenant="acme,globex"))
    _is_problem(exchange, 400, "Bad Request")


@pytest.mark.parametrize("middleware", [TenantSessionMiddleware, TenantSessionMiddlewareWSGI])
@pytest.mark.parametrize("choice", ["allow", "", None, "DEFER"])
def test_a28_there_is_no_other_choice(middleware: Any, choice: Any) -> None:
    with pytest.raises(ValueError, match="'defer', 'reject' or 'raise'"):
        middleware(tell, resolve_tenant=header("X-Tenant"), on_missing_tenant=choice)


@pytest.mark.parametrize("middleware", [TenantSessionMiddleware, TenantSessionMiddlewareWSGI])
@pytest.mark.parametrize("resolve", [None, "acme"])
def test_a16_a_resolver_that_cannot_be_asked_is_refused_at_once(
    middleware: Any, resolve: Any
) -> None:
    with pytest.raises(TypeError, match=f"resolve_tenant is a function, but got {resolve!r}"):
        middleware(tell, resolve_tenant=resolve)


async def test_a28_a_response_that_has_begun_is_not_answered_twice() -> None:
    async def app(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        current_tenant()

    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        await asgi(walled(app), scope())


async def test_a28_what_a_task_group_raises_is_answered_too() -> None:
    async def app(request: Any, receive: Any, send: Any) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.to_thread(current_tenant))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.to_thread(current_tenant))

        await tell(request, receive, send)

    _is_problem(await asgi(walled(app), scope()), 400, "Bad Request")
    assert (await asgi(walled(app), scope(tenant="globex"))).body == b"globex"


async def test_a28_a_group_with_an_error_of_the_applications_own_stays_one() -> None:
    async def app(request: Any, receive: Any, send: Any) -> None:
        raise ExceptionGroup("two tasks", [MissingTenantContextError(), ValueError("its own")])

    for tenant in (None, "acme", "globex"):
        with pytest.raises(ExceptionGroup, match="two tasks"):
            await asgi(walled(app), scope(tenant=tenant))


async def test_d11_a_malformed_tenant_is_400_and_an_unknown_one_404() -> None:
    bodies = set()
    for tenant in ("acme,globex", "../globex", "a" * 129, "\u0430cme"):
        exchange = await asgi(walled(), scope(tenant=tenant))
        _is_problem(exchange, 400, "Bad Request")
        bodies.add(exchange.body)

    for tenant in ("acme", "globex"):
        exchange = await asgi(walled(resolve_tenant=_unknown), scope(tenant=tenant))
        _is_problem(exchange, 404, "Not Found")
        bodies.add(exchange.body)

    assert len(bodies) == 2


async def test_d11_a_tenant_that_turns_out_not_to_fit_is_400_unless_the_response_has_begun() -> (
    None
):
    async def app(request: Any, receive: Any, send: Any) -> None:
        if request["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})

        raise MalformedTenantError("'acme' does not fit an Integer column")

    _is_problem(await asgi(walled(app), scope(tenant="acme")), 400, "Bad Request")
    with pytest.raises(MalformedTenantError, match="does not fit"):
        await asgi(walled(app), scope("/late", tenant="acme"))


async def test_other_refusals_stay_errors_of_the_application() -> None:
    for error in (ConfigurationError, CrossTenantAccessError):

        async def app(request: Any, receive: Any, send: Any, error: Any = error) -> None:
            raise error("This Note belongs to 'globex'")

        with pytest.raises(error, match="belongs to 'globex'"):
            await asgi(walled(app), scope(tenant="acme"))


@pytest.mark.parametrize("tenant", ["", "  "])
async def test_a_blank_tenant_from_a_resolver_is_malformed(tenant: str) -> None:
    exchange = await asgi(walled(resolve_tenant=lambda _: tenant), scope())
    _is_problem(exchange, 400, "Bad Request")


@pytest.mark.parametrize("tenant", [True, b"acme", ["acme"], object()])
async def test_what_is_no_tenant_is_the_resolvers_fault(tenant: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a str, an int or a UUID"):
        await asgi(walled(tell_or_not, resolve_tenant=lambda _: tenant), scope())

    assert active_scope() is None


async def test_an_answer_to_head_has_no_body() -> None:
    exchange = await asgi(walled(), scope(method="HEAD"))
    assert (exchange.status, exchange.body) == (400, b"")
    assert int(exchange.headers["content-length"]) > 0


async def test_a_request_without_a_tenant_does_not_inherit_one_from_around_the_server() -> None:
    with tenant_scope("acme"):
        assert (await asgi(walled(tell_or_not), scope())).body == b"None"
        assert (await asgi(walled(tell_or_not), scope(tenant="globex"))).body == b"globex"
        assert current() == "acme"


def _is_problem(exchange: Any, status: int, title: str) -> None:
    assert exchange.status == status
    assert exchange.headers["content-type"] == "application/problem+json"
    assert exchange.headers["cache-control"] == "no-store"
    assert int(exchange.headers["content-length"]) == len(exchange.body)
    problem = json.loads(exchange.body)
    assert (problem["status"], problem["title"], problem["type"]) == (status, title, "about:blank")
    for tenant in (b"acme", b"globex"):
        assert tenant not in exchange.body


# Servers ask what it is


def test_a_server_can_tell_that_it_is_asgi() -> None:
    class App:
        async def __call__(self, request: Any, receive: Any, send: Any) -> None: ...

    for app in (tell, App(), Starlette(), walled()):
        assert inspect.iscoroutinefunction(walled(app).__call__)

    assert not inspect.iscoroutinefunction(walled(lambda environ, start: []).__call__)


# With the wall


async def test_rows_of_one_tenant_through_starlette(engine: Engine) -> None:
    async def read(request: Request) -> JSONResponse:
        with Session(engine) as session:
            return JSONResponse(session.scalars(texts()).all())

    async def stream(request: Request) -> StreamingResponse:
        def rows() -> Iterator[str]:
            with Session(engine) as session:
                for text in session.scalars(texts().execution_options(yield_per=1)):
                    yield f"{text};"

        return StreamingResponse(rows())

    async def later(request: Request) -> JSONResponse:
        def write() -> None:
            with Session(engine) as session, session.begin():
                session.execute(insert(Note).values(text="in the background"))

        return JSONResponse("soon", background=BackgroundTask(write))

    app = Starlette(
        routes=[Route("/", read), Route("/stream", stream), Route("/later", later)],
        middleware=[Middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))],
    )
    async with _client(app) as client:
        for tenant, rows in doors.TEXTS.items():
            headers = {"x-tenant": tenant}
            assert (await client.get("/", headers=headers)).json() == rows
            assert (await client.get("/stream", headers=headers)).text == ";".join(rows) + ";"
            assert (await client.get("/later", headers=headers)).json() == "soon"

        assert (await client.get("/")).status_code == 400
        assert (await client.get("/")).json()["detail"] == "This request needs a tenant."

    assert stored(engine) == {
        tenant: [*rows, "in the background"] for tenant, rows in doors.TEXTS.items()
    }
