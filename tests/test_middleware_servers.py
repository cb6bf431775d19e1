"""A17, A18: the middleware outermost, behind real servers, two tenants at once."""

from __future__ import annotations

import asyncio
import socketserver
import threading
import time
import wsgiref.simple_server
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_connection
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from werkzeug.serving import make_server

import doors
from doors import texts
from partywall.context import active_scope, current_tenant
from partywall.middleware import TenantSessionMiddleware, TenantSessionMiddlewareWSGI
from partywall.resolvers import header

OTHER = {"acme": "globex", "globex": "acme"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = doors.filled(tmp_path)
    yield engine
    engine.dispose()


# ASGI


@pytest.fixture
def uvicorn_address(engine: Engine, tmp_path: Path) -> Iterator[str]:
    async_engine = doors.async_engine(tmp_path)

    async def read(request: Request) -> JSONResponse:
        async with AsyncSession(async_engine) as session:
            return JSONResponse((await session.scalars(texts())).all())

    async def stream(request: Request) -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            async with AsyncSession(async_engine) as session:
                async for text in await session.stream_scalars(texts()):
                    await asyncio.sleep(0.001)
                    yield f"{text};"

        return StreamingResponse(rows())

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            async with AsyncSession(async_engine) as session:
                await websocket.send_json((await session.scalars(texts())).all())

    inner = Starlette(
        routes=[Route("/", read), Route("/stream", stream), WebSocketRoute("/talk", talk)]
    )
    walled = TenantSessionMiddleware(inner, resolve_tenant=header("X-Tenant"))
    outside = Starlette(routes=[Route("/outside", read)])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (outside if scope.get("path") == "/outside" else walled)(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    left: list[Any] = []

    async def main() -> None:
        await server.serve()
        await async_engine.dispose()
        left.append(active_scope())

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    while not server.started:
        time.sleep(0.01)

    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join(timeout=20)
    assert left == [None]


def test_a17_under_uvicorn(uvicorn_address: str) -> None:
    with httpx.Client(base_url=uvicorn_address, timeout=30) as client:
        _hammer(lambda tenant, path: client.get(path, headers={"X-Tenant": tenant}))
        assert client.get("/", headers={"X-Tenant": "acme,globex"}).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/",
        pytest.param(
            "/outside",
            marks=pytest.mark.xfail(
                strict=True, reason="uvicorn hands the context of one request on"
            ),
        ),
    ],
)
def test_a_pipelined_request_does_not_begin_as_the_tenant_of_the_one_before(
    uvicorn_address: str, path: str
) -> None:
    first = b"GET / HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\n\r\n"
    second = f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
    host, _, port = uvicorn_address.removeprefix("http://").partition(":")
    with create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(first + second)
        answers = b"".join(iter(lambda: connection.recv(65536), b"")).split(b"HTTP/1.1 ")[1:]

    assert b"acme 1" in answers[0] and b"globex" not in answers[0]
    assert answers[1].startswith(b"500") and b"acme" not in answers[1]


def test_a17_websockets_under_uvicorn(uvicorn_address: str) -> None:
    url = uvicorn_address.replace("http", "ws") + "/talk"
    with (
        connect(url, additional_headers={"X-Tenant": "acme"}) as acme,
        connect(url, additional_headers={"X-Tenant": "globex"}) as globex,
    ):
        for _ in range(5):
            for socket, tenant in ((acme, "acme"), (globex, "globex")):
                socket.send("notes")
                assert f'"{tenant} 1"' in (told := str(socket.recv()))
                assert OTHER[tenant] not in told

    with connect(url) as nobody:
        nobody.send("notes")
        with pytest.raises(ConnectionClosed, match="1008"):
            nobody.recv()

    with pytest.raises(InvalidStatus, match="403"):
        connect(url, additional_headers={"X-Tenant": "acme,globex"})


# WSGI


def notes(engine: Engine) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        if environ["PATH_INFO"] == "/public":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return iter([b"public"])

        start_response("200 OK", [("Content-Type", "text/plain")])
        return rows(environ)

    def rows(environ: Any) -> Iterator[bytes]:
        current_tenant()
        with Session(engine) as session:
            for text in session.scalars(texts().execution_options(yield_per=1)):
                time.sleep(0.001)
                yield f"{text};".encode()

    return TenantSessionMiddlewareWSGI(app, resolve_tenant=header("X-Tenant"))


class PooledServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads = ThreadPoolExecutor(4)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.threads.submit(self.process_request_thread, request, client_address)


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.mark.parametrize("kind", ["wsgiref", "werkzeug"])
def test_a18_under_a_threaded_server(engine: Engine, kind: str) -> None:
    app = notes(engine)
    server: Any
    if kind == "wsgiref":
        server = PooledServer(("127.0.0.1", 0), Quiet)
        server.set_app(app)
    else:
        server = make_server("127.0.0.1", 0, app, threaded=True)

    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        _hammer(
            lambda tenant, path: httpx.get(url + path, headers={"X-Tenant": tenant}, timeout=30)
        )
        assert httpx.get(url + "/public").text == "public"
        missing = httpx.get(url)
        assert (missing.status_code, missing.json()["status"]) == (400, 400)
        assert httpx.get(url, headers={"X-Tenant": "../acme"}).status_code == 400
    finally:
        server.shutdown()
        thread.join(timeout=20)
        server.server_close()

    if kind == "wsgiref":
        assert [server.threads.submit(active_scope).result() for _ in range(8)] == [None] * 8
        server.threads.shutdown()


def _hammer(get: Callable[[str, str], httpx.Response]) -> None:
    jobs = [(tenant, path) for _ in range(15) for path in ("/", "/stream") for tenant in OTHER]
    with ThreadPoolExecutor(8) as threads:
        for (tenant, _), answer in zip(jobs, threads.map(lambda job: get(*job), jobs), strict=True):
            assert answer.status_code == 200
            assert all(text in answer.text for text in doors.TEXTS[tenant])
            assert OTHER[tenant] not in answer.text
