"""sqla-authz, which decides what an actor may see, beside the wall, which decides whose it is: list E.

Each policy is applied to the walled tables, and without a wall to tables in which only the tenant's
rows exist; what may be seen and changed must agree.

Annotations stay objects here: FastAPI cannot read strings that name local types."""

import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy
from fastapi import Depends, FastAPI
from sqla_authz import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    AuthorizationDenied,
    AuthzConfig,
    PolicyRegistry,
    UnscopedModelError,
    WriteDeniedError,
    async_safe_get,
    async_safe_get_or_raise,
    authorize_create,
    authorize_query,
    can,
    explain_access,
    explain_query,
    policy,
    safe_get,
    safe_get_or_raise,
    scope,
    verify_scopes,
)
from sqla_authz.compiler import traverse_relationship_path
from sqla_authz.integrations.fastapi import (
    AuthzDep,
    get_actor,
    get_session,
    install_authz_interceptor,
    install_error_handlers,
)
from sqla_authz.session import authorized_sessionmaker, install_interceptor
from sqla_authz.testing import assert_authorized, assert_denied
from sqlalchemy import and_, delete, exists, false, func, literal, not_, or_, select, true, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, aliased, joinedload, selectinload, sessionmaker, subqueryload

from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    TenantSessionMiddleware,
    UnscopedStatementError,
    explain,
    tenant_scope,
    unscoped,
)
from partywall.fastapi import add_error_handlers, tenant_session
from partywall.resolvers import header
from staff import ALONE, DRIVERS, TENANTS, WALLED, Desk, Place, place


@dataclass(frozen=True)
class Actor:
    id: int
    tenant: str = "acme"


Policies = dict[str, Callable[[Any, Actor], Any]]

# Of posts. The ones that would widen a query are here on purpose.
POSTS: Policies = {
    "everything": lambda m, actor: true(),
    "nothing": lambda m, actor: false(),
    "one's own or public ones": lambda m, actor: or_(
        m.Post.public.is_(True), m.Post.author_id == actor.id
    ),
    "an OR that holds": lambda m, actor: or_(m.Post.title == "hello", true()),
    "an OR of a literal": lambda m, actor: or_(m.Post.id < 0, literal(1) == 1),
    "a negation": lambda m, actor: not_(and_(m.Post.public, m.Post.title == "nowhere")),
    "has": lambda m, actor: m.Post.author.has(
        m.Person.company.has(m.Company.name.in_(["Initrode", "Zenith"]))
    ),
    "has not": lambda m, actor: ~m.Post.author.has(m.Person.company.has(m.Company.name == "Hooli")),
    "a path": lambda m, actor: traverse_relationship_path(
        m.Post, ["author", "company", "people"], m.Person.name.in_(["zoe", "eve", "dan"])
    ),
    "any": lambda m, actor: m.Post.tags.any(m.Tag.name.in_(["blue", "secret"])),
    "not any": lambda m, actor: ~m.Post.tags.any(m.Tag.name == "secret"),
    "any or everything": lambda m, actor: or_(m.Post.tags.any(), m.Post.id > 0),
    "exists": lambda m, actor: exists().where(m.Person.id == m.Post.author_id, m.Person.age > 20),
    "exists of anybody's company": lambda m, actor: exists().where(m.Company.name == "Zenith"),
    "no such company": lambda m, actor: ~exists().where(m.Company.name == "Zenith"),
    "exists in Core": lambda m, actor: exists(
        select(m.post_tag.c.tag_id).where(m.post_tag.c.post_id == m.Post.id)
    ),
    "a subquery": lambda m, actor: m.Post.author_id.in_(
        select(m.Person.id).join(m.Person.company).where(m.Company.name != "Hooli")
    ),
    "not in a subquery": lambda m, actor: m.Post.author_id.not_in(
        select(m.Person.id).where(m.Person.name == "bob")
    ),
    "an alias": lambda m, actor: _of_an_alias(m),
    "a count": lambda m, actor: select(func.count(m.Company.id)).scalar_subquery() + m.Post.id > 4,
    "another tenant's": lambda m, actor: m.Post.author.has(
        or_(m.Person.tenant_id == "globex", m.Person.tenant_id != "acme")
    ),
    "the actor's tenant": lambda m, actor: m.Post.author.has(m.Person.tenant_id == actor.tenant),
}

# Of people, in queries that select other things, too.
PEOPLE: Policies = {
    "everybody": lambda m, actor: true(),
    "adults": lambda m, actor: or_(m.Person.age >= 18, m.Person.age.is_(None)),
    "another tenant's": lambda m, actor: or_(
        m.Person.tenant_id == "globex", m.Person.tenant_id != "acme", m.Person.id == actor.id
    ),
    "colleagues": lambda m, actor: or_(
        m.Person.company.has(m.Company.people.any(m.Person.id == actor.id)),
        m.Person.company_id.is_(None),
    ),
    "writers": lambda m, actor: m.Person.posts.any(m.Post.tags.any(m.Tag.name != "red")),
    "at a company that is there": lambda m, actor: m.Person.company_id.in_(select(m.Company.id)),
}


def _of_an_alias(m: Any) -> Any:
    author = aliased(m.Person)
    return m.Post.author_id.in_(select(author.id).where(author.name.in_(["ada", "zoe"])))


STATEMENTS: dict[str, Callable[[Any], Any]] = {
    "posts": lambda m: select(m.Post).order_by(m.Post.id),
    "people": lambda m: select(m.Person).order_by(m.Person.id),
    "posts and their authors": lambda m: (
        select(m.Post, m.Person).join(m.Post.author).order_by(m.Post.id)
    ),
    "people and their posts": lambda m: (
        select(m.Person, m.Post).outerjoin(m.Person.posts).order_by(m.Person.id, m.Post.id)
    ),
    "a column": lambda m: select(m.Post.title, m.Post.id).order_by(m.Post.id),
    "a count": lambda m: select(func.count(m.Post.id)),
    "a count of everybody": lambda m: select(m.Person.age, func.count()).group_by(m.Person.age),
    "written with OR": lambda m: (
        select(m.Post).where(or_(m.Post.title == "news", true())).order_by(m.Post.id.desc())
    ),
    "a page": lambda m: select(m.Post).order_by(m.Post.id).limit(2).offset(1),
    "a subquery": lambda m: select(m.Post).where(m.Post.author_id.in_(select(m.Person.id))),
    "a tag's": lambda m: select(m.Post).join(m.Post.tags).order_by(m.Tag.id, m.Post.id),
    "an alias": lambda m: select(aliased(m.Post)),
    "what no policy is for": lambda m: select(m.Company),
}


def registry_of(m: Any, **policies: Any) -> PolicyRegistry:
    """By model; a policy is for reading unless it is a dict of actions."""
    registry = PolicyRegistry()
    for model, said in policies.items():
        for action, rule in (said if isinstance(said, dict) else {READ: said}).items():
            policy(getattr(m, model), action, registry=registry)(
                lambda actor, rule=rule: rule(m, actor)
            )

    return registry


@pytest.fixture
def places() -> dict[str, Place]:
    return {kind: place(kind) for kind in ("sqlite", "postgresql")}


@pytest.fixture(params=DRIVERS)
async def desk(request: pytest.FixtureRequest, places: dict[str, Place]) -> AsyncIterator[Desk]:
    kind = "postgresql" if request.param in ("psycopg", "asyncpg") else "sqlite"
    desk = places[kind].desk(request.param)
    yield desk
    await desk.dispose()


def plain(value: Any) -> Any:
    if isinstance(value, (list, tuple, sqlalchemy.Row)):
        return [plain(item) for item in value]

    return getattr(value, "id", value) if hasattr(value, "metadata") else value


async def found(desk: Desk, statement: Any, tenant: str | None = None) -> Any:
    """The rows, or the type of the error."""

    def work(session: Session) -> Any:
        listed = plain(session.execute(statement).all())
        return listed if statement._order_by_clauses else sorted(listed, key=repr)

    try:
        return await desk.run(work, tenant)
    except InvalidRequestError as error:
        return type(error)


# E3, E9


def authorized(m: Any, policies: Any, statement: Any, actor: Actor) -> Any:
    posts, people = policies
    registry = registry_of(m, Post=posts, Person=people)
    return authorize_query(statement(m), actor=actor, action=READ, registry=registry)


def authorized_in(place: int, tenant: str, *asked: Any) -> Any:
    """Outside of any scope, inside another tenant's, or inside the tenant's own."""
    if place == 0:
        return authorized(WALLED, *asked)

    with tenant_scope(tenant if place == 2 else f"not {tenant}"):
        return authorized(WALLED, *asked)


OF_POSTS = [(posts, PEOPLE["adults"]) for posts in POSTS.values()]
OF_PEOPLE = [(POSTS["any or everything"], people) for people in PEOPLE.values()]
OF_THE_ACTOR = [
    (POSTS["one's own or public ones"], PEOPLE["colleagues"]),
    (POSTS["the actor's tenant"], PEOPLE["another tenant's"]),
]


@pytest.mark.parametrize(
    ("actor", "policies"),
    [(Actor(1), [*OF_POSTS, *OF_PEOPLE]), (Actor(2, "globex"), OF_THE_ACTOR)],
    ids=["an actor of acme", "an actor of globex"],
)
async def test_e3_authorize_query_shows_what_it_would_show_of_the_tenants_rows_alone(
    desk: Desk, actor: Actor, policies: Any
) -> None:
    """E3, E9: authorized before the scope is entered, or in it."""
    places = itertools.cycle(range(3))
    seen = set()
    for pair in policies:
        for name, statement in STATEMENTS.items():
            place = next(places)
            for tenant, m in ALONE.items():
                walled = authorized_in(place, tenant, pair, statement, actor)
                alone = await found(desk, authorized(m, pair, statement, actor))
                assert await found(desk, walled, tenant) == alone, name
                seen.add(repr(alone))

    assert len(seen) > 15


async def test_e3_no_order_of_authorizing_and_filtering_makes_a_difference(desk: Desk) -> None:
    m = WALLED
    registry = registry_of(m, Post=POSTS["an OR that holds"])
    hello = m.Post.title == "hello"
    for tenant, key in zip(TENANTS, (1, 2), strict=True):
        first = authorize_query(select(m.Post), actor=Actor(1), action=READ, registry=registry)
        later = authorize_query(
            select(m.Post).where(or_(hello, m.Post.id > 0)),
            actor=Actor(1),
            action=READ,
            registry=registry,
        )
        assert await found(desk, first.where(hello), tenant) == [[key]]
        assert await found(desk, later.where(hello), tenant) == [[key]]


async def test_e3_text_in_a_policy_cannot_undo_the_wall(desk: Desk) -> None:
    registry = registry_of(
        WALLED,
        Post=lambda m, actor: sqlalchemy.text("staff_post.public OR 1 = 1"),
        Person=lambda m, actor: sqlalchemy.text("staff_person.id IN (SELECT id FROM staff_person)"),
    )
    posts, people = (
        authorize_query(select(model), actor=Actor(1), action=READ, registry=registry)
        for model in (WALLED.Post, WALLED.Person)
    )
    for tenant, keys in (("acme", [1, 3, 5, 7]), ("globex", [2, 4, 6, 8])):
        assert await found(desk, posts, tenant) == [[key] for key in keys]
        with pytest.raises(UnscopedStatementError, match="staff_person"):
            await found(desk, people, tenant)


async def test_e9_several_policies_widen_each_other_and_scopes_narrow_them_inside_the_tenant(
    desk: Desk,
) -> None:
    def rules(m: Any) -> PolicyRegistry:
        registry = registry_of(m, Post=POSTS["one's own or public ones"])
        for rule in (POSTS["everything"], POSTS["exists of anybody's company"]):
            policy(m.Post, READ, registry=registry)(lambda actor, rule=rule: rule(m, actor))

        @scope(applies_to=[m.Post], registry=registry)
        def by_author(actor: Actor, model: Any) -> Any:
            return model.author.has(m.Person.tenant_id == actor.tenant)

        return registry

    for actor in (Actor(1, "acme"), Actor(2, "globex")):
        for tenant, alone in ALONE.items():
            statements = [
                authorize_query(select(m.Post), actor=actor, action=READ, registry=rules(m))
                for m in (WALLED, alone)
            ]
            walled = await found(desk, statements[0], tenant)
            assert walled == await found(desk, statements[1])
            assert bool(walled) == (actor.tenant == tenant)


async def test_e9_without_a_tenant_no_policy_opens_anything(desk: Desk) -> None:
    registry = registry_of(WALLED, Post=POSTS["everything"])
    statement = authorize_query(select(WALLED.Post), actor=Actor(1), action=READ, registry=registry)
    for _ in TENANTS:
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            await found(desk, statement)

    with unscoped("authorization alone"):
        assert len(await found(desk, statement)) == 8


# E3, E9: the interceptor


def intercepted(desk: Desk, m: Any, registry: PolicyRegistry, **options: Any) -> Any:
    """Session makers of both kinds; the listeners are on the class of the inner session."""
    config = AuthzConfig(**options.pop("config", {}))
    actor = options.pop("actor", Actor(1))
    calls = options.pop("calls", [])

    def provide() -> Actor:
        calls.append(actor)
        return actor

    made = sessionmaker(class_=Session, **options)
    install_interceptor(made, actor_provider=provide, registry=registry, config=config)
    if desk.is_async:
        return async_sessionmaker(desk.engine, sync_session_class=made.class_)

    made.configure(bind=desk.engine)
    return made


async def perform(
    desk: Desk, sessions: Any, work: Callable[[Session], Any], tenant: str | None = None
) -> Any:
    """What the work gives back, or the type of its error; rolled back."""
    if tenant is not None:
        with tenant_scope(tenant):
            return await perform(desk, sessions, work)

    try:
        if desk.is_async:
            async with sessions() as session:
                return await session.run_sync(work)

        with sessions() as session:
            return work(session)
    except Exception as error:  # noqa: BLE001  what was raised is what is compared
        return type(error)


def _loads(m: Any, load: Any) -> Callable[[Session], Any]:
    def work(session: Session) -> Any:
        people = session.scalars(select(m.Person).options(load(m.Person.posts)).order_by("id"))
        return [(person.id, plain(person.posts)) for person in people.unique()]

    return work


def _lazily(m: Any) -> Callable[[Session], Any]:
    def work(session: Session) -> Any:
        posts = session.scalars(select(m.Post).order_by(m.Post.id)).all()
        return [
            (post.id, post.author and post.author.id, plain(post.tags), plain(post.author.posts))
            for post in posts
            if post.author is not None
        ]

    return work


def _gets(m: Any) -> Callable[[Session], Any]:
    return lambda session: [plain(session.get(m.Post, key)) for key in range(1, 10)]


def _counts(m: Any) -> Callable[[Session], Any]:
    return lambda session: (
        session.scalar(select(func.count()).select_from(m.Post)),
        session.scalar(select(func.count(m.Post.id))),
        plain(session.execute(select(m.post_tag).order_by(*m.post_tag.c)).all()),
    )


def _skipping(m: Any) -> Callable[[Session], Any]:
    skip = {"skip_authz": True}
    return lambda session: plain(
        session.scalars(select(m.Post).order_by(m.Post.id), execution_options=skip).all()
    )


def _merges(m: Any) -> Callable[[Session], Any]:
    return lambda session: plain(session.merge(m.Post(id=1, title="merged")).author_id)


WORK: dict[str, Callable[[Any], Callable[[Session], Any]]] = {
    "selectin": lambda m: _loads(m, selectinload),
    "joined": lambda m: _loads(m, joinedload),
    "subquery": lambda m: _loads(m, subqueryload),
    "lazy": _lazily,
    "get": _gets,
    "counts": _counts,
    "skip_authz": _skipping,
    "merge": _merges,
}


@pytest.mark.parametrize("work", WORK)
async def test_e3_the_interceptor_shows_what_it_would_show_of_the_tenants_rows_alone(
    desk: Desk, work: str
) -> None:
    seen = set()
    for posts in ("everything", "an OR that holds", "any", "has", "exists", "another tenant's"):
        for people in ("everybody", "another tenant's", "colleagues"):
            rules = {"Post": POSTS[posts], "Person": PEOPLE[people]}
            for tenant, alone in ALONE.items():
                walled, expected, asked = [], [], []
                for m, bound, results in ((WALLED, tenant, walled), (alone, None, expected)):
                    calls: list[Any] = []
                    sessions = intercepted(desk, m, registry_of(m, **rules), calls=calls)
                    results.append(await perform(desk, sessions, WORK[work](m), bound))
                    asked.append(len(calls))

                assert walled == expected, (posts, people, tenant)
                # Nothing that partywall asks the database by itself is taken for the actor's.
                assert asked[0] == asked[1]
                seen.add(repr(walled))

    assert len(seen) > 1


ACTIONS = {READ: POSTS["everything"], UPDATE: POSTS["an OR that holds"], DELETE: POSTS["any"]}
WRITES: dict[str, Callable[[Any], Any]] = {
    "update": lambda m: update(m.Post).values(title="changed"),
    "update with OR": lambda m: (
        update(m.Post).where(or_(m.Post.id < 3, true())).values(title="changed")
    ),
    "delete": lambda m: delete(m.Post),
    "what no policy is for": lambda m: update(m.Company).values(name="changed"),
}


@pytest.mark.parametrize("denied", ["filter", "raise"])
@pytest.mark.parametrize("write", WRITES)
async def test_e3_intercepted_writes_change_what_they_would_change_of_the_tenants_rows_alone(
    desk: Desk, write: str, denied: str
) -> None:
    config = {"intercept_updates": True, "intercept_deletes": True, "on_write_denied": denied}

    def work_of(m: Any) -> Callable[[Session], Any]:
        def work(session: Session) -> Any:
            if write == "delete":
                # On the walled tables the foreign key is real.
                session.execute(delete(m.post_tag).where(m.post_tag.c.post_id > 2))

            options = {"synchronize_session": False}
            count = session.execute(WRITES[write](m), execution_options=options).rowcount
            left = select(m.Post.id, m.Post.title).order_by(m.Post.id)
            return count, plain(session.execute(left).all())

        return work

    for tenant, alone in ALONE.items():
        results = [
            await perform(
                desk,
                intercepted(desk, m, registry_of(m, Post=ACTIONS), config=config),
                work_of(m),
                bound,
            )
            for m, bound in ((WALLED, tenant), (alone, None))
        ]
        assert results[0] == results[1]
        assert results[0] is not MissingTenantContextError


async def test_e3_a_write_reaches_no_row_of_the_other_tenant(desk: Desk) -> None:
    config = {"intercept_updates": True, "on_write_denied": "filter"}
    sessions = intercepted(desk, WALLED, registry_of(WALLED, Post=ACTIONS), config=config)

    def work(session: Session) -> Any:
        with tenant_scope("acme"):
            changed = session.execute(update(WALLED.Post).values(title="changed")).rowcount

        # Through the driver, where the wall cannot be.
        cursor = session.connection().connection.cursor()
        cursor.execute("SELECT id FROM staff_post WHERE title = 'changed' ORDER BY id")
        return changed, [key for (key,) in cursor.fetchall()]

    assert await perform(desk, sessions, work) == (4, [1, 3, 5, 7])


async def test_e3_creating_is_authorized_before_the_tenant_is_stamped(desk: Desk) -> None:
    """A policy for creating that reads the tenant needs an object that says it."""
    m = WALLED
    rule = {CREATE: lambda m, actor: m.Tag.tenant_id == actor.tenant, READ: POSTS["everything"]}
    config = {"intercept_creates": True}

    def creating(**values: Any) -> Callable[[Session], Any]:
        def work(session: Session) -> Any:
            tag = m.Tag(name="new", **values)
            session.add(tag)
            session.flush()
            return tag.tenant_id

        return work

    def sessions(actor: Actor) -> Any:
        registry = registry_of(m, Tag=rule)
        return intercepted(desk, m, registry, actor=actor, config=config)

    for tenant, other in zip(TENANTS, reversed(TENANTS), strict=True):
        mine, theirs = sessions(Actor(1, tenant)), sessions(Actor(1, other))
        assert await perform(desk, mine, creating(tenant_id=tenant), tenant) == tenant
        assert await perform(desk, mine, creating(), tenant) is WriteDeniedError
        assert await perform(desk, theirs, creating(tenant_id=tenant), tenant) is WriteDeniedError
        assert await perform(desk, theirs, creating(tenant_id=other), tenant) is (
            CrossTenantAccessError
        )

    authorize_create(Actor(1), m.Tag(tenant_id="acme"), registry=registry_of(m, Tag=rule))


async def test_e3_who_may_create_may_not_refer_to_a_foreign_row(desk: Desk) -> None:
    m = WALLED
    registry = registry_of(m, Post={CREATE: POSTS["everything"]})
    sessions = intercepted(desk, m, registry, config={"intercept_creates": True})

    def creating(author: int) -> Callable[[Session], Any]:
        def work(session: Session) -> Any:
            session.add(m.Post(author_id=author, title="new", public=True))
            session.flush()

        return work

    for tenant, mine, foreign in (("acme", 1, 2), ("globex", 2, 1)):
        assert await perform(desk, sessions, creating(mine), tenant) is None
        assert await perform(desk, sessions, creating(foreign), tenant) is (
            CrossTenantReferenceError
        )


EARLY = """
from sqla_authz import PolicyRegistry, policy
from sqla_authz.session import authorized_sessionmaker
from sqlalchemy import create_engine, select, true
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
import partywall

class Base(DeclarativeBase): pass

class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]

# Marking is installing: nothing of partywall's listens yet.
registry = PolicyRegistry()
policy(Note, "read", registry=registry)(lambda actor: (Note.id > 0) | true())
engine = create_engine("sqlite://", poolclass=StaticPool)
sessions = authorized_sessionmaker(engine, actor_provider=lambda: None, registry=registry)
partywall.tenant_aware(Note)
Base.metadata.create_all(engine)
for tenant in ("acme", "globex"):
    with partywall.tenant_scope(tenant), sessions.begin() as session:
        session.add(Note())
for tenant in ("acme", "globex"):
    with partywall.tenant_scope(tenant), sessions() as session:
        print(tenant, [note.tenant_id for note in session.scalars(select(Note))])
"""


def test_e3_the_interceptor_may_be_there_before_the_wall() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["acme ['acme']", "globex ['globex']"]


async def test_e8_all_makers_of_sessions_work_with_the_interceptor(desk: Desk) -> None:
    """E8: nothing of ours is installed on any of them."""
    registry = registry_of(WALLED, Post=POSTS["an OR that holds"])
    posts = select(WALLED.Post.id).order_by(WALLED.Post.id)
    if desk.is_async:
        inner = authorized_sessionmaker(None, actor_provider=lambda: Actor(1), registry=registry)

        class Mine(AsyncSession):
            sync_session_class = inner.class_

        made = [
            async_sessionmaker(desk.engine, sync_session_class=inner.class_),
            async_sessionmaker(desk.engine, class_=Mine),
            sessionmaker(desk.engine, class_=Mine),
        ]
        for make in made:
            for tenant, keys in (("acme", [1, 3, 5, 7]), ("globex", [2, 4, 6, 8])):
                with tenant_scope(tenant):
                    async with make() as session:
                        assert list(await session.scalars(posts)) == keys

        return

    made = [
        authorized_sessionmaker(
            desk.engine, actor_provider=lambda: Actor(1), registry=registry, **options
        )
        for options in ({}, {"class_": type("Mine", (Session,), {})}, {"expire_on_commit": False})
    ]
    for make in (*made, sqlalchemy.orm.scoped_session(made[0])):
        for tenant, keys in (("acme", [1, 3, 5, 7]), ("globex", [2, 4, 6, 8])):
            with tenant_scope(tenant):
                session = make()
                assert list(session.scalars(posts)) == keys
                session.close()


def test_the_library_cannot_listen_on_an_async_sessionmaker() -> None:
    """By itself, without tenants: the class of the inner session is what it can listen on."""
    with pytest.raises(InvalidRequestError, match="No such event"):
        install_authz_interceptor(async_sessionmaker(), actor_provider=lambda: Actor(1))


# Single rows


async def test_e3_a_foreign_row_is_not_there_and_is_not_denied(desk: Desk) -> None:
    """None says nothing; AuthorizationDenied would say that there is something."""
    m = WALLED
    nothing = registry_of(m, Person=lambda m, actor: m.Person.id == actor.id)
    for tenant, mine, denied, foreign in (("acme", 1, 3, 2), ("globex", 2, 4, 1)):
        who: dict[str, Any] = {"actor": Actor(mine), "registry": nothing}
        with tenant_scope(tenant):
            if desk.is_async:
                async with AsyncSession(desk.engine) as session:
                    assert (await async_safe_get(session, m.Person, mine, **who)).id == mine
                    for key in (denied, foreign, 99):
                        assert await async_safe_get(session, m.Person, key, **who) is None

                    for key in (foreign, 99):
                        got = await async_safe_get_or_raise(session, m.Person, key, **who)
                        assert got is None

                    with pytest.raises(AuthorizationDenied, match="Person"):
                        await async_safe_get_or_raise(session, m.Person, denied, **who)

                continue

            with Session(desk.engine) as session:
                assert safe_get(session, m.Person, mine, **who).id == mine
                for key in (denied, foreign, 99):
                    assert safe_get(session, m.Person, key, **who) is None

                for key in (foreign, 99):
                    assert safe_get_or_raise(session, m.Person, key, **who) is None

                with pytest.raises(AuthorizationDenied, match="Person"):
                    safe_get_or_raise(session, m.Person, denied, **who)


async def test_e3_point_checks_ask_nothing_and_know_only_what_was_loaded(desk: Desk) -> None:
    m = WALLED
    names = ["Zenith", "Initrode"]
    registry = registry_of(m, Person=lambda m, _: m.Person.company.has(m.Company.name.in_(names)))

    def work(session: Session) -> Any:
        people = select(m.Person).options(joinedload(m.Person.company)).order_by(m.Person.id)
        return [p.id for p in session.scalars(people) if can(Actor(1), READ, p, registry=registry)]

    # eve of acme (11) is at Zenith of globex: nobody can tell.
    assert await desk.run(work, "acme") == [1, 7]
    assert await desk.run(work, "globex") == [2, 8]


async def test_e13_the_library_explains_beside_the_wall(desk: Desk) -> None:
    m = WALLED
    registry = registry_of(m, Person=PEOPLE["adults"], Post=POSTS["has"])
    told = explain_query(select(m.Post), actor=Actor(1), action=READ, registry=registry)
    assert "EXISTS" in told.authorized_sql

    def work(session: Session) -> Any:
        person = session.scalars(select(m.Person).where(m.Person.name == "bob")).one()
        access = explain_access(Actor(1), READ, person, registry=registry)
        return access.allowed, can(Actor(1), READ, person, registry=registry)

    for tenant in TENANTS:
        assert await desk.run(work, tenant) == (True, True)


async def test_e13_explain_names_the_guards_of_what_a_policy_brings_in(desk: Desk) -> None:
    registry = registry_of(WALLED, Post=POSTS["has"])
    statement = authorize_query(select(WALLED.Post), actor=Actor(1), action=READ, registry=registry)
    told = explain(statement, desk.engine)
    assert told.tables["staff_post"] == "through author_id -> staff_person"
    assert told.tables["staff_person"] == "column tenant_id"
    assert told.tables["staff_company"] == "column tenant_id"
    assert all(f"staff_{name}.tenant_id = " in told.sql for name in ("person", "company"))
    for tenant in TENANTS:
        assert tenant not in told.sql


async def test_e9_the_librarys_own_assertions_and_checks_work(desk: Desk) -> None:
    m = WALLED
    registry = registry_of(m, Post=POSTS["everything"], Tag=lambda m, actor: m.Tag.name == "secret")

    def work(session: Session) -> None:
        assert_authorized(
            session, select(m.Post), Actor(1), READ, expected_count=4, registry=registry
        )
        assert_denied(session, select(m.Company), Actor(1), READ, registry=registry)
        assert_denied(session, select(m.Tag), Actor(1), READ, registry=registry)

    await desk.run(work, "acme")
    with pytest.raises(AssertionError, match="expected zero rows but got 1"):
        await desk.run(work, "globex")

    with pytest.raises(UnscopedModelError, match="Person"):
        verify_scopes(m.Base, field="tenant_id", registry=registry)


# FastAPI


@pytest.fixture
async def http(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    m = WALLED
    registry = registry_of(m, Person=lambda m, actor: or_(m.Person.name != "bob", false()))
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    add_error_handlers(app)
    install_error_handlers(app)
    make: Any = async_sessionmaker if desk.is_async else sessionmaker
    app.dependency_overrides[get_actor] = lambda: Actor(1)
    app.dependency_overrides[get_session] = tenant_session(make(desk.engine))

    def shown(person: Any) -> str:
        return f"{person.name} of {person.tenant_id}"

    @app.get("/people")
    async def people(
        found: Annotated[list[Any], AuthzDep(m.Person, READ, registry=registry)],
    ) -> Any:
        return [shown(person) for person in found]

    @app.get("/people/{key:int}")
    async def person(
        found: Annotated[Any, AuthzDep(m.Person, READ, id_param="key", registry=registry)],
    ) -> Any:
        return shown(found)

    @app.get("/checked/{key:int}")
    async def checked(key: int, session: Annotated[Any, Depends(get_session)]) -> Any:
        who: dict[str, Any] = {"actor": Actor(1), "registry": registry}
        if desk.is_async:
            found = await async_safe_get_or_raise(session, m.Person, key, **who)
        else:
            found = safe_get_or_raise(session, m.Person, key, **who)

        return found and shown(found)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_e9_dependencies_list_and_find_the_tenants_rows(http: Any) -> None:
    for tenant, names, mine in (
        ("acme", ["ada", "cyd", "dan", "eve", "fay"], 1),
        ("globex", ["ada", "cyd", "zoe"], 2),
    ):
        as_tenant = {"headers": {"x-tenant": tenant}}
        listed = (await http.get("/people", **as_tenant)).json()
        assert sorted(listed) == [f"{name} of {tenant}" for name in names]
        assert (await http.get(f"/people/{mine}", **as_tenant)).json() == f"ada of {tenant}"

    assert (await http.get("/people")).status_code == 400


async def test_d12_denied_foreign_and_absent_are_answered_alike(http: Any) -> None:
    for tenant, denied, foreign in (("acme", 3, 2), ("globex", 4, 1)):
        answers = [
            await http.get(f"/people/{key}", headers={"x-tenant": tenant})
            for key in (denied, foreign, 99)
        ]
        assert {(a.status_code, a.text, str(sorted(a.headers.items()))) for a in answers} == {
            (404, '{"detail":"Not found"}', str(sorted(answers[0].headers.items())))
        }
        checked = [
            await http.get(f"/checked/{key}", headers={"x-tenant": tenant})
            for key in (denied, foreign, 99)
        ]
        assert [answer.status_code for answer in checked] == [403, 200, 200]
        assert checked[1].text == checked[2].text == "null"
