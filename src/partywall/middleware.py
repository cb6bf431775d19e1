"""A tenant for every request, ASGI and WSGI.

It binds a tenant and opens no session. A thread or a process that the application starts by
itself has no tenant; `partywall.jobs` carries one there.
"""

from __future__ import annotations

import inspect
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextvars import copy_context
from typing import Any, Literal, cast

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
_RAISED = (*_ANSWERED, ExceptionGroup)
_POLICY_VIOLATION = 1008
_END: Any = object()

# Asked before `isawaitable`, which takes longer than all the rest.
PLAIN = frozenset({str, int, uuid.UUID, TenantContext, type(None)})

_KINDS = frozenset({"http", "websocket"})

# Not "websocket.accept": an accepted websocket can still be closed.
_BEGINS = frozenset({"http.response.start", "websocket.close", "websocket.http.response.start"})


class TenantSessionMiddleware:
    """Bind each request's tenant around an application, ASGI or WSGI.

    `resolve_tenant` receives the ASGI scope or the WSGI environ and returns a tenant, None, or (ASGI)
    an awaitable of one. Without a tenant, `on_missing_tenant="defer"` lets the request go on and
    answers 400 once it touches owned data, `"reject"` answers at once, `"raise"` raises.

    It answers what passes through it. Put it inside whatever turns exceptions into responses, as
    Starlette's `add_middleware` does, and around the whole application: what is outside of it may
    begin as the tenant of the last request on the same connection (uvicorn).
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

        if not callable(resolve_tenant):
            raise TypeError(f"resolve_tenant is a function, but got {resolve_tenant!r}.")

        self.app = app
        self.resolve_tenant = resolve_tenant
        self.on_missing_tenant = on_missing_tenant
        if _is_async(app):
            # ASGI servers tell the protocol from whether `app.__call__` is a coroutine function.
            self.__dict__["__call__"] = self._asgi

    def _either(self, request: Request, answer: Any, send: Send | None = None, /) -> Any:
        return self._wsgi(request, answer) if send is None else self._asgi(request, answer, send)

    # `def __call__(self, *request)` could be overridden as well, and costs a twentieth of the whole.
    __call__: Callable[..., Any] = _either

    async def _asgi(self, request: Request, receive: Receive, send: Send) -> None:
        if request["type"] not in _KINDS:
            await self.app(request, receive, send)
            return

        begun = False

        def answer(message: Message) -> Awaitable[None]:
            nonlocal begun
            if message["type"] in _BEGINS:
                begun = True

            return send(message)

        scope = None
        try:
            found: Any = self.resolve_tenant(request)
            if type(found) not in PLAIN and inspect.isawaitable(found):
                found = await found

            scope = self._enter(found)
            await self.app(request, receive, answer)
        except _RAISED as raised:
            error = self._answerable(raised)
            if begun or error is None:
                raise

            await _refuse(error, request, send)
        finally:
            if scope is not None:
                scope.leave()

    def _wsgi(self, environ: Request, start_response: StartResponse) -> Iterable[bytes]:
        answer = _Answer(self, environ, start_response)
        try:
            body = answer.context.run(self._begin, environ, answer.start)
        except _RAISED as raised:
            error = self._answerable(raised)
            if error is None:
                raise

            return answer.refuse(error)

        if type(body) in (list, tuple) or _is_file(body, environ):
            return body

        return _Body(body, answer)

    def _begin(self, environ: Request, start_response: StartResponse) -> Iterable[bytes]:
        found: Any = self.resolve_tenant(environ)
        if type(found) not in PLAIN and inspect.isawaitable(found):
            drop(found)
            raise refused(
                ConfigurationError(
                    "A WSGI request cannot await its tenant: make resolve_tenant a plain function."
                )
            )

        # Never left, and its token would keep the context, which keeps the scope.
        del self._enter(found).token
        body: Iterable[bytes] = self.app(environ, start_response)
        return body

    def _enter(self, found: Found) -> Scope:
        if found is not None:
            return Scope(self, as_context(found))

        if self.on_missing_tenant != "defer":
            raise refused(MissingTenantContextError("The request has no tenant."))

        return without_tenant(self)

    def _answerable(self, raised: Exception) -> TenancyError | None:
        """What the client is told of. A task group's errors are one if they are all of this kind."""
        if isinstance(raised, ExceptionGroup) and raised.split(_ANSWERED)[1] is not None:
            return None

        while isinstance(raised, ExceptionGroup):
            raised = raised.exceptions[0]

        if self.on_missing_tenant == "raise" and isinstance(raised, MissingTenantContextError):
            return None

        return cast(TenancyError, raised)


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


async def _refuse(error: TenancyError, request: Request, send: Send) -> None:
    problem = problem_of(error)
    if request["type"] == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": problem.detail})
        return

    headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    body = b"" if request.get("method") == "HEAD" else problem.body
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Answer:
    """A WSGI response: `start` is the application's `start_response`, and passes it on at once.

    The application runs in a copy of the context from the call to `close()`, and the scope ends
    with it: nothing is bound on the thread that serves the next request.
    """

    __slots__ = ("begun", "context", "environ", "middleware", "start_response")

    def __init__(
        self, middleware: TenantSessionMiddleware, environ: Request, start_response: StartResponse
    ) -> None:
        self.middleware = middleware
        self.environ = environ
        self.start_response = start_response
        self.context = copy_context()
        self.begun = False

    def start(self, *response: Any, **more: Any) -> Callable[[bytes], object]:
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
    """A WSGI body, iterated and closed in its request's own context.

    Apart from `_Answer`, which a generator's body holds: with it, it would hold itself.
    """

    __slots__ = ("answer", "body")

    def __init__(self, body: Iterable[bytes], answer: _Answer) -> None:
        self.body = body
        self.answer = answer

    def __iter__(self) -> Iterator[bytes]:
        run = self.answer.context.run
        try:
            chunks = run(iter, self.body)
            while (chunk := run(next, chunks, _END)) is not _END:
                yield chunk

        except _RAISED as raised:
            error = self.answer.middleware._answerable(raised)
            if error is None:
                raise

            yield from self.answer.refuse(error)

    def close(self) -> None:
        close = getattr(self.body, "close", None)
        if close is not None:
            self.answer.context.run(close)


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
