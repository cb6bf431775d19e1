"""Invoices of many tenants behind one API: FastAPI, AsyncSession, API keys."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import CheckConstraint, ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship
from sqlalchemy.pool import AsyncAdaptedQueuePool

from partywall import (
    AsyncSessionScope,
    TenantSessionMiddleware,
    atenant_scope,
    current_tenant,
    tenant_aware,
)
from partywall.fastapi import add_error_handlers, tenant_session
from partywall.resolvers import cached, header


class Base(DeclarativeBase):
    pass


class Account(Base):
    """Whose API key is whose. Not owned: it is read to find out who the tenant is."""

    __tablename__ = "account"
    key: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]


@tenant_aware
class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]


@tenant_aware
class Invoice(Base):
    __tablename__ = "invoice"
    __table_args__ = (CheckConstraint("amount > 0"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(index=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    amount: Mapped[int]
    customer: Mapped[Customer] = relationship()


@tenant_aware
class Reminder(Base):
    __tablename__ = "reminder"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]


def create_app(url: str, tenants: Sequence[str] = ("acme", "globex")) -> FastAPI:
    # SQLite has one writer. Requests wait for the connection here, not for each other's locks there.
    one = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}
    engine = create_async_engine(url, **(one if url.startswith("sqlite") else {}))
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        await fill(sessions, tenants)
        yield
        await engine.dispose()

    async def tenant_of_key(key: str) -> str | None:
        async with sessions() as session:
            return await session.scalar(select(Account.tenant).where(Account.key == key))

    app = FastAPI(title="Invoices", lifespan=lifespan)
    app.add_middleware(
        TenantSessionMiddleware,
        resolve_tenant=cached(header("X-Api-Key"), tenant_of_key, ttl=30),
    )
    add_error_handlers(app)
    add_routes(app, sessions)
    return app


def add_routes(app: FastAPI, sessions: async_sessionmaker[AsyncSession]) -> None:
    # "function": committed before the client is answered. The other is open while it streams.
    dependency = tenant_session(sessions)
    get_session: Any = Depends(dependency, scope="function")
    get_open_session: Any = Depends(dependency)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "well"}

    @app.get("/invoices")
    async def list_invoices(session: AsyncSession = get_session) -> list[dict[str, Any]]:
        invoices = await session.scalars(
            select(Invoice).options(joinedload(Invoice.customer)).order_by(Invoice.id)
        )
        return [_shown(invoice) for invoice in invoices]

    @app.get("/invoices/{number}")
    async def get_invoice(number: int, session: AsyncSession = get_session) -> dict[str, Any]:
        invoice = await session.get(Invoice, number, options=[joinedload(Invoice.customer)])
        if invoice is None:
            raise HTTPException(404)

        return _shown(invoice)

    @app.post("/invoices", status_code=201)
    async def add_invoice(
        customer_id: int, amount: int, session: AsyncSession = get_session
    ) -> dict[str, int]:
        # Somebody else's customer is as unknown as one that does not exist.
        if await session.get(Customer, customer_id) is None:
            raise HTTPException(404)

        invoice = Invoice(customer_id=customer_id, amount=amount)
        session.add(invoice)
        await session.flush()
        return {"id": invoice.id}

    @app.get("/export")
    async def export(session: AsyncSession = get_open_session) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            rows = await session.stream(
                select(Invoice.id, Customer.name, Invoice.amount)
                .join(Invoice.customer)
                .order_by(Invoice.id)
                .execution_options(yield_per=10)
            )
            async for number, name, amount in rows:
                yield f"{number},{name},{amount}\n"

        return StreamingResponse(lines(), media_type="text/csv")

    @app.post("/reminders", status_code=202)
    async def remind(tasks: BackgroundTasks) -> None:
        tasks.add_task(send_reminders, sessions)

    @app.get("/reminders")
    async def list_reminders(session: AsyncSession = get_session) -> list[str]:
        return list(await session.scalars(select(Reminder.text).order_by(Reminder.id)))

    @app.websocket("/totals")
    async def totals(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            async with AsyncSessionScope(sessions=sessions) as session:
                total = await session.scalar(select(func.sum(Invoice.amount)))

            tenant = current_tenant().tenant_id
            await websocket.send_json({"tenant": tenant, "total": total})


async def send_reminders(sessions: async_sessionmaker[AsyncSession]) -> None:
    """A background task: it runs after the response, still for the request's tenant."""
    async with sessions.begin() as session:
        names = await session.scalars(select(Customer.name).order_by(Customer.id))
        session.add_all(Reminder(text=f"Dear {name}") for name in names)


async def fill(sessions: async_sessionmaker[AsyncSession], tenants: Sequence[str]) -> None:
    async with sessions.begin() as session:
        if await session.scalar(select(func.count()).select_from(Account)):
            return

        session.add_all(Account(key=f"{tenant}-key", tenant=tenant) for tenant in tenants)

    for tenant in tenants:
        async with atenant_scope(tenant), sessions.begin() as session:
            customer = Customer(name=f"{tenant}'s customer")
            session.add_all(Invoice(customer=customer, amount=n) for n in (100, 250))


def _shown(invoice: Invoice) -> dict[str, Any]:
    return {"id": invoice.id, "customer": invoice.customer.name, "amount": invoice.amount}


app = create_app(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///invoices.db"))
