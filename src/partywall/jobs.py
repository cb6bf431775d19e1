"""Work outside of a request: a job that carries its tenant, a function run for every tenant.

`capture` and `restore` neither sign nor encrypt. Whoever can write to the queue chooses the tenant.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import uuid
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

from sqlalchemy import CompoundSelect, Select
from sqlalchemy.orm import Session

from .context import TenantContext, TenantId, as_context, current_tenant, is_async, tenant_scope
from .errors import (
    ConfigurationError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    refused,
)
from .scopes import AsyncSessionScope, SessionScope

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    Query = Select[Any] | CompoundSelect[Any]

Tenant = TenantId | TenantContext
Job = Mapping[str, Any]

_S = TypeVar("_S", bound=Session)
_AS = TypeVar("_AS", bound="AsyncSession")
_R = TypeVar("_R")

_WIDTH = 30
_KINDS: dict[str, Callable[[str], TenantId]] = {"str": str, "int": int, "uuid": uuid.UUID}


def capture() -> dict[str, str]:
    """The current tenant as a small mapping that JSON keeps, to be sent with a job.

    The context's metadata stays behind: by the time the job runs it may have changed.
    """
    return _written(current_tenant().tenant_id)


def restore(job: Job | None) -> tenant_scope:
    """The scope that brings back what `capture` took. A job without a tenant is refused."""
    if not job:
        raise refused(
            MissingTenantContextError(
                "This job carries no tenant. Send capture() with it, or run it in "
                "'with unscoped(\"why\")' if it must see every row."
            )
        )

    return tenant_scope(_read(job))


def for_each_tenant(
    tenants: Iterable[Tenant] | Query,
    function: Callable[[_S], _R],
    *,
    sessions: Callable[[], _S],
    concurrency: int = 1,
    journal: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> dict[TenantId, _R]:
    """Call `function(session)` once for every tenant, each in a session and transaction of its own.

    `tenants` may be a query for their ids. Up to `concurrency` run at once, in threads. A failure
    undoes its own tenant only; at the end an `ExceptionGroup` holds them all, each with a note that
    names its tenant.

    `journal`, a path, keeps who is done: the next run with it goes on where this one stopped. When
    nobody failed it is removed. A tenant that was committed and not yet noted when the process
    died runs twice.
    """
    if is_async(function):
        raise TypeError(f"{function!r} is async: use afor_each_tenant.")

    if isinstance(tenants, (Select, CompoundSelect)):
        with sessions() as session:
            tenants = session.scalars(tenants).all()

    def run(tenant: TenantContext) -> None:
        try:
            with SessionScope(tenant, sessions=sessions) as session:
                result = function(session)

        except Exception as error:  # noqa: BLE001 - reported at the end
            round_.fail(tenant.tenant_id, error)
        else:
            round_.done(tenant.tenant_id, result)

    with _Round[_R](tenants, concurrency, journal, progress) as round_:
        if concurrency == 1:
            for tenant in map(round_.todo, tenants):
                if tenant is not None:
                    run(tenant)

        else:
            _run_in_threads(run, filter(None, map(round_.todo, tenants)), concurrency)

    return round_.result()


async def afor_each_tenant(
    tenants: Iterable[Tenant] | AsyncIterable[Tenant] | Query,
    function: Callable[[_AS], Awaitable[_R]],
    *,
    sessions: Callable[[], _AS],
    concurrency: int = 1,
    journal: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> dict[TenantId, _R]:
    """Async version of `for_each_tenant`; tasks instead of threads."""
    if isinstance(tenants, (Select, CompoundSelect)):
        async with sessions() as session:
            tenants = (await session.scalars(tenants)).all()

    async def run(tenant: TenantContext) -> None:
        try:
            async with AsyncSessionScope(tenant, sessions=sessions) as session:
                result = await function(session)

        except Exception as error:  # noqa: BLE001 - reported at the end
            round_.fail(tenant.tenant_id, error)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise

            round_.fail(tenant.tenant_id, RuntimeError("The function cancelled itself."))
        else:
            round_.done(tenant.tenant_id, result)
        finally:
            free.release()

    with _Round[_R](tenants, concurrency, journal, progress) as round_:
        free = asyncio.Semaphore(concurrency)
        no_list: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            try:
                async for tenant in _aiterate(tenants):
                    context = round_.todo(tenant)
                    if context is not None:
                        await free.acquire()
                        tasks.create_task(run(context))

            except Exception as error:  # noqa: BLE001 - raised when those who run are done
                no_list = error

        if no_list is not None:
            raise no_list

    return round_.result()


class _Round(Generic[_R]):
    """Who is done, who failed: in memory, in the journal and on the terminal."""

    def __init__(
        self,
        tenants: object,
        concurrency: int,
        journal: str | os.PathLike[str] | None,
        progress: bool | None,
    ) -> None:
        if isinstance(tenants, (str, bytes)):
            # Its letters would be tenants.
            raise TypeError(f"for_each_tenant() takes a list of tenants, but got {tenants!r}.")

        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, but got {concurrency}.")

        self._total = len(tenants) if isinstance(tenants, Sized) else None
        self._path = None if journal is None else Path(journal)
        self._file: TextIO | None = None
        self._shows = sys.stderr.isatty() if progress is None else progress
        self._lock = threading.Lock()
        self._seen: set[TenantId] = set()
        self._before: set[TenantId] = set()
        self._results: dict[TenantId, _R] = {}
        self._failures: list[Exception] = []

    def __enter__(self) -> _Round[_R]:
        if self._path is not None:
            self._before = _noted(self._path)
            self._file = self._path.open("a", encoding="utf-8")

        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._shows:
            sys.stderr.write("\n")

        if self._file is not None:
            self._file.close()

        if self._path is not None and error is None and not self._failures:
            self._path.unlink()

    def todo(self, tenant: Tenant) -> TenantContext | None:
        """The tenant if it has not had its turn in this run or, by the journal, an earlier one."""
        try:
            context = as_context(tenant)
        except ConfigurationError as error:
            self.fail(tenant, error)
            return None

        if context.tenant_id in self._seen:
            return None

        self._seen.add(context.tenant_id)
        return None if context.tenant_id in self._before else context

    def done(self, tenant: TenantId, result: _R) -> None:
        with self._lock:
            self._results[tenant] = result
            if self._file is not None:
                self._file.write(json.dumps(_written(tenant)) + "\n")
                self._file.flush()

            self._show()

    def fail(self, tenant: object, error: Exception) -> None:
        error.add_note(f"This is tenant {tenant!r}.")
        with self._lock:
            self._failures.append(error)
            self._show()

    def result(self) -> dict[TenantId, _R]:
        if self._failures:
            raise ExceptionGroup(
                f"{len(self._failures)} of {len(self._failures) + len(self._results)} tenants failed",
                self._failures,
            )

        return self._results

    def _show(self) -> None:
        if not self._shows:
            return

        over = len(self._before) + len(self._results) + len(self._failures)
        line = f"{over} tenants"
        if self._total:
            filled = _WIDTH * over // max(self._total, over)
            line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {over}/{self._total}"

        failed = f", {len(self._failures)} failed" if self._failures else ""
        sys.stderr.write(f"\r{line}{failed}")
        sys.stderr.flush()


def _run_in_threads(
    run: Callable[[TenantContext], None], tenants: Iterator[TenantContext], concurrency: int
) -> None:
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(concurrency, "for_each_tenant") as threads:
        for tenant in tenants:
            running.add(threads.submit(copy_context().run, run, tenant))
            if len(running) == concurrency:
                over, running = wait(running, return_when=FIRST_COMPLETED)
                for future in over:
                    future.result()

        for future in running:
            future.result()


async def _aiterate(tenants: Iterable[Tenant] | AsyncIterable[Tenant]) -> AsyncIterator[Tenant]:
    if isinstance(tenants, AsyncIterable):
        async for tenant in tenants:
            yield tenant

    else:
        for tenant in tenants:
            yield tenant


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _noted(path: Path) -> set[TenantId]:
    if not path.exists():
        return set()

    noted = path.read_text(encoding="utf-8")
    if noted and not noted.endswith("\n"):
        # The process died while it wrote: that tenant runs again, on a line of its own.
        noted = noted[: noted.rfind("\n") + 1]
        path.write_text(noted, encoding="utf-8")

    return {_of_line(path, *numbered) for numbered in enumerate(noted.splitlines(), 1)}


def _of_line(path: Path, number: int, line: str) -> TenantId:
    try:
        return _read(json.loads(line))
    except (ValueError, TenancyError) as error:
        raise refused(
            ConfigurationError(
                f"Line {number} of the journal {str(path)!r} names no tenant. "
                "Remove the line, or the journal to begin anew."
            )
        ) from error


def _written(tenant: TenantId) -> dict[str, str]:
    if isinstance(tenant, uuid.UUID):
        return {"kind": "uuid", "tenant": str(tenant)}

    # Not str(): that of an Enum member is its name.
    if isinstance(tenant, int):
        return {"kind": "int", "tenant": int.__repr__(tenant)}

    return {"kind": "str", "tenant": str.__str__(tenant)}


def _read(job: Job) -> TenantId:
    kind, tenant = (
        (job.get("kind"), job.get("tenant")) if isinstance(job, Mapping) else (None, None)
    )
    if not (isinstance(kind, str) and kind in _KINDS and isinstance(tenant, str)):
        raise refused(MalformedTenantError("This is no tenant that capture() wrote."))

    try:
        return _KINDS[kind](tenant)
    except ValueError:
        raise refused(MalformedTenantError(f"A job's tenant is no {kind}.")) from None
