"""FastAPI and Starlette: a session inside the tenant, and what a refused client is told.

The tenant itself comes from `TenantSessionMiddleware`, or from a dependency of yours.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import Depends
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from .errors import TenancyError
from .problems import ANSWERED, problem_of
from .scopes import AsyncSessionScope

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


def tenant_session(
    sessions: Callable[[], AsyncSession | Session],
    resolve_tenant: Callable[..., Any] | None = None,
) -> Callable[..., AsyncGenerator[Any]]:
    """A dependency that yields a session in a transaction, inside the tenant until it has ended.

    `Annotated[AsyncSession, Depends(tenant_session(sessions), scope="function")]` commits before
    the client is answered; without that scope FastAPI commits after it, as streaming needs.
    `resolve_tenant` is a dependency that gives the tenant; without it the middleware's stands. Add
    the middleware all the same, `TenantSessionMiddleware` with `lambda request: None`: under uvicorn
    a request may otherwise begin as the tenant of the last one on its connection. With a plain
    sessionmaker the session is for `def` endpoints, and ends in the thread pool.
    """

    async def session() -> AsyncGenerator[Any]:
        async with _transaction(None, sessions()) as opened:
            yield opened

    async def session_of(
        tenant: Any = Depends(resolve_tenant),  # noqa: B008 - how FastAPI declares it
    ) -> AsyncGenerator[Any]:
        async with _transaction(tenant, sessions()) as opened:
            yield opened

    return session if resolve_tenant is None else session_of


def add_error_handlers(app: Starlette) -> None:
    """Answer refusals with problem+json, websockets by closing them.

    Errors of the application's own making, such as `UnscopedStatementError`, stay errors.
    """
    answer: Any = _answer
    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)


def _transaction(
    tenant: Any, session: AsyncSession | Session
) -> AbstractAsyncContextManager[AsyncSession | Session]:
    if isinstance(session, Session):
        return _in_threads(tenant, session)

    return AsyncSessionScope(tenant, sessions=lambda: session)


@asynccontextmanager
async def _in_threads(tenant: Any, session: Session) -> AsyncGenerator[Session]:
    async with AsyncSessionScope(tenant):
        stack = ExitStack()
        stack.enter_context(session)
        stack.enter_context(session.begin())
        try:
            yield session
        except BaseException as error:
            await _close(stack, error)
            raise

        await _close(stack, None)


async def _close(stack: ExitStack, error: BaseException | None) -> None:
    # Shielded: a client that has gone must not leave a transaction open.
    with anyio.CancelScope(shield=True):
        if error is None:
            await run_in_threadpool(stack.close)
        else:
            await run_in_threadpool(stack.__exit__, type(error), error, error.__traceback__)


async def _answer(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, TenancyError)
    problem = problem_of(error)
    if isinstance(connection, WebSocket):
        await connection.close(1008, problem.detail)
        return None

    return Response(problem.body, problem.status, problem.headers)
