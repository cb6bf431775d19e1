"""The sessions of sqlalchemy-helpers, which outlive a request: lines C4 and C9.

The sync manager has a scoped_session, one per thread; its models' methods use that.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import async_scoped_session
from sqlalchemy_helpers import Base

import authors
from authors import (
    ON_SQLITE,
    SEED,
    SYNC,
    AsyncLibrary,
    Place,
    SyncLibrary,
)
from partywall import (
    CrossTenantAccessError,
    MissingTenantContextError,
    atenant_scope,
    tenant_scope,
)

TENANTS = ["acme", "globex"]
NO_TENANT = "No tenant is current"
SERVES_ACME = "serves tenant 'acme', but the current tenant is 'globex'"

# pytest finds fixtures by the names a module has for them.
database, place, library = authors.database, authors.place, authors.library
sync_library, async_library = authors.sync_library, authors.async_library


# C4: the scoped_session belongs to the thread, and so to one request after the other.


def _by_key(m: Any, session: Any) -> Any:
    return m.Author.get_by_pk(1)


def _by_own_key(m: Any, session: Any) -> Any:
    return m.Author.get_by_pk(2)


def _one(m: Any, session: Any) -> Any:
    return m.Author.get_one(name="ada")


def _get_or_create(m: Any, session: Any) -> Any:
    return m.Author.get_or_create(name="eve")


def _update_or_create(m: Any, session: Any) -> Any:
    return m.Author.update_or_create(name="ada", defaults={"full_name": "changed"})


def _list(m: Any, session: Any) -> Any:
    return session.scalars(select(m.Author)).all()


def _count(m: Any, session: Any) -> Any:
    return session.query(m.Author).count()


def _add(m: Any, session: Any) -> Any:
    return session.add(m.Author(name="eve"))


def _merge(m: Any, session: Any) -> Any:
    return session.merge(m.Author(id=2, full_name="changed"))


def _bulk(m: Any, session: Any) -> Any:
    return session.execute(update(m.Author).values(full_name="changed"))


USES = [_by_key, _by_own_key, _one, _get_or_create, _update_or_create, _list, _count, _add]
USES += [_merge, _bulk]


@ON_SQLITE
@pytest.mark.parametrize("use", USES)
def test_c4_a_warm_scoped_session_is_refused_to_the_next_tenant(
    place: Place, sync_library: SyncLibrary, use: Any
) -> None:
    scoped = sync_library.manager.Session
    with tenant_scope("acme"):
        ada = SYNC.Author.get_by_pk(1)

    with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
        use(SYNC, scoped())

    with tenant_scope("acme"):
        assert SYNC.Author.get_by_pk(1) is ada
        scoped.commit()

    with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
        use(SYNC, scoped())

    assert place.is_untouched()


@ON_SQLITE
@pytest.mark.parametrize("end", ["remove", "close"])
@pytest.mark.parametrize("use", USES)
def test_c4_an_ended_scoped_session_is_clean_for_the_next_tenant(
    place: Place, sync_library: SyncLibrary, use: Any, end: str
) -> None:
    scoped = sync_library.manager.Session
    with tenant_scope("acme"):
        held = [SYNC.Author.get_by_pk(1), *scoped.scalars(select(SYNC.Author))]
        SYNC.Author.get_or_create(name="never committed")
        getattr(scoped, end)()

    with tenant_scope("globex"):
        use(SYNC, scoped())
        scoped.commit()
        assert {author.tenant_id for author in scoped.scalars(select(SYNC.Author))} == {"globex"}
        assert not {*scoped.identity_map.values()} & {*held}

    assert place.stored("author")["acme"] == 3
    changed = place.stored("author", "*") - SEED["author"]
    assert {row[1] for row in changed} <= {"globex"}
    assert not any("never committed" in row for row in changed)


def test_c4_work_of_one_tenant_is_not_flushed_for_the_next(
    place: Place, sync_library: SyncLibrary
) -> None:
    scoped = sync_library.manager.Session
    with tenant_scope("acme"):
        scoped.add(SYNC.Author(name="eve"))

    for end in [scoped.flush, scoped.commit]:
        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
            end()

    assert place.is_untouched()
    with tenant_scope("acme"):
        scoped.commit()
        assert {row[1:3] for row in place.added()} == {("acme", "eve")}
        scoped.add(SYNC.Author(name="fay"))

    with pytest.raises(MissingTenantContextError, match=NO_TENANT):
        scoped.commit()

    scoped.rollback()
    with tenant_scope("acme"):
        scoped.commit()

    assert {row[1:3] for row in place.added()} == {("acme", "eve")}


def test_c4_a_transaction_of_one_tenant_takes_nothing_of_the_next(
    place: Place, sync_library: SyncLibrary
) -> None:
    scoped = sync_library.manager.Session
    with tenant_scope("acme"):
        SYNC.Author.get_or_create(name="eve")

    for method in [SYNC.Author.get_or_create, SYNC.Author.update_or_create]:
        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
            method(name="eve")

    with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
        scoped.add(SYNC.Author(name="eve"))

    with tenant_scope("acme"):
        scoped.commit()

    assert {row[1:3] for row in place.added()} == {("acme", "eve")}


def test_c4_a_transaction_of_one_tenant_is_not_committed_for_the_next(
    place: Place, sync_library: SyncLibrary
) -> None:
    scoped = sync_library.manager.Session
    for name, end in [("lost", scoped.rollback), ("kept", scoped.commit)]:
        with tenant_scope("acme"):
            SYNC.Author.get_or_create(name=name)

        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
            scoped.commit()

        assert place.is_untouched()
        end()

    assert {row[1:3] for row in place.added()} == {("acme", "kept")}
    with tenant_scope("globex"):
        scoped.commit()


@ON_SQLITE
def test_c4_a_method_that_was_fetched_earlier_is_refused_too(
    place: Place, sync_library: SyncLibrary
) -> None:
    with tenant_scope("acme"):
        by_key = SYNC.Author.get_by_pk
        held = by_key(1)

    with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
        by_key(1)

    assert held.id == 1


@pytest.mark.parametrize("ends", [True, False])
async def test_c4_one_worker_thread_serves_requests_of_two_tenants(
    place: Place, sync_library: SyncLibrary, ends: bool
) -> None:
    scoped = sync_library.manager.Session
    kept = []

    def request(tenant: str) -> Any:
        with tenant_scope(tenant):
            try:
                author, _ = SYNC.Author.get_or_create(name="eve")
                kept.append(author)
                scoped.commit()
                return {author.tenant_id for author in scoped.scalars(select(SYNC.Author))}
            except CrossTenantAccessError as refused:
                return str(refused)
            finally:
                if ends:
                    scoped.remove()

    with ThreadPoolExecutor(1) as worker:
        loop = asyncio.get_running_loop()
        asked = [
            loop.run_in_executor(worker, contextvars.copy_context().run, request, tenant)
            for tenant in TENANTS
        ]
        first, second = await asyncio.wait_for(asyncio.gather(*asked), 20)
        await loop.run_in_executor(worker, scoped.remove)

    assert first == {"acme"}
    assert second == {"globex"} if ends else SERVES_ACME in second
    assert [row[1:3] for row in sorted(place.added())] == (
        [("acme", "eve"), ("globex", "eve")] if ends else [("acme", "eve")]
    )


async def test_c4_threads_of_two_tenants_have_sessions_of_their_own(
    place: Place, sync_library: SyncLibrary
) -> None:
    scoped = sync_library.manager.Session

    def request(tenant: str) -> Any:
        with tenant_scope(tenant):
            author, created = SYNC.Author.update_or_create(name="ada", defaults={"full_name": "A"})
            scoped.commit()
            found = (author.tenant_id, created)
            scoped.remove()
            return found

    asked = [asyncio.to_thread(request, tenant) for tenant in TENANTS]

    assert await asyncio.wait_for(asyncio.gather(*asked), 20) == [
        ("acme", False),
        ("globex", False),
    ]
    assert {row[:4] for row in place.added()} == {
        (1, "acme", "ada", "A"),
        (2, "globex", "ada", "A"),
    }


async def test_c4_an_async_scoped_session_is_refused_or_clean(
    place: Place, async_library: AsyncLibrary
) -> None:
    author = async_library.models.Author
    scoped = async_scoped_session(async_library.manager.Session, scopefunc=lambda: "one for all")
    async with atenant_scope("acme"):
        held = await author.get_by_pk(1, session=scoped)
        await author.get_or_create(session=scoped, name="eve")

    async with atenant_scope("globex"):
        for method in [author.get_one, author.get_or_create, author.update_or_create]:
            with pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
                await method(session=scoped, name="ada")

        for key in [1, 2]:
            with pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
                await author.get_by_pk(key, session=scoped)

        with pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
            await scoped.commit()

        await scoped.remove()
        assert (await author.get_one(session=scoped, name="ada")).id == 2
        assert await author.get_by_pk(1, session=scoped) is None

    assert held.id == 1
    await scoped.remove()
    assert place.is_untouched()


@ON_SQLITE
def test_c4_a_table_of_nobody_is_read_under_every_tenant_in_one_session(
    place: Place, sync_library: SyncLibrary
) -> None:
    english = SYNC.Language.get_by_pk("en")
    for tenant in TENANTS:
        with tenant_scope(tenant):
            assert SYNC.Language.get_by_pk("en") is english
            assert SYNC.Language.get_or_create(code="en") == (english, False)

    assert SYNC.Language.get_or_create(code="fr")[1]
    sync_library.manager.Session.commit()
    assert place.stored("language", "code") == {"en": 1, "fr": 1}


# C9: 2.0 has the methods only; the property itself is SQLAlchemy's, on the manager's session.


@pytest.fixture
def query(sync_library: SyncLibrary) -> Iterator[Any]:
    Base.query = sync_library.manager.Session.query_property()
    yield lambda: SYNC.Author.query
    del Base.query


@pytest.mark.parametrize("tenant", TENANTS)
def test_c9_the_query_property_reads_the_tenants_rows(
    sync_library: SyncLibrary, query: Any, tenant: str
) -> None:
    with tenant_scope(tenant):
        own, foreign = (1, 2) if tenant == "acme" else (2, 1)
        assert query().count() == (3 if tenant == "acme" else 4)
        assert {author.tenant_id for author in query()} == {tenant}
        assert query().filter_by(name="ada").one().id == own
        assert query().filter_by(id=foreign).one_or_none() is None
        assert query().filter_by(id=foreign).first() is None
        assert sync_library.manager.Session().get(SYNC.Author, foreign) is None
        assert query().join(SYNC.Author.books).filter_by(title="Emma").one().id == own
        assert query().with_entities(func.max(SYNC.Author.id)).scalar() == (
            5 if tenant == "acme" else 8
        )
        assert [found.id for found in SYNC.Note.query.order_by(SYNC.Note.id)] == [own, own + 2]


def test_c9_the_query_property_writes_the_tenants_rows(
    place: Place, sync_library: SyncLibrary, query: Any
) -> None:
    with tenant_scope("globex"):
        assert query().filter_by(name="ada").update({"full_name": "changed"}) == 1
        assert query().filter(SYNC.Author.id.in_([1, 5, 8])).delete() == 1
        sync_library.manager.Session.commit()

    assert place.added() == {(2, "globex", "ada", "changed", None): 1}
    assert SEED["author"] - place.stored("author", "*") == {
        (2, "globex", "ada", "ada of globex", None): 1,
        (8, "globex", "dan", "dan of globex", "dan"): 1,
    }


def test_c9_the_query_property_of_a_warm_session_is_refused(
    sync_library: SyncLibrary, query: Any
) -> None:
    with pytest.raises(MissingTenantContextError, match=NO_TENANT):
        query().all()

    with tenant_scope("acme"):
        held = query().all()

    with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
        query().count()

    assert [author.id for author in held] == [1, 3, 5]
    sync_library.manager.Session.remove()
    with tenant_scope("globex"):
        assert query().count() == 4
