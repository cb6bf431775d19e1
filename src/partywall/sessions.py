"""Session events: whose objects are added, changed and deleted.

They refuse early and by name; what they let through still meets the wall when it becomes SQL.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from itertools import islice
from typing import Any

from sqlalchemy import Table, event
from sqlalchemy.orm import Query, Session, base
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ClauseElement

from . import ownership
from .context import Scope, active_scope, entered
from .errors import (
    CrossTenantAccessError,
    MissingTenantContextError,
    UnscopedStatementError,
    refused,
)
from .ownership import TenantAttribute, on_first_mark, tenant_attributes
from .pins import begin_flush, belongs_elsewhere, follow, is_used, pin, pin_of
from .predicate import same_tenant, tenant_now, tenant_value


def _attaching(before_attach: Any) -> Any:
    """An object that is added is the tenant's, and so is the session from then on."""

    @functools.wraps(before_attach)
    def attaching(session: Any, state: Any, obj: Any) -> Any:
        to_attach = before_attach(session, state, obj)
        if to_attach:
            # Asked of its module, where an extension of SQLAlchemy puts another.
            _pin_attached(session, state, base.instance_dict(obj))

        return to_attach

    return attaching


def _pin_attached(session: Any, state: Any, values: dict[str, Any]) -> None:
    # Every object comes by here: what `tenant_attributes`, `active_scope` and `pin` say is known.
    as_of, attributes = state.mapper._partywall_attributes
    if as_of != ownership.marked:
        attributes = tenant_attributes(state.mapper)

    if attributes is None:
        return

    scope, mine = entered(), session._partywall_pin
    if (
        mine is not session.identity_map
        or mine.scope is not scope
        or scope.over
        or scope.context is None
    ):
        scope = active_scope()
        if scope is None:
            if state.key is not None:
                # Whose it is could not be checked, and it would be answered from memory.
                raise refused(MissingTenantContextError())

            return

        pin(session, scope)

    if state.key is not None and values.keys() <= _NOTHING and not state.expired_attributes:
        _check_when_filled(session, state)

    if scope.context is not None:
        for attribute in attributes:
            value = values.get(attribute.key)
            if value is not None:
                _refuse_foreign_value(state, attribute, value)


def _check_when_filled(session: Session, state: Any) -> None:
    """merge(load=False) attaches an empty object and copies the values into it afterwards.

    An expired object is as empty, and whoever fills it asks the database. A merge that fails on its
    way leaves this behind: it must not keep the session or the object.
    """
    attached, filled = weakref.ref(session), weakref.ref(state)

    def check_and_fill(*args: Any) -> None:
        state: Any = filled()
        session = attached()
        del state._commit_all
        if session is not None and state.session_id == session.hash_key:
            try:
                _pin_attached(session, state, state.dict)
            except CrossTenantAccessError:
                session.expunge(state.obj())
                raise

        state._commit_all(*args)

    state._commit_all = check_and_fill


def _pin_flush(
    session: Session | None = None, flush_context: Any = None, instances: Any = None
) -> None:
    if session is None or flush_context is None:
        # Sent by hand, as tests of other listeners do.
        return

    mine: Any = pin_of(session)
    if mine is not None:
        scope = active_scope()
        if scope is not None and (mine.scope is not scope or mine is not session.identity_map):
            pin(session, scope)

    begin_flush(session, flush_context)
    flush_context.presort_actions[_Objects] = _Objects()


def _refuse_to_commit(session: Session) -> None:
    """What one tenant has begun another one does not end, except by rolling it back."""
    scope = active_scope()
    if scope is not None and pin_of(session) is not None and is_used(session):
        pin(session, scope)


class _Objects:
    """The objects of a flush, looked at before the first of them becomes SQL.

    Not by mapper events: there are libraries that work otherwise where a mapper has any, and every
    model would have ours, owned or not.
    """

    _known = 0

    def execute(self, flush_context: Any) -> bool:
        # SQLAlchemy asks again for as long as cascades bring further objects.
        states = flush_context.states
        if len(states) > self._known:
            scope, mapper, attributes = active_scope(), None, None
            for state in islice(states, self._known, None):
                if state.mapper is not mapper:
                    mapper, stamps = state.mapper, None
                    attributes = tenant_attributes(mapper)

                if not attributes:
                    continue

                if state.key is None:
                    if stamps is None:
                        stamps = _stamps(attributes, scope)

                    values = base.instance_dict(state.obj())
                    for attribute, key, tenant in stamps:
                        if tenant is not None and values.get(key) is None:
                            values[key] = tenant
                        else:
                            _refuse_stamp(state, attribute, values.get(key), scope)

                elif not _may_be_shared(attributes) or states[state][0] or _is_written(state):
                    _refuse_foreign(state, attributes, scope)

            self._known = len(states)

        return False


def _stamps(
    attributes: Iterable[TenantAttribute], scope: Scope | None
) -> list[tuple[TenantAttribute, str, Any]]:
    """Whatever new objects of a class leave out of their tenant is filled in with this."""
    return [
        (each, each.key, None if scope is None else tenant_value(scope, each.type))
        for each in attributes
    ]


def _refuse_stamp(state: Any, attribute: TenantAttribute, value: Any, scope: Scope | None) -> None:
    """What a new object says itself of its tenant, or leaves out where it cannot be filled in."""
    if scope is None:
        raise refused(MissingTenantContextError())

    if scope.context is not None:
        _refuse_foreign_value(state, attribute, value)
    elif value is None and not attribute.shared:
        raise refused(
            MissingTenantContextError(
                f"This {_name(state)} has no tenant. "
                f"Inside unscoped() set {attribute.key!r} yourself.",
                model=_name(state),
            )
        )


def _refuse_foreign(state: Any, attributes: Iterable[TenantAttribute], scope: Scope | None) -> None:
    if scope is None:
        raise refused(MissingTenantContextError())

    if scope.context is None:
        return

    for attribute in attributes:
        # Not `.history`: on an expired row it is empty, and the check would pass. What was never
        # loaded is left to the condition in the UPDATE itself.
        for values in (state.committed_state, state.dict):
            value = values.get(attribute.key, NO_VALUE)
            if value is not NO_VALUE:
                _refuse_foreign_value(state, attribute, value)


def _is_written(state: Any) -> bool:
    """Whether more changes than its collections: those of a shared row hold the tenant's own."""
    columns = state.mapper.column_attrs
    return any(key in columns for key in state.committed_state)


def _may_be_shared(attributes: Iterable[TenantAttribute]) -> bool:
    return any(attribute.shared for attribute in attributes)


_LISTENERS: list[tuple[str, Any]] = [
    ("after_begin", follow),
    ("before_commit", _refuse_to_commit),
    ("before_flush", _pin_flush),
]


# What the dictionary of an object holds that has no values yet.
_NOTHING = {"_sa_instance_state"}


@on_first_mark
def _install() -> None:
    for name, listener in _LISTENERS:
        event.listen(Session, name, listener)

    # Not its event, which costs more than what is done here.
    setattr(Session, "_before_attach", _attaching(Session._before_attach))  # noqa: B010
    setattr(Query, "instances", _pinning(Query.instances))  # noqa: B010


def _pinning(instances: Any) -> Any:
    """Rows that another connection has read become objects of the session without a statement."""

    @functools.wraps(instances)
    def pinning(query: Any, result: Any, context: Any = None) -> Any:
        compiled = query._compile_state() if context is None else context.compile_state
        parts = visitors.iterate(compiled.statement)
        if any(isinstance(part, Table) and ownership.owned(part) is not None for part in parts):
            scope = active_scope()
            if scope is None:
                raise refused(MissingTenantContextError())

            pin(query.session, scope)

        return instances(query, result, context)

    return pinning


def _refuse_foreign_value(state: Any, attribute: TenantAttribute, value: Any) -> None:
    tenant = tenant_now()
    if value == tenant and not isinstance(value, bool):
        return

    if isinstance(value, ClauseElement):
        raise refused(
            UnscopedStatementError(
                f"The tenant of this {_name(state)} is an SQL expression. "
                "Leave it out: it is filled in.",
                model=_name(state),
            )
        )

    if value is None:
        raise refused(
            CrossTenantAccessError(
                f"This {_name(state)} belongs to no tenant and cannot be changed by one. "
                "Change it in 'with unscoped(\"why\", write=True)'."
                if attribute.shared
                else f"This {_name(state)} belongs to no tenant once {attribute.key!r} is None. "
                "Leave it out: it stays whose it is.",
                model=_name(state),
                found=None,
                current=tenant,
            )
        )

    if not same_tenant(value, tenant, attribute.type):
        raise refused(belongs_elsewhere(state, value, tenant))


def _name(state: Any) -> str:
    name: str = state.class_.__name__
    return name
