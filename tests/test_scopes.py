"""SessionScope and AsyncSessionScope: the tenant of a block, and its session."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Engine, insert
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import doors
from doors import Note, count, stored, texts
from partywall.context import (
    Scope,
    active_scope,
    atenant_scope,
    bind_tenant,
    current_tenant,
    tenant_scope,
    try_current_tenant,
)
from partywall.errors import ConfigurationError, MalformedTenantError, MissingTenantContextError
from partywall.scopes import (
    AsyncSessionScope,
    SessionScope,
    bind_async_session_to_tenant,
    bind_session_to_tenant,
)


@pytest.fixture(autouse=True)
def _nothing_is_left_bound() -> Iterator[None]:
    yield
    assert active_scope() is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = doors.filled(tmp_path)
    yield engine
    engine.dispose()


@pytest_asyncio.fixture
async def async_engine(engine: Engine, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async_engine = doors.async_engine(tmp_path)
    yield async_engine
    await async_engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def async_sessions(async_engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(async_engine)


def current() -> Any:
    context = try_current_tenant()
    return None if context is None else context.tenant_id


async def acurrent() -> Any:
    await asyncio.sleep(0)
    return current()


# The tenant


def test_a4_a_tenant_is_given_or_resolved(sessions: sessionmaker[Session]) -> None:
    for scope in (
        SessionScope("acme"),
        SessionScope(tenant="acme"),
        SessionScope(bind_tenant("acme")),
        SessionScope(resolve_tenant=lambda: "acme"),
        SessionScope(resolve_tenant=lambda: bind_tenant("acme")),
    ):
        with scope as context, sessions() as session:
            assert context is not None
            assert context.tenant_id == "acme"
            assert session.scalars(texts()).all() == doors.TEXTS["acme"]

    with SessionScope("globex"), sessions() as session:
        assert session.scalars(texts()).all() == doors.TEXTS["globex"]


def test_a4_the_resolver_is_asked_on_every_entry() -> None:
    tenants = iter(["acme", "globex", None])
    scope = SessionScope(resolve_tenant=lambda: next(tenants))
    found = []
    for _ in range(3):
        with scope as context:
            found.append(context and context.tenant_id)

    assert found == ["acme", "globex", None]


@pytest.mark.parametrize(
    "scope", [SessionScope(), SessionScope(resolve_tenant=lambda: None), SessionScope(None)]
)
def test_a5_with_no_tenant_nothing_is_bound_and_owned_rows_are_refused(
    scope: SessionScope[Any], sessions: sessionmaker[Session]
) -> None:
    with scope as context, sessions() as session:
        assert context is None
        assert session.query(doors.Tenant).count() == 2
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            session.scalars(texts()).all()

    with tenant_scope("acme"), scope:
        assert current() == "acme"


async def test_a5_the_same_async(async_sessions: async_sessionmaker[AsyncSession]) -> None:
    async def nobody() -> None:
        return None

    for scope in (
        AsyncSessionScope(),
        AsyncSessionScope(resolve_tenant=lambda: None),
        AsyncSessionScope(resolve_tenant=nobody),
    ):
        async with scope as context, async_sessions() as session:
            assert context is None
            with pytest.raises(MissingTenantContextError, match="No tenant is current"):
                await session.scalars(texts())

        async with atenant_scope("globex"), scope:
            assert current() == "globex"


@pytest.mark.parametrize("scope", [SessionScope, AsyncSessionScope])
@pytest.mark.parametrize("tenant", ["acme", "", 0])
def test_a6_a_tenant_and_a_resolver_are_one_too_many(scope: Any, tenant: Any) -> None:
    with pytest.raises(ValueError, match="not both"):
        scope(tenant, resolve_tenant=lambda: "globex")


@pytest.mark.parametrize("bind", [bind_session_to_tenant, bind_async_session_to_tenant])
@pytest.mark.parametrize("tenant", [None, "", "  "])
def test_a7_a9_binding_to_nobody_is_a_value_error(bind: Any, tenant: Any) -> None:
    with pytest.raises(ValueError, match="bound to a tenant, but got"):
        bind(tenant)


def test_a7_a_session_is_bound_to_its_tenant(sessions: sessionmaker[Session]) -> None:
    with bind_session_to_tenant("acme"), sessions() as session:
        assert session.scalars(texts()).all() == doors.TEXTS["acme"]

    with bind_session_to_tenant(tenant="globex"), sessions() as session:
        assert session.scalars(texts()).all() == doors.TEXTS["globex"]


async def test_a9_an_async_session_is_bound_to_its_tenant(
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    for tenant in ("acme", "globex"):
        async with bind_async_session_to_tenant(tenant), async_sessions() as session:
            assert (await session.scalars(texts())).all() == doors.TEXTS[tenant]


async def test_a8_an_async_scope_has_a_sync_or_async_resolver(
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    async def coroutine() -> str:
        await asyncio.sleep(0)
        return "acme"

    def future() -> asyncio.Future[str]:
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        result.set_result("acme")
        return result

    for resolver in (lambda: "acme", coroutine, future, lambda: asyncio.create_task(coroutine())):
        async with AsyncSessionScope(resolve_tenant=resolver) as context:
            assert context is not None
            async with async_sessions() as session:
                assert (await session.scalars(texts())).all() == doors.TEXTS["acme"]

    async with AsyncSessionScope("globex"), async_sessions() as session:
        assert (await session.scalars(texts())).all() == doors.TEXTS["globex"]


def test_a8_a_sync_scope_cannot_await_its_resolver() -> None:
    async def tenant() -> str:
        return "acme"

    with (
        pytest.raises(ConfigurationError, match=r"use AsyncSessionScope\(resolve_tenant"),
        SessionScope(resolve_tenant=tenant),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize("tenant", ["", " ", True, b"acme", object(), ["acme"]])
async def test_a_bad_tenant_is_refused_given_or_resolved(tenant: Any) -> None:
    for scope in (SessionScope, AsyncSessionScope):
        with pytest.raises(ConfigurationError, match="A tenant (cannot|must)"):
            scope(tenant)

    with (
        pytest.raises(ConfigurationError, match="A tenant (cannot|must)"),
        SessionScope(resolve_tenant=lambda: tenant),
    ):
        pass

    with pytest.raises(ConfigurationError, match="A tenant (cannot|must)"):
        async with AsyncSessionScope(resolve_tenant=lambda: tenant):
            pass

    assert issubclass(MalformedTenantError, ConfigurationError)


def test_a_failing_resolver_leaves_nothing_bound() -> None:
    with (
        pytest.raises(LookupError, match="no such key"),
        tenant_scope("globex"),
        SessionScope(resolve_tenant=_fail),
    ):
        pass


def _fail() -> Any:
    raise LookupError("no such key")


def test_a31_sync_and_async_signatures_are_the_same() -> None:
    for sync, twin in [
        (SessionScope, AsyncSessionScope),
        (tenant_scope, atenant_scope),
        (bind_session_to_tenant, bind_async_session_to_tenant),
    ]:
        one = inspect.signature(sync).parameters.values()
        other = inspect.signature(twin).parameters.values()
        assert [(p.name, p.kind, p.default) for p in one] == [
            (p.name, p.kind, p.default) for p in other
        ]

    assert str(inspect.signature(SessionScope)).replace("'", "").startswith("(tenant: ")
    names = list(inspect.signature(SessionScope).parameters)
    assert names == ["tenant", "resolve_tenant", "sessions"]


# Decorators

SYNC: list[Callable[[str], Any]] = [
    SessionScope,
    lambda tenant: SessionScope(resolve_tenant=lambda: tenant),
    bind_session_to_tenant,
    tenant_scope,
]
ASYNC: list[Callable[[str], Any]] = [
    AsyncSessionScope,
    lambda tenant: AsyncSessionScope(resolve_tenant=lambda: tenant),
    bind_async_session_to_tenant,
    atenant_scope,
]


@pytest.mark.parametrize("scope", SYNC)
def test_a10_each_scope_decorates_functions_and_generators(
    scope: Any, sessions: sessionmaker[Session]
) -> None:
    def read() -> Any:
        with sessions() as session:
            return session.scalars(texts()).all()

    def steps() -> Iterator[Any]:
        with sessions() as session:
            yield from session.scalars(texts())
            yield current()

    for tenant, rows in doors.TEXTS.items():
        assert scope(tenant)(read)() == rows
        assert list(scope(tenant)(steps)()) == [*rows, tenant]


@pytest.mark.parametrize("scope", SYNC + ASYNC)
async def test_a10_each_scope_decorates_coroutine_functions_and_async_generators(
    scope: Any, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    async def read() -> Any:
        async with async_sessions() as session:
            return (await session.scalars(texts())).all()

    async def steps() -> AsyncIterator[Any]:
        async with async_sessions() as session:
            async for text in await session.stream_scalars(texts()):
                yield text

    acme, globex = scope("acme"), scope("globex")
    assert await asyncio.gather(acme(read)(), globex(read)()) == list(doors.TEXTS.values())
    assert [text async for text in acme(steps)()] == doors.TEXTS["acme"]
    assert [text async for text in globex(steps)()] == doors.TEXTS["globex"]


@pytest.mark.parametrize("scope", ASYNC)
async def test_a10_the_async_ones_are_async_context_managers_and_no_sync_decorators(
    scope: Any,
) -> None:
    async with scope("acme"):
        async with scope("globex"):
            assert await acurrent() == "globex"

        assert await acurrent() == "acme"

    with pytest.raises(TypeError, match="decorates async functions only"):
        scope("acme")(current)


def test_a_decorated_function_resolves_its_tenant_at_each_call() -> None:
    tenants = iter(["acme", "globex"])
    read = SessionScope(resolve_tenant=lambda: next(tenants))(current)
    assert [read(), read()] == ["acme", "globex"]


# sessions=


def test_a_scope_with_sessions_commits_and_closes(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    for tenant in ("acme", "globex"):
        with SessionScope(tenant, sessions=sessions) as session:
            session.add(Note(text=f"new {tenant}"))
            assert session.in_transaction()

        assert not session.in_transaction()

    assert stored(engine) == {
        tenant: [*rows, f"new {tenant}"] for tenant, rows in doors.TEXTS.items()
    }


def test_a_scope_with_sessions_rolls_back_on_an_error(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with pytest.raises(ZeroDivisionError), SessionScope("acme", sessions=sessions) as session:
        session.add(Note(text="lost"))
        session.flush()
        raise ZeroDivisionError

    assert not session.in_transaction()
    assert stored(engine) == doors.TEXTS


def test_a_scope_with_sessions_and_no_tenant_serves_tables_that_are_not_owned(
    sessions: sessionmaker[Session],
) -> None:
    with SessionScope(sessions=sessions) as session:
        assert session.query(doors.Tenant).count() == 2

    with tenant_scope("acme"), SessionScope(sessions=sessions) as session:
        assert count(session) == 3

    with tenant_scope("globex"), SessionScope(sessions=sessions) as session:
        assert count(session) == 2


async def test_the_same_async(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    for tenant in ("acme", "globex"):
        async with AsyncSessionScope(tenant, sessions=async_sessions) as session:
            session.add(Note(text=f"new {tenant}"))

    with pytest.raises(ZeroDivisionError):
        async with AsyncSessionScope("acme", sessions=async_sessions) as session:
            session.add(Note(text="lost"))
            await session.flush()
            raise ZeroDivisionError

    assert not session.in_transaction()
    assert stored(engine) == {
        tenant: [*rows, f"new {tenant}"] for tenant, rows in doors.TEXTS.items()
    }


def test_a_decorated_function_receives_its_session(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    acme, globex = (SessionScope(name, sessions=sessions) for name in ("acme", "globex"))

    def add(text: str, *, session: Session) -> int:
        session.add(Note(text=text))
        return count(session)

    def fail(*, session: Session) -> None:
        session.add(Note(text="lost"))
        session.flush()
        raise LookupError("undo")

    class Worker:
        @acme
        def add(self, text: str, *, session: Session) -> None:
            session.add(Note(text=text))

    assert acme(add)("by function") == 4
    assert globex(add)("by function") == 3
    Worker().add("by method")  # type: ignore[call-arg]
    with pytest.raises(LookupError, match="undo"):
        acme(fail)()

    assert stored(engine) == {
        "acme": [*doors.TEXTS["acme"], "by function", "by method"],
        "globex": [*doors.TEXTS["globex"], "by function"],
    }


@pytest.mark.parametrize("kind", ["coroutine", "_GeneratorContextManager"])
def test_what_would_run_after_its_session_was_closed_is_refused(
    engine: Engine, sessions: sessionmaker[Session], kind: str
) -> None:
    async def add(session: Session) -> None:
        session.add(Note(text="never committed"))

    @contextmanager
    def adding(session: Session) -> Iterator[None]:
        session.add(Note(text="never committed"))
        yield

    found = {"coroutine": lambda session: add(session), "_GeneratorContextManager": adding}[kind]
    decorated = SessionScope("acme", sessions=sessions)(found)
    with pytest.raises(TypeError, match=f"returned a {kind}, which would outlive its session"):
        decorated()

    assert stored(engine) == doors.TEXTS


def test_a_decorated_generator_receives_its_session(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    def rows(*, session: Session) -> Iterator[str]:
        yield from session.scalars(texts())
        session.add(Note(text="last"))

    acme, globex = (SessionScope(name, sessions=sessions)(rows) for name in ("acme", "globex"))
    one, other = acme(), globex()
    seen = [next(one), next(other), next(one), next(other), *one]
    assert seen == ["acme 1", "globex 1", "acme 2", "globex 2", "acme 3"]
    other.close()
    assert stored(engine) == {**doors.TEXTS, "acme": [*doors.TEXTS["acme"], "last"]}


async def test_decorated_async_functions_receive_their_session(
    engine: Engine,
    sessions: sessionmaker[Session],
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    @AsyncSessionScope("acme", sessions=async_sessions)
    async def add(text: str, *, session: AsyncSession) -> None:
        session.add(Note(text=text))

    @AsyncSessionScope("globex", sessions=async_sessions)
    async def rows(*, session: AsyncSession) -> AsyncIterator[str]:
        try:
            async for text in await session.stream_scalars(texts()):
                yield text

        except ValueError:
            session.add(Note(text="caught"))

    @SessionScope("acme", sessions=sessions)
    async def with_a_sync_session(*, session: Session) -> int:
        await asyncio.sleep(0)
        return count(session)

    await add("async")  # type: ignore[call-arg]
    assert await with_a_sync_session() == 4  # type: ignore[call-arg]
    assert [text async for text in rows()] == doors.TEXTS["globex"]  # type: ignore[call-arg]
    left = rows()  # type: ignore[call-arg]
    assert await anext(left) == "globex 1"
    with pytest.raises(StopAsyncIteration):
        await left.athrow(ValueError("thrown in"))  # type: ignore[attr-defined]

    assert stored(engine) == {
        "acme": [*doors.TEXTS["acme"], "async"],
        "globex": [*doors.TEXTS["globex"], "caught"],
    }


async def test_the_wrong_kind_of_session_is_named_and_nothing_is_left_bound(
    sessions: sessionmaker[Session], async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    with (
        pytest.raises(TypeError, match="use AsyncSessionScope for an async_sessionmaker"),
        SessionScope("acme", sessions=async_sessions),  # type: ignore[type-var]
    ):
        pass

    assert active_scope() is None
    with pytest.raises(TypeError, match="use SessionScope for a sessionmaker"):
        async with AsyncSessionScope("globex", sessions=sessions):  # type: ignore[type-var]
            pass

    assert active_scope() is None


def test_the_transaction_ends_inside_the_tenant_wherever_the_scope_is_left(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    scopes = {name: SessionScope(name, sessions=sessions) for name in ("acme", "globex")}
    for name, scope in scopes.items():
        session = contextvars.copy_context().run(scope.__enter__)
        session.add(Note(text=f"flushed on leaving {name}"))
        with tenant_scope("initech"):
            contextvars.copy_context().run(scope.__exit__, None, None, None)

    assert stored(engine) == {
        name: [*rows, f"flushed on leaving {name}"] for name, rows in doors.TEXTS.items()
    }


async def test_an_async_transaction_ends_inside_the_tenant_wherever_it_is_left(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    scopes = {name: AsyncSessionScope(name, sessions=async_sessions) for name in doors.TEXTS}
    for name, scope in scopes.items():
        session = await asyncio.create_task(scope.__aenter__())
        session.add(Note(text=f"flushed on leaving {name}"))
        await asyncio.create_task(scope.__aexit__(None, None, None))

    assert stored(engine) == {
        name: [*rows, f"flushed on leaving {name}"] for name, rows in doors.TEXTS.items()
    }


def test_a_shared_scope_that_is_left_elsewhere_does_not_end_somebody_elses_session(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    tenants = iter(["acme", "globex"])
    scope = SessionScope(resolve_tenant=lambda: next(tenants), sessions=sessions)
    acme, globex = contextvars.copy_context(), contextvars.copy_context()
    session = acme.run(scope.__enter__)
    globex.run(scope.__enter__)
    session.add(Note(text="half done"))
    with pytest.raises(RuntimeError, match="entered 2 times.*build one scope per block"):
        contextvars.Context().run(scope.__exit__, None, None, None)

    globex.run(scope.__exit__, None, None, None)
    acme.run(scope.__exit__, ValueError, ValueError("undo"), None)
    assert stored(engine) == doors.TEXTS


@pytest.mark.parametrize("tenant", ["acme", None])
def test_a_scope_with_sessions_leaves_nothing_to_the_garbage_collector(
    sessions: sessionmaker[Session], tenant: Any
) -> None:
    def work() -> None:
        with tenant_scope("globex"), SessionScope(tenant, sessions=sessions) as session:
            list(session.scalars(texts()))

    def alive() -> int:
        return sum(isinstance(one, Scope) for one in gc.get_objects())

    work()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        work()
        assert alive() == before
    finally:
        gc.enable()


def test_one_scope_with_sessions_serves_many_threads(sessions: sessionmaker[Session]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    scope = SessionScope(resolve_tenant=tenant.get, sessions=sessions)

    def read(name: str) -> Any:
        tenant.set(name)
        with scope as session:
            return name, list(session.scalars(texts()))

    with ThreadPoolExecutor(4) as threads:
        for name, rows in threads.map(read, ["acme", "globex"] * 25):
            assert rows == doors.TEXTS[name]


async def test_a_cancelled_task_rolls_back_inside_its_tenant(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with AsyncSessionScope("acme", sessions=async_sessions) as session:
            session.add(Note(text="lost"))
            await session.flush()
            started.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert stored(engine) == doors.TEXTS


async def test_an_abandoned_async_generator_rolls_back_and_leaves_nothing_bound(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    async def body() -> AsyncIterator[None]:
        async with AsyncSessionScope("acme", sessions=async_sessions) as session:
            session.add(Note(text="lost"))
            await session.flush()
            yield

    async def reader() -> None:
        async for _ in body():
            return

    await asyncio.create_task(reader())
    gc.collect()
    await asyncio.sleep(0.05)
    assert stored(engine) == doors.TEXTS


# With what SQLAlchemy offers


async def test_a12_custom_sync_sessions_scoped_sessions_and_run_sync(
    async_engine: AsyncEngine,
) -> None:
    """E8"""

    class Custom(Session):
        pass

    custom = async_sessionmaker(async_engine, sync_session_class=Custom)
    scoped = async_scoped_session(custom, scopefunc=asyncio.current_task)
    for tenant, rows in doors.TEXTS.items():
        async with AsyncSessionScope(tenant, sessions=custom) as session:
            assert type(session.sync_session) is Custom
            assert (await session.scalars(texts())).all() == rows
            assert await session.run_sync(count) == len(rows)

        async with atenant_scope(tenant):
            assert (await scoped.scalars(texts())).all() == rows
            await scoped.remove()
            async with async_engine.connect() as connection:
                assert await _through_run_sync(connection) == rows


async def _through_run_sync(connection: AsyncConnection) -> Any:
    return await connection.run_sync(lambda sync: list(sync.scalars(texts())))


async def test_a13_every_way_to_ask_an_async_session(
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    foreign = {"acme": 4, "globex": 1}
    own = {"acme": 1, "globex": 4}
    for tenant, rows in doors.TEXTS.items():
        async with AsyncSessionScope(tenant, sessions=async_sessions) as session:
            assert (await session.execute(texts())).scalars().all() == rows
            assert (await session.scalars(texts())).all() == rows
            assert await session.scalar(texts()) == rows[0]
            assert await session.get(Note, foreign[tenant]) is None
            note = await session.get(Note, own[tenant])
            assert note is not None
            await session.refresh(note)
            assert note.text == rows[0]
            assert [row.text async for row in await session.stream(texts())] == rows
            assert [text async for text in await session.stream_scalars(texts())] == rows
            merged = await session.merge(Note(id=own[tenant], text=rows[0]))
            assert merged is note


async def test_a14_flush_commit_autoflush_and_savepoints_stamp_the_tenant(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    for tenant in doors.TEXTS:
        async with AsyncSessionScope(tenant), async_sessions() as session:
            flushed = Note(text="flush")
            session.add(flushed)
            await session.flush()
            assert flushed.tenant_id == tenant
            session.add(Note(text="autoflush"))
            assert (await session.scalars(texts())).all()[-1] == "autoflush"
            async with session.begin_nested():
                session.add(Note(text="savepoint"))

            session.add(Note(text="commit"))
            await session.commit()

    new = ["flush", "autoflush", "savepoint", "commit"]
    assert stored(engine) == {tenant: [*rows, *new] for tenant, rows in doors.TEXTS.items()}


async def test_a24_both_kinds_of_async_factories(async_engine: AsyncEngine) -> None:
    """E8"""
    factories: list[Any] = [
        async_sessionmaker(async_engine),
        sessionmaker(async_engine, class_=AsyncSession),  # type: ignore[call-overload]
    ]
    for factory in factories:
        for tenant, rows in doors.TEXTS.items():
            async with AsyncSessionScope(tenant, sessions=factory) as session:
                assert (await session.scalars(texts())).all() == rows


async def test_a25_sync_and_async_sessions_side_by_side(
    sessions: sessionmaker[Session], async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    for tenant, rows in doors.TEXTS.items():
        async with AsyncSessionScope(tenant, sessions=async_sessions) as one:
            with SessionScope(sessions=sessions) as other:
                assert (await one.scalars(texts())).all() == other.scalars(texts()).all() == rows


def test_a35_any_session_class(engine: Engine) -> None:
    """E8: nothing is installed on any of them."""

    class Custom(Session):
        pass

    factories: list[Any] = [
        lambda: Session(engine),
        lambda: Custom(engine),
        sessionmaker(engine, class_=Custom),
        scoped_session(sessionmaker(engine)),
    ]
    for factory in factories:
        for tenant, rows in doors.TEXTS.items():
            with SessionScope(tenant, sessions=factory) as session:
                assert session.scalars(texts()).all() == rows
                session.execute(insert(Note).values(text="lost"))
                session.rollback()


def test_ids_of_every_type_reach_the_scope() -> None:
    for tenant in ("acme", 7, uuid.UUID(int=7)):
        with SessionScope(tenant), SessionScope(resolve_tenant=lambda tenant=tenant: tenant):  # type: ignore[misc]
            assert current_tenant().tenant_id == tenant


def test_a26_the_names_of_the_design_stand_at_the_top_level() -> None:
    import partywall

    names = [
        "tenant_aware",
        "tenant_table",
        "bind_tenant",
        "current_tenant",
        "try_current_tenant",
        "tenant_scope",
        "atenant_scope",
        "SessionScope",
        "AsyncSessionScope",
        "bind_session_to_tenant",
        "bind_async_session_to_tenant",
        "unscoped",
        "tenant_text",
        "explain",
        "TenantSessionMiddleware",
        "TenantSessionMiddlewareWSGI",
        "TenantContext",
        "TenancyError",
        "MissingTenantContextError",
        "CrossTenantAccessError",
        "CrossTenantReferenceError",
        "UnscopedStatementError",
        "ConfigurationError",
    ]
    assert set(names) <= set(partywall.__all__)
    assert all(hasattr(partywall, name) for name in partywall.__all__)
