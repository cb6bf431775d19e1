"""The wall: a mixin for SQL compilers that keeps every statement inside the current tenant.

It works on what the ORM has finished: the FROM lists, joins and values that are about to become
SQL. SQL that is not compiled (on a DBAPI cursor) never comes here.
The compiler methods it stands on are private to SQLAlchemy and listed in `compilers`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import or_
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ColumnClause,
    ColumnElement,
    Grouping,
)
from sqlalchemy.sql.selectable import FromClause, FromGrouping, Join, TableClause

from .errors import UnscopedStatementError, refused
from .fragments import selects_again
from .froms import leaves, source
from .keys import items
from .ownership import Ownership, column_of
from .predicate import Bytes, TenantParameter, absent, condition, shows_shared_rows
from .texts import CRITERION, Criteria
from .upserts import Upserts
from .values import Prepared

# Stands behind a criterion until its SELECT is complete; no database takes it for SQL.
_END = "\0\0"
_LOOSE = re.compile(r"\bx?or\b|\|\|", re.IGNORECASE)

Guard = tuple[FromClause, Ownership, ColumnElement[bool]]


class Wall(Upserts):
    """Placed before a dialect's own compiler class by `engines`."""

    # Compiled with literal values, for people to read: it is not executed as it is.
    holds_tenant = False
    # Changes a table of which other rows are seen as well.
    spares_shared = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._expected: Counter[int] = Counter()
        super().__init__(*args, **kwargs)
        # Whether more is to be looked at, when it executes, than whose turn it is.
        self.needs_look = bool(
            self.references
            or self.holds_tenant
            or self.spares_shared
            or self.without_tenant
            or self.schema_translate_map
        )

    def _compose_select_body(
        self,
        text: str,
        select: Any,
        compile_state: Any,
        inner_columns: Any,
        froms: Sequence[FromClause],
        *args: Any,
    ) -> str:
        """Every SELECT passes here, at any depth, with its final FROM list."""
        guards = [guard for from_ in froms for guard in self._guarding(from_)]
        if guards:
            self._refuse_in_ddl()
            select = select._clone()
            select._where_criteria = (_with(select._where_criteria, guards, _END),)

        outer = self._expect(froms)
        try:
            text = super()._compose_select_body(
                text, select, compile_state, inner_columns, froms, *args
            )
        finally:
            self._expected = outer

        if guards:
            self._refuse_another_select(text.partition(_END)[0])

        return self._closed(text)

    def _closed(self, text: str) -> str:
        """From here on, statements of the developer's own may go on behind the criterion."""
        return text.replace(_END, self.mark(CRITERION))

    def _refuse_another_select(self, text: str) -> None:
        if selects_again(text, hash_comments=isinstance(self.dialect, MySQLDialect)):
            raise refused(
                UnscopedStatementError(
                    "A text fragment in this statement begins another SELECT, which would take its "
                    "tenant condition. Write it with union() and its kin."
                )
            )

    def _refuse_in_ddl(self) -> None:
        if getattr(self, "statement", None) is None and self.stack:
            raise refused(
                UnscopedStatementError(
                    "CREATE TABLE AS would copy owned rows to where they are not guarded. "
                    "Do it in 'with unscoped(\"why\", write=True)'."
                )
            )

    def visit_join(self, join: Any, asfrom: bool = False, **kwargs: Any) -> str:
        guards = []
        if join.full:
            guards = [*self._guarding(join.left), *self._guarding(join.right)]
        elif join.isouter:
            guards = _unlinked(self._guarding(join.right), join, self._guarding(join.left))
            self._expected.update(_guarded_in_where(join.right))

        if guards:
            join = join._clone()
            join.onclause = _with([join.onclause], guards)

        text = super().visit_join(join, asfrom=asfrom, **kwargs)
        return self._closed(text + _END) if guards else text

    def visit_update(self, update_stmt: Any, visiting_cte: Any = None, **kw: Any) -> str:
        kw.pop("asfrom", None)
        state = update_stmt._compile_state_factory(update_stmt, self, **kw)
        targets = _hashes(state.statement.table)
        values = dict(state._dict_parameters or {})
        # MySQL sets columns of several tables at once.
        changing = {hash(key.table) for key in values if isinstance(key, ColumnClause)}
        if len(targets) == 1 or not all(isinstance(key, ColumnClause) for key in values):
            changing |= targets
        touched = False
        for leaf in (leaf for from_ in _froms(state) for leaf in leaves(from_)):
            ownership = self.owned(leaf)
            if ownership is None:
                continue

            touched = True
            self.refuse_replacing(state.statement, ownership)
            main = hash(leaf) in targets
            column = column_of(leaf, ownership)
            given = main and not (
                column is not None and self.states_all_columns(state, column, adding=False)
            )
            self.state_tenant(values, leaf, ownership, main=main, given=given)
            self.write_references(
                ownership, leaf, [values], main=main, given=main, changed=state.statement
            )

        if values:
            state._dict_parameters = items(values) if touched else values
            state._no_parameters = False

        return self._changing(super().visit_update, state, changing, visiting_cte, kw)

    def visit_delete(self, delete_stmt: Any, visiting_cte: Any = None, **kw: Any) -> str:
        kw.pop("asfrom", None)
        state = delete_stmt._compile_state_factory(delete_stmt, self, **kw)
        targets = _hashes(state.statement.table)
        return self._changing(super().visit_delete, state, targets, visiting_cte, kw)

    def _changing(
        self, visit: Any, state: Any, changing: Collection[int], visiting_cte: Any, kw: Any
    ) -> str:
        froms = _froms(state)
        guards = [guard for from_ in froms for guard in self._guarding(from_, changing)]
        if guards:
            statement = state.statement._clone()
            statement._where_criteria = (_with(statement._where_criteria, guards, _END),)
            state.statement = statement

        # MySQL names the target of a DELETE with several tables twice.
        outer = self._expect([*froms, *froms])
        try:
            text: str = visit(Prepared(state), visiting_cte=visiting_cte, **kw)
        finally:
            self._expected = outer

        return self._closed(text)

    def _guarding(self, from_: FromClause, changing: Collection[int] = ()) -> list[Guard]:
        """The conditions, for WHERE, under which the rows of a FROM are the tenant's."""
        if isinstance(from_, FromGrouping):
            return self._guarding(from_.element, changing)

        if not isinstance(from_, Join):
            ownership = self.owned(from_)
            if ownership is None:
                return []

            changed = hash(from_) in changing
            self.spares_shared |= changed and shows_shared_rows(ownership)
            return [(from_, ownership, condition(ownership, from_, self.dialect, changing=changed))]

        left = self._guarding(from_.left, changing)
        if from_.isouter and not from_.full:
            return left

        right = self._guarding(from_.right, changing)
        if from_.full:
            return [
                (leaf, ownership, or_(mine, absent(leaf, ownership)))
                for leaf, ownership, mine in (*left, *right)
            ]

        return [*_unlinked(left, from_, right), *_unlinked(right, from_, left)]

    def visit_alias(self, alias: Any, asfrom: bool = False, **kwargs: Any) -> str:
        if asfrom and self._expected[hash(alias)] > 0:
            # Under the name that the condition knows.
            self._expected[hash(alias)] -= 1
            self._expected[hash(source(alias))] += 1

        return super().visit_alias(alias, asfrom=asfrom, **kwargs)

    def visit_table(self, table: TableClause, asfrom: bool = False, **kwargs: Any) -> str:
        if asfrom and self.stack:
            name = table.name.casefold()
            self.rendered[name] += 1
            if table.schema is None:
                self.read.append((name, self.inside))

            self._refuse_unexpected(table)

        return super().visit_table(table, asfrom=asfrom, **kwargs)

    def _expect(self, froms: Sequence[FromClause]) -> Counter[int]:
        """These tables may be rendered now, and no other owned one; gives those of before."""
        outer = self._expected
        self._expected = Counter([leaf for from_ in froms for leaf in _guarded_in_where(from_)])
        return outer

    def _refuse_unexpected(self, table: TableClause) -> None:
        if self._expected[hash(table)] > 0:
            self._expected[hash(table)] -= 1
        elif self.owned(table) is not None:
            raise refused(
                UnscopedStatementError(
                    f"Table {table.name!r} is owned and stands where no tenant condition can be "
                    "added. Select from it with select().",
                    table=table.name,
                )
            )

    def visit_partywall_criteria(self, element: Criteria, **kw: Any) -> str:
        kw.pop("asfrom", None)
        known = self.raw_parts
        written = self._generate_delimited_and_list(element.written, **kw)
        if written and (self.raw_parts > known or _LOOSE.search(written)):
            # text("a OR b") would otherwise undo the condition beside it.
            self.refuse_breaking(self.nameless(written))
            written = f"({written})"
        elif written.count("(") != written.count(")"):
            self.refuse_breaking(self.nameless(written))

        # First the conditions: what was written is not tried on the rows of others.
        conditions = [self.process(condition, **kw) for condition in element.conditions]
        return " AND ".join(text for text in (*conditions, written) if text) + element.end

    def visit_partywall_bytes(self, element: Bytes, **kw: Any) -> str:
        return f"CAST(CONVERT({self.process(element.element, **kw)} USING utf8mb4) AS BINARY)"

    def render_literal_bindparam(self, bindparam: BindParameter[Any], **kw: Any) -> str:
        if isinstance(bindparam, TenantParameter):
            self.holds_tenant = self.needs_look = True
            kw["render_literal_value"] = bindparam.effective_value

        return super().render_literal_bindparam(bindparam, **kw)


def _with(written: Sequence[Any], guards: Sequence[Guard], end: str = "") -> Criteria:
    return Criteria(written, [mine for _, _, mine in guards], end)


def _guarded_in_where(from_: FromClause) -> list[int]:
    """The tables and aliases that `_guarding` sees. The right side of an outer join has its conditions in ON."""
    if isinstance(from_, FromGrouping):
        return _guarded_in_where(from_.element)

    if not isinstance(from_, Join):
        return [hash(from_)]

    left = _guarded_in_where(from_.left)
    return left if from_.isouter and not from_.full else [*left, *_guarded_in_where(from_.right)]


def _hashes(from_: FromClause) -> set[int]:
    return {hash(leaf) for leaf in leaves(from_)}


def _froms(state: Any) -> list[FromClause]:
    """The target of an UPDATE or DELETE and its further FROMs."""
    table = state.statement.table
    return [table, *(from_ for from_ in state._extra_froms if hash(from_) not in _hashes(table))]


def _unlinked(guards: list[Guard], join: Join, others: list[Guard]) -> list[Guard]:
    """Leave out a row's EXISTS on its parent where the join already links it to that parent."""
    if not others or not any(ownership.paths for _, ownership, _ in guards):
        return guards

    equal = _equalities(join.onclause)
    return [guard for guard in guards if not any(_linked(guard, to, equal) for to in others)]


def _linked(guard: Guard, other: Guard, equal: set[frozenset[tuple[int, str]]]) -> bool:
    (leaf, ownership, _), (parent, parents, _) = guard, other
    if ownership.shared or len(ownership.paths) != 1:
        return False

    (path,) = ownership.paths
    return path.parent is parents.table and all(
        frozenset({(hash(leaf), local.name), (hash(parent), remote.name)}) in equal
        for local, remote in zip(path.local, path.remote, strict=True)
    )


def _equalities(clause: Any) -> set[frozenset[tuple[int, str]]]:
    """The column pairs that a condition makes equal; none if it holds anything that is not plain."""
    if isinstance(clause, Grouping):
        return _equalities(clause.element)

    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        parts = [_equalities(part) for part in clause.clauses]
        return set().union(*parts) if all(parts) else set()

    if not isinstance(clause, BinaryExpression) or clause.operator is not operators.eq:
        return set()

    sides = (clause.left, clause.right)
    if not all(isinstance(side, ColumnClause) and side.table is not None for side in sides):
        return set()

    return {frozenset((hash(side.table), side.name) for side in sides)}
