"""One owned table with the rows of two tenants, for the tests of scopes, middleware and jobs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, String, create_engine, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from partywall.context import tenant_scope, unscoped
from partywall.ownership import tenant_aware

TEXTS = {"acme": ["acme 1", "acme 2", "acme 3"], "globex": ["globex 1", "globex 2"]}


class Base(DeclarativeBase):
    pass


class Tenant(Base):
    """Not owned: who asks for it needs no tenant."""

    __tablename__ = "door_tenant"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)


@tenant_aware
class Note(Base):
    __tablename__ = "door_note"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    text: Mapped[str] = mapped_column(String(40))


def texts() -> object:
    return select(Note.text).order_by(Note.id)


def filled(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path / 'doors.db'}")
    fill(engine)
    return engine


def fill(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Tenant(name=name) for name in TEXTS)

    for tenant, rows in TEXTS.items():
        with tenant_scope(tenant), Session(engine) as session, session.begin():
            session.add_all(Note(text=text) for text in rows)


def async_engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path / 'doors.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def wait_for_writers(connection: object, _: object) -> None:
        connection.execute("PRAGMA busy_timeout = 20000")  # type: ignore[attr-defined]

    return engine


def stored(engine: Engine) -> dict[str, list[str]]:
    """Every tenant's texts, by the loud way."""
    found: dict[str, list[str]] = {}
    with unscoped("what the test left in the table"), Session(engine) as session:
        for tenant, text in session.execute(select(Note.tenant_id, Note.text).order_by(Note.id)):
            found.setdefault(tenant, []).append(text)

    return found


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Note)) or 0
