"""Session and mapper events: whose objects are added, changed and deleted.

They refuse early and by name; what they let through still meets the wall when it becomes SQL.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Mapper, Session, SessionTransaction
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.sql.elements import ClauseElement

from .context import active_scope
from .errors import (
    CrossTenantAccessError,
    MissingTenantContextError,
    UnscopedStatementError,
    refused,
)
from .ownership import Ownership, on_first_mark, owns_rows, tenant_attributes
from .pins import belongs_elsewhere, follow, pin, pin_of
from .predicate import same_tenant, tenant_now, tenant_value


def _follow(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    follow(session, connection)


def _release(session: Session, transaction: SessionTransaction) -> None:
    mine = pin_of(session)
    if mine is not None:
        mine.flushing = False
        mine.busy = mine.busy and transaction.parent is not None


def _pin_attached(session: Session, state: Any) -> None:
    if not owns_rows(state.mapper):
        return

    scope = active_scope()
    if scope is None:
        return

    mine = pin(session, scope)
    if state.key is not None:
        # Claimed to be stored, but not loaded here: no proof that the row is the tenant's.
        mine.forged.add(state.key)
        if state.dict.keys() <= _NOTHING:
            _check_when_filled(session, state)

    if scope.context is not None:
        _refuse_foreign_object(state)


def _check_when_filled(session: Session, state: Any) -> None:
    """merge(load=False) attaches an empty object and copies the values into it afterwards."""
    fill = state._commit_all

    def check_and_fill(*args: Any) -> None:
        del state._commit_all
        scope = active_scope()
        if scope is not None and scope.context is not None:
            try:
                _refuse_foreign_object(state)
            except CrossTenantAccessError:
                session.expunge(state.obj())
                raise

        fill(*args)

    state._commit_all = check_and_fill


def _refuse_foreign_object(state: Any) -> None:
    for key, ownership in tenant_attributes(state.mapper):
        value = state.dict.get(key)
        if value is not None:
            _refuse_foreign_value(state, ownership, value)


def _pin_flush(session: Session, flush_context: Any, instances: Any) -> None:
    scope = active_scope()
    mine = pin_of(session)
    if mine is not None and scope is not None:
        mine = pin(session, scope)

    if mine is not None:
        mine.flushing = True


def _end_flush(session: Session, flush_context: Any) -> None:
    mine = pin_of(session)
    if mine is not None:
        mine.flushing = False


def _stamp(mapper: Mapper[Any], connection: Connection, state: Any) -> None:
    for key, ownership in tenant_attributes(mapper):
        scope = active_scope()
        if scope is None:
            raise refused(MissingTenantContextError())

        value = state.dict.get(key)
        if scope.context is not None:
            if value is None:
                state.dict[key] = tenant_value(scope, ownership.type)
            else:
                _refuse_foreign_value(state, ownership, value)

        elif value is None and not ownership.shared:
            raise refused(
                MissingTenantContextError(
                    f"This {_name(state)} has no tenant. Inside unscoped() set {key!r} yourself.",
                    model=_name(state),
                )
            )


def _refuse_foreign(mapper: Mapper[Any], connection: Connection, state: Any) -> None:
    for key, ownership in tenant_attributes(mapper):
        scope = active_scope()
        if scope is None:
            raise refused(MissingTenantContextError())

        if scope.context is None:
            return

        # Not `.history`: on an expired row it is empty, and the check would pass. What was never
        # loaded is left to the condition in the UPDATE itself.
        for values in (state.committed_state, state.dict):
            value = values.get(key, NO_VALUE)
            if value is not NO_VALUE:
                _refuse_foreign_value(state, ownership, value)


_LISTENERS: list[tuple[Any, str, Any, dict[str, bool]]] = [
    (Session, "after_begin", _follow, {}),
    (Session, "after_transaction_end", _release, {}),
    (Session, "before_attach", _pin_attached, {"raw": True}),
    (Session, "before_flush", _pin_flush, {}),
    (Session, "after_flush", _end_flush, {}),
    (Mapper, "before_insert", _stamp, {"raw": True}),
    (Mapper, "before_update", _refuse_foreign, {"raw": True}),
    (Mapper, "before_delete", _refuse_foreign, {"raw": True}),
]


# What the dictionary of an object holds that has no values yet.
_NOTHING = {"_sa_instance_state"}


@on_first_mark
def _install() -> None:
    for target, name, listener, options in _LISTENERS:
        event.listen(target, name, listener, **options)


def _refuse_foreign_value(state: Any, ownership: Ownership, value: Any) -> None:
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
                "Change it in 'with unscoped(\"why\", write=True)'.",
                model=_name(state),
                found=None,
                current=tenant,
            )
        )

    if not same_tenant(value, tenant, ownership.type):
        raise refused(belongs_elsewhere(state, value, tenant))


def _name(state: Any) -> str:
    name: str = state.class_.__name__
    return name
