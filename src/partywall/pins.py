"""A session serves one tenant: whose it is, and what it may answer from memory.

Only the use of owned rows pins a session. Global tables may be read under any tenant, or none.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session, class_mapper

from .context import Scope, TenantId, active_scope
from .errors import CrossTenantAccessError, MissingTenantContextError, refused
from .ownership import tenant_attributes
from .predicate import same_tenant

_PIN = "_partywall_pin"
_SESSIONS = "_partywall_sessions"
_USED = "_partywall_used"

if TYPE_CHECKING:

    class _IdentityMap:
        _dict: dict[Any, Any]
        _partywall_pin: Pin

        def get(self, key: Any, default: Any = None) -> Any: ...
        def __getitem__(self, key: Any) -> Any: ...
        def values(self) -> list[Any]: ...

else:
    _IdentityMap = object


class Pin:
    """Whose a session is: a tenant's, or (None) that of an unscoped block."""

    __slots__ = ("forged", "scope", "tenant")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.tenant: TenantId | None = None if scope.context is None else scope.context.tenant_id
        self.forged: set[Any] = set()

    def serves(self, scope: Scope) -> bool:
        if scope is self.scope:
            return True

        if scope.context is None or self.tenant is None:
            return scope.context is None and self.tenant is None

        return same_tenant(scope.context.tenant_id, self.tenant)


def pin(session: Any, scope: Scope) -> Pin:
    """The first use decides whose the session is; nobody else uses it until it is emptied."""
    mine: Pin | None = session.__dict__.get(_PIN)
    held = session.identity_map
    pinned = held.__dict__.get(_PIN)
    if mine is not None and mine.scope is scope and pinned is mine:
        return mine

    if mine is None or not mine.serves(scope):
        if mine is not None and (is_used(session) or session.new or session.deleted or len(held)):
            raise refused(_other_tenant(mine, scope))

        mine = session.__dict__[_PIN] = Pin(scope)

    mine.scope = scope
    if pinned is not mine:
        mine.forged.clear()
        if len(held):
            held.__class__ = _pinned(type(held))
        else:
            # Not a change of class: an object of its own keeps its attributes fast.
            held = session.identity_map = _pinned(type(held))()

        held.__dict__[_PIN] = mine

    return mine


def pin_of(session: Any) -> Pin | None:
    mine: Pin | None = session.__dict__.get(_PIN)
    return mine


def follow(session: Session, connection: Any) -> None:
    """Remember for whom a connection works: rarely more than one session."""
    links = connection.__dict__.get(_SESSIONS, ())
    if links:
        links = [link for link in links if link() not in (None, session)]

    connection.__dict__[_SESSIONS] = (*links, weakref.ref(session))


def leave(connection: Any) -> Any:
    """Forget it for a while; give what is returned to `resume`."""
    return connection.__dict__.pop(_SESSIONS, ())


def resume(connection: Any, links: Any) -> None:
    connection.__dict__[_SESSIONS] = links


def sessions_of(connection: Any) -> list[Any]:
    """The sessions that are in a transaction on a connection."""
    sessions = [link() for link in connection.__dict__.get(_SESSIONS, ())]
    return [session for session in sessions if session is not None and session.in_transaction()]


def pin_sessions(connection: Any) -> None:
    """A connection that is used for a scope serves it with all of its sessions."""
    scope = active_scope()
    if scope is None:
        return

    for link in connection.__dict__.get(_SESSIONS, ()):
        session = link()
        transaction = None if session is None else session.get_transaction()
        if transaction is not None:
            pin(session, scope)
            transaction.__dict__[_USED] = True


def is_used(session: Any) -> bool:
    """Whether owned rows were used in the transaction that the session is in."""
    transaction = session.get_transaction()
    return transaction is not None and _USED in transaction.__dict__


class _PinnedIdentityMap(_IdentityMap):
    """Answers from memory only under the tenant that the session serves."""

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
        for key in self._dict:
            self._refuse_others(key)

        return super().values()

    def _refuse_others(self, key: Any) -> None:
        scope = active_scope()
        mine = self._partywall_pin
        if scope is mine.scope or (scope is not None and mine.serves(scope)):
            if mine.forged and key in mine.forged:
                _refuse_forged(self._dict[key], scope)

            return

        if tenant_attributes(class_mapper(key[0])) is not None:
            raise refused(
                MissingTenantContextError() if scope is None else _other_tenant(mine, scope)
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


def belongs_elsewhere(state: Any, found: Any, tenant: TenantId) -> CrossTenantAccessError:
    model = state.class_.__name__
    return CrossTenantAccessError(
        f"This {model} belongs to tenant {found!r}, but the current tenant is {tenant!r}.",
        model=model,
        found=found,
        current=tenant,
    )


_pinned_classes: dict[Any, Any] = {}


def _pinned(base: Any) -> Any:
    known = _pinned_classes.get(base)
    if known is None:
        pinned = type("PinnedIdentityMap", (_PinnedIdentityMap, base), {})
        known = _pinned_classes[base] = _pinned_classes[pinned] = pinned

    return known


def _other_tenant(mine: Pin, scope: Scope) -> CrossTenantAccessError:
    current = None if scope.context is None else scope.context.tenant_id
    serves = "an unscoped block" if mine.tenant is None else f"tenant {mine.tenant!r}"
    now = "this is unscoped" if current is None else f"the current tenant is {current!r}"
    return CrossTenantAccessError(
        f"This session serves {serves}, but {now}. "
        "Use a session of its own, or close() this one first.",
        found=mine.tenant,
        current=current,
    )
