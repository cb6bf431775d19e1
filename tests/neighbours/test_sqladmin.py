"""sqladmin: an administration that is mounted on FastAPI shows and changes the tenant's rows.

Two tenants with the same titles: acme's ids are odd, globex's are even. What is stored is read
through the plain driver. A row of somebody else is answered like one that does not exist.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Column, Engine, ForeignKey, String, Table, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from starlette.middleware import Middleware

from partywall import TenantSessionMiddleware, tenant_aware
from partywall.fastapi import add_error_handlers
from partywall.resolvers import header

pytest.importorskip("sqladmin", reason="sqladmin is missing")

from sqladmin import Admin, ModelView
from sqladmin.filters import AllUniqueStringValuesFilter, ForeignKeyFilter

BOTH = ("acme", "globex")


class Base(DeclarativeBase):
    pass


def labels(name: str, model: str) -> Table:
    return Table(
        name,
        Base.metadata,
        Column("row_id", ForeignKey(f"{model}.id"), primary_key=True),
        Column("tag_id", ForeignKey("admin_tag.id"), primary_key=True),
    )


@tenant_aware
class Author(Base):
    __tablename__ = "admin_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(40))
    books: Mapped[list[Book]] = relationship(back_populates="author")

    def __str__(self) -> str:
        return self.name


@tenant_aware
class Tag(Base):
    __tablename__ = "admin_tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(40))

    def __repr__(self) -> str:
        return self.name


@tenant_aware
class Book(Base):
    """Its form offers authors and tags in selects that are filled beforehand."""

    __tablename__ = "admin_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(40))
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")
    tags: Mapped[list[Tag]] = relationship(secondary=labels("admin_book_tag", "admin_book"))

    def __str__(self) -> str:
        return self.title


@tenant_aware
class Review(Base):
    """Its form looks books and tags up while one types, and believes what it is sent."""

    __tablename__ = "admin_review"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    text: Mapped[str] = mapped_column(String(40))
    book_id: Mapped[int] = mapped_column(ForeignKey(Book.id))
    book: Mapped[Book] = relationship()
    tags: Mapped[list[Tag]] = relationship(secondary=labels("admin_review_tag", "admin_review"))

    def __str__(self) -> str:
        return self.text


def rows() -> Iterator[str]:
    for key, tenant in enumerate(BOTH, 1):
        for place, name in enumerate(["Ada", "Bob"]):
            author = key + 2 * place
            yield f"INSERT INTO admin_author VALUES ({author}, '{tenant}', '{name} of {tenant}')"
            yield f"INSERT INTO admin_tag VALUES ({author}, '{tenant}', 'tag {place} of {tenant}')"

        for place, title in enumerate(["Emma", "Ulysses"]):
            book = key + 2 * place
            yield (
                f"INSERT INTO admin_book VALUES ({book}, '{tenant}', '{title} of {tenant}', {book})"
            )
            yield f"INSERT INTO admin_book_tag VALUES ({book}, {key})"
            yield (
                f"INSERT INTO admin_review "
                f"VALUES ({book}, '{tenant}', 'review {place} of {tenant}', {book})"
            )


def views() -> list[Any]:
    class AuthorAdmin(ModelView, model=Author):
        column_list = ["id", "name", "books"]
        column_searchable_list = ["name"]
        column_sortable_list = ["id", "name"]
        form_columns = ["name"]
        can_import = True
        column_import_list = ["name"]

    class BookAdmin(ModelView, model=Book):
        column_list = ["id", "title", "author", "author.name", "tags"]
        column_details_list = ["id", "title", "author", "tags"]
        column_searchable_list = ["title", "author.name"]
        column_sortable_list = ["id", "title", "author.name"]
        column_export_list = ["id", "title", "author", "author.name", "tags"]
        column_filters = [
            AllUniqueStringValuesFilter(Book.title),
            ForeignKeyFilter(Book.author_id, Author.name, title="author"),
        ]
        form_columns = ["title", "author", "tags"]

    class ReviewAdmin(ModelView, model=Review):
        column_list = ["id", "text", "book"]
        form_columns = ["text", "book", "tags"]
        form_ajax_refs = {
            "book": {"fields": ("title",), "order_by": "id"},
            "tags": {"fields": ("name",), "order_by": "id"},
        }

    class TagAdmin(ModelView, model=Tag):
        """Every column is in its form, the tenant's too."""

    return [AuthorAdmin, BookAdmin, ReviewAdmin, TagAdmin]


def middleware_of_the_admin(app: FastAPI, engine: Any) -> Admin:
    bound = Middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    return Admin(app, engine, middlewares=[bound])


def middleware_of_the_application(app: FastAPI, engine: Any) -> Admin:
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    admin = Admin(app, engine)
    add_error_handlers(admin.admin)
    return admin


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("admin") / "seed.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection, connection:
        for row in rows():
            connection.execute(row)

    return path


@pytest.fixture
def path(tmp_path: Path, seed: Path) -> Path:
    return Path(shutil.copy(seed, tmp_path / "admin.db"))


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    yield engine
    await engine.dispose()


@asynccontextmanager
async def serving(app: FastAPI, admin: Admin) -> AsyncIterator[httpx.AsyncClient]:
    for view in views():
        admin.add_view(view)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/admin") as client:
        yield client


@pytest.fixture(params=["sync", "async"])
async def client(
    engine: Engine, async_engine: AsyncEngine, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """Each engine with one of the two places for the middleware."""
    app = FastAPI()
    if request.param == "sync":
        admin = middleware_of_the_application(app, engine)
    else:
        admin = middleware_of_the_admin(app, async_engine)

    async with serving(app, admin) as client:
        yield client


@pytest.fixture
def stored(path: Path) -> Any:
    def stored(table: str, columns: str = "tenant_id") -> Counter[Any]:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute(f"SELECT {columns} FROM admin_{table}").fetchall()

        return Counter(row[0] if len(row) == 1 else row for row in found)

    return stored


def as_tenant(tenant: str) -> dict[str, Any]:
    return {"headers": {"x-tenant": tenant}}


def other(tenant: str) -> str:
    return BOTH[BOTH[0] == tenant]


PAGES = [
    ("/author/list", ["Ada of {}", "Bob of {}"]),
    ("/book/list", ["Emma of {}", "Ulysses of {}", "Ada of {}", "tag 0 of {}"]),
    ("/book/list?search=emma", ["Emma of {}"]),
    ("/book/list?search=Ada", ["Emma of {}"]),
    ("/book/list?sortBy=title&sort=desc", ["Ulysses of {}", "Emma of {}"]),
    ("/book/list?sortBy=author.name&sort=asc", ["Emma of {}", "Ulysses of {}"]),
    ("/review/list", ["review 0 of {}", "Emma of {}"]),
    ("/author/create", []),
    ("/book/create", ["Ada of {}", "tag 1 of {}"]),
    ("/review/create", []),
]


@pytest.mark.parametrize(("page", "shown"), PAGES)
async def test_a_page_shows_the_rows_of_its_tenant(
    client: Any, page: str, shown: list[str]
) -> None:
    for tenant in BOTH:
        response = await client.get(page, **as_tenant(tenant))

        assert response.status_code == 200
        assert f"of {other(tenant)}" not in response.text
        places = [response.text.find(text.format(tenant)) for text in shown]
        assert -1 not in places
        if "sortBy" in page:
            assert places == sorted(places)


@pytest.mark.parametrize("page", [page for page, _ in PAGES if page != "/author/create"])
async def test_without_a_tenant_there_are_no_rows(client: Any, page: str) -> None:
    response = await client.get(page)

    if page == "/review/create":
        # It asks the database for nothing before somebody types.
        assert (response.status_code, " of " in response.text) == (200, False)
        return

    assert response.status_code == 400
    assert response.json()["detail"] == "This request needs a tenant."


@pytest.mark.parametrize("page", ["/", "/statics/css/main.css"])
async def test_what_holds_no_rows_needs_no_tenant(client: Any, page: str) -> None:
    assert (await client.get(page)).status_code == 200


async def test_totals_and_pages_count_the_rows_of_the_tenant(client: Any) -> None:
    for tenant in BOTH:
        response = await client.get("/book/list?pageSize=1&page=2", **as_tenant(tenant))
        pages = set(re.findall(r"pageSize=1&amp;page=(\d)\"", response.text))
        beyond = await client.get("/book/list?pageSize=1&page=3", **as_tenant(tenant))

        assert f"Ulysses of {tenant}" in response.text
        assert pages == {"1", "2"}
        assert beyond.status_code == 302
        assert "page=2" in beyond.headers["location"]


async def test_filters_offer_and_take_the_values_of_the_tenant(client: Any) -> None:
    for key, tenant in enumerate(BOTH, 1):
        mine = await client.get(f"/book/list?author_id={key}", **as_tenant(tenant))
        theirs = await client.get(f"/book/list?author_id={3 - key}", **as_tenant(tenant))

        assert f"<td>Emma of {tenant}</td>" in mine.text
        assert "<td>Emma" not in theirs.text
        assert f" of {other(tenant)}" not in mine.text + theirs.text


@pytest.mark.parametrize("page", ["/book/details/{}", "/book/edit/{}", "/review/edit/{}"])
async def test_a_foreign_row_is_not_found(client: Any, page: str) -> None:
    found = []
    for tenant in BOTH:
        answers = [await client.get(page.format(key), **as_tenant(tenant)) for key in range(1, 6)]
        found.append([answer.status_code for answer in answers])
        assert all(f"of {other(tenant)}" not in answer.text for answer in answers)

    assert found == [[200, 404, 200, 404, 404], [404, 200, 404, 200, 404]]


@pytest.mark.parametrize("kind", ["csv", "json"])
async def test_an_export_holds_the_rows_of_its_tenant(client: Any, kind: str) -> None:
    for tenant in BOTH:
        response = await client.get(f"/book/export/{kind}", **as_tenant(tenant))

        assert response.status_code == 200
        assert response.text.count(f"Emma of {tenant}") == 1
        assert f"tag 0 of {tenant}" in response.text
        assert f"Ada of {tenant}" in response.text
        assert f"of {other(tenant)}" not in response.text

    assert (await client.get(f"/book/export/{kind}")).status_code == 400


async def test_a_lookup_finds_the_rows_of_its_tenant(client: Any) -> None:
    for key, tenant in enumerate(BOTH, 1):
        for name, text in (("book", "Emma of {}"), ("tags", "tag 0 of {}")):
            lookup = f"/review/ajax/lookup?name={name}&term={text[:4]}"
            results = (await client.get(lookup, **as_tenant(tenant))).json()["results"]

            assert results[0] == {"id": str(key), "text": text.format(tenant)}
            assert all(result["text"].endswith(tenant) for result in results)
            assert (await client.get(lookup)).status_code == 400


async def test_a_row_is_created_for_the_tenant(client: Any, stored: Any) -> None:
    for key, tenant in enumerate(BOTH, 1):
        answers = [
            await client.post("/author/create", data={"name": "new"}, **as_tenant(tenant)),
            await client.post(
                "/book/create",
                data={"title": "new", "author": key, "tags": [key]},
                **as_tenant(tenant),
            ),
            await client.post(
                "/review/create",
                data={"text": "new", "book": key, "tags": [key]},
                **as_tenant(tenant),
            ),
        ]
        assert [answer.status_code for answer in answers] == [302, 302, 302]

    for table, column in [("author", "name"), ("book", "title"), ("review", "text")]:
        made = stored(table, f"tenant_id, {column}")
        assert made["acme", "new"] == made["globex", "new"] == 1

    assert stored("book_tag", "tag_id") == {1: 3, 2: 3}
    assert stored("review_tag", "tag_id") == {1: 1, 2: 1}


async def test_a_row_is_edited_and_deleted_by_its_tenant_alone(client: Any, stored: Any) -> None:
    for key, tenant in enumerate(BOTH, 1):
        for target in (1, 2):
            edited = await client.post(
                f"/book/edit/{target}",
                data={"title": f"edited by {tenant}", "author": key, "tags": [key + 2]},
                **as_tenant(tenant),
            )
            assert edited.status_code == (302 if target == key else 404)

    assert stored("book", "id, tenant_id, title") == {
        (1, "acme", "edited by acme"): 1,
        (2, "globex", "edited by globex"): 1,
        (3, "acme", "Ulysses of acme"): 1,
        (4, "globex", "Ulysses of globex"): 1,
    }
    assert stored("book_tag", "row_id, tag_id")[1, 3] == 1

    deleted = await client.delete("/review/delete?pks=1", **as_tenant("acme"))
    assert "error" not in unquote_plus(deleted.text)
    assert stored("review") == {"acme": 1, "globex": 2}


async def test_a_foreign_row_is_deleted_as_little_as_one_that_is_not_there(
    client: Any, stored: Any
) -> None:
    before = stored("review", "*")
    foreign = await client.delete("/review/delete?pks=2", **as_tenant("acme"))
    missing = await client.delete("/review/delete?pks=999", **as_tenant("acme"))

    # sqladmin answers every DELETE with the address to go to next.
    assert foreign.text == missing.text
    assert "error=404: Object not found" in unquote_plus(foreign.text)
    assert stored("review", "*") == before


@pytest.mark.parametrize("method", ["post", "delete"])
async def test_without_a_tenant_nothing_changes(client: Any, stored: Any, method: str) -> None:
    before = [stored(table, "*") for table in ("author", "book", "review")]
    if method == "delete":
        answers = [await client.delete("/book/delete?pks=1,2")]
    else:
        answers = [
            await client.post("/author/create", data={"name": "new"}),
            await client.post("/book/create", data={"title": "new", "author": 1}),
            await client.post("/review/create", data={"text": "new", "book": 1}),
            await client.post("/book/edit/1", data={"title": "new", "author": 1}),
        ]

    assert [answer.status_code for answer in answers] == [400] * len(answers)
    assert all(" of acme" not in answer.text for answer in answers)
    assert [stored(table, "*") for table in ("author", "book", "review")] == before


@pytest.mark.parametrize("page", ["/book/create", "/book/edit/1"])
@pytest.mark.parametrize("field", ["author", "tags"])
async def test_a_select_takes_no_foreign_id(
    client: Any, stored: Any, page: str, field: str
) -> None:
    before = stored("book", "*"), stored("book_tag", "*")
    data = {"title": "forged", "author": 1, "tags": [1]}
    answers = [
        await client.post(page, data={**data, field: key}, **as_tenant("acme")) for key in (2, 999)
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].text.replace("999", "2") == answers[1].text.replace("999", "2")
    assert "globex" not in answers[0].text
    assert (stored("book", "*"), stored("book_tag", "*")) == before


@pytest.mark.parametrize("page", ["/review/create", "/review/edit/1"])
async def test_a_looked_up_reference_to_a_foreign_row_is_refused(
    client: Any, stored: Any, page: str
) -> None:
    before = stored("review", "*")
    response = await client.post(page, data={"text": "forged", "book": 2}, **as_tenant("acme"))

    assert response.status_code == 400
    assert "book" in response.text
    assert "globex" not in response.text
    assert stored("review", "*") == before


async def test_a_looked_up_collection_takes_the_own_rows_only(client: Any, stored: Any) -> None:
    """As if the others did not exist: sqladmin leaves out what it does not find."""
    data = {"text": "new", "book": 1, "tags": [1, 2, 999]}
    assert (await client.post("/review/create", data=data, **as_tenant("acme"))).status_code == 302
    assert stored("review_tag", "tag_id") == {1: 1}


async def test_a_form_with_the_tenants_column_takes_the_current_one_only(
    client: Any, stored: Any
) -> None:
    for page in ("/tag/create", "/tag/edit/1"):
        data = {"name": "forged", "tenant_id": "globex"}
        response = await client.post(page, data=data, **as_tenant("acme"))

        assert response.status_code == 400
        assert "tag 0 of globex" not in response.text

    assert stored("tag") == {"acme": 2, "globex": 2}
    data = {"name": "new", "tenant_id": "acme"}
    assert (await client.post("/tag/create", data=data, **as_tenant("acme"))).status_code == 302
    assert stored("tag") == {"acme": 3, "globex": 2}


async def test_an_import_makes_rows_of_the_tenant(client: Any, stored: Any) -> None:
    upload = {"csvfile": ("authors.csv", b"name\nCyd\nDan\n", "text/csv")}
    for tenant in BOTH:
        response = await client.post("/author/import", files=upload, **as_tenant(tenant))
        assert response.status_code in (200, 302)

    made = stored("author", "name, tenant_id")
    assert all(made[name, tenant] == 1 for name in ("Cyd", "Dan") for tenant in BOTH)
    await client.post("/author/import", files=upload)
    assert sum(stored("author").values()) == 8


async def test_around_the_application_alone_a_refusal_is_a_server_error(engine: Engine) -> None:
    """The mounted administration answers every exception itself, before the middleware sees it."""
    app = FastAPI()
    app.add_middleware(TenantSessionMiddleware, resolve_tenant=header("x-tenant"))
    async with serving(app, Admin(app, engine)) as client:
        refused = await client.get("/book/list")
        served = await client.get("/book/list", **as_tenant("globex"))

    assert (refused.status_code, refused.text) == (500, "Internal Server Error")
    assert "Emma of globex" in served.text
    assert "of acme" not in served.text
