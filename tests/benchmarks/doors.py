"""What the doors cost: `python tests/benchmarks/doors.py [--quick] [--calls]`.

A trivial endpoint with the middleware against the same application without it: behind a server
(uvicorn, wsgiref), in the CPU time of the server's process, and called by hand, where nothing but the
application is measured. The variants take turns, the order is then run backwards, and a ratio is
the median of the ratios of neighbouring turns. `noise` is the bare application against itself.
Resolvers and scopes are given in nanoseconds of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import io
import logging
import platform
import re
import socket
import subprocess
import sys
import time
import wsgiref.simple_server
from collections.abc import Awaitable, Callable
from importlib.metadata import version
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


def walled(app: Any) -> Any:
    if isinstance(app, Flask):
        wall = TenantSessionMiddlewareWSGI(app.wsgi_app, resolve_tenant=header("X-Tenant"))
        setattr(app, "wsgi_app", wall)  # noqa: B010 - an assignment would be to a method
    else:
        app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("X-Tenant"))

    return app


class Served:
    """An application behind its server, in a process of its own that tells its CPU time."""

    def __init__(self, name: str, variant: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

        command = [sys.executable, __file__, "--serve", name, variant, str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.keeps_alive = name != "Flask"
        self.socket: socket.socket | None = None
        self.request = b"GET /acme/notes HTTP/1.1\r\n" + b"".join(
            f"{name}: {value}\r\n".encode() for name, value in HEADERS.items()
        )
        for _ in range(300):
            try:
                self.ask(b"GET /cpu HTTP/1.1\r\nHost: localhost\r\n")
                return
            except OSError:
                time.sleep(0.1)

    async def turn(self, times: int) -> float:
        before = self.cpu()
        for _ in range(times):
            assert b"hello" in self.ask(self.request)

        return self.cpu() - before

    def cpu(self) -> int:
        return int(self.ask(b"GET /cpu HTTP/1.1\r\nHost: localhost\r\n").rpartition(b"\r\n\r\n")[2])

    def ask(self, request: bytes) -> bytes:
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port))

        self.socket.sendall(request + b"\r\n")
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


def serve(name: str, variant: str, port: int) -> None:
    app = APPS[name]()
    if variant == "walled":
        app = walled(app)

    def cpu() -> bytes:
        return str(time.process_time_ns()).encode()

    if isinstance(app, Flask):
        inner = app.wsgi_app

        def telling(environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] != "/cpu":
                return inner(environ, start_response)

            start_response("200 OK", [])
            return [cpu()]

        class Quiet(wsgiref.simple_server.WSGIRequestHandler):
            def log_message(self, format: str, *args: Any) -> None: ...

        wsgiref.simple_server.make_server(
            "127.0.0.1", port, telling, handler_class=Quiet
        ).serve_forever()

    async def atelling(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/cpu":
            await app(scope, receive, send)
            return

        body = cpu()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(atelling, port=port, log_level="critical", timeout_keep_alive=600)


async def served_ratio(name: str, turns: int, times: int) -> tuple[float, float]:
    served = {variant: Served(name, variant) for variant in ("bare", "walled", "again")}
    try:
        return await ratio({variant: one.turn for variant, one in served.items()}, turns, times)
    finally:
        for one in served.values():
            one.process.terminate()
            one.process.wait()


async def called_ratio(name: str, turns: int, times: int) -> tuple[float, float]:
    make, drive = APPS[name], wsgi if name == "Flask" else asgi
    variants = {"bare": make(), "walled": walled(make()), "again": make()}
    return await ratio({variant: drive(app) for variant, app in variants.items()}, turns, times)


async def ratio(variants: dict[str, Turn], turns: int, times: int) -> tuple[float, float]:
    """The walled application and, for the noise, a second bare one, against the bare one."""
    order = [*variants.items()]
    found: dict[str, list[float]] = {"walled": [], "again": []}
    for _, run in order * 2:
        await run(times)

    for number in range(turns):
        order.reverse()
        if number % 50 == 0:
            gc.collect()

        took = {name: await run(times) for name, run in order}
        for name, ratios in found.items():
            ratios.append(took[name] / took["bare"])

    return median(found["walled"]), median(found["again"])


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
    turns, times = (300, 20) if quick else (1500, 20)
    print(f"{'middleware / bare':22} {'ratio':>6} {'noise':>6}   target 1.05 behind a server")
    for name in APPS:
        # Two processes of the same program differ by a few per cent: several sets of them.
        sets = [await served_ratio(name, 15, 100) for _ in range(1 if quick else 9)]
        found, noise = (median(ratios) for ratios in zip(*sets, strict=True))
        print(f"{name + ', served':22} {found:6.3f} {noise:6.3f}", flush=True)

    for name in APPS:
        found, noise = await called_ratio(name, turns, times)
        print(f"{name + ', by hand':22} {found:6.3f} {noise:6.3f}", flush=True)


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
