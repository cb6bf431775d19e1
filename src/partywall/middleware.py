"""A tenant for every request, ASGI and WSGI.

It binds a tenant and opens no session. A thread or a process that the application starts by
itself has no tenant; `partywall.jobs` carries one there.
"""

from __future__ import annotations

import functools
import inspect
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextvars import Context, copy_context
from typing import Any, Literal

from .context import Scope, TenantContext, TenantId, as_context, drop, without_tenant
from .errors import (
    ConfigurationError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    UnknownTenantError,
    refused,
)
from .problems import problem_of

Request = MutableMapping[str, Any]
Found = TenantId | TenantContext | None
ResolveTenant = Callable[[Request], Found | Awaitable[Found]]
ResolveTenantNow = Callable[[Request], Found]
OnMissingTenant = Literal["defer", "reject", "raise"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
StartResponse = Callable[..., Callable[[bytes], object]]

_ANSWERED = (MissingTenantContextError, MalformedTenantError, UnknownTenantError)
_POLICY_VIOLATION = 1008

# Asked before `isawaitable`, which takes longer than all the rest.
_PLAIN = (str, int, uuid.UUID, TenantContext, type(None))

# Not "websocket.accept": an accepted websocket can still be closed.
_BEGINS = frozenset({"http.response.start", "websocket.close", "websocket.http.response.start"})


class TenantSessionMiddleware:
    """Bind each request's tenant around an application, ASGI or WSGI.

    `resolve_tenant` receives the ASGI scope or the WSGI environ and returns a tenant, None, or (ASGI)
    an awaitable of one. Without a tenant, `on_missing_tenant="defer"` lets the request go on and
    answers 400 once it touches owned data, `"reject"` answers at once, `"raise"` raises.

    It answers what passes through it. Put it inside whatever turns exceptions into responses, as
    Starlette's `add_middleware` does.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        resolve_tenant: ResolveTenant,
        on_missing_tenant: OnMissingTenant = "defer",
    ) -> None:
        if on_missing_tenant not in ("defer", "reject", "raise"):
            raise ValueError(
                f"on_missing_tenant is 'defer', 'reject' or 'raise', but got {on_missing_tenant!r}."
            )

        self.app = app
        self.resolve_tenant = resolve_tenant
        self.on_missing_tenant = on_missing_tenant
        if _is_async(app):
            # ASGI servers tell the protocol from whether `app.__call__` is a coroutine function.
            self.__dict__["__call__"] = self._asgi

    def __call__(self, *request: Any) -> Any:
        return self._asgi(*request) if len(request) == 3 else self._wsgi(*request)

    async def _asgi(self, request: Request, receive: Receive, send: Send) -> None:
        kind = request["type"]
        if kind not in ("http", "websocket"):
            await self.app(request, receive, send)
            return

        answer = _Answer(request, send)
        try:
            found = self.resolve_tenant(request)
            scope = self._enter(found if isinstance(found, _PLAIN) else await _awaited(found))
        except _ANSWERED as error:
            if self._raises(error):
                raise

            await answer.refuse(error)
            return

        try:
            await self.app(request, receive, answer)
        except _ANSWERED as error:
            if answer.begun or self._raises(error):
                raise

            await answer.refuse(error)
        finally:
            scope.leave()

    def _wsgi(self, environ: Request, start_response: StartResponse) -> Iterable[bytes]:
        # The application runs in a copy of the context from the call to `close()`, and the
        # scope ends with it: nothing is bound on the thread that serves the next request.
        context = copy_context()
        answer = _AnswerWSGI(environ, start_response)
        try:
            body = context.run(self._begin, environ, answer)
        except _ANSWERED as error:
            if self._raises(error):
                raise

            return answer.refuse(error)

        if type(body) in (list, tuple) or _is_file(body, environ):
            return body

        return _Body(body, context, self, answer)

    def _begin(self, environ: Request, start_response: StartResponse) -> Iterable[bytes]:
        found = self.resolve_tenant(environ)
        if not isinstance(found, _PLAIN) and inspect.isawaitable(found):
            drop(found)
            raise refused(
                ConfigurationError(
                    "A WSGI request cannot await its tenant: make resolve_tenant a plain function."
                )
            )

        self._enter(found)
        body: Iterable[bytes] = self.app(environ, start_response)
        return body

    def _enter(self, found: Found) -> Scope:
        if found is not None:
            return Scope(self, found if isinstance(found, TenantContext) else _context_of(found))

        if self.on_missing_tenant != "defer":
            raise refused(MissingTenantContextError("The request has no tenant."))

        return without_tenant(self)

    def _raises(self, error: TenancyError) -> bool:
        return self.on_missing_tenant == "raise" and isinstance(error, MissingTenantContextError)


class TenantSessionMiddlewareWSGI(TenantSessionMiddleware):
    """The WSGI side of `TenantSessionMiddleware`, under its own name and type."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        *,
        resolve_tenant: ResolveTenantNow,
        on_missing_tenant: OnMissingTenant = "defer",
    ) -> None:
        super().__init__(app, resolve_tenant=resolve_tenant, on_missing_tenant=on_missing_tenant)

    def __call__(self, environ: Request, start_response: StartResponse, /) -> Iterable[bytes]:
        return self._wsgi(environ, start_response)


@functools.lru_cache(maxsize=1024, typed=True)
def _known_context(tenant: TenantId) -> TenantContext:
    return TenantContext(tenant)


def _context_of(found: TenantId) -> TenantContext:
    # Only what can be a key of the cache; the others are refused.
    return _known_context(found) if type(found) in _PLAIN else as_context(found)


async def _awaited(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


class _Answer:
    """The `send` of an ASGI application, which knows whether the response has begun."""

    __slots__ = ("begun", "request", "send")

    def __init__(self, request: Request, send: Send) -> None:
        self.request = request
        self.send = send
        self.begun = False

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] in _BEGINS:
            self.begun = True

        return self.send(message)

    async def refuse(self, error: TenancyError) -> None:
        problem = problem_of(error)
        if self.request["type"] == "websocket":
            await self.send(
                {
                    "type": "websocket.close",
                    "code": _POLICY_VIOLATION,
                    "reason": problem.detail,
                }
            )
            return

        await self.send(
            {
                "type": "http.response.start",
                "status": problem.status,
                "headers": [
                    (name.encode(), value.encode()) for name, value in problem.headers.items()
                ],
            }
        )
        body = b"" if self.request.get("method") == "HEAD" else problem.body
        await self.send({"type": "http.response.body", "body": body})


class _AnswerWSGI:
    """The `start_response` of a WSGI application, which passes it on at once."""

    __slots__ = ("begun", "environ", "start_response")

    def __init__(self, environ: Request, start_response: StartResponse) -> None:
        self.environ = environ
        self.start_response = start_response
        self.begun = False

    def __call__(self, *response: Any, **more: Any) -> Callable[[bytes], object]:
        self.begun = True
        return self.start_response(*response, **more)

    def refuse(self, error: TenancyError) -> Iterable[bytes]:
        problem = problem_of(error)
        # With exc_info the server replaces the headers, or raises the error if they are out.
        again = (sys.exc_info(),) if self.begun else ()
        self.start_response(
            f"{problem.status} {problem.title}",
            [(name.title(), value) for name, value in problem.headers.items()],
            *again,
        )
        return [b"" if self.environ.get("REQUEST_METHOD") == "HEAD" else problem.body]


class _Body:
    """A WSGI body, iterated and closed in its request's own context."""

    def __init__(
        self,
        body: Iterable[bytes],
        context: Context,
        middleware: TenantSessionMiddleware,
        answer: _AnswerWSGI,
    ) -> None:
        self._body = body
        self._context = context
        self._middleware = middleware
        self._answer = answer
        self._next: Callable[[], bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._next is None:
                self._next = self._context.run(iter, self._body).__next__

            return self._context.run(self._next)
        except _ANSWERED as error:
            if self._middleware._raises(error):
                raise

            chunks = iter(self._answer.refuse(error))
            self._next = chunks.__next__
            return next(chunks)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)


def _is_file(body: object, environ: Request) -> bool:
    """Whether the server sends it by itself, as it does with a real file in its own wrapper."""
    wrapper = environ.get("wsgi.file_wrapper")
    if not (isinstance(wrapper, type) and isinstance(body, wrapper)):
        return False

    source = getattr(body, "filelike", None)
    if source is None:
        return True

    try:
        source.fileno()
    except (AttributeError, OSError):
        return False

    return True


def _is_async(app: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004 - its kind is asked for
    )
