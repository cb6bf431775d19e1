"""SQLModel, alone and in FastAPI: table models, links, `exec`, and tenants that arrive in bodies.

Two tenants with the same heroes, teams and powers; what is stored is read through the plain driver.
"""

# Not `from __future__ import annotations`: SQLModel needs the annotations of relationships as they
# are, and cannot do with their text.

import asyncio
import inspect
import shutil
import sqlite3
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import httpx
import pydantic
import pytest
import sqlmodel
from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import Column, String, UniqueConstraint, func, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import aliased, selectinload, sessionmaker
from sqlmodel import Field, Relationship, SQLModel, col, delete, insert, or_, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

import databases
from partywall import (
    AsyncSessionScope,
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    SessionScope,
    TenantSessionMiddleware,
    UnscopedStatementError,
    current_tenant,
    tenant_aware,
    tenant_scope,
    tenant_text,
)
from partywall.fastapi import add_error_handlers, tenant_session
from partywall.resolvers import header

TENANTS = ("acme", "globex")
NAMES = ("Deadpond", "Rusty", "Spider")


class Link(SQLModel, table=True):
    __tablename__ = "sqlmodel_link"
    hero_id: int | None = Field(default=None, foreign_key="sqlmodel_hero.id", primary_key=True)
    power_id: int | None = Field(default=None, foreign_key="sqlmodel_power.id", primary_key=True)


@tenant_aware
class Team(SQLModel, table=True):
    __tablename__ = "sqlmodel_team"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: str | None = Field(default=None, nullable=False, index=True)
    name: str
    heroes: list["Hero"] = Relationship(back_populates="team")


@tenant_aware
class Power(SQLModel, table=True):
    __tablename__ = "sqlmodel_power"
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: str | None = Field(default=None, nullable=False)
    name: str
    heroes: list["Hero"] = Relationship(back_populates="powers", link_model=Link)


class HeroBase(SQLModel):
    name: str = Field(index=True)
    age: int | None = None
    team_id: int | None = Field(default=None, foreign_key="sqlmodel_team.id")


@tenant_aware
class Hero(HeroBase, table=True):
    __tablename__ = "sqlmodel_hero"
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: str | None = Field(default=None, nullable=False)
    secret: str = "none"
    team: Team | None = Relationship(back_populates="heroes")
    powers: list[Power] = Relationship(back_populates="heroes", link_model=Link)
    missions: list["Mission"] = Relationship(back_populates="hero", cascade_delete=True)


@tenant_aware(through="hero")
class Mission(SQLModel, table=True):
    __tablename__ = "sqlmodel_mission"
    id: int | None = Field(default=None, primary_key=True)
    hero_id: int | None = Field(default=None, foreign_key="sqlmodel_hero.id")
    goal: str
    hero: Hero | None = Relationship(back_populates="missions")


class HeroCreate(HeroBase):
    pass


class HeroUpdate(SQLModel):
    name: str | None = None
    age: int | None = None
    team_id: int | None = None


class HeroUpdateWithTenant(HeroUpdate):
    tenant_id: str | None = None


class TeamPublic(SQLModel):
    id: int
    name: str


class HeroPublic(HeroBase):
    id: int
    secret: str


class HeroPublicWithTeam(HeroPublic):
    team: TeamPublic | None = None


def rows() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """acme's ids are odd and globex's are even, as far as both have the same rows."""
    for owner, tenant in enumerate(TENANTS, 1):
        for place, name in enumerate(["X", "Z"]):
            yield "team (id, tenant_id, name)", (2 * place + owner, tenant, name)
            yield "power (id, tenant_id, name)", (2 * place + owner, tenant, f"power {name}")

        for place, name in enumerate(NAMES):
            hero = 2 * place + owner
            values = (hero, tenant, name, 10 * place, 2 * (place // 2) + owner, f"of {tenant}")
            yield "hero (id, tenant_id, name, age, team_id, secret)", values
            yield "link (hero_id, power_id)", (hero, owner)
            yield "mission (id, hero_id, goal)", (hero, hero, f"goal {place} of {tenant}")

    # globex's hero in acme's team, with acme's power.
    spy = (10, "globex", "Spy", 99, 1, "of globex")
    yield "hero (id, tenant_id, name, age, team_id, secret)", spy
    yield "link (hero_id, power_id)", (10, 1)


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = sqlmodel.create_engine(f"sqlite:///{path}")
        self.async_engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        for engine in (self.engine, self.async_engine):
            databases._with_real_transactions(engine)

        self.seed = {table: self.stored(table) for table in STORED}

    def session(self, flavour: str) -> Any:
        if flavour == "sync":
            return Both(sqlmodel.Session(self.engine))

        return AsyncSession(self.async_engine)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return list(connection.execute(sql))

    def stored(self, table: str) -> Counter[tuple[Any, ...]]:
        return Counter(self.execute(STORED[table]))

    def changed(self) -> dict[str, tuple[list[Any], list[Any]]]:
        """The rows that have gone and those that have come."""
        found = {}
        for table, before in self.seed.items():
            now = self.stored(table)
            if now != before:
                found[table] = sorted((before - now).elements()), sorted((now - before).elements())

        return found


STORED = {
    "team": "SELECT tenant_id, name FROM sqlmodel_team",
    "power": "SELECT tenant_id, name FROM sqlmodel_power",
    "hero": "SELECT tenant_id, name, age, team_id FROM sqlmodel_hero",
    "link": "SELECT hero_id, power_id FROM sqlmodel_link",
    "mission": "SELECT hero_id, goal FROM sqlmodel_mission",
}


class Both:
    """A sync session in `async with`, so that one test serves both flavours."""

    def __init__(self, session: sqlmodel.Session) -> None:
        self._session = session

    async def __aenter__(self) -> sqlmodel.Session:
        return self._session

    async def __aexit__(self, *_: object) -> None:
        self._session.close()


async def settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlmodel") / "heroes.db"
    engine = sqlmodel.create_engine(f"sqlite:///{path}")
    tables = [model.__table__ for model in (Team, Power, Hero, Link, Mission)]
    SQLModel.metadata.create_all(engine, tables=tables)
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        for table, values in rows():
            connection.execute(f"INSERT INTO sqlmodel_{table} VALUES {values}")

        connection.commit()

    return path


@pytest.fixture
async def place(filled: Path, tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(Path(shutil.copy(filled, tmp_path)))
    yield place
    place.engine.dispose()
    await place.async_engine.dispose()


pytestmark = pytest.mark.filterwarnings(r"ignore:[\s\S]*session.exec:DeprecationWarning")
FLAVOURS = pytest.mark.parametrize("flavour", ["sync", "async"])
BOTH_TENANTS = pytest.mark.parametrize("tenant", TENANTS)
Case = Callable[[Any], Awaitable[Any]]


# Reading.


def heroes(tenant: str, *names: str) -> list[str]:
    return [f"{name} of {tenant}" for name in names]


def every(tenant: str) -> list[str]:
    return heroes(tenant, *NAMES, *(["Spy"] if tenant == "globex" else []))


other = aliased(Hero)


def told(found: Any) -> Any:
    """Heroes by name and whose they are, in the order found; everything else as it is."""
    if isinstance(found, Hero):
        return f"{found.name} {found.secret}"

    if isinstance(found, SQLModel):
        return found.name

    if isinstance(found, (list, tuple)) or hasattr(found, "_fields"):
        return [told(one) for one in found]

    return found


def asks(statement: Any) -> Case:
    async def case(session: Any) -> Any:
        return told((await settled(session.exec(statement))).all())

    return case


async def _parents(session: Any) -> Any:
    found = await settled(session.exec(BY_ID.options(selectinload(Hero.team))))
    return [hero.team and hero.team.name for hero in found]


async def _children(session: Any) -> Any:
    every = selectinload(Team.heroes).selectinload(Hero.missions)
    found = await settled(session.exec(select(Team).order_by(Team.id).options(every)))
    return [[told(hero), len(hero.missions)] for team in found for hero in team.heroes]


async def _linked(session: Any) -> Any:
    found = await settled(session.exec(select(Power).options(selectinload(Power.heroes))))
    return [sorted(told(hero) for hero in power.heroes) for power in found]


async def _every_key(session: Any) -> Any:
    return [told(await settled(session.get(Hero, number))) for number in (1, 2, 10, 99)]


async def _by_execute(session: Any) -> Any:
    return told((await settled(session.execute(BY_ID))).scalars().all())


async def _by_scalars(session: Any) -> Any:
    return told((await settled(session.scalars(BY_ID))).all())


async def _written(session: Any) -> Any:
    statement = tenant_text(
        "SELECT name FROM sqlmodel_team WHERE tenant_id = :tenant AND name > :a"
    )
    return [tuple(row) for row in await settled(session.exec(statement, params={"a": "X"}))]


BY_ID = select(Hero).order_by(col(Hero.id))
READS: dict[str, tuple[Case, Callable[[str], Any]]] = {
    "heroes": (asks(BY_ID), every),
    "a column": (asks(select(Hero.secret).distinct()), lambda t: [f"of {t}"]),
    "columns": (
        asks(select(Hero.name, Hero.secret).where(Hero.age == 0)),
        lambda t: [["Deadpond", f"of {t}"]],
    ),
    "a count": (asks(select(func.count()).select_from(Hero)), lambda t: [len(every(t))]),
    "a count of another tenant": (
        asks(select(func.count(col(Hero.id))).where(Hero.tenant_id == "globex")),
        lambda t: [{"acme": 0, "globex": 4}[t]],
    ),
    "a maximum": (asks(select(func.max(Hero.age))), lambda t: [{"acme": 20, "globex": 99}[t]]),
    "a condition": (
        asks(BY_ID.where(col(Hero.name).like("%u%"))),
        lambda t: heroes(t, "Rusty"),
    ),
    "either": (
        asks(BY_ID.where(or_(Hero.name == "Rusty", Hero.tenant_id == "globex"))),
        lambda t: heroes(t, "Rusty") if t == "acme" else every(t),
    ),
    "a join": (
        asks(select(Hero, Team).join(Team).where(Team.name == "Z")),
        lambda t: [[*heroes(t, "Spider"), "Z"]],
    ),
    "an outer join": (
        asks(select(Hero.name, Team.name).join(Team, isouter=True).order_by(col(Hero.id))),
        lambda t: [["Deadpond", "X"], ["Rusty", "X"], ["Spider", "Z"], ["Spy", None]][
            : len(every(t))
        ],
    ),
    "through a link": (
        asks(BY_ID.join(Link).join(Power).where(Power.name == "power X")),
        lambda t: heroes(t, *NAMES),
    ),
    "an alias": (
        asks(select(Hero, other).join(other, other.age == Hero.age).where(Hero.age == 10)),
        lambda t: [heroes(t, "Rusty", "Rusty")],
    ),
    "a subquery": (
        asks(BY_ID.where(col(Hero.team_id).in_(select(Team.id).where(Team.name == "Z")))),
        lambda t: heroes(t, "Spider"),
    ),
    "missions": (asks(select(func.count()).select_from(Mission)), lambda t: [3]),
    "parents": (_parents, lambda t: ["X", "X", "Z", None][: len(every(t))]),
    "children": (
        _children,
        lambda t: [[name, 1] for name in heroes(t, *NAMES)],
    ),
    "linked": (_linked, lambda t: [heroes(t, *NAMES), []]),
    "by key": (
        _every_key,
        lambda t: [
            hero if hero and hero.endswith(t) else None
            for hero in ("Deadpond of acme", "Deadpond of globex", "Spy of globex", None)
        ],
    ),
    "by execute": (_by_execute, every),
    "by scalars": (_by_scalars, every),
    "written by hand": (_written, lambda t: [("Z",)]),
}


@FLAVOURS
@BOTH_TENANTS
@pytest.mark.parametrize(("case", "expected"), READS.values(), ids=READS)
async def test_a_tenant_reads_its_own_rows(
    place: Place, flavour: str, tenant: str, case: Case, expected: Callable[[str], Any]
) -> None:
    with tenant_scope(tenant):
        async with place.session(flavour) as session:
            assert await case(session) == expected(tenant)


@FLAVOURS
@pytest.mark.parametrize("case", [case for case, _ in READS.values()], ids=READS)
async def test_without_a_tenant_nothing_is_read(place: Place, flavour: str, case: Case) -> None:
    async with place.session(flavour) as session:
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            await case(session)


@BOTH_TENANTS
def test_the_old_query_reads_its_own_rows(place: Place, tenant: str) -> None:
    with tenant_scope(tenant), sqlmodel.Session(place.engine) as session:
        with pytest.deprecated_call():
            found = session.query(Hero).order_by(Hero.id).all()

        assert told(found) == every(tenant)


@BOTH_TENANTS
async def test_lazy_relationships_bring_the_tenants_rows(place: Place, tenant: str) -> None:
    with tenant_scope(tenant), sqlmodel.Session(place.engine) as session:
        team = session.exec(select(Team).where(Team.name == "X")).one()
        spider = session.exec(select(Hero).where(Hero.name == "Spider")).one()

        assert told(team.heroes) == heroes(tenant, "Deadpond", "Rusty")
        assert [power.tenant_id for power in spider.powers] == [tenant]
        assert [mission.goal for mission in spider.missions] == [f"goal 2 of {tenant}"]
        assert told(spider.missions[0].hero) == f"Spider of {tenant}"


# Writing, as acme.


async def _added(session: Any) -> None:
    session.add(Hero(name="Nova", age=1, team_id=1))


async def _validated(session: Any) -> None:
    body = HeroCreate(name="Nova", age=1, team_id=1)
    hero = Hero.model_validate(body, update={"secret": "of acme"})
    session.add(hero)
    await settled(session.commit())
    await settled(session.refresh(hero))
    assert hero.model_dump(exclude={"id"}) == {
        "name": "Nova",
        "age": 1,
        "team_id": 1,
        "tenant_id": "acme",
        "secret": "of acme",
    }


async def _added_saying_whose(session: Any) -> None:
    session.add(Hero(name="Nova", age=1, team_id=1, tenant_id="acme"))


async def _added_as_a_tree(session: Any) -> None:
    nova = Hero(name="Nova", age=1, powers=[Power(name="new")], missions=[Mission(goal="new")])
    session.add(Team(name="New", heroes=[nova]))


async def _renamed(session: Any) -> None:
    hero = await settled(session.get(Hero, 1))
    hero.sqlmodel_update(HeroUpdate(age=5).model_dump(exclude_unset=True))
    session.add(hero)


async def _deleted(session: Any) -> None:
    hero = await settled(session.get(Hero, 1, options=[selectinload(Hero.missions), LINKED]))
    await settled(session.delete(hero))


async def _linked_anew(session: Any) -> None:
    hero = await settled(session.get(Hero, 1, options=[LINKED]))
    hero.powers.append(await settled(session.get(Power, 3)))


async def _inserted(session: Any) -> None:
    rows = [{"name": "Nova", "age": 1, "team_id": 1}, {"name": "Star", "age": 2, "team_id": 3}]
    await settled(session.exec(insert(Hero), params=rows))


async def _inserted_values(session: Any) -> None:
    await settled(session.exec(insert(Hero).values(name="Nova", age=1, team_id=1)))


async def _updated(session: Any) -> None:
    changed = await settled(session.exec(update(Hero).values(age=1)))
    assert changed.rowcount == 3


async def _updated_by_key(session: Any) -> None:
    ours = update(Hero).where(col(Hero.id).in_([1, 2, 10])).values(age=1)
    assert (await settled(session.exec(ours))).rowcount == 1


async def _updated_foreign(session: Any) -> None:
    theirs = update(Hero).where(Hero.tenant_id == "globex").values(age=1)
    assert (await settled(session.exec(theirs))).rowcount == 0


async def _deleted_all(session: Any) -> None:
    assert (await settled(session.exec(delete(Mission)))).rowcount == 3


async def _merged(session: Any) -> None:
    await settled(session.merge(Hero(id=1, name="Nova", age=1, team_id=1, tenant_id="acme")))


LINKED = selectinload(Hero.powers)
NOVA = ("acme", "Nova", 1, 1)
DEADPOND = ("acme", "Deadpond", 0, 1)
WRITES: dict[str, tuple[Case, Any]] = {
    "add": (_added, {"hero": ([], [NOVA])}),
    "validate a body": (_validated, {"hero": ([], [NOVA])}),
    "say whose": (_added_saying_whose, {"hero": ([], [NOVA])}),
    "add a tree": (
        _added_as_a_tree,
        {
            "team": ([], [("acme", "New")]),
            "hero": ([], [("acme", "Nova", 1, 5)]),
            "power": ([], [("acme", "new")]),
            "link": ([], [(11, 5)]),
            "mission": ([], [(11, "new")]),
        },
    ),
    "rename": (_renamed, {"hero": ([DEADPOND], [("acme", "Deadpond", 5, 1)])}),
    "delete": (
        _deleted,
        {
            "hero": ([DEADPOND], []),
            "link": ([(1, 1)], []),
            "mission": ([(1, "goal 0 of acme")], []),
        },
    ),
    "link": (_linked_anew, {"link": ([], [(1, 3)])}),
    "insert": (_inserted, {"hero": ([], [NOVA, ("acme", "Star", 2, 3)])}),
    "insert values": (_inserted_values, {"hero": ([], [NOVA])}),
    "update all": (
        _updated,
        {
            "hero": (
                [DEADPOND, ("acme", "Rusty", 10, 1), ("acme", "Spider", 20, 3)],
                [("acme", name, 1, team) for name, team in zip(NAMES, (1, 1, 3), strict=True)],
            )
        },
    ),
    "update by key": (_updated_by_key, {"hero": ([DEADPOND], [("acme", "Deadpond", 1, 1)])}),
    "update another tenant's": (_updated_foreign, {}),
    "delete all": (
        _deleted_all,
        {"mission": ([(1 + 2 * n, f"goal {n} of acme") for n in range(3)], [])},
    ),
    "merge": (_merged, {"hero": ([DEADPOND], [NOVA])}),
}


@FLAVOURS
@pytest.mark.parametrize(("case", "expected"), WRITES.values(), ids=WRITES)
async def test_a_tenant_writes_its_own_rows(
    place: Place, flavour: str, case: Case, expected: Any
) -> None:
    with tenant_scope("acme"):
        async with place.session(flavour) as session:
            await case(session)
            await settled(session.commit())

    assert place.changed() == expected


@FLAVOURS
@pytest.mark.parametrize("case", [case for case, _ in WRITES.values()], ids=WRITES)
async def test_without_a_tenant_nothing_is_written(place: Place, flavour: str, case: Case) -> None:
    async with place.session(flavour) as session:
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            await case(session)
            await settled(session.commit())

    assert place.changed() == {}


# What is refused, as acme.


async def _added_for_another(session: Any) -> None:
    session.add(Hero(name="Nova", tenant_id="globex"))


async def _validated_for_another(session: Any) -> None:
    session.add(Hero.model_validate({"name": "Nova", "tenant_id": "globex"}))


async def _given_away(session: Any) -> None:
    hero = await settled(session.get(Hero, 1))
    hero.sqlmodel_update({"tenant_id": "globex"})
    session.add(hero)


async def _given_away_in_bulk(session: Any) -> None:
    await settled(session.exec(update(Hero).values(tenant_id="globex")))


async def _inserted_for_another(session: Any) -> None:
    rows = [{"name": "Nova"}, {"name": "Star", "tenant_id": "acme"}]
    await settled(session.exec(insert(Hero), params=[{**rows[1], "tenant_id": "globex"}]))


async def _in_a_foreign_team(session: Any) -> None:
    session.add(Hero(name="Nova", team_id=2))


async def _moved_to_a_foreign_team(session: Any) -> None:
    (await settled(session.get(Hero, 1))).sqlmodel_update({"team_id": 2})


async def _moved_in_bulk(session: Any) -> None:
    await settled(session.exec(update(Hero).values(team_id=2)))


async def _linked_to_a_foreign_power(session: Any) -> None:
    session.add(Link(hero_id=1, power_id=2))


async def _sent_by_a_foreign_hero(session: Any) -> None:
    session.add(Mission(goal="new", hero_id=2))


async def _merged_without_its_tenant(session: Any) -> None:
    """A model whose default is None says None: alone, too, that would be the row's tenant."""
    await settled(session.merge(Hero(id=1, name="Nova")))


async def _as_text(session: Any) -> None:
    await settled(session.exec(text("DELETE FROM sqlmodel_hero")))


REFUSED: dict[str, tuple[Case, type[Exception], str]] = {
    "add for another": (_added_for_another, CrossTenantAccessError, "'globex'"),
    "validate for another": (_validated_for_another, CrossTenantAccessError, "'globex'"),
    "give away": (_given_away, CrossTenantAccessError, "'globex'"),
    "give away in bulk": (_given_away_in_bulk, CrossTenantAccessError, "'globex'"),
    "insert for another": (_inserted_for_another, CrossTenantAccessError, "'globex'"),
    "in a foreign team": (_in_a_foreign_team, CrossTenantReferenceError, "sqlmodel_team"),
    "to a foreign team": (_moved_to_a_foreign_team, CrossTenantReferenceError, "sqlmodel_team"),
    "to a foreign team in bulk": (_moved_in_bulk, CrossTenantReferenceError, "sqlmodel_team"),
    "to a foreign power": (
        _linked_to_a_foreign_power,
        CrossTenantReferenceError,
        "sqlmodel_power",
    ),
    "by a foreign hero": (_sent_by_a_foreign_hero, CrossTenantReferenceError, "sqlmodel_hero"),
    "merge without its tenant": (
        _merged_without_its_tenant,
        CrossTenantAccessError,
        "once 'tenant_id' is None",
    ),
    "as text": (_as_text, UnscopedStatementError, "sqlmodel_hero"),
}


@FLAVOURS
@pytest.mark.parametrize(("case", "error", "message"), REFUSED.values(), ids=REFUSED)
async def test_what_would_touch_another_tenant_is_refused(
    place: Place, flavour: str, case: Case, error: type[Exception], message: str
) -> None:
    with tenant_scope("acme"):
        async with place.session(flavour) as session:
            with pytest.raises(error, match=message):
                await case(session)
                await settled(session.commit())

    assert place.changed() == {}


@FLAVOURS
@pytest.mark.parametrize("method", ["add", "merge"])
async def test_a_foreign_id_is_taken(place: Place, flavour: str, method: str) -> None:
    with tenant_scope("acme"):
        async with place.session(flavour) as session:
            with pytest.raises(IntegrityError, match="UNIQUE"):
                await settled(getattr(session, method)(Hero(id=2, name="Nova")))
                await settled(session.commit())

    assert place.changed() == {}


@FLAVOURS
async def test_a_session_serves_one_tenant(place: Place, flavour: str) -> None:
    async with place.session(flavour) as session:
        with tenant_scope("acme"):
            hero = await settled(session.get(Hero, 1))

        with tenant_scope("globex"):
            for use in (session.get, lambda _, __: session.refresh(hero)):
                with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                    await settled(use(Hero, 1))


async def test_scopes_open_sessions_of_sqlmodel(place: Place) -> None:
    sessions = sessionmaker(place.engine, class_=sqlmodel.Session)
    asessions = sessionmaker(place.async_engine, class_=AsyncSession)
    for tenant in TENANTS:
        with SessionScope(tenant, sessions=sessions) as session:
            assert told(session.exec(BY_ID).all()) == every(tenant)

        async with AsyncSessionScope(tenant, sessions=asessions) as session:
            assert told((await session.exec(BY_ID)).all()) == every(tenant)
            session.add(Hero(name="Nova", age=1, team_id=1 if tenant == "acme" else 2))

    assert place.changed() == {"hero": ([], [NOVA, ("globex", "Nova", 1, 2)])}


# The tenant column, as SQLModel may spell it.


def _tenant_now() -> Any:
    return current_tenant().tenant_id


@tenant_aware
class Required(SQLModel, table=True):
    __tablename__ = "sqlmodel_required"
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: str
    name: str = "x"


@tenant_aware
class Filled(SQLModel, table=True):
    __tablename__ = "sqlmodel_filled"
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: str = Field(default_factory=_tenant_now, max_length=40)
    name: str = "x"


@tenant_aware(column="firm")
class ByColumn(SQLModel, table=True):
    __tablename__ = "sqlmodel_by_column"
    id: int | None = Field(default=None, primary_key=True)
    firm: str | None = Field(default=None, sa_column=Column("firm", String(40), nullable=False))
    name: str = "x"


@tenant_aware
class Owned(SQLModel):
    tenant_id: uuid.UUID | None = Field(default=None, nullable=False)


class ByUUID(Owned, table=True):
    __tablename__ = "sqlmodel_by_uuid"
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    name: str = "x"


@tenant_aware
class ByNumber(SQLModel, table=True):
    __tablename__ = "sqlmodel_by_number"
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int | None = Field(default=None, nullable=False)
    name: str = "x"


@tenant_aware(shared=True)
class Template(SQLModel, table=True):
    __tablename__ = "sqlmodel_template"
    id: int | None = Field(default=None, primary_key=True)
    tenant_id: str | None = None
    name: str = "x"


UUIDS = (uuid.UUID(int=0xACE), uuid.UUID(int=0x610BE))
SPELLINGS = [
    (Required, TENANTS),
    (Required, UUIDS),
    (Filled, TENANTS),
    (ByColumn, TENANTS),
    (ByUUID, UUIDS),
    (ByUUID, tuple(map(str, UUIDS))),
    (ByNumber, (7, 8)),
    (ByNumber, ("7", "8")),
    (Template, TENANTS),
]


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Any]:
    engine = sqlmodel.create_engine(f"sqlite:///{tmp_path}/spelled.db")
    tables = dict.fromkeys(model.__table__ for model, _ in SPELLINGS)
    SQLModel.metadata.create_all(engine, tables=list(tables))
    yield lambda: sqlmodel.Session(engine)
    engine.dispose()


@pytest.mark.parametrize(("model", "tenants"), SPELLINGS)
def test_a_tenant_column_of_this_make(sessions: Any, model: Any, tenants: Any) -> None:
    for tenant in tenants:
        with tenant_scope(tenant), sessions() as session:
            session.add_all([model(name="a"), model(name="b")])
            session.exec(insert(model), params=[{"name": "c"}])
            session.commit()

    with tenant_scope(tenants[0]), sessions() as session:
        first, second, _ = session.exec(select(model).order_by(model.name)).all()
        first.name = "z"
        session.add(first)
        session.delete(second)
        session.exec(update(model).where(model.name == "c").values(name="y"))
        session.commit()
        session.refresh(first)
        assert first.model_dump()["name"] == "z"
        with pytest.raises(CrossTenantAccessError, match=str(tenants[1])):
            first.sqlmodel_update({_column(model): tenants[1]})
            session.commit()

    for tenant, names in zip(tenants, (["y", "z"], ["a", "b", "c"]), strict=True):
        with tenant_scope(tenant), sessions() as session:
            assert session.exec(select(model.name).order_by(model.name)).all() == names


def _column(model: Any) -> str:
    return "firm" if model is ByColumn else "tenant_id"


def test_a_required_tenant_is_missed_by_model_validate(sessions: Any) -> None:
    """Its validation is pydantic's: a table model that is to be made of a body needs a default."""
    for tenant in TENANTS:
        with tenant_scope(tenant), sessions() as session:
            with pytest.raises(pydantic.ValidationError, match="tenant_id"):
                Required.model_validate({"name": "x"})

            session.add(Required.model_validate({"name": "x"}, update={"tenant_id": tenant}))
            session.add(Filled.model_validate({"name": "x"}))
            session.commit()
            assert session.exec(select(Required.tenant_id)).all() == [tenant]
            assert session.exec(select(Filled.tenant_id)).all() == [tenant]


def test_a_default_that_is_the_tenant_can_be_merged(sessions: Any) -> None:
    for tenant in TENANTS:
        with tenant_scope(tenant), sessions() as session:
            session.add(Filled(name="x"))
            session.commit()

    with tenant_scope("acme"), sessions() as session:
        session.merge(Filled(id=1, name="y"))
        session.commit()
        assert session.exec(select(Filled.name)).all() == ["y"]

    with tenant_scope("globex"), sessions() as session:
        assert session.exec(select(Filled.name)).all() == ["x"]


def test_a_model_below_a_marked_base_that_is_no_table_is_a_body_like_any(sessions: Any) -> None:
    class Body(Owned):
        name: str

    for tenant in UUIDS:
        with tenant_scope(tenant), sessions() as session:
            session.add(ByUUID.model_validate(Body(name="x")))
            session.commit()
            (found,) = session.exec(select(ByUUID)).all()
            assert Body.model_validate(found) == Body(name="x", tenant_id=tenant)


# The application of SQLModel's tutorial, sync and async.


def get_session(request: Request) -> Iterator[sqlmodel.Session]:
    with sqlmodel.Session(request.app.state.engine) as session:
        yield session


async def get_async_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(request.app.state.async_engine) as session:
        yield session


Db = Annotated[sqlmodel.Session, Depends(get_session)]
AsyncDb = Annotated[AsyncSession, Depends(get_async_session)]


def _found(hero: Hero | None) -> Hero:
    if hero is None:
        raise HTTPException(404, "Hero not found")

    return hero


def create_hero(hero: HeroCreate, session: Db) -> Hero:
    return _kept(session, Hero.model_validate(hero))


def create_from_the_table_model(hero: Hero, session: Db) -> Hero:
    return _kept(session, hero)


def _kept(session: sqlmodel.Session, hero: Hero) -> Hero:
    session.add(hero)
    session.commit()
    session.refresh(hero)
    return hero


def read_heroes(session: Db, offset: int = 0, limit: int = 100) -> Any:
    return session.exec(BY_ID.offset(offset).limit(limit)).all()


def read_hero(number: int, session: Db) -> Hero:
    return _found(session.get(Hero, number))


def update_hero(number: int, hero: HeroUpdateWithTenant, session: Db) -> Hero:
    known = _found(session.get(Hero, number))
    known.sqlmodel_update(hero.model_dump(exclude_unset=True))
    return _kept(session, known)


def delete_hero(number: int, session: Db) -> None:
    session.delete(_found(session.get(Hero, number)))
    session.commit()


async def acreate_hero(hero: HeroCreate, session: AsyncDb) -> Hero:
    return await _akept(session, Hero.model_validate(hero))


async def acreate_from_the_table_model(hero: Hero, session: AsyncDb) -> Hero:
    return await _akept(session, hero)


async def _akept(session: AsyncSession, hero: Hero) -> Hero:
    session.add(hero)
    await session.commit()
    await session.refresh(hero)
    return hero


async def aread_heroes(session: AsyncDb, offset: int = 0, limit: int = 100) -> Any:
    return (await session.exec(BY_ID.offset(offset).limit(limit))).all()


async def aread_hero(number: int, session: AsyncDb) -> Hero:
    return _found(await session.get(Hero, number, options=[selectinload(Hero.team)]))


async def aupdate_hero(number: int, hero: HeroUpdateWithTenant, session: AsyncDb) -> Hero:
    known = _found(await session.get(Hero, number))
    known.sqlmodel_update(hero.model_dump(exclude_unset=True))
    return await _akept(session, known)


async def adelete_hero(number: int, session: AsyncDb) -> None:
    known = _found(await session.get(Hero, number, options=[selectinload(Hero.missions), LINKED]))
    await session.delete(known)
    await session.commit()


ENDPOINTS: dict[str, tuple[Any, ...]] = {
    "sync": (
        create_hero,
        create_from_the_table_model,
        read_heroes,
        read_hero,
        update_hero,
        delete_hero,
    ),
    "async": (
        acreate_hero,
        acreate_from_the_table_model,
        aread_heroes,
        aread_hero,
        aupdate_hero,
        adelete_hero,
    ),
}


@pytest.fixture(params=["sync", "async"])
async def client(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[httpx.AsyncClient]:
    create, create_table_model, read_all, read, change, remove = ENDPOINTS[request.param]
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    add_error_handlers(app)
    app.state.engine = place.engine
    app.state.async_engine = place.async_engine
    app.post("/heroes", response_model=HeroPublic)(create)
    app.post("/table-model", response_model=HeroPublic)(create_table_model)
    app.get("/heroes", response_model=list[HeroPublic])(read_all)
    app.get("/heroes/{number}", response_model=HeroPublicWithTeam)(read)
    app.patch("/heroes/{number}", response_model=HeroPublic)(change)
    app.delete("/heroes/{number}", status_code=204)(remove)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def as_tenant(tenant: str) -> dict[str, Any]:
    return {"headers": {"x-tenant": tenant}}


async def test_requests_of_two_tenants_at_once(client: Any, place: Place) -> None:
    found = await asyncio.gather(*(client.get("/heroes", **as_tenant(t)) for t in TENANTS * 3))

    assert [[f"{hero['name']} {hero['secret']}" for hero in each.json()] for each in found] == [
        every(tenant) for tenant in TENANTS * 3
    ]
    assert all("tenant_id" not in hero for each in found for hero in each.json())


async def test_a_foreign_id_is_not_found(client: Any, place: Place) -> None:
    for tenant, foreign in [("acme", 2), ("acme", 10), ("globex", 1), ("globex", 99)]:
        path, headers = f"/heroes/{foreign}", as_tenant(tenant)
        answers = [
            await client.get(path, **headers),
            await client.patch(path, json={"name": "Nova"}, **headers),
            await client.delete(path, **headers),
        ]
        assert [(a.status_code, a.json()) for a in answers] == [
            (404, {"detail": "Hero not found"})
        ] * 3

    assert place.changed() == {}


async def test_a_response_model_loads_the_tenants_relations(client: Any, place: Place) -> None:
    teams = {}
    for tenant, number in [("acme", 1), ("globex", 2), ("globex", 10)]:
        answer = (await client.get(f"/heroes/{number}", **as_tenant(tenant))).json()
        teams[number] = answer["team"]

    assert teams == {1: {"id": 1, "name": "X"}, 2: {"id": 2, "name": "X"}, 10: None}


async def test_heroes_are_made_changed_and_deleted(client: Any, place: Place) -> None:
    for tenant, number, team in [("acme", 1, 1), ("globex", 2, 2)]:
        body = {"name": "Nova", "age": 1, "team_id": team}
        made = await client.post("/heroes", json=body, **as_tenant(tenant))
        changed = await client.patch(f"/heroes/{number}", json={"age": 5}, **as_tenant(tenant))
        gone = await client.delete(f"/heroes/{number + 2}", **as_tenant(tenant))

        assert (made.json()["name"], changed.json()["age"], gone.status_code) == ("Nova", 5, 204)

    assert place.changed()["hero"] == (
        [(t, *who) for t, x in OWN for who in [("Deadpond", 0, x), ("Rusty", 10, x)]],
        [(t, *who) for t, x in OWN for who in [("Deadpond", 5, x), ("Nova", 1, x)]],
    )


OWN = [("acme", 1), ("globex", 2)]


@pytest.mark.parametrize("named", ["acme", "globex"])
async def test_a_tenant_in_a_body_is_left_out_by_a_model_without_it(
    client: Any, place: Place, named: str
) -> None:
    body = {"name": "Nova", "age": 1, "team_id": 1, "tenant_id": named}
    answer = await client.post("/heroes", json=body, **as_tenant("acme"))

    assert answer.status_code == 200
    assert place.changed() == {"hero": ([], [NOVA])}


async def test_another_tenant_in_a_body_is_refused(client: Any, place: Place) -> None:
    refused = [
        await client.post("/table-model", json={"name": "Nova", "tenant_id": "globex"}, **ACME),
        await client.patch("/heroes/1", json={"tenant_id": "globex"}, **ACME),
        await client.post("/heroes", json={"name": "Nova", "team_id": 2}, **ACME),
        await client.patch("/heroes/1", json={"team_id": 2}, **ACME),
    ]

    assert [answer.status_code for answer in refused] == [404] * 4
    assert not any("globex" in answer.text for answer in refused)
    assert place.changed() == {}


async def test_the_own_tenant_in_a_body_is_accepted(client: Any, place: Place) -> None:
    body = {"name": "Nova", "age": 1, "team_id": 1, "tenant_id": "acme"}
    made = await client.post("/table-model", json=body, **ACME)
    changed = await client.patch("/heroes/1", json={"tenant_id": "acme", "age": 5}, **ACME)

    assert (made.status_code, changed.status_code) == (200, 200)
    assert place.changed() == {"hero": ([DEADPOND], [("acme", "Deadpond", 5, 1), NOVA])}


async def test_a_request_without_a_tenant_is_answered_400(client: Any, place: Place) -> None:
    answers = [
        await client.get("/heroes"),
        await client.get("/heroes/1"),
        await client.post("/heroes", json={"name": "Nova"}),
        await client.patch("/heroes/1", json={"name": "Nova"}),
        await client.delete("/heroes/1"),
    ]

    assert {answer.status_code for answer in answers} == {400}
    assert place.changed() == {}


ACME = as_tenant("acme")


async def test_a_session_in_the_tenants_transaction(place: Place) -> None:
    """The dependency of partywall.fastapi, with SQLModel's AsyncSession."""
    made = tenant_session(lambda: AsyncSession(place.async_engine), _tenant_of)
    app = FastAPI()
    add_error_handlers(app)

    @app.post("/heroes/{name}")
    async def create(name: str, session: Annotated[AsyncSession, Depends(made)]) -> int:
        session.add(Hero(name=name, age=1, team_id=1))
        return len((await session.exec(select(Hero))).all())

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = [await client.post("/heroes/Nova", **as_tenant(t)) for t in TENANTS]

    assert [answer.status_code for answer in answers] == [200, 404]
    assert place.changed() == {"hero": ([], [NOVA])}


async def _tenant_of(request: Request) -> str | None:
    return request.headers.get("x-tenant")
