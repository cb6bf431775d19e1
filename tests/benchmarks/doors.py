"""What the doors cost: `python tests/benchmarks/doors.py [--quick] [--calls]`.

A trivial endpoint with the middleware against the same application without it: behind a server
(uvicorn with each HTTP parser that is installed, wsgiref), in the CPU time of the server's process,
and called without a server, where nothing but the application is measured. All variants live in one
process and take turns in an order that is shuffled anew each time; a ratio is the median of the
ratios of neighbouring turns. `by hand` is the least one could write oneself: it reads the header and
sets a ContextVar. `noise` is a second bare application against the first. Resolvers and scopes are
given in nanoseconds of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import io
import logging
import platform
import random
import re
import socket
import subprocess
import sys
import time
import wsgiref.simple_server
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any

import uvicorn
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from partywall.context import atenant_scope, tenant_scope
from partywall.middleware import TenantSessionMiddleware, TenantSessionMiddlewareWSGI
from partywall.resolvers import cached, chain, cookie, header, path_prefix, subdomain
from partywall.scopes import AsyncSessionScope, SessionScope

HEADERS = {
    "host": "acme.example.com",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0",
    "accept": "application/json",
    "accept-language": "en,de;q=0.7",
    "accept-encoding": "gzip, deflate, br",
    "connection": "keep-alive",
    "cookie": "session=0123456789abcdef; tenant=acme",
    "x-tenant": "acme",
}
SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/acme/notes",
    "raw_path": b"/acme/notes",
    "query_string": b"",
    "root_path": "",
    "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
    "client": ("127.0.0.1", 40000),
    "server": ("127.0.0.1", 8000),
}
ENVIRON: dict[str, Any] = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/acme/notes",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.input": io.BytesIO(),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()},
}

LINES = b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items())

Turn = Callable[[int], Awaitable[float]]


def asgi(app: Any) -> Turn:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    async def turn(times: int) -> float:
        start = time.process_time_ns()
        for _ in range(times):
            await app(dict(SCOPE), receive, send)

        return time.process_time_ns() - start

    return turn


def wsgi(app: Any) -> Turn:
    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any: ...

    async def turn(times: int) -> float:
        start = time.process_time_ns()
        for _ in range(times):
            body = app(dict(ENVIRON), start_response)
            for _chunk in body:
                pass

            close = getattr(body, "close", None)
            if close is not None:
                close()

        return time.process_time_ns() - start

    return turn


def starlette_app() -> Any:
    async def notes(request: Any) -> JSONResponse:
        return JSONResponse({"hello": "world"})

    return Starlette(routes=[Route("/{tenant}/notes", notes)])


def fastapi_app() -> Any:
    app = FastAPI()

    @app.get("/{tenant}/notes")
    async def notes(tenant: str) -> dict[str, str]:
        return {"hello": "world"}

    return app


def flask_app() -> Any:
    app = Flask("notes")

    @app.get("/<tenant>/notes")
    def notes(tenant: str) -> dict[str, str]:
        return {"hello": "world"}

    return app


APPS = {"Starlette": starlette_app, "FastAPI": fastapi_app, "Flask": flask_app}


current: ContextVar[str | None] = ContextVar("current", default=None)


class ByHand:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        tenant = None
        for name, value in scope["headers"]:
            if name == b"x-tenant":
                tenant = value.decode("latin-1")

        token = current.set(tenant)
        try:
            await self.app(scope, receive, send)
        finally:
            current.reset(token)


class ByHandWSGI:
    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        token = current.set(environ.get("HTTP_X_TENANT"))
        try:
            return self.app(environ, start_response)
        finally:
            current.reset(token)


def with_middleware(app: Any, asgi: Any, wsgi: Any, **options: Any) -> Any:
    if isinstance(app, Flask):
        setattr(app, "wsgi_app", wsgi(app.wsgi_app, **options))  # noqa: B010 - it is a method
    else:
        app.add_middleware(asgi, **options)

    return app


def variants(name: str) -> dict[str, Any]:
    make = APPS[name]
    walls = TenantSessionMiddleware, TenantSessionMiddlewareWSGI
    return {
        "bare": make(),
        "walled": with_middleware(make(), *walls, resolve_tenant=header("X-Tenant")),
        "hand": with_middleware(make(), ByHand, ByHandWSGI),
        "again": make(),
    }


class Served:
    """The variants of an application behind one server, in a process that tells its CPU time.

    One process for all: two processes of the same program differ by more than what is measured.
    """

    def __init__(self, name: str, http: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

        command = [sys.executable, __file__, "--serve", name, http, str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.keeps_alive = name != "Flask"
        self.socket: socket.socket | None = None
        for _ in range(300):
            try:
                self.cpu()
                return
            except OSError:
                time.sleep(0.1)

    def turn_of(self, variant: str) -> Turn:
        async def turn(times: int) -> float:
            before = self.cpu()
            for _ in range(times):
                assert b"hello" in self.ask(variant)

            return self.cpu() - before

        return turn

    def cpu(self) -> int:
        return int(self.ask("cpu").rpartition(b"\r\n\r\n")[2])

    def ask(self, what: str) -> bytes:
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port))

        self.socket.sendall(b"GET /acme/notes?%s HTTP/1.1\r\n%s\r\n" % (what.encode(), LINES))
        answer = b""
        while chunk := self.socket.recv(65536):
            answer += chunk
            head, end, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            if self.keeps_alive and end and length and len(body) >= int(length[1]):
                return answer

        self.socket.close()
        self.socket = None
        return answer


def serve(name: str, http: Any, port: int) -> None:
    apps = variants(name)

    def cpu() -> bytes:
        return str(time.process_time_ns()).encode()

    if name == "Flask":

        def application(environ: Any, start_response: Any) -> Any:
            variant = environ["QUERY_STRING"]
            if variant in apps:
                return apps[variant](environ, start_response)

            start_response("200 OK", [])
            return [cpu()]

        class Quiet(wsgiref.simple_server.WSGIRequestHandler):
            def log_message(self, format: str, *args: Any) -> None: ...

        wsgiref.simple_server.make_server(
            "127.0.0.1", port, application, handler_class=Quiet
        ).serve_forever()

    async def aapplication(scope: Any, receive: Any, send: Any) -> None:
        app = apps.get(scope["query_string"].decode())
        if app is not None:
            await app(scope, receive, send)
            return

        body = cpu()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(
        aapplication,
        port=port,
        http=http,
        lifespan="off",
        log_level="critical",
        timeout_keep_alive=600,
    )


async def served_ratios(name: str, http: str, turns: int, times: int) -> list[float]:
    served = Served(name, http)
    try:
        return await ratios(served.turn_of, turns, times)
    finally:
        served.process.terminate()
        served.process.wait()


async def called_ratios(name: str, turns: int, times: int) -> list[float]:
    apps = variants(name)
    drive = wsgi if name == "Flask" else asgi
    return await ratios(lambda variant: drive(apps[variant]), turns, times)


async def ratios(turn_of: Callable[[str], Turn], turns: int, times: int) -> list[float]:
    """The wall, the hand-written middleware and a second bare application against the bare one."""
    found: dict[str, list[float]] = {"walled": [], "hand": [], "again": []}
    order = [(variant, turn_of(variant)) for variant in ("bare", *found)]
    for _, run in order * 2:
        await run(times)

    shuffle = random.Random(0).shuffle
    for number in range(turns):
        shuffle(order)
        if number % 50 == 0:
            gc.collect()

        took = {variant: await run(times) for variant, run in order}
        for variant, against_bare in found.items():
            against_bare.append(took[variant] / took["bare"])

    return [median(against_bare) for against_bare in found.values()]


def nanoseconds(call: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(15):
        start = time.process_time_ns()
        for _ in range(times):
            call()

        took.append((time.process_time_ns() - start) / times)

    return median(took)


async def ananoseconds(call: Callable[[], Awaitable[object]], times: int) -> float:
    took = []
    for _ in range(15):
        start = time.process_time_ns()
        for _ in range(times):
            await call()

        took.append((time.process_time_ns() - start) / times)

    return median(took)


def nothing() -> None: ...


def scope_entry(make: Callable[[], Any]) -> Callable[[], None]:
    def enter() -> None:
        with make():
            pass

    return enter


def async_scope_entry(make: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
    async def enter() -> None:
        async with make():
            pass

    return enter


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the doors cost.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--calls", action="store_true", help="resolvers and scopes alone")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


async def middleware_ratios(quick: bool) -> None:
    turns = 60 if quick else 600
    parsers = ["h11", *(["httptools"] if find_spec("httptools") else [])]
    servers = [(name, parser) for name in ("Starlette", "FastAPI") for parser in parsers]
    print(f"{'middleware / bare':24} {'ratio':>7} {'by hand':>7} {'noise':>7}   target 1.05")
    for name, parser in [*servers, ("Flask", "wsgiref")]:
        found = await served_ratios(name, parser, turns, 20)
        show(f"{name}, {parser}", found)

    for name in APPS:
        show(f"{name}, no server", await called_ratios(name, turns * 2, 20))


def show(name: str, found: list[float]) -> None:
    print(f"{name:24}", *(f"{one:7.3f}" for one in found), flush=True)


async def main(options: argparse.Namespace) -> None:
    logging.disable(logging.CRITICAL)
    packages = ", ".join(f"{name} {version(name)}" for name in ("starlette", "fastapi", "flask"))
    print(f"Python {platform.python_version()}, {packages}\n")

    if not options.calls:
        await middleware_ratios(options.quick)

    number = 2000 if options.quick else 20_000
    lookup = cached(header("X-Tenant"), {"acme": "acme"}.get)
    lookup(SCOPE)
    reused = tenant_scope("acme")
    calls: dict[str, Callable[[], object]] = {
        "an empty function": nothing,
        "header, ASGI": functools.partial(header("X-Tenant"), SCOPE),
        "header, WSGI": functools.partial(header("X-Tenant"), ENVIRON),
        "cookie, ASGI": functools.partial(cookie("tenant"), SCOPE),
        "subdomain, ASGI": functools.partial(subdomain("example.com"), SCOPE),
        "path_prefix, ASGI": functools.partial(path_prefix(), SCOPE),
        "chain, second of two": functools.partial(
            chain(header("X-Other"), header("X-Tenant")), SCOPE
        ),
        "cached, a hit, ASGI": functools.partial(lookup, SCOPE),
        "tenant_scope": scope_entry(lambda: tenant_scope("acme")),
        "tenant_scope, reused": scope_entry(lambda: reused),
        "SessionScope": scope_entry(lambda: SessionScope("acme")),
    }
    print(f"\n{'call':22} {'ns':>6}")
    for name, call in calls.items():
        print(f"{name:22} {nanoseconds(call, number):6.0f}")

    for name, acall in [
        ("atenant_scope", async_scope_entry(lambda: atenant_scope("acme"))),
        ("AsyncSessionScope", async_scope_entry(lambda: AsyncSessionScope("acme"))),
    ]:
        print(f"{name:22} {await ananoseconds(acall, number):6.0f}")


if __name__ == "__main__":
    given = arguments()
    if given.serve:
        serve(given.serve[0], given.serve[1], int(given.serve[2]))
    else:
        asyncio.run(main(given))
