"""Which tables are owned, and by which column or path.

Ownership sits on tables, not on classes: every mapping, alias and Core use of an owned table is
owned with it. Nothing here looks at rows; `predicate` turns ownership into conditions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload
from weakref import WeakSet, ref

from sqlalchemy import Column, ForeignKeyConstraint, Table, event, inspect
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import Mapper, class_mapper
from sqlalchemy.orm.exc import UnmappedClassError, UnmappedColumnError
from sqlalchemy.orm.interfaces import MANYTOONE
from sqlalchemy.orm.mapper import _CONFIGURE_MUTEX
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, ColumnElement
from sqlalchemy.sql.expression import FromClause, TableClause
from sqlalchemy.types import TypeEngine

from .errors import ConfigurationError, refused
from .mappers import is_relationship, known_mappers, secondaries


@dataclass(frozen=True, slots=True)
class Mark:
    """What the developer said about a model or a table."""

    column: str
    through: str | None
    shared: bool

    def __post_init__(self) -> None:
        names = {"column": self.column} | (
            {} if self.through is None else {"through": self.through}
        )
        for argument, name in names.items():
            if not isinstance(name, str) or not name:
                raise refused(ConfigurationError(f"{argument}= takes a name, but got {name!r}."))

        if not isinstance(self.shared, bool):
            raise refused(
                ConfigurationError(f"shared= takes True or False, but got {self.shared!r}.")
            )


@dataclass(frozen=True, slots=True)
class Path:
    """From a row to the row that it belongs with: `local` columns equal the `parent`'s `remote`."""

    local: tuple[Column[Any], ...]
    parent: Table
    remote: tuple[Column[Any], ...]


@dataclass(frozen=True, slots=True)
class Ownership:
    """A table belongs to tenants by its own column or, without one, by every one of its paths."""

    table: Table
    column: Column[Any] | None
    paths: tuple[Path, ...] = ()
    shared: bool = False

    @property
    def type(self) -> TypeEngine[Any] | None:
        return None if self.column is None else self.column.type


@overload
def tenant_aware(cls: _T, /) -> _T: ...


@overload
def tenant_aware(
    cls: None = None, /, *, column: str = ..., through: str | None = ..., shared: bool = ...
) -> Callable[[_T], _T]: ...


def tenant_aware(
    cls: _T | None = None,
    /,
    *,
    column: str = "tenant_id",
    through: str | None = None,
    shared: bool = False,
) -> _T | Callable[[_T], _T]:
    """Mark a model: from now on the rows of its table belong to tenants.

    `column` is the attribute or column that holds the tenant; `through` names a relationship, a
    foreign-key column or a referred table instead, for a table that belongs to whom its parent
    belongs. `shared=True` shows the rows without a tenant to everyone and lets nobody change them.
    Marking a mixin or an abstract base marks every model below it.
    """
    mark = Mark(column, through, shared)

    def decorate(cls: _T) -> _T:
        if not isinstance(cls, type):
            raise refused(
                ConfigurationError(
                    f"@tenant_aware marks a class, not {type(cls).__name__}. "
                    "For a Table use tenant_table(table)."
                )
            )

        earlier = cls.__dict__.get(_MARK)
        if earlier is not None and earlier != mark:
            raise refused(
                ConfigurationError(
                    f"{cls.__name__} is marked twice and differently: {earlier} and {mark}.",
                    model=cls.__name__,
                )
            )

        for mapper in tuple(_mappers_below(cls)):
            _own_mapper(mapper, mark)

        setattr(cls, _MARK, mark)
        _changed()
        return cls

    return decorate if cls is None else decorate(cls)


def tenant_table(
    table: Table, /, *, column: str = "tenant_id", through: str | None = None, shared: bool = False
) -> Table:
    """Mark a Core table, as `tenant_aware` marks a model."""
    own(table, column=column, through=through, shared=shared)
    _changed()
    return table


def own(
    table: Table, /, *, column: str = "tenant_id", through: str | None = None, shared: bool = False
) -> Table:
    """`tenant_table` without installing anything."""
    if not isinstance(table, Table):
        raise refused(
            ConfigurationError(
                f"tenant_table() marks a Table, not {type(table).__name__}. "
                "For a model use @tenant_aware."
            )
        )

    mark = Mark(column, through, shared)
    held = next((found for found in table.columns if column in (found.key, found.name)), None)
    if through is None and held is None:
        raise refused(
            ConfigurationError(
                f"Table {table.name!r} has no column {column!r} to hold the tenant. Add it, or "
                "name another with tenant_table(table, column=...) or through=....",
                table=table.name,
                column=column,
            )
        )

    _own_table(table, _Entry(table.name, mark, None), None if through else held)
    return table


def owned(
    table: FromClause, default_schema: str | None = None, anywhere: bool = False
) -> Ownership | None:
    """The ownership of a table, or of the owned table that an ad-hoc construct or a copy names.

    `anywhere`: a schema says nothing, because it is translated or an attached file has one.
    """
    if not isinstance(table, TableClause):
        return None

    entry = _entry_of(table)
    if entry is not None:
        return entry.ownership or _resolve(cast(Table, table), entry)

    if isinstance(table, Table) and table.foreign_keys:
        _own_associations()
        entry = _entry_of(table)
        if entry is not None:
            return entry.ownership or _resolve(table, entry)

    anywhere = anywhere or hides(table.schema)
    found = [
        named
        for named in tuple(_named.get(table.name.casefold(), ()))
        if _entry_of(named) is not None
        and (anywhere or _place(named, default_schema) == _place(table, default_schema))
    ]
    # A table that is marked, before a copy of another that goes by its name.
    return owned(max(found, key=_is_marked)) if found else None


def owned_names() -> frozenset[str]:
    """The case-folded names of all owned tables."""
    return _names_as_of(marks())


@functools.lru_cache(maxsize=1)
def _names_as_of(marks: int) -> frozenset[str]:
    return frozenset(name for name, tables in _named.copy().items() if tables)


def tenant_types(names: Iterable[str]) -> list[TypeEngine[Any]]:
    """The types of the tenant columns of the tables with these case-folded names."""
    tables = [table for name in names for table in _named.get(name, ())]
    found = [ownership.type for ownership in map(owned, tables) if ownership is not None]
    return [type_ for type_ in found if type_ is not None]


def marks() -> int:
    """Changes whenever a table becomes owned: what was compiled before that is out of date."""
    if _read_as_of != epoch:
        _own_associations()

    return marked


@dataclass(frozen=True, slots=True)
class TenantAttribute:
    """An attribute of a mapped class that holds the tenant."""

    key: str
    type: TypeEngine[Any]
    shared: bool


def tenant_attributes(mapper: Any) -> tuple[TenantAttribute, ...] | None:
    """Those of a class whose objects belong to tenants, however they do; None for any other."""
    known: tuple[int, tuple[TenantAttribute, ...] | None] = mapper._partywall_attributes
    if known[0] != marked:
        known = mapper._partywall_attributes = (marked, _tenant_attributes(mapper))

    return known[1]


_T = TypeVar("_T", bound=type[Any])
_MARK = "__partywall__"
_ENTRY = "_partywall"

# SQLAlchemy's own: it maps and configures classes under it, so that none is read half made, and a
# lock of ours could be waited for in the other order. What follows is written under it. The sets are
# replaced, never added to, and read without.
lock = _CONFIGURE_MUTEX
# Moves with every mark.
marked = 0
# Moves with every mark and every mapper; the mappers' relationships were read as of an earlier one.
epoch = 0
_read_as_of = 0
_reading = False
_named: dict[str, WeakSet[Table]] = {}


class _Entry:
    """What is known of one marked table; kept on the table itself, so that it dies with it."""

    __slots__ = ("_asked", "_mapper", "mark", "name", "original", "ownership", "resolving")

    def __init__(
        self,
        name: str,
        mark: Mark | None,
        mapper: Mapper[Any] | None,
        original: Table | None = None,
    ) -> None:
        self.name = name
        self.mark = mark
        # Of a copy that nobody has marked.
        self.original = original
        self.ownership: Ownership | None = None
        self.resolving = False
        self.mapper = mapper

    @property
    def mapper(self) -> Mapper[Any] | None:
        return None if self._mapper is None else self._mapper()

    @mapper.setter
    def mapper(self, mapper: Mapper[Any] | None) -> None:
        # A table may outlive the class that is mapped to it, but not what `through` still names.
        self._mapper = None if mapper is None else ref(mapper)
        unresolved = self.mark is not None and self.mark.through and self.ownership is None
        self._asked = mapper if unresolved else None

    def resolve(self, ownership: Ownership) -> Ownership:
        self.ownership, self._asked = ownership, None
        return ownership

    def __reduce__(self) -> Any:
        # A pickled table comes back unmarked, and is then known by its name.
        return (_no_entry, ())


def _no_entry() -> None:
    return None


def _entry_of(table: FromClause) -> _Entry | None:
    entry: _Entry | None = vars(table).get(_ENTRY)
    return entry


def _tenant_attributes(mapper: Mapper[Any]) -> tuple[TenantAttribute, ...] | None:
    found = []
    ownerships = [(table, owned(table)) for table in mapper.tables]
    for table, ownership in ownerships:
        if ownership is None or ownership.column is None:
            continue

        with suppress(UnmappedColumnError):
            key = mapper.get_property_by_column(column_of(table, ownership)).key
            found.append(TenantAttribute(key, ownership.column.type, ownership.shared))

    return tuple(found) if any(ownership for _, ownership in ownerships) else None


def column_of(table: FromClause, ownership: Ownership) -> Any:
    """The tenant column of a table or copy, by its name in the database."""
    if ownership.column is None:
        return None

    return next((c for c in table.c if same_name(c.name, ownership.column.name)), None)


def hides(schema: Any) -> bool:
    """Whether a schema's name goes unquoted and is more than a name."""
    return getattr(schema, "quote", None) is False and not all(
        part.isidentifier() for part in str.split(schema, ".")
    )


def same_name(one: str, other: str) -> bool:
    """Whether two names may be one in the database: most of them do not tell the case apart."""
    return str.casefold(one) == str.casefold(other)


def _own_mapper(mapper: Mapper[Any], mark: Mark) -> None:
    model = mapper.class_.__name__
    column: Any = None
    if mark.through is None:
        column = mapper.columns.get(mark.column)
        if column is None:
            columns = (column for table in mapper.tables for column in table.columns)
            names = ((found, (found.key, found.name)) for found in columns)
            column = next((found for found, known in names if mark.column in known), None)

        if not isinstance(column, Column):
            raise refused(
                ConfigurationError(
                    f"{model} has no column {mark.column!r} to hold the tenant. Add it, name "
                    f"another with @tenant_aware(column=...), or the parent that {model} belongs "
                    "to with @tenant_aware(through=...).",
                    model=model,
                    column=mark.column,
                )
            )

    table = mapper.local_table if column is None else column.table
    if not isinstance(table, Table) and _reads_only_owned(table):
        # As an AbstractConcreteBase does: there is nothing of its own to be owned.
        return

    if column is None and _MARK not in vars(mapper.class_) and _is_below_marked(mapper):
        table = None
    else:
        _own_table(table, _Entry(model, mark, mapper), column)

    for level in mapper.iterate_to_root():
        other = level.local_table
        if other is table or not isinstance(other, Table) or _is_marked(other):
            continue

        own = None if column is None else other.c.get(column.key)
        entry = _Entry(model, mark, level)
        if own is None and level.inherit_condition is not None:
            entry.ownership = Ownership(other, None, (_inherited(level, other),), mark.shared)

        if own is not None or entry.ownership is not None:
            _own_table(other, entry, own)


def _own_table(table: FromClause, entry: _Entry, column: Column[Any] | None) -> None:
    if not isinstance(table, Table):
        raise refused(
            ConfigurationError(
                f"{entry.name} is not mapped to a table. Mark the tables it selects from instead.",
                model=entry.name,
            )
        )

    if column is not None and entry.mark is not None:
        entry.ownership = Ownership(table, column, (), entry.mark.shared)

    with lock:
        earlier = _entry_of(table)
        if earlier is None or earlier.original is not None:
            vars(table)[_ENTRY] = entry
            name = table.name.casefold()
            _named[name] = WeakSet([*_named.get(name, ()), table])

    if earlier is None:
        if entry.original is None:
            _follow_copies(table, entry.mark)

    elif earlier.original is None and earlier.mark not in (None, entry.mark):
        raise refused(
            ConfigurationError(
                f"Table {table.name!r} is marked twice and differently: "
                f"{earlier.mark} and {entry.mark}.",
                table=table.name,
            )
        )


def _reads_only_owned(selected: FromClause) -> bool:
    tables = [part for part in visitors.iterate(selected) if isinstance(part, Table)]
    return bool(tables) and all(map(_is_marked, tables))


def _is_marked(table: FromClause) -> bool:
    entry = _entry_of(table)
    return entry is not None and entry.original is None


def _is_below_marked(mapper: Mapper[Any]) -> bool:
    """Whether a table belongs to whom the row above it in a hierarchy belongs, marked or not."""
    above = mapper.inherits
    return above is not None and not mapper.concrete and _is_marked(above.local_table)


def _mark_above(mapper: Mapper[Any]) -> Mark | None:
    """For a table that is not marked itself, the mark of the one above it in a hierarchy."""
    table = mapper.local_table
    if mapper.inherits is None or mapper.concrete or not isinstance(table, Table):
        return None

    if _is_marked(table):
        return None

    entry = _entry_of(mapper.inherits.local_table)
    return None if entry is None else entry.mark


def _follow_copies(table: Table, mark: Mark | None) -> None:
    """A table that is made from copies of the columns, as history tables are, is owned too."""

    def own_copy(column: Column[Any], parent: Any) -> None:
        if not isinstance(parent, Table) or _entry_of(parent) is not None:
            return

        if parent.key == table.key:
            # For another MetaData: it is known by its name.
            return

        _own_table(parent, _Entry(parent.name, mark, None, table), None)
        _changed()

    for column in table.primary_key.columns or table.columns:
        event.listen(column, "after_parent_attach", own_copy, propagate=True)


def _inherited(level: Mapper[Any], table: Table) -> Path:
    """From the sub-table of a joined hierarchy to the table above it."""
    pairs = []
    for element in visitors.iterate(cast(ColumnElement[Any], level.inherit_condition)):
        if isinstance(element, BinaryExpression) and element.operator is operators.eq:
            left, right = element.left, element.right
            pairs.append((left, right) if left.table is table else (right, left))

    return _path(pairs)


def path_of(constraint: ForeignKeyConstraint) -> Path:
    return _path((key.parent, key.column) for key in constraint.elements)


def mapper_of(table: Table) -> Mapper[Any] | None:
    """The mapper with which a table was marked."""
    entry = _entry_of(table)
    return None if entry is None else entry.mapper


def _path(pairs: Iterable[tuple[Any, Any]]) -> Path:
    local, remote = zip(*pairs, strict=True)
    return Path(tuple(local), remote[0].table, tuple(remote))


def _resolve(table: Table, entry: _Entry) -> Ownership:
    """Follow `through`; only now, because relationships may name classes that came later."""
    mark = entry.mark
    if entry.original is not None:
        entry.ownership = copied = _as_original(table, entry.original)
        return copied

    if mark is None:
        entry.ownership = association = _association(table)
        return association

    if mark.through is None:
        raise refused(ConfigurationError(f"Table {table.name!r} has no tenant column."))

    if entry.mapper is not None and is_relationship(entry.mapper, mark.through):
        # By now the classes that it names exist; those of other registries need not. This may
        # resolve the table on its way.
        class_mapper(entry.mapper.class_)

    with lock:
        if entry.ownership is not None:
            return entry.ownership

        if entry.resolving:
            raise refused(
                ConfigurationError(f"{entry.name} belongs through {mark.through!r} to itself.")
            )

        entry.resolving = True
        try:
            path = _through(table, entry, mark.through)
            if owned(path.parent) is None:
                raise refused(
                    ConfigurationError(
                        f"{entry.name} belongs through {mark.through!r} to {path.parent.name!r}, "
                        "which is not owned. Mark it with @tenant_aware first.",
                        model=entry.name,
                    )
                )
        finally:
            entry.resolving = False

        return entry.resolve(Ownership(table, None, (path,), mark.shared))


def _as_original(table: Table, original: Table) -> Ownership:
    """A copy belongs to tenants by its copy of the tenant column; a path need not lead anywhere."""
    ownership = owned(original)
    column = None if ownership is None else column_of(table, ownership)
    if ownership is None or column is None:
        raise refused(
            ConfigurationError(
                f"Table {table.name!r} is made from the columns of {original.name!r}, which is "
                "owned, but has no tenant column of its own. Give both one, or mark "
                f"{table.name!r} with tenant_table().",
                table=table.name,
            )
        )

    return Ownership(table, column, (), ownership.shared)


def _through(table: Table, entry: _Entry, through: str) -> Path:
    name = through
    if entry.mapper is not None:
        if is_relationship(entry.mapper, through):
            relationship = entry.mapper.relationships[through]
            if relationship.direction is MANYTOONE:
                return _path(relationship.local_remote_pairs)

        mapped = entry.mapper.columns.get(through)
        name = through if mapped is None else mapped.key

    for constraint in table.foreign_key_constraints:
        if name in constraint.column_keys or constraint.referred_table.name == name:
            return path_of(constraint)

    raise refused(
        ConfigurationError(
            f"{entry.name} cannot belong through {through!r}: it is neither a many-to-one "
            "relationship, nor a column with a foreign key, nor a table it refers to.",
            model=entry.name,
        )
    )


def _own_associations() -> None:
    """A `secondary` with a foreign key to an owned table is owned without being marked.

    The mappers are read as far as they are known: to configure them here would be too early for a
    relationship to a class that is yet to come.
    """
    global _read_as_of, _reading
    with lock:
        if _reading:
            # Asking what is owned on the way comes back here.
            return

        _reading = True
        try:
            while _read_as_of != epoch:
                as_of = epoch
                for mapper in known_mappers():
                    _own_mapped_before(mapper)
                    for table in secondaries(mapper):
                        _own_association(table)

                _read_as_of = as_of
        finally:
            _reading = False


def _own_mapped_before(mapper: Mapper[Any]) -> None:
    """A table may be marked when its class, and those below it, are mapped already."""
    if not hasattr(mapper, "columns"):
        # It is being mapped, and will be asked then.
        return

    marked = _entry_of(mapper.local_table)
    if marked is not None and marked.mapper is None and not mapper.single:
        marked.mapper = mapper

    mark = _mark_above(mapper)
    if mark is not None:
        _own_mapper(mapper, mark)
        _changed()


def _own_association(table: Table) -> None:
    entry = _entry_of(table)
    if entry is None or entry.original is not None:
        if any(map(_is_owned, table.foreign_key_constraints)):
            _own_table(table, _Entry(table.name, None, None), None)
            _changed()

    elif entry.mark is None:
        # A parent may have been marked since.
        entry.ownership = None


def _is_owned(key: ForeignKeyConstraint) -> bool:
    try:
        table = key.referred_table
    except NoReferenceError:
        # It is yet to come.
        return False

    # An entry is enough: by whom it is owned may not be known before its mapper is configured.
    return _entry_of(table) is not None or owned(table) is not None


def _association(table: Table) -> Ownership:
    # In the order of their names, for the same SQL in every process.
    keys = sorted(table.foreign_key_constraints, key=lambda key: tuple(key.column_keys))
    parents = [(key, owned(key.referred_table)) for key in keys]
    owners = [(key, owner) for key, owner in parents if owner is not None]
    names = [owner.column.name for _, owner in owners if owner.column is not None]
    column = next((column for column in table.columns if column.name in names), None)
    paths = [path_of(key) for key, _ in owners]
    # What may be empty, such as who added the row, does not say whose it is.
    sure = [path for path in paths if not any(column.nullable for column in path.local)]
    return Ownership(table, column, () if column is not None else tuple(sure or paths))


def _place(table: TableClause, default_schema: str | None) -> str:
    schema = table.schema or default_schema or ""
    if getattr(schema, "quote", None) is False:
        schema = schema.rpartition(".")[2]

    return schema.casefold()


def _changed() -> None:
    global marked, epoch
    with lock:
        marked += 1
        epoch += 1
        while _on_first_mark:
            _on_first_mark.pop()()


def _read_again() -> None:
    """There is a mapper more, or those that there are say more than before."""
    global epoch
    with lock:
        epoch += 1


def _install() -> None:
    event.listen(Mapper, "after_mapper_constructed", _own_if_marked)
    event.listen(Mapper, "after_configured", _resolve_all)
    # Those of no mapper yet, as of no mark.
    setattr(Mapper, "_partywall_attributes", (-1, None))  # noqa: B010


_on_first_mark: list[Callable[[], None]] = [_install]


def on_first_mark(install: Callable[[], None]) -> Callable[[], None]:
    """Marking is installing: `install` runs once, when the first model or table is marked."""
    _on_first_mark.append(install)
    return install


def _own_if_marked(mapper: Mapper[Any], cls: type[Any]) -> None:
    _read_again()
    marked = _entry_of(mapper.local_table)
    if marked is not None and not mapper.single and _takes_over(mapper, marked):
        marked.mapper = mapper

    mark = getattr(cls, _MARK, None) or _mark_above(mapper)
    if mark is not None:
        _own_mapper(mapper, mark)
        _changed()


def _takes_over(mapper: Mapper[Any], marked: _Entry) -> bool:
    """Whether a further mapper of a marked table stands for it: the first does, while it can."""
    first = marked.mapper
    if first is None or inspect(first.class_, raiseerr=False) is not first:
        # Mappers can be cleared away and made anew.
        return True

    through = None if marked.mark is None else marked.mark.through
    return (
        through is not None
        and is_relationship(mapper, through)
        and not is_relationship(first, through)
    )


def _resolve_all() -> None:
    """Tell of a wrong `through` when the mappers are configured, not at the first statement."""
    _read_again()
    _own_associations()
    for table in [table for tables in _named.copy().values() for table in tables]:
        entry = _entry_of(table)
        # A copy may be there for its DDL alone.
        if entry is not None and entry.original is None and _is_configured(entry):
            with suppress(NoReferenceError):
                owned(table)


def _is_configured(entry: _Entry) -> bool:
    return entry.mapper is None or entry.mapper.configured


def _mappers_below(cls: type[Any]) -> Iterator[Mapper[Any]]:
    with suppress(UnmappedClassError):
        yield class_mapper(cls, configure=False)

    for below in cls.__subclasses__():
        yield from _mappers_below(below)
