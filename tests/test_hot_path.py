"""E1, E4, E7: between a statement and the driver stands synchronous Python, which opens nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import resources

import pytest

import partywall

WALL = [
    *("canary", "context", "engines", "fragments", "froms", "keys", "lookups", "mappers"),
    *("ownership", "pins", "positions", "predicate", "rawsql", "references", "sessions"),
    *("sources", "texts", "tokens", "upserts", "values", "wall"),
]
# What only carries an async caller's scope.
CARRIES = {"context"}

# The same work by hand and walled, after a first time that fills the caches; what Python's audit
# hooks see of either.
SCRIPT = """
import sys
from contextlib import nullcontext
from sqlalchemy import ForeignKey, create_engine, func, select, update
from sqlalchemy.orm import (
    DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
)
from sqlalchemy.pool import StaticPool
from partywall import tenant_aware, tenant_scope

def build(mark):
    class Base(DeclarativeBase):
        pass

    @mark
    class Author(Base):
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(default="nobody")
        books: Mapped[list["Book"]] = relationship("Book", back_populates="author")

    @mark
    class Book(Base):
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(default="nobody")
        author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
        author: Mapped[Author] = relationship(Author, back_populates="books")

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    return engine, Author, Book

def work(engine, Author, Book, scope):
    with scope, Session(engine) as session:
        author = Author(books=[Book()])
        session.add(author)
        session.flush()
        session.add(Book(author_id=author.id))
        session.flush()
        session.execute(update(Book).where(Book.id > 0).values(author_id=author.id))
        session.expire_all()
        found = len(author.books), session.scalar(select(func.count(Book.id)))
        session.scalars(select(Author).options(selectinload(Author.books))).all()
        session.get(Author, author.id).books
        session.delete(author.books[0])
        session.commit()
        return found

events = None
def hear(event, args):
    # Looking at an object is heard as well.
    if events is not None and not event.startswith(("builtins.id", "object.")):
        events.add(event)
sys.addaudithook(hear)

for name, mark, scopes in (
    ("by hand", lambda cls: cls, [nullcontext()]),
    ("walled", tenant_aware, [tenant_scope("acme"), tenant_scope("globex")]),
):
    built = build(mark)
    for scope in scopes:
        work(*built, scope)

    events = set()
    found = [work(*built, scope) for scope in scopes]
    heard, events = events, None
    print(name, found, sorted(heard))
"""


def test_e1_the_wall_opens_reads_and_connects_to_nothing() -> None:
    """E1, E4, E7"""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["by hand [(3, 3)] []", "walled [(3, 3), (3, 3)] []"]


@pytest.mark.parametrize("module", WALL)
def test_e4_the_wall_awaits_nothing(module: str) -> None:
    """E1, E4"""
    source = resources.files(partywall).joinpath(f"{module}.py").read_text(encoding="utf-8")
    kinds = {type(node) for node in ast.walk(ast.parse(source))}
    waits = {ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef}
    assert not kinds & waits or module in CARRIES


def test_e7_it_is_pure_python() -> None:
    kinds = {name.name.partition(".")[2] for name in resources.files(partywall).iterdir()}

    assert kinds <= {"py", "typed", ""}
