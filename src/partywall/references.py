"""Foreign keys of owned rows point to rows of the same tenant: what a statement will write into them.

It is collected when the statement is compiled; `lookups` looks it up when it executes. Where it cannot
be told what a value will be, the statement is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlalchemy import Column, Table, null, select, text
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    Case,
    ClauseElement,
    ColumnClause,
    ColumnElement,
    Grouping,
    Label,
    Null,
    UnaryExpression,
)
from sqlalchemy.sql.functions import Function, coalesce
from sqlalchemy.sql.functions import max as max_func
from sqlalchemy.sql.functions import min as min_func
from sqlalchemy.sql.selectable import (
    CompoundSelect,
    FromClause,
    ScalarSelect,
    Select,
    SelectBase,
    SelectStatementGrouping,
    TextualSelect,
)
from sqlalchemy.types import TypeDecorator, UserDefinedType

from .errors import CrossTenantReferenceError, refused
from .fragments import adds_rows, only_modifies, texts_of
from .froms import source
from .ownership import Ownership, Path, owned, path_of
from .predicate import column_in, shows_shared_rows


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the execution's parameters hold under a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Constant:
    value: Any


UNKNOWN = object()
_SAFE = Constant("a row that the wall guards")
KEPT = Constant("what the changed row holds already")
Source = BindParameter[Any] | Given | Constant


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key that a statement writes, and where its values come from.

    `kept` reads it from the rows that are changed, where only a part of it is set. `comparable`:
    a value means the same on both sides, whatever types of the developer's own do to it.
    """

    table: Table
    path: Path
    required: bool
    sources: tuple[tuple[Source, ...], ...]
    kept: Select[Any] | None
    comparable: bool


def place_of(source: Source, names: Mapping[str, str]) -> tuple[str, Any]:
    """Under what name a row of parameters holds the value, and what it is if it does not."""
    if source is KEPT:
        return "", KEPT

    if isinstance(source, Constant):
        return "", source.value

    if isinstance(source, Given):
        return source.key, None

    # Without a name it was copied on the way, and what it holds now cannot be told.
    return names.get(source.key, ""), UNKNOWN


def references_in(
    ownership: Ownership,
    rows: Iterable[Mapping[str, Any]],
    dialect: Dialect,
    *,
    adding: bool = False,
    changed: tuple[FromClause, Any] | None = None,
) -> Iterator[Reference]:
    """What rows of values, by case-folded column name, write into foreign keys to owned tables.

    `adding`: the rows are new. `changed`: the FROM and the UPDATE that changes its rows.
    """
    rows = list(rows)
    for path in _paths(ownership):
        required = path in ownership.paths
        sources: list[tuple[Source, ...]] = []
        for row in rows:
            values = _values_of(path, row, changed, dialect, required=required, adding=adding)
            if values:
                sources.extend(_sources(values, path, ownership))

        if sources:
            kept = None
            if changed is not None and any(value is KEPT for source in sources for value in source):
                leaf, statement = changed
                columns = (column_in(leaf, column) for column in path.local)
                kept = select(*columns).select_from(statement.table)
                kept = kept.where(*statement._where_criteria)

            alike = all(map(_writes_alike, path.local, path.remote))
            yield Reference(ownership.table, path, required, tuple(sources), kept, alike)


def _writes_alike(one: Column[Any], other: Column[Any]) -> bool:
    types = (one.type, other.type)
    own = any(isinstance(type_, (TypeDecorator, UserDefinedType)) for type_ in types)
    return not own or types[0] is types[1] or repr(types[0]) == repr(types[1])


def _values_of(
    path: Path,
    row: Mapping[str, Any],
    changed: tuple[FromClause, Any] | None,
    dialect: Dialect,
    *,
    required: bool,
    adding: bool,
) -> list[Any]:
    """The values of a foreign key, in full; nothing if a row says nothing about it."""
    names = [column.name.casefold() for column in path.local]
    if adding:
        left_out = {
            column.name.casefold(): _left_out(column, dialect)
            for column in path.local
            if column.name.casefold() not in row
        }
        if len(left_out) == len(names) and not required and all(map(_is_null, left_out.values())):
            return []

        return [row[name] if name in row else left_out[name] for name in names]

    if not any(name in row for name in names):
        return []

    if all(name in row for name in names):
        return [row[name] for name in names]

    fixed = {} if changed is None else _fixed(changed[1]._where_criteria, changed[0])
    missing = UNKNOWN if changed is None else KEPT
    return [row.get(name, fixed.get(name, missing)) for name in names]


def _left_out(column: Column[Any], dialect: Dialect) -> Any:
    """What the database writes into a column of a new row that nobody names."""
    default = column.server_default
    if default is None:
        return UNKNOWN if is_numbered(column, dialect) else null()

    said = str(getattr(default, "arg", ""))
    return said if said.isdecimal() else UNKNOWN


def is_numbered(column: Column[Any], dialect: Dialect) -> bool:
    """Whether the database may number a new row here, where nothing is said. SQLite always does."""
    if dialect.name == "sqlite":
        return column.primary_key and len(column.table.primary_key) == 1

    return getattr(column.table, "autoincrement_column", None) is column


def _is_null(value: Any) -> bool:
    return isinstance(value, Null)


def _fixed(where: Sequence[Any], table: FromClause) -> dict[str, Any]:
    """What WHERE says that the columns of a FROM are."""
    return {
        clause.left.name.casefold(): clause.right
        for clause in _conjuncts(where)
        if isinstance(clause, BinaryExpression)
        and clause.operator is operators.eq
        and isinstance(clause.left, ColumnClause)
        and hash(clause.left.table) == hash(table)
        and isinstance(clause.right, BindParameter)
    }


def _conjuncts(where: Iterable[Any]) -> Iterator[Any]:
    """What must all be true; the unit of work states it as one AND."""
    for clause in where:
        if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
            yield from _conjuncts(clause.clauses)
        else:
            yield clause


def _paths(ownership: Ownership) -> Iterator[Path]:
    yield from ownership.paths
    for constraint in ownership.table.foreign_key_constraints:
        try:
            parent = owned(constraint.referred_table)
        except NoReferenceError:
            continue

        path = path_of(constraint)
        if parent is None or path in ownership.paths:
            continue

        # A composite key that includes the tenant cannot reach another tenant's row.
        pairs = zip(path.local, path.remote, strict=True)
        if not any(one is ownership.column and other is parent.column for one, other in pairs):
            yield path


def _sources(values: list[Any], path: Path, ownership: Ownership) -> Iterator[tuple[Source, ...]]:
    found = [list(_origins(value, path)) for value in values]
    if any(not origins for origins in found):
        raise refused(cannot_tell(ownership.table, path))

    safe_row = _is_one_row(values, path) and not (
        path in ownership.paths and _shows_shared_rows(path.parent)
    )
    for sources in product(*found):
        safe = [source is _SAFE for source in sources]
        if any(safe) and not (all(safe) and safe_row):
            raise refused(cannot_tell(ownership.table, path))

        if not any(safe):
            yield sources


def _is_one_row(values: list[Any], path: Path) -> bool:
    """Whether the columns of a key that is read come from the same row, and in their order."""
    if len(values) == 1:
        return True

    columns = [value.element if isinstance(value, Label) else value for value in values]
    tables = {getattr(column, "table", None) for column in columns}
    if len(tables) != 1 or not all(isinstance(column, ColumnClause) for column in columns):
        return False

    ownership = owned(source(tables.pop()))
    names = [column.name.casefold() for column in columns]
    keys = [] if ownership is None else [other.local for other in _paths(ownership)]
    return any(names == [c.name.casefold() for c in key] for key in (path.remote, *keys))


def _shows_shared_rows(table: Table) -> bool:
    ownership = owned(table)
    return ownership is not None and shows_shared_rows(ownership)


def _origins(value: Any, path: Path) -> Iterator[Source]:
    """Where an expression's value may come from; nothing if that cannot be told.

    What is UNKNOWN counts only beside parts of the key that are not NULL.
    """
    if value is UNKNOWN:
        yield Constant(UNKNOWN)
    elif isinstance(value, (Given, Constant)):
        yield value
    elif isinstance(value, BindParameter):
        # A type of the developer's own may write something else than it is given.
        if not isinstance(value.type, (TypeDecorator, UserDefinedType)) or isinstance(
            value.type, tuple(type(column.type) for column in path.local)
        ):
            yield value
    elif isinstance(value, Null):
        yield Constant(None)
    elif not isinstance(value, ClauseElement):
        yield Constant(value)
    elif isinstance(value, (Grouping, Label)):
        yield from _origins(value.element, path)
    elif isinstance(value, Case):
        branches = [branch for _, branch in value.whens]
        yield from _all_origins([*branches, null() if value.else_ is None else value.else_], path)
    elif choices := _choices(value):
        yield from _all_origins(choices, path)
    elif isinstance(value, (ScalarSelect, SelectBase)) and is_exact(value):
        # In one row of several, SQLAlchemy makes a SELECT a value only when it renders it.
        yield from _all_origins(_members(getattr(value, "element", value)), path)
    elif isinstance(value, ColumnElement) and not isinstance(value, UnaryExpression):
        yield from _column_origins(value, path)


def _choices(value: Any) -> list[Any]:
    """The arguments of a function that gives back one of them as it is."""
    if isinstance(value, (coalesce, max_func, min_func)):
        return list(value.clauses)

    if type(value) is not Function or value.packagenames:
        return []

    name, arguments = value.name.casefold(), list(value.clauses)
    if name == "nullif":
        return [*arguments[:1], null()]

    return arguments if name in ("ifnull", "greatest", "least") else []


def _members(element: Any) -> list[Any]:
    """The one column of a SELECT, or of every SELECT in a UNION."""
    while isinstance(element, SelectStatementGrouping):
        element = element.element

    if isinstance(element, CompoundSelect):
        return [column for member in element.selects for column in _members(member)]

    columns = list(element.selected_columns) if isinstance(element, Select) else []
    return columns if len(columns) == 1 else [text("")]


def is_exact(select: Any) -> bool:
    """Whether no text in a SELECT could make its columns something else, or add rows to it."""
    return all(_is_exact(part) for part in visitors.iterate(select))


def _is_exact(part: Any) -> bool:
    texts = texts_of(part)
    if texts:
        return not any(map(adds_rows, texts))

    if not isinstance(part, Select):
        return True

    hints = [*part._hints.values(), *(hint for _, hint in part._statement_hints)]
    texts = [*(str(suffix) for suffix, _ in part._suffixes), *hints]
    return not any(map(adds_rows, texts)) and all(
        only_modifies(str(prefix)) for prefix, _ in part._prefixes
    )


def _column_origins(column: Any, path: Path) -> Iterator[Source]:
    bases = column.base_columns
    table = getattr(column, "table", None)
    if _is_from_text(column) or not (table is None or is_exact(source(table))):
        return

    if bases == {column}:
        if _is_guarded(column, path):
            yield _SAFE
    else:
        yield from _all_origins(list(bases), path)


def _is_from_text(column: Any) -> bool:
    table = getattr(column, "table", None)
    return isinstance(source(table), TextualSelect) or any(
        _is_from_text(proxied) for proxied in getattr(column, "_proxies", ())
    )


def _all_origins(values: list[Any], path: Path) -> Iterator[Source]:
    found = [list(_origins(value, path)) for value in values]
    if found and all(found):
        yield from (source for origins in found for source in origins)


def _is_guarded(column: Any, path: Path) -> bool:
    """The parent's own key, or a foreign key to it, read from an owned table: the wall saw to it."""
    table = source(getattr(column, "table", None))
    ownership = None if table is None else owned(table)
    if ownership is None:
        return False

    remote = [key.name.casefold() for key in path.remote]
    if ownership.table is path.parent and column.name.casefold() in remote:
        return True

    return any(
        other.parent is path.parent
        and column.name.casefold() in [key.name.casefold() for key in other.local]
        for other in _paths(ownership)
    )


def cannot_tell(table: Table, path: Path) -> CrossTenantReferenceError:
    name = ", ".join(column.name for column in path.local)
    return CrossTenantReferenceError(
        f"{table.name}.{name} refers to {path.parent.name!r}, and where this value points "
        "cannot be told. Set the whole key, to values or to columns of the tenant's own rows.",
        table=table.name,
        target=path.parent.name,
    )
