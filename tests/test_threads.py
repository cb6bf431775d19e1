"""D13: what all threads share is written under a lock and read safely.

A thread is stopped at its worst moment and another one, of the other tenant or of the same, goes
on. Whoever waits has a limit.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    MetaData,
    Numeric,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.orm import (
    Mapped,
    Session,
    mapped_column,
    registry,
    relationship,
    selectinload,
)

from partywall import (
    ConfigurationError,
    MissingTenantContextError,
    engines,
    ownership,
    predicate,
    tenant_aware,
    tenant_scope,
    tenant_table,
)

TENANTS = ("acme", "globex")
LIMIT = 30


class Stop:
    """Holds up the first thread that comes here until it is let go."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._reached = threading.Event()
        self._go = threading.Event()

    def __call__(self) -> None:
        if self._first.acquire(blocking=False):
            self._reached.set()
            assert self._go.wait(LIMIT)

    def wait_until_reached(self) -> None:
        assert self._reached.wait(LIMIT)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def stop(threads: ThreadPoolExecutor) -> Iterator[Stop]:
    # Let go before the threads are waited for.
    stop = Stop()
    yield stop
    stop.let_go()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'threads.db'}")
    yield engine
    engine.dispose()


def notes(metadata: MetaData, name: str = "thread_note", type_: Any = None) -> Table:
    return Table(
        name,
        metadata,
        Column("id", primary_key=True, type_=Numeric(9, 0)),
        Column("tenant_id", type_ or String(40)),
    )


def fill(engine: Engine, *tables: Table) -> None:
    """1 is acme's and 2 is globex's, and the driver stores them, so that nothing is installed."""
    tables[0].metadata.create_all(create_engine(engine.url))
    connection = engine.raw_connection()
    for table in tables:
        names = [column.name for column in table.columns]
        for key, tenant in enumerate(TENANTS, 1):
            values = [tenant if name == "tenant_id" else key for name in names]
            marks = ", ".join("?" * len(values))
            connection.cursor().execute(f"INSERT INTO {table.name} VALUES ({marks})", values)

    connection.commit()
    connection.close()


def rows(engine: Engine, column: Any, tenant: str) -> list[int]:
    with tenant_scope(tenant), engine.connect() as connection:
        return [int(value) for value in connection.scalars(select(column))]


def still_waits(future: Future[Any]) -> bool:
    return not wait([future], timeout=0.3).done


def test_d13_a_secondary_that_one_thread_is_about_to_own_is_guarded_for_the_others(
    engine: Engine, stop: Stop, threads: ThreadPoolExecutor
) -> None:
    mapping = registry()
    link = Table(
        "thread_link",
        mapping.metadata,
        Column("left_id", ForeignKey("thread_left.id"), primary_key=True),
        Column("right_id", ForeignKey("thread_right.id"), primary_key=True),
    )

    marked = threading.Event()

    def found() -> Table:
        if marked.is_set():
            stop()

        return link

    @mapping.mapped
    class Right:
        __tablename__ = "thread_right"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))

    @mapping.mapped
    class Left:
        __tablename__ = "thread_left"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        rights: Mapped[list[Right]] = relationship(Right, secondary=found)

    fill(engine, Right.__table__, Left.__table__, link)
    for model in (Left, Right):
        tenant_aware(model)

    marked.set()
    held_up = threads.submit(rows, engine, link.c.left_id, "acme")
    stop.wait_until_reached()
    others = [threads.submit(rows, engine, link.c.left_id, tenant) for tenant in TENANTS]
    wait(others, timeout=0.3)
    stop.let_go()
    assert [future.result(LIMIT) for future in (held_up, *others)] == [[1], [1], [2]]


def test_d13_nobody_uses_a_dialect_that_another_threads_canary_is_still_trying(
    engine: Engine, stop: Stop, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tenant_table(notes(MetaData()))
    fill(engine, table)
    sing = engines.canary.sing
    sung = []

    def sing_slowly(dialect: Any) -> None:
        stop()
        sung.append(dialect)
        sing(dialect)

    monkeypatch.setattr(engines.canary, "sing", sing_slowly)
    first = threads.submit(rows, engine, table.c.id, "acme")
    stop.wait_until_reached()
    second = threads.submit(rows, engine, table.c.id, "globex")
    assert still_waits(second)

    stop.let_go()
    assert (first.result(LIMIT), second.result(LIMIT)) == ([1], [2])
    assert len(sung) == 1


def test_a_dialect_that_is_not_trusted_is_refused_every_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tenant_table(notes(MetaData()))
    fill(engine, table)

    def die(dialect: Any) -> None:
        raise ConfigurationError("compiles SELECT without the tenant condition")

    with monkeypatch.context() as patched:
        patched.setattr(engines.canary, "sing", die)
        for tenant in TENANTS * 2:
            with pytest.raises(ConfigurationError, match="without the tenant condition"):
                rows(engine, table.c.id, tenant)

    assert [rows(engine, table.c.id, tenant) for tenant in TENANTS] == [[1], [2]]


def test_d13_nobody_goes_on_while_another_threads_first_mark_is_installing(
    stop: Stop, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_on_first_mark", [stop])
    first = threads.submit(tenant_table, notes(MetaData()))
    stop.wait_until_reached()
    second = threads.submit(tenant_table, notes(MetaData()))
    assert still_waits(second)

    stop.let_go()
    assert first.result(LIMIT) is not second.result(LIMIT)


def test_d13_two_types_of_tenant_columns_never_share_a_parameter(
    engine: Engine, stop: Stop, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = MetaData()
    words = tenant_table(notes(metadata, "thread_word", String(41)))
    numbers = tenant_table(notes(metadata, "thread_number", Numeric(41, 0)))
    metadata.create_all(engine)
    made = predicate.TenantParameter

    def make(key: str, type_: Any) -> Any:
        stop()
        return made(key, type_)

    monkeypatch.setattr(predicate, "TenantParameter", make)
    first = threads.submit(predicate.tenant_parameter, words.c.tenant_id.type)
    stop.wait_until_reached()
    second = threads.submit(predicate.tenant_parameter, numbers.c.tenant_id.type)
    wait([second], timeout=0.3)
    stop.let_go()
    assert first.result(LIMIT).key != second.result(LIMIT).key
    monkeypatch.undo()

    for key, tenant in enumerate(("7", "8"), 1):
        with tenant_scope(tenant), engine.begin() as connection:
            connection.execute(insert(words).values(id=key))
            connection.execute(insert(numbers).values(id=key))
            columns = (words.c.id, words.c.tenant_id, numbers.c.tenant_id)
            both = select(*columns).join(numbers, words.c.id == numbers.c.id)
            assert connection.execute(both).all() == [(key, tenant, int(tenant))]


def test_d13_a_table_that_is_marked_meanwhile_does_not_stop_a_statement(engine: Engine) -> None:
    table = tenant_table(notes(MetaData()))
    fill(engine, table)
    late = []

    @event.listens_for(engine, "before_execute")
    def mark(*_: Any) -> None:
        late.append(tenant_table(notes(MetaData(), f"thread_late_{len(late)}")))

    assert [rows(engine, table.c.id, tenant) for tenant in TENANTS * 2] == [[1], [2]] * 2
    assert len(late) == 4


def a_schema(name: str) -> SimpleNamespace:
    mapping = registry()
    link = Table(
        f"{name}_link",
        mapping.metadata,
        Column("author_id", ForeignKey(f"{name}_author.id"), primary_key=True),
        Column("book_id", ForeignKey(f"{name}_book.id"), primary_key=True),
    )

    @tenant_aware
    @mapping.mapped
    class Author:
        __tablename__ = f"{name}_author"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        books: Mapped[list[Book]] = relationship(lambda: Book, secondary=lambda: link)

    @tenant_aware
    @mapping.mapped
    class Book:
        __tablename__ = f"{name}_book"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))

    @tenant_aware(through="book")
    @mapping.mapped
    class Page:
        __tablename__ = f"{name}_page"
        id: Mapped[int] = mapped_column(primary_key=True)
        book_id: Mapped[int] = mapped_column(ForeignKey(f"{name}_book.id"))
        book: Mapped[Book] = relationship(Book)

    return SimpleNamespace(Author=Author, Book=Book, Page=Page, link=link)


def _by_orm(engine: Engine, m: Any) -> Any:
    with Session(engine) as session:
        authors = session.scalars(select(m.Author).options(selectinload(m.Author.books)))
        return [(author.id, [book.id for book in author.books]) for author in authors]


def _by_core(engine: Engine, m: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(m.link)).all()


def _through_a_parent(engine: Engine, m: Any) -> Any:
    with Session(engine) as session:
        return [page.book.id for page in session.scalars(select(m.Page))]


READS: dict[Callable[[Engine, Any], Any], Callable[[int], Any]] = {
    _by_orm: lambda key: [(key, [key])],
    _by_core: lambda key: [(key, key)],
    _through_a_parent: lambda key: [key],
}


@pytest.fixture
def _threads_take_turns_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_threads_take_turns_often")
@pytest.mark.parametrize("turn", range(3))
def test_d13_everything_is_met_for_the_first_time_by_all_threads_at_once(
    tmp_path: Path, threads: ThreadPoolExecutor, turn: int
) -> None:
    m = a_schema(f"turn{turn}")
    filler = create_engine(f"sqlite:///{tmp_path / 'first.db'}")
    fill(filler, m.Author.__table__, m.Book.__table__, m.link, m.Page.__table__)
    engine = create_engine(filler.url)
    start = threading.Barrier(7)
    over = threading.Event()

    def read(how: Callable[[Engine, Any], Any], tenant: str) -> Any:
        start.wait(LIMIT)
        with tenant_scope(tenant):
            found = [how(engine, m) for _ in range(5)]

        with pytest.raises(MissingTenantContextError, match="No tenant is current"):
            how(engine, m)

        return found

    def mark_others() -> int:
        start.wait(LIMIT)
        count = 0
        while not over.is_set() and count < 200:
            a_schema(f"turn{turn}_{count}")
            count += 1

        return count

    marking = threads.submit(mark_others)
    asked = [(how, tenant) for how in READS for tenant in TENANTS]
    reading = [threads.submit(read, *each) for each in asked]
    try:
        found = [future.result(LIMIT) for future in reading]
    finally:
        over.set()

    keys = dict(zip(TENANTS, (1, 2), strict=True))
    assert found == [[READS[how](keys[tenant])] * 5 for how, tenant in asked]
    assert marking.result(LIMIT) > 0
    filler.dispose()
    engine.dispose()
