"""The SELECT of an INSERT: which columns it gives, and the tenant beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Table, literal_column, select
from sqlalchemy.dialects.mysql.dml import OnDuplicateClause
from sqlalchemy.sql.elements import ColumnClause
from sqlalchemy.sql.selectable import CompoundSelect, Select, SelectStatementGrouping, TableClause

from .fragments import only_modifies, texts_of
from .froms import leaves
from .ownership import Ownership
from .predicate import TenantParameter
from .references import UNKNOWN, is_exact


def with_first(parameter: TenantParameter, selected: Any) -> Select[Any]:
    """A SELECT of the tenant and of what the developer selects."""
    if isinstance(selected, Select) and _may_be_extended(selected):
        extended: Select[Any] = selected.add_columns(parameter)
        extended._raw_columns.insert(0, extended._raw_columns.pop())
        return extended

    return all_of(selected, parameter)


def _may_be_extended(selected: Select[Any]) -> bool:
    """Whether one more column in front changes nothing: no text before it, no column by number."""
    clauses = (*selected._group_by_clauses, *selected._order_by_clauses)
    texts = [text for clause in clauses for text in texts_of(clause)]
    return not any(re.search(r"(?:^|,)\s*\d", text) for text in texts) and all(
        only_modifies(str(prefix)) for prefix, _ in selected._prefixes
    )


def all_of(selected: Any, *first: Any) -> Select[Any]:
    rows = selected.subquery("partywall_rows")
    return select(*first, literal_column("partywall_rows.*")).select_from(rows)


def columns_of(selected: Any, named: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The columns that an INSERT FROM SELECT writes, for each SELECT of a UNION."""
    while isinstance(selected, SelectStatementGrouping):
        selected = selected.element

    if isinstance(selected, CompoundSelect):
        for member in selected.selects:
            yield from columns_of(member, named)

        return

    columns = list(selected._all_selected_columns) if isinstance(selected, Select) else []
    texts = [text for column in columns for text in texts_of(column)]
    aligned = len(columns) == len(named) and not any("," in text for text in texts)
    yield columns if aligned and is_exact(selected) else [UNKNOWN] * len(named)


def with_tenant_column(statement: Any, ownership: Ownership) -> Any:
    """An INSERT through a construct of the table that lacks the column, such as `table("orders")`."""
    known = statement.table
    statement = statement._clone()
    if isinstance(known, Table):
        # Only a whole table knows its primary key and its defaults.
        statement.table = ownership.table
    else:
        columns = (ColumnClause(c.name, c.type) for c in (*known.c, ownership.column))
        statement.table = TableClause(known.name, *columns, schema=known.schema)

    return statement


def updates_its_source(statement: Any) -> bool:
    """Whether ON DUPLICATE KEY UPDATE would find each of the table's columns twice."""
    return (
        updates_duplicates(statement)
        and isinstance(statement.select, Select)
        and any(
            hash(leaf) == hash(statement.table)
            for from_ in statement.select.get_final_froms()
            for leaf in leaves(from_)
        )
    )


def updates_duplicates(statement: Any) -> bool:
    """Whether a statement has MySQL's ON DUPLICATE KEY UPDATE."""
    clause = getattr(statement, "_post_values_clause", None)
    # From SQLAlchemy 2.1 on there may be several clauses.
    return any(isinstance(c, OnDuplicateClause) for c in getattr(clause, "clauses", (clause,)))


def with_derived_source(statement: Any) -> Any:
    statement = statement._clone()
    statement.select = select(*statement.select.subquery().c)
    return statement
