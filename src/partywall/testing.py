"""For the tests of applications: a pytest plugin, found by its entry point, and two assertions.

`sees_only` looks at what the database hands over, in every thread and task. What an application
answers from a cache of its own never comes here, nor does a DBAPI cursor; and a row that carries no
tenant (a count, a key) is taken for the tenant's for whom it was read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any
from unittest import IsolatedAsyncioTestCase

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.expression import FromClause

from . import rawsql
from .context import (
    Scope,
    TenantContext,
    TenantId,
    active_scope,
    as_context,
    bind_tenant,
    tenant_scope,
    without_tenant,
)
from .errors import ConfigurationError, MissingTenantContextError
from .ownership import Ownership, owned, owned_names
from .predicate import same_tenant

__all__ = ["from_outside", "sees_only"]


class sees_only:
    """Fail if the block is handed a row of another tenant, or leaves a tenant bound."""

    def __init__(self, tenant: TenantId | TenantContext, /) -> None:
        self._tenant = as_context(tenant).tenant_id

    def __enter__(self) -> None:
        self._watch = _Watch(self._tenant)
        self._bound = list(_bound())
        _open.add(self._watch)
        _watches.set((*_watches.get(), self._watch))
        # Once and for good: removing a listener while another thread executes is not safe.
        if not event.contains(Engine, "after_cursor_execute", _look_at_rows):
            event.listen(Engine, "after_cursor_execute", _look_at_rows)

    def __exit__(self, *error: object) -> None:
        __tracebackhide__ = True
        _open.discard(self._watch)
        _watches.set(tuple(watch for watch in _watches.get() if watch in _open))
        faults = [*self._watch.foreign, *_left_bound(self._bound)]
        if faults:
            raise AssertionError(
                "\n- ".join([f"sees_only({self._watch.tenant!r}) does not hold:", *faults])
            )


class from_outside:
    """Hide the test's own tenant, and fail if the block would have leaned on it.

    For requests that are served in the test's own process, where the application sees the tenant
    of the test. In production there is none.
    """

    def __enter__(self) -> None:
        outer = active_scope()
        self._hidden = None if outer is None else outer.context
        self._missing = _Missing()
        self._scope = without_tenant(self)
        _outside.set((*_outside.get(), self._missing))
        _log.addHandler(self._missing)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        __tracebackhide__ = True
        _log.removeHandler(self._missing)
        _outside.set(tuple(other for other in _outside.get() if other is not self._missing))
        self._scope.leave()
        found_none = self._missing.found or isinstance(error, MissingTenantContextError)
        if self._hidden is not None and found_none:
            raise AssertionError(
                "from_outside() does not hold: the block brought no tenant of its own, and would "
                f"have used the test's, {self._hidden.tenant_id!r}."
            )


@pytest.fixture(scope="session")
def tenant_ids() -> tuple[TenantId, TenantId]:
    """The tenants of `two_tenants`. Override it if yours are numbers or UUIDs."""
    return "acme", "globex"


@pytest.fixture
def seed_tenants() -> None:
    """Override it, sync or async, with one that gives each of `tenant_ids` its rows."""
    pytest.fail(
        "two_tenants needs rows. Write a fixture 'seed_tenants' that stores the same rows for each "
        "of 'tenant_ids', as in 'for tenant in tenant_ids: with SessionScope(tenant, sessions=...)'.",
        pytrace=False,
    )


@pytest.fixture
def two_tenants(
    tenant_ids: tuple[TenantId, TenantId], seed_tenants: object
) -> tuple[TenantId, TenantId]:
    """Two tenants with the rows that `seed_tenants` gave them."""
    return tenant_ids


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "tenant(id, **metadata): run the test's body, not its fixtures, as this tenant"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    marker = item.get_closest_marker("tenant")
    if marker is None or not isinstance(item, pytest.Function):
        return (yield)

    # The function itself is wrapped: pytest-asyncio and anyio run it in a context of their own.
    as_tenant = tenant_scope(bind_tenant(*marker.args, **marker.kwargs))
    held, name = _function(item)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, name, as_tenant(getattr(held, name)))
        return (yield)


def _function(item: pytest.Function) -> tuple[Any, str]:
    """Where the function that will be called is held, and as what."""
    if isinstance(item.instance, IsolatedAsyncioTestCase):
        return item.instance, item.name

    hypothesis = getattr(item.obj, "hypothesis", None)
    return (item, "obj") if hypothesis is None else (hypothesis, "inner_test")


class _Missing(logging.Handler):
    """Notes that something was refused for want of a tenant, in a context made by the block."""

    found = False

    def emit(self, record: logging.LogRecord) -> None:
        missing = getattr(record, "error", None) == MissingTenantContextError.__name__
        self.found = self.found or (missing and self in _outside.get())


class _Watch:
    """What one block was handed that is not its tenant's."""

    def __init__(self, tenant: TenantId) -> None:
        self.tenant = tenant
        # A dict for its order: each finding once.
        self.foreign: dict[str, None] = {}

    def judge(self, execution: _Execution, row: Sequence[Any]) -> None:
        owners = [owner for owner in execution.owners(row) if owner[0] is not None]
        for value, type_ in owners:
            if not _is(value, self.tenant, type_):
                self._found(f"a row of {value!r}", execution)

        if not owners and execution.owned and not self._runs_for_me(execution.scope):
            self._found(f"a row read {_for_whom(execution.scope)}", execution)

    def _runs_for_me(self, scope: Scope | None) -> bool:
        return (
            scope is not None
            and scope.context is not None
            and same_tenant(scope.context.tenant_id, self.tenant)
        )

    def _found(self, what: str, execution: _Execution) -> None:
        self.foreign[f"{what}, by {' '.join(execution.statement.split())}"] = None


class _Execution:
    """One executed statement, and where the tenants stand in its rows."""

    def __init__(self, statement: str, context: Any, cursor: Any) -> None:
        self.statement = statement
        self.scope = active_scope()
        mysql = context.dialect.name in ("mysql", "mariadb")
        names = rawsql.scan(statement, hash_comments=mysql).names
        self.owned = not names.isdisjoint(owned_names())
        self._tenants = list(_tenants(context, cursor)) if self.owned else []

    def owners(self, row: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for place, type_, python in self._tenants:
            yield python(row[place]), type_


class _Cursor:
    """A DBAPI cursor whose rows are looked at on their way."""

    def __init__(self, cursor: Any, execution: _Execution, watches: Iterable[_Watch]) -> None:
        self._cursor = cursor
        self._execution = execution
        self._watches = watches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        self._look([] if row is None else [row])
        return row

    def fetchmany(self, *size: int) -> Any:
        return self._look(self._cursor.fetchmany(*size))

    def fetchall(self) -> Any:
        return self._look(self._cursor.fetchall())

    def _look(self, rows: Any) -> Any:
        for row in rows:
            for watch in self._watches:
                watch.judge(self._execution, row)

        return rows


_log = logging.getLogger("partywall")
_open: set[_Watch] = set()
_watches: ContextVar[tuple[_Watch, ...]] = ContextVar("partywall_watches", default=())
_outside: ContextVar[tuple[_Missing, ...]] = ContextVar("partywall_outside", default=())


def _look_at_rows(
    connection: Connection,
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any,
    executemany: bool,
) -> None:
    # A thread that was started without the block's context, as a server's, belongs to every block.
    mine = tuple(watch for watch in _watches.get() if watch in _open)
    watches = mine or tuple(_open)
    if watches and cursor.description is not None:
        context.cursor = _Cursor(cursor, _Execution(statement, context, cursor), watches)


def _tenants(context: Any, cursor: Any) -> Iterator[tuple[int, Any, Callable[[Any], Any]]]:
    """The places of a row that hold a tenant, with the type and the way from the driver's value."""
    compiled = context.compiled
    if not getattr(compiled, "_ordered_columns", False):
        return

    for place, column in enumerate(compiled._result_columns):
        ownership = next(filter(None, map(_owner, column.objects)), None)
        if ownership is not None and place < len(cursor.description):
            coltype = cursor.description[place][1]
            yield place, ownership.type, _to_python(ownership, context.dialect, coltype)


def _owner(element: object) -> Ownership | None:
    """The ownership whose tenant column this is, through aliases and subqueries."""
    if not isinstance(element, ColumnElement):
        return None

    for base in element.base_columns:
        table = getattr(base, "table", None)
        ownership = owned(table) if isinstance(table, FromClause) else None
        column = None if ownership is None else ownership.column
        if column is not None and column.name == getattr(base, "name", None):
            return ownership

    return None


def _to_python(ownership: Ownership, dialect: Dialect, coltype: Any) -> Callable[[Any], Any]:
    assert ownership.type is not None
    process = ownership.type.dialect_impl(dialect).result_processor(dialect, coltype)
    return process or (lambda value: value)


def _is(value: Any, tenant: TenantId, type_: Any) -> bool:
    try:
        return same_tenant(value, tenant, type_)
    except ConfigurationError:
        return False


def _for_whom(scope: Scope | None) -> str:
    if scope is None:
        return "without a tenant"

    if scope.context is None:
        return f"in unscoped({scope.reason!r})"

    return f"for {scope.context.tenant_id!r}"


def _bound() -> Iterator[Scope]:
    scope = active_scope()
    while scope is not None:
        yield scope
        scope = scope.outer


def _left_bound(before: Sequence[Scope]) -> Iterator[str]:
    """The scopes that a block did not leave; they are left here, for the tests that follow."""
    while (scope := active_scope()) is not None and scope not in before:
        yield f"a scope was not left: what follows would run {_for_whom(scope)}"
        scope.leave()
