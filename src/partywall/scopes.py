"""Scopes for code that is not behind a middleware: workers, scripts, tests, dependencies.

With `sessions=` a scope also opens a session and ends its transaction. Without it, the sessions
used inside are the caller's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from sqlalchemy.orm import Session

from .context import (
    YET_TO_RUN,
    Enterable,
    Scope,
    TenantContext,
    TenantId,
    active_scope,
    adecorated,
    as_context,
    atenant_scope,
    body_of,
    decorated,
    drop,
    is_async,
    on_function,
    tenant_scope,
)

if TYPE_CHECKING:
    # SQLAlchemy 2.1 cannot import it without greenlet, which sync applications do not have.
    from sqlalchemy.ext.asyncio import AsyncSession

Resolved = TenantId | TenantContext | None
ResolveTenant = Callable[[], Resolved]
AsyncResolveTenant = Callable[[], Resolved | Awaitable[Resolved]]

_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R")
_S = TypeVar("_S", bound=Session)
_AS = TypeVar("_AS", bound="AsyncSession")
_Given_co = TypeVar("_Given_co", covariant=True)
_Transaction = TypeVar(
    "_Transaction", bound=AbstractContextManager[Any] | AbstractAsyncContextManager[Any]
)


class SessionScope(Enterable, Generic[_Given_co]):
    """Make a tenant current, given or resolved on entry; with neither, bind nothing.

    `sessions=`, a sessionmaker, yields a session in a transaction of its own: committed at the
    end, rolled back on an error, closed while the tenant is still current. A decorated function
    receives it as the keyword argument `session`.
    """

    @overload
    def __init__(
        self: SessionScope[TenantContext | None],
        tenant: TenantId | TenantContext | None = None,
        *,
        resolve_tenant: ResolveTenant | None = None,
        sessions: None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: SessionScope[_S],
        tenant: TenantId | TenantContext | None = None,
        *,
        resolve_tenant: ResolveTenant | None = None,
        sessions: Callable[[], _S],
    ) -> None: ...

    def __init__(
        self,
        tenant: TenantId | TenantContext | None = None,
        *,
        resolve_tenant: ResolveTenant | None = None,
        sessions: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self._context = _given(tenant, resolve_tenant)
        self._resolve = resolve_tenant
        self._sessions = sessions

    def __enter__(self) -> _Given_co:
        if self._sessions is None:
            return cast(_Given_co, self._keep(self._open()).context)

        scope = _Work(self, self._resolved(), self._transaction())
        try:
            session = scope.transaction.__enter__()
        except BaseException:
            scope.leave()
            raise

        self._keep(scope)
        return cast(_Given_co, session)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._take()
        try:
            if isinstance(scope, _Work):
                inside = scope.again()
                try:
                    scope.transaction.__exit__(kind, error, traceback)
                finally:
                    inside.leave()

        finally:
            scope.leave()

    @overload
    def __call__(self: SessionScope[TenantContext | None], function: _F, /) -> _F: ...

    @overload
    def __call__(self, function: Callable[..., _R], /) -> Callable[..., _R]: ...

    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Any]:
        return on_function(function, self._decorated)

    def _decorated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._sessions is not None:
            function = _with_session(function, self._transaction)

        return decorated(function, self._open)

    def _open(self) -> Scope:
        return Scope(self, self._resolved())

    def _resolved(self) -> TenantContext | None:
        if self._resolve is None:
            return self._context

        return _fitting(self._resolve())

    @contextmanager
    def _transaction(self) -> Generator[Session]:
        assert self._sessions is not None
        session = self._sessions()
        if not isinstance(session, Session):
            raise TypeError(
                f"SessionScope(sessions=...) needs a sessionmaker, but got a {_name(session)}: "
                "use AsyncSessionScope for an async_sessionmaker."
            )

        with session, session.begin():
            yield session


class AsyncSessionScope(Enterable, Generic[_Given_co]):
    """Async version of `SessionScope`; its resolver may be sync or async."""

    @overload
    def __init__(
        self: AsyncSessionScope[TenantContext | None],
        tenant: TenantId | TenantContext | None = None,
        *,
        resolve_tenant: AsyncResolveTenant | None = None,
        sessions: None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: AsyncSessionScope[_AS],
        tenant: TenantId | TenantContext | None = None,
        *,
        resolve_tenant: AsyncResolveTenant | None = None,
        sessions: Callable[[], _AS],
    ) -> None: ...

    def __init__(
        self,
        tenant: TenantId | TenantContext | None = None,
        *,
        resolve_tenant: AsyncResolveTenant | None = None,
        sessions: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self._context = _given(tenant, resolve_tenant)
        self._resolve = resolve_tenant
        self._sessions = sessions

    async def __aenter__(self) -> _Given_co:
        if self._sessions is None:
            return cast(_Given_co, self._keep(await self._aopen()).context)

        scope = _Work(self, await self._resolved(), self._transaction())
        try:
            session = await scope.transaction.__aenter__()
        except BaseException:
            scope.leave()
            raise

        self._keep(scope)
        return cast(_Given_co, session)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._take()
        try:
            if isinstance(scope, _Work):
                inside = scope.again()
                try:
                    await scope.transaction.__aexit__(kind, error, traceback)
                finally:
                    inside.leave()

        finally:
            scope.leave()

    @overload
    def __call__(self: AsyncSessionScope[TenantContext | None], function: _F, /) -> _F: ...

    @overload
    def __call__(self, function: Callable[..., _R], /) -> Callable[..., _R]: ...

    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Any]:
        return on_function(function, self._decorated)

    def _decorated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._sessions is not None:
            function = _with_async_session(function, self._transaction)

        return adecorated(function, self._aopen)

    async def _aopen(self) -> Scope:
        return Scope(self, await self._resolved())

    async def _resolved(self) -> TenantContext | None:
        if self._resolve is None:
            return self._context

        found = self._resolve()
        return _fitting(await found if inspect.isawaitable(found) else found)

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[AsyncSession]:
        assert self._sessions is not None
        session = self._sessions()
        if isinstance(session, Session):
            raise TypeError(
                f"AsyncSessionScope(sessions=...) needs an async_sessionmaker, but got a "
                f"{_name(session)}: use SessionScope for a sessionmaker."
            )

        async with session, session.begin():
            yield session


def bind_session_to_tenant(tenant: TenantId | TenantContext) -> tenant_scope:
    """Make a tenant current that must be there: None or a blank one is a ValueError."""
    return tenant_scope(_present(tenant))


def bind_async_session_to_tenant(tenant: TenantId | TenantContext) -> atenant_scope:
    """Async version of `bind_session_to_tenant`."""
    return atenant_scope(_present(tenant))


class _Work(Scope, Generic[_Transaction]):
    """A scope with a session in it."""

    __slots__ = ("bound", "transaction")

    def __init__(
        self, owner: object, context: TenantContext | None, transaction: _Transaction
    ) -> None:
        super().__init__(owner, context)
        self.transaction = transaction
        # Not itself, which only the garbage collector would find.
        self.bound = active_scope() if context is None else None

    def again(self) -> Scope:
        """The session ends inside its tenant, in whatever context the scope is left."""
        bound = self.bound or self
        return Scope(self.owner, bound.context, bound.reason, bound.write)


def _with_session(
    function: Callable[..., Any], transaction: Callable[[], AbstractContextManager[Session]]
) -> Callable[..., Any]:
    if is_async(function):
        return _with_async_session(function, lambda: _as_async(transaction()))

    if inspect.isgeneratorfunction(body_of(function)):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with transaction() as session:
                return (yield from function(*args, session=session, **kwargs))

        return generator

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with transaction() as session:
            found = function(*args, session=session, **kwargs)
            if type(found) in YET_TO_RUN and not inspect.isgenerator(found):
                drop(found)
                raise TypeError(
                    f"{function!r} returned a {type(found).__name__}, which would outlive its "
                    "session: put the scope below other decorators."
                )

            return found

    return plain


def _with_async_session(
    function: Callable[..., Any], transaction: Callable[[], AbstractAsyncContextManager[Any]]
) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(body_of(function)):

        @functools.wraps(function)
        async def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            async with transaction() as session:
                body = function(*args, session=session, **kwargs)
                step: Callable[[Any], Any] = body.asend
                value: Any = None
                while True:
                    try:
                        item = await step(value)
                    except StopAsyncIteration:
                        return

                    try:
                        value, step = (yield item), body.asend
                    except GeneratorExit:
                        await body.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001 - handed on to the body
                        value, step = error, body.athrow

        return generator

    if not is_async(function):
        return function

    @functools.wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        async with transaction() as session:
            return await function(*args, session=session, **kwargs)

    return coroutine


@asynccontextmanager
async def _as_async(transaction: AbstractContextManager[Session]) -> AsyncGenerator[Session]:
    with transaction as session:
        yield session


def _given(tenant: TenantId | TenantContext | None, resolve: object) -> TenantContext | None:
    if tenant is not None and resolve is not None:
        raise ValueError("Give a tenant or resolve_tenant=, not both.")

    return _fitting(tenant)


def _fitting(tenant: Any) -> TenantContext | None:
    return None if tenant is None else as_context(tenant)


def _present(tenant: TenantId | TenantContext | None) -> TenantId | TenantContext:
    if tenant is None or (isinstance(tenant, str) and not tenant.strip()):
        raise ValueError(f"A session is bound to a tenant, but got {tenant!r}.")

    return tenant


def _name(session: object) -> str:
    return type(session).__name__
