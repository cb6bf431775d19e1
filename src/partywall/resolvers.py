"""Where a request says whose turn it is. The same functions serve ASGI scopes and WSGI environs.

They read what the request claims and refuse what cannot be a tenant. Only `claim` proves anything:
behind the others, check that the caller may act for the tenant, or let a proxy set them.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from .context import drop, without_tenant
from .errors import ConfigurationError, MalformedTenantError, UnknownTenantError, refused
from .middleware import PLAIN, Found, Request, ResolveTenant, ResolveTenantNow

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Convert = Callable[[str], Any]
Claims = Mapping[str, Any]
Verify = Callable[[str], Claims | None | Awaitable[Claims | None]]
Lookup = Callable[[Any], Found | Awaitable[Found]]

# ASCII alone: no look-alikes, no control characters, no separators of lists and paths.
TENANT = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
TOKEN = r"[\x21-\x2b\x2d-\x7e]{1,4096}"

_LONGEST = 4096
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(r"[a-z0-9._-]{1,254}")
_HOST = re.compile(rf"(?P<name>{_NAME.pattern}|\[[0-9a-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?")
_QUOTED = re.compile(r'^"(.*)"$')


def header(name: str, *, pattern: str = TENANT, convert: Convert = str) -> ResolveTenantNow:
    """The tenant is a header's value. Given twice, or as a list, it is refused."""
    read = _reader(name)
    accept = _accepting(pattern, convert, f"header {name!r}", _stripped)

    def resolve(request: Request) -> Found:
        sent = read(request)
        return None if sent is None else accept(sent)

    return resolve


def cookie(name: str, *, pattern: str = TENANT, convert: Convert = str) -> ResolveTenantNow:
    """The tenant is a cookie's value. Sent twice, as by a neighbouring domain, it is refused."""
    source = f"cookie {name!r}"
    accept = _accepting(pattern, convert, source)

    def resolve(request: Request) -> Found:
        pairs = [
            pair.strip(" \t").split("=", 1)
            for line in _lines(request, b"cookie", "HTTP_COOKIE")
            for pair in line.split(";")
        ]
        values = [pair[1] for pair in pairs if len(pair) == 2 and pair[0] == name]
        if len(values) > 1:
            raise _malformed(source, "given more than once")

        return accept(_QUOTED.sub(r"\1", _stripped(values[0]))) if values else None

    return resolve


def subdomain(
    domain: str,
    *,
    trust_forwarded_host: bool = False,
    public: Iterable[str] = ("www",),
    convert: Convert = str,
) -> ResolveTenantNow:
    """`acme.example.com` under the domain `example.com`. Any other host has no tenant.

    `X-Forwarded-Host` counts only with `trust_forwarded_host=True`: behind a proxy that sets it.
    """
    domain = domain.lower().strip(".")
    if not _NAME.fullmatch(domain):
        raise ValueError(f"subdomain() needs a host's name, as in 'example.com', not {domain!r}.")

    suffix = "." + domain
    not_tenants = frozenset(name.lower() for name in public)
    accept = _accepting(_LABEL, convert, "subdomain")

    def resolve(request: Request) -> Found:
        host = _host(request, trust_forwarded_host)
        if host is None or not host.endswith(suffix):
            return None

        label = host.removesuffix(suffix)
        return None if label in not_tenants else accept(label)

    return resolve


def path_prefix(
    before: str = "", *, pattern: str = TENANT, convert: Convert = str
) -> ResolveTenantNow:
    """`/acme/invoices`, or below `path_prefix("/api")` `/api/acme/invoices`. The path stays as it is."""
    start = "/" + before.strip("/") + "/" if before.strip("/") else "/"
    accept = _accepting(pattern, convert, "path")

    depth = start.count("/") + 1

    def resolve(request: Request) -> Found:
        root, path, sent = _path(request)
        if not path.startswith(start) or path == start:
            return None

        segments = path.split("/")
        if "." in segments or ".." in segments:
            raise _malformed("path", "dot segments")

        # "/acme%2fx" and "/acme/x" are different addresses that decode alike.
        if sent is not None and not (
            _same(sent, (root + path).split("/")[: root.count("/") + depth])
            or _same(sent, segments[:depth])
        ):
            raise _malformed("path", "encoded slash")

        return accept(segments[depth - 1])

    return resolve


def claim(name: str, verify: Verify) -> ResolveTenant:
    """The tenant is a claim of the request's bearer token, which `verify` checks and opens.

    `verify` receives the token and returns its claims, or None if it does not hold; it may be
    async (ASGI). `pyjwt(...)` makes one.
    """
    read = _reader("authorization")

    def resolve(request: Request) -> Found | Awaitable[Found]:
        sent = read(request)
        if sent is None:
            return None

        scheme, _, token = _stripped(sent).partition(" ")
        if scheme.lower() != "bearer":
            return None

        token = token.strip(" ")
        if not re.fullmatch(TOKEN, token):
            raise _malformed("token", "not a token")

        claims = verify(token)
        return later(claims) if inspect.isawaitable(claims) else opened(claims)

    async def later(claims: Awaitable[Claims | None]) -> Found:
        return opened(await claims)

    def opened(claims: Claims | None) -> Found:
        if claims is None:
            raise _malformed("token", "not valid")

        tenant = claims.get(name)
        if tenant is None:
            return None

        if isinstance(tenant, bool) or not isinstance(tenant, (str, int, uuid.UUID)):
            raise _malformed(f"claim {name!r}", f"a {type(tenant).__name__}")

        if isinstance(tenant, str) and not (tenant.strip() and tenant.isprintable()):
            raise _malformed(f"claim {name!r}", "not printable")

        return tenant

    return resolve


def pyjwt(key: Any, *, algorithms: Iterable[str], **options: Any) -> Callable[[str], Claims | None]:
    """A `verify` for `claim`, by PyJWT (the extra `jwt`). Options are those of `jwt.decode`."""
    import jwt

    allowed = [algorithms] if isinstance(algorithms, str) else list(algorithms)
    if not allowed or any(algorithm.lower() == "none" for algorithm in allowed):
        raise ConfigurationError("pyjwt() needs the algorithms you sign with, as in ['RS256'].")

    if options.get("options", {}).get("verify_signature", True) is not True:
        raise ConfigurationError("pyjwt() always verifies the signature.")

    def verify(token: str) -> Claims | None:
        try:
            claims: Claims = jwt.decode(token, key, algorithms=allowed, **options)
        except jwt.InvalidTokenError:
            return None

        return claims

    return verify


def chain(*resolvers: ResolveTenant) -> ResolveTenant:
    """The first tenant that one of them finds. A malformed one is refused, not passed over."""

    def resolve(request: Request) -> Found | Awaitable[Found]:
        return first(request, 0)

    def first(request: Request, start: int) -> Found | Awaitable[Found]:
        for position, resolver in enumerate(resolvers[start:], start):
            found = resolver(request)
            if _waits(found):
                return rest(request, found, position + 1)

            if found is not None:
                return found

        return None

    async def rest(request: Request, waiting: Awaitable[Found], position: int) -> Found:
        found = await waiting
        if found is None:
            later = first(request, position)
            found = await later if _waits(later) else later

        return found

    return resolve


def cached(find: ResolveTenant, lookup: Lookup, *, ttl: float = 60.0, size: int = 1024) -> Cached:
    """Look up the tenant of what `find` reads from the request, such as an API key.

    `lookup` may be async; None is "no such tenant", which is remembered too, apart from the
    tenants, so that guessing does not push them out. One lookup serves all who wait for it, so it
    runs without a tenant: what it finds must not depend on who asked first.
    """
    return Cached(find, lookup, ttl=ttl, size=size)


class Cached:
    def __init__(self, find: ResolveTenant, lookup: Lookup, *, ttl: float, size: int) -> None:
        if not (ttl > 0 and size >= 1):
            raise ValueError(
                f"cached() needs a ttl above 0 and a size of 1 or more, got {ttl}, {size}."
            )

        self._find = find
        self._lookup = lookup
        self._is_async = inspect.iscoroutinefunction(lookup) or inspect.iscoroutinefunction(
            getattr(lookup, "__call__", None)  # noqa: B004 - its kind is asked for
        )
        self._known = _Remembered(ttl, size)
        self._unknown = _Remembered(ttl, size)
        self._lock = threading.Lock()
        self._age = 0
        self._flights: dict[Any, Future[Found]] = {}
        self._tasks: dict[Any, asyncio.Task[Found]] = {}

    def __call__(self, request: Request) -> Found | Awaitable[Found]:
        key = self._find(request)
        return self._afind(key) if _waits(key) else self._tenant_of(key)

    def forget(self, key: Any = None) -> None:
        """Look this key up anew, or all of them: after a key is revoked, a tenant is added."""
        with self._lock:
            self._age += 1
            self._known.forget(key)
            self._unknown.forget(key)

    async def _afind(self, waiting: Awaitable[Any]) -> Found:
        found = self._tenant_of(await waiting)
        return await found if _waits(found) else found

    def _tenant_of(self, key: Any) -> Found | Awaitable[Found]:
        if key is None:
            return None

        with self._lock:
            found = self._known.get(key)
            if found is not None:
                return cast(Found, found)

            unknown = self._unknown.get(key) is not None
            age = self._age

        if unknown:
            raise refused(UnknownTenantError())

        return self._fly_async(key, age) if self._is_async else self._fly(key, age)

    async def _fly_async(self, key: Any, age: int) -> Found:
        flight = (asyncio.get_running_loop(), key, age)
        task = self._tasks.get(flight)
        if task is None:
            # A task of its own: it goes on for the others when the first who asked is gone.
            task = self._tasks[flight] = asyncio.create_task(self._look(key, age))
            task.add_done_callback(lambda task: self._landed(flight, task))

        return _known(await asyncio.shield(task))

    async def _look(self, key: Any, age: int) -> Found:
        scope = without_tenant(self)
        try:
            found = await cast(Awaitable[Found], self._lookup(key))
        finally:
            scope.leave()

        return self._remembered(key, found, age)

    def _landed(self, flight: Any, task: asyncio.Task[Found]) -> None:
        self._tasks.pop(flight, None)
        if not task.cancelled():
            # Marks it as retrieved: those who asked may all be gone.
            task.exception()

    def _fly(self, key: Any, age: int) -> Found:
        with self._lock:
            flight = self._flights.get((key, age))
            if flight is not None:
                leads = False
            else:
                leads = True
                flight = self._flights[key, age] = Future()

        if leads:
            return _known(self._lead(flight, key, age))

        try:
            found = flight.result()
        except CancelledError:
            # Not a failed lookup: the thread that led it was told to end.
            return self._fly(key, age)

        return _known(found)

    def _lead(self, flight: Future[Found], key: Any, age: int) -> Found:
        scope = without_tenant(self)
        try:
            found = self._lookup(key)
            if _waits(found):
                drop(found)
                raise ConfigurationError(
                    "cached() got an awaitable from a plain function: make the lookup 'async def'."
                )

            flight.set_result(self._remembered(key, found, age))
        except Exception as error:
            flight.set_exception(error)
            raise
        finally:
            scope.leave()
            with self._lock:
                del self._flights[key, age]

            flight.cancel()

        return found

    def _remembered(self, key: Any, found: Found, age: int) -> Found:
        with self._lock:
            if age == self._age:
                if found is None:
                    self._unknown.set(key, True)
                else:
                    self._known.set(key, found)

        return found


class _Remembered:
    """A bounded mapping whose entries expire; the least recently used one goes first."""

    def __init__(self, ttl: float, size: int) -> None:
        self._ttl = ttl
        self._size = size
        self._entries: OrderedDict[Any, tuple[float, Any]] = OrderedDict()

    def get(self, key: Any) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            return None

        if entry[0] <= monotonic():
            del self._entries[key]
            return None

        self._entries.move_to_end(key)
        return entry[1]

    def set(self, key: Any, value: Any) -> None:
        self._entries[key] = (monotonic() + self._ttl, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def forget(self, key: Any) -> None:
        if key is None:
            self._entries.clear()
        else:
            self._entries.pop(key, None)


def _waits(found: Found | Awaitable[Found]) -> TypeIs[Awaitable[Found]]:
    return type(found) not in PLAIN and inspect.isawaitable(found)


def _known(found: Found) -> Found:
    if found is None:
        raise refused(UnknownTenantError())

    return found


def _reader(name: str) -> Callable[[Request], str | bytes | None]:
    """The value of a header that must not come twice, as the server gives it."""
    wire = name.lower().encode("ascii")
    variable = "HTTP_" + name.upper().replace("-", "_")

    def read(request: Request) -> str | bytes | None:
        if "REQUEST_METHOD" in request:
            found: str | None = request.get(variable)
            return found

        sent: bytes | None = None
        for key, value in request["headers"]:
            if key == wire:
                if sent is not None:
                    raise _malformed(f"header {name!r}", "given more than once")

                sent = value

        return sent

    return read


def _stripped(sent: str | bytes) -> str:
    return (sent if isinstance(sent, str) else sent.decode("latin-1")).strip(" \t")


def _lines(request: Request, wire: bytes, variable: str) -> list[str]:
    """A header that may come in several lines."""
    if "REQUEST_METHOD" in request:
        return [request[variable]] if variable in request else []

    return [line.decode("latin-1") for key, line in request["headers"] if key == wire]


def _accepting(
    pattern: str,
    convert: Convert,
    source: str,
    read: Callable[[Any], str] = str,
) -> Callable[[str | bytes], Found]:
    fits = re.compile(pattern).fullmatch

    @functools.lru_cache(maxsize=1024)
    def accept(sent: str | bytes) -> str:
        # What is refused is not remembered, so nothing long is.
        if len(sent) <= _LONGEST:
            name = read(sent)
            if fits(name):
                return name

        raise _malformed(source, "not a tenant's name")

    def converted(sent: str | bytes) -> Found:
        try:
            tenant: Found = convert(accept(sent))
        except (ValueError, TypeError):
            raise _malformed(source, "not convertible") from None

        return tenant

    return accept if convert is str else converted


_read_host = _reader("host")
_read_forwarded_host = _reader("x-forwarded-host")


def _host(request: Request, trust_forwarded_host: bool) -> str | None:
    host = _read_forwarded_host(request) if trust_forwarded_host else None
    if host is None:
        host = _read_host(request)

    if host is None:
        return None

    found = _HOST.fullmatch(_stripped(host).lower())
    if found is None:
        raise _malformed("host", "not a host")

    return found["name"].removesuffix(".")


def _path(request: Request) -> tuple[str, str, list[bytes] | None]:
    """The application's root, the path below it, and (ASGI) the segments of both as they were sent."""
    if "REQUEST_METHOD" in request:
        return "", request.get("PATH_INFO", ""), None

    root, path = request.get("root_path", "").rstrip("/"), request["path"]
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]

    raw = request.get("raw_path")
    return root, path, None if raw is None else raw.split(b"?", 1)[0].split(b"/")


def _same(sent: list[bytes], segments: list[str]) -> bool:
    return [unquote(segment) for segment in sent[: len(segments)]] == segments


def _malformed(source: str, reason: str) -> MalformedTenantError:
    """Without the value, which may be a secret or made to spoil a log."""
    return refused(
        MalformedTenantError(
            f"The tenant in the {source} is malformed: {reason}.", source=source, reason=reason
        )
    )
