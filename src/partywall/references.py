"""Foreign keys of owned rows point to rows of the same tenant.

What a statement will write is collected when it is compiled and looked up when it executes: one
query per target table, none for rows that the session already holds. A key that points to no row at
all is left to the database.
"""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlalchemy import Column, Integer, Table, bindparam, null, select, text, tuple_
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import UnmappedColumnError
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
from sqlalchemy.types import NullType, TupleType, TypeDecorator, UserDefinedType

from .context import Scope
from .errors import CrossTenantReferenceError, refused
from .fragments import adds_rows, only_modifies, texts_of
from .froms import source
from .ownership import Ownership, Path, mapper_of, owned, path_of
from .pins import flush_of, key_in, leave, pin_of, resume, sessions_of
from .predicate import column_in, condition, shows_shared_rows

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
KEPT = _Constant("what the changed row holds already")
_Source = BindParameter[Any] | Given | _Constant
# Types whose values are what they say: they cannot pretend to equal another key.
_PLAIN = {int, str, bytes, uuid.UUID, decimal.Decimal, datetime.date, datetime.datetime}


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key that a statement writes, and where its values come from.

    `kept` reads it from the rows that are changed, where only a part of it is set. `comparable`:
    a value means the same on both sides, whatever types of the developer's own do to it.
    """

    table: Table
    path: Path
    required: bool
    sources: tuple[tuple[_Source, ...], ...]
    kept: Select[Any] | None
    comparable: bool


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
        sources: list[tuple[_Source, ...]] = []
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
        return UNKNOWN if _is_numbered(column, dialect) else null()

    said = str(getattr(default, "arg", ""))
    return said if said.isdecimal() else UNKNOWN


def _is_numbered(column: Column[Any], dialect: Dialect) -> bool:
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


def check(connection: Connection, context: Any) -> None:
    """Refuse the statement that is about to run if it would point to another tenant's row."""
    names = {bind.key: name for bind, name in context.compiled.bind_names.items()}
    translated = context.execution_options.get("schema_translate_map")
    options = {"schema_translate_map": translated} if translated else {}
    rows = context.compiled_parameters
    if context.rendered_rows:
        rows = [early | late for early, late in zip(context.rendered_rows, rows, strict=True)]

    for reference in context.compiled.references:
        keys: set[tuple[Any, ...]] = set()
        for sources in reference.sources:
            places = [_place(source, names) for source in sources]
            for row in rows:
                key = tuple([row.get(name, default) for name, default in places])
                if {*map(type, key)} != {int}:
                    key = tuple(map(_sure, key, reference.path.remote))
                    if any(value is None for value in key):
                        # Partly NULL it refers to nothing, whatever the rest is.
                        _refuse_nobodys(reference, key, connection.dialect)
                        continue

                    if any(value is UNKNOWN for value in key):
                        raise refused(_cannot_tell(reference.table, reference.path))

                    if any(value is KEPT for value in key):
                        given = {bind: row[name] for bind, name in names.items() if name in row}
                        keys.update(_completed(connection, reference, key, given, options))
                        continue

                keys.add(key)

        if keys:
            _look_up(connection, reference, keys, options)


def _refuse_nobodys(reference: Reference, key: tuple[Any, ...], dialect: Dialect) -> None:
    """Where the column must be there, the database says so."""
    columns = zip(key, reference.path.local, strict=True)
    empty = [column for value, column in columns if value is None]
    left = [column for column in empty if column.nullable or _is_numbered(column, dialect)]
    if reference.required and left:
        raise refused(_belongs_to_nobody(reference))


def _completed(
    connection: Connection,
    reference: Reference,
    key: tuple[Any, ...],
    given: dict[str, Any],
    options: dict[str, Any],
) -> Iterator[tuple[Any, ...]]:
    """A key of which a part is set, with the rest that each of the changed rows holds."""
    assert reference.kept is not None
    for held in connection.execute(reference.kept, given, execution_options=options):
        full = tuple(old if new is KEPT else new for new, old in zip(key, held, strict=True))
        if not any(value is None for value in full):
            yield full


def _look_up(
    connection: Connection,
    reference: Reference,
    keys: set[tuple[Any, ...]],
    options: dict[str, Any],
) -> None:
    path = reference.path
    # A row belongs only under its tenant's own rows; it may point to shared ones otherwise.
    own = owned(path.parent) if reference.required else None
    strict = own is not None and shows_shared_rows(own)
    unknown = list(keys if strict else _not_held(connection, reference, keys))
    for start in range(0, len(unknown), _CHUNK):
        chunk = unknown[start : start + _CHUNK]
        statement = _matching(path, chunk)
        if strict and own is not None:
            mine = condition(own, path.parent, connection.dialect, changing=True)
            statement = statement.where(mine)

        # The database says what a key finds: it may be written otherwise there, as "1" or "ab  ".
        found = {tuple(row) for row in connection.execute(statement, execution_options=options)}
        others = [key for key in chunk if not _is_plain(key) or key not in found]
        if not others:
            continue

        with _unwalled(connection):
            rows = connection.execute(_matching(path, others), execution_options=options)
            foreign = any(tuple(row) not in found for row in rows)

        if foreign:
            raise refused(_points_away(reference))


def _matching(path: Path, keys: list[tuple[Any, ...]]) -> Select[Any]:
    """The rows that the keys point to, bound as the statement that writes them binds them."""
    columns = path.remote
    types = [
        remote.type if isinstance(local.type, NullType) else local.type
        for local, remote in zip(path.local, path.remote, strict=True)
    ]
    if len(columns) == 1:
        bound = bindparam(None, [key[0] for key in keys], types[0], unique=True, expanding=True)
        matching = columns[0].in_(bound)
    else:
        bound = bindparam(None, keys, TupleType(*types), unique=True, expanding=True)
        matching = tuple_(*columns).in_(bound)

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
    connection: Connection, reference: Reference, keys: set[tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    """The keys of rows that the session neither loaded nor is about to add."""
    path = reference.path
    sessions = sessions_of(connection)
    mine = pin_of(sessions[0]) if len(sessions) == 1 else None
    mapper = mapper_of(path.parent)
    if mine is None or mapper is None or not reference.comparable or not _names(path, mapper):
        yield from keys
        return

    held, forged = sessions[0].identity_map, mine.forged or ()
    written: dict[Any, Mapper[Any]] | None = None
    for key in keys:
        identity = mapper.identity_key_from_primary_key(key)
        if identity in forged or not _is_plain(key):
            yield key
            continue

        state = held.fast_get_state(identity)
        # What has expired may have been deleted since, and its key given to another.
        if state is not None and not state.expired and state.mapper.isa(mapper):
            continue

        written = _written(sessions[0], forged) if written is None else written
        adds = written.get(identity[:2])
        # Below a class, a concrete one has a table of its own.
        if adds is None or path.parent not in adds.tables:
            yield key


def _names(path: Path, mapper: Mapper[Any]) -> bool:
    """Whether a foreign key holds what a session knows the rows by.

    That is a mapper's primary key, which need not be the table's, nor that of the table above it.
    """
    keys = (mapper.primary_key, path.remote)
    with suppress(UnmappedColumnError):
        names = [[mapper.get_property_by_column(c).key for c in columns] for columns in keys]
        return names[0] == names[1]

    return False


def _is_plain(key: tuple[Any, ...]) -> bool:
    return all(type(value) in _PLAIN for value in key)


def _written(session: Any, forged: Container[Any]) -> dict[Any, Mapper[Any]]:
    """What the flush adds, or gives another key. Outside of it, that is no proof of a row."""
    found: dict[Any, Mapper[Any]] = {}
    flush = flush_of(session)
    states = {} if flush is None else flush.states
    for state, (deleted, listed) in states.items():
        if deleted or listed or state.key in forged or not _is_keyed(state):
            continue

        found[state.mapper.base_mapper.class_, key_in(state)] = state.mapper

    return found


def _is_keyed(state: Any) -> bool:
    """Whether a flush gives an object its primary key, in an INSERT or an UPDATE."""
    if state.key is None:
        return True

    # Set, but to what it is, it is not written.
    names = state.mapper._primary_key_propkeys.intersection(state.committed_state)
    return any(state.attrs[name].history.has_changes() for name in names)


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

    safe_row = _is_one_row(values, path) and not (
        path in ownership.paths and _shows_shared_rows(path.parent)
    )
    for sources in product(*found):
        safe = [source is _SAFE for source in sources]
        if any(safe) and not (all(safe) and safe_row):
            raise refused(_cannot_tell(ownership.table, path))

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


def _origins(value: Any, path: Path) -> Iterator[_Source]:
    """Where an expression's value may come from; nothing if that cannot be told.

    What is UNKNOWN counts only beside parts of the key that are not NULL.
    """
    if value is UNKNOWN:
        yield _Constant(UNKNOWN)
    elif isinstance(value, (Given, _Constant)):
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


def _column_origins(column: Any, path: Path) -> Iterator[_Source]:
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
    if source is KEPT:
        return "", KEPT

    if isinstance(source, _Constant):
        return "", source.value

    if isinstance(source, Given):
        return source.key, None

    # Without a name it was copied on the way, and what it holds now cannot be told.
    return names.get(source.key, ""), UNKNOWN


def _sure(value: Any, column: Column[Any]) -> Any:
    """The very value that the database will compare and store, or UNKNOWN."""
    if value is None or value is UNKNOWN or value is KEPT or not isinstance(column.type, Integer):
        return value

    if isinstance(value, int):
        return int.__index__(value)

    if isinstance(value, (float, decimal.Decimal)):
        return value if math.isfinite(value) and value % 1 == 0 else UNKNOWN

    return value if isinstance(value, str) and value.isdecimal() else UNKNOWN


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
