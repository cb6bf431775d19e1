"""The current tenant: one ContextVar, read by everything else.

It says whose turn it is and touches no session and no SQL.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType, MappingProxyType
from typing import Any, Generic, TypeVar, cast

from .errors import ConfigurationError, MalformedTenantError, MissingTenantContextError, refused

TenantId = str | int | uuid.UUID

_log = logging.getLogger("partywall")
_F = TypeVar("_F", bound=Callable[..., Any])
_Given_co = TypeVar("_Given_co", covariant=True)


_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, init=False)
class TenantContext:
    """A tenant and what the application wants to know about it."""

    tenant_id: TenantId
    metadata: Mapping[str, Any] = field(hash=False, compare=False)

    def __init__(self, tenant_id: TenantId, metadata: Mapping[str, Any] = _NOTHING) -> None:
        if type(tenant_id) is not str or not tenant_id.strip():
            tenant_id = _checked(tenant_id)

        _set_tenant_id(self, tenant_id)
        _set_metadata(self, metadata if metadata is _NOTHING else MappingProxyType(dict(metadata)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (TenantContext, (self.tenant_id, dict(self.metadata)))


# Half the price of `object.__setattr__`, which a frozen class needs otherwise.
_set_tenant_id = vars(TenantContext)["tenant_id"].__set__
_set_metadata = vars(TenantContext)["metadata"].__set__


def bind_tenant(tenant_id: TenantId, /, **metadata: Any) -> TenantContext:
    """Build a context without making it current."""
    return TenantContext(tenant_id, metadata)


def current_tenant() -> TenantContext:
    """The current tenant, or `MissingTenantContextError`."""
    scope = active_scope()
    if scope is None or scope.context is None:
        raise refused(MissingTenantContextError())

    return scope.context


def try_current_tenant() -> TenantContext | None:
    scope = active_scope()
    return None if scope is None else scope.context


class Scope:
    """One entered block: a tenant's, an unscoped one (with a reason), or one that binds nothing."""

    __slots__ = ("context", "fitted", "outer", "over", "owner", "reason", "token", "write")

    outer: Scope | None

    def __init__(
        self,
        owner: object,
        context: TenantContext | None = None,
        reason: str | None = None,
        write: bool = False,
    ) -> None:
        self.owner = owner
        self.context = context
        self.reason = reason
        self.write = write
        self.over = False
        self.fitted: dict[Any, Any] = {}
        outer = entered()
        while outer is not None and outer.over:
            outer = outer.outer

        self.outer = outer
        self.token: Token[Scope | None] = _current.set(self)

    def leave(self) -> None:
        """Make the outer scope current again.

        Out of order, or in another context than the one it was entered in, the ContextVar cannot
        be reset. The scope is then over wherever it is still seen: no tenant stays behind.
        """
        if entered() is self:
            try:
                _current.reset(self.token)
                # Copies of its context hold it: a callback that schedules itself would grow a chain.
                del self.token
                if self.context is not None:
                    self.outer = None

                return

            except ValueError:
                _current.set(self.outer)

        self.over = True


_current: ContextVar[Scope | None] = ContextVar("partywall_scope", default=None)
# What was entered last: it may be over, and it may bind nothing.
entered = _current.get


def active_scope() -> Scope | None:
    """The innermost scope that binds something: a tenant, or a reason to do without one."""
    scope = entered()
    while scope is not None and (scope.over or (scope.context is None and scope.reason is None)):
        scope = scope.outer

    return scope


def without_tenant(owner: object) -> Scope:
    """A scope in which no tenant is current, whatever is current outside."""
    scope = Scope(owner)
    scope.outer = None
    return scope


class Enterable:
    """A scope as a context manager and as a decorator, reusable and safe to share between tasks.

    Subclasses say in `_open` what is entered.
    """

    def __init__(self) -> None:
        self._entered: list[Scope] = []

    def _open(self) -> Scope:
        raise NotImplementedError

    def _keep(self, scope: Scope) -> Scope:
        self._entered.append(scope)
        return scope

    def _take(self) -> Scope:
        """The scope that is being left: the innermost one here, or the only one there is."""
        scope = entered()
        if self._entered and self._entered[-1] is scope:
            return self._entered.pop()

        while scope is not None and (scope.owner is not self or scope not in self._entered):
            scope = scope.outer

        if scope is None:
            if len(self._entered) != 1:
                raise RuntimeError(
                    f"This {type(self).__name__} was entered {len(self._entered)} times and is "
                    "left where none of them is known: build one scope per block."
                )

            scope = self._entered[0]

        self._entered.remove(scope)
        return scope


class SyncScope(Enterable, Generic[_Given_co]):
    """The `with` form. As a decorator it serves functions, coroutines and generators alike."""

    def __enter__(self) -> _Given_co:
        return cast(_Given_co, self._keep(self._open()).context)

    def __exit__(self, *error: object) -> None:
        kept = self._entered
        # As a rule; `_take` finds any other.
        (kept.pop() if kept and kept[-1] is entered() else self._take()).leave()

    def __call__(self, function: _F, /) -> _F:
        return cast(_F, on_function(function, lambda plain: decorated(plain, self._open)))


class AsyncScope(Enterable, Generic[_Given_co]):
    """Async version of `SyncScope`."""

    async def __aenter__(self) -> _Given_co:
        return cast(_Given_co, self._keep(await self._aopen()).context)

    async def __aexit__(self, *error: object) -> None:
        self._take().leave()

    def __call__(self, function: _F, /) -> _F:
        return cast(_F, on_function(function, lambda plain: adecorated(plain, self._aopen)))

    async def _aopen(self) -> Scope:
        return self._open()


class tenant_scope(SyncScope[TenantContext]):
    """`with tenant_scope("acme"):` makes a tenant current, for this block, thread and task."""

    def __init__(self, tenant: TenantId | TenantContext, /) -> None:
        self._entered = []
        self._context = tenant if isinstance(tenant, TenantContext) else TenantContext(tenant)

    def __enter__(self) -> TenantContext:
        self._entered.append(Scope(self, self._context))
        return self._context

    def _open(self) -> Scope:
        return Scope(self, self._context)


class atenant_scope(AsyncScope[TenantContext]):
    """Async version of `tenant_scope`."""

    def __init__(self, tenant: TenantId | TenantContext, /) -> None:
        super().__init__()
        self._context = as_context(tenant)

    def _open(self) -> Scope:
        return Scope(self, self._context)


class unscoped(SyncScope[None]):
    """The loud way through the wall: every tenant's rows, for a stated reason, which is logged.

    Reading only, unless `write=True`. A session used under a tenant cannot be used here.
    """

    def __init__(self, reason: str, /, *, write: bool = False) -> None:
        super().__init__()
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError("unscoped() needs a reason, as in unscoped('nightly report')")

        self._reason = reason
        self._write = write

    def _open(self) -> Scope:
        # First, so that a filter or handler that raises leaves nothing entered.
        _log.warning(
            "unscoped: %s",
            self._reason,
            extra={
                "event": "unscoped",
                "reason": self._reason,
                "write": self._write,
                "call_site": _call_site(),
            },
        )
        return Scope(self, None, self._reason, self._write)


def on_function(
    function: Any, decorate: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    """Decorate a function; below `@classmethod` and `@staticmethod` too, which stay on top."""
    if isinstance(function, (classmethod, staticmethod)):
        held: Any = type(function)(decorate(function.__func__))
        return cast(Callable[..., Any], held)

    if not callable(function):
        raise TypeError(f"A scope decorates functions, and {function!r} is not one.")

    return decorate(function)


def decorated(function: Callable[..., Any], open_: Callable[[], Scope]) -> Callable[..., Any]:
    """The function in a scope that is opened anew for every call."""
    if is_async(function):

        async def aopen() -> Scope:
            return open_()

        return adecorated(function, aopen)

    if inspect.isgeneratorfunction(body_of(function)):
        return _stepwise(function, open_)

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        scope = open_()
        try:
            found = function(*args, **kwargs)
        finally:
            scope.leave()

        return _inside(found, scope) if type(found) in YET_TO_RUN else found

    return plain


def adecorated(
    function: Callable[..., Any], aopen: Callable[[], Coroutine[Any, Any, Scope]]
) -> Callable[..., Any]:
    """Async version of `decorated`."""
    if not is_async(function):
        raise TypeError(
            f"This scope decorates async functions only, and {function!r} is not one: "
            "put it below other decorators, or use its sync version."
        )

    if inspect.isasyncgenfunction(body_of(function)):
        return _astepwise(function, aopen)

    @functools.wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        scope = await aopen()
        try:
            return await function(*args, **kwargs)
        finally:
            scope.leave()

    return coroutine


def is_async(function: Callable[..., Any]) -> bool:
    body = body_of(function)
    return inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body)


def body_of(function: Any) -> Any:
    """What runs when it is called: of an object, its `__call__`. A class is called to build one."""
    while isinstance(function, functools.partial):
        function = function.func

    if isinstance(function, type) or inspect.isroutine(function):
        return function

    # Some objects, such as mocks, say themselves that they are coroutine functions.
    known = inspect.iscoroutinefunction(function)
    return function if known else getattr(function, "__call__", function)  # noqa: B004


# What a plain function returns if it wraps a function of another kind, as `@contextmanager` does.
YET_TO_RUN = frozenset(
    {
        CoroutineType,
        GeneratorType,
        AsyncGeneratorType,
        _GeneratorContextManager,
        _AsyncGeneratorContextManager,
    }
)


def _inside(found: Any, scope: Scope) -> Any:
    """What a call returned before its body has run: it runs in the call's scope."""

    def body() -> Any:
        return found

    def open_() -> Scope:
        return _again(scope)

    async def aopen() -> Scope:
        return _again(scope)

    async def coroutine() -> Any:
        return await found

    if type(found) is GeneratorType:
        return _stepwise(body, open_)()

    if type(found) is AsyncGeneratorType:
        return _astepwise(body, aopen)()

    if type(found) is CoroutineType:
        return adecorated(coroutine, aopen)()

    return type(found)(decorated(found.func, open_), found.args, found.kwds)


def _opened(scope: Scope) -> Scope:
    scope.leave()
    return scope


def _again(scope: Scope) -> Scope:
    return Scope(scope.owner, scope.context, scope.reason, scope.write)


def _stepwise(
    function: Callable[..., Generator[Any, Any, Any]], open_: Callable[[], Scope]
) -> Callable[..., Generator[Any, Any, Any]]:
    """Bind the tenant while the generator's own body runs, not while its consumer does."""

    @functools.wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        opened = _opened(open_())
        body = function(*args, **kwargs)
        step: Callable[[Any], Any] = body.send
        value: Any = None
        while True:
            scope = _again(opened)
            try:
                item = step(value)
            except StopIteration as stop:
                return stop.value
            finally:
                scope.leave()

            try:
                value, step = (yield item), body.send
            except GeneratorExit:
                scope = _again(opened)
                try:
                    body.close()
                finally:
                    scope.leave()

                raise
            except BaseException as error:  # noqa: BLE001 - handed on to the body
                value, step = error, body.throw

    return generator


def _astepwise(
    function: Callable[..., AsyncGenerator[Any, Any]],
    aopen: Callable[[], Coroutine[Any, Any, Scope]],
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Async version of `_stepwise`."""

    @functools.wraps(function)
    async def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        opened = _opened(await aopen())
        body = function(*args, **kwargs)
        step: Callable[[Any], Any] = body.asend
        value: Any = None
        while True:
            scope = _again(opened)
            try:
                item = await step(value)
            except StopAsyncIteration:
                return
            finally:
                scope.leave()

            try:
                value, step = (yield item), body.asend
            except GeneratorExit:
                scope = _again(opened)
                try:
                    await body.aclose()
                finally:
                    scope.leave()

                raise
            except BaseException as error:  # noqa: BLE001 - handed on to the body
                value, step = error, body.athrow

    return generator


def as_context(tenant: TenantId | TenantContext) -> TenantContext:
    return tenant if isinstance(tenant, TenantContext) else TenantContext(tenant)


def drop(awaitable: object) -> None:
    """Nobody will await it, and nobody needs a warning besides the error."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _checked(tenant: object) -> TenantId:
    """The value alone: a member of an enum of strings would be written as the member's name."""
    if isinstance(tenant, str) and tenant.strip():
        return str.__str__(tenant)

    if isinstance(tenant, int) and not isinstance(tenant, bool):
        return int.__index__(tenant)

    if isinstance(tenant, uuid.UUID):
        return tenant

    if isinstance(tenant, str):
        raise refused(MalformedTenantError(f"A tenant cannot be blank, but got {tenant!r}."))

    if inspect.isawaitable(tenant):
        drop(tenant)
        raise refused(
            ConfigurationError(
                "A tenant must be a str, an int or a UUID, but got an awaitable: "
                "await it first, or use AsyncSessionScope(resolve_tenant=...)."
            )
        )

    raise refused(
        ConfigurationError(
            f"A tenant must be a str, an int or a UUID, not {type(tenant).__name__}."
        )
    )


def _call_site() -> str:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("partywall."):
        frame = frame.f_back

    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
