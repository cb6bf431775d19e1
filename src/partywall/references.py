"""Foreign keys of owned rows point to rows of the same tenant.

What a statement will write is collected when it is compiled and looked up when it executes: one
query per target table, none for rows that the session already holds. A key that points to no row at
all is left to the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlalchemy import Column, Integer, Table, inspect, null, select, text, tuple_
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.sql import operators
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
from sqlalchemy.sql.functions import coalesce
from sqlalchemy.sql.functions import max as max_func
from sqlalchemy.sql.functions import min as min_func
from sqlalchemy.sql.selectable import (
    CompoundSelect,
    ScalarSelect,
    Select,
    SelectStatementGrouping,
    TextualSelect,
)
from sqlalchemy.types import TypeDecorator, UserDefinedType

from .context import Scope
from .errors import CrossTenantReferenceError, refused
from .froms import source
from .ownership import Ownership, Path, mapper_of, owned, path_of
from .pins import leave, pin_of, resume, sessions_of
from .predicate import condition, shows_shared_rows

_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the execution's parameters hold under a key."""

    key: str


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Any


UNKNOWN = object()
_SAFE = _Constant("a row that the wall guards")
_Source = BindParameter[Any] | Given | _Constant


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key that a statement writes, and where its values come from."""

    table: Table
    path: Path
    required: bool
    sources: tuple[tuple[_Source, ...], ...]


def references_in(
    ownership: Ownership, rows: Iterable[Mapping[str, Any]], where: Sequence[Any] = ()
) -> Iterator[Reference]:
    """What rows of values, by case-folded column name, write into foreign keys to owned tables."""
    rows = list(rows)
    for path in _paths(ownership):
        names = [column.name.casefold() for column in path.local]
        sources: list[tuple[_Source, ...]] = []
        for row in rows:
            values = [row[name] for name in names if name in row]
            if values and len(values) != len(names):
                values = _with_fixed(row, names, where)

            if values:
                sources.extend(_sources(values, path, ownership))

        if sources:
            required = path in ownership.paths
            yield Reference(ownership.table, path, required, tuple(sources))


def _with_fixed(row: Mapping[str, Any], names: list[str], where: Sequence[Any]) -> list[Any]:
    """A key of several columns of which only some are set: WHERE may say what the others are."""
    fixed = {
        clause.left.name.casefold(): clause.right
        for clause in _conjuncts(where)
        if isinstance(clause, BinaryExpression)
        and clause.operator is operators.eq
        and isinstance(clause.left, ColumnClause)
        and isinstance(clause.right, BindParameter)
    }
    return [row.get(name, fixed.get(name, UNKNOWN)) for name in names]


def _conjuncts(where: Iterable[Any]) -> Iterator[Any]:
    """What must all be true; the unit of work states it as one AND."""
    for clause in where:
        if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
            yield from _conjuncts(clause.clauses)
        else:
            yield clause


def check(connection: Connection, context: Any) -> None:
    """Refuse the statement that is about to run if it would point to another tenant's row."""
    names = {bind.key: name for bind, name in context.compiled.bind_names.items()}
    rows = context.compiled_parameters
    if context.rendered_rows:
        rows = [early | late for early, late in zip(context.rendered_rows, rows, strict=True)]

    for reference in context.compiled.references:
        keys: set[tuple[Any, ...]] = set()
        for sources in reference.sources:
            places = [_place(source, names) for source in sources]
            for row in rows:
                key = tuple([row.get(name, default) for name, default in places])
                if None in key:
                    # Partly NULL it refers to nothing, whatever the rest is.
                    if reference.required:
                        raise refused(_belongs_to_nobody(reference))

                elif not all(map(_is_sure, key, reference.path.remote)):
                    raise refused(_cannot_tell(reference.table, reference.path))
                else:
                    keys.add(key)

        if keys:
            _look_up(connection, reference, keys)


def _look_up(connection: Connection, reference: Reference, keys: set[tuple[Any, ...]]) -> None:
    path = reference.path
    # A row belongs only under its tenant's own rows; it may point to shared ones otherwise.
    own = owned(path.parent) if reference.required else None
    strict = own is not None and shows_shared_rows(own)
    unknown = list(keys if strict else _not_held(connection, path, keys))
    for start in range(0, len(unknown), _CHUNK):
        chunk = unknown[start : start + _CHUNK]
        statement = _matching(path, chunk)
        if strict and own is not None:
            mine = condition(own, path.parent, connection.dialect, changing=True)
            statement = statement.where(mine)

        others = set(chunk) - {tuple(row) for row in connection.execute(statement)}
        if not others:
            continue

        with _unwalled(connection):
            foreign = connection.execute(_matching(path, list(others))).first()

        if foreign is not None:
            raise refused(_points_away(reference))


def _matching(path: Path, keys: list[tuple[Any, ...]]) -> Select[Any]:
    columns = path.remote
    if len(columns) == 1:
        matching = columns[0].in_([key[0] for key in keys])
    else:
        matching = tuple_(*columns).in_(keys)

    return select(*columns).select_from(path.parent).where(matching)


@contextmanager
def _unwalled(connection: Connection) -> Iterator[None]:
    """Not `unscoped`: the developer did not ask for it, and the session stays as it is."""
    link = leave(connection)
    scope = Scope(None, None, "which references are foreign")
    try:
        yield
    finally:
        scope.leave()
        resume(connection, link)


def _not_held(
    connection: Connection, path: Path, keys: set[tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    """The keys of rows that the session neither loaded nor is about to add."""
    sessions = sessions_of(connection)
    mine = pin_of(sessions[0]) if len(sessions) == 1 else None
    mapper = mapper_of(path.parent)
    primary = [column.name for column in path.parent.primary_key]
    if mine is None or mapper is None or primary != [column.name for column in path.remote]:
        yield from keys
        return

    held = sessions[0].identity_map
    added: set[Any] | None = None
    for key in keys:
        identity = mapper.identity_key_from_primary_key(key)
        if identity in held and identity not in mine.forged:
            continue

        added = _added(sessions[0]) if added is None else added
        if identity[:2] not in added:
            yield key


def _added(session: Any) -> set[Any]:
    """What a flush is about to add. Outside of one, a pending object is no proof of a row."""
    found: set[Any] = set()
    if not session._flushing:
        return found

    for instance in session.new:
        state: Any = inspect(instance)
        key = tuple(
            state.dict.get(state.mapper.get_property_by_column(column).key)
            for column in state.mapper.primary_key
        )
        found.add((state.mapper.base_mapper.class_, key))

    return found


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


def _sources(values: list[Any], path: Path, ownership: Ownership) -> Iterator[tuple[_Source, ...]]:
    found = [list(_origins(value, path)) for value in values]
    if any(not origins for origins in found):
        raise refused(_cannot_tell(ownership.table, path))

    for sources in product(*found):
        safe = [source is _SAFE for source in sources]
        if any(safe) and not all(safe):
            raise refused(_cannot_tell(ownership.table, path))

        if not any(safe):
            yield sources


def _origins(value: Any, path: Path) -> Iterator[_Source]:
    """Where an expression's value may come from; nothing if that cannot be told.

    What is UNKNOWN counts only beside parts of the key that are not NULL.
    """
    if value is UNKNOWN:
        yield _Constant(UNKNOWN)
    elif isinstance(value, Given):
        yield value
    elif isinstance(value, BindParameter):
        # A type of the developer's own may write something else than it is given.
        if not isinstance(value.type, (TypeDecorator, UserDefinedType)) or isinstance(
            value.type, tuple(type(column.type) for column in path.local)
        ):
            yield value
    elif isinstance(value, Null):
        yield _Constant(None)
    elif not isinstance(value, ClauseElement):
        yield _Constant(value)
    elif isinstance(value, (Grouping, Label)):
        yield from _origins(value.element, path)
    elif isinstance(value, Case):
        branches = [branch for _, branch in value.whens]
        yield from _all_origins([*branches, null() if value.else_ is None else value.else_], path)
    elif isinstance(value, (coalesce, max_func, min_func)):
        yield from _all_origins(list(value.clauses), path)
    elif isinstance(value, ScalarSelect):
        yield from _all_origins(_members(value.element), path)
    elif isinstance(value, ColumnElement) and not isinstance(value, UnaryExpression):
        yield from _column_origins(value, path)


def _members(element: Any) -> list[Any]:
    """The one column of a SELECT, or of every SELECT in a UNION."""
    while isinstance(element, SelectStatementGrouping):
        element = element.element

    if isinstance(element, CompoundSelect):
        return [column for member in element.selects for column in _members(member)]

    columns = list(element.selected_columns) if isinstance(element, Select) else []
    return columns if len(columns) == 1 else [text("")]


def _column_origins(column: Any, path: Path) -> Iterator[_Source]:
    bases = column.base_columns
    if _is_from_text(column):
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


def _all_origins(values: list[Any], path: Path) -> Iterator[_Source]:
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


def _place(source: _Source, names: Mapping[str, str]) -> tuple[str, Any]:
    """Under what name a row of parameters holds the value, and what it is if it does not."""
    if isinstance(source, _Constant):
        return "", source.value

    if isinstance(source, Given):
        return source.key, None

    # Without a name it was copied on the way, and what it holds now cannot be told.
    return names.get(source.key, ""), UNKNOWN


def _is_sure(value: Any, column: Column[Any]) -> bool:
    """Whether the database will compare and store the very value that is looked up."""
    if type(value) is int or value is None:
        return True

    if value is UNKNOWN:
        return False

    if not isinstance(column.type, Integer):
        return True

    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())


def _points_away(reference: Reference) -> CrossTenantReferenceError:
    return CrossTenantReferenceError(
        f"{_named(reference)} would point to a row of {reference.path.parent.name!r} that does not "
        "belong to the current tenant. Point it to one of this tenant's rows.",
        table=reference.table.name,
        target=reference.path.parent.name,
    )


def _belongs_to_nobody(reference: Reference) -> CrossTenantReferenceError:
    return CrossTenantReferenceError(
        f"{_named(reference)} says whose the row is and cannot be empty. Point it to a row of "
        f"{reference.path.parent.name!r}, or delete the row.",
        table=reference.table.name,
        target=reference.path.parent.name,
    )


def _cannot_tell(table: Table, path: Path) -> CrossTenantReferenceError:
    name = ", ".join(column.name for column in path.local)
    return CrossTenantReferenceError(
        f"{table.name}.{name} refers to {path.parent.name!r}, and where this value points "
        "cannot be told. Set the whole key, to values or to columns of the tenant's own rows.",
        table=table.name,
        target=path.parent.name,
    )


def _named(reference: Reference) -> str:
    names = ", ".join(column.name for column in reference.path.local)
    return f"{reference.table.name}.{names}"
