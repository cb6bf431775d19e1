"""What applications test with: the pytest plugin, `sees_only` and `from_outside`.

Two tenants with the same titles. Where an assertion must fail, the foreign row is really there.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Self

import anyio.pytest_plugin  # noqa: F401  pytester forgets what a run inside it imports first
import hypothesis  # noqa: F401
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, ForeignKey, String, Uuid, create_engine, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    load_only,
    mapped_column,
    relationship,
    sessionmaker,
)
from sqlalchemy.pool import StaticPool

import databases
from partywall import (
    MissingTenantContextError,
    SessionScope,
    TenantSessionMiddleware,
    atenant_scope,
    bind_tenant,
    tenant_aware,
    tenant_scope,
    tenant_text,
    try_current_tenant,
    unscoped,
)
from partywall.context import active_scope
from partywall.resolvers import header
from partywall.testing import from_outside, sees_only
from partywall.wall import Wall

pytest_plugins = ["pytester"]
QUIET = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")

FOUND = any(point.value == "partywall.testing" for point in entry_points(group="pytest11"))
PLUGIN = () if FOUND else ("-p", "partywall.testing")
TITLES = ("Emma", "Ulysses")


class Base(DeclarativeBase):
    pass


@tenant_aware
class Book(Base):
    __tablename__ = "testing_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(40))
    pages: Mapped[list[Page]] = relationship(back_populates="book")


@tenant_aware(through="book")
class Page(Base):
    __tablename__ = "testing_page"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("testing_book.id"))
    number: Mapped[int]
    book: Mapped[Book] = relationship(back_populates="pages")


@tenant_aware(shared=True)
class Genre(Base):
    __tablename__ = "testing_genre"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(40))


@tenant_aware
class Member(Base):
    __tablename__ = "testing_member"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[uuid.UUID] = mapped_column(Uuid)


class Reader(Base):
    """Not owned."""

    __tablename__ = "testing_reader"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


def fill(session: Session) -> None:
    session.add_all(Book(title=title, pages=[Page(number=1)]) for title in TITLES)
    session.add(Genre(name="own"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    # Not in memory: threads could not have a connection each.
    engine = create_engine(f"sqlite:///{tmp_path / 'testing.db'}")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    for tenant in ["acme", "globex"]:
        with SessionScope(tenant, sessions=sessions) as session:
            fill(session)

    with unscoped("rows of nobody", write=True), sessions.begin() as session:
        session.add_all([Genre(name="everyone's"), Reader(name="Ada")])

    yield engine
    engine.dispose()
    assert active_scope() is None


@pytest.fixture
def no_wall(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    """From here on the wall adds no condition: what it should have kept out comes in."""
    monkeypatch.setattr(Wall, "_guarding", lambda *_: [])


def fails(*said: str) -> Any:
    return pytest.raises(AssertionError, match="(?s)" + ".*".join(["does not hold:", *said]))


# sees_only: what passes


@pytest.mark.parametrize(
    "statement",
    [
        select(Book),
        select(Book.title),
        select(Book.tenant_id, func.count()).group_by(Book.tenant_id),
        select(func.count()).select_from(Book),
        select(Page).join(Page.book),
        select(aliased(Book)),
        select(Genre),
        select(Reader),
        tenant_text("SELECT title FROM testing_book WHERE tenant_id = :tenant"),
        update(Book).values(title="new").returning(Book),
    ],
    ids=str,
)
def test_the_tenants_own_rows_pass(engine: Engine, statement: Any) -> None:
    for tenant in ["acme", "globex"]:
        with sees_only(tenant), tenant_scope(tenant), Session(engine) as session:
            assert session.execute(statement).all()


def test_what_needs_no_tenant_passes(engine: Engine) -> None:
    with sees_only("acme"), Session(engine) as session:
        assert session.scalars(select(Reader.name)).all() == ["Ada"]
        with unscoped("a look at public rows"):
            assert session.scalars(select(Reader.name)).all() == ["Ada"]


def test_the_tenants_row_found_unscoped_passes(engine: Engine) -> None:
    with sees_only("acme"), unscoped("whose key is this"), Session(engine) as session:
        assert session.get(Book, 1).tenant_id == "acme"


# sees_only: what fails


def _shown(statement: Any) -> Any:
    def block(engine: Engine) -> None:
        with Session(engine) as session:
            session.execute(statement).all()

    return block


CARRYING = {
    "an entity": select(Book),
    "columns": select(Book.__table__.c.tenant_id, Book.__table__.c.title),
    "an alias": select(aliased(Book)),
    "a subquery": select(select(Book).subquery()),
    "a label": select(Book.tenant_id.label("whose")),
    "the other side of a join": select(Page, Book).join(Page.book),
    "a set operation": select(Book.tenant_id).union_all(select(Book.tenant_id)),
    "a changed row": update(Book).values(title="new").returning(Book),
}
BARE = {
    "a count": select(func.count()).select_from(Book),
    "a column": select(Book.title),
    "a part of an entity": select(Book).options(load_only(Book.title)),
    "a row that belongs through another": select(Page),
    "text": text("SELECT title FROM testing_book"),
}


@pytest.mark.parametrize("statement", CARRYING.values(), ids=CARRYING)
def test_a_foreign_row_that_passes_the_wall_fails_the_test(
    engine: Engine, no_wall: None, statement: Any
) -> None:
    with fails("a row of 'globex', by "), sees_only("acme"), tenant_scope("acme"):
        _shown(statement)(engine)


@pytest.mark.parametrize("statement", [*CARRYING.values(), *BARE.values()], ids=[*CARRYING, *BARE])
def test_a_row_seen_unscoped_fails_the_test(engine: Engine, statement: Any) -> None:
    said = r"globex|read in unscoped\('report'\)"
    with fails(said), sees_only("acme"), unscoped("report", write=True):
        _shown(statement)(engine)


@pytest.mark.parametrize("statement", [*CARRYING.values(), *list(BARE.values())[:-1]])
def test_a_row_seen_as_another_tenant_fails_the_test(engine: Engine, statement: Any) -> None:
    with fails("globex'?, by (SELECT|UPDATE)"), sees_only("acme"), tenant_scope("globex"):
        _shown(statement)(engine)


def test_each_finding_is_told_once_and_without_row_data(engine: Engine) -> None:
    with pytest.raises(AssertionError) as caught, sees_only("acme"), tenant_scope("globex"):
        _shown(select(Book).where(Book.title == "Emma"))(engine)
        _shown(select(Book).where(Book.title == "Ulysses"))(engine)

    assert str(caught.value).startswith(
        "sees_only('acme') does not hold:\n- a row of 'globex', by SELECT testing_book.id, "
    )
    assert str(caught.value).count("a row of") == 1
    assert "Emma" not in str(caught.value)


def test_a_foreign_row_is_told_even_if_the_block_raises(engine: Engine) -> None:
    with fails("a row of 'globex'") as caught, sees_only("acme"), tenant_scope("globex"):
        _shown(select(Book))(engine)
        raise ZeroDivisionError

    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_an_error_in_a_block_that_saw_nothing_foreign_is_its_own(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError, match="mine"), sees_only("acme"), tenant_scope("acme"):
        _shown(select(Book))(engine)
        raise ZeroDivisionError("mine")


def test_a_block_is_not_blamed_for_what_an_earlier_one_saw(engine: Engine) -> None:
    acme_alone = sees_only("acme")
    with fails("a row of 'globex'"), acme_alone:
        _as_globex(engine)

    with acme_alone, tenant_scope("acme"), Session(engine) as session:
        assert session.scalars(select(Book)).all()


def test_after_the_block_nobody_looks(engine: Engine) -> None:
    with sees_only("acme"):
        pass

    with tenant_scope("globex"):
        _shown(select(Book))(engine)


def test_a_tenant_that_is_not_text_is_compared_as_its_column_holds_it(engine: Engine) -> None:
    acme, globex = uuid.uuid4(), uuid.uuid4()
    for tenant in (acme, globex):
        with tenant_scope(tenant), Session(engine) as session, session.begin():
            session.add(Member())

    for own in (acme, str(acme), bind_tenant(acme.hex)):
        with sees_only(own), tenant_scope(acme):
            _shown(select(Member))(engine)

        with fails(f"a row of UUID\\('{globex}'\\)"), sees_only(own), tenant_scope(globex):
            _shown(select(Member))(engine)

    with fails("a row of UUID"), sees_only("acme"), unscoped("report"):
        _shown(select(Member))(engine)


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_a_scope_that_is_not_left_fails_the_test(tenant: str) -> None:
    said = f"a scope was not left: what follows would run for '{tenant}'"
    with fails(said), sees_only("acme"):
        tenant_scope(tenant).__enter__()

    assert try_current_tenant() is None
    with tenant_scope("acme"), sees_only("acme"), tenant_scope("acme"):
        pass

    with tenant_scope("globex"):
        with fails(said), sees_only("acme"):
            tenant_scope(tenant).__enter__()

        assert try_current_tenant() == bind_tenant("globex")


@pytest.mark.parametrize("assertion", [sees_only("acme"), from_outside()])
def test_an_assertion_is_no_decorator(assertion: Any) -> None:
    with pytest.raises(TypeError, match="not callable"):
        assertion(print)


# sees_only: threads, tasks and drivers


def _as_globex(engine: Engine) -> None:
    with tenant_scope("globex"):
        _shown(select(Book))(engine)


def test_a_thread_is_watched_too(engine: Engine) -> None:
    with fails("a row of 'globex'"), sees_only("acme"):
        thread = threading.Thread(target=_as_globex, args=(engine,))
        thread.start()
        thread.join()

    with ThreadPoolExecutor(1) as executor:
        executor.submit(_as_globex, engine).result()
        with fails("a row of 'globex'"), sees_only("acme"):
            executor.submit(_as_globex, engine).result()


async def test_what_runs_in_a_thread_of_a_task_is_watched_too(engine: Engine) -> None:
    with fails("a row of 'globex'"), sees_only("acme"):
        await asyncio.to_thread(_as_globex, engine)


async def test_blocks_of_two_tenants_at_once_do_not_judge_each_other(engine: Engine) -> None:
    ready = asyncio.Barrier(2)

    async def look(tenant: str, expected: str) -> str | None:
        try:
            with sees_only(expected):
                await ready.wait()
                async with atenant_scope(tenant):
                    await asyncio.to_thread(_shown(select(Book)), engine)

                await ready.wait()
        except AssertionError as error:
            return str(error)

        return None

    assert await asyncio.gather(look("acme", "acme"), look("globex", "globex")) == [None, None]
    first, second = await asyncio.gather(look("acme", "acme"), look("acme", "globex"))
    assert first is None
    assert second is not None and "a row of 'acme'" in second


@pytest.fixture(params=databases.DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


@pytest.fixture
async def place(driver: str) -> AsyncIterator[Any]:
    kind, url, is_async = databases.DRIVERS[driver]
    server = databases.server(kind)
    name = f"partywall_{os.getpid()}_testing"
    if name not in databases._created[kind]:
        server.create(name)
        databases._created[kind].append(name)

    make: Any = create_async_engine if is_async else create_engine
    engine = make(server.url(url, name))
    async with _session(engine) as session:
        await session.run(lambda sync: Base.metadata.drop_all(sync.connection()))
        await session.run(lambda sync: Base.metadata.create_all(sync.connection()))
        await session.run(lambda sync: sync.commit())

    for tenant in ["acme", "globex"]:
        with tenant_scope(tenant):
            async with _session(engine) as session:
                await session.run(lambda sync: (fill(sync), sync.commit()))

    yield engine
    await _maybe(engine.dispose())


async def _maybe(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


class _session:
    """A session of either flavour; `run` does sync work in it."""

    def __init__(self, engine: Any) -> None:
        is_async = hasattr(engine, "sync_engine")
        self.session: Any = AsyncSession(engine) if is_async else Session(engine)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await _maybe(self.session.close())

    async def run(self, work: Any) -> Any:
        if isinstance(self.session, AsyncSession):
            return await self.session.run_sync(work)

        return work(self.session)


def _all(session: Session) -> Any:
    return session.scalars(select(Book)).all()


def _streamed(session: Session) -> Any:
    return list(session.scalars(select(Book), execution_options={"yield_per": 1}))


def _one_by_one(session: Session) -> Any:
    result = session.execute(select(Book.tenant_id, Book.title))
    return list(iter(result.fetchone, None))


@pytest.mark.parametrize("fetch", [_all, _streamed, _one_by_one])
async def test_rows_are_seen_on_every_driver(place: Any, fetch: Any) -> None:
    with sees_only("acme"), tenant_scope("acme"):
        async with _session(place) as session:
            assert len(await session.run(fetch)) == 2

    with fails("a row of 'globex'"), sees_only("acme"), tenant_scope("globex"):
        async with _session(place) as session:
            assert len(await session.run(fetch)) == 2


async def test_an_async_stream_is_watched() -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    for tenant in ["acme", "globex"]:
        async with atenant_scope(tenant), AsyncSession(engine) as session, session.begin():
            fill(session)

    async def streamed(tenant: str) -> int:
        async with atenant_scope(tenant), AsyncSession(engine) as session:
            return len([book async for book in await session.stream_scalars(select(Book))])

    with sees_only("acme"):
        assert await streamed("acme") == 2

    with fails("a row of 'globex'"), sees_only("acme"):
        await streamed("globex")

    await engine.dispose()


# from_outside


def application(engine: Engine, *, walled: bool) -> FastAPI:
    app = FastAPI()

    async def titles() -> list[str]:
        with Session(engine) as session:
            return list(session.scalars(select(Book.title)))

    def titles_in_a_thread() -> list[str]:
        with Session(engine) as session:
            return list(session.scalars(select(Book.title)))

    app.get("/titles")(titles)
    app.get("/threaded")(titles_in_a_thread)
    if walled:
        app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))

    return app


PATHS = pytest.mark.parametrize("path", ["/titles", "/threaded"])


@PATHS
def test_an_application_that_leans_on_the_tests_tenant_is_found(engine: Engine, path: str) -> None:
    client = TestClient(application(engine, walled=False), raise_server_exceptions=False)
    with tenant_scope("acme"):
        assert client.get(path).json() == [*TITLES], "which is why the check is there"
        said = pytest.raises(AssertionError, match="would have used the test's, 'acme'")
        with said, from_outside():
            assert client.get(path).status_code == 500

        assert try_current_tenant() == bind_tenant("acme")


@PATHS
def test_an_application_that_finds_its_own_tenant_passes(engine: Engine, path: str) -> None:
    client = TestClient(application(engine, walled=True))
    with tenant_scope("acme"), from_outside(), sees_only("globex"):
        assert client.get(path, headers={"x-tenant": "globex"}).json() == [*TITLES]
        assert try_current_tenant() is None


@PATHS
def test_the_answer_400_is_found_too(engine: Engine, path: str) -> None:
    client = TestClient(application(engine, walled=True))
    said = pytest.raises(AssertionError, match="brought no tenant of its own")
    with tenant_scope("acme"), said, from_outside():
        assert client.get(path).status_code == 400


def test_a_test_without_a_tenant_has_nothing_to_lean_on(engine: Engine) -> None:
    client = TestClient(application(engine, walled=True))
    with from_outside():
        assert client.get("/titles").status_code == 400

    with pytest.raises(MissingTenantContextError, match="No tenant"), from_outside():
        _shown(select(Book))(engine)


def test_an_error_that_leaves_the_block_is_found_too(engine: Engine) -> None:
    said = pytest.raises(AssertionError, match="would have used the test's, 'acme'")
    with tenant_scope("acme"), said as caught, from_outside():
        _shown(select(Book))(engine)

    assert isinstance(caught.value.__context__, MissingTenantContextError)


def test_other_errors_leave_the_block_as_they_are() -> None:
    with tenant_scope("acme"):
        with pytest.raises(ZeroDivisionError, match="mine"), from_outside():
            raise ZeroDivisionError("mine")

        assert try_current_tenant() == bind_tenant("acme")


async def test_a_refusal_elsewhere_is_not_the_blocks(engine: Engine) -> None:
    inside, refused = asyncio.Event(), asyncio.Event()

    async def request() -> None:
        async with atenant_scope("acme"):
            with from_outside():
                inside.set()
                await refused.wait()

    async def other() -> None:
        await inside.wait()
        with pytest.raises(MissingTenantContextError, match="No tenant"):
            _shown(select(Book))(engine)

        refused.set()

    await asyncio.gather(request(), other())


# The plugin

SHOP = """
    from sqlalchemy import String, create_engine, delete, func, select
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
    from sqlalchemy.pool import StaticPool

    from partywall import *


    class Base(DeclarativeBase):
        pass


    @tenant_aware
    class Item(Base):
        __tablename__ = "plugin_item"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        name: Mapped[str] = mapped_column(String(40))


    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    names = select(Item.name)


    def seed(tenant):
        with SessionScope(tenant, sessions=sessions) as session:
            session.execute(delete(Item))
            session.add(Item(name=f"{tenant}'s"))


    def current():
        found = try_current_tenant()
        return found and found.tenant_id
"""
CONFTEST = """
    import pytest
    import shop

    @pytest.fixture
    def seed_tenants(tenant_ids):
        for tenant in tenant_ids:
            shop.seed(tenant)
"""
ASYNC_CONFTEST = """
    import pytest
    import pytest_asyncio
    from shop import *

    @{fixture}
    async def async_sessions():
        engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        yield async_sessionmaker(engine)
        await engine.dispose()

    @{fixture}
    async def seed_tenants(tenant_ids, async_sessions):
        for tenant in tenant_ids:
            async with AsyncSessionScope(tenant, sessions=async_sessions) as session:
                session.add(Item(name=f"{{tenant}}'s"))
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Any:
    pytester.makepyfile(shop=SHOP)
    pytester.syspathinsert()

    def run(source: str, *options: str, conftest: str = CONFTEST, **outcomes: int) -> Any:
        pytester.makeconftest(conftest)
        pytester.makepyfile(
            test_shop="import pytest\nfrom shop import *\n" + textwrap.dedent(source)
        )
        result = pytester.runpytest_inprocess(*QUIET, *PLUGIN, *options)
        result.assert_outcomes(**outcomes)
        return result.stdout

    return run


def test_a_test_gets_two_seeded_tenants(run: Any) -> None:
    run(
        """
        def test_rows(two_tenants):
            assert two_tenants == ("acme", "globex")
            for tenant in two_tenants:
                with SessionScope(tenant, sessions=sessions) as session:
                    assert session.scalars(names).all() == [f"{tenant}'s"]

            assert current() is None
        """,
        passed=1,
    )


def test_the_tenants_are_those_of_the_application(run: Any) -> None:
    run(
        """
        @pytest.fixture(scope="session")
        def tenant_ids():
            return 7, 8

        def test_rows(two_tenants):
            seven, eight = two_tenants
            with SessionScope(seven, sessions=sessions) as session:
                assert session.scalars(names).all() == ["7's"]
        """,
        passed=1,
    )


def test_without_rows_it_says_what_to_write(run: Any) -> None:
    output = run("def test_rows(two_tenants): pass", conftest="", errors=1)

    output.fnmatch_lines(["two_tenants needs rows. Write a fixture 'seed_tenants'*"])


ASYNC_TEST = """
    {mark}
    async def test_rows(two_tenants, async_sessions):
        for tenant in two_tenants:
            async with AsyncSessionScope(tenant, sessions=async_sessions) as session:
                assert (await session.scalars(names)).all() == [f"{{tenant}}'s"]

    {mark}
    @pytest.mark.tenant("globex")
    async def test_marked(two_tenants, async_sessions):
        async with async_sessions() as session:
            assert (await session.scalars(names)).all() == ["globex's"]
"""
FLAVOURS = {
    "auto": ("pytest.fixture", "", ["-o", "asyncio_mode=auto"]),
    "strict": ("pytest_asyncio.fixture", "@pytest.mark.asyncio", ["-o", "asyncio_mode=strict"]),
    "session loop": (
        "pytest_asyncio.fixture(loop_scope='session')",
        "@pytest.mark.asyncio(loop_scope='session')",
        ["-o", "asyncio_mode=strict"],
    ),
    "anyio": (
        "pytest.fixture",
        "@pytest.mark.anyio\n    @pytest.mark.parametrize('anyio_backend', ['asyncio'])",
        ["-p", "no:asyncio"],
    ),
}


@pytest.mark.parametrize(("fixture", "mark", "options"), FLAVOURS.values(), ids=FLAVOURS)
def test_async_tests_get_their_tenants(
    run: Any, fixture: str, mark: str, options: list[str]
) -> None:
    run(
        ASYNC_TEST.format(mark=mark),
        *options,
        conftest=ASYNC_CONFTEST.format(fixture=fixture),
        passed=2,
    )


def test_a_marked_test_runs_as_its_tenant_and_its_fixtures_do_not(run: Any) -> None:
    run(
        """
        seen = []

        @pytest.fixture
        def around():
            seen.append(current())
            yield
            seen.append(current())

        @pytest.mark.tenant("acme", plan="gold")
        def test_as_acme(around, two_tenants):
            assert current_tenant().metadata == {"plan": "gold"}
            with sessions() as session:
                assert session.scalars(names).all() == ["acme's"]

        def test_after_it():
            assert seen == [None, None]
            assert current() is None
        """,
        passed=2,
    )


def test_the_closest_mark_counts(run: Any) -> None:
    run(
        """
        pytestmark = pytest.mark.tenant("acme")

        def test_of_the_module():
            assert current() == "acme"

        @pytest.mark.tenant("globex")
        class TestGlobex:
            def test_of_the_class(self):
                assert current() == "globex"

            @pytest.mark.tenant("initech")
            def test_of_the_method(self):
                assert current() == "initech"

        @pytest.mark.parametrize(
            "tenant", [pytest.param(name, marks=pytest.mark.tenant(name)) for name in ("a", "b")]
        )
        def test_of_the_parameter(tenant):
            assert current() == tenant
        """,
        passed=5,
    )


def test_every_kind_of_test_runs_as_its_tenant(run: Any) -> None:
    run(
        """
        import unittest
        from hypothesis import given, settings, strategies

        pytestmark = pytest.mark.tenant("globex")
        few = settings(max_examples=3, database=None, deadline=None)

        class TestMethods:
            async def test_async_method(self):
                assert current() == "globex"

            @few
            @given(strategies.integers())
            def test_drawn_method(self, number):
                assert current() == "globex"

        class TestCase(unittest.TestCase):
            def test_case(self):
                assert current() == "globex"

        class TestAsyncCase(unittest.IsolatedAsyncioTestCase):
            async def test_async_case(self):
                assert current() == "globex"

        @few
        @given(strategies.integers())
        def test_drawn(number):
            assert current() == "globex"

        @few
        @given(strategies.integers())
        async def test_drawn_async(number):
            assert current() == "globex"
        """,
        "-o",
        "asyncio_mode=auto",
        passed=6,
    )


def test_a_failing_marked_test_leaves_no_tenant(run: Any) -> None:
    run(
        """
        @pytest.mark.tenant("acme")
        def test_fails():
            assert current() is None

        def test_after_it():
            assert current() is None
        """,
        passed=1,
        failed=1,
    )


@pytest.mark.parametrize("given", ["", "''", "None", "'acme', 'globex'"])
def test_a_mark_without_a_tenant_is_an_error(run: Any, given: str) -> None:
    run(f"@pytest.mark.tenant({given})\ndef test_nothing(): pass\n", failed=1)


def test_the_mark_is_known(run: Any, pytester: pytest.Pytester) -> None:
    run(
        "@pytest.mark.tenant('acme')\ndef test_acme(): assert current() == 'acme'\n",
        "--strict-markers",
        "-W",
        "error::pytest.PytestUnknownMarkWarning",
        passed=1,
    )
    shown = pytester.runpytest_inprocess("--markers", *QUIET, *PLUGIN).stdout
    shown.fnmatch_lines(["@pytest.mark.tenant(id, ?*metadata): run the test's body*"])


def test_a_foreign_row_fails_the_test_that_saw_it(run: Any) -> None:
    output = run(
        """
        from partywall.testing import sees_only

        @pytest.mark.tenant("acme")
        def test_own(two_tenants):
            with sees_only("acme"), sessions() as session:
                assert session.scalars(names).all() == ["acme's"]

        def test_foreign(two_tenants):
            with sees_only("acme"), tenant_scope("globex"), sessions() as session:
                session.scalars(select(Item)).all()
        """,
        passed=1,
        failed=1,
    )

    output.fnmatch_lines(
        [
            "E *AssertionError: sees_only('acme') does not hold:",
            "E *- a row of 'globex', by SELECT plugin_item.id, *",
        ]
    )


def test_without_the_plugin_the_assertions_still_work(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from partywall import tenant_scope
        from partywall.testing import sees_only

        def test_left():
            with pytest.raises(AssertionError, match="not left"), sees_only("acme"):
                tenant_scope("globex").__enter__()

        def test_no_fixture(two_tenants):
            pass
        """
    )
    result = pytester.runpytest_subprocess(*QUIET, "-p", "no:partywall")

    result.assert_outcomes(passed=1, errors=1)


# What is imported


def test_pytest_finds_the_plugin() -> None:
    (point,) = (point for point in entry_points(group="pytest11") if point.name == "partywall")

    assert point.load() is sys.modules["partywall.testing"]


def test_partywall_itself_imports_neither_the_plugin_nor_pytest() -> None:
    script = "import sys, partywall; print({'pytest', 'partywall.testing'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "set()"
