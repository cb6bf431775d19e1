"""One worker of the speed benchmark: the same operations without tenancy, with filters written
by hand, or walled.

The three variants share every line below except what `Unfiltered`, `HandWritten` and `Walled` say.
Only the walled worker imports partywall. A worker reads JSON commands, one to a line, from stdin
and answers each with one line on stdout.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from sqlalchemy import ForeignKey, Index, String, create_engine, event, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    lazyload,
    mapped_column,
    relationship,
    selectinload,
)

TENANTS = 10_000
INVOICES = 50

Turn = tuple[str, int]
Operation = Callable[["Variant", Session, str, int], object]


class Variant:
    """What differs: the criteria of a read, the columns of a write, the scope around both."""

    def mark(self, model: type[Any]) -> type[Any]:
        return model

    def scope(self, tenant: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def mine(self, model: Any, tenant: str) -> tuple[Any, ...]:
        return ()

    def related(self, relation: Any, model: Any, tenant: str) -> Any:
        return relation

    def lazily(self, relation: Any, model: Any, tenant: str) -> tuple[Any, ...]:
        return ()

    def owned(self, row: Any, tenant: str) -> None:
        return None

    def stamp(self, tenant: str) -> dict[str, str]:
        return {}


class Unfiltered(Variant):
    """SQLAlchemy with no tenancy at all: reads only."""


class HandWritten(Variant):
    def mine(self, model: Any, tenant: str) -> tuple[Any, ...]:
        return (model.tenant_id == tenant,)

    def related(self, relation: Any, model: Any, tenant: str) -> Any:
        return relation.and_(model.tenant_id == tenant)

    def lazily(self, relation: Any, model: Any, tenant: str) -> tuple[Any, ...]:
        return (lazyload(relation.and_(model.tenant_id == tenant)),)

    def owned(self, row: Any, tenant: str) -> None:
        if row.tenant_id != tenant:
            raise LookupError(row)

    def stamp(self, tenant: str) -> dict[str, str]:
        return {"tenant_id": tenant}


class Walled(Variant):
    def __init__(self) -> None:
        from partywall import tenant_aware, tenant_scope

        self.mark = tenant_aware
        self.scope = tenant_scope


VARIANTS: dict[str, type[Variant]] = {"none": Unfiltered, "hand": HandWritten, "walled": Walled}


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(40))
    invoices: Mapped[list[Invoice]] = relationship(back_populates="customer")


class Invoice(Base):
    __tablename__ = "invoice"
    __table_args__ = (
        Index("ix_invoice_mine", "tenant_id", "customer_id"),
        Index("ix_invoice_customer", "customer_id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(20))
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    number: Mapped[str] = mapped_column(String(20))
    amount: Mapped[int] = mapped_column(default=0)
    customer: Mapped[Customer] = relationship(back_populates="invoices")


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(20))
    text: Mapped[str] = mapped_column(String(40))


def mark_models(variant: Variant, count: int) -> None:
    """Mark the three models above and as many more as it takes to own `count` tables."""
    for model in (Customer, Invoice, Note):
        variant.mark(model)

    for number in range(count - 3):
        columns = {
            "id": mapped_column(primary_key=True),
            "tenant_id": mapped_column(String(20)),
        }
        annotations = {"id": Mapped[int], "tenant_id": Mapped[str]}
        names = {"__tablename__": f"other_{number}", "__annotations__": annotations, **columns}
        variant.mark(type(f"Other{number}", (Base,), names))


def filled_engine(tenants: int) -> Engine:
    """An SQLite database in memory; customer number n belongs to tenant number n alone."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    connection = engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute(
        f"""WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {tenants - 1})
        INSERT INTO customer SELECT i, printf('tenant-%05d', i), 'customer ' || i FROM n"""
    )
    cursor.execute(
        f"""WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {INVOICES - 1})
        INSERT INTO invoice (tenant_id, customer_id, number, amount)
        SELECT tenant_id, customer.id, 'R-' || i, i FROM customer, n ORDER BY customer.id, i"""
    )
    connection.commit()
    connection.close()
    return engine


def point_select(v: Variant, session: Session, t: str, c: int) -> object:
    number = c * INVOICES + 1
    return (
        session.scalars(select(Invoice).where(Invoice.id == number, *v.mine(Invoice, t))).one().id
    )


def columns(v: Variant, session: Session, t: str, c: int) -> object:
    wanted = select(Invoice.id, Invoice.number, Invoice.amount)
    return len(session.execute(wanted.where(Invoice.customer_id == c, *v.mine(Invoice, t))).all())


def list_of_50(v: Variant, session: Session, t: str, c: int) -> object:
    wanted = select(Invoice).where(Invoice.customer_id == c, *v.mine(Invoice, t))
    return len(session.scalars(wanted.order_by(Invoice.id)).all())


def join(v: Variant, session: Session, t: str, c: int) -> object:
    wanted = select(Invoice.number, Customer.name).join(Invoice.customer)
    wanted = wanted.where(Customer.id == c, *v.mine(Invoice, t), *v.mine(Customer, t))
    return len(session.execute(wanted.order_by(Invoice.id)).all())


def get_and_lazy_load(v: Variant, session: Session, t: str, c: int) -> object:
    customer = session.get_one(Customer, c, options=v.lazily(Customer.invoices, Invoice, t))
    v.owned(customer, t)
    return len(customer.invoices)


def selectin_load(v: Variant, session: Session, t: str, c: int) -> object:
    wanted = select(Customer).where(Customer.id == c, *v.mine(Customer, t))
    loaded = wanted.options(selectinload(v.related(Customer.invoices, Invoice, t)))
    return len(session.scalars(loaded).one().invoices)


def bulk_update(v: Variant, session: Session, t: str, c: int) -> object:
    raised = update(Invoice).where(Invoice.customer_id == c, *v.mine(Invoice, t))
    return session.execute(raised.values(amount=Invoice.amount + 1)).rowcount  # type: ignore


def insert_of_10(v: Variant, session: Session, t: str, c: int) -> object:
    session.add_all([Note(text=f"note {n}", **v.stamp(t)) for n in range(10)])
    session.flush()
    return 10


def insert_of_10_children(v: Variant, session: Session, t: str, c: int) -> object:
    customer = session.get_one(Customer, c)
    v.owned(customer, t)
    session.add_all([Invoice(customer=customer, number=f"N-{n}", **v.stamp(t)) for n in range(10)])
    session.flush()
    return 10


def insert_of_10_by_key(v: Variant, session: Session, t: str, c: int) -> object:
    session.add_all([Invoice(customer_id=c, number=f"N-{n}", **v.stamp(t)) for n in range(10)])
    session.flush()
    return 10


def flush_of_1000(v: Variant, session: Session, t: str, c: int) -> object:
    session.add_all([Note(text=f"note {n}", **v.stamp(t)) for n in range(1000)])
    session.flush()
    return 1000


def executemany_of_10_000(v: Variant, session: Session, t: str, c: int) -> object:
    rows = [{"text": "note", **v.stamp(t)} for n in range(10_000)]
    session.connection().execute(insert(Note.__table__), rows)
    return len(rows)


def orm_bulk_insert_of_10_000(v: Variant, session: Session, t: str, c: int) -> object:
    rows = [{"text": "note", **v.stamp(t)} for n in range(10_000)]
    session.execute(insert(Note), rows)
    return len(rows)


def cold_compile(v: Variant, session: Session, t: str, c: int) -> object:
    wanted = select(Invoice.number, Customer.name).join(Invoice.customer)
    wanted = wanted.where(Customer.id == c, *v.mine(Invoice, t), *v.mine(Customer, t))
    return wanted.order_by(Invoice.id).compile(session.get_bind()) is not None


READS = [
    point_select,
    columns,
    list_of_50,
    join,
    get_and_lazy_load,
    selectin_load,
]
WRITES = [
    bulk_update,
    insert_of_10,
    insert_of_10_children,
    insert_of_10_by_key,
    flush_of_1000,
    executemany_of_10_000,
    orm_bulk_insert_of_10_000,
]
OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation for operation in (*READS, *WRITES, cold_compile)
}


class Worker:
    def __init__(self, variant: str, models: int, tenants: int) -> None:
        self.variant: Variant = VARIANTS[variant]()
        mark_models(self.variant, models)
        self.engine = filled_engine(tenants)
        everyone = [(f"tenant-{number:05d}", number) for number in range(tenants)]
        self.turns: dict[str, Iterator[Turn]] = {
            "one": cycle(everyone[tenants // 2 :][:1]),
            "all": cycle(everyone),
        }
        self.statements = 0
        gc.collect()
        gc.freeze()

    def run(self, operation: str, turns: str, times: int) -> int:
        """CPU time of this process, in nanoseconds: the neighbours on the machine do not count."""
        work, variant, engine = OPERATIONS[operation], self.variant, self.engine
        pairs = list(islice(self.turns[turns], times))
        gc.collect()
        gc.disable()
        started = time.process_time_ns()
        for tenant, customer in pairs:
            with variant.scope(tenant), Session(engine) as session:
                work(variant, session, tenant, customer)

        elapsed = time.process_time_ns() - started
        gc.enable()
        return elapsed

    def execute(self, operation: str, tenant: str, customer: int) -> object:
        with self.variant.scope(tenant), Session(self.engine) as session:
            return OPERATIONS[operation](self.variant, session, tenant, customer)

    def count(self, operation: str) -> dict[str, object]:
        """How many statements one call sends, and what it returns: the variants must agree."""
        event.listen(self.engine, "before_cursor_execute", self._count)
        self.statements = 0
        result = self.execute(operation, *next(self.turns["one"]))
        event.remove(self.engine, "before_cursor_execute", self._count)
        return {"statements": self.statements, "result": result}

    def _count(self, *_: object) -> None:
        self.statements += 1

    def modules(self) -> list[str]:
        return sorted({name.split(".")[0] for name in sys.modules})

    def memory(self, times: int) -> dict[str, int]:
        """What the interpreter and the process hold, after `times` executions for all tenants."""
        operations = ("point_select", "get_and_lazy_load", "bulk_update", "insert_of_10")
        for _ in range(times // 400):
            for operation in operations:
                self.run(operation, "all", 100)

        gc.collect()
        return {"blocks": sys.getallocatedblocks(), "kib": resident()}


def resident() -> int:
    """In KiB, where the system says so."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * resource.getpagesize() // 1024


def main(variant: str, models: str, tenants: str) -> None:
    worker = Worker(variant, int(models), int(tenants))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
