"""SQLModel, alone and in FastAPI: table models, links, `exec`, and tenants that arrive in bodies.

Two tenants with the same heroes, teams and powers; what is stored is read through the plain driver.
"""

# Not `from __future__ import annotations`: SQLModel needs the annotations of relationships as they
# are, and cannot do with their text.

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlmodel
from sqlalchemy import UniqueConstraint, func, text
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
    UnscopedStatementError,
    tenant_aware,
    tenant_scope,
    tenant_text,
)

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

        tables = [model.__table__ for model in (Team, Power, Hero, Link, Mission)]
        SQLModel.metadata.create_all(self.engine, tables=tables)
        for table, values in rows():
            self.execute(f"INSERT INTO sqlmodel_{table} VALUES {values}")

        self.seed = {table: self.stored(table) for table in STORED}

    def session(self, flavour: str) -> Any:
        if flavour == "sync":
            return Both(sqlmodel.Session(self.engine))

        return AsyncSession(self.async_engine)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        import sqlite3

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


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path / "heroes.db")
    yield place
    place.engine.dispose()
    await place.async_engine.dispose()


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
    await settled(session.merge(Hero(id=1, name="Nova", age=1, team_id=1)))


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
