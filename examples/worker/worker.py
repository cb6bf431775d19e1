"""A command-line worker: jobs that carry their tenant, and a nightly run over all tenants.

python worker.py demo
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, func, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from partywall import (
    AsyncSessionScope,
    TenancyError,
    afor_each_tenant,
    atenant_scope,
    capture,
    current_tenant,
    restore,
    tenant_aware,
)


class Base(DeclarativeBase):
    pass


class Tenant(Base):
    __tablename__ = "tenant"
    name: Mapped[str] = mapped_column(primary_key=True)


class Job(Base):
    """The queue. Not owned: the worker takes what comes, and then becomes the job's tenant."""

    __tablename__ = "job"
    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str]
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON)
    tenant: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    outcome: Mapped[str | None]


@tenant_aware
class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(index=True)
    month: Mapped[str]
    amount: Mapped[int]
    is_closed: Mapped[bool] = mapped_column(default=False)


Sessions = async_sessionmaker[AsyncSession]


async def book(session: AsyncSession, *, month: str, amount: int) -> str:
    session.add(Entry(month=month, amount=amount))
    return f"booked {amount}"


async def balance(session: AsyncSession) -> str:
    total = await session.scalar(select(func.sum(Entry.amount)))
    return f"{current_tenant().tenant_id} has {total}"


TASKS = {task.__name__: task for task in (book, balance)}


async def send(sessions: Sessions, task: str, **arguments: Any) -> None:
    """Put a job in the queue for the current tenant."""
    async with sessions.begin() as session:
        session.add(Job(task=task, arguments=arguments, tenant=capture()))


async def work(sessions: Sessions) -> int:
    """Do all the jobs there are, each as the tenant it came from."""
    async with sessions() as session:
        waiting = (await session.scalars(select(Job).where(Job.outcome.is_(None)))).all()

    for job in waiting:
        outcome = await _do(sessions, job)
        async with sessions.begin() as session:
            (await session.get_one(Job, job.id)).outcome = outcome

    return len(waiting)


async def _do(sessions: Sessions, job: Job) -> str:
    try:
        with restore(job.tenant):
            async with AsyncSessionScope(sessions=sessions) as session:
                return await TASKS[job.task](session, **job.arguments)

    except TenancyError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - the next job must have its turn
        return f"failed: {error!r}"


async def close_month(session: AsyncSession) -> int:
    """What the nightly run does for one tenant."""
    entries = (await session.scalars(select(Entry).where(~Entry.is_closed))).all()
    for entry in entries:
        entry.is_closed = True

    return len(entries)


async def nightly(sessions: Sessions, journal: Path) -> dict[Any, int]:
    """Run again after a failure, it goes on with the tenants that are not in the journal."""
    return await afor_each_tenant(
        select(Tenant.name), close_month, sessions=sessions, concurrency=4, journal=journal
    )


async def fill(engine: AsyncEngine, sessions: Sessions, tenants: Sequence[str]) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async with sessions.begin() as session:
        known = set(await session.scalars(select(Tenant.name)))
        session.add_all(Tenant(name=tenant) for tenant in tenants if tenant not in known)


async def demo(sessions: Sessions, journal: Path) -> None:
    for tenant, amount in (("acme", 100), ("globex", 900), ("acme", 50)):
        async with atenant_scope(tenant):
            await send(sessions, "book", month="2024-05", amount=amount)

    for tenant in ("acme", "globex"):
        async with atenant_scope(tenant):
            await send(sessions, "balance")

    async with sessions.begin() as session:
        session.add(Job(task="balance", arguments={}, tenant=None))

    await work(sessions)
    async with sessions() as session:
        for job in await session.scalars(select(Job).order_by(Job.id)):
            print(f"{json.dumps(job.tenant):40} {job.task:8} {job.outcome}")

    print(f"closed: {await nightly(sessions, journal)}")


async def main(command: str, url: str, journal: Path) -> None:
    engine = create_async_engine(url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    await fill(engine, sessions, ["acme", "globex"])
    try:
        if command == "demo":
            await demo(sessions, journal)
        elif command == "work":
            print(f"{await work(sessions)} jobs done")
        else:
            print(f"closed: {await nightly(sessions, journal)}")

    finally:
        await engine.dispose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["demo", "work", "nightly"])
    database = os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///worker.db")
    asyncio.run(main(parser.parse_args().command, database, Path("nightly.jsonl")))
