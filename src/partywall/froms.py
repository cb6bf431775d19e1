"""What stands in a FROM: tables under aliases, tables in joins."""

from __future__ import annotations

from typing import Any

from sqlalchemy.sql.selectable import AliasedReturnsRows, FromClause, FromGrouping, Join


def leaves(from_: FromClause) -> list[FromClause]:
    """The tables and aliases in a FROM, joins opened up."""
    if isinstance(from_, FromGrouping):
        return leaves(from_.element)

    if isinstance(from_, Join):
        return [*leaves(from_.left), *leaves(from_.right)]

    return [from_]


def source(from_: Any) -> Any:
    """The table under an alias, or under an alias of an alias."""
    while isinstance(from_, (AliasedReturnsRows, FromGrouping)):
        from_ = from_.element

    return from_
