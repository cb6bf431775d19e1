"""What keeps a statement inside its tenant, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.engine import Engine

from .engines import walled_dialect
from .ownership import Ownership
from .wall import Wall


@dataclass(frozen=True, slots=True)
class Explanation:
    """`tables` says by what each owned table in the statement is guarded; `sql` is what would run."""

    tables: dict[str, str]
    sql: str

    def __str__(self) -> str:
        guards = "\n".join(f"{table}: {guard}" for table, guard in self.tables.items())
        return f"{guards or 'No owned table.'}\n\n{self.sql}"


def explain(statement: Any, bind: Any) -> Explanation:
    """How a statement would be kept inside the tenant on this engine, connection or session."""
    _refuse_other_than_statement(statement)
    compiled = statement.compile(dialect=walled_dialect(_engine(bind)))
    if not isinstance(compiled, Wall):
        return Explanation({}, str(compiled))

    # An alias without a name is called what it is called in the SQL.
    rendered = compiled.truncated_names
    guards = {
        rendered.get(("alias", name), name): _guard(owned)
        for name, owned in compiled.guarded.items()
    }
    return Explanation(guards, str(compiled))


def _refuse_other_than_statement(statement: object) -> None:
    if not isinstance(statement, Executable):
        raise TypeError(
            f"explain() takes a statement, such as select(...), not {type(statement).__name__}."
        )


def _engine(bind: Any) -> Engine:
    if hasattr(bind, "get_bind"):
        bind = bind.get_bind()

    bind = getattr(bind, "sync_engine", getattr(bind, "sync_connection", bind))
    engine = getattr(bind, "engine", None)
    if not isinstance(engine, Engine):
        raise TypeError(
            "explain() takes an engine, a connection or a session to run on, not "
            f"{type(bind).__name__}."
        )

    return engine


def _guard(ownership: Ownership) -> str:
    if ownership.column is not None:
        guard = f"column {ownership.column.name}"
    else:
        guard = "through " + " and ".join(
            f"{', '.join(column.name for column in path.local)} -> {path.parent.name}"
            for path in ownership.paths
        )

    return f"{guard}, or shared" if ownership.shared else guard
