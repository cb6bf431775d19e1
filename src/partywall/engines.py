"""Engine events: which compiler a statement goes through, and what a connection will not run.

An engine's dialect never executes anything. A connection is handed one of three twins of it: one
that compiles through the wall, one for unscoped reading, one for unscoped writing. SQLAlchemy keys
its caches by the dialect, so what is compiled for one is never run by another, and a table that is
marked later gets fresh copies.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, schema
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import Compiled, Connection, Dialect, Engine, ExceptionContext
from sqlalchemy.sql.compiler import SQLCompiler

from . import canary, rawsql, references
from .context import Scope, active_scope
from .errors import ConfigurationError, TenancyError, UnscopedStatementError, refused
from .ownership import marks, on_first_mark, owned_names
from .pins import pin, sessions_of
from .positions import tables_in
from .texts import ReadOnly, only_reads, raw_sql
from .wall import Wall

if TYPE_CHECKING:

    class _Context:
        compiled: Any
        compiled_parameters: Any
        root_connection: Connection

        def create_cursor(self) -> Any: ...

else:
    _Context = object


_Classes = tuple[type[Any], type[Any], type[Any]]


@dataclass(slots=True)
class _Copies:
    marks: int
    walled: Dialect
    reading: Dialect
    writing: Dialect

    def for_scope(self, scope: Scope | None) -> Dialect:
        if scope is None or scope.context is not None:
            return self.walled

        return self.writing if scope.write else self.reading


def walled_dialect(engine: Engine) -> Dialect:
    """The dialect that compiles an engine's statements through the wall."""
    return _copies_of(engine.dialect).walled


def _route(
    connection: Connection, statement: Any, multiparams: Any, params: Any, options: Any
) -> tuple[Any, Any, Any]:
    copies = _copies_of(connection.engine.dialect)
    scope = active_scope()
    # Where no tenant is current, a view is a definition: it shows every tenant's rows.
    is_view = scope is None and isinstance(statement, _CREATE_VIEW)
    dialect = copies.writing if is_view else copies.for_scope(scope)
    if connection.dialect is not dialect:
        connection.dialect = dialect

    if connection.get_execution_options().get("skip_user_error_events"):
        # Left behind by reflection on MySQL; refusals would arrive wrapped.
        connection.execution_options(skip_user_error_events=False)

    if isinstance(statement, SQLCompiler) and (
        statement.dialect is not dialect or getattr(statement, "holds_tenant", False)
    ):
        statement = _compiled_again(statement, dialect)

    return statement, multiparams, params


def _check(
    connection: Connection,
    cursor: Any,
    statement: str,
    parameters: Any,
    context: Any,
    executemany: bool,
) -> None:
    """The last look, at what is about to reach the driver."""
    compiled = context.compiled
    scope = active_scope()
    dialect = _copies_of(connection.engine.dialect).for_scope(scope)
    if not isinstance(compiled, SQLCompiler):
        _refuse_driver_sql(
            statement, scope, compiled is not None, isinstance(dialect, MySQLDialect)
        )
    elif compiled.dialect is not dialect or type(compiled) is not dialect.statement_compiler:
        raise refused(
            UnscopedStatementError(
                "This statement was compiled by something else than its engine. Execute the "
                "statement itself."
            )
        )
    elif isinstance(compiled, Wall):
        if compiled.needs_tenant and not isinstance(context, _Execution):
            raise refused(ConfigurationError("Something else than partywall executes this engine."))

        if compiled.references:
            references.check(connection, context)


def _unwrap(context: ExceptionContext) -> BaseException | None:
    """A refusal inside parameter processing reaches the caller as it was raised."""
    error = context.original_exception
    # A copy: SQLAlchemy raises it "from" the original, and no error should be its own cause.
    return copy.copy(error) if isinstance(error, TenancyError) else None


_LISTENERS: list[tuple[Any, str, Any]] = [
    (Engine, "before_execute", _route),
    (Engine, "before_cursor_execute", _check),
]
# SQLAlchemy 2.1 and later.
_CREATE_VIEW: Any = getattr(schema, "CreateView", ())
_WITH_A_BODY = re.compile(r"\bcreate\s+(?:or\s+replace\s+)?(?:function|procedure)\b", re.IGNORECASE)
_COPIES = "_partywall"
_CLASSES = "_partywall_classes"


@on_first_mark
def _install() -> None:
    for target, name, listener in _LISTENERS:
        event.listen(target, name, listener, retval=listener is _route)


def _copies_of(dialect: Any) -> _Copies:
    copies: _Copies | None = vars(dialect).get(_COPIES)
    if copies is None or copies.marks != marks():
        copies = _copy(dialect)
        vars(dialect)[_COPIES] = copies

    return copies


def _copy(dialect: Any) -> _Copies:
    as_of = marks()
    classes: _Classes | None = vars(dialect).get(_CLASSES)
    if classes is not None:
        return _Copies(as_of, *(_twin(dialect, cls) for cls in classes))

    event.listen(dialect, "handle_error", _unwrap)
    classes = vars(dialect)[_CLASSES] = _classes_for(dialect)
    copies = _Copies(as_of, *(_twin(dialect, cls) for cls in classes))
    if _supported(dialect):
        canary.sing(copies.walled)

    # For those who compile a statement with the engine to look at it.
    dialect.__class__ = classes[0]
    return copies


def _classes_for(dialect: Any) -> _Classes:
    plain, context = dialect.statement_compiler, dialect.execution_ctx_cls
    unsupported = None
    if not _supported(dialect):
        unsupported = (
            f"partywall guards SQLite, PostgreSQL, MySQL and MariaDB, not {dialect.name!r}. "
            "Use another engine for owned tables."
        )

    walled = type(f"Walled{plain.__name__}", (Wall, plain), {"unsupported": unsupported})
    readonly = type(f"ReadOnly{plain.__name__}", (ReadOnly, plain), {})
    execution = type(f"Walled{context.__name__}", (_Execution, context), {})
    return (
        _dialect_class(dialect, walled, execution),
        _dialect_class(dialect, readonly, execution),
        _dialect_class(dialect, plain, execution),
    )


def _dialect_class(dialect: Any, compiler: type[Any], context: type[Any]) -> type[Any]:
    own = {
        # Data descriptors: they win over the attributes of the dialect that is shared.
        "statement_compiler": property(lambda _: compiler),
        "execution_ctx_cls": property(lambda _: context),
        # SQLAlchemy looks for this one on the very class.
        "supports_statement_cache": dialect.supports_statement_cache,
        "__module__": type(dialect).__module__,
    }
    return type(type(dialect).__name__, (type(dialect),), own)


def _twin(dialect: Any, cls: type[Any]) -> Any:
    """The same dialect with another compiler: they share every attribute, now and later."""
    twin = object.__new__(cls)
    twin.__dict__ = dialect.__dict__
    return twin


def _supported(dialect: Dialect) -> bool:
    return isinstance(dialect, (SQLiteDialect, PGDialect, MySQLDialect))


class _Execution(_Context):
    """Binds the tenant and pins the session, once for all parameter sets of an execution.

    `create_cursor` runs when these are complete, and before their values meet the driver's types.
    """

    rendered_rows: Sequence[dict[str, Any]] = ()

    def create_cursor(self) -> Any:
        compiled = self.compiled
        if isinstance(compiled, Wall):
            if compiled.needs_tenant:
                compiled.bind_tenant(self.compiled_parameters)
                if self.compiled.literal_execute_params and compiled.references:
                    # These leave the parameters before references are checked.
                    self.rendered_rows = [dict(row) for row in self.compiled_parameters]

                _pin_session(self.root_connection)

        elif compiled is not None:
            _pin_session(self.root_connection)

        return super().create_cursor()


def _pin_session(connection: Connection) -> None:
    scope = active_scope()
    if scope is not None:
        for session in sessions_of(connection):
            pin(session, scope).busy = True


def _refuse_driver_sql(sql: str, scope: Scope | None, ddl: bool, mysql: bool) -> None:
    facts = rawsql.scan(sql, hash_comments=mysql)
    tenant = None if scope is None else scope.context
    if tenant is not None and _WITH_A_BODY.search(sql) and owned_names():
        # A body is a string to the database's parser, and so to ours.
        raise refused(raw_sql([]))

    if facts.is_definition or (ddl and facts.is_ddl and tenant is None):
        return

    if scope is not None and scope.context is None and scope.write:
        return

    names = owned_names()
    named = names & tables_in(sql, hash_comments=mysql).keys()
    if not named and not (facts.opaque and names):
        return

    if scope is None or scope.context is not None:
        raise refused(raw_sql(named))

    if not facts.reads_only:
        raise refused(only_reads(named))


def _compiled_again(compiled: Any, dialect: Dialect) -> Compiled:
    """What was compiled by another dialect, or for another scope, is compiled for this execution."""
    again: Compiled = compiled.statement.compile(
        dialect=dialect,
        column_keys=compiled.column_keys,
        for_executemany=compiled.for_executemany,
    )
    return again
