"""What statements write: the tenant column holds the current tenant, and no row moves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import (
    BindParameter,
    Cast,
    ClauseElement,
    ColumnClause,
    ColumnElement,
    Grouping,
    Label,
    Null,
    TypeCoerce,
)
from sqlalchemy.sql.selectable import (
    CompoundSelect,
    FromClause,
)
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from .context import Scope, TenantId
from .errors import CrossTenantAccessError, UnscopedStatementError, refused
from .fragments import adds_rows, texts_of
from .froms import leaves
from .keys import Item, folded, means, named_by
from .ownership import Ownership, column_of, same_name
from .predicate import (
    TenantParameter,
    same_tenant,
    tenant_now,
    tenant_value,
    variant,
    written_parameter,
)
from .references import UNKNOWN, Given, Reference, place_of, references_in
from .sources import (
    all_of,
    columns_of,
    updates_its_source,
    with_derived_source,
    with_first,
    with_tenant_column,
)
from .texts import ROWS, Texts

# What Alembic calls the copy that takes the place of a table on SQLite.
_MIGRATED = "_alembic_tmp_"
_MYSQLS = frozenset({"_rowid"})
_ROW_NUMBERS = {
    "sqlite": frozenset({"rowid", "oid", "_rowid_"}),
    "mysql": _MYSQLS,
    "mariadb": _MYSQLS,
}


class Prepared:
    """A statement whose compile state is ready; the dialect's own visitor takes it from here."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def _compile_state_factory(self, *_: Any, **__: Any) -> Any:
        return self._state


class Values(Texts):
    """INSERT and the SET of an UPDATE."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.references: list[Reference] = []
        # Where the developer may name a tenant: a parameter's key, the column's type, and whether
        # it may be left empty. The current tenant is put there in any case.
        self._named: dict[str, tuple[TypeEngine[Any], bool]] = {}
        super().__init__(*args, **kwargs)
        named = (
            (name, self._named.get(bind.key, (bind.type, True)))
            for bind, name in self.bind_names.items()
            if isinstance(bind, TenantParameter) or bind.key in self._named
        )
        self.tenants = [
            (name, variant(type_, self.dialect), optional) for name, (type_, optional) in named
        ]
        self.needs_tenant = bool(self.guarded or self.tenants)
        # Where the parameters hold what `references` write.
        self.places = self.references and self._places()

    def _places(self) -> list[Any]:
        names = {bind.key: name for bind, name in self.bind_names.items()}
        return [
            [[place_of(source, names) for source in sources] for sources in reference.sources]
            for reference in self.references
        ]

    def bind_tenant(self, rows: Iterable[MutableMapping[str, Any]], scope: Scope) -> None:
        """Put the scope's tenant into the parameters of an execution; refuse any other."""
        for name, type_, optional in self.tenants:
            fitted = scope.fitted.get(type_) or tenant_value(scope, type_)
            for row in rows:
                given = row[name]
                if given is None and optional:
                    row[name] = fitted
                elif given is not fitted:
                    row[name] = fitted
                    if given != fitted or given is True:
                        _refuse_other(given, tenant_now(), type_)

    def visit_insert(
        self, insert_stmt: Any, visited_bindparam: Any = None, visiting_cte: Any = None, **kw: Any
    ) -> str:
        kw.pop("asfrom", None)
        state = insert_stmt._compile_state_factory(insert_stmt, self, **kw)
        if state.statement.table.name.startswith(_MIGRATED):
            self._refuse_migration(state.statement)

        ownership = self.owned(state.statement.table)
        self.rendered[state.statement.table.name.casefold()] += 1
        if ownership is not None:
            self.refuse_replacing(state.statement, ownership)
            selected, named = state.statement.select, state.statement._select_names
            if updates_its_source(state.statement):
                state.statement = with_derived_source(state.statement)

            if ownership.column is not None:
                self._stamp(state, ownership)
            elif isinstance(selected, CompoundSelect):
                state.statement = state.statement._clone()
                state.statement.select = all_of(selected)

            self._write_inserted_references(state, ownership, selected, named)

        written = super().visit_insert(
            Prepared(state), visited_bindparam=visited_bindparam, visiting_cte=visiting_cte, **kw
        )
        if ownership is not None and state.statement.select is not None and adds_rows(written):
            raise refused(
                UnscopedStatementError(
                    f"A text adds rows to what is inserted into {ownership.table.name!r}, where no "
                    "tenant can be filled in. Write it with union() and its kin.",
                    table=ownership.table.name,
                )
            )

        return written if ownership is None else written + self.mark(ROWS)

    def visit_partywall_item(self, element: Item, **kw: Any) -> str:
        written = self.process(element.element, **kw)
        self.refuse_listing(written)
        return written

    def _stamp(self, state: Any, ownership: Ownership) -> None:
        statement = state.statement
        column = column_of(statement.table, ownership)
        if column is None:
            statement = state.statement = with_tenant_column(statement, ownership)
            column = column_of(statement.table, ownership)

        if statement._select_names:
            state.statement = self._stamp_select(statement, column, ownership)
            state._dict_parameters = dict.fromkeys(state.statement._select_names, Null())
        elif state._has_multi_parameters:
            state._multi_parameters = [dict(row) for row in state._multi_parameters]
            state._dict_parameters = state._multi_parameters[0]
            for place, row in enumerate(state._multi_parameters):
                suffix = f"_m{place}"
                self.state_tenant(row, statement.table, ownership, adding=True, suffix=suffix)
        elif not self.states_all_columns(state, column, adding=True):
            state._dict_parameters = dict(state._dict_parameters or {})
            state._no_parameters = False
            self.state_tenant(
                state._dict_parameters, statement.table, ownership, adding=True, given=True
            )

    def state_tenant(
        self,
        values: dict[Any, Any],
        table: FromClause,
        ownership: Ownership,
        *,
        main: bool = True,
        given: bool = False,
        adding: bool = False,
        suffix: str = "",
    ) -> None:
        """Whatever spells the tenant column here is checked, and the current tenant stands there.

        `main`: a string key means this table; `given`: so does a key of the execution's
        parameters; `adding`: a row is new, the column must be there and may have been left empty;
        `suffix`: SQLAlchemy's own for the parameters of one row of several.
        """
        column = column_of(table, ownership)
        if column is None or ownership.column is None:
            return

        type_ = ownership.column.type
        keys = [key for key in values if means(key, column, table, main)]
        for key in keys:
            value = _bare(values[key])
            if not isinstance(value, ClauseElement):
                value = values[key] = BindParameter(None, value, type_=type_, unique=True)

            if isinstance(value, BindParameter):
                # Only the column's own type says how the value is written.
                values[key] = value._with_binary_element_type(type_)
                self._named[value.key] = (type_, adding)
            elif self._holds_tenant(value) or (adding and isinstance(value, Null)):
                values[key] = written_parameter(type_)
            else:
                raise refused(_moves(ownership))

        if keys:
            return

        stated = given and any(means(key, column, table, True) for key in self.column_keys or ())
        if adding and not stated and self.stack:
            # In a CTE: the statement around it may write a parameter of the column's name.
            values[column.key] = written_parameter(type_)
        elif stated or adding or getattr(column, "onupdate", None) is not None:
            # Named as SQLAlchemy would name it: a column's default may look for it.
            name = f"{column.key}{suffix}"
            self._named[name] = (type_, adding or not stated)
            parameter = BindParameter(name, None, type_=type_, required=stated)
            # Nobody else's parameter goes by this name.
            parameter._is_crud = True
            values[column.key] = parameter

    def states_all_columns(self, state: Any, column: ColumnClause[Any], adding: bool) -> bool:
        """Compiled without values or keys, a statement names every column as a parameter."""
        if self.column_keys is not None or not state._no_parameters:
            return False

        if column._omit_from_statements:
            # It alone is not named.
            table: Any = column.table
            self.column_keys = [c.key for c in table.c if not c._omit_from_statements]
            return False

        self._named[column.key] = (column.type, adding)
        return True

    def _stamp_select(self, statement: Any, column: Any, ownership: Ownership) -> Any:
        """INSERT FROM SELECT: the tenant is selected beside what the developer selects."""
        statement = statement._clone()
        names = list(statement._select_names)
        type_: Any = ownership.type
        parameter = written_parameter(type_)
        inner = statement.select
        places = [place for place, name in enumerate(names) if means(name, column, None, True)]
        if not places:
            # In front, where no text comes before it.
            names.insert(0, column.key)
            statement.select = with_first(parameter, inner)
        else:
            chosen: list[Any] = list(inner.subquery().c)
            if len(chosen) != len(names):
                raise refused(_moves(ownership))

            for place in places:
                for base in map(_bare, chosen[place].base_columns):
                    if isinstance(base, BindParameter):
                        self._named[base.key] = (type_, False)
                    elif not self._holds_tenant(base):
                        raise refused(_moves(ownership))

                chosen[place] = parameter

            statement.select = select(*chosen)

        statement._select_names = names
        return statement

    def _holds_tenant(self, value: Any) -> bool:
        """Whether an expression is the tenant column of a FROM that is guarded in the statement."""
        return isinstance(value, ColumnElement) and all(
            self._is_tenant_column(base) for base in value.base_columns
        )

    def _is_tenant_column(self, column: Any) -> bool:
        table = getattr(column, "table", None)
        ownership = None if table is None else self.owned(table)
        return (
            ownership is not None
            and ownership.column is not None
            and not ownership.shared
            and same_name(column.name, ownership.column.name)
        )

    def _write_inserted_references(
        self, state: Any, ownership: Ownership, selected: Any, named: Any
    ) -> None:
        statement = state.statement
        rows: Sequence[Mapping[Any, Any]]
        if named:
            rows = [
                dict(zip(named, columns, strict=True)) for columns in columns_of(selected, named)
            ]
        elif state._has_multi_parameters:
            rows = state._multi_parameters
        else:
            rows = [state._dict_parameters or {}]

        self.write_references(ownership, statement.table, rows, given=True, adding=True)

    def write_references(
        self,
        ownership: Ownership,
        table: FromClause,
        rows: Sequence[Mapping[Any, Any]],
        *,
        main: bool = True,
        given: bool = False,
        adding: bool = False,
        changed: Any = None,
    ) -> None:
        """Note what is written into foreign keys; the flags are those of `state_tenant`.

        `changed`: the UPDATE that says which rows.
        """
        keys: Iterable[str] = (self.column_keys or ()) if given else ()
        if given and self.column_keys is None and not any(rows):
            keys = table.c.keys()

        filled = {} if not given else _filled(table, "default" if adding else "onupdate")
        if not main and any(hash(getattr(key, "table", None)) == hash(table) for key in rows[0]):
            # Of a further table, SQLAlchemy names the parameters otherwise.
            further = _filled(table, "onupdate").items()
            filled = {name: UNKNOWN if isinstance(by, Given) else by for name, by in further}

        if not adding:
            for text in (text for value in filled.values() for text in _texts_in(value)):
                self.refuse_listing(text)

        parameters = {folded(key, table): Given(key) for key in keys}
        odd = [c.name.casefold() for c in table.c if _writes_otherwise(c, ownership)]
        by_name = []
        for place, row in enumerate(rows):
            values: dict[str, Any] = _of_row(filled, place) | parameters
            for key, value in row.items():
                if named_by(key) is None:
                    continue

                if isinstance(key, str) or main or hash(key.table) == hash(table):
                    values[folded(key, table)] = value

            self._refuse_row_numbers(ownership, values)
            by_name.append(values | {name: UNKNOWN for name in odd if name in values})

        self.references.extend(
            references_in(
                ownership,
                by_name,
                self.dialect,
                adding=adding,
                changed=None if changed is None else (table, changed),
            )
        )

    def _refuse_row_numbers(self, ownership: Ownership, names: Iterable[str]) -> None:
        """A key that says whose a row is may have further names, and be set by them unnoticed."""
        further = _ROW_NUMBERS.get(self.dialect.name, frozenset()).intersection(names)
        if not further:
            return

        table = ownership.table
        telling = any(c is ownership.column or c.foreign_keys for c in table.primary_key)
        if telling and further.difference(column.name.casefold() for column in table.c):
            raise refused(
                UnscopedStatementError(
                    f"{min(further)!r} is the primary key of {table.name!r} under another name. "
                    "Set it by its own.",
                    table=table.name,
                )
            )

    def _refuse_migration(self, statement: Any) -> None:
        froms = [] if statement.select is None else statement.select.columns_clause_froms
        if any(self.owned(leaf) is not None for from_ in froms for leaf in leaves(from_)):
            raise refused(
                UnscopedStatementError(
                    "A migration that copies an owned table would keep one tenant's rows alone. "
                    "Run it in 'with unscoped(\"migration\", write=True)'."
                )
            )

    def refuse_replacing(self, statement: Any, ownership: Ownership) -> None:
        prefixes = " ".join(str(prefix) for prefix, _ in statement._prefixes)
        if "REPLACE" in re.split(r"\W+", prefixes.upper()) or _replaces(
            ownership.table, self.dialect
        ):
            raise refused(
                UnscopedStatementError(
                    f"OR REPLACE on {ownership.table.name!r} could delete another tenant's row. "
                    "Use insert(...).on_conflict_do_update(...).",
                    table=ownership.table.name,
                )
            )


def _of_row(filled: dict[str, Any], place: int) -> dict[str, Any]:
    """In a row of several, SQLAlchemy numbers the parameters that defaults fill."""
    if not place:
        return filled

    return {
        name: Given(f"{value.key}_m{place}") if isinstance(value, Given) else value
        for name, value in filled.items()
    }


def _writes_otherwise(column: Any, ownership: Ownership) -> bool:
    """Whether a copy of the table gives a column a type of the developer's own."""
    own = next((c for c in ownership.table.c if same_name(c.name, column.name)), None)
    return (
        isinstance(column.type, (TypeDecorator, UserDefinedType))
        and own is not None
        and type(own.type) is not type(column.type)
    )


def _filled(table: FromClause, by: str) -> dict[str, Any]:
    """What the columns' own defaults write where a statement says nothing."""
    defaults = ((column, getattr(column, by, None)) for column in table.c)
    return {
        column.name.casefold(): (
            UNKNOWN
            if default.is_sequence
            else Given(column.key)
            if default.is_scalar or default.is_callable
            else default.arg
        )
        for column, default in defaults
        if default is not None and not default.is_sentinel
    }


def _texts_in(value: Any) -> Iterator[str]:
    for part in visitors.iterate(value) if isinstance(value, ClauseElement) else ():
        yield from texts_of(part)


def _bare(value: Any) -> Any:
    while isinstance(value, (Grouping, Label, Cast, TypeCoerce)):
        value = value.clause if isinstance(value, (Cast, TypeCoerce)) else value.element

    return value


def _replaces(table: Table, dialect: Dialect) -> bool:
    """SQLite: a constraint of the table itself may say ON CONFLICT REPLACE."""
    if dialect.name != "sqlite":
        return False

    said = [constraint.dialect_options["sqlite"] for constraint in table.constraints]
    said += [column.dialect_options["sqlite"] for column in table.columns]
    return any(
        str(value).upper() == "REPLACE"
        for options in said
        for name, value in options.items()
        if name.startswith("on_conflict")
    )


def _refuse_other(given: Any, tenant: TenantId, type_: TypeEngine[Any]) -> None:
    if not same_tenant(given, tenant, type_):
        raise refused(
            CrossTenantAccessError(
                f"This statement names tenant {given!r}, but the current tenant is {tenant!r}. "
                "Leave the tenant out: it is filled in.",
                found=given,
                current=tenant,
            )
        )


def _moves(ownership: Ownership) -> UnscopedStatementError:
    column = "" if ownership.column is None else ownership.column.name
    return UnscopedStatementError(
        f"{ownership.table.name}.{column} holds the tenant and cannot be set to an expression. "
        "Leave it out: it is filled in.",
        table=ownership.table.name,
    )
