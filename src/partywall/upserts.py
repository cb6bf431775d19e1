"""What an INSERT does with rows that are there already: it changes and shows none of another tenant's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, literal_column
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.sql.elements import BindParameter, ColumnElement, Grouping, Label, TextClause
from sqlalchemy.sql.selectable import FromClause

from .errors import UnscopedStatementError, refused
from .fragments import upserts
from .keys import is_written, items
from .ownership import Ownership, column_of
from .predicate import condition, may_collate, same_bytes
from .sources import updates_duplicates
from .texts import Criteria
from .values import Values


class Enclosed(Grouping[Any]):
    """What the developer wrote, and what must not leave the CASE that it stands in."""

    __visit_name__ = "partywall_enclosed"


class Upserts(Values):
    """ON CONFLICT and ON DUPLICATE KEY."""

    # Which rows RETURNING shows, where it may meet the row of another tenant.
    _shown: ColumnElement[bool] | None = None
    # How many clauses were seen to, in this statement and its CTEs.
    _seen_to = 0

    def visit_insert(self, insert_stmt: Any, *args: Any, **kw: Any) -> str:
        before = self._seen_to
        written = super().visit_insert(insert_stmt, *args, **kw)
        if self.owned(insert_stmt.table) is not None:
            self._refuse_upserts(written, insert_stmt, self._seen_to - before)

        return written

    def _refuse_upserts(self, written: str, statement: Any, known: int) -> None:
        mysql = isinstance(self.dialect, MySQLDialect)
        if upserts(written, hash_comments=mysql) > known:
            raise refused(
                UnscopedStatementError(
                    "A text in this INSERT could change rows that are there already, whoever's "
                    "they are. Use on_conflict_do_update() or on_duplicate_key_update().",
                    table=statement.table.name,
                )
            )

    def visit_on_conflict_do_nothing(self, *args: Any, **kw: Any) -> str:
        self._seen_to += 1
        return super().visit_on_conflict_do_nothing(*args, **kw)

    def visit_on_conflict_do_update(self, on_conflict: Any, **kw: Any) -> str:
        self._seen_to += 1
        table = self.stack[-1]["selectable"].table
        ownership = self.owned(table)
        if ownership is not None:
            on_conflict = on_conflict._clone()
            values = dict(on_conflict.update_values_to_set)
            self.state_tenant(values, table, ownership)
            self.write_references(ownership, table, [values])
            on_conflict.update_values_to_set = list(items(values).items())
            where = on_conflict.update_whereclause
            on_conflict.update_whereclause = Criteria(
                [] if where is None else [where], [self._mine(ownership, table)]
            )

        return super().visit_on_conflict_do_update(on_conflict, **kw)

    def visit_on_duplicate_key_update(self, on_duplicate: Any, **kw: Any) -> str:
        self._seen_to += 1
        # MySQL has no WHERE here: each column keeps its value where the row is not the tenant's.
        table = self.current_executable.table
        ownership = self.owned(table)
        if ownership is not None:
            inserted = on_duplicate.inserted_alias
            on_duplicate = on_duplicate._clone()
            values = dict(on_duplicate.update)
            self.state_tenant(values, table, ownership)
            values = {key: _kept(value) for key, value in values.items()}
            self.write_references(ownership, table, [values])
            column = column_of(inserted, ownership)
            mine = self._mine(ownership, table)
            if column is not None:
                # Drivers send this part of an executemany without parameters. What is inserted
                # holds the tenant.
                held = column_of(table, ownership)
                mine = same_bytes(held, column) if may_collate(held.type) else held == column

            named = {key: table.c.get(key if isinstance(key, str) else key.key) for key in values}
            on_duplicate.update = {
                key: value
                if named[key] is None
                else case((mine, _enclosed(value)), else_=named[key])
                for key, value in values.items()
            }

        return super().visit_on_duplicate_key_update(on_duplicate, **kw)

    def returning_clause(self, stmt: Any, *args: Any, **kw: Any) -> str:
        """MariaDB returns the row that ON DUPLICATE KEY UPDATE has met, and has left alone."""
        ownership = self.owned(stmt.table) if updates_duplicates(stmt) else None
        if ownership is not None:
            self._shown = condition(ownership, stmt.table, self.dialect)

        try:
            return super().returning_clause(stmt, *args, **kw)
        finally:
            self._shown = None

    def _label_returning_column(self, stmt: Any, column: Any, *args: Any, **kw: Any) -> str:
        if self._shown is not None:
            if isinstance(column, TextClause):
                named: Any = literal_column(column.text).label(column.text)
                named._alt_names += (column,)
                column = named

            kw["name"] = kw["name"] or kw["proxy_name"] or kw["fallback_label_name"]
            kw["proxy_name"] = kw["proxy_name"] or kw["name"]

        return super()._label_returning_column(stmt, column, *args, **kw)

    def visit_label(self, label: Any, *args: Any, **kw: Any) -> str:
        shown, self._shown = self._shown, None
        if shown is None:
            return super().visit_label(label, *args, **kw)

        try:
            mine: Any = Label(label.name, case((shown, Enclosed(label.element))))
            known = (label, *label._alt_names)
            return super().visit_label(mine, *args, result_map_targets=known, **kw)
        finally:
            self._shown = shown

    def visit_partywall_enclosed(self, element: Enclosed, **kw: Any) -> str:
        written = self.process(element.element, **kw)
        self.refuse_breaking(written)
        self.refuse_listing(written)
        return f"({written})"

    def _mine(self, ownership: Ownership, table: FromClause) -> ColumnElement[bool]:
        return condition(ownership, table, self.dialect, changing=True)


def _enclosed(value: Any) -> Any:
    return Enclosed(value) if is_written(value) else value


def _kept(value: Any) -> Any:
    """A parameter that keeps its name when the expression around it is copied."""
    if isinstance(value, BindParameter) and value.unique:
        value = value._clone(maintain_key=True)
        value.unique = False

    return value
