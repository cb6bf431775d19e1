"""WSGI requests and their tenant."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import json
import sys
import threading
import weakref
import wsgiref.util
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import doors
from doors import texts
from partywall.context import active_scope, current_tenant, tenant_scope, try_current_tenant
from partywall.errors import (
    ConfigurationError,
    CrossTenantAccessError,
    MissingTenantContextError,
    UnknownTenantError,
)
from partywall.middleware import TenantSessionMiddleware, TenantSessionMiddlewareWSGI
from partywall.resolvers import header
from protocols import Response, environ, wsgi

HEADERS = [("Content-Type", "text/plain")]


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


def tell(environ: Any, start_response: Any) -> list[bytes]:
    body = str(current_tenant().tenant_id).encode()
    start_response("200 OK", HEADERS)
    return [body]


def tell_or_not(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", HEADERS)
    return [str(current()).encode()]


def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", HEADERS)
    for _ in range(3):
        yield str(current_tenant().tenant_id).encode() + b" "


def walled(app: Any = tell, **options: Any) -> Any:
    return TenantSessionMiddlewareWSGI(app, **{"resolve_tenant": header("X-Tenant"), **options})


@pytest.mark.parametrize("middleware", [TenantSessionMiddleware, TenantSessionMiddlewareWSGI])
def test_a18_a_request_has_its_tenant_and_leaves_none_behind(middleware: Any) -> None:
    app = middleware(tell, resolve_tenant=header("X-Tenant"))
    for tenant in ("acme", "globex"):
        assert wsgi(app, environ(tenant=tenant)).body == tenant.encode()
        assert active_scope() is None


def test_a18_a_generator_keeps_its_tenant_while_it_streams() -> None:
    for tenant in ("acme", "globex"):
        with tenant_scope("initech"):
            response = wsgi(walled(stream), environ(tenant=tenant))
            assert response.body == f"{tenant} {tenant} {tenant} ".encode()
            assert current() == "initech"


def test_a18_two_responses_interleaved_on_one_thread_stay_apart() -> None:
    app = walled(stream)
    one, other = (
        iter(app(environ(tenant=tenant), Response().start)) for tenant in ("acme", "globex")
    )
    for _ in range(3):
        assert next(one) == b"acme "
        assert next(other) == b"globex "
        assert current() is None

    assert (next(one, None), next(other, None)) == (None, None)


def test_a18_close_runs_inside_the_tenant_once() -> None:
    seen = []

    class Body:
        def __init__(self) -> None:
            self.left = 2

        def __iter__(self) -> Body:
            seen.append(("iter", current()))
            return self

        def __next__(self) -> bytes:
            if not self.left:
                raise StopIteration

            self.left -= 1
            return b"."

        def close(self) -> None:
            seen.append(("close", current()))

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", HEADERS)
        return Body()

    for tenant in ("acme", "globex"):
        assert wsgi(walled(app), environ(tenant=tenant)).body == b".."
        assert seen == [("iter", tenant), ("close", tenant)]
        seen.clear()


def test_a18_a_generator_that_is_closed_early_ends_inside_its_tenant() -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        try:
            yield b"one"
            yield b"two"
        finally:
            seen.append(current())

    for tenant in ("acme", "globex"):
        body = walled(app)(environ(tenant=tenant), Response().start)
        assert next(iter(body)) == b"one"
        body.close()
        assert seen.pop() == tenant


def test_a18_start_response_is_not_delayed() -> None:
    response = Response()
    body = walled(tell)(environ(tenant="acme"), response.start)
    assert response.status == "200 OK"
    assert body == [b"acme"]

    lazy = Response()
    body = iter(walled(stream)(environ(tenant="globex"), lazy.start))
    assert lazy.status == ""
    assert next(body) == b"globex "
    assert lazy.status == "200 OK"


def test_a18_what_is_written_goes_out_at_once() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", HEADERS)
        write(str(current()).encode() + b" ")
        return stream(environ, lambda *_: None)

    for tenant in ("acme", "globex"):
        response = Response()
        body = walled(app)(environ(tenant=tenant), response.start)
        assert response.written == [tenant.encode() + b" "]
        assert b"".join(body) == f"{tenant} {tenant} {tenant} ".encode()


def test_a_list_stays_the_list_it_is() -> None:
    chunks = [b"one"]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        return chunks

    assert walled(app)(environ(tenant="acme"), Response().start) is chunks


def test_a_file_stays_in_the_servers_wrapper() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", HEADERS)
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))

    request = environ(tenant="acme", **{"wsgi.file_wrapper": wsgiref.util.FileWrapper})
    body = walled(app)(request, Response().start)
    assert type(body) is wsgiref.util.FileWrapper
    body.close()


def test_what_is_no_real_file_is_read_inside_the_tenant() -> None:
    class Rows(io.RawIOBase):
        left = 2

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return str(current()).encode() if self.left >= 0 else b""

        def close(self) -> None:
            seen.append(current())

    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", HEADERS)
        return environ["wsgi.file_wrapper"](Rows())

    for tenant in ("acme", "globex"):
        request = environ(tenant=tenant, **{"wsgi.file_wrapper": wsgiref.util.FileWrapper})
        assert wsgi(walled(app), request).body == tenant.encode() * 2
        assert seen[0] == tenant
        seen.clear()


def test_never_a_tenant_on_a_worker_thread() -> None:
    app = walled(stream)
    barrier = threading.Barrier(4)

    def serve(tenant: str) -> tuple[str, bytes, Any]:
        barrier.wait(timeout=10)
        body = wsgi(app, environ(tenant=tenant)).body
        return tenant, body, current()

    with ThreadPoolExecutor(4) as threads:
        for tenant, body, left in threads.map(serve, ["acme", "globex"] * 20):
            assert body == f"{tenant} ".encode() * 3
            assert left is None


def test_an_abandoned_body_leaves_nothing_on_its_thread() -> None:
    body = iter(walled(stream)(environ(tenant="acme"), Response().start))
    assert next(body) == b"acme "
    assert current() is None
    assert wsgi(walled(tell_or_not), environ()).body == b"None"
    assert wsgi(walled(tell), environ(tenant="globex")).body == b"globex"
    assert next(body) == b"acme "


def test_an_exception_passes_and_leaves_nothing_bound() -> None:
    def fail(environ: Any, start_response: Any) -> Any:
        raise ZeroDivisionError(current())

    def fail_later(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        yield b"one"
        raise ZeroDivisionError(current())

    for app in (fail, fail_later):
        for tenant in ("acme", "globex"):
            with pytest.raises(ZeroDivisionError, match=tenant):
                wsgi(walled(app), environ(tenant=tenant))


def test_a_body_is_iterated_and_closed_in_whatever_thread() -> None:
    ended = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        try:
            while True:
                yield str(current()).encode()
        finally:
            ended.append(current())

    with ThreadPoolExecutor(1) as thread, tenant_scope("initech"):
        for tenant in ("acme", "globex"):
            response = walled(app)(environ(tenant=tenant), Response().start)
            body = iter(response)
            assert next(body) == tenant.encode()
            assert thread.submit(next, body).result(10) == tenant.encode()
            thread.submit(response.close).result(10)
            assert ended.pop() == tenant
            assert thread.submit(current).result(10) is None
            assert current() == "initech"


def test_a_body_that_fails_to_close_leaves_nothing_bound() -> None:
    class Body(list[bytes]):
        def close(self) -> None:
            raise ZeroDivisionError(current())

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", HEADERS)
        return Body([b"one"])

    for tenant in ("acme", "globex"):
        with pytest.raises(ZeroDivisionError, match=tenant):
            wsgi(walled(app), environ(tenant=tenant))


def test_of_two_middlewares_the_inner_wins_and_the_outer_returns() -> None:
    seen = []
    inner = walled(stream, resolve_tenant=header("X-Inner"))

    def around(environ: Any, start_response: Any) -> Iterator[bytes]:
        for chunk in inner(environ, start_response):
            seen.append(current())
            yield chunk

    app = walled(around)
    for tenant, other in (("acme", "globex"), ("globex", "acme")):
        response = wsgi(app, environ(tenant=tenant, HTTP_X_INNER=other))
        assert response.body == f"{other} ".encode() * 3
        assert seen == [tenant] * 3
        seen.clear()

    # The inner one found nobody: the outer's tenant is not taken instead.
    _is_problem(wsgi(app, environ(tenant="acme")), "400 Bad Request")


@pytest.mark.parametrize("choice", ["defer", "reject", "raise"])
def test_a_resolver_that_fails_reaches_no_application(choice: Any) -> None:
    def resolve(request: Any) -> Any:
        raise ZeroDivisionError("the lookup failed")

    def app(environ: Any, start_response: Any) -> Any:
        raise AssertionError("the application was called")

    for around in ("acme", "globex"):
        with tenant_scope(around), pytest.raises(ZeroDivisionError, match="the lookup failed"):
            wsgi(walled(app, resolve_tenant=resolve, on_missing_tenant=choice), environ())


@pytest.mark.parametrize("tenant", [True, b"acme", ["acme"], 1.5, object()])
def test_what_is_no_tenant_is_the_resolvers_fault(tenant: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a str, an int or a UUID"):
        wsgi(walled(tell_or_not, resolve_tenant=lambda _: tenant), environ(tenant="globex"))


def test_the_applications_own_error_page_passes() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", HEADERS, sys.exc_info())

        return [str(current()).encode()]

    for tenant in ("acme", "globex"):
        response = wsgi(walled(app), environ(tenant=tenant))
        assert (response.status, response.body) == ("500 Oops", tenant.encode())


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    """An abandoned generator ends at once, and what a request kept in its context goes with it."""
    kept: contextvars.ContextVar[Any] = contextvars.ContextVar("kept")
    ended: list[Any] = []

    class Big:
        pass

    def keep() -> weakref.ref[Any]:
        big = Big()
        kept.set(big)
        return weakref.ref(big)

    def plain(environ: Any, start_response: Any) -> list[bytes]:
        made.append(keep())
        return tell_or_not(environ, start_response)

    def endless(environ: Any, start_response: Any) -> Iterator[bytes]:
        made.append(keep())
        start_response("200 OK", HEADERS)
        try:
            while True:
                yield b"."
        finally:
            ended.append(True)

    made: list[weakref.ref[Any]] = []
    gc.disable()
    try:
        for tenant in ("acme", "globex"):
            wsgi(walled(plain), environ(tenant=tenant))
            assert next(iter(walled(endless)(environ(tenant=tenant), Response().start))) == b"."

        wsgi(walled(plain), environ())
        assert [one() for one in made] == [None] * 5
        assert ended == [True, True]
    finally:
        gc.enable()


def test_what_the_application_sets_in_its_context_is_seen_by_its_body() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        name.set(environ["HTTP_X_TENANT"])
        start_response("200 OK", HEADERS)
        return (f"{name.get()} {current()} ".encode() for _ in range(2))

    for tenant in ("acme", "globex"):
        assert wsgi(walled(app), environ(tenant=tenant)).body == f"{tenant} {tenant} ".encode() * 2

    assert name.get() == "nobody"


def test_it_obeys_the_protocol() -> None:
    for app in (tell, stream, tell_or_not):

        def checked(environ: Any, start_response: Any, app: Any = app) -> Any:
            return validator(app)(environ, start_response)

        for tenant in ("acme", None):
            outer = validator(walled(checked))
            if tenant is None and app is not tell_or_not:
                continue

            assert wsgi(outer, environ(tenant=tenant)).body

    assert wsgi(validator(walled(tell)), environ()).status == "400 Bad Request"


def test_a30_a_wsgi_resolver_is_sync(recwarn: pytest.WarningsRecorder) -> None:
    async def resolve(request: Any) -> str:
        return "acme"

    with pytest.raises(ConfigurationError, match="cannot await its tenant.*a plain function"):
        wsgi(walled(resolve_tenant=resolve), environ())

    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]
    app = walled(resolve_tenant=lambda request: asyncio.run(resolve(request)))
    assert wsgi(app, environ(tenant="globex")).body == b"acme"


def test_a16_a_resolver_is_a_plain_function_of_the_environ() -> None:
    seen = []

    def resolve(request: Any) -> str:
        seen.append(request)
        return "globex"

    request = environ(tenant="acme")
    assert wsgi(walled(resolve_tenant=resolve), request).body == b"globex"
    assert seen[0] is request


# Without a tenant


def test_a28_defer_lets_public_pages_pass_and_answers_400_when_a_tenant_is_needed() -> None:
    assert wsgi(walled(tell_or_not), environ()).body == b"None"
    _is_problem(wsgi(walled(tell), environ()), "400 Bad Request")


def test_a28_what_a_task_group_raises_is_answered_too() -> None:
    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(current_tenant))
            tasks.create_task(asyncio.to_thread(current_tenant))

    def app(environ: Any, start_response: Any) -> Any:
        asyncio.run(both())
        return tell(environ, start_response)

    _is_problem(wsgi(walled(app), environ()), "400 Bad Request")
    assert wsgi(walled(app), environ(tenant="globex")).body == b"globex"


def test_a28_a_body_that_needs_a_tenant_is_answered_before_its_first_chunk() -> None:
    closed = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        try:
            yield str(current_tenant().tenant_id).encode()
        finally:
            closed.append(True)

    _is_problem(wsgi(walled(app), environ()), "400 Bad Request")
    assert closed == [True]
    assert wsgi(walled(app), environ(tenant="acme")).body == b"acme"


def test_a28_a_response_that_has_begun_is_not_answered_twice() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        yield b"one"
        current_tenant()

    def writer(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)(b"one")
        current_tenant()
        return []

    def started(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", HEADERS)
        current_tenant()
        return []

    for begun in (app, writer):
        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            wsgi(walled(begun), environ())

    _is_problem(wsgi(walled(started), environ()), "400 Bad Request")


def test_a28_reject_answers_at_once_and_raise_raises() -> None:
    app = walled(tell_or_not, on_missing_tenant="reject")
    _is_problem(wsgi(app, environ()), "400 Bad Request")
    with pytest.raises(MissingTenantContextError, match="The request has no tenant"):
        wsgi(walled(tell_or_not, on_missing_tenant="raise"), environ())

    for tenant in ("acme", "globex"):
        assert wsgi(app, environ(tenant=tenant)).body == tenant.encode()


def test_d11_a_malformed_tenant_is_400_and_an_unknown_one_404() -> None:
    def unknown(request: Any) -> Any:
        raise UnknownTenantError()

    for tenant in ("acme,globex", "../globex", "a" * 129, "\u00e4cme", ""):
        _is_problem(wsgi(walled(), environ(tenant=tenant)), "400 Bad Request")

    bodies = set()
    for tenant in ("acme", "globex"):
        response = wsgi(walled(resolve_tenant=unknown), environ(tenant=tenant))
        _is_problem(response, "404 Not Found")
        bodies.add(response.body)

    assert len(bodies) == 1


def test_other_refusals_stay_errors_of_the_application() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise CrossTenantAccessError("This Note belongs to 'globex'")

    with pytest.raises(CrossTenantAccessError, match="belongs to 'globex'"):
        wsgi(walled(app), environ(tenant="acme"))


def test_an_answer_to_head_has_no_body() -> None:
    response = wsgi(walled(), environ(REQUEST_METHOD="HEAD"))
    assert (response.status, response.body) == ("400 Bad Request", b"")


def test_a_request_without_a_tenant_does_not_inherit_one_from_around_the_server() -> None:
    with tenant_scope("acme"):
        assert wsgi(walled(tell_or_not), environ()).body == b"None"
        assert wsgi(walled(tell_or_not), environ(tenant="globex")).body == b"globex"


def _is_problem(response: Response, status: str) -> None:
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["content-length"]) == len(response.body)
    assert json.loads(response.body)["status"] == int(status[:3])
    for tenant in (b"acme", b"globex"):
        assert tenant not in response.body


# With the wall


def test_rows_of_one_tenant_stream_out(engine: Engine) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", HEADERS)
        with Session(engine) as session:
            for text in session.scalars(texts().execution_options(yield_per=1)):
                yield f"{text};".encode()

    one, other = (
        iter(walled(app)(environ(tenant=tenant), Response().start)) for tenant in doors.TEXTS
    )
    assert [next(one), next(other), next(one), next(other)] == [
        b"acme 1;",
        b"globex 1;",
        b"acme 2;",
        b"globex 2;",
    ]
    assert (list(one), list(other)) == ([b"acme 3;"], [])
    _is_problem(wsgi(walled(app), environ()), "400 Bad Request")
