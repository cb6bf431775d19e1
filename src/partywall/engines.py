"""Which compiler a statement goes through, and what a connection will not run.

An engine's dialect never executes anything. A connection that executes takes one of three twins of it:
one that compiles through the wall, one for unscoped reading, one for unscoped writing.
SQLAlchemy keys its caches by the dialect, so what is compiled for one is never run by another, and
a table that is marked later gets fresh copies.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import langhelpers

from . import canary, lookups, ownership, rawsql
from .compilers import DDLCompiler, ExecutionContext
from .context import Scope, active_scope, entered
from .errors import TenancyError, UnscopedStatementError, refused
from .ownership import hides, lock, marks, on_first_mark, owned_names
from .pins import forget_shared, pin_sessions
from .positions import tables_in
from .predicate import scope_now
from .texts import ReadOnly, only_reads, plainly_named, raw_sql
from .wall import Wall

_Classes = tuple[type[Any], type[Any], type[Any]]


@dataclass(slots=True)
class _Copies:
    # Of `ownership`: no copy is used that was made before a table became owned.
    marks: int
    epoch: int
    walled: Dialect
    reading: Dialect
    writing: Dialect
    compiler: type[Any]


def walled_dialect(engine: Engine) -> Dialect:
    """The dialect that compiles an engine's statements through the wall."""
    return _copies_of(engine.dialect).walled


def _turn(connection: Any) -> Any:
    """The twin for whoever's turn it is."""
    copies: _Copies | None = connection.engine.dialect._partywall
    if copies is None or copies.epoch != ownership.epoch:
        dialect = connection.engine.dialect
        if not isinstance(dialect.statement_compiler, type):
            # A stand-in, as tests have it: it compiles nothing.
            return dialect

        copies = _copies_of(dialect)

    scope = entered()
    if scope is None or (scope.context is not None and not scope.over):
        return copies.walled

    scope = active_scope()
    if scope is None or scope.context is not None:
        return copies.walled

    return copies.writing if scope.write else copies.reading


def _in_turn(execute: Any) -> Any:
    """A connection's method, by the twin for whoever's turn it is."""

    @functools.wraps(execute)
    def in_turn(
        connection: Any, statement: Any, parameters: Any = None, execution_options: Any = None
    ) -> Any:
        turn, before = _turn(connection), connection.dialect
        if before is not turn:
            connection.dialect, walled = turn, connection.engine.dialect._partywall.walled
            # An event's own statement may run inside an unscoped one, which goes on after it.
            unscoped = getattr(before, _UNSCOPED, False)
            if unscoped or turn is not walled:
                try:
                    return execute(connection, statement, parameters, execution_options)
                finally:
                    # Otherwise as it is at all other times.
                    connection.dialect = before if unscoped else walled

        return execute(connection, statement, parameters, execution_options)

    return in_turn


_WITH_A_BODY = re.compile(r"\bcreate\s+(?:or\s+replace\s+)?(?:function|procedure)\b", re.IGNORECASE)
_EXECUTING = (
    "_execute_clauseelement",
    "_execute_compiled",
    "_execute_ddl",
    "_execute_default",
    "exec_driver_sql",
)
_COPIES = "_partywall"
_COMPILER = "_partywall_compiler"
_CONTEXT = "_partywall_context"
_PLAIN = "_partywall_plain"
_DDL = "_partywall_ddl"
_CLASSES = "_partywall_classes"
_UNSCOPED = "_partywall_unscoped"
_WATCHED = "_partywall_watched"


@on_first_mark
def _install() -> None:
    # Of a dialect that has executed nothing yet.
    setattr(Dialect, _COPIES, None)
    # Connections that are already open have them too. A listener for `before_execute` would do as
    # well, but then SQLAlchemy serves all of its events, for a tenth of a short query's time.
    # Not all are there: from 2.1 on no connection executes what was compiled beforehand.
    for name in (name for name in _EXECUTING if hasattr(Connection, name)):
        setattr(Connection, name, _in_turn(getattr(Connection, name)))

    # A warning names the application's line: SQLAlchemy passes over its own modules and Alembic's.
    passed_over = langhelpers._not_sa_pattern.pattern
    langhelpers._not_sa_pattern = re.compile(rf"{passed_over}|^partywall\.")


def _copies_of(dialect: Any) -> _Copies:
    with lock:
        as_of, epoch = marks(), ownership.epoch
        copies: _Copies | None = vars(dialect).get(_COPIES)
        if copies is None or copies.marks != as_of:
            copies = vars(dialect)[_COPIES] = _copy(dialect, as_of, epoch)

        copies.epoch = epoch
        return copies


def _copy(dialect: Any, as_of: int, epoch: int) -> _Copies:
    classes: _Classes | None = vars(dialect).get(_CLASSES)
    if classes is not None:
        return _copies(dialect, classes, as_of, epoch)

    classes = _classes_for(dialect)
    copies = _copies(dialect, classes, as_of, epoch)
    if _supported(dialect):
        canary.sing(copies.walled)

    # Last: a dialect that the canary did not trust is asked again by the next statement.
    vars(dialect)[_CLASSES] = classes
    # For those who compile a statement with the engine to look at it.
    dialect.__class__ = classes[0]
    return copies


def _copies(dialect: Any, classes: _Classes, as_of: int, epoch: int) -> _Copies:
    walled, reading, writing = (_twin(dialect, cls) for cls in classes)
    return _Copies(as_of, epoch, walled, reading, writing, walled.statement_compiler)


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
    execution = _walled_context(context)
    ddl = dialect.ddl_compiler
    walled_ddl = type(f"Walled{ddl.__name__}", (_Definitions, ddl), {})
    return (
        _dialect_class(dialect, walled, execution, walled_ddl),
        _dialect_class(dialect, readonly, execution, ddl),
        _dialect_class(dialect, plain, execution, ddl),
    )


def _dialect_class(
    dialect: Any, compiler: type[Any], context: type[Any], ddl: type[Any]
) -> type[Any]:
    plain = type(dialect)
    own = {
        # What others see, and patch, is the class that the next engine's dialect has, too.
        "__class__": property(attrgetter(_PLAIN)),
        _PLAIN: plain,
        # Data descriptors: they win over the attributes of the dialect that is shared.
        "statement_compiler": property(attrgetter(_COMPILER)),
        _COMPILER: compiler,
        "execution_ctx_cls": property(attrgetter(_CONTEXT), _set_context, _reset_context),
        _CONTEXT: context,
        "ddl_compiler": property(attrgetter(_DDL)),
        _DDL: ddl,
        _UNSCOPED: not issubclass(compiler, Wall),
        "__module__": plain.__module__,
    }
    return type(plain.__name__, (plain,), own)


def _walled_context(plain: type[Any]) -> type[Any]:
    if issubclass(plain, _Execution):
        return plain

    return type(f"Walled{plain.__name__}", (_Execution, plain), {})


def _set_context(dialect: Any, plain: type[Any]) -> None:
    """A context of the developer's own, for this dialect and its twins."""
    vars(dialect)[_CONTEXT] = _walled_context(plain)


def _reset_context(dialect: Any) -> None:
    vars(dialect).pop(_CONTEXT, None)


def _noting(deliver: Any) -> Any:
    """For the events, which see one batch of an INSERT of many rows at a time."""

    def batches(*args: Any) -> Iterator[Any]:
        context = args[-1]
        for batch in deliver(*args):
            context.batch = (batch.replaced_statement, batch.replaced_parameters)
            yield batch

    return batches


def _twin(dialect: Any, cls: type[Any]) -> Any:
    """The same dialect with another compiler: they share every attribute, now and later."""
    twin = object.__new__(cls)
    twin.__dict__ = dialect.__dict__
    return twin


def _supported(dialect: Dialect) -> bool:
    return isinstance(dialect, (SQLiteDialect, PGDialect, MySQLDialect))


class _Definitions(DDLCompiler):
    def visit_create_view(self, element: Any, **kw: Any) -> str:
        if active_scope() is None:
            # Where no tenant is current, a view is a definition: it shows every tenant's rows.
            self.dialect = _copies_of(self.dialect).writing

        return super().visit_create_view(element, **kw)


class _Execution(ExecutionContext):
    """Binds the tenant and pins the session, once for all parameter sets of an execution."""

    rendered_rows: Sequence[dict[str, Any]] = ()
    # One batch of an INSERT of many rows: its SQL and its parameters.
    batch: tuple[str, Any] | None = None
    asking = False
    went_through_the_wall = False

    @classmethod
    def _init_compiled(
        cls,
        dialect: Any,
        connection: Any,
        dbapi_connection: Any,
        options: Any,
        compiled: Any,
        parameters: Any,
        statement: Any,
        extracted: Any,
        cache_hit: CacheStats = CacheStats.CACHING_DISABLED,
        param_dict: Any = None,
    ) -> Any:
        engine, scope = connection.engine, entered()
        copies = engine.dialect._partywall
        quick = (
            scope is not None
            and scope.context is not None
            and not scope.over
            and compiled.dialect is copies.walled
            and type(compiled) is copies.compiler
            and copies.epoch == ownership.epoch
            and not compiled.needs_look
            and not connection._has_events
            and not engine._has_events
        )
        try:
            if not quick:
                # Asked for again: compiling it may have found another table to be owned.
                dialect = _turn(connection)
                if (
                    compiled.dialect is not dialect
                    or type(compiled) is not dialect.statement_compiler
                    or (isinstance(compiled, Wall) and compiled.holds_tenant)
                ):
                    # By something else than this connection, for another scope, or to be looked at.
                    compiled, extracted = _compiled_again(compiled, statement, dialect), None

            begin = super()._init_compiled
            if param_dict is not None:
                # From SQLAlchemy 2.1 on. Always handing on more costs more than all the rest of this.
                begin = functools.partial(begin, param_dict=param_dict)

            context = begin(
                dialect,
                connection,
                dbapi_connection,
                options,
                compiled,
                parameters,
                statement,
                extracted,
                cache_hit,
            )
        except TenancyError as error:
            return _Refused(error)

        return context if quick else _looked_at(context)

    @classmethod
    def _init_statement(cls, *args: Any) -> Any:
        return _looked_at(super()._init_statement(*args))

    @classmethod
    def _init_ddl(cls, *args: Any) -> Any:
        return _looked_at(super()._init_ddl(*args))

    def create_cursor(self) -> Any:
        """Runs when the parameters are complete, and before their values meet the driver's types."""
        compiled = self.compiled
        if isinstance(compiled, Wall) and compiled.needs_tenant:
            scope = entered()
            if scope is None or scope.over or scope.context is None:
                scope = scope_now()

            compiled.bind_tenant(self.compiled_parameters, scope)
            pin_sessions(self.root_connection, scope)
            if compiled.references and compiled.literal_execute_params:
                # These leave the parameters before references are checked.
                self.rendered_rows = [dict(row) for row in self.compiled_parameters]

        return super().create_cursor()

    def look(self) -> None:
        """The last look, at what is about to reach the driver."""
        compiled, connection = self.compiled, self.root_connection
        if isinstance(compiled, Wall):
            if compiled.schema_translate_map:
                self._refuse_hidden_schemas()

            if compiled.references:
                lookups.check(connection, self)

            if compiled.spares_shared:
                self._forget_shared()

            if compiled.without_tenant and not compiled.needs_tenant:
                self._refuse_foreign(self.statement)
        else:
            if compiled is not None:
                pin_sessions(connection, active_scope())

            if not isinstance(compiled, SQLCompiler):
                self._refuse_foreign(self.statement)

        if connection._has_events or connection.engine._has_events:
            _watch(connection.engine.dialect)

    def _refuse_hidden_schemas(self) -> None:
        # Put into the finished SQL; without quotes it may be anything.
        for schema in self.execution_options.get("schema_translate_map", {}).values():
            if hides(schema):
                raise refused(
                    UnscopedStatementError(
                        "A schema's name that goes unquoted may hold letters, digits, _ and dots "
                        "only."
                    )
                )

    def _forget_shared(self) -> None:
        # SQLAlchemy's own, beside an UPDATE or DELETE that it repeats on the objects in memory.
        options = self.execution_options.get("_sa_orm_update_options")
        if options is not None and options._synchronize_session:
            forget_shared(self.root_connection, options._subject_mapper)

    def _exec_default_clause_element(self, *args: Any) -> Any:
        self.went_through_the_wall = True
        try:
            return super()._exec_default_clause_element(*args)
        finally:
            self.went_through_the_wall = False

    def _execute_scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        # The next value of a sequence, whose name may be anything.
        if not self.went_through_the_wall:
            self._refuse_foreign(statement)

        self.asking = True
        try:
            return super()._execute_scalar(statement, *args, **kwargs)
        finally:
            self.asking = False

    def _refuse_foreign(self, sql: str) -> None:
        mysql = isinstance(self.dialect, MySQLDialect)
        _refuse_driver_sql(sql, active_scope(), mysql)


class _Refused:
    """Stands for an execution that is not to be. What it raises here reaches the caller as it is."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def pre_exec(self) -> None:
        raise self._error


def _looked_at(context: _Execution) -> _Execution | _Refused:
    try:
        context.look()
    except Exception as error:  # noqa: BLE001 - raised where SQLAlchemy does not wrap it
        return _Refused(error)

    return context


def _watch(dialect: Any) -> None:
    """Look at what the application's events made of a statement, when it goes to the driver."""
    if _WATCHED in vars(dialect):
        return

    with lock:
        if _WATCHED not in vars(dialect):
            event.listen(dialect, "do_execute", _look_at_one)
            event.listen(dialect, "do_executemany", _look_at_many)
            event.listen(dialect, "do_execute_no_params", _look_at_text)
            deliver = dialect._deliver_insertmanyvalues_batches
            vars(dialect)["_deliver_insertmanyvalues_batches"] = _noting(deliver)
            # Last: nobody goes on before they listen.
            vars(dialect)[_WATCHED] = True


def _look_at_one(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
    if context is not None and not context.asking:
        expected = context.batch or (context.statement, context.parameters[0])
        _refuse_rewritten(context, expected, (statement, parameters))


def _look_at_many(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
    _refuse_rewritten(context, (context.statement, context.parameters), (statement, parameters))


def _look_at_text(cursor: Any, statement: str, context: Any) -> None:
    _refuse_rewritten(context, (context.statement, ()), (statement, ()))


def _refuse_rewritten(context: Any, expected: tuple[str, Any], sent: tuple[str, Any]) -> None:
    (original, given), (statement, parameters) = expected, sent
    if statement is original and parameters is given:
        return

    mysql = isinstance(context.dialect, MySQLDialect)
    if context.dialect.paramstyle == "pyformat":
        original, statement = plainly_named(original), plainly_named(statement)

    before = rawsql.stands_before(original, statement, hash_comments=mysql)
    if before is None:
        _refuse_driver_sql(statement, active_scope(), mysql)
        return

    _refuse_driver_sql(before, active_scope(), mysql)
    compiled = context.compiled
    if isinstance(compiled, Wall) and compiled.needs_tenant and parameters != given:
        raise refused(
            UnscopedStatementError(
                "An event gives this statement other parameters, where the tenant stands among "
                "them. Change them before it is executed."
            )
        )


def _refuse_driver_sql(sql: str, scope: Scope | None, mysql: bool) -> None:
    facts = rawsql.scan(sql, hash_comments=mysql)
    tenant = None if scope is None else scope.context
    if tenant is not None and _WITH_A_BODY.search(sql) and owned_names():
        # A body is a string to the database's parser, and so to ours.
        raise refused(raw_sql([]))

    if facts.is_definition or (facts.is_ddl and tenant is None):
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


def _compiled_again(compiled: Any, statement: Any, dialect: Any) -> Any:
    # SQLAlchemy 2.0 does not name the statement of what was compiled beforehand.
    return (compiled.statement if statement is None else statement).compile(
        dialect=dialect,
        column_keys=compiled.column_keys,
        for_executemany=compiled.for_executemany,
    )
