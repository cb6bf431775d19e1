"""Foreign keys of owned rows point to rows of the same tenant: whose rows those are.

What `references` has collected is looked up when a statement executes: one query per target table, none
for rows that the transaction has loaded. A key that points to no row at all is left to the database.
"""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Column, Integer, bindparam, select, tuple_
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql.selectable import Select
from sqlalchemy.types import NullType, TupleType

from .context import Scope
from .errors import CrossTenantReferenceError, refused
from .ownership import Path, mapper_of, owned
from .pins import flush_of, key_in, leave, pin_of, resume, sessions_of
from .predicate import condition, shows_shared_rows
from .references import KEPT, UNKNOWN, Reference, cannot_tell, is_numbered

_CHUNK = 200
# Types whose values are what they say: they cannot pretend to equal another key.
_PLAIN = {int, str, bytes, uuid.UUID, decimal.Decimal, datetime.date, datetime.datetime}


def check(connection: Connection, context: Any) -> None:
    """Refuse the statement that is about to run if it would point to another tenant's row."""
    compiled = context.compiled
    translated = context.execution_options.get("schema_translate_map")
    options = {"schema_translate_map": translated} if translated else {}
    rows = context.compiled_parameters
    if context.rendered_rows:
        rows = [early | late for early, late in zip(context.rendered_rows, rows, strict=True)]

    for reference, written in zip(compiled.references, compiled.places, strict=True):
        keys: set[tuple[Any, ...]] = set()
        for places in written:
            (first, otherwise), alone = places[0], len(places) == 1
            for row in rows:
                if alone and type(number := row.get(first, otherwise)) is int:
                    # As a rule.
                    keys.add((number,))
                    continue

                key = tuple([row.get(name, default) for name, default in places])
                if {*map(type, key)} != {int}:
                    key = tuple(map(_sure, key, reference.path.remote))
                    if any(value is None for value in key):
                        # Partly NULL it refers to nothing, whatever the rest is.
                        _refuse_nobodys(reference, key, connection.dialect)
                        continue

                    if any(value is UNKNOWN for value in key):
                        raise refused(cannot_tell(reference.table, reference.path))

                    if any(value is KEPT for value in key):
                        binds = compiled.bind_names.items()
                        given = {bind.key: row[name] for bind, name in binds if name in row}
                        keys.update(_completed(connection, reference, key, given, options))
                        continue

                keys.add(key)

        if keys:
            _look_up(connection, reference, keys, options)


def _refuse_nobodys(reference: Reference, key: tuple[Any, ...], dialect: Dialect) -> None:
    """Where the column must be there, the database says so."""
    columns = zip(key, reference.path.local, strict=True)
    empty = [column for value, column in columns if value is None]
    left = [column for column in empty if column.nullable or is_numbered(column, dialect)]
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
    if [*map(id, mapper.primary_key)] == [*map(id, path.remote)]:
        # As a rule.
        return True

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


def _named(reference: Reference) -> str:
    names = ", ".join(column.name for column in reference.path.local)
    return f"{reference.table.name}.{names}"
