"""The keys of VALUES and SET: which column they name, in any spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.dialects.postgresql.operators import GETITEM
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    ClauseElement,
    ColumnClause,
    Grouping,
    Null,
    Slice,
)
from sqlalchemy.sql.selectable import FromClause

from .errors import UnscopedStatementError, refused
from .ownership import same_name

_SUBSCRIPTS = {
    operators.getitem,
    operators.json_getitem_op,
    operators.json_path_getitem_op,
    GETITEM,
}


class Item(Grouping[Any]):
    """What the developer wrote in SET, and what must not set anything else."""

    __visit_name__ = "partywall_item"


def means(key: Any, column: ColumnClause[Any], table: FromClause | None, main: bool) -> bool:
    """Whether a key of VALUES or SET is the tenant column."""
    key = named_by(key)
    if key is None:
        return False

    if isinstance(key, str):
        return main and (same_name(key, column.key) or same_name(key, column.name))

    if not same_name(key.name, column.name):
        return False

    return main or key.table is None or hash(key.table) == hash(table)


def folded(key: Any, table: FromClause) -> str:
    """The name in the database that a key of VALUES or SET means."""
    if isinstance(key, str):
        key = table.c.get(key, key)

    name: str = key if isinstance(key, str) else key.name
    return name.casefold()


def items(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The values of a SET, each in its place."""
    return {
        key: Item(value.self_group()) if is_written(value) else value
        for key, value in values.items()
    }


def is_written(value: Any) -> bool:
    """Whether it becomes SQL of its own, and not a parameter."""
    return isinstance(value, ClauseElement) and not isinstance(value, BindParameter)


def _is_part(key: Any) -> bool:
    """Whether a key of SET is a part of a column, such as an array's element."""
    return (
        isinstance(key, BinaryExpression)
        and key.operator in _SUBSCRIPTS
        and (isinstance(key.left, ColumnClause) or _is_part(key.left))
        and all(
            isinstance(part, (BindParameter, Null, Slice)) for part in visitors.iterate(key.right)
        )
    )


def named_by(key: Any) -> Any:
    """The column that a key of SET names; None for a part of one."""
    if _is_part(key):
        return None

    if not isinstance(key, (str, ColumnClause)):
        raise refused(
            UnscopedStatementError(
                "What this statement sets is an expression, and which column it is cannot be told. "
                "Name the column."
            )
        )

    name = key if isinstance(key, str) else key.name
    if getattr(name, "quote", None) is False and not name.isidentifier():
        raise refused(
            UnscopedStatementError(
                "A column's name that goes unquoted may hold letters, digits and _ only."
            )
        )

    return key
