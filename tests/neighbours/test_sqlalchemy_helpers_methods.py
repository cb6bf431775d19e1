"""The methods that sqlalchemy-helpers gives to models: lines C5 to C8.

Sync ones use the manager's scoped_session; async ones are given their session.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, MultipleResultsFound, NoResultFound
from sqlalchemy_helpers import aio, get_or_create

import authors
from authors import (
    LIBRARIES,
    NAMES,
    ON_SQLITE,
    AsyncLibrary,
    Place,
    maybe,
)
from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    tenant_scope,
    unscoped,
)

TENANTS = ["acme", "globex"]
NO_TENANT = "No tenant is current"
SERVES_ACME = "serves tenant 'acme', but the current tenant is 'globex'"

# pytest finds fixtures by the names a module has for them.
database, place, library = authors.database, authors.place, authors.library
sync_library, async_library = authors.sync_library, authors.async_library


# C5


async def test_c5_get_one_finds_the_tenants_row(library: Any) -> None:
    m = library.models
    for owner, tenant in enumerate(TENANTS, 1):
        with tenant_scope(tenant):
            async with library.session() as session:
                for place, name in enumerate(NAMES):
                    author = await library.call(session, m.Author, "get_one", name=name)
                    assert (author.id, author.tenant_id) == (2 * place + owner, tenant)


@ON_SQLITE
@pytest.mark.parametrize(
    "foreign",
    [{"id": 2}, {"name": "dan"}, {"handle": "dan"}, {"tenant_id": "globex", "name": "ada"}],
)
async def test_c5_a_foreign_row_is_no_result(library: Any, foreign: Any) -> None:
    m = library.models
    with tenant_scope("acme"):
        async with library.session() as session:
            with pytest.raises(NoResultFound, match="No row was found when one was required"):
                await library.call(session, m.Author, "get_one", **foreign)

    with tenant_scope("globex"):
        async with library.session() as session:
            author = await library.call(session, m.Author, "get_one", **foreign)
            assert author.tenant_id == "globex"

    async with library.session() as session:
        with pytest.raises(MissingTenantContextError, match=NO_TENANT):
            await library.call(session, m.Author, "get_one", **foreign)


@ON_SQLITE
async def test_c5_only_the_tenants_rows_can_be_too_many(library: Any) -> None:
    """acme has one Emma, globex two."""
    m = library.models
    with tenant_scope("acme"):
        async with library.session() as session:
            assert (await library.call(session, m.Book, "get_one", title="Emma")).id == 1

    with tenant_scope("globex"):
        async with library.session() as session:
            with pytest.raises(MultipleResultsFound, match="Multiple rows were found"):
                await library.call(session, m.Book, "get_one", title="Emma")


@ON_SQLITE
async def test_c5_a_row_owned_through_its_parent_too(library: Any) -> None:
    note = library.models.Note
    with tenant_scope("acme"):
        async with library.session() as session:
            assert (await library.call(session, note, "get_one", text="Emma of acme")).id == 1
            with pytest.raises(NoResultFound, match="No row was found"):
                await library.call(session, note, "get_one", text="Emma of globex")


# C6


async def test_c6_a_foreign_key_is_none(library: Any) -> None:
    m = library.models
    found = {}
    for tenant in TENANTS:
        with tenant_scope(tenant):
            async with library.session() as session:
                for model, key in [
                    *((m.Author, key) for key in range(1, 10)),
                    *((m.Book, key) for key in range(1, 7)),
                    *((m.Note, key) for key in range(1, 5)),
                    *((m.Shelf, (owner, 1)) for owner in TENANTS),
                ]:
                    if await library.call(session, model, "get_by_pk", key) is not None:
                        found.setdefault(tenant, {}).setdefault(model.__name__, []).append(key)

    assert found == {
        "acme": {"Author": [1, 3, 5], "Book": [1, 3], "Note": [1, 3], "Shelf": [("acme", 1)]},
        "globex": {
            "Author": [2, 4, 6, 8],
            "Book": [2, 4, 6],
            "Note": [2, 4],
            "Shelf": [("globex", 1)],
        },
    }


async def test_c6_a_warm_session_of_another_tenant_is_refused(library: Any) -> None:
    m = library.models
    keys = [(m.Author, 1), (m.Author, 2), (m.Note, 1), (m.Shelf, ("acme", 1))]
    async with library.session() as session:
        with tenant_scope("acme"):
            held = [await library.call(session, *each[:1], "get_by_pk", each[1]) for each in keys]

        for model, key in keys:
            with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
                await library.call(session, model, "get_by_pk", key)

            with pytest.raises(MissingTenantContextError, match=NO_TENANT):
                await library.call(session, model, "get_by_pk", key)

            with (
                unscoped("a look at every row"),
                pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"),
            ):
                await library.call(session, model, "get_by_pk", key)

        assert [each is None for each in held] == [False, True, False, False]
        await maybe(session.close())
        with tenant_scope("globex"):
            assert await library.call(session, m.Author, "get_by_pk", 1) is None
            assert (await library.call(session, m.Author, "get_by_pk", 2)).tenant_id == "globex"


# C7


async def test_c7_the_same_name_in_two_tenants_makes_two_rows(place: Place, library: Any) -> None:
    m = library.models
    keys = {}
    for turn in [True, False]:
        for tenant in TENANTS:
            with tenant_scope(tenant):
                async with library.session() as session:
                    author, created = await library.call(
                        session, m.Author, "get_or_create", name="eve"
                    )
                    assert (created, author.tenant_id) == (turn, tenant)
                    assert keys.setdefault(tenant, author.id) == author.id
                    await maybe(session.commit())

    assert {row[:3] for row in place.added()} == {
        (keys["acme"], "acme", "eve"),
        (keys["globex"], "globex", "eve"),
    }


async def test_c7_what_another_tenant_has_is_created(place: Place, library: Any) -> None:
    """dan, shelf 2 and the second Emma are globex's alone."""
    m = library.models
    place.execute("INSERT INTO helpers_shelf VALUES ('globex', 2, 'shelf')")
    with tenant_scope("acme"):
        async with library.session() as session:
            for model, attrs in [
                (m.Author, {"name": "dan"}),
                (m.Author, {"name": "eve", "tenant_id": "acme"}),
                (m.Shelf, {"number": 2, "label": "shelf"}),
                (m.Note, {"book_id": 1, "text": "Emma of globex"}),
            ]:
                made, created = await library.call(session, model, "get_or_create", **attrs)
                again, twice = await library.call(session, model, "get_or_create", **attrs)
                assert (created, twice, again is made) == (True, False, True)

            await maybe(session.commit())

    assert {row[1:3] for row in place.added()} == {("acme", "dan"), ("acme", "eve")}
    assert place.stored("shelf", "*")["globex", 2, "shelf"] == 1
    assert place.stored("shelf", "*")["acme", 2, "shelf"] == 1
    assert {row[1:] for row in place.added("note")} == {(1, "Emma of globex")}


FOREIGN = [
    ("Author", {"name": "eve", "tenant_id": "globex"}, CrossTenantAccessError, "'globex'"),
    ("Author", {"name": "ada", "tenant_id": "globex"}, CrossTenantAccessError, "'globex'"),
    ("Shelf", {"number": 1, "label": "x", "tenant_id": "globex"}, CrossTenantAccessError, "globex"),
    ("Book", {"title": "Emma", "author_id": 2}, CrossTenantReferenceError, "helpers_author"),
    ("Note", {"text": "x", "book_id": 2}, CrossTenantReferenceError, "helpers_book"),
]


@ON_SQLITE
@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
@pytest.mark.parametrize(("model", "attrs", "error", "message"), FOREIGN)
async def test_c7_nothing_foreign_is_created(
    place: Place, library: Any, method: str, model: str, attrs: Any, error: Any, message: str
) -> None:
    m = library.models
    with tenant_scope("acme"):
        async with library.session() as session:
            with pytest.raises(error, match=message):
                await library.call(session, getattr(m, model), method, **attrs)

            await maybe(session.rollback())
            assert (await library.call(session, m.Author, "get_or_create", name="eve"))[1]
            await maybe(session.commit())

    assert {row[1:3] for row in place.added()} == {("acme", "eve")}
    assert not place.added("book") + place.added("note") + place.added("shelf")


@ON_SQLITE
@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
async def test_c7_without_a_tenant_nothing_is_created(
    place: Place, library: Any, method: str
) -> None:
    async with library.session() as session:
        for name in ["ada", "eve"]:
            with pytest.raises(MissingTenantContextError, match=NO_TENANT):
                await library.call(session, library.models.Author, method, name=name)

    assert place.is_untouched()


@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
async def test_c7_a_duplicate_of_the_tenants_own_is_an_integrity_error_and_no_more(
    place: Place, library: Any, method: str
) -> None:
    """acme has a bob with another full name; dan is globex's, and no duplicate."""
    author = library.models.Author
    with tenant_scope("acme"):
        async with library.session() as session:
            await library.call(session, author, method, name="before")
            for name, full_name in [("bob", "unknown"), ("dan", "dan of globex")]:
                nested = await maybe(session.begin_nested())
                try:
                    _, created = await library.call(
                        session, author, method, name=name, full_name=full_name
                    )
                    await maybe(nested.commit())
                    assert (name, created) == ("dan", True)
                except IntegrityError:
                    await maybe(nested.rollback())
                    found = await library.call(session, author, "get_one", name=name)
                    assert (name, found.id) == ("bob", 3)

            await library.call(session, author, method, name="after")
            await maybe(session.commit())

    assert {row[1:4] for row in place.added()} == {
        ("acme", "before", ""),
        ("acme", "dan", "dan of globex"),
        ("acme", "after", ""),
    }


@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
async def test_c7_after_an_integrity_error_and_a_rollback_the_session_serves_its_tenant(
    place: Place, library: Any, method: str
) -> None:
    """A handle is unique over all tenants; globex has this one, and keeps it."""
    author = library.models.Author
    with tenant_scope("acme"):
        async with library.session() as session:
            with pytest.raises(IntegrityError, match="handle"):
                await library.call(session, author, method, name="eve", handle="dan")

            await maybe(session.rollback())
            assert (await library.call(session, author, method, name="eve"))[1]
            await maybe(session.commit())

    assert {row[1:5] for row in place.added()} == {("acme", "eve", "", None)}


async def test_c7_tenants_that_create_the_same_name_at_once_do_not_meet(
    place: Place, library: Any
) -> None:
    """Both transactions are open together; on SQLite the second waits for its turn."""
    author = library.models.Author
    other = LIBRARIES["async" if isinstance(library, AsyncLibrary) else "sync"](place)
    with tenant_scope("acme"):
        first = library.manager.Session()
        one = author(name="eve")
        first.add(one)
        if place.kind == "postgresql":
            await maybe(first.flush())

    with tenant_scope("globex"):
        second = other.manager.Session()
        assert (await get_or_create_of(other)(second, author, name="eve"))[1]
        await maybe(second.commit())

    with tenant_scope("acme"):
        await maybe(first.commit())
        await maybe(first.close())

    await maybe(second.close())
    await other.close()
    assert {row[1:3] for row in place.added()} == {("acme", "eve"), ("globex", "eve")}


def get_or_create_of(library: Any) -> Any:
    async def call(session: Any, model: Any, **attrs: Any) -> Any:
        function = aio.get_or_create if isinstance(library, AsyncLibrary) else get_or_create
        return await maybe(function(session, model, **attrs))

    return call


# C8


async def test_c8_only_the_tenants_row_is_updated(place: Place, library: Any) -> None:
    author = library.models.Author
    for tenant in TENANTS:
        with tenant_scope(tenant):
            async with library.session() as session:
                for name in ["ada", "eve"]:
                    found, created = await library.call(
                        session,
                        author,
                        "update_or_create",
                        name=name,
                        defaults={"full_name": f"changed by {tenant}"},
                    )
                    assert (created, found.tenant_id) == (name == "eve", tenant)

                await maybe(session.commit())

    assert {row[1:4] for row in place.added()} == {
        (tenant, name, f"changed by {tenant}") for tenant in TENANTS for name in ["ada", "eve"]
    }
    assert sum(place.stored("author").values()) == 9


async def test_c8_what_another_tenant_has_is_created_and_not_updated(
    place: Place, library: Any
) -> None:
    author = library.models.Author
    with tenant_scope("acme"):
        async with library.session() as session:
            made, created = await library.call(
                session,
                author,
                "update_or_create",
                name="dan",
                defaults={"full_name": "updated"},
                create_defaults={"full_name": "created"},
            )
            await maybe(session.commit())
            assert (created, made.tenant_id, made.full_name) == (True, "acme", "created")

    assert {row[1:4] for row in place.added()} == {("acme", "dan", "created")}
    assert place.stored("author", "*")[8, "globex", "dan", "dan of globex", "dan"] == 1


async def test_c8_a_foreign_key_updates_nothing(place: Place, library: Any) -> None:
    """It is not found, and an INSERT with a key that is taken fails as it always does."""
    m = library.models
    with tenant_scope("acme"):
        async with library.session() as session:
            for attrs in [{"id": 2}, {"id": 8, "name": "dan"}]:
                with pytest.raises(IntegrityError, match="helpers_author"):
                    await library.call(
                        session,
                        m.Author,
                        "update_or_create",
                        defaults={"full_name": "x", "name": "new"},
                        **attrs,
                    )

                await maybe(session.rollback())

    assert place.is_untouched()


@pytest.mark.parametrize(
    ("model", "filters", "defaults", "error", "message"),
    [
        ("Author", {"name": "ada"}, {"tenant_id": "globex"}, CrossTenantAccessError, "'globex'"),
        ("Book", {"id": 1}, {"author_id": 2}, CrossTenantReferenceError, "helpers_author"),
        ("Note", {"id": 1}, {"book_id": 2}, CrossTenantReferenceError, "helpers_book"),
    ],
)
async def test_c8_a_row_is_not_handed_to_another_tenant(
    place: Place, library: Any, model: str, filters: Any, defaults: Any, error: Any, message: str
) -> None:
    m = library.models
    with tenant_scope("acme"):
        async with library.session() as session:
            _, created = await library.call(
                session, getattr(m, model), "update_or_create", defaults=defaults, **filters
            )
            assert not created
            with pytest.raises(error, match=message):
                await maybe(session.commit())

            await maybe(session.rollback())
            found = await library.call(session, m.Author, "get_one", name="ada")
            assert found.tenant_id == "acme"

    assert place.is_untouched()


async def test_c8_a_warm_session_of_another_tenant_is_refused(place: Place, library: Any) -> None:
    author = library.models.Author
    async with library.session() as session:
        with tenant_scope("acme"):
            ada = await library.call(session, author, "get_by_pk", 1)

        for name in ["ada", "eve"]:
            with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match=SERVES_ACME):
                await library.call(
                    session, author, "update_or_create", name=name, defaults={"full_name": "x"}
                )

        with tenant_scope("acme"):
            await maybe(session.commit())
            assert ada in session

    assert place.is_untouched()
