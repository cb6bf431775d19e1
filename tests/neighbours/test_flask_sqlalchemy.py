"""Flask-SQLAlchemy: `db.session`, `Model.query`, pages, binds, requests, commands and the shell.

Two tenants with the same users, posts and labels; what is stored is read through the plain driver.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, g, jsonify, request, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.record_queries import get_recorded_queries
from flask_sqlalchemy.track_modifications import models_committed
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, joinedload, mapped_column
from werkzeug.exceptions import NotFound

from partywall import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MissingTenantContextError,
    UnscopedStatementError,
    tenant_aware,
    tenant_scope,
    tenant_text,
    try_current_tenant,
)
from partywall.flask import init_app, with_tenant
from partywall.resolvers import header

TENANTS = ("acme", "globex")
NAMES = ("ada", "bob", "cyd")
db = SQLAlchemy()

labels = db.Table(
    "flask_labels",
    db.Column("post_id", db.ForeignKey("flask_post.id"), primary_key=True),
    db.Column("label_id", db.ForeignKey("flask_label.id"), primary_key=True),
)


@tenant_aware
class User(db.Model):
    __tablename__ = "flask_user"
    __table_args__ = (db.UniqueConstraint("tenant_id", "name"),)
    id = db.Column(db.Integer, primary_key=True)
    tenant_id = db.Column(db.String(40), nullable=False)
    name = db.Column(db.String(40), nullable=False)
    note = db.Column(db.String(40))
    posts = db.relationship("Post", back_populates="user", cascade="all, delete-orphan")
    all_posts = db.relationship("Post", lazy="dynamic", viewonly=True)


@tenant_aware(through="user")
class Post(db.Model):
    __tablename__ = "flask_post"
    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.ForeignKey("flask_user.id"), nullable=False)
    title = db.Column(db.String(40))
    user = db.relationship(User, back_populates="posts")
    labels = db.relationship("Label", secondary=labels)


@tenant_aware
class Label(db.Model):
    __tablename__ = "flask_label"
    id = db.Column(db.Integer, primary_key=True)
    tenant_id = db.Column(db.String(40), nullable=False)
    text = db.Column(db.String(40))


@tenant_aware
class Visit(db.Model):
    """In a database of its own."""

    __bind_key__ = "visits"
    __tablename__ = "flask_visit"
    id = db.Column(db.Integer, primary_key=True)
    tenant_id = db.Column(db.String(40), nullable=False)
    path = db.Column(db.String(40))


def rows() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """acme's ids are odd and globex's are even, as far as both have the same rows."""
    for owner, tenant in enumerate(TENANTS, 1):
        for place, name in enumerate(NAMES):
            key = 2 * place + owner
            yield "main", "user", (key, tenant, name, f"of {tenant}")
            yield "main", "post", (key, key, f"post {place}")
            yield "main", "labels", (key, owner)
            yield "visits", "visit", (key, tenant, f"/{place}")

        yield "main", "label", (owner, tenant, "new")

    # globex's post with acme's label.
    yield "main", "user", (10, "globex", "spy", "of globex")
    yield "main", "post", (10, 10, "spy")
    yield "main", "labels", (10, 1)


STORED = {
    "user": ("main", "SELECT tenant_id, name FROM flask_user"),
    "post": ("main", "SELECT user_id, title FROM flask_post"),
    "labels": ("main", "SELECT post_id, label_id FROM flask_labels"),
    "visit": ("visits", "SELECT tenant_id, path FROM flask_visit"),
}


def make_app(folder: Path, **config: Any) -> Flask:
    app = Flask("an_application", instance_path=str(folder))
    app.config.update(
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder}/main.db",
        SQLALCHEMY_BINDS={"visits": f"sqlite:///{folder}/visits.db"},
        **config,
    )
    db.init_app(app)
    init_app(app, resolve_tenant=header("x-tenant"))
    return app


def dispose(app: Flask) -> None:
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flask")
    app = make_app(folder)
    with app.app_context():
        db.create_all()

    dispose(app)
    for database in ("main", "visits"):
        with closing(sqlite3.connect(folder / f"{database}.db")) as connection:
            for where, table, values in rows():
                if where == database:
                    connection.execute(f"INSERT INTO flask_{table} VALUES {values}")

            connection.commit()

    return folder


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = self.stored()

    def stored(self) -> dict[str, Counter[Any]]:
        found = {}
        for table, (database, query) in STORED.items():
            with closing(sqlite3.connect(self.folder / f"{database}.db")) as connection:
                found[table] = Counter(connection.execute(query))

        return found

    def changed(self) -> dict[str, tuple[list[Any], list[Any]]]:
        """The rows that have gone and those that have come."""
        now = self.stored()
        return {
            table: (
                sorted((before - now[table]).elements()),
                sorted((now[table] - before).elements()),
            )
            for table, before in self.seed.items()
            if now[table] != before
        }


@pytest.fixture
def place(filled: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(filled, tmp_path / "place")))


@pytest.fixture
def app(place: Place) -> Iterator[Flask]:
    app = make_app(place.folder)
    yield app
    dispose(app)
    assert try_current_tenant() is None


Case = Callable[[], Any]
BOTH_TENANTS = pytest.mark.parametrize("tenant", TENANTS)
pytestmark = pytest.mark.filterwarnings("ignore:.*Query.get:DeprecationWarning")


# Reading.


def users(tenant: str, *names: str) -> list[str]:
    return [f"{name} of {tenant}" for name in names]


def every(tenant: str) -> list[str]:
    return users(tenant, *NAMES, *(["spy"] if tenant == "globex" else []))


def told(found: Any) -> Any:
    if isinstance(found, User):
        return f"{found.name} {found.note}"

    if isinstance(found, Post):
        return found.title

    return [told(one) for one in found] if hasattr(found, "__iter__") else found


def _page(page: Any) -> Any:
    return told(page.items), page.total, page.pages, list(page.iter_pages())


def _pages(tenant: str, size: int = 2) -> Any:
    listed = every(tenant)
    return listed[:size], len(listed), 2, [1, 2]


def _or_404(ask: Case) -> Any:
    try:
        return told(ask())
    except NotFound as error:
        return error.code


def _by_keys(get: Callable[[int], Any]) -> Case:
    """1 is acme's, 2 and 10 are globex's and 99 is nobody's."""
    return lambda: [_or_404(lambda key=key: get(key)) for key in (1, 2, 10, 99)]


def _keys(missing: Any) -> Callable[[str], Any]:
    return lambda tenant: [
        user if user and user.endswith(tenant) else missing
        for user in ("ada of acme", "ada of globex", "spy of globex", None)
    ]


BY_ID = db.select(User).order_by(User.id)
READS: dict[str, tuple[Case, Callable[[str], Any]]] = {
    "scalars": (lambda: told(db.session.scalars(BY_ID)), every),
    "execute": (lambda: told(db.session.execute(BY_ID).scalars()), every),
    "columns": (
        lambda: [tuple(row) for row in db.session.execute(db.select(User.note).distinct())],
        lambda t: [(f"of {t}",)],
    ),
    "a count": (
        lambda: db.session.scalar(db.select(db.func.count()).select_from(User)),
        lambda t: len(every(t)),
    ),
    "get": (_by_keys(lambda key: db.session.get(User, key)), _keys(None)),
    "get or 404": (_by_keys(lambda key: db.get_or_404(User, key)), _keys(404)),
    "first or 404": (
        _by_keys(lambda key: db.first_or_404(db.select(User).where(User.id == key))),
        _keys(404),
    ),
    "one or 404": (
        _by_keys(lambda key: db.one_or_404(db.select(User).where(User.id == key))),
        _keys(404),
    ),
    "one by name": (
        lambda: told(db.one_or_404(db.select(User).filter_by(name="ada"))),
        lambda t: f"ada of {t}",
    ),
    "paginate": (lambda: _page(db.paginate(BY_ID, page=1, per_page=2)), _pages),
    "the next page": (
        lambda: told(db.paginate(BY_ID, page=1, per_page=2).next().items),
        lambda t: every(t)[2:],
    ),
    "a page too far": (
        lambda: _or_404(lambda: db.paginate(BY_ID, page=3, per_page=2)),
        lambda t: 404,
    ),
    "session.query": (lambda: told(db.session.query(User).order_by(User.id).all()), every),
    "query": (lambda: told(User.query.order_by(User.id).all()), every),
    "query.filter_by": (
        lambda: told(User.query.filter_by(name="bob").all()),
        lambda t: users(t, "bob"),
    ),
    "query of another tenant": (
        lambda: told(User.query.filter_by(tenant_id="globex").order_by(User.id).all()),
        lambda t: every(t) if t == "globex" else [],
    ),
    "query.count": (lambda: User.query.count(), lambda t: len(every(t))),
    "query.exists": (
        lambda: db.session.query(User.query.filter_by(name="spy").exists()).scalar(),
        lambda t: t == "globex",
    ),
    "query.get": (_by_keys(lambda key: User.query.get(key)), _keys(None)),
    "query.get_or_404": (_by_keys(lambda key: User.query.get_or_404(key)), _keys(404)),
    "query.first_or_404": (
        _by_keys(lambda key: User.query.filter_by(id=key).first_or_404()),
        _keys(404),
    ),
    "query.one_or_404": (
        _by_keys(lambda key: User.query.filter_by(id=key).one_or_404()),
        _keys(404),
    ),
    "query.paginate": (
        lambda: _page(User.query.order_by(User.id).paginate(page=1, per_page=2)),
        _pages,
    ),
    "a lazy collection": (
        lambda: [told(user.posts) for user in db.session.scalars(BY_ID)],
        lambda t: [["post 0"], ["post 1"], ["post 2"], ["spy"]][: len(every(t))],
    ),
    "an eager collection": (
        lambda: [
            told(user.posts)
            for user in db.session.scalars(BY_ID.options(joinedload(User.posts))).unique()
        ],
        lambda t: [["post 0"], ["post 1"], ["post 2"], ["spy"]][: len(every(t))],
    ),
    "a dynamic collection": (
        lambda: _page(User.query.first_or_404().all_posts.paginate(per_page=5)),
        lambda t: (["post 0"], 1, 1, [1]),
    ),
    "through a parent": (lambda: Post.query.count(), lambda t: len(every(t))),
    "a foreign post": (
        lambda: [_or_404(lambda key=key: db.get_or_404(Post, key)) for key in (1, 2)],
        lambda t: ["post 0", 404] if t == "acme" else [404, "post 0"],
    ),
    "labels": (
        lambda: [
            [label.tenant_id for label in post.labels]
            for post in Post.query.order_by(Post.id).all()
        ],
        lambda t: [[t], [t], [t], []][: len(every(t))],
    ),
    "an association": (
        lambda: db.session.scalar(db.select(db.func.count()).select_from(labels)),
        lambda t: 3,
    ),
    "another bind": (
        lambda: [visit.path for visit in Visit.query.order_by(Visit.path)],
        lambda t: ["/0", "/1", "/2"],
    ),
    "both binds": (
        lambda: (User.query.count(), db.session.scalar(db.select(db.func.count(Visit.id)))),
        lambda t: (len(every(t)), 3),
    ),
    "an engine": (lambda: _count_by_engine(None, User), lambda t: len(every(t))),
    "another bind's engine": (lambda: _count_by_engine("visits", Visit), lambda t: 3),
    "written by hand": (
        lambda: db.session.scalar(
            tenant_text("SELECT count(*) FROM flask_user WHERE tenant_id = :tenant")
        ),
        lambda t: len(every(t)),
    ),
}


def _count_by_engine(bind: str | None, model: Any) -> int:
    with db.engines[bind].connect() as connection:
        return connection.scalar(db.select(db.func.count()).select_from(model.__table__))


@BOTH_TENANTS
@pytest.mark.parametrize(("case", "expected"), READS.values(), ids=READS)
def test_a_tenant_reads_its_own_rows(
    app: Flask, tenant: str, case: Case, expected: Callable[[str], Any]
) -> None:
    with app.app_context(), tenant_scope(tenant):
        assert case() == expected(tenant)


@pytest.mark.parametrize("case", [case for case, _ in READS.values()], ids=READS)
def test_without_a_tenant_nothing_is_read(app: Flask, case: Case) -> None:
    with app.app_context(), pytest.raises(MissingTenantContextError, match="No tenant is current"):
        case()


# Writing, as acme.


def _added() -> None:
    db.session.add(User(name="eve", posts=[Post(title="new", labels=[db.session.get(Label, 1)])]))


def _renamed() -> None:
    db.get_or_404(User, 1).name = "eve"


def _deleted() -> None:
    db.session.delete(db.get_or_404(User, 1))


def _updated_by_query() -> None:
    assert User.query.filter(User.id.in_([1, 2, 10])).update({"name": "eve"}) == 1


def _deleted_by_query() -> None:
    assert Visit.query.delete() == 3


def _executed() -> None:
    db.session.execute(db.insert(User), [{"name": "eve"}, {"name": "fay"}])
    changed = db.session.execute(db.update(User).where(User.name == "ada").values(name="new"))
    assert changed.rowcount == 1


def _saved_in_bulk() -> None:
    db.session.bulk_save_objects([Visit(path="/new"), Visit(path="/newer")])


def _merged() -> None:
    db.session.merge(User(id=1, name="eve"))


WRITES: dict[str, tuple[Case, Any]] = {
    "add": (
        _added,
        {
            "user": ([], [("acme", "eve")]),
            "post": ([], [(11, "new")]),
            "labels": ([], [(11, 1)]),
        },
    ),
    "rename": (_renamed, {"user": ([("acme", "ada")], [("acme", "eve")])}),
    "delete": (
        _deleted,
        {
            "user": ([("acme", "ada")], []),
            "post": ([(1, "post 0")], []),
            "labels": ([(1, 1)], []),
        },
    ),
    "query.update": (_updated_by_query, {"user": ([("acme", "ada")], [("acme", "eve")])}),
    "query.delete": (
        _deleted_by_query,
        {"visit": ([("acme", f"/{place}") for place in range(3)], [])},
    ),
    "execute": (
        _executed,
        {
            "user": (
                [("acme", "ada")],
                [("acme", "eve"), ("acme", "fay"), ("acme", "new")],
            )
        },
    ),
    "bulk_save_objects": (
        _saved_in_bulk,
        {"visit": ([], [("acme", "/new"), ("acme", "/newer")])},
    ),
    "merge": (_merged, {"user": ([("acme", "ada")], [("acme", "eve")])}),
}


@pytest.mark.parametrize(("case", "expected"), WRITES.values(), ids=WRITES)
def test_a_tenant_writes_its_own_rows(app: Flask, place: Place, case: Case, expected: Any) -> None:
    with app.app_context(), tenant_scope("acme"):
        case()
        db.session.commit()

    assert place.changed() == expected


@pytest.mark.parametrize("case", [case for case, _ in WRITES.values()], ids=WRITES)
def test_without_a_tenant_nothing_is_written(app: Flask, place: Place, case: Case) -> None:
    with app.app_context(), pytest.raises(MissingTenantContextError, match="No tenant is current"):
        case()
        db.session.commit()

    assert place.changed() == {}


REFUSED: dict[str, tuple[Case, type[Exception], str]] = {
    "add for another": (
        lambda: db.session.add(User(name="eve", tenant_id="globex")),
        CrossTenantAccessError,
        "belongs to tenant 'globex'",
    ),
    "give away": (
        lambda: setattr(db.get_or_404(User, 1), "tenant_id", "globex"),
        CrossTenantAccessError,
        "belongs to tenant 'globex'",
    ),
    "query.update": (
        lambda: Visit.query.update({"tenant_id": "globex"}),
        CrossTenantAccessError,
        "names tenant 'globex'",
    ),
    "insert for another": (
        lambda: db.session.execute(db.insert(Visit), [{"tenant_id": "globex"}]),
        CrossTenantAccessError,
        "names tenant 'globex'",
    ),
    "a post by a foreign user": (
        lambda: db.session.add(Post(user_id=2, title="new")),
        CrossTenantReferenceError,
        "flask_user",
    ),
    "a foreign label": (
        lambda: db.session.execute(db.insert(labels).values(post_id=1, label_id=2)),
        CrossTenantReferenceError,
        "flask_label",
    ),
    "text": (
        lambda: db.session.execute(db.text("DELETE FROM flask_user")),
        UnscopedStatementError,
        "flask_user",
    ),
    "a foreign id": (lambda: db.session.add(User(id=2, name="eve")), IntegrityError, "UNIQUE"),
}


@pytest.mark.parametrize(("case", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_touch_another_tenant_is_refused(
    app: Flask, place: Place, case: Case, error: type[Exception], message: str
) -> None:
    with app.app_context(), tenant_scope("acme"), pytest.raises(error, match=message):
        case()
        db.session.commit()

    assert place.changed() == {}


# The session of an application context.


def test_an_app_context_serves_one_tenant_until_its_session_is_removed(app: Flask) -> None:
    with app.app_context():
        with tenant_scope("acme"):
            ada = db.get_or_404(User, 1)

        with tenant_scope("globex"):
            for use in (lambda: db.session.get(User, 1), lambda: User.query.all()):
                with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                    use()

            with pytest.raises(CrossTenantAccessError, match="serves tenant 'acme'"):
                db.session.refresh(ada)

            db.session.remove()
            assert told(db.session.scalars(BY_ID)) == every("globex")
            assert db.session.get(User, 1) is None


def test_each_app_context_has_a_session_of_its_own(app: Flask) -> None:
    with tenant_scope("acme"), app.app_context():
        outer = db.get_or_404(User, 1)
        with tenant_scope("globex"), app.app_context():
            assert told(db.session.scalars(BY_ID)) == every("globex")
            assert db.session.get(User, 1) is None

        assert db.session.get(User, 1) is outer


def test_what_was_not_committed_is_not_the_next_tenants(app: Flask, place: Place) -> None:
    with app.app_context():
        with tenant_scope("acme"):
            db.session.add(User(name="eve"))

        with tenant_scope("globex"), pytest.raises(CrossTenantAccessError, match="'acme'"):
            db.session.commit()

        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            db.session.commit()

    assert place.changed() == {}


def test_a_thread_of_its_own_needs_a_tenant(app: Flask) -> None:
    found: list[Any] = []

    def work(tenant: str | None) -> None:
        with app.app_context():
            try:
                if tenant is None:
                    found.append(User.query.count())
                else:
                    with tenant_scope(tenant):
                        found.append(User.query.count())
            except MissingTenantContextError as error:
                found.append(type(error))

    with app.app_context(), tenant_scope("acme"):
        assert User.query.count() == 3
        for tenant in (None, "globex", "acme"):
            thread = threading.Thread(target=work, args=(tenant,))
            thread.start()
            thread.join(timeout=30)

    assert found == [MissingTenantContextError, 4, 3]


def test_tables_are_made_reflected_and_dropped_by_anyone(app: Flask, place: Place) -> None:
    reflecting = SQLAlchemy()
    for tenant in (None, *TENANTS):
        with app.app_context(), tenant_scope(tenant) if tenant else app.app_context():
            db.create_all()

    other = Flask("another", instance_path=str(place.folder))
    other.config["SQLALCHEMY_DATABASE_URI"] = app.config["SQLALCHEMY_DATABASE_URI"]
    reflecting.init_app(other)
    with other.app_context():
        reflecting.reflect()
        copied = reflecting.metadata.tables["flask_user"]
        for tenant in TENANTS:
            with tenant_scope(tenant):
                count = db.select(db.func.count()).select_from(copied)
                assert reflecting.session.scalar(count) == len(every(tenant))
                reflecting.session.remove()

        reflecting.engine.dispose()

    with app.app_context():
        db.drop_all()
        assert db.inspect(db.engine).get_table_names() == []


def test_recorded_queries_and_signals_are_the_tenants(place: Place) -> None:
    app = make_app(
        place.folder, SQLALCHEMY_RECORD_QUERIES=True, SQLALCHEMY_TRACK_MODIFICATIONS=True
    )
    seen: list[Any] = []

    @models_committed.connect_via(app)
    def note(sender: Any, changes: Any) -> None:
        seen.extend((changed.tenant_id, operation) for changed, operation in changes)

    for tenant, key in [("acme", 1), ("globex", 2)]:
        with app.app_context(), tenant_scope(tenant):
            db.session.add(User(name="eve"))
            db.get_or_404(User, key).note = "changed"
            db.session.commit()
            recorded = str([query.parameters for query in get_recorded_queries()])
            assert [other for other in TENANTS if other in recorded] == [tenant]

    assert sorted(seen) == [(t, operation) for t in TENANTS for operation in ("insert", "update")]
    dispose(app)


# Requests.


def index() -> Any:
    found = db.paginate(BY_ID)
    return jsonify(users=told(found.items), total=found.total)


def show(key: int) -> Any:
    return told(db.get_or_404(User, key))


def add(name: str) -> Any:
    user = User(name=name, **request.args)
    db.session.add(user)
    if name == "broken":
        db.session.flush()
        raise RuntimeError("after the flush")

    db.session.commit()
    return user.tenant_id


def stream() -> Response:
    def lines() -> Iterator[str]:
        for user in db.session.scalars(BY_ID.execution_options(yield_per=1)):
            yield f"{told(user)};"

    return Response(stream_with_context(lines()))


def whoami() -> str:
    return g.user


def _know_user() -> None:
    if "x-user" in request.headers:
        g.user = told(db.first_or_404(db.select(User).filter_by(name=request.headers["x-user"])))


def public() -> str:
    return "hello"


@pytest.fixture
def client(app: Flask) -> Any:
    app.before_request(_know_user)
    app.get("/users")(index)
    app.get("/users/<int:key>")(show)
    app.post("/users/<name>")(add)
    app.get("/stream")(stream)
    app.get("/whoami")(whoami)
    app.get("/public")(public)
    return app.test_client()


def as_tenant(tenant: str, **more: str) -> dict[str, Any]:
    return {"headers": {"x-tenant": tenant, **more}}


def test_requests_of_different_tenants(client: Any, place: Place) -> None:
    for tenant in (*TENANTS, *TENANTS):
        found = client.get("/users", **as_tenant(tenant)).json
        assert found == {"users": every(tenant), "total": len(every(tenant))}
        assert client.get("/stream", **as_tenant(tenant)).text == "".join(
            f"{user};" for user in every(tenant)
        )
        known = client.get("/whoami", **as_tenant(tenant, **{"x-user": "ada"}))
        assert known.text == f"ada of {tenant}"

    for tenant in TENANTS:
        assert client.post("/users/eve", **as_tenant(tenant)).text == tenant

    assert place.changed() == {"user": ([], [("acme", "eve"), ("globex", "eve")])}


def test_a_foreign_id_is_answered_like_an_unknown_one(client: Any) -> None:
    for tenant, foreign in [("acme", 2), ("globex", 1)]:
        theirs = client.get(f"/users/{foreign}", **as_tenant(tenant))
        nobodys = client.get("/users/99", **as_tenant(tenant))

        assert (theirs.status_code, theirs.text) == (nobodys.status_code, nobodys.text)
        assert theirs.status_code == 404

    assert client.get("/whoami", **as_tenant("acme", **{"x-user": "spy"})).status_code == 404


def test_a_request_cannot_name_another_tenant(client: Any, place: Place) -> None:
    answer = client.post("/users/eve?tenant_id=globex", **as_tenant("acme"))

    assert (answer.status_code, "globex" in answer.text) == (404, False)
    assert place.changed() == {}


def test_a_request_without_a_tenant(client: Any, place: Place) -> None:
    answers = [client.get("/users"), client.get("/users/1"), client.post("/users/eve")]

    assert [answer.status_code for answer in answers] == [400] * 3
    assert client.get("/public").text == "hello"
    assert place.changed() == {}


def test_a_request_that_fails_leaves_nothing_to_the_next(client: Any, place: Place) -> None:
    for tenant in TENANTS:
        assert client.post("/users/broken", **as_tenant(tenant)).status_code == 500
        other = {"acme": "globex", "globex": "acme"}[tenant]
        assert client.get("/users", **as_tenant(other)).json["users"] == every(other)

    assert place.changed() == {}


def test_a_client_that_keeps_the_context_of_its_request(client: Any) -> None:
    with client:
        for tenant in TENANTS:
            assert client.get("/users", **as_tenant(tenant)).json["users"] == every(tenant)


def test_requests_inside_an_app_context_may_share_its_session(app: Flask, client: Any) -> None:
    """As of Flask 3.1 they do, with one tenant as with two: remove it between two tenants."""
    app.get("/session")(lambda: str(id(db.session())))
    with app.app_context():
        shared = client.get("/session").text == str(id(db.session()))
        assert client.get("/users", **as_tenant("acme")).json["users"] == every("acme")
        assert client.get("/users", **as_tenant("globex")).status_code == (404 if shared else 200)

        db.session.remove()
        assert client.get("/users", **as_tenant("globex")).json["users"] == every("globex")


# Commands and the shell.


def test_commands_run_for_a_tenant(app: Flask, place: Place) -> None:
    @app.cli.command("rename")
    @with_tenant()
    def rename() -> None:
        print(User.query.update({"note": "changed"}), "users")

    @app.cli.command("count")
    def count() -> None:
        print(User.query.count())

    runner = app.test_cli_runner()
    assert runner.invoke(args=["rename", "--tenant", "acme"]).output == "3 users\n"
    assert runner.invoke(args=["rename", "--tenant", "globex"]).output == "4 users\n"
    assert isinstance(runner.invoke(args=["count"]).exception, MissingTenantContextError)


def test_the_shell_asks_for_a_tenant(app: Flask) -> None:
    with app.app_context():
        shell = app.make_shell_context()
        assert shell["User"] is User
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            shell["db"].session.scalars(BY_ID).all()

        for tenant in TENANTS:
            with tenant_scope(tenant):
                assert told(shell["User"].query.order_by(User.id).all()) == every(tenant)

            shell["db"].session.remove()


# Models on SQLAlchemy's own bases.


class Base(DeclarativeBase):
    """Not a MappedAsDataclass: on SQLAlchemy 2.1 Flask-SQLAlchemy cannot make a model of one."""


modern = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


@tenant_aware
class Owned(MappedAsDataclass):
    tenant_id: Mapped[str] = mapped_column(init=False)


class Invoice(Owned, modern.Model):
    __tablename__ = "flask_invoice"
    id: Mapped[int] = mapped_column(init=False, primary_key=True)
    number: Mapped[str]


class Receipt(Owned, modern.Model):
    __bind_key__ = "receipts"
    __tablename__ = "flask_receipt"
    id: Mapped[int] = mapped_column(init=False, primary_key=True)
    number: Mapped[str]


@pytest.fixture
def modern_app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("a_modern_application", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///main.db"
    app.config["SQLALCHEMY_BINDS"] = {"receipts": "sqlite:///receipts.db"}
    modern.init_app(app)
    with app.app_context():
        modern.create_all()

    yield app
    with app.app_context():
        for engine in modern.engines.values():
            engine.dispose()


@pytest.mark.parametrize("model", [Invoice, Receipt])
def test_models_with_a_marked_mixin(modern_app: Flask, model: Any) -> None:
    for tenant in TENANTS:
        with modern_app.app_context(), tenant_scope(tenant):
            modern.session.add(model(number="1"))
            modern.session.commit()

    keys = {}
    for tenant in TENANTS:
        with modern_app.app_context(), tenant_scope(tenant):
            found = modern.one_or_404(modern.select(model))
            keys[tenant] = found.id
            assert (found.number, found.tenant_id) == ("1", tenant)
            assert modern.paginate(modern.select(model)).total == 1
            assert model.query.filter_by(number="1").update({"number": tenant}) == 1
            modern.session.commit()

    with modern_app.app_context(), tenant_scope("acme"):
        assert modern.session.get(model, keys["globex"]) is None
        with pytest.raises(NoResultFound, match="No row"):
            modern.session.get_one(model, keys["globex"])

        assert modern.session.scalars(modern.select(model.number)).all() == ["acme"]
