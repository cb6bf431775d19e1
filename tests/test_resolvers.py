"""Where a request says whose turn it is, and what it may not say."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from partywall import resolvers
from partywall.context import bind_tenant, current_tenant, tenant_scope, try_current_tenant
from partywall.errors import ConfigurationError, MalformedTenantError, UnknownTenantError
from partywall.middleware import TenantSessionMiddleware, TenantSessionMiddlewareWSGI
from partywall.resolvers import (
    cached,
    chain,
    claim,
    cookie,
    header,
    path_prefix,
    pyjwt,
    subdomain,
)
from protocols import asgi, environ, scope, wsgi

KEY = "a secret that is long enough for HS512, which wants 64 bytes of it"


def as_asgi(path: str = "/", **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return scope(path, headers=[(name.encode(), value.encode()) for name, value in lines])


def as_wsgi(path: str = "/", **headers: str) -> dict[str, Any]:
    def latin(text: str) -> str:
        return text.encode().decode("latin-1")

    lines = {f"HTTP_{name.upper()}": latin(value) for name, value in headers.items()}
    return environ(latin(path), **{"HTTP_HOST": "example.com", **lines})


both = pytest.mark.parametrize("request_", [as_asgi, as_wsgi], ids=["asgi", "wsgi"])

NOT_TENANTS = [
    "",
    " ",
    "acme,globex",
    "acme, globex",
    "acme;globex",
    "acme globex",
    "acme/globex",
    "acme\\globex",
    "..",
    ".",
    "../globex",
    "-acme",
    "acme.",
    "acme\x00",
    "acme\nglobex",
    "acme\r\nX-Tenant: globex",
    "acme\t",
    "acme\x7f",
    "\u0430cme",
    "acm\u0435",
    "acme\u200b",
    "\uff41cme",
    "acme\u0301",
    "%61cme",
    "a" * 129,
    "a" * 100_000,
    "' OR 1=1 --",
    "{acme}",
    "*",
    "\u0661",
]


@both
def test_a_header_names_the_tenant(request_: Any) -> None:
    resolve = header("X-Tenant")
    for tenant in ("acme", "globex", "Acme", "a", "a.b-c_d", "0", "a" * 128, str(uuid.uuid4())):
        assert resolve(request_(x_tenant=tenant)) == tenant

    assert resolve(request_(x_tenant=" acme ")) == "acme"
    assert resolve(request_()) is None
    assert resolve(request_(x_tenants="acme", tenant="globex")) is None


@both
@pytest.mark.parametrize("value", NOT_TENANTS)
def test_what_cannot_be_a_tenant_is_refused_wherever_it_stands(request_: Any, value: str) -> None:
    if value.strip(" \t") != value and value.strip(" \t"):
        assert header("X-Tenant")(request_(x_tenant=value)) == value.strip(" \t")
        return

    with pytest.raises(MalformedTenantError, match="in the header 'X-Tenant' is malformed"):
        header("X-Tenant")(request_(x_tenant=value))

    with pytest.raises(
        MalformedTenantError, match="in the cookie 'tenant' is malformed|Error"
    ) as no:
        if ";" in value:
            raise MalformedTenantError("Error: a cookie ends at its semicolon")

        cookie("tenant")(request_(cookie=f"a=b; tenant={value}"))

    assert "globex" not in str(no.value)


@both
@pytest.mark.parametrize("value", [value for value in NOT_TENANTS if "/" not in value and value])
def test_what_cannot_be_a_tenant_is_refused_in_the_path(request_: Any, value: str) -> None:
    with pytest.raises(MalformedTenantError, match="in the path is malformed"):
        path_prefix()(request_(f"/{value}/notes"))


@both
@pytest.mark.parametrize("value", [value for value in NOT_TENANTS if value.strip()])
def test_what_cannot_be_a_tenant_is_no_subdomain(request_: Any, value: str) -> None:
    resolve = subdomain("example.com")
    try:
        found = resolve(request_(host=f"{value}.example.com"))
    except MalformedTenantError as error:
        assert "globex" not in str(error)
    else:
        assert found is None


def test_a_header_given_twice_is_refused() -> None:
    request = scope(headers=[(b"x-tenant", b"acme"), (b"x-tenant", b"globex")])
    with pytest.raises(MalformedTenantError, match="given more than once"):
        header("X-Tenant")(request)

    # What a WSGI server makes of two lines.
    with pytest.raises(MalformedTenantError, match="not a tenant's name"):
        header("X-Tenant")(environ(HTTP_X_TENANT="acme,globex"))


def test_an_underscore_is_no_hyphen() -> None:
    assert header("X-Tenant")(scope(headers=[(b"x_tenant", b"globex")])) is None


@both
def test_a_value_is_converted_or_malformed(request_: Any) -> None:
    number, name = header("X-Tenant", convert=int), header("X-Tenant", convert=uuid.UUID)
    assert number(request_(x_tenant="7")) == 7
    assert name(request_(x_tenant=str(uuid.UUID(int=7)))) == uuid.UUID(int=7)
    for resolve in (number, name):
        with pytest.raises(MalformedTenantError, match="not convertible"):
            resolve(request_(x_tenant="acme"))


@both
def test_a_pattern_of_ones_own(request_: Any) -> None:
    resolve = header("X-Tenant", pattern="[a-z]{4}|[a-z]{6}")
    assert resolve(request_(x_tenant="acme")) == "acme"
    assert resolve(request_(x_tenant="globex")) == "globex"
    for value in ("initech", "ACME", "acme\n", "acme2"):
        with pytest.raises(MalformedTenantError, match="not a tenant's name"):
            resolve(request_(x_tenant=value)) if value != "acme\n" else resolve(
                scope(headers=[(b"x-tenant", b"acme\n")])
            )


def test_what_is_padded_beyond_measure_is_refused_and_not_remembered() -> None:
    resolve = header("X-Tenant")
    for tenant in ("acme", "globex"):
        assert resolve(as_asgi(x_tenant=tenant + " " * 1000)) == tenant
        for padding in (" " * 100_000, "\t" * 5000):
            for request in (as_asgi, as_wsgi):
                with pytest.raises(MalformedTenantError, match="not a tenant's name"):
                    resolve(request(x_tenant=padding + tenant))

    cache = resolve.__closure__[0].cell_contents  # type: ignore[attr-defined]
    assert cache.cache_info().currsize == 2


def test_a_header_in_another_encoding_is_no_tenant() -> None:
    for value in (b"acm\xe9", b"acme\xa0", b"\x85acme", "acm\u0435".encode(), b"acme\x00"):
        with pytest.raises(MalformedTenantError, match="not a tenant's name"):
            header("X-Tenant")(scope(headers=[(b"x-tenant", value)]))


def test_no_value_reaches_the_message_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MalformedTenantError) as error:
        header("X-Api-Key")(as_asgi(x_api_key="sec ret\nforged log line"))

    assert "sec" not in str(error.value) + str(error.value.to_dict()) + caplog.text
    assert len(caplog.records) == 1


# Cookies


@both
def test_a_cookie_names_the_tenant(request_: Any) -> None:
    resolve = cookie("tenant")
    for tenant in ("acme", "globex"):
        assert resolve(request_(cookie=f"tenant={tenant}")) == tenant
        assert resolve(request_(cookie=f'a=1; tenant="{tenant}";b=2')) == tenant

    assert resolve(request_()) is None
    assert resolve(request_(cookie="tenants=acme; Tenant=acme; tenant")) is None
    assert resolve(request_(cookie="x=tenant=acme")) is None


@both
@pytest.mark.parametrize(
    "value",
    ['"acme', 'acme"', '""acme""', '"ac\\me"', "%61cme", '"acme;globex"', "acme,globex", '"', '""'],
)
def test_a_cookie_is_not_decoded_until_it_fits(request_: Any, value: str) -> None:
    with pytest.raises(MalformedTenantError, match="in the cookie 'tenant' is malformed"):
        cookie("tenant")(request_(cookie=f"a=1; tenant={value}"))


@both
def test_quotes_of_another_cookie_hide_none(request_: Any) -> None:
    with pytest.raises(MalformedTenantError, match="given more than once"):
        cookie("tenant")(request_(cookie='a="x; tenant=globex; b="; tenant=acme'))


@both
def test_a_cookie_sent_twice_is_refused(request_: Any) -> None:
    with pytest.raises(MalformedTenantError, match="given more than once"):
        cookie("tenant")(request_(cookie="tenant=acme; tenant=globex"))


def test_cookies_may_come_in_several_lines() -> None:
    lines = [(b"cookie", b"a=1"), (b"cookie", b"tenant=acme")]
    assert cookie("tenant")(scope(headers=lines)) == "acme"
    with pytest.raises(MalformedTenantError, match="given more than once"):
        cookie("tenant")(scope(headers=[*lines, (b"cookie", b"tenant=globex")]))


# Hosts


@both
@pytest.mark.parametrize(
    ("host", "tenant"),
    [
        ("acme.example.com", "acme"),
        ("globex.example.com:8080", "globex"),
        ("ACME.Example.COM", "acme"),
        ("acme.example.com.", "acme"),
        ("example.com", None),
        ("www.example.com", None),
        ("localhost:8000", None),
        ("127.0.0.1", None),
        ("[::1]:8000", None),
        ("[::ffff:127.0.0.1]", None),
        ("acme.example.com.:8080", "acme"),
        ("xn--80ak6aa92e.example.com", "xn--80ak6aa92e"),
        ("WWW.example.com.", None),
        ("acme.example.com.evil.org", None),
        ("acmeexample.com", None),
        ("acme.notexample.com", None),
    ],
)
def test_a_subdomain_names_the_tenant(request_: Any, host: str, tenant: Any) -> None:
    assert subdomain("example.com")(request_(host=host)) == tenant
    assert subdomain(".Example.com.")(request_(host=host)) == tenant


@both
@pytest.mark.parametrize(
    "host",
    [
        "acme.globex.example.com",
        "acme.example.com, globex.example.com",
        "globex@acme.example.com",
        "acme.example.com/globex",
        "acme.example.com:80:81",
        "acme.example.com:port",
        "acme.example.com#",
        "acme_.example.com",
        "-acme.example.com",
        ".example.com",
        "\u0430cme.example.com",
        "acme .example.com",
        "acme..example.com",
        "[::1].example.com",
        "acme\u3002example.com",
        "acme.example.com\x00",
        "a" * 64 + ".example.com",
        "a." * 200 + "example.com",
        "",
    ],
)
def test_a_forged_host_is_refused(request_: Any, host: str) -> None:
    with pytest.raises(MalformedTenantError, match="in the (host|subdomain) is malformed"):
        subdomain("example.com")(request_(host=host))


def test_two_hosts_are_refused() -> None:
    request = scope(headers=[(b"host", b"acme.example.com"), (b"host", b"globex.example.com")])
    with pytest.raises(MalformedTenantError, match="header 'host' is malformed: given more than"):
        subdomain("example.com")(request)


@both
def test_a_forwarded_host_counts_only_when_told_so(request_: Any) -> None:
    request = request_(host="acme.example.com", x_forwarded_host="globex.example.com")
    assert subdomain("example.com")(request) == "acme"
    assert subdomain("example.com", trust_forwarded_host=True)(request) == "globex"
    alone = request_(host="acme.example.com")
    assert subdomain("example.com", trust_forwarded_host=True)(alone) == "acme"
    several = request_(x_forwarded_host="acme.example.com, globex.example.com", host="example.com")
    with pytest.raises(MalformedTenantError, match="not a host"):
        subdomain("example.com", trust_forwarded_host=True)(several)


@both
def test_names_that_are_public_are_no_tenants(request_: Any) -> None:
    resolve = subdomain("example.com", public=("api", "status"))
    assert resolve(request_(host="api.example.com")) is None
    assert subdomain("example.com", public=["API"])(request_(host="api.example.com")) is None
    assert resolve(request_(host="www.example.com")) == "www"
    assert resolve(request_(host="globex.example.com")) == "globex"


@pytest.mark.parametrize(
    "domain", ["", ".", "localhost:8000", "https://example.com", "b\u00fccher.example", "a b"]
)
def test_a_domain_that_no_host_can_be_under_is_refused_at_once(domain: str) -> None:
    with pytest.raises(ValueError, match=r"needs a host's name, as in 'example\.com'"):
        subdomain(domain)


def test_without_a_host_there_is_no_tenant() -> None:
    assert subdomain("example.com")({**scope(), "headers": []}) is None


# Paths


@both
def test_a_path_names_the_tenant(request_: Any) -> None:
    resolve = path_prefix()
    for tenant in ("acme", "globex"):
        for path in (f"/{tenant}", f"/{tenant}/", f"/{tenant}/notes/1", f"/{tenant}//x"):
            assert resolve(request_(path)) == tenant

    assert resolve(request_("/")) is None
    assert resolve(request_("")) is None


@both
@pytest.mark.parametrize("before", ["/t", "t", "/t/", "t/"])
def test_a_path_names_the_tenant_below_a_prefix(request_: Any, before: str) -> None:
    resolve = path_prefix(before)
    assert resolve(request_("/t/acme/notes")) == "acme"
    for path in ("/", "/t", "/t/", "/health", "/globex/t/acme", "/tt/acme"):
        assert resolve(request_(path)) is None


@both
@pytest.mark.parametrize(
    "path",
    [
        *("/acme/../globex", "/acme/./x", "/../globex", "/acme/notes/..", "/..", "/./acme"),
        *("//globex", "///acme", "/acme;globex/x", "/acme%2fglobex", "/acme\\globex"),
    ],
)
def test_path_traversal_is_refused(request_: Any, path: str) -> None:
    with pytest.raises(MalformedTenantError, match="in the path is malformed"):
        path_prefix()(request_(path))


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/acme/globex", b"/acme%2Fglobex"),
        ("/acme/globex", b"/acme%2fglobex?x=/acme"),
        ("/t/acme", b"/t%2Facme"),
    ],
)
def test_an_encoded_slash_does_not_end_the_tenant(path: str, raw: bytes) -> None:
    resolve = path_prefix("/t" if path.startswith("/t/") else "")
    with pytest.raises(MalformedTenantError, match="encoded slash"):
        resolve(scope(path, raw_path=raw))


def test_an_encoded_path_is_the_path_it_decodes_to() -> None:
    assert path_prefix()(scope("/acme/a/b", raw_path=b"/%61cme/a%2Fb")) == "acme"
    assert path_prefix()({**scope("/globex/x"), "raw_path": None}) == "globex"


def test_the_applications_root_is_no_tenant() -> None:
    request = scope("/app/acme/notes", root_path="/app")
    assert path_prefix()(request) == "acme"
    assert path_prefix()(scope("/globex/notes", root_path="/app")) == "globex"
    assert path_prefix()(environ("/acme", SCRIPT_NAME="/globex")) == "acme"
    for path in ("/app", "/app/"):
        assert path_prefix()(scope(path, root_path="/app")) is None
        assert path_prefix("/t")(scope(path, root_path="/app/")) is None

    assert path_prefix()(scope("/application/x", root_path="/app")) == "application"


@pytest.mark.parametrize(
    ("root", "sent"),
    [
        ("/app", b"/app"),
        ("/app", b"/%61pp"),
        ("/a b", b"/a%20b"),
        ("/gr\u00f6\u00dfe", b"/gr%C3%B6%C3%9Fe"),
        ("/gr\u00f6\u00dfe", "/gr\u00f6\u00dfe".encode()),
        ("/app", b""),
    ],
)
def test_a_root_that_was_sent_encoded_or_not_at_all_is_the_same_root(
    root: str, sent: bytes
) -> None:
    for tenant in ("acme", "globex"):
        raw = sent + f"/t/{tenant}/x".encode()
        assert (
            path_prefix("/t")(scope(f"{root}/t/{tenant}/x", root_path=root, raw_path=raw)) == tenant
        )

    hidden = scope(f"{root}/t/acme/x", root_path=root, raw_path=sent + b"/t%2Facme/acme/x")
    with pytest.raises(MalformedTenantError, match="encoded slash"):
        path_prefix("/t")(hidden)


async def test_a_mounted_application_has_the_tenants_of_its_own_paths() -> None:
    async def tell(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(current_tenant().tenant_id))

    inner = Starlette(
        routes=[Route("/{tenant}/notes", tell)],
        middleware=[Middleware(TenantSessionMiddleware, resolve_tenant=path_prefix())],
    )
    app = Starlette(routes=[Mount("/gr\u00f6\u00dfe/{area}", inner), Mount("/plain", inner)])
    for tenant in ("acme", "globex"):
        for mount in ("/gr\u00f6\u00dfe/a b", "/plain"):
            request = scope(
                f"{mount}/{tenant}/notes", raw_path=quote(f"{mount}/{tenant}/notes").encode()
            )
            assert (await asgi(app, request)).body == tenant.encode()


# Claims


def _bearer(claims: dict[str, Any] | str, key: str = KEY, algorithm: str = "HS256") -> str:
    token = claims if isinstance(claims, str) else jwt.encode(claims, key, algorithm)
    return f"Bearer {token}"


@both
def test_a_verified_claim_names_the_tenant(request_: Any) -> None:
    resolve = claim("tenant", pyjwt(KEY, algorithms=["HS256"]))
    for tenant in ("acme", "globex", 7):
        assert resolve(request_(authorization=_bearer({"tenant": tenant}))) == tenant

    one = claim("tenant", pyjwt(KEY, algorithms="HS256"))
    assert one(request_(authorization=_bearer({"tenant": "globex"}))) == "globex"

    lower = _bearer({"tenant": "acme"}).replace("Bearer", "bearer")
    assert resolve(request_(authorization=lower)) == "acme"
    assert resolve(request_()) is None
    assert resolve(request_(authorization="Basic YWNtZTphY21l")) is None
    assert resolve(request_(authorization=_bearer({"sub": "somebody"}))) is None


@both
@pytest.mark.parametrize(
    "token",
    [
        _bearer({"tenant": "globex"}, key=KEY + "forged"),
        _bearer({"tenant": "globex"}, key=KEY, algorithm="HS512"),
        _bearer({"tenant": "globex", "exp": 1}),
        _bearer({"tenant": "globex", "nbf": 32503680000}),
        "Bearer " + jwt.encode({"tenant": "globex"}, "", algorithm="none"),
        "Bearer eyJhbGciOiJub25lIn0.eyJ0ZW5hbnQiOiJnbG9iZXgifQ.",
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer ",
        "Bearer \u0430",
        "Bearer " + "a" * 100_000,
        _bearer({"tenant": "acme"}) + ", " + _bearer({"tenant": "globex"}),
    ],
    ids=range(12),
)
def test_a_token_that_does_not_hold_is_refused(request_: Any, token: str) -> None:
    resolve = claim("tenant", pyjwt(KEY, algorithms=["HS256"]))
    with pytest.raises(MalformedTenantError, match="in the token is malformed") as error:
        resolve(request_(authorization=token))

    assert "globex" not in str(error.value)


@pytest.mark.parametrize(
    "tenant", ["", "  ", True, ["acme"], {"id": "acme"}, 1.5, "acme\nglobex", "a\x00", "acme\u200b"]
)
def test_a_claim_that_is_no_tenant_is_refused(tenant: Any) -> None:
    with pytest.raises(MalformedTenantError, match="in the claim 'tenant' is malformed"):
        claim("tenant", lambda token: {"tenant": tenant})(as_asgi(authorization="Bearer x"))


def test_two_tokens_are_refused() -> None:
    lines = [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    with pytest.raises(MalformedTenantError, match="given more than once"):
        claim("tenant", lambda token: {"tenant": token})(scope(headers=lines))


@both
async def test_a_verify_of_ones_own_is_sync_or_async(request_: Any) -> None:
    async def averify(token: str) -> Any:
        await asyncio.sleep(0)
        return verify(token)

    def verify(token: str) -> Any:
        return {"tenant": token} if token in ("acme", "globex") else None

    for tenant in ("acme", "globex"):
        request = request_(authorization=f"Bearer {tenant}")
        assert claim("tenant", verify)(request) == tenant
        found = claim("tenant", averify)(request)
        assert inspect.isawaitable(found)
        assert await found == tenant

    for check in (verify, averify):
        with pytest.raises(MalformedTenantError, match="token is malformed: not valid"):
            found = claim("tenant", check)(request_(authorization="Bearer initech"))
            await found  # type: ignore[misc]


def test_the_verifier_never_decodes_unverified() -> None:
    for algorithms in ([], ["none"], ["HS256", "None"]):
        with pytest.raises(ConfigurationError, match="needs the algorithms you sign with"):
            pyjwt(KEY, algorithms=algorithms)

    with pytest.raises(ConfigurationError, match="always verifies the signature"):
        pyjwt(KEY, algorithms=["HS256"], options={"verify_signature": False})

    strict = pyjwt(KEY, algorithms=["HS256"], audience="notes", options={"require": ["exp"]})
    assert strict(_bearer({"tenant": "acme", "aud": "notes"})[7:]) is None
    good = {"tenant": "acme", "aud": "notes", "exp": time.time() + 60}
    assert strict(_bearer(good)[7:])["tenant"] == "acme"  # type: ignore[index]
    assert strict(_bearer({**good, "aud": "globex"})[7:]) is None


# Chains


@both
def test_a_chain_takes_the_first_tenant_it_finds(request_: Any) -> None:
    resolve = chain(header("X-Tenant"), cookie("tenant"), path_prefix("/t"))
    assert resolve(request_("/t/initech", x_tenant="acme", cookie="tenant=globex")) == "acme"
    assert resolve(request_("/t/initech", cookie="tenant=globex")) == "globex"
    assert resolve(request_("/t/initech")) == "initech"
    assert resolve(request_("/")) is None
    assert chain()(request_("/")) is None
    zero = chain(lambda _: 0, header("X-Tenant"))
    assert zero(request_(x_tenant="acme")) == 0


@both
def test_a_chain_does_not_pass_over_a_malformed_tenant(request_: Any) -> None:
    resolve = chain(header("X-Tenant"), cookie("tenant"))
    with pytest.raises(MalformedTenantError, match="X-Tenant"):
        resolve(request_(x_tenant="acme,globex", cookie="tenant=globex"))


async def test_a_chain_of_sync_and_async_resolvers() -> None:
    async def nobody(request: Any) -> None:
        await asyncio.sleep(0)

    async def somebody(request: Any) -> str:
        await asyncio.sleep(0)
        return "globex"

    async def found(*chained: Any) -> Any:
        result = chain(*chained)(as_asgi(x_tenant="acme"))
        return await result if inspect.isawaitable(result) else result

    assert await found(nobody, header("X-Tenant"), somebody) == "acme"
    assert await found(nobody, nobody, somebody) == "globex"
    assert await found(lambda _: None, somebody, header("X-Tenant")) == "globex"
    assert await found(nobody, nobody) is None
    assert chain(header("X-Tenant"), somebody)(as_asgi(x_tenant="acme")) == "acme"


# Cached lookups

TENANTS = {"key-a": "acme", "key-g": "globex", "key-0": 0}


class Lookup:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, key: str) -> Any:
        self.asked.append(key)
        return TENANTS.get(key)


class AsyncLookup(Lookup):
    async def __call__(self, key: str) -> Any:
        self.asked.append(key)
        await asyncio.sleep(0.01)
        return TENANTS.get(key)


def asking(key: str) -> dict[str, Any]:
    return as_asgi(x_api_key=key)


async def answer(resolve: Callable[[Any], Any], key: str) -> Any:
    found = resolve(asking(key))
    return await found if inspect.isawaitable(found) else found


either = pytest.mark.parametrize("make", [Lookup, AsyncLookup], ids=["sync", "async"])


@either
async def test_a_key_is_looked_up_once(make: Any) -> None:
    lookup = make()
    resolve = cached(header("X-Api-Key"), lookup)
    for _ in range(3):
        for key, tenant in TENANTS.items():
            assert await answer(resolve, key) == tenant

    assert sorted(lookup.asked) == sorted(TENANTS)
    assert resolve(as_asgi()) is None
    assert resolve(asking("key-a")) == "acme"


@either
async def test_an_unknown_key_is_404_and_remembered_apart_from_the_tenants(make: Any) -> None:
    lookup = make()
    resolve = cached(header("X-Api-Key"), lookup, size=3)
    for key in TENANTS:
        await answer(resolve, key)

    for _ in range(2):
        with pytest.raises(UnknownTenantError, match="The tenant is unknown"):
            await answer(resolve, "key-x")

    assert lookup.asked.count("key-x") == 1
    for number in range(50):
        with pytest.raises(UnknownTenantError, match="The tenant is unknown"):
            await answer(resolve, f"guess-{number}")

    lookup.asked.clear()
    for key, tenant in TENANTS.items():
        assert await answer(resolve, key) == tenant

    assert lookup.asked == []
    assert len(resolve._unknown._entries) == len(resolve._known._entries) == 3


@either
async def test_what_is_known_expires(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(resolvers, "monotonic", lambda: now)
    lookup = make()
    resolve = cached(header("X-Api-Key"), lookup, ttl=10)
    await answer(resolve, "key-a")
    with pytest.raises(UnknownTenantError):
        await answer(resolve, "key-x")

    now = 1009.9
    assert await answer(resolve, "key-a") == "acme"
    monkeypatch.setitem(TENANTS, "key-a", "globex")
    monkeypatch.setitem(TENANTS, "key-x", "initech")
    now = 1010.0
    assert await answer(resolve, "key-a") == "globex"
    assert await answer(resolve, "key-x") == "initech"
    assert lookup.asked == ["key-a", "key-x"] * 2


@either
async def test_the_least_recently_used_goes_first(make: Any) -> None:
    lookup = make()
    resolve = cached(header("X-Api-Key"), lookup, size=2)
    for key in ("key-a", "key-g", "key-a", "key-0", "key-a"):
        await answer(resolve, key)

    assert lookup.asked == ["key-a", "key-g", "key-0"]
    await answer(resolve, "key-g")
    assert lookup.asked[-1] == "key-g"


async def test_one_async_lookup_serves_all_who_wait() -> None:
    lookup = AsyncLookup()
    resolve = cached(header("X-Api-Key"), lookup)
    keys = ["key-a", "key-g"] * 50
    found = await asyncio.gather(*(answer(resolve, key) for key in keys))
    assert found == [TENANTS[key] for key in keys]
    assert sorted(lookup.asked) == ["key-a", "key-g"]
    assert not resolve._tasks


def test_one_sync_lookup_serves_all_threads_that_wait() -> None:
    asked = []

    def lookup(key: str) -> Any:
        asked.append(key)
        time.sleep(0.05)
        return TENANTS.get(key)

    resolve = cached(header("X-Api-Key"), lookup)
    keys = ["key-a", "key-g"] * 8
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda key: resolve(asking(key)), keys))

    assert found == [TENANTS[key] for key in keys]
    assert sorted(asked) == ["key-a", "key-g"]
    assert not resolve._flights


@either
async def test_a_failed_lookup_is_not_remembered(make: Any) -> None:
    class Failing(make):  # type: ignore[misc]
        fails = True

        def __call__(self, key: str) -> Any:
            if not self.fails:
                return super().__call__(key)

            return self.failing() if make is AsyncLookup else _fail()

        async def failing(self) -> Any:
            _fail()

    lookup = Failing()
    if make is AsyncLookup:

        async def alookup(key: str) -> Any:
            return await lookup(key)

        resolve = cached(header("X-Api-Key"), alookup)
    else:
        resolve = cached(header("X-Api-Key"), lookup)

    for _ in range(2):
        with pytest.raises(ConnectionError, match="the database is away"):
            await answer(resolve, "key-a")

    lookup.fails = False
    assert await answer(resolve, "key-a") == "acme"
    assert not resolve._tasks
    assert not resolve._flights


def _fail() -> Any:
    raise ConnectionError("the database is away")


def test_a_thread_that_is_told_to_end_does_not_end_those_who_wait_for_its_lookup() -> None:
    asked = []
    waiting = threading.Event()

    def lookup(key: str) -> Any:
        asked.append(key)
        if len(asked) == 1:
            assert waiting.wait(10)
            time.sleep(0.05)
            raise SystemExit("the worker is stopped")

        return TENANTS.get(key)

    resolve = cached(header("X-Api-Key"), lookup)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(resolve, asking("key-g"))
        while not asked:
            time.sleep(0.001)

        others = [threads.submit(resolve, asking("key-g")) for _ in range(3)]
        waiting.set()
        assert [other.result(10) for other in others] == ["globex"] * 3
        with pytest.raises(SystemExit, match="the worker is stopped"):
            first.result(10)

    assert not resolve._flights
    assert resolve(asking("key-a")) == "acme"


def test_a_failed_lookup_fails_for_all_threads_that_wait_and_is_tried_again() -> None:
    asked = []

    def lookup(key: str) -> Any:
        asked.append(key)
        time.sleep(0.1)
        _fail()

    resolve = cached(header("X-Api-Key"), lookup)
    barrier = threading.Barrier(8)

    def ask(key: str) -> Any:
        barrier.wait(10)
        with pytest.raises(ConnectionError, match="the database is away"):
            resolve(asking(key))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, ["key-a", "key-g"] * 4, timeout=20))

    assert sorted(set(asked)) == ["key-a", "key-g"]
    assert len(asked) < 8
    assert not resolve._flights


@either
async def test_a_lookup_does_not_depend_on_who_asks_first(make: Any) -> None:
    seen = []

    class Asking(make):  # type: ignore[misc]
        def __call__(self, key: str) -> Any:
            seen.append(try_current_tenant())
            return super().__call__(key)

    lookup = Asking()

    async def alookup(key: str) -> Any:
        return await lookup(key)

    resolve = cached(header("X-Api-Key"), alookup if make is AsyncLookup else lookup)
    for tenant, key in (("globex", "key-a"), ("acme", "key-g")):
        with tenant_scope(tenant):
            assert await answer(resolve, key) == TENANTS[key]
            assert current_tenant().tenant_id == tenant

    assert seen == [None, None]


async def test_a_lookup_goes_on_when_the_first_who_asked_is_gone() -> None:
    lookup = AsyncLookup()
    resolve = cached(header("X-Api-Key"), lookup)
    first = asyncio.create_task(answer(resolve, "key-a"))
    await asyncio.sleep(0)
    second = asyncio.create_task(answer(resolve, "key-a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "acme"
    assert first.cancelled()
    assert lookup.asked == ["key-a"]


@either
async def test_a_key_can_be_forgotten(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = make()
    resolve = cached(header("X-Api-Key"), lookup)
    await answer(resolve, "key-a")
    await answer(resolve, "key-g")
    monkeypatch.delitem(TENANTS, "key-a")
    assert await answer(resolve, "key-a") == "acme"
    resolve.forget("key-a")
    with pytest.raises(UnknownTenantError):
        await answer(resolve, "key-a")

    assert lookup.asked == ["key-a", "key-g", "key-a"]
    resolve.forget()
    assert await answer(resolve, "key-g") == "globex"
    assert lookup.asked[-1] == "key-g"


async def test_what_is_forgotten_during_a_lookup_is_not_remembered_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = cached(header("X-Api-Key"), AsyncLookup())
    before = asyncio.create_task(answer(resolve, "key-a"))
    await asyncio.sleep(0.015 / 3)
    resolve.forget("key-a")
    await before
    monkeypatch.setitem(TENANTS, "key-a", "globex")
    assert await answer(resolve, "key-a") == "globex"


def test_a_plain_function_that_returns_an_awaitable_is_no_lookup() -> None:
    lookup = AsyncLookup()
    resolve = cached(header("X-Api-Key"), lambda key: lookup(key))
    with pytest.raises(ConfigurationError, match="make the lookup 'async def'"):
        resolve(asking("key-a"))


def test_one_cache_serves_several_loops() -> None:
    lookup = AsyncLookup()
    resolve = cached(header("X-Api-Key"), lookup)
    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(asyncio.run, answer(resolve, "key-g")) for _ in range(4)]
        assert {run.result() for run in runs} == {"globex"}


def test_a_cache_is_bounded_in_time_and_size() -> None:
    nan = float("nan")
    for options in ({"ttl": 0}, {"ttl": -1}, {"ttl": nan}, {"size": 0}, {"size": nan}):
        with pytest.raises(ValueError, match="a ttl above 0 and a size of 1 or more"):
            cached(header("X-Api-Key"), Lookup(), **options)


async def test_a_cached_lookup_after_an_async_one() -> None:
    async def read(request: Any) -> Any:
        return header("X-Api-Key")(request)

    lookup = Lookup()
    resolve = cached(read, lookup)
    assert await answer(resolve, "key-a") == "acme"
    assert await answer(resolve, "key-g") == "globex"
    tenants = cached(header("X-Api-Key"), lambda key: bind_tenant(TENANTS[key], key=key))
    assert tenants(asking("key-g")) == bind_tenant("globex")


# Behind the middleware


@either
async def test_behind_both_middlewares(make: Any) -> None:
    async def tell(request: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = str(current_tenant().tenant_id).encode()
        await send({"type": "http.response.body", "body": body})

    def wtell(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(current_tenant().tenant_id).encode()]

    resolve = cached(header("X-Api-Key"), make())
    app = TenantSessionMiddleware(tell, resolve_tenant=resolve)
    wapp = TenantSessionMiddlewareWSGI(wtell, resolve_tenant=cached(header("X-Api-Key"), Lookup()))
    for key, tenant in TENANTS.items():
        assert (await asgi(app, asking(key))).body == str(tenant).encode()
        assert wsgi(wapp, as_wsgi(x_api_key=key)).body == str(tenant).encode()

    assert (await asgi(app, asking("key-x"))).status == 404
    assert wsgi(wapp, as_wsgi(x_api_key="key-x")).status == "404 Not Found"
    assert (await asgi(app, asking("key x"))).status == 400


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_comes_in_is_a_tenants_name_or_refused(value: bytes) -> None:
    text = value.decode("latin-1")
    requests = [
        scope(
            text,
            raw_path=value,
            headers=[
                (b"x-tenant", value),
                (b"cookie", b"a=1;tenant=" + value),
                (b"host", value + b".example.com"),
                (b"authorization", b"Bearer " + value),
            ],
        ),
        environ(
            text,
            HTTP_X_TENANT=text,
            HTTP_COOKIE="a=1;tenant=" + text,
            HTTP_HOST=text + ".example.com",
            HTTP_AUTHORIZATION="Bearer " + text,
        ),
    ]
    for request in requests:
        for resolve in (
            header("X-Tenant"),
            header("X-Tenant", convert=int),
            cookie("tenant"),
            subdomain("example.com"),
            path_prefix(),
            claim("tenant", pyjwt(KEY, algorithms=["HS256"])),
        ):
            try:
                found = resolve(request)
            except MalformedTenantError:
                continue

            assert found is None or re.fullmatch(resolvers.TENANT, str(found).lstrip("-"))


def test_a29_the_benchmark_tells_what_a_resolver_costs() -> None:
    command = Path(__file__).parent / "benchmarks" / "doors.py"
    told = subprocess.run(
        [sys.executable, str(command), "--quick", "--calls"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    figures = dict(re.findall(r"^(.+?) +(\d+)$", told, re.MULTILINE))
    for name in ("header, ASGI", "header, WSGI", "chain, second of two", "cached, a hit, ASGI"):
        # Not a timed test: a resolver that did I/O would take a thousand times longer.
        assert 0 < int(figures[name]) < 1_000_000
