"""pyrsql, whose statements are built from what a client writes into the URL: list D.

Each question is asked of the walled tables, and without a wall of tables in which only the tenant's
rows exist; items, counts and orders must agree. Whatever is asked about a word that exists for the
other tenant only is answered like a word that exists nowhere.

Annotations stay objects here: FastAPI cannot read strings that name local types."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import requires
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy
from packaging.requirements import Requirement

if sqlalchemy.__version__ < "2.1":
    pytest.skip("pyrsql needs SQLAlchemy 2.1", allow_module_level=True)

from fastapi import Depends, FastAPI
from pyrsql import (
    CustomPredicateDefinition,
    PageRequest,
    Query,
    QueryOptions,
    Sort,
    SortOptions,
    apply,
)
from pyrsql.adapters.fastapi import CriteriaDependency, FastAPICriteriaConfig, RequestCriteria
from pyrsql.core.joins import JoinHint
from pyrsql.integrations.fastapi import FastAPISQLAlchemyIntegration
from pyrsql.orms.sqlalchemy import SQLAlchemyORM
from pyrsql.parsing.operators import ComparisonOperator
from sqlalchemy import Select, exists, func, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from partywall import (
    CrossTenantAccessError,
    MissingTenantContextError,
    TenantSessionMiddleware,
    UnscopedStatementError,
    explain,
    tenant_scope,
)
from partywall.fastapi import add_error_handlers, tenant_session
from partywall.resolvers import header
from staff import ALONE, DRIVERS, TENANTS, WALLED, Desk, Place, place

LIMIT = 30
LEFT = {
    f"{model}.{name}": JoinHint.LEFT
    for model, names in {
        "Person": ["company", "boss", "posts"],
        "Company": ["plan", "country", "people"],
        "Post": ["author", "tags"],
        "Tag": ["posts"],
    }.items()
    for name in names
}
EMPLOYS = ComparisonOperator(
    name="employs", spellings=("=employs=",), minimum_arguments=1, maximum_arguments=1
)


def orm_of(m: Any) -> SQLAlchemyORM:
    """With a predicate of the application's own, which asks a table that is not in the query."""

    def employs(asked: Any) -> Any:
        other = exists().where(
            m.Person.company_id == m.Company.id, m.Person.name == asked.values[0]
        )
        return asked.expression.in_(select(m.Company.name).where(other))

    return SQLAlchemyORM(custom_predicates={"employs": employs})


ORM = {id(m): orm_of(m) for m in (WALLED, *ALONE.values())}


def options(kind: Any = QueryOptions, **more: Any) -> Any:
    if kind is QueryOptions:
        employs = CustomPredicateDefinition(operator=EMPLOYS, argument_type=str)
        more["custom_predicates"] = {"employs": employs}

    return kind(procedure_whitelist=(".*",), **more)


@dataclass(frozen=True)
class Ask:
    model: str
    filter: str | None = None
    sort: str = "id"
    left: bool = False
    on: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.model} {self.filter} {self.sort}{' left' if self.left else ''}"

    def filtered(self, m: Any) -> Select[Any]:
        model = getattr(m, self.model)
        hints = {"join_hints": LEFT} if self.left else {}
        if self.filter is None:
            return select(model)

        query = Query.parse(self.filter, options=options(**hints, **self.more))
        return query.apply(select(model), model, orm=ORM[id(m)])

    def statement(self, m: Any, page: PageRequest | None = None) -> Select[Any]:
        model = getattr(m, self.model)
        hints = {"join_hints": LEFT} if self.left else {}
        sort = Sort.parse(self.sort, options=options(SortOptions, **hints))
        found = sort.apply(self.filtered(m), model, orm=ORM[id(m)])
        return found if page is None else page.apply(found, model, orm=ORM[id(m)])

    def count(self, m: Any) -> Select[Any]:
        return select(func.count()).select_from(self.filtered(m).order_by(None).subquery())


def asks(model: str, *filters: str, **more: Any) -> list[Ask]:
    return [Ask(model, text, **more) for text in filters]


TO_ONE = [
    *asks("Person", "company.name==Initrode", "company.name!=Initrode", "company.name==Zenith"),
    *asks("Person", "company.name!=Zenith", "company.name=out=(Zenith)", "company.name=nn="),
    *asks("Person", "company.name=na=", "company.id=na=", "company_id=na=", "company_id=nn="),
    *asks("Person", "company.country.name==Norway", "company.plan.name==gold"),
    *asks("Person", "company.plan.name==free", "company.plan.name!=gold", "company.plan.id=na="),
    *asks("Person", "company.plan.tenant_id=na=", "name==bob,company.name==Zenith"),
    *asks("Person", "company.name==Zenith;(name==eve,name==bob)", "company.name==*e*"),
    *asks("Person", "(company.name==Zenith,age=na=),(company.country.name==Peru;age>25)"),
    *asks("Person", "boss.name==ada", "@upper[company.name]==ZENITH"),
    *asks("Post", "author.company.name==Initrode", "author.company.name!=Zenith"),
    *asks("Post", "author.name==ada", "author.boss_id=na=", "author.company.plan.name==gold"),
    *asks("Company", "plan.name==gold", "plan.name!=gold", "plan.tenant_id=na="),
]
COLLECTIONS = [
    *asks("Company", "people.name==ada", "people.name==eve", "people.name!=eve", "people.id=na="),
    *asks("Company", "people.posts.title==hello", "people.posts.tags.name==secret"),
    *asks("Company", "people.name==zoe,name==Apex", "people.posts.tags.name=out=(secret)"),
    *asks("Person", "posts.title==hello", "posts.title!=hello", "posts.tags.name==secret"),
    *asks("Person", "posts.tags.name!=secret", "posts.tags.posts.author.name==zoe"),
    *asks("Person", "company.people.name==eve", "company.people.boss.name==zoe"),
    *asks("Person", "boss.posts.title==hello", "posts.public==true;posts.title!=draft"),
    *asks("Post", "tags.name==secret", "tags.name=out=(red)", "tags.name=nn=", "tags.id==6"),
    *asks("Tag", "posts.author.name==ada", "posts.title==only*", "posts.author.company.id==6"),
    *asks("Company", "name=employs=eve", "name=employs=ada", "name=employs=zoe"),
]
PLAIN = [
    *asks("Person", "name==ada", "name!=ada", "name==^ADA", "name==*a*", "name=like=o"),
    *asks("Person", "name=in=(ada,zoe)", "name=out=(ada,zoe)", "name=notlike=a", "name=ic=ADA"),
    *asks("Person", "age>25", "age=bt=(20,30)", "age=nb=(20,30)", "age=na=", "age=nn="),
    *asks("Person", "id==8", "id=in=(1,2,3,4)", "id!=1", "name==ada,id>0", "@coalesce[age|id]>20"),
    *asks("Plan", "name==gold", "tenant_id=na=", "id>0"),
    *asks("Country", "name==Norway"),
    *asks("Person", "details.theme==dark", "details.tenant==globex", on="postgresql"),
    Ask("Person"),
    Ask("Plan"),
]
SORTED = [
    Ask("Person", sort="company.name,asc;id,desc"),
    Ask("Person", sort="company.name,desc;id", left=True),
    Ask("Person", "age=nn=", sort="boss_id,desc;@upper[company.name],desc;id", left=True),
    Ask("Post", sort="author.company.name,desc,ic;id"),
    Ask("Post", sort="@coalesce[author.company.name|title],asc;id", left=True),
    Ask("Post", sort="author.name;author.company.name;id", left=True),
    Ask("Company", sort="plan.tenant_id;name", left=True),
]
LEFT_JOINED = [replace(ask, left=True) for ask in (*TO_ONE, *COLLECTIONS)]
DISTINCT = [replace(ask, more={"distinct": True}) for ask in LEFT_JOINED[::4]]
GROUPS = {
    "to one": TO_ONE,
    "collections": COLLECTIONS,
    "plain": PLAIN,
    "sorted": SORTED,
    "left joined": LEFT_JOINED,
    "distinct": DISTINCT,
}


@pytest.fixture
def places() -> dict[str, Place]:
    return {kind: place(kind) for kind in ("sqlite", "postgresql")}


@pytest.fixture(params=DRIVERS)
async def desk(request: pytest.FixtureRequest, places: dict[str, Place]) -> AsyncIterator[Desk]:
    kind = "postgresql" if request.param in ("psycopg", "asyncpg") else "sqlite"
    desk = places[kind].desk(request.param)
    yield desk
    await desk.dispose()


async def outcome(desk: Desk, make: Any, m: Any, tenant: str | None = None) -> Any:
    """The keys that were found, or the type of the error."""
    try:
        found = await desk.fetch(make(m), tenant)
    except Exception as error:  # noqa: BLE001  what was raised is what is compared
        return type(error)

    return [value if isinstance(value, int) else value.id for value in found]


@pytest.mark.parametrize("group", GROUPS)
async def test_d4_a_filter_sees_what_exists_for_its_tenant(desk: Desk, group: str) -> None:
    """D4, D5: items and counts."""
    different = []
    found = set()
    for ask in GROUPS[group]:
        if ask.on not in ("", desk.kind):
            continue

        for tenant, alone in ALONE.items():
            for make in (ask.statement, ask.count):
                walled = await outcome(desk, make, WALLED, tenant)
                expected = await outcome(desk, make, alone)
                found.add(str(walled))
                if walled != expected:
                    different.append((str(ask), make.__name__, tenant, walled, expected))

    assert different == []
    assert len(found) > 5


# {} takes a word: of globex, or of nobody.
PROBES = [
    *asks("Person", "company.name=={}", "company.name!={}", "company.name=out=({})"),
    *asks("Person", "company.name=in=(Hooli,{})", "company.name=like={}", "company.name=={}*"),
    *asks("Person", "company.name=notlike={}", "company.name=ic={}", "company.name=gt={}"),
    *asks("Person", "company.name=le={}", "company.name=bt=({},{})", "company.name=nb=(A,{})"),
    *asks("Person", "company.name=={},name==bob", "company.name!={};age=nn=", "name=={}"),
    *asks("Person", "company.people.name=={}", "company.people.name!={}", "posts.tags.name=={}"),
    *asks("Person", "posts.tags.name!={}", "posts.tags.posts.author.name=={}"),
    *asks("Person", "@lower[company.name]=={}", "@coalesce[company.name|name]!={}"),
    *asks("Person", "company.tenant_id=={}", "tenant_id!={}", "tenant_id=out=({})"),
    *asks("Company", "people.name=={}", "people.name!={}", "people.posts.tags.name=={}"),
    *asks("Company", "name=employs={}", "plan.tenant_id=={}", "plan.tenant_id!={},name==Hooli"),
    *asks("Post", "tags.name=={}", "tags.name=out=({})", "author.company.name!={}"),
    *asks("Tag", "posts.author.name=={}", "posts.author.company.name=={}", "name=={}"),
]
WORDS = [("Zenith", "Zenitg"), ("zoe", "zod"), ("secret", "secres"), ("globex", "globew")]


@pytest.mark.parametrize("left", [False, True], ids=["inner", "left"])
@pytest.mark.parametrize(("foreign", "nobodys"), WORDS)
async def test_d4_no_filter_tells_a_foreign_word_from_one_that_nobody_has(
    desk: Desk, foreign: str, nobodys: str, left: bool
) -> None:
    different = []
    for probe in PROBES:
        told = []
        for word in (foreign, nobodys):
            ask = replace(probe, filter=probe.filter.replace("{}", word), left=left)
            made = (ask.statement, ask.filtered, ask.count)
            told.append([await outcome(desk, make, WALLED, "acme") for make in made])

        if told[0] != told[1]:
            different.append((str(probe), *told))

    assert different == []


def test_d4_the_words_are_there_for_the_other_tenant(places: dict[str, Place]) -> None:
    """Without which the test above could not fail."""
    hidden = [*asks("Company", "name==Zenith", "people.name==zoe"), Ask("Tag", "name==secret")]
    for kind, driver in (("sqlite", "sqlite3"), ("postgresql", "psycopg")):
        engine = places[kind].desk(driver).engine
        for tenant, count in (("acme", 0), ("globex", 1)):
            with tenant_scope(tenant), Session(engine) as session:
                assert [session.scalar(ask.count(WALLED)) for ask in hidden] == [count] * 3

        engine.dispose()


async def test_d4_a_function_that_reads_tables_by_itself_is_refused(desk: Desk) -> None:
    if desk.kind != "postgresql":
        pytest.skip("PostgreSQL only")

    for ask in (
        Ask("Person", "@table_to_xml[name]=nn="),
        Ask("Person", sort="@query_to_xml[name|id|id|email],asc"),
    ):
        for tenant in TENANTS:
            with pytest.raises(UnscopedStatementError, match="something that cannot be read"):
                await desk.fetch(ask.statement(WALLED), tenant)


@pytest.mark.parametrize("ask", [*TO_ONE[:8], *COLLECTIONS[:8], *PLAIN[:8]], ids=str)
async def test_d6_the_pages_together_are_what_was_counted(desk: Desk, ask: Ask) -> None:
    """D5, D6"""
    for tenant in TENANTS:
        (total,) = await desk.fetch(ask.count(WALLED), tenant)
        pages = [
            await outcome(
                desk, lambda m, n=n: ask.statement(m, PageRequest.of(n, 2)), WALLED, tenant
            )
            for n in range(total // 2 + 2)
        ]
        everything = await outcome(desk, ask.statement, WALLED, tenant)
        assert [key for page in pages for key in page] == everything
        assert len(everything) == total


# D16


@pytest.mark.parametrize(
    ("text", "of_acme"),
    [
        ("tenant_id==globex", []),
        ("tenant_id!=acme", []),
        ("tenant_id=out=(acme)", []),
        ("tenant_id=na=", []),
        ("tenant_id=gt=acme", []),
        ("tenant_id==glob*", []),
        ("tenant_id==^GLOBEX", []),
        ("@upper[tenant_id]==GLOBEX", []),
        ("company.tenant_id==globex", []),
        ("company.people.tenant_id==globex", []),
        ("posts.author.tenant_id==globex", []),
        ("tenant_id==acme", [1, 3, 5, 7, 11, 13]),
        ("tenant_id!=globex", [1, 3, 5, 7, 11, 13]),
        ("tenant_id==globex,name==ada", [1]),
        ("tenant_id=in=(acme,globex);name==bob", [3]),
        ("(tenant_id==globex,tenant_id!=globex);age=na=", [5]),
    ],
)
async def test_d16_a_filter_on_the_tenant_gives_no_foreign_row(
    desk: Desk, text: str, of_acme: list[int]
) -> None:
    ask = Ask("Person", text, sort="tenant_id,desc;id")
    assert await outcome(desk, ask.statement, WALLED, "acme") == of_acme
    assert await outcome(desk, ask.count, WALLED, "acme") == [len(of_acme)]


# D18


async def test_d18_a_left_join_stays_one_and_its_condition_stands_in_on(desk: Desk) -> None:
    ask = Ask("Person", "name==eve,company.name==Zenith", left=True)
    for make in (ask.statement, ask.count):
        sql = " ".join(explain(make(WALLED), desk.engine).sql.split())
        on = sql.split("LEFT OUTER JOIN staff_company ON ")[1].split(" WHERE ")[0]
        assert "staff_company.tenant_id = " in on
        assert "staff_company.tenant_id" not in sql.split(" WHERE ")[1]

    # eve of acme works at a company of globex: she is found, and her company is not.
    assert await outcome(desk, ask.statement, WALLED, "acme") == [11]
    for text, found in (("company.name=na=", [5, 11, 13]), ("company.name=nn=", [1, 3, 7])):
        left = Ask("Person", text, left=True)
        assert await outcome(desk, left.statement, WALLED, "acme") == found


# D1, D3, D7


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_d1_one_select_serves_both_kinds_of_sessions(
    places: dict[str, Place], kind: str
) -> None:
    """D1, D3, D7: used directly, without a framework."""
    names = {"sqlite": ("sqlite3", "aiosqlite"), "postgresql": ("psycopg", "asyncpg")}[kind]
    desks = [places[kind].desk(name) for name in names]
    statement = apply(
        select(WALLED.Person), WALLED.Person, "company.name==Initrode", orm=SQLAlchemyORM()
    )
    for tenant, key in [("acme", 1), ("globex", 2), ("acme", 1)]:
        for desk in desks:
            assert await outcome(desk, lambda _: statement, WALLED, tenant) == [key, key + 6]

    for desk in desks:
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            await desk.fetch(statement)

        await desk.dispose()


# D8


def test_d8_a_session_that_serves_a_tenant_is_refused_to_a_thread_of_another(
    places: dict[str, Place],
) -> None:
    desk = places["sqlite"].desk("sqlite3")
    statement = Ask("Person", "company.name==Initrode").statement(WALLED)
    with Session(desk.engine) as session, ThreadPoolExecutor(1) as threads:
        with tenant_scope("acme"):
            assert [person.id for person in session.scalars(statement)] == [1, 7]

        for work in (
            lambda: session.scalars(statement).all(),
            lambda: session.get(WALLED.Person, 1),
        ):
            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                threads.submit(tenant_scope("globex")(work)).result(LIMIT)

        with tenant_scope("acme"):
            assert [person.id for person in session.scalars(statement)] == [1, 7]

    desk.engine.dispose()


def test_d8_threads_that_take_one_fresh_session_at_once_see_no_foreign_row(
    places: dict[str, Place],
) -> None:
    """SQLAlchemy may refuse it by itself, whoever they are."""
    desk = places["sqlite"].desk("sqlite3")
    statement = Ask("Person", "company.name==Initrode").statement(WALLED)
    session = Session(desk.engine)
    start = threading.Barrier(2)

    def ask(tenant: str) -> Any:
        start.wait(LIMIT)
        with tenant_scope(tenant):
            return [person.tenant_id for person in session.scalars(statement)]

    with ThreadPoolExecutor(2) as threads:
        asked = {tenant: threads.submit(ask, tenant) for tenant in TENANTS}
        for tenant, future in asked.items():
            error = future.exception(LIMIT)
            assert error is not None or future.result() == [tenant, tenant]

    refused = [future for future in asked.values() if future.exception() is not None]
    assert refused
    session.close()
    desk.engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_d8_an_async_session_is_refused_to_a_task_of_another_tenant(
    places: dict[str, Place], kind: str
) -> None:
    desk = places[kind].desk("aiosqlite" if kind == "sqlite" else "asyncpg")
    statement = Ask("Person", "company.name==Initrode").statement(WALLED)

    async def ask(tenant: str, session: AsyncSession) -> Any:
        with tenant_scope(tenant):
            return [person.tenant_id for person in await session.scalars(statement)]

    async with AsyncSession(desk.engine) as session:
        first, second = await asyncio.gather(
            ask("acme", session), ask("globex", session), return_exceptions=True
        )
        assert first == ["acme", "acme"]
        # The second comes while the first one's connection is being made, or after it.
        assert isinstance(second, (CrossTenantAccessError, InvalidRequestError))
        with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
            await ask("globex", session)

    await desk.dispose()


# D9


async def test_d9_a_cached_base_statement_serves_all_tenants_and_keeps_none(desk: Desk) -> None:
    integration = FastAPISQLAlchemyIntegration()
    with tenant_scope("acme"):
        base = integration.base_select(WALLED.Person)
        criteria = RequestCriteria(query=Query.parse("company.name==Initrode;posts.title==hello"))
        built = integration.paginated_select(WALLED.Person, criteria)
        assert [person.id for person in await desk.fetch(built.statement)] == [1]

    for tenant, key in [("globex", 2), ("acme", 1), ("globex", 2)]:
        with tenant_scope(tenant):
            assert integration.base_select(WALLED.Person) is base
            again = integration.paginated_select(WALLED.Person, criteria)
            for page in (built, again):
                assert [person.id for person in await desk.fetch(page.statement)] == [key]
                assert await desk.fetch(page.count_statement) == [1]

            assert {person.tenant_id for person in await desk.fetch(base)} == {tenant}

    for statement in (base, built.statement, built.count_statement):
        assert not set(TENANTS) & set(map(str, statement.compile().params.values()))
        assert not statement._execution_options

    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        await desk.fetch(base)


async def test_d9_a_statement_built_without_a_tenant_serves_each(desk: Desk) -> None:
    integration = FastAPISQLAlchemyIntegration()
    count = integration.count_select(WALLED.Person, RequestCriteria(query=Query.parse("name!=ada")))
    assert [await desk.fetch(count, tenant) for tenant in TENANTS] == [[5], [3]]


# The FastAPI adapter, end to end


def application(desk: Desk) -> FastAPI:
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    add_error_handlers(app)
    make: Any = async_sessionmaker if desk.is_async else sessionmaker
    opened = Annotated[Any, Depends(tenant_session(make(desk.engine)), scope="function")]
    integration = FastAPISQLAlchemyIntegration(
        criteria_config=FastAPICriteriaConfig(
            query_options=QueryOptions(join_hints={"Post.author": JoinHint.LEFT}), max_page_size=50
        )
    )
    everyone = select(WALLED.Person)
    people = integration.resource(
        WALLED.Person,
        filterable_fields={"name", "company.name", "posts.tags.name"},
        sortable_fields={"name", "id"},
        default_sort="name,desc",
        statement_factory=lambda: everyone,
    )

    def shown(found: Any) -> list[str]:
        return [f"{person.name} of {person.tenant_id}" for person in found]

    def route(path: str, dependency: Any, finish: Any) -> None:
        given = Annotated[Any, Depends(dependency)]

        async def answer(session: opened, statement: given) -> Any:
            return await finish(session, statement)

        def answer_in_a_thread(session: opened, statement: given) -> Any:
            return asyncio.run(finish(session, statement))

        app.get(path)(answer if desk.is_async else answer_in_a_thread)

    async def listed(session: Any, statement: Any) -> Any:
        return shown(await _done(session.scalars(statement)))

    async def counted(session: Any, statement: Any) -> Any:
        return await _done(session.scalar(statement))

    async def paged(session: Any, page: Any) -> Any:
        items = shown(await _done(session.scalars(page.statement)))
        return {"items": items, "total": await _done(session.scalar(page.count_statement))}

    async def applied(session: Any, apply: Any) -> Any:
        return shown(await _done(session.scalars(apply(select(WALLED.Person)))))

    route("/people", integration.select_dependency(WALLED.Person), listed)
    route("/people/count", integration.count_select_dependency(WALLED.Person), counted)
    route("/people/page", integration.paginated_select_dependency(WALLED.Person), paged)
    route("/resource", people.select_dependency(), listed)
    route("/resource/count", people.count_select_dependency(), counted)
    route("/resource/page", people.paginated_select_dependency(), paged)
    route("/resource/applied", people.applier_dependency(), applied)
    criteria = CriteriaDependency()

    async def asked(session: Any, given: RequestCriteria) -> Any:
        return await listed(session, given.apply(everyone, WALLED.Person, orm=integration.orm))

    route("/criteria", criteria, asked)
    return app


async def _done(given: Any) -> Any:
    return await given if asyncio.iscoroutine(given) else given


@asynccontextmanager
async def client(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(desk), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as found:
        yield found


def told(response: httpx.Response) -> tuple[Any, ...]:
    headers = {key: value for key, value in response.headers.items() if key != "date"}
    return response.status_code, headers, response.content


async def get(http: httpx.AsyncClient, path: str, tenant: str | None, **params: Any) -> Any:
    headers = {} if tenant is None else {"x-tenant": tenant}
    return await http.get(path, params=params, headers=headers)


@pytest.mark.parametrize("path", ["/people", "/resource", "/resource/applied", "/criteria"])
async def test_d4_select_dependency_lists_the_tenants_rows(desk: Desk, path: str) -> None:
    async with client(desk) as http:
        for tenant in TENANTS:
            query = {"filter": "company.name==Initrode", "sort": "name,asc"}
            found = await get(http, path, tenant, **query)
            last = "dan" if tenant == "acme" else "zoe"
            assert found.json() == [f"ada of {tenant}", f"{last} of {tenant}"]

        unknown = [
            told(await get(http, path, "acme", filter=text))
            for word in ("Zenith", "Zenitg")
            for text in (f"company.name=={word}", f"company.name!={word};name==eve")
        ]
        assert {answer[0] for answer in unknown} == {200}
        assert {answer[2] for answer in unknown} == {b"[]"}


@pytest.mark.parametrize("path", ["/people/count", "/resource/count"])
async def test_d5_count_select_dependency_counts_the_tenants_rows(desk: Desk, path: str) -> None:
    async with client(desk) as http:
        for text, counts in {
            "": [6, 4],
            "name==ada": [1, 1],
            "name==zoe": [0, 1],
            "company.name==Zenith": [0, 0],
            "company.name!=Zenith": [3, 3],
            "posts.tags.name==secret": [0, 1],
        }.items():
            query = {"filter": text} if text else {}
            found = [(await get(http, path, tenant, **query)).json() for tenant in TENANTS]
            assert found == counts


@pytest.mark.parametrize("path", ["/people/page", "/resource/page"])
async def test_d6_paginated_select_dependency_agrees_with_itself(desk: Desk, path: str) -> None:
    async with client(desk) as http:
        for tenant, total in zip(TENANTS, (6, 4), strict=True):
            pages = [
                (await get(http, path, tenant, sort="name,asc", page=page, size=2)).json()
                for page in range(4)
            ]
            assert {page["total"] for page in pages} == {total}
            items = [item for page in pages for item in page["items"]]
            assert len(items) == total
            assert all(item.endswith(f"of {tenant}") for item in items)
            assert items == sorted(items)


async def test_d11_without_a_tenant_or_with_a_malformed_one_nothing_is_asked(desk: Desk) -> None:
    async with client(desk) as http:
        for tenant, detail in (
            (None, "This request needs a tenant."),
            ("../globex", "The tenant is malformed."),
        ):
            for path in ("/people", "/people/count", "/people/page", "/resource", "/criteria"):
                found = await get(http, path, tenant, filter="name==ada")
                assert (found.status_code, found.json()["detail"]) == (400, detail)
                assert found.headers["content-type"] == "application/problem+json"
                assert "globex" not in found.text


async def test_d12_a_filter_that_is_refused_says_the_same_of_every_word(desk: Desk) -> None:
    async with client(desk) as http:
        for template in ("company.nome=={}", "name=={};;", "company=={}", "age=={}"):
            answers = []
            for word in ("Zenith", "Zenitg"):
                found = await get(http, "/people", "acme", filter=template.format(word))
                assert found.status_code in (400, 422)
                answers.append(found.text.replace(word, "?"))

            assert answers[0] == answers[1]


async def test_d9_requests_of_two_tenants_at_once_share_the_cached_statement(desk: Desk) -> None:
    async with client(desk) as http:
        asked = list(TENANTS) * 10
        found = await asyncio.gather(
            *(get(http, "/resource", tenant, filter="name==ada") for tenant in asked)
        )
        assert [answer.json() for answer in found] == [[f"ada of {tenant}"] for tenant in asked]


# D15, D17


GUARDS = {
    "staff_person": "column tenant_id",
    "staff_company": "column tenant_id",
    "staff_plan": "column tenant_id, or shared",
    "staff_post": "through author_id -> staff_person",
    "staff_tag": "column tenant_id",
    "staff_post_tag": "through post_id -> staff_post and tag_id -> staff_tag",
}


def test_d15_each_table_that_a_filter_joins_is_guarded(places: dict[str, Place]) -> None:
    """The first level: what is compiled. The pipeline and the requests are tested above."""
    desk = places["sqlite"].desk("sqlite3")
    ask = Ask("Person", "company.plan.name==gold;posts.tags.name==red;company.country.name==Peru")
    for make in (ask.statement, ask.count):
        tables = explain(make(WALLED), desk.engine).tables
        assert {name: tables.pop(name) for name in GUARDS} == GUARDS
        # The parents through which posts and their tags are guarded.
        parents = {name.rpartition("_")[0] for name in tables}
        assert parents == {"staff_person", "staff_post", "staff_tag"}

    desk.engine.dispose()


def test_d17_the_library_asks_for_the_sqlalchemy_that_runs_here() -> None:
    needed = [Requirement(line) for line in requires("pyrsql") or []]
    (wanted,) = [requirement for requirement in needed if requirement.name == "sqlalchemy"]

    assert wanted.specifier.contains(sqlalchemy.__version__, prereleases=True)
    assert not wanted.specifier.contains("2.0.99")
