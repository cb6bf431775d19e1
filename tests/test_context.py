"""Whose turn it is, in blocks, functions, generators, tasks and threads."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import json
import logging
import pickle
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from typing import Any

import anyio
import anyio.to_thread
import pytest
from starlette.concurrency import run_in_threadpool

from partywall.context import (
    TenantContext,
    active_scope,
    atenant_scope,
    bind_tenant,
    current_tenant,
    entered,
    tenant_scope,
    try_current_tenant,
    unscoped,
)
from partywall.errors import (
    ConfigurationError,
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    UnknownTenantError,
    UnscopedStatementError,
)


def current() -> Any:
    context = try_current_tenant()
    return None if context is None else context.tenant_id


@pytest.fixture(autouse=True)
def _nothing_is_left_bound() -> Iterator[None]:
    assert active_scope() is None
    yield
    assert active_scope() is None


@pytest.mark.parametrize("tenant", ["acme", 7, 0, -1, uuid.UUID(int=7), "ACME", "a b"])
def test_a_scope_makes_any_id_current(tenant: Any) -> None:
    with tenant_scope(tenant) as context:
        assert context == TenantContext(tenant)
        assert current_tenant().tenant_id == tenant
        assert type(current_tenant().tenant_id) is type(tenant)

    assert current() is None


def test_a11_scopes_take_an_id_or_a_context() -> None:
    with tenant_scope(bind_tenant("acme", plan="gold")):
        assert current_tenant().metadata["plan"] == "gold"
        with tenant_scope("globex"):
            assert current_tenant() == TenantContext("globex")
            assert not current_tenant().metadata


async def test_a11_async_scopes_take_an_id_or_a_context() -> None:
    async with atenant_scope(bind_tenant("acme", plan="gold")) as context:
        assert context.metadata["plan"] == "gold"
        async with atenant_scope("globex"):
            assert current() == "globex"

        assert current() == "acme"


def test_no_tenant_is_an_error_that_names_the_way_out(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MissingTenantContextError, match="Wrap the call in 'with SessionScope"):
        current_tenant()

    assert [record.event for record in caplog.records] == ["refused"]  # type: ignore[attr-defined]
    assert try_current_tenant() is None


@pytest.mark.parametrize("tenant", ["", " ", "\t\n"])
def test_a_blank_tenant_is_refused(tenant: str) -> None:
    for scope in (tenant_scope, atenant_scope, bind_tenant):
        with pytest.raises(MalformedTenantError, match="cannot be blank"):
            scope(tenant)


@pytest.mark.parametrize(
    "tenant", [None, True, False, b"acme", 1.0, ["acme"], ("acme",), {"acme"}, object(), str]
)
def test_what_is_no_id_is_refused(tenant: Any) -> None:
    for scope in (tenant_scope, atenant_scope, bind_tenant):
        with pytest.raises(ConfigurationError, match="must be a str, an int or a UUID"):
            scope(tenant)


def test_a_coroutine_is_no_tenant_and_leaves_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    async def tenant() -> str:
        return "acme"

    with pytest.raises(ConfigurationError, match="await it first"):
        tenant_scope(tenant())  # type: ignore[arg-type]

    gc.collect()
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


def test_a_context_is_frozen_compares_by_tenant_and_can_be_pickled() -> None:
    context = bind_tenant("acme", plan="gold")
    with pytest.raises(AttributeError):
        context.tenant_id = "globex"  # type: ignore[misc]

    with pytest.raises(TypeError, match="item assignment"):
        context.metadata["plan"] = "free"  # type: ignore[index]

    assert context == bind_tenant("acme") != bind_tenant("globex")
    assert hash(context) == hash(bind_tenant("acme"))
    copy = pickle.loads(pickle.dumps(context))
    assert (copy, copy.metadata["plan"]) == (context, "gold")


def test_a23_the_inner_scope_wins_and_the_outer_returns() -> None:
    with tenant_scope("acme"):
        with pytest.raises(ZeroDivisionError), tenant_scope("globex"):
            assert current() == "globex"
            raise ZeroDivisionError

        assert current() == "acme"
        with tenant_scope("acme"), tenant_scope("globex"), tenant_scope("acme"):
            assert current() == "acme"

        assert current() == "acme"

    assert current() is None


async def test_a19_one_context_under_both_flavours() -> None:
    with tenant_scope("acme"):
        async with atenant_scope("globex"):
            assert current() == "globex"
            with tenant_scope("acme"):
                assert await asyncio.create_task(_acurrent()) == "acme"

        assert await _acurrent() == "acme"

    async with atenant_scope("globex"):
        assert current() == "globex"


async def _acurrent() -> Any:
    await asyncio.sleep(0)
    return current()


async def test_a20_a_thread_of_the_loop_has_the_tenant_a_bare_one_none() -> None:
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant):
            assert await asyncio.to_thread(current) == tenant
            assert await run_in_threadpool(current) == tenant
            assert await anyio.to_thread.run_sync(current) == tenant
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(1) as bare:
                assert await loop.run_in_executor(bare, current) is None
                with pytest.raises(MissingTenantContextError, match="No tenant is current"):
                    await loop.run_in_executor(bare, current_tenant)

    assert await asyncio.to_thread(current) is None


def test_a21_a_sync_scope_around_asyncio_run() -> None:
    with tenant_scope("acme"):
        assert asyncio.run(_acurrent()) == "acme"
        with tenant_scope("globex"):
            assert anyio.run(_acurrent) == "globex"

        assert current() == "acme"


async def test_a22_tasks_are_isolated_and_outlive_the_scope() -> None:
    async def seen(tenant: str) -> list[Any]:
        with tenant_scope(tenant):
            found = []
            for _ in range(20):
                await asyncio.sleep(0)
                found.append(current())

            return found

    tenants = ["acme", "globex"] * 10
    for tenant, found in zip(tenants, await asyncio.gather(*map(seen, tenants)), strict=True):
        assert set(found) == {tenant}

    async with asyncio.TaskGroup() as group:
        tasks = [(tenant, group.create_task(seen(tenant))) for tenant in tenants]

    assert all(set(task.result()) == {tenant} for tenant, task in tasks)

    go = asyncio.Event()

    async def later() -> Any:
        await go.wait()
        return current()

    with tenant_scope("acme"):
        task = asyncio.create_task(later())

    with tenant_scope("globex"):
        go.set()
        assert await task == "acme"


def test_threads_do_not_see_each_other() -> None:
    barrier = threading.Barrier(2)

    def seen(tenant: str) -> set[Any]:
        found = set()
        with tenant_scope(tenant):
            for _ in range(200):
                barrier.wait(timeout=10)
                found.add(current())

        found.add(current())
        return found

    with ThreadPoolExecutor(2) as threads:
        acme, globex = threads.map(seen, ["acme", "globex"])

    assert (acme, globex) == ({"acme", None}, {"globex", None})


def test_one_scope_object_serves_many_threads_and_nests_in_itself() -> None:
    acme, globex = tenant_scope("acme"), tenant_scope("globex")

    def seen(scope: Any) -> set[Any]:
        found = set()
        for _ in range(200):
            with scope, globex, scope:
                found.add(current())

        found.add(current())
        return found

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(seen, [acme, globex, acme, globex]))

    assert found == [{"acme", None}, {"globex", None}] * 2
    assert not acme._entered and not globex._entered


# Decorated functions


def test_a10_a_decorated_function_runs_inside() -> None:
    @tenant_scope("acme")
    def one(number: int, *, more: int = 0) -> tuple[int, Any]:
        """Kept."""
        return number + more, current()

    with tenant_scope("globex"):
        assert one(1, more=2) == (3, "acme")
        assert current() == "globex"

    assert (one.__name__, one.__doc__) == ("one", "Kept.")


@pytest.mark.parametrize("scope", [tenant_scope, atenant_scope])
async def test_a10_a_decorated_coroutine_function_runs_inside(
    scope: Callable[[str], Any],
) -> None:
    @scope("acme")
    async def one() -> Any:
        await asyncio.sleep(0)
        return current()

    @scope("globex")
    async def other() -> Any:
        return await one(), current()

    assert inspect.iscoroutinefunction(one)
    assert await asyncio.gather(one(), other(), one()) == ["acme", ("acme", "globex"), "acme"]


def test_an_async_scope_decorates_no_sync_function() -> None:
    with pytest.raises(TypeError, match="decorates async functions only.*use its sync version"):
        atenant_scope("acme")(current)


@pytest.mark.asyncio
async def test_a_decorated_object_whose_call_is_async_does_not_run_as_the_outer_tenant() -> None:
    class Job:
        async def __call__(self) -> object:
            return current_tenant().tenant_id

    with tenant_scope("globex"):
        assert await tenant_scope("acme")(Job())() == "acme"
        assert await atenant_scope("acme")(Job())() == "acme"
        assert current_tenant().tenant_id == "globex"


def test_a_decorated_object_whose_call_is_a_generator_does_not_run_as_the_outer_tenant() -> None:
    class Job:
        def __call__(self) -> Iterator[object]:
            yield current_tenant().tenant_id

    with tenant_scope("globex"):
        assert list(tenant_scope("acme")(Job())()) == ["acme"]
        assert current_tenant().tenant_id == "globex"


@pytest.mark.asyncio
async def test_a_scope_on_top_of_classmethod_and_staticmethod_binds_its_own_tenant() -> None:
    class Jobs:
        @tenant_scope("acme")
        @classmethod
        def of_class(cls) -> object:
            return cls, current_tenant().tenant_id

        @tenant_scope("acme")
        @staticmethod
        async def static() -> object:
            return current_tenant().tenant_id

    with tenant_scope("globex"):
        assert Jobs.of_class() == Jobs().of_class() == (Jobs, "acme")
        assert await Jobs.static() == await Jobs().static() == "acme"


def test_a_scope_decorates_nothing_that_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="decorates functions, and None is not one"):
        tenant_scope("acme")(None)  # type: ignore[type-var]


def test_a_decorated_generator_binds_while_its_own_body_runs() -> None:
    def body(tenant: str) -> Iterator[Any]:
        try:
            for _ in range(3):
                yield tenant, current()

        finally:
            closed.append((tenant, current()))

    closed: list[Any] = []
    acme = tenant_scope("acme")(body)
    globex = tenant_scope("globex")(body)
    assert inspect.isgeneratorfunction(acme)

    seen = []
    for one, other in zip(acme("acme"), globex("globex"), strict=True):
        seen += [one, other]
        assert current() is None

    assert seen == [("acme", "acme"), ("globex", "globex")] * 3
    assert closed == [("acme", "acme"), ("globex", "globex")]

    left = acme("acme")
    next(left)
    with tenant_scope("globex"):
        left.close()  # type: ignore[attr-defined]
        assert current() == "globex"

    assert closed[-1] == ("acme", "acme")


def test_a_decorated_generator_is_sent_to_thrown_into_and_returns() -> None:
    @tenant_scope("acme")
    def body() -> Any:
        seen = []
        while True:
            try:
                sent = yield current()
                seen.append((sent, current()))
                if sent is None:
                    return seen

            except ValueError as error:
                seen.append((str(error), current()))

    generator = body()
    assert next(generator) == "acme"
    assert generator.send(1) == "acme"
    assert generator.throw(ValueError("two")) == "acme"
    with pytest.raises(StopIteration) as stop:
        next(generator)

    assert stop.value.value == [(1, "acme"), ("two", "acme"), (None, "acme")]


@pytest.mark.parametrize("scope", [tenant_scope, atenant_scope])
async def test_a_decorated_async_generator_binds_while_its_own_body_runs(
    scope: Callable[[str], Any],
) -> None:
    closed: list[Any] = []

    async def body(tenant: str) -> AsyncIterator[Any]:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                yield tenant, current()

        finally:
            closed.append((tenant, current()))

    acme, globex = scope("acme")(body), scope("globex")(body)
    assert inspect.isasyncgenfunction(acme)

    one, other = acme("acme"), globex("globex")
    for _ in range(3):
        assert await anext(one) == ("acme", "acme")
        assert await anext(other) == ("globex", "globex")
        assert current() is None

    with tenant_scope("globex"):
        await one.aclose()

    await other.aclose()
    assert closed == [("acme", "acme"), ("globex", "globex")]


@pytest.mark.parametrize("scope", [tenant_scope, atenant_scope])
async def test_a_decorated_async_generator_is_sent_to_and_thrown_into(
    scope: Callable[[str], Any],
) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    @scope("acme")
    async def block() -> AsyncIterator[Any]:
        try:
            yield current()
        except ValueError as error:
            seen.append((str(error), current()))

    async with block() as tenant:
        assert (tenant, current()) == ("acme", None)
        raise ValueError("one")

    assert seen == [("one", "acme")]

    @scope("globex")
    async def echo() -> Any:
        sent = None
        while True:
            sent = yield sent, current()

    generator = echo()
    assert await anext(generator) == (None, "globex")
    assert await generator.asend(5) == (5, "globex")
    await generator.aclose()


def test_a_decorated_contextmanager() -> None:
    @contextmanager
    @tenant_scope("acme")
    def block() -> Iterator[Any]:
        yield current()

    with tenant_scope("globex"), block() as tenant:
        assert (tenant, current()) == ("acme", "globex")


def _logged(function: Any) -> Any:
    """A decorator as there are many: it is not async itself, whatever it decorates."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("between", [_logged, lambda function: lambda: function()])
async def test_a_scope_on_top_of_a_plain_wrapper_does_not_run_as_the_outer_tenant(
    between: Any,
) -> None:
    @tenant_scope("acme")
    @between
    async def coroutine() -> Any:
        await asyncio.sleep(0)
        return current()

    @tenant_scope("acme")
    @between
    def generator() -> Iterator[Any]:
        yield current()

    @tenant_scope("acme")
    @between
    async def async_generator() -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield current()

    with tenant_scope("globex"):
        assert await coroutine() == "acme"
        assert list(generator()) == ["acme"]
        assert [tenant async for tenant in async_generator()] == ["acme"]
        assert current() == "globex"


@pytest.mark.parametrize("between", [lambda function: function, _logged])
async def test_a_scope_on_top_of_contextmanager_binds_while_its_body_runs(between: Any) -> None:
    seen: list[Any] = []

    @tenant_scope("acme")
    @between
    @contextmanager
    def block() -> Iterator[Any]:
        yield current()
        seen.append(current())

    @tenant_scope("acme")
    @between
    @asynccontextmanager
    async def async_block() -> AsyncIterator[Any]:
        yield current()
        seen.append(current())

    with tenant_scope("globex"):
        with block() as tenant:
            assert (tenant, current()) == ("acme", "globex")

        async with async_block() as tenant:
            assert (tenant, current()) == ("acme", "globex")

        assert block()(current)() == "globex"

    assert seen == ["acme"] * 3


# Leaving where one did not enter


def test_a_scope_left_in_another_context_is_over_in_both() -> None:
    scope = tenant_scope("acme")
    here, there = contextvars.copy_context(), contextvars.copy_context()
    here.run(scope.__enter__)
    assert here.run(current) == "acme"
    there.run(scope.__exit__, None, None, None)
    assert (here.run(current), there.run(current)) == (None, None)
    assert not scope._entered


def test_a_scope_left_in_a_copy_of_its_context_is_over_in_both() -> None:
    scope = tenant_scope("acme")
    with tenant_scope("globex"):
        here = contextvars.copy_context()
        here.run(scope.__enter__)
        copy = here.copy()
        copy.run(scope.__exit__, None, None, None)
        assert (here.run(current), copy.run(current)) == ("globex", "globex")


def test_scopes_left_out_of_order_leave_nothing_behind() -> None:
    acme, globex = tenant_scope("acme"), tenant_scope("globex")
    acme.__enter__()
    globex.__enter__()
    acme.__exit__()
    assert current() == "globex"
    globex.__exit__()
    assert current() is None


def test_a_generator_left_open_over_a_scope_does_not_bring_its_tenant_back() -> None:
    def body() -> Iterator[None]:
        with tenant_scope("acme"):
            yield

    with tenant_scope("globex"):
        left = body()
        next(left)
        assert current() == "acme"

    left.close()  # type: ignore[attr-defined]
    assert current() is None


async def test_an_async_generator_closed_by_the_loop_leaves_nothing_bound() -> None:
    async def body() -> AsyncIterator[Any]:
        async with atenant_scope("acme"):
            yield current()

    async def reader() -> Any:
        async for tenant in body():
            return tenant

    assert await asyncio.create_task(reader()) == "acme"
    with tenant_scope("globex"):
        gc.collect()
        await asyncio.sleep(0.01)
        assert current() == "globex"

    async for _ in body():
        break

    gc.collect()
    await asyncio.sleep(0.01)
    assert current() is None


def test_a_scope_entered_in_one_thread_and_left_in_another() -> None:
    scope = tenant_scope("acme")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(scope.__enter__).result()
        assert one.submit(current).result() == "acme"
        other.submit(scope.__exit__).result()
        assert one.submit(current).result() is None
        assert other.submit(current).result() is None


def test_a_shared_scope_that_is_left_elsewhere_does_not_end_somebody_elses_tenant() -> None:
    shared = tenant_scope("acme")
    elsewhere = contextvars.copy_context()
    elsewhere.run(shared.__enter__)
    with tenant_scope("globex"), shared:
        with pytest.raises(RuntimeError, match="entered 2 times.*build one scope per block"):
            contextvars.Context().run(shared.__exit__)

        assert current() == "acme"

    elsewhere.run(shared.__exit__)
    assert (current(), elsewhere.run(current)) == (None, None)


def test_a_scope_that_was_never_entered_cannot_be_left() -> None:
    with tenant_scope("globex"):
        with pytest.raises(RuntimeError, match="entered 0 times and is left"):
            tenant_scope("acme").__exit__()

        assert current() == "globex"


def test_memory_does_not_grow_with_scopes_left_out_of_order() -> None:
    for _ in range(1000):
        acme, globex = tenant_scope("acme"), tenant_scope("globex")
        acme.__enter__()
        globex.__enter__()
        acme.__exit__()
        globex.__exit__()

    depth = 0
    from partywall.context import _current

    scope = _current.get()
    while scope is not None:
        scope, depth = scope.outer, depth + 1

    assert depth <= 2


async def test_memory_does_not_grow_with_callbacks_that_follow_themselves() -> None:
    loop = asyncio.get_running_loop()
    seen: list[tuple[Any, int]] = []
    done = loop.create_future()

    def poll() -> None:
        with tenant_scope("globex" if len(seen) % 2 else "acme") as context:
            scope, depth = entered(), 0
            while scope is not None:
                scope, depth = scope.outer, depth + 1

            seen.append((context.tenant_id, depth))
            loop.call_soon(poll) if len(seen) < 100 else done.set_result(None)

    poll()
    await done
    assert seen[-2:] == [("acme", 2), ("globex", 2)]


# Unscoped


def test_unscoped_hides_the_tenant_and_an_inner_scope_brings_one_back() -> None:
    with tenant_scope("acme"), unscoped("a report over all tenants"):
        assert current() is None
        with tenant_scope("globex"):
            assert current() == "globex"


def test_every_use_of_unscoped_is_logged_with_its_reason_and_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "partywall"), unscoped("nightly report", write=True):
        pass

    record = json.loads(json.dumps(vars(caplog.records[0]), default=str))
    assert (record["event"], record["reason"], record["write"]) == (
        "unscoped",
        "nightly report",
        True,
    )
    assert record["call_site"].startswith(__file__)


def test_an_unscoped_block_that_cannot_be_logged_is_not_entered() -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise OSError("the disk is full")

    log = logging.getLogger("partywall")
    log.addFilter(fail)
    try:
        with tenant_scope("acme"):
            with pytest.raises(OSError, match="the disk is full"), unscoped("nightly report"):
                pass

            assert current() == "acme"
    finally:
        log.removeFilter(fail)


@pytest.mark.parametrize("reason", ["", "  ", None, 3])
def test_unscoped_needs_a_reason(reason: Any) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        unscoped(reason)


def test_an_enum_of_strings_is_a_tenant() -> None:
    class Name(str, Enum):
        ACME = "acme"
        GLOBEX = "globex"

    with tenant_scope(Name.ACME), tenant_scope(Name.GLOBEX):
        assert current_tenant().tenant_id == "globex"
        assert f"{current_tenant().tenant_id}" == "globex"


# Errors

ERRORS = [
    ConfigurationError,
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    UnknownTenantError,
    UnscopedStatementError,
]


@pytest.mark.parametrize("kind", ERRORS)
def test_a27_an_error_has_details_and_can_be_pickled_and_told(kind: Any) -> None:
    error = kind(
        "This Note belongs to 'globex'.", model="Note", tenant="acme", number=uuid.UUID(int=7)
    )
    copy = pickle.loads(pickle.dumps(error))
    for one in (error, copy):
        assert isinstance(one, TenancyError)
        assert str(one) == "This Note belongs to 'globex'."
        assert one.details["tenant"] == "acme"
        assert json.loads(json.dumps(one.to_dict())) == {
            "error": kind.__name__,
            "message": "This Note belongs to 'globex'.",
            "model": "Note",
            "tenant": "acme",
            "number": str(uuid.UUID(int=7)),
        }


def test_a27_no_detail_stands_in_for_what_an_error_is() -> None:
    error = CrossTenantAccessError("This Note belongs to 'globex'.", error="none", message="fine")
    assert error.to_dict() == {
        "error": "CrossTenantAccessError",
        "message": "This Note belongs to 'globex'.",
    }


def test_a27_the_family_of_errors() -> None:
    assert issubclass(CrossTenantReferenceError, CrossTenantAccessError)
    assert issubclass(MalformedTenantError, ConfigurationError)
    assert "No tenant is current" in str(MissingTenantContextError())
    assert try_current_tenant() is None
    with pytest.raises(CrossTenantAccessError, match="globex"):
        raise CrossTenantReferenceError("globex")
