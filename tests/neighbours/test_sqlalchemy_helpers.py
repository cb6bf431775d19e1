"""The managers and the models of sqlalchemy-helpers: lines C1 to C3, C17 and C21.

Two tenants with the same names, titles and shelf numbers.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.orm import DeclarativeBase, joinedload, selectinload
from sqlalchemy_helpers import Base, aio

import authors
from authors import (
    LIBRARIES,
    NAMES,
    ON_SQLITE,
    SEED,
    SYNC,
    AsyncLibrary,
    Place,
    SyncLibrary,
    build,
    maybe,
)
from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    UnscopedStatementError,
    atenant_scope,
    tenant_scope,
    tenant_text,
    unscoped,
)

TENANTS = ["acme", "globex"]
NO_TENANT = "No tenant is current"
SERVES_ACME = "serves tenant 'acme', but the current tenant is 'globex'"

# pytest finds fixtures by the names a module has for them.
database, place, library = authors.database, authors.place, authors.library
sync_library, async_library = authors.sync_library, authors.async_library


# C1


async def test_c1_models_on_the_async_base_keep_to_the_tenant(
    place: Place, async_library: AsyncLibrary
) -> None:
    m = async_library.models
    for tenant in TENANTS:
        async with atenant_scope(tenant), async_library.session() as session:
            session.add(m.Author(name="eve", books=[m.Book(title="Walden")]))
            await session.commit()

    for tenant, title in [("acme", "Emma"), ("globex", "Emma")]:
        async with atenant_scope(tenant), async_library.session() as session:
            found = await session.scalars(
                select(m.Author)
                .order_by(m.Author.name)
                .options(selectinload(m.Author.books), joinedload(m.Author.books, m.Book.notes))
            )
            authors = {author.name: author for author in found.unique()}
            assert {author.tenant_id for author in authors.values()} == {tenant}
            assert [book.title for book in authors["ada"].books] == [title]
            assert [note.text for note in authors["ada"].books[0].notes] == [f"Emma of {tenant}"]
            assert [book.title for book in authors["eve"].books] == ["Walden"]
            streamed = await session.stream_scalars(select(m.Note.text).order_by(m.Note.id))
            assert await streamed.all() == [f"Emma of {tenant}", f"Ulysses of {tenant}"]

    assert {row[1:3] for row in place.added()} == {("acme", "eve"), ("globex", "eve")}


async def test_c1_the_async_manager_serves_tenants_at_once(async_library: AsyncLibrary) -> None:
    m = async_library.models

    async def names(tenant: str) -> Any:
        async with atenant_scope(tenant), async_library.session() as session:
            await asyncio.sleep(0)
            return set((await session.execute(select(m.Author.tenant_id, m.Author.name))).all())

    found = await asyncio.gather(*map(names, TENANTS * 4))

    assert (
        found
        == [
            {("acme", name) for name in NAMES},
            {("globex", name) for name in [*NAMES, "dan"]},
        ]
        * 4
    )


# C2


async def test_c2_awaitable_attributes_bring_the_tenants_rows(async_library: AsyncLibrary) -> None:
    """The author of globex's book 6 is acme's ada."""
    m = async_library.models
    async with atenant_scope("acme"), async_library.session() as session:
        ada = await session.get(m.Author, 1)
        books = await ada.awaitable_attrs.books
        assert [(book.id, book.tenant_id) for book in books] == [(1, "acme")]
        assert [note.text for note in await books[0].awaitable_attrs.notes] == ["Emma of acme"]

    async with atenant_scope("globex"), async_library.session() as session:
        book = await session.get(m.Book, 6)
        assert await book.awaitable_attrs.author is None
        assert (await (await session.get(m.Book, 2)).awaitable_attrs.author).name == "ada"


async def test_c2_awaitable_attributes_of_another_tenant_are_refused(
    async_library: AsyncLibrary,
) -> None:
    m = async_library.models
    async with async_library.session() as session:
        async with atenant_scope("acme"):
            ada = await session.get(m.Author, 1)
            cyd = await session.get(m.Author, 5)
            session.expire(cyd, ["full_name"])

        async with atenant_scope("globex"):
            with pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
                await ada.awaitable_attrs.books

            with pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
                await cyd.awaitable_attrs.full_name

        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            await ada.awaitable_attrs.books

        async with atenant_scope("acme"):
            assert [book.id for book in await ada.awaitable_attrs.books] == [1]
            assert await cyd.awaitable_attrs.full_name == "cyd of acme"


# C3


@pytest.mark.parametrize("flavour", LIBRARIES)
async def test_c3_a_manager_with_engine_arguments_serves_two_tenants(
    place: Place, flavour: str
) -> None:
    library = LIBRARIES[flavour](place, engine_args={"pool_size": 1, "max_overflow": 0})
    author = library.models.Author
    for tenant in [*TENANTS, "acme"]:
        with tenant_scope(tenant):
            async with library.session() as session:
                assert isinstance(session, library.session_class)
                assert set(await maybe(session.scalars(select(author.tenant_id)))) == {tenant}
                renamed = await maybe(session.execute(update(author).values(full_name=tenant)))
                assert renamed.rowcount == (4 if tenant == "globex" else 3)
                await maybe(session.commit())

        async with library.session() as session:
            with pytest.raises(MissingTenantContextError, match=NO_TENANT):
                await maybe(session.scalars(select(author)))

    assert place.stored("author", "tenant_id, full_name") == {
        ("acme", "acme"): 3,
        ("globex", "globex"): 4,
    }
    await library.close()


@pytest.mark.parametrize("flavour", LIBRARIES)
async def test_c3_a_managers_engine_is_walled(place: Place, flavour: str) -> None:
    library = LIBRARIES[flavour](place)
    table = library.models.Author.__table__
    engine = library.manager.engine

    def work(connection: Any) -> Any:
        with pytest.raises(UnscopedStatementError, match="helpers_author"):
            connection.execute(text("SELECT * FROM helpers_author"))

        connection.execute(insert(table), [{"name": "eve", "full_name": "new"}])
        connection.execute(delete(table).where(table.c.name == "cyd"))
        own = tenant_text("SELECT name FROM helpers_author WHERE tenant_id = :tenant ORDER BY name")
        return connection.execute(own).scalars().all()

    with tenant_scope("acme"):
        if flavour == "sync":
            with engine.begin() as connection:
                names = work(connection)

        else:
            async with engine.begin() as connection:
                names = await connection.run_sync(work)

    assert names == ["ada", "bob", "eve"]
    assert place.stored("author", "tenant_id, name") == Counter(
        [("acme", name) for name in names] + [("globex", name) for name in [*NAMES, "dan"]]
    )
    await library.close()


# C17


def test_c17_managers_and_models_work_without_a_web_framework() -> None:
    script = """
import sys
from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy_helpers import Base, DatabaseManager
from partywall import SessionScope, tenant_aware, tenant_scope

@tenant_aware
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    name: Mapped[str]

db = DatabaseManager("sqlite://", "migrations")
Base.metadata.create_all(db.engine)
for tenant in ["acme", "globex"]:
    with tenant_scope(tenant):
        print(User.get_or_create(name="ada")[1], db.Session.scalars(select(User.tenant_id)).all())
        db.Session.commit()
        db.Session.remove()

print({"fastapi", "flask", "starlette", "werkzeug"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.stdout.splitlines() == ["True ['acme']", "True ['globex']", "set()"], done.stderr


class PlainBase(DeclarativeBase):
    pass


PLAIN = build(PlainBase)


@pytest.mark.parametrize("flavour", LIBRARIES)
@pytest.mark.parametrize("models", [None, PLAIN])
async def test_c17_a_model_can_change_its_base(place: Place, flavour: str, models: Any) -> None:
    """On the library's base, or on one of the application's own that the manager is told of."""
    given = {} if models is None else {"models": models, "base_model": PlainBase}
    library = LIBRARIES[flavour](place, **given)
    m = library.models
    for tenant in TENANTS:
        with tenant_scope(tenant):
            async with library.session() as session:
                author, created = await library.call(session, m.Author, "get_or_create", name="ada")
                assert (author.tenant_id, created) == (tenant, False)
                await library.call(
                    session, m.Author, "update_or_create", name="eve", defaults={"full_name": "E"}
                )
                await maybe(session.commit())

    with tenant_scope("acme"):
        async with library.session() as session:
            assert await library.call(session, m.Author, "get_by_pk", 2) is None
            with pytest.raises(NoResultFound, match="No row was found"):
                await library.call(session, m.Author, "get_one", name="dan")

    await library.close()
    assert {row[1:4] for row in place.added()} == {("acme", "eve", "E"), ("globex", "eve", "E")}


# C21


def test_c21_the_naming_convention_stays(place: Place, sync_library: SyncLibrary) -> None:
    for base in [Base, aio.Base]:
        tables = base.metadata.tables
        assert {each.name for each in tables["helpers_author"].constraints} == {
            "pk_helpers_author",
            "uq_helpers_author_tenant_id",
            "uq_helpers_author_handle",
        }
        assert {each.name for each in tables["helpers_book"].foreign_key_constraints} == {
            "fk_helpers_book_author_id_helpers_author"
        }

    with tenant_scope("acme"), pytest.raises(IntegrityError) as refused:
        SYNC.Author.get_or_create(name="ada", full_name="another")

    assert place.kind == "sqlite" or "uq_helpers_author_tenant_id" in str(refused.value)
    assert "globex" not in str(refused.value)


@ON_SQLITE
def test_c21_foreign_keys_are_on_in_the_managers_sqlite_engine(
    place: Place, sync_library: SyncLibrary
) -> None:
    scoped = sync_library.manager.Session
    for tenant in [None, *TENANTS]:
        with unscoped("a pragma") if tenant is None else tenant_scope(tenant):
            assert scoped.execute(text("PRAGMA foreign_keys")).scalar() == 1
            scoped.remove()

    for tenant, own, foreign in [("acme", 1, 2), ("globex", 2, 1)]:
        with tenant_scope(tenant):
            with pytest.raises(IntegrityError, match="FOREIGN KEY constraint failed"):
                SYNC.Book.get_or_create(title="new", author_id=999)

            scoped.rollback()
            with pytest.raises(CrossTenantReferenceError, match="helpers_author"):
                SYNC.Book.get_or_create(title="new", author_id=foreign)

            scoped.rollback()
            with pytest.raises(IntegrityError, match="FOREIGN KEY constraint failed"):
                scoped.execute(delete(SYNC.Author).where(SYNC.Author.id.in_([own, foreign])))

            scoped.rollback()
            assert SYNC.Book.get_or_create(title="new", author_id=own)[1]
            scoped.commit()
            scoped.remove()

    assert {row[1:] for row in place.added("book")} == {("acme", 1, "new"), ("globex", 2, "new")}
    assert place.stored("author", "*") == SEED["author"]
