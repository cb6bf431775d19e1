"""The condition that keeps one owned table, or an alias or copy of it, inside the current tenant."""

from __future__ import annotations

import functools
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import (
    CHAR,
    BindParameter,
    Column,
    Enum,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Table,
    Text,
    Uuid,
    and_,
    cast,
    or_,
    select,
)
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql import CITEXT, DOMAIN
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause, ColumnElement, Grouping
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.types import NullType, SchemaType, TypeDecorator, TypeEngine

from .context import Scope, TenantId, active_scope, entered
from .errors import MalformedTenantError, MissingTenantContextError, refused
from .ownership import Ownership, Path, owned


class TenantParameter(BindParameter[Any]):
    """Stands for the current tenant.

    The value is read when the statement executes, so one compiled statement serves all tenants.
    """

    inherit_cache = True

    def __init__(self, key: str, type_: TypeEngine[Any]) -> None:
        super().__init__(key, None, type_=type_, callable_=tenant_now)

    @property
    def effective_value(self) -> Any:
        scope = entered()
        if scope is None or scope.over or scope.context is None:
            scope = active_scope()
            if scope is None:
                # NULL, which no row equals, for those who compile without a tenant to look at the SQL.
                return None

        return scope.fitted.get(self.type) or tenant_value(scope, self.type)


class ExactParameter(TenantParameter):
    """In text, where a collation or a type may take 'acme' and 'ACME' for one another."""

    __visit_name__ = "partywall_exact_parameter"
    inherit_cache = True


class GuardColumn(ColumnClause[Any]):
    """A column of a FROM, by name alone: it brings no FROM of its own into a statement."""

    inherit_cache = True

    @property
    def _from_objects(self) -> list[FromClause]:
        return []


class Bytes(Grouping[Any]):
    """A string as bytes, for a comparison that no collation takes part in."""

    __visit_name__ = "partywall_bytes"
    inherit_cache = True

    def __init__(self, element: ColumnElement[Any]) -> None:
        super().__init__(element)
        self.type = LargeBinary()


def tenant_value(scope: Scope, type_: TypeEngine[Any] | None) -> Any:
    """The scope's tenant as a value of a column's type, which the scope keeps."""
    if scope.context is None or type_ is None:
        return None

    tenant = scope.context.tenant_id
    value = _fitter(type_)(tenant)
    value = scope.fitted[type_] = fit(tenant, type_) if value is None else value
    return value


def scope_now() -> Scope:
    """The scope of the tenant that a statement runs for."""
    scope = active_scope()
    if scope is None or scope.context is None:
        raise refused(MissingTenantContextError())

    return scope


def tenant_now() -> TenantId:
    context = scope_now().context
    assert context is not None
    return context.tenant_id


def tenant_parameter(type_: TypeEngine[Any]) -> TenantParameter:
    """One parameter for all columns of a type, so that a statement binds the tenant once."""
    same = same_type(type_)
    known = _parameters.get(same)
    if known is not None:
        return known

    with _lock:
        # Two types under one name would be bound to one value.
        suffix = f"_{len(_parameters)}" if _parameters else ""
        return _parameters.setdefault(same, TenantParameter(f"partywall_tenant{suffix}", type_))


def written_parameter(type_: TypeEngine[Any]) -> TenantParameter:
    """One of its own where the tenant is written: PostgreSQL gives a parameter without a type that
    of its place, and the place of a comparison has another one."""
    return TenantParameter(f"{tenant_parameter(type_).key}_written", type_)


def same_type(type_: TypeEngine[Any]) -> Any:
    """Equal for types that write every value alike."""
    key = type_._static_cache_key
    if not isinstance(key, tuple) or type_._variant_mapping or isinstance(type_, SchemaType):
        # An enum's key says nothing of its members, nor does any of the types for other databases.
        return id(type_)

    return (key, same_type(type_.impl_instance)) if isinstance(type_, TypeDecorator) else key


def condition(
    ownership: Ownership, table: FromClause, dialect: Dialect, *, changing: bool = False
) -> ColumnElement[bool]:
    """True for the rows of `table` that the current tenant sees or, when `changing`, may change."""
    if ownership.column is not None:
        column = column_in(table, ownership.column)
        mine = _equals_tenant(column, variant(ownership.column.type, dialect), dialect)
    else:
        mine = and_(*(_reaches(path, table, dialect, changing) for path in ownership.paths))

    if changing or not ownership.shared:
        return mine

    holders = [ownership.column] if ownership.column is not None else _links(ownership)
    return or_(mine, and_(*(_is_null(column_in(table, holder)) for holder in holders)))


def _links(ownership: Ownership) -> list[Column[Any]]:
    return [column for path in ownership.paths for column in path.local]


def absent(table: FromClause, ownership: Ownership) -> ColumnElement[bool]:
    """True where an outer join found no row of `table`."""
    key = ownership.table.primary_key.columns or ownership.table.columns
    return and_(*(_is_null(column_in(table, column)) for column in key))


def column_in(table: FromClause, column: ColumnClause[Any]) -> GuardColumn:
    return GuardColumn(column.name, column.type, _selectable=table)


def fit(tenant: TenantId, type_: TypeEngine[Any]) -> Any:
    """The tenant as a value of a column's type; one that does not fit is an error, never a match."""
    fitted = _fitter(type_)(tenant)
    if fitted is None:
        raise refused(
            MalformedTenantError(
                f"Tenant {tenant!r} does not fit a tenant column of type {type_!r}.",
                tenant=tenant,
                type=repr(type_),
            )
        )

    return fitted


# By type and not by tenant: of those there may be many, and a cache of many is slower than the work.
@functools.lru_cache(maxsize=1024)
def _fitter(type_: TypeEngine[Any]) -> Callable[[TenantId], Any]:
    """What makes a value of the type of a tenant, and None of one that does not fit."""
    if not type_._variant_mapping:
        return _fitter_for_all(type_)

    # An object is stamped before it is known which database it goes to.
    variants = map(_fitter, type_._variant_mapping.values())
    return functools.partial(_as_any, (_fitter_for_all(type_), *variants))


def _fitter_for_all(type_: TypeEngine[Any]) -> Callable[[TenantId], Any]:
    """The same for a type as it is where no database has a variant of its own."""
    if isinstance(type_, TypeDecorator):
        if not _converts(type_):
            return _fitter(type_.impl_instance)

        if _python_type(type_) is uuid.UUID:
            return _as_uuid

        return _as_written if may_collate(type_) else _as_it_is

    if isinstance(type_, NullType):
        return _as_it_is

    if isinstance(type_, DOMAIN):
        return _fitter(type_.data_type)

    if isinstance(type_, Uuid):
        return _as_uuid if type_.as_uuid else _as_uuid_text

    if isinstance(type_, Enum):
        return functools.partial(_as_enum, type_)

    if isinstance(type_, (Integer, Numeric)):
        return _as_int

    if isinstance(type_, String):
        return _as_text(type_.length, isinstance(type_, CHAR))

    return _as_nothing


def same_tenant(value: Any, tenant: TenantId, type_: TypeEngine[Any] | None = None) -> bool:
    """Whether a value names the tenant: as it was given, or as a column of the type holds it."""
    if value == tenant:
        return not isinstance(value, bool)

    if type_ is None or isinstance(value, bool):
        return not isinstance(value, bool) and str(value) == str(tenant)

    fitted = fit(tenant, type_)
    if value == fitted:
        return True

    if isinstance(type_, TypeDecorator) and _converts(type_):
        return _same_written(type_, value, fitted)

    if not isinstance(value, (str, int, uuid.UUID)):
        return False

    if isinstance(value, str) and isinstance(type_, CHAR):
        # PostgreSQL gives it back filled up.
        value = value.rstrip(" ")

    return bool(_fitter(type_)(value) == fitted)


def _same_written(type_: TypeDecorator[Any], value: Any, tenant: TenantId) -> bool:
    """For a type of the developer's own, which may take a text and give back an object."""
    if isinstance(value, uuid.UUID) or isinstance(tenant, uuid.UUID):
        return _as_uuid(value) == _as_uuid(tenant)

    if isinstance(value, (str, int)) and str(value) == str(tenant):
        return True

    # What it cannot write is nobody's.
    with suppress(Exception):
        written, wanted = (type_.process_bind_param(each, _ANY) for each in (value, tenant))
        return bool(written == wanted) and wanted is not None

    return False


_ANY = DefaultDialect()
_lock = threading.Lock()
_parameters: dict[Any, TenantParameter] = {}


def _equals_tenant(
    column: GuardColumn, type_: TypeEngine[Any], dialect: Dialect
) -> ColumnElement[bool]:
    parameter = tenant_parameter(type_)
    equal: ColumnElement[bool] = BinaryExpression(column, parameter, operators.eq)
    if not may_collate(type_):
        return equal

    # A collation may take 'acme', 'ACME' and 'acme ' for one another. The plain comparison finds
    # the index, the exact one decides.
    if isinstance(dialect, MySQLDialect):
        return and_(equal, same_bytes(column, parameter))

    if is_inexact(type_, dialect):
        if dialect.name != "postgresql":
            return and_(equal, column.collate("BINARY") == parameter)

        return and_(equal, cast(column, Text()).collate("C") == cast(parameter, Text()))

    return equal


def is_inexact(type_: TypeEngine[Any], dialect: Dialect) -> bool:
    """Whether a type says itself that it may take 'acme' and 'ACME' for one another."""
    return any(
        isinstance(each, CITEXT) or getattr(each, "collation", None) is not None
        for each in _layers(type_, dialect)
    )


def may_collate(type_: TypeEngine[Any]) -> bool:
    """Whether the database compares values of a type as text, as far as can be told."""
    bare = plain(type_)
    return isinstance(bare, (String, NullType)) and not isinstance(bare, Enum)


def plain(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type under those of the developer's own, and under a domain."""
    if isinstance(type_, DOMAIN):
        return plain(type_.data_type)

    return plain(type_.impl_instance) if isinstance(type_, TypeDecorator) else type_


def variant(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    """A type as one database has it."""
    return type_._variant_mapping.get(dialect.name, type_)


def _layers(type_: TypeEngine[Any], dialect: Dialect) -> Iterator[TypeEngine[Any]]:
    """A type as one database has it, and the types under it."""
    type_ = variant(type_, dialect)
    yield type_
    if isinstance(type_, TypeDecorator):
        yield from _layers(type_.load_dialect_impl(dialect), dialect)
    elif isinstance(type_, DOMAIN):
        yield from _layers(type_.data_type, dialect)


def _converts(type_: TypeDecorator[Any]) -> bool:
    """Whether a type of the developer's own may write something else than the type it decorates."""
    return any(
        getattr(type(type_), name) is not getattr(TypeDecorator, name)
        for name in ("process_bind_param", "bind_processor", "bind_expression")
    )


def _python_type(type_: TypeEngine[Any]) -> type[Any] | None:
    try:
        return type_.python_type
    except NotImplementedError:
        return None


def same_bytes(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[bool]:
    return BinaryExpression(Bytes(one), Bytes(other), operators.eq)


def _reaches(
    path: Path, table: FromClause, dialect: Dialect, changing: bool
) -> ColumnElement[bool]:
    """EXISTS the row it belongs with. The wall guards that SELECT like any other."""
    name = str(getattr(table, "name", ""))
    parent = path.parent.alias(f"of_{name}" if _is_generated(name, path.parent) else None)
    links: list[ColumnElement[bool]] = [
        BinaryExpression(column_in(parent, remote), column_in(table, local), operators.eq)
        for local, remote in zip(path.local, path.remote, strict=True)
    ]
    above = owned(path.parent) if changing else None
    if above is not None and shows_shared_rows(above):
        # What hangs under a row that everybody sees is changed by nobody either.
        links.append(condition(above, parent, dialect, changing=True))

    row = select(column_in(parent, path.remote[0])).select_from(parent)
    return row.where(*links).correlate(None).exists()


def _is_generated(name: str, table: Table) -> bool:
    """Whether SQLAlchemy could name an alias of a table like this: cut to the length of a label, too."""
    named = re.fullmatch(r"(.*?)\d*_[0-9a-f]+", name, re.IGNORECASE)
    return named is not None and f"{table.name}_".casefold().startswith(named[1].casefold())


def shows_shared_rows(ownership: Ownership) -> bool:
    parents = (owned(path.parent) for path in ownership.paths)
    return ownership.shared or any(
        parent is not None and shows_shared_rows(parent) for parent in parents
    )


def _is_null(column: ColumnElement[Any]) -> ColumnElement[bool]:
    return column.is_(None)


def _as_it_is(tenant: TenantId) -> TenantId:
    return tenant


def _as_nothing(tenant: TenantId) -> None:
    return None


def _as_any(fitters: Iterable[Callable[[TenantId], Any]], tenant: TenantId) -> Any:
    fitted = (fitter(tenant) for fitter in fitters)
    return next((value for value in fitted if value is not None), None)


def _as_written(tenant: TenantId) -> TenantId:
    return str(tenant) if isinstance(tenant, int) else tenant


def _as_text(length: int | None, padded: bool) -> Callable[[TenantId], str | None]:
    def as_text(tenant: TenantId) -> str | None:
        text = str(tenant)
        if length is not None and len(text) > length:
            return None

        # Filled up with spaces, it would be another tenant's.
        return None if padded and text.endswith(" ") else text

    return as_text


def _as_int(tenant: TenantId) -> int | None:
    if isinstance(tenant, int):
        return tenant

    text = str(tenant)
    plain = text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20
    return int(text) if plain and str(int(text)) == text else None


def _as_uuid(tenant: TenantId) -> uuid.UUID | None:
    if isinstance(tenant, uuid.UUID):
        return tenant

    try:
        found = uuid.UUID(str(tenant))
    except ValueError:
        return None

    return found if str(tenant).lower() in (str(found), found.hex) else None


def _as_uuid_text(tenant: TenantId) -> str | None:
    found = _as_uuid(tenant)
    return None if found is None else str(found)


def _as_enum(type_: Enum, tenant: TenantId) -> Any:
    if type_.enum_class is None:
        return tenant if tenant in type_.enums else None

    members = type_.enum_class.__members__
    valued = (member for member in members.values() if member.value == tenant)
    return members.get(str(tenant), next(valued, None))
