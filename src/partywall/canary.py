"""The canary: before a dialect is trusted, it must show that its SQL carries the conditions.

It compiles a fixed set of statements. If a release of SQLAlchemy or a third-party dialect no longer
calls what the wall is built on, nothing is executed with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    exists,
    func,
    insert,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.engine import Dialect

from .errors import ConfigurationError, refused
from .ownership import own

_CONDITION = re.compile(r"canary_tenant\W* = ")


def sing(dialect: Dialect) -> None:
    for name, statement, conditions in _statements(dialect):
        compiled: Any = statement.compile(dialect=dialect)
        if not compiled.tenants or len(_CONDITION.findall(str(compiled))) < conditions:
            raise refused(
                ConfigurationError(
                    f"{type(dialect).__module__} compiles {name} without the tenant condition. "
                    "partywall cannot guard this dialect on this version of SQLAlchemy.",
                    dialect=dialect.name,
                )
            )


# Made on import, before a listener of the application's could take it for one of its own tables.
_ROOM = own(
    Table(
        "partywall_canary",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("canary_tenant", String(50)),
    ),
    column="canary_tenant",
)


def _statements(dialect: Dialect) -> Iterator[tuple[str, Any, int]]:
    room = _ROOM
    other = room.alias("other")
    linked = room.c.id == other.c.id
    yield "SELECT", select(room.c.id), 1
    yield "SELECT with two FROMs", select(room.c.id, other.c.id), 2
    yield "JOIN", select(room.c.id).join(other, linked), 2
    yield "LEFT JOIN", select(room.c.id).outerjoin(other, linked), 2
    if not isinstance(dialect, MySQLDialect):
        yield "FULL JOIN", select(room.c.id).join(other, linked, full=True), 4

    yield "a subquery", select(select(room.c.id).subquery().c.id), 1
    yield "a scalar subquery", select(select(func.count(room.c.id)).scalar_subquery()), 1
    yield "EXISTS", select(exists().where(room.c.id == 1)), 1
    yield "a CTE", select(select(room.c.id).cte().c.id), 1
    yield "UNION", union_all(select(room.c.id), select(other.c.id)), 2
    yield "UPDATE", update(room).values(id=1), 1
    yield "DELETE", delete(room), 1
    yield "INSERT", insert(room).values(id=1), 0
    yield "INSERT FROM SELECT", insert(room).from_select(["id"], select(other.c.id)), 1
