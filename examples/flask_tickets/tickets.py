"""Tickets of many tenants on one site: Flask, Session, a subdomain for each tenant."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import click
from flask import Flask, Response, abort, request
from sqlalchemy import CheckConstraint, create_engine, event, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from partywall import SessionScope, current_tenant, tenant_aware
from partywall.flask import init_app, with_tenant
from partywall.resolvers import cached, subdomain


class Base(DeclarativeBase):
    pass


class Tenant(Base):
    """Who there is. Not owned: it is read to find out who the tenant is."""

    __tablename__ = "tenant"
    name: Mapped[str] = mapped_column(primary_key=True)


@tenant_aware
class Ticket(Base):
    __tablename__ = "ticket"
    __table_args__ = (CheckConstraint("length(title) > 0"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(index=True)
    title: Mapped[str]
    is_open: Mapped[bool] = mapped_column(default=True)


def create_app(url: str, tenants: Sequence[str] = ("acme", "globex")) -> Flask:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _wait_for_writers)

    sessions = sessionmaker(engine)
    Base.metadata.create_all(engine)
    fill(sessions, tenants)

    def known(name: str) -> str | None:
        with sessions() as session:
            return session.scalar(select(Tenant.name).where(Tenant.name == name))

    app = Flask(__name__)
    app.extensions["engine"] = engine
    init_app(app, resolve_tenant=cached(subdomain("localhost"), known, ttl=30))
    add_routes(app, sessions)
    add_commands(app, sessions)
    return app


def add_routes(app: Flask, sessions: sessionmaker[Session]) -> None:
    @app.get("/")
    def front() -> str:
        return "Tickets. Yours are at http://<your name>.localhost/tickets\n"

    @app.get("/tickets")
    def list_tickets() -> list[dict[str, Any]]:
        with sessions() as session:
            return [
                _shown(ticket) for ticket in session.scalars(select(Ticket).order_by(Ticket.id))
            ]

    @app.get("/tickets/<int:number>")
    def get_ticket(number: int) -> dict[str, Any]:
        with sessions() as session:
            return _shown(session.get(Ticket, number) or abort(404))

    @app.post("/tickets")
    def add_ticket() -> tuple[dict[str, Any], int]:
        with sessions.begin() as session:
            ticket = Ticket(title=request.form["title"])
            session.add(ticket)
            session.flush()
            return _shown(ticket), 201

    @app.post("/close-all")
    def close_all() -> dict[str, int]:
        with sessions.begin() as session:
            closed: Any = session.execute(update(Ticket).values(is_open=False))
            return {"closed": closed.rowcount}

    @app.get("/export")
    def export() -> Response:
        def lines() -> Iterator[str]:
            with sessions() as session:
                tickets = select(Ticket).order_by(Ticket.id).execution_options(yield_per=10)
                for ticket in session.scalars(tickets):
                    yield f"{ticket.id},{ticket.title}\n"

        return Response(lines(), mimetype="text/csv")


def add_commands(app: Flask, sessions: sessionmaker[Session]) -> None:
    @app.cli.command("count")
    @with_tenant()
    def count() -> None:
        """Tell how many tickets a tenant has."""
        with sessions() as session:
            number = session.scalar(select(func.count()).select_from(Ticket))
            click.echo(f"{current_tenant().tenant_id} has {number} tickets")


def fill(sessions: sessionmaker[Session], tenants: Sequence[str]) -> None:
    with sessions.begin() as session:
        if session.scalar(select(func.count()).select_from(Tenant)):
            return

        session.add_all(Tenant(name=tenant) for tenant in tenants)

    for tenant in tenants:
        with SessionScope(tenant, sessions=sessions) as tickets:
            tickets.add_all(Ticket(title=f"{tenant}: {what}") for what in ("printer", "coffee"))


def _shown(ticket: Ticket) -> dict[str, Any]:
    return {"id": ticket.id, "title": ticket.title, "open": ticket.is_open}


def _wait_for_writers(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 30000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


PORT = int(os.environ.get("PORT", "8000"))

if __name__ == "__main__":
    create_app(os.environ.get("DATABASE_URL", "sqlite:///tickets.db")).run(port=PORT, threaded=True)
