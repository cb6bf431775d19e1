"""A session serves one tenant: whose it is, and what it may answer from memory.

Only the use of owned rows pins a session. Global tables may be read under any tenant, or none.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction, class_mapper, identity

from .context import Scope, TenantId, active_scope
from .errors import CrossTenantAccessError, MissingTenantContextError, refused
from .ownership import on_first_mark, tenant_attributes
from .predicate import same_tenant

# What is kept on SQLAlchemy's objects, and what it is where nothing is kept. As attributes: to ask for
# the dictionary of an object would slow down every other attribute that it has.
_KEPT: list[tuple[type[Any], str, Any]] = [
    (Session, "_partywall_pin", None),
    (Session, "_partywall_flush", None),
    (SessionTransaction, "_partywall_used", False),
    (Connection, "_partywall_sessions", ()),
]

if TYPE_CHECKING:

    class _IdentityMap:
        _dict: dict[Any, Any]
        _modified: set[Any]

        def get(self, key: Any, default: Any = None) -> Any: ...
        def __getitem__(self, key: Any) -> Any: ...
        def __len__(self) -> int: ...
        def values(self) -> list[Any]: ...
        def items(self) -> list[Any]: ...
        def all_states(self) -> list[Any]: ...
        def _kill(self) -> None: ...
        def add(self, state: Any) -> bool: ...
        def safe_discard(self, state: Any) -> None: ...

else:
    _IdentityMap = object


def pin(session: Any, scope: Scope) -> Pinned:
    """The first use decides whose the session is; nobody else uses it until it is emptied."""
    mine: Pinned | None = session._partywall_pin
    held = session.identity_map
    if mine is not None and mine.scope is scope and held is mine:
        return mine

    if mine is not None and not mine.serves(scope):
        # With another map the session was emptied, and what it holds since is of nobody's yet.
        kept = held is mine and (session.new or session.deleted or held._dict)
        if kept or is_used(session):
            raise refused(_other_tenant(mine, scope))

        if held is mine:
            # A result that was not read to its end would bring in rows of the one before.
            held._kill()
            held = session.identity_map = type(held)()

        mine = None

    if held is not mine:
        if not isinstance(held, Pinned):
            # Of a session that was there before anything was owned.
            base: Any = type(held)
            held.__class__ = _pinned(base)

        session._partywall_pin = held

    pinned: Pinned = held
    pinned.scope = scope
    return pinned


def pin_of(session: Any) -> Pinned | None:
    """Whose a session is; not necessarily its present identity map, which may have been emptied."""
    mine: Pinned | None = session._partywall_pin
    return mine


def begin_flush(session: Any, flush: Any) -> None:
    session._partywall_flush = weakref.ref(flush)


def flush_of(session: Any) -> Any:
    """The flush that the session is in, from its first statement on."""
    link = session._partywall_flush
    flush = None if link is None else link()
    transaction = getattr(flush, "transaction", None)
    return None if transaction is None or not transaction.is_active else flush


def follow(session: Any, transaction: SessionTransaction, connection: Any) -> None:
    """Remember for whom a connection works: rarely more than one session."""
    links = getattr(connection, "_partywall_sessions", None)
    if links != ():
        if not isinstance(links, tuple):
            # A stand-in, as tests have it, executes nothing.
            return

        links = [link for link in links if link() not in (None, session)]

    connection._partywall_sessions = (*links, weakref.ref(session))
    mine: Pinned | None = session._partywall_pin
    if mine is not None and mine._dict and session.identity_map is mine and not is_used(session):
        mine.doubt_kept()


def leave(connection: Any) -> Any:
    """Forget it for a while; give what is returned to `resume`."""
    links = connection._partywall_sessions
    connection._partywall_sessions = ()
    return links


def resume(connection: Any, links: Any) -> None:
    connection._partywall_sessions = links


def sessions_of(connection: Any) -> list[Any]:
    """The sessions that are in a transaction on a connection."""
    sessions = [link() for link in connection._partywall_sessions]
    return [session for session in sessions if session is not None and session.in_transaction()]


def pin_sessions(connection: Any, scope: Scope | None) -> None:
    """A connection that is used for a scope serves it with all of its sessions."""
    if scope is None:
        return

    for link in connection._partywall_sessions:
        session = link()
        transaction = None if session is None else session._transaction
        if transaction is not None:
            while transaction._parent is not None:
                transaction = transaction._parent

            mine = session._partywall_pin
            if mine is not session.identity_map or mine.scope is not scope:
                pin(session, scope)

            transaction._partywall_used = True


def forget_shared(connection: Any, mapper: Any) -> None:
    """Shared rows stay as they are, but SQLAlchemy would take those in memory for changed too."""
    for session in sessions_of(connection):
        for state in session.identity_map.all_states():
            held, attributes = state.obj(), tenant_attributes(state.mapper)
            if held is None or not attributes or not state.mapper.isa(mapper):
                continue

            if all(state.dict.get(attribute.key) is None for attribute in attributes):
                session.expire(held)


def is_used(session: Any) -> bool:
    """Whether owned rows were used in the transaction that the session is in."""
    transaction: Any = session.get_transaction()
    return transaction is not None and transaction._partywall_used


class Pinned(_IdentityMap):
    """An identity map that answers only under the tenant that the session serves.

    It serves a tenant or, like the scope that used it last, an unscoped block; nobody as long as it
    has held nothing of theirs, and then it answers everybody.
    """

    scope: Scope | None = None
    # What was attached as stored, was given another key, or was loaded in an earlier transaction: no
    # proof that there is such a row and that it is the tenant's.
    forged: set[Any] | None = None

    @property
    def tenant(self) -> TenantId | None:
        context = None if self.scope is None else self.scope.context
        return None if context is None else context.tenant_id

    def serves(self, scope: Scope | None) -> bool:
        mine = self.scope
        if scope is mine or mine is None:
            return True

        if scope is None:
            return False

        if scope.context is None or mine.context is None:
            return scope.context is mine.context

        return same_tenant(scope.context.tenant_id, mine.context.tenant_id)

    def doubt(self, key: Any) -> None:
        self.forged = {key} if self.forged is None else self.forged
        self.forged.add(key)

    def doubt_kept(self) -> None:
        """What has not expired may have been deleted since, and its key given to another."""
        forged, states = self.forged or (), self.all_states()
        self.forged = {state.key for state in states if not state.expired or state.key in forged}

    def get(self, key: Any, default: Any = None) -> Any:
        if key not in self._dict:
            return default

        self._refuse_others(key)
        return super().get(key, default)

    def __getitem__(self, key: Any) -> Any:
        if key in self._dict:
            self._refuse_others(key)

        return super().__getitem__(key)

    def values(self) -> list[Any]:
        self._refuse_all()
        return super().values()

    def items(self) -> list[Any]:
        self._refuse_all()
        return super().items()

    def add(self, state: Any) -> bool:
        added = super().add(state)
        if added and self.scope is not None:
            # Claimed to be stored: what is loaded does not come in by this door.
            self.doubt(state.key)

        return added

    def safe_discard(self, state: Any) -> None:
        super().safe_discard(state)
        if self.scope is None:
            return

        held = state.mapper.identity_key_from_primary_key(key_in(state))
        if held != state.key:
            # A flush is about to put it back under the key that its attributes hold now.
            self.doubt(held)

    def _dirty_states(self) -> set[Any]:
        dirty = self._modified
        if dirty:
            self.refuse_to_list(dirty)

        return dirty

    def refuse_to_list(self, states: Iterable[Any]) -> None:
        scope = active_scope()
        if not self.serves(scope):
            for state in states:
                self._refuse_other_scope(scope, state.mapper)

    def _refuse_all(self) -> None:
        # A copy: what is collected meanwhile is taken out.
        for key in tuple(self._dict) if self.scope is not None else ():
            self._refuse_others(key)

    def _refuse_others(self, key: Any) -> None:
        if self.scope is None:
            return

        scope = active_scope()
        if scope is not None and self.serves(scope):
            if self.forged is not None and key in self.forged:
                _refuse_forged(self._dict[key], scope)

            return

        self._refuse_other_scope(scope, class_mapper(key[0]))

    def _refuse_other_scope(self, scope: Scope | None, mapper: Any) -> None:
        if tenant_attributes(mapper) is not None:
            raise refused(
                MissingTenantContextError() if scope is None else _other_tenant(self, scope)
            )


def _refuse_forged(state: Any, scope: Scope) -> None:
    """An object that was attached may have got another tenant's values since."""
    for attribute in tenant_attributes(state.mapper) or ():
        value = state.dict.get(attribute.key)
        if value is None or scope.context is None:
            continue

        tenant = scope.context.tenant_id
        if not same_tenant(value, tenant, attribute.type):
            raise refused(belongs_elsewhere(state, value, tenant))


def key_in(state: Any) -> tuple[Any, ...]:
    """The primary key that the attributes of an object hold."""
    mapper, values = state.mapper, state.dict
    return tuple(values.get(mapper.get_property_by_column(c).key) for c in mapper.primary_key)


def belongs_elsewhere(state: Any, found: Any, tenant: TenantId) -> CrossTenantAccessError:
    model = state.class_.__name__
    return CrossTenantAccessError(
        f"This {model} belongs to tenant {found!r}, but the current tenant is {tenant!r}.",
        model=model,
        found=found,
        current=tenant,
    )


@on_first_mark
def _install() -> None:
    for kept_on, name, nothing in _KEPT:
        setattr(kept_on, name, nothing)

    # What is pending is not in the identity map.
    for name in ("new", "deleted"):
        listed = getattr(Session, name)
        setattr(Session, name, property(_listing(listed.fget, f"_{name}"), doc=listed.__doc__))

    setattr(Session, "__iter__", _listing(Session.__iter__, "_new"))  # noqa: B010
    # What sessions make from now on; SQLAlchemy 2.0 calls it otherwise.
    name = "_WeakInstanceDict" if hasattr(identity, "_WeakInstanceDict") else "WeakInstanceDict"
    setattr(identity, name, _pinned(getattr(identity, name)))


def _listing(listed: Any, kept: str) -> Any:
    def guarded(session: Any) -> Any:
        mine = pin_of(session)
        # With another map the session was emptied: what is listed since is of nobody's yet.
        if mine is not None and session.identity_map is mine:
            mine.refuse_to_list(getattr(session, kept))

        return listed(session)

    return guarded


@functools.cache
def _pinned(base: type[Any]) -> type[Any]:
    return type("PinnedIdentityMap", (Pinned, base), {})


def _other_tenant(mine: Pinned, scope: Scope) -> CrossTenantAccessError:
    current = None if scope.context is None else scope.context.tenant_id
    serves = "an unscoped block" if mine.tenant is None else f"tenant {mine.tenant!r}"
    now = "this is unscoped" if current is None else f"the current tenant is {current!r}"
    return CrossTenantAccessError(
        f"This session serves {serves}, but {now}. "
        "Use a session of its own, or close() this one first.",
        found=mine.tenant,
        current=current,
    )
