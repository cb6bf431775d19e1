"""Flask: requests, refusals and commands."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, g, stream_with_context
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import scoped_session, sessionmaker

import doors
from doors import Note, stored, texts
from partywall.context import active_scope, current_tenant, try_current_tenant
from partywall.errors import MissingTenantContextError, UnscopedStatementError
from partywall.flask import init_app, with_tenant
from partywall.resolvers import chain, cookie, header
from protocols import environ, wsgi


@pytest.fixture(autouse=True)
def _nothing_is_left_bound() -> Iterator[None]:
    yield
    assert active_scope() is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = doors.filled(tmp_path)
    yield engine
    engine.dispose()


def current() -> Any:
    context = try_current_tenant()
    return None if context is None else context.tenant_id


@pytest.fixture
def app(engine: Engine) -> Flask:
    app = Flask("notes")
    init_app(app, resolve_tenant=chain_of_two())
    sessions = sessionmaker(engine)
    registry = scoped_session(sessions)
    app.extensions["seen"] = seen = []

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        seen.append(current())
        registry.remove()

    @app.get("/public")
    def public() -> Any:
        return {"tenant": current()}

    @app.get("/notes")
    def read() -> Any:
        return list(registry.scalars(texts()))

    @app.post("/notes/<text>")
    def write(text: str) -> Any:
        with sessions.begin() as session:
            session.add(Note(text=text))
            session.flush()
            if text == "fail":
                raise ZeroDivisionError

        return text

    @app.get("/stream")
    def stream() -> Response:
        g.rows = 0

        def rows() -> Iterator[str]:
            with sessions() as session:
                for text in session.scalars(texts().execution_options(yield_per=1)):
                    g.rows += 1
                    yield f"{text};"

        return Response(stream_with_context(rows()))

    @app.get("/stream-bare")
    def stream_bare() -> Response:
        def rows() -> Iterator[str]:
            with sessions() as session:
                for text in session.scalars(texts()):
                    yield f"{text};"

        return Response(rows())

    @app.get("/forged")
    def forge() -> Any:
        with sessions.begin() as session:
            session.add(Note(text="forged", tenant_id="globex"))

        return "never"

    @app.get("/raw")
    def raw() -> Any:
        raise UnscopedStatementError("SELECT * FROM door_note names globex")

    @app.cli.command("count")
    @with_tenant()
    def count() -> None:
        with sessions() as session:
            print(current_tenant().tenant_id, doors.count(session))

    @app.cli.command("whose")
    @with_tenant(type=uuid.UUID)
    def whose() -> None:
        print(repr(current_tenant().tenant_id))

    return app


def chain_of_two() -> Any:
    return chain(header("X-Tenant"), cookie("tenant"))


def headers(tenant: str) -> dict[str, str]:
    return {"X-Tenant": tenant}


def test_a_request_reads_its_tenants_rows(app: Flask) -> None:
    client = app.test_client()
    for tenant, rows in list(doors.TEXTS.items()) * 2:
        assert client.get("/notes", headers=headers(tenant)).json == rows
        assert app.extensions["seen"].pop() == tenant


def test_a_cookie_does_too(app: Flask) -> None:
    for tenant, rows in doors.TEXTS.items():
        client = app.test_client()
        client.set_cookie("tenant", tenant)
        assert client.get("/notes").json == rows


def test_it_commits_or_rolls_back_inside_the_tenant(app: Flask, engine: Engine) -> None:
    client = app.test_client()
    for tenant in doors.TEXTS:
        assert client.post("/notes/new", headers=headers(tenant)).status_code == 200
        assert client.post("/notes/fail", headers=headers(tenant)).status_code == 500

    assert stored(engine) == {tenant: [*rows, "new"] for tenant, rows in doors.TEXTS.items()}


@pytest.mark.parametrize("path", ["/stream", "/stream-bare"])
def test_a18_a_stream_keeps_its_tenant(app: Flask, path: str) -> None:
    client = app.test_client()
    for tenant, rows in doors.TEXTS.items():
        answer = client.get(path, headers=headers(tenant))
        assert answer.text == ";".join(rows) + ";"
        assert active_scope() is None


def test_a_client_that_keeps_the_context_does_not_keep_the_tenant(app: Flask) -> None:
    with app.test_client() as client:
        for tenant, rows in doors.TEXTS.items():
            assert client.get("/stream", headers=headers(tenant)).text == ";".join(rows) + ";"
            assert g.rows == len(rows)
            assert current() is None


def test_a28_without_a_tenant_public_pages_pass_and_rows_are_400(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/public").json == {"tenant": None}
    answer = client.get("/notes")
    assert (answer.status_code, answer.json["status"]) == (400, 400)
    assert answer.mimetype == "application/problem+json"
    # Werkzeug's test client raises what a server would replace the headers for.
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        client.get("/stream-bare")

    assert wsgi(app, environ("/stream-bare")).status == "400 Bad Request"


def test_a28_reject_and_raise(engine: Engine) -> None:
    rejecting = Flask("rejecting")
    init_app(rejecting, resolve_tenant=header("X-Tenant"), on_missing_tenant="reject")
    rejecting.add_url_rule("/", view_func=lambda: str(current()))
    assert rejecting.test_client().get("/").status_code == 400
    for tenant in doors.TEXTS:
        assert rejecting.test_client().get("/", headers=headers(tenant)).text == tenant


def test_d11_refusals_name_no_tenant_and_other_errors_stay_errors(
    app: Flask, engine: Engine
) -> None:
    client = app.test_client()
    answer = client.get("/notes", headers=headers("acme,globex"))
    assert (answer.status_code, answer.json["detail"]) == (400, "The tenant is malformed.")
    answer = client.get("/forged", headers=headers("acme"))
    assert (answer.status_code, answer.json["title"]) == (404, "Not Found")
    assert "globex" not in answer.text
    assert client.get("/raw", headers=headers("acme")).status_code == 500
    assert stored(engine) == doors.TEXTS


def test_d12_a_foreign_key_in_the_path_is_answered_like_one_that_nobody_has(
    app: Flask, engine: Engine
) -> None:
    sessions = sessionmaker(engine)

    @app.get("/note/<int:key>")
    def show(key: int) -> Any:
        with sessions() as session:
            note = session.get(Note, key)
            return (note.text, 200) if note else ("nothing", 404)

    @app.get("/one/<int:key>")
    def one(key: int) -> Any:
        with sessions() as session:
            return session.scalars(select(Note).where(Note.id == key)).one().text

    @app.delete("/note/<int:key>")
    def drop(key: int) -> Any:
        with sessions.begin() as session:
            return {"deleted": session.execute(delete(Note).where(Note.id == key)).rowcount}

    client = app.test_client()
    for tenant, foreign in (("acme", 4), ("globex", 1)):
        for method, path in (("GET", "/note"), ("GET", "/one"), ("DELETE", "/note")):
            answers = [
                client.open(f"{path}/{key}", method=method, headers=headers(tenant))
                for key in (foreign, 99)
            ]
            told = [(a.status, list(a.headers), a.data) for a in answers]
            assert told[0] == told[1]

    assert stored(engine) == doors.TEXTS
    assert client.get("/note/4", headers=headers("globex")).text == "globex 1"


def test_threads_at_once(app: Flask) -> None:
    barrier = threading.Barrier(4)

    def ask(tenant: str) -> tuple[str, Any, Any]:
        barrier.wait(timeout=10)
        return tenant, app.test_client().get("/notes", headers=headers(tenant)).json, current()

    with ThreadPoolExecutor(4) as threads:
        for tenant, rows, left in threads.map(ask, list(doors.TEXTS) * 10):
            assert (rows, left) == (doors.TEXTS[tenant], None)


def test_a_command_works_on_the_tenant_it_is_told(app: Flask) -> None:
    runner = app.test_cli_runner()
    for tenant, rows in doors.TEXTS.items():
        result = runner.invoke(args=["count", "--tenant", tenant])
        assert result.output == f"{tenant} {len(rows)}\n"
        assert active_scope() is None

    number = str(uuid.UUID(int=7))
    assert runner.invoke(args=["whose", "--tenant", number]).output == f"UUID('{number}')\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["count"], "Missing option '--tenant'"),
        (["count", "--tenant", ""], "A tenant cannot be blank"),
        (["whose", "--tenant", "acme"], "UUID"),
    ],
)
def test_a_command_without_a_tenant_does_not_run(app: Flask, args: list[str], says: str) -> None:
    result = app.test_cli_runner().invoke(args=args)
    assert result.exit_code == 2
    assert says in result.output


def test_setting_up_twice_is_refused(app: Flask) -> None:
    with pytest.raises(RuntimeError, match="already set up"):
        init_app(app, resolve_tenant=header("X-Tenant"))
