"""Drive ASGI and WSGI applications by hand, as a server does."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any


def scope(path: str = "/", tenant: str | None = None, **more: Any) -> dict[str, Any]:
    headers = more.pop("headers", [])
    if all(name != b"host" for name, _ in headers):
        headers = [(b"host", b"example.com"), *headers]

    if tenant is not None:
        headers.append((b"x-tenant", tenant.encode()))

    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        **more,
    }


class Exchange:
    """The server's side of one ASGI request: what comes in, and everything that was sent."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.incoming = [*incoming] or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> Any:
        return self.incoming.pop(0) if self.incoming else {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def asgi(app: Any, request: dict[str, Any], *incoming: dict[str, Any]) -> Exchange:
    exchange = Exchange(*incoming)
    await app(request, exchange.receive, exchange.send)
    return exchange


def environ(path: str = "/", tenant: str | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "example.com",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "example.com",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **more,
    }
    if tenant is not None:
        found["HTTP_X_TENANT"] = tenant

    return found


class Response:
    """The server's side of one WSGI request, strict about the order of things as PEP 3333 is."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: dict[str, str] = {}
        self.written: list[bytes] = []
        self.headers_sent = False

    def start(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | Any = None,
    ) -> Any:
        if exc_info:
            if self.headers_sent:
                raise exc_info[1].with_traceback(exc_info[2])

        else:
            assert not self.status, "start_response was called twice"

        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        return self.write

    def write(self, chunk: bytes) -> None:
        assert self.status, "written before start_response"
        if chunk:
            self.headers_sent = True

        self.written.append(chunk)

    @property
    def body(self) -> bytes:
        return b"".join(self.written)


def wsgi(app: Any, request: dict[str, Any]) -> Response:
    response = Response()
    body: Iterable[bytes] = app(request, response.start)
    try:
        for chunk in body:
            response.write(chunk)

    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()

    assert response.status
    return response
