"""Five common mistakes, each made twice: with plain models, then with the same models marked.

The plain half runs first, while nothing in the process is marked and so no wall exists.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from sqlalchemy import create_engine, delete, event, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    make_transient_to_detached,
    mapped_column,
)

from .context import tenant_scope
from .errors import TenancyError
from .ownership import tenant_aware

_SEED = (
    """INSERT INTO customer (id, tenant_id, code, name) VALUES
       (1, 'acme', 'C1', 'Ada'), (2, 'acme', 'C2', 'Bob'), (3, 'globex', 'C1', 'Zoe')""",
    """INSERT INTO invoice (id, tenant_id, code, amount, status) VALUES
       (1, 'acme', 'C1', 100, 'paid'), (2, 'acme', 'C1', 250, 'open'),
       (3, 'acme', 'C2', 400, 'paid'), (4, 'globex', 'C1', 900, 'paid'),
       (5, 'globex', 'C1', 700, 'open')""",
)
_STORED = "SELECT id, tenant_id, code, amount, status FROM invoice"
_HALF, _NARROWEST = 45, 30
_BOLD, _DIM, _RED, _GREEN = "1", "2", "31", "32"

Row = tuple[Any, ...]
Mistake = Callable[[Session, Any, Any], Any]
Paint = Callable[[str, str], str]


def main() -> int:
    """Print the report; the exit status says whether the wall held."""
    paint = _painter()
    plain = [_run(mistake, *_models(lambda model: model)) for mistake in _MISTAKES]
    walled = [_run(mistake, *_models(tenant_aware)) for mistake in _MISTAKES]

    print("Two tenants, acme and globex, share one SQLite database. It is acme's turn.")
    print("Both columns run the same code; on the right the models carry @tenant_aware.")
    for number, (mistake, left, right) in enumerate(zip(_MISTAKES, plain, walled, strict=True), 1):
        print("\n" + paint(f"{number}. {mistake.__name__.replace('_', ' ')}", _BOLD))
        print(paint(_source(mistake), _DIM) + "\n")
        _side_by_side(left, right, paint)

    leaks, escapes = (sum(outcome.crossed for outcome in side) for side in (plain, walled))
    verdict = f"partywall in {escapes} of {len(walled)}."
    print(f"\nPlain SQLAlchemy reached globex's rows in {leaks} of {len(plain)} cases, ", end="")
    print(paint(verdict, _RED if escapes else _GREEN))
    return 1 if escapes else 0


def a_forgotten_filter(session: Session, Invoice: Any, Customer: Any) -> Any:
    return session.scalars(select(Invoice)).all()


def an_unfiltered_join(session: Session, Invoice: Any, Customer: Any) -> Any:
    return session.execute(
        select(Invoice.amount, Customer.name, Customer.tenant_id)
        .join(Customer, Customer.code == Invoice.code)
        .where(Invoice.tenant_id == "acme")
    ).all()


def a_Core_select(session: Session, Invoice: Any, Customer: Any) -> Any:
    invoices = Invoice.__table__
    return session.connection().execute(select(invoices.c.tenant_id, invoices.c.amount)).all()


def a_bulk_delete(session: Session, Invoice: Any, Customer: Any) -> Any:
    session.execute(delete(Invoice).where(Invoice.status == "paid"))
    session.commit()


def a_forged_object(session: Session, Invoice: Any, Customer: Any) -> Any:
    forged = Invoice(id=5, tenant_id="acme")  # so says the request; row 5 is globex's
    make_transient_to_detached(forged)
    session.add(forged)
    forged.amount = 0
    session.commit()


_MISTAKES: list[Mistake] = [
    a_forgotten_filter,
    an_unfiltered_join,
    a_Core_select,
    a_bulk_delete,
    a_forged_object,
]


@dataclass
class _Outcome:
    saw: Counter[str] = field(default_factory=Counter)
    deleted: Counter[str] = field(default_factory=Counter)
    overwrote: Counter[str] = field(default_factory=Counter)
    error: Exception | None = None
    sql: list[str] = field(default_factory=list)

    @property
    def crossed(self) -> bool:
        return "globex" in self.saw | self.deleted | self.overwrote

    @property
    def verdict(self) -> str:
        counts = {"saw": self.saw, "deleted": self.deleted, "overwrote": self.overwrote}
        parts = [f"{verb} {_tally(rows)}" for verb, rows in counts.items() if rows]
        if self.error is not None:
            parts.append(f"refused: {type(self.error).__name__}")

        return "; ".join(parts) or "touched nothing"


def _models(mark: Callable[[type[Any]], type[Any]]) -> tuple[type[DeclarativeBase], Any, Any]:
    class Base(DeclarativeBase):
        pass

    @mark
    class Customer(Base):
        __tablename__ = "customer"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]
        code: Mapped[str]
        name: Mapped[str]

    @mark
    class Invoice(Base):
        __tablename__ = "invoice"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]
        code: Mapped[str]
        amount: Mapped[int]
        status: Mapped[str]

    return Base, Invoice, Customer


def _run(mistake: Mistake, base: type[DeclarativeBase], invoice: Any, customer: Any) -> _Outcome:
    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    _past_the_wall(engine, *_SEED)
    before = _stored(engine)
    outcome = _Outcome()
    event.listen(engine, "before_cursor_execute", _recorder(outcome.sql))
    with tenant_scope("acme"), Session(engine) as session:
        try:
            rows: Sequence[Any] = mistake(session, invoice, customer) or ()
            outcome.saw.update(row.tenant_id for row in rows)
        except (SQLAlchemyError, TenancyError) as error:
            outcome.error = error

    after = _stored(engine)
    outcome.deleted.update(row[1] for key, row in before.items() if key not in after)
    outcome.overwrote.update(row[1] for key, row in before.items() if after.get(key, row) != row)
    engine.dispose()
    return outcome


def _stored(engine: Engine) -> dict[int, Row]:
    return {row[0]: row for row in _past_the_wall(engine, _STORED)}


def _past_the_wall(engine: Engine, *statements: str) -> list[Row]:
    """Run SQL on the DBAPI connection itself, where neither side is guarded."""
    connection = engine.raw_connection()
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)

    rows = [tuple(row) for row in cursor.fetchall()]
    connection.commit()
    connection.close()
    return rows


def _recorder(record: list[str]) -> Callable[..., None]:
    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        parts = re.sub(r"\s+", " ", statement).split("?")
        filled = [repr(value) for value in values] + [""]
        record.append("".join(part + value for part, value in zip(parts, filled, strict=True)))

    return note


def _source(mistake: Mistake) -> str:
    body = inspect.getsource(mistake).split("\n", 1)[1]
    return textwrap.indent(textwrap.dedent(body).rstrip().replace("return ", ""), "   ")


def _side_by_side(left: _Outcome, right: _Outcome, paint: Paint) -> None:
    columns = shutil.get_terminal_size((2 * _HALF + 6, 24)).columns
    half = max(_NARROWEST, min(_HALF, (columns - 6) // 2))

    def line(ours: tuple[str, str], theirs: tuple[str, str]) -> None:
        padded = paint(ours[0].ljust(half), ours[1])
        print(f"   {padded} | {paint(*theirs)}".rstrip())

    line(("plain SQLAlchemy", _DIM), ("partywall", _DIM))
    line(_verdict(left), _verdict(right))
    plain, walled = _folded(left, half), _folded(right, half)
    for ours, theirs in zip_longest(plain, walled, fillvalue=""):
        new = theirs.strip() and theirs not in plain
        line((ours, ""), (theirs, _GREEN if new else ""))


def _verdict(outcome: _Outcome) -> tuple[str, str]:
    if outcome.crossed:
        return f"LEAK  {outcome.verdict}", _RED

    return f"ok    {outcome.verdict}", _GREEN


def _folded(outcome: _Outcome, width: int) -> list[str]:
    """The SQL, one clause to a line."""
    lines = []
    for statement in outcome.sql:
        for clause in re.split(r"(?<!DELETE) (?=(?:FROM|JOIN|SET|WHERE|AND) )", statement):
            lines += textwrap.wrap(clause, width, subsequent_indent="  ")

    return lines


def _tally(rows: Counter[str]) -> str:
    return ", ".join(f"{count} {tenant}" for tenant, count in sorted(rows.items()))


def _painter() -> Paint:
    plain = (
        not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    )
    return lambda text, code: text if plain or not code else f"\x1b[{code}m{text}\x1b[0m"
